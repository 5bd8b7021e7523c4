"""A model seen through taps: what a tap is, how it is read, and what can be done with an encoder."""

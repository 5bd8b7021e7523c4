"""Models seen through taps: declaring taps, reading activations there, discovering taps, cutting and saving encoders."""

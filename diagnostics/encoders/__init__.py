"""Encoders: models read through taps; declaring and discovering taps, reading activations, cutting and saving."""

"""Activations of an encoder on a dataset, stored on disk: planned, extracted, written, read and verified."""

"""An encoder's activations on a dataset, on disk: planned, extracted, written, read and checked."""

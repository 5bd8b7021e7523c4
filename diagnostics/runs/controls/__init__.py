"""Encoders and targets that a trained encoder has to beat."""

"""Encoders that are trained here: what they take, their trunk and their heads."""

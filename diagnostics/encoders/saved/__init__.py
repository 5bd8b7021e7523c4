"""Encoders in files: cut at a tap, saved, built again, and what they may do when they are opened."""

"""Lifting what an encoder holds inside to its output."""

"""What a representation looks like without any target: spectrum, dimension, spread, tokens."""

from diagnostics.measures.geometry.spectrum import participation_ratio, rankme

__all__ = ["participation_ratio", "rankme"]

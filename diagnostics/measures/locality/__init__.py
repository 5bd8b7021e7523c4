"""Where information lies on the grid: attention, likeness of near and far tokens, what tokens know of their place."""

from diagnostics.measures.locality.cosines import TokenSimilarity, self_similarity

__all__ = ["TokenSimilarity", "self_similarity"]

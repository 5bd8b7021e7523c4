"""Similarity of two representations of the same samples, [sample, feature] each, rows aligned."""

from diagnostics.measures.similarity.kernels import center_gram, cka, gram_of_blocks, hsic

__all__ = ["center_gram", "cka", "gram_of_blocks", "hsic"]

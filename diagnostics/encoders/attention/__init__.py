"""Statistics of attention, a sample and head, without its matrix: from the arguments of a fused kernel."""

from diagnostics.encoders.attention.statistics import (
    IMPLEMENTATIONS,
    Implementation,
    Statistics,
    Tokens,
    attention_statistics,
    of_matrix,
)

__all__ = ["IMPLEMENTATIONS", "Implementation", "Statistics", "Tokens", "attention_statistics", "of_matrix"]

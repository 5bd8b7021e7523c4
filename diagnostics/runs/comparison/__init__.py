"""Runs side by side: curves by relative depth, paired differences, what alignments bought and cost, where taps correspond."""

from diagnostics.runs.comparison.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]

"""Comparison of runs: curves by relative depth, paired differences, gains and losses of alignments, matching taps."""

from diagnostics.runs.comparison.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]

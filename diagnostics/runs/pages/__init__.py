"""Pages of finished runs: the answer and card, the report, and the explorer over many runs."""

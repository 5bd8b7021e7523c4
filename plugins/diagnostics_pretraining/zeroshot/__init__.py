"""`diagnostics zeroshot`: what a pair of towers knows without a probe, by texts alone."""

"""Runs: one encoder measured on one dataset, its results as profiles and pages, and comparisons of runs."""

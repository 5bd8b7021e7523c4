"""Datasets: samples, their targets, and targets on the grid of a tap."""

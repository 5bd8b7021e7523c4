"""Measures of dynamics: whether a representation predicts the future, its path in time, and events."""

from diagnostics.measures.dynamics.forecast import mase, seasonal_naive
from diagnostics.measures.dynamics.latent import linear_predictability, straightness

__all__ = ["linear_predictability", "mase", "seasonal_naive", "straightness"]

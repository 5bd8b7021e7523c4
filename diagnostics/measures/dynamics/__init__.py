"""What a representation knows of how its input moves: its future, its path in time, its events."""

from diagnostics.measures.dynamics.forecast import mase, seasonal_naive
from diagnostics.measures.dynamics.latent import linear_predictability, straightness

__all__ = ["linear_predictability", "mase", "seasonal_naive", "straightness"]

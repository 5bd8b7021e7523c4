"""Measures of dynamics: whether a representation predicts the future, its path in time, and events."""

from diagnostics.measures.dynamics.forecast import mase as mase
from diagnostics.measures.dynamics.forecast import seasonal_naive as seasonal_naive
from diagnostics.measures.dynamics.latent import linear_predictability as linear_predictability
from diagnostics.measures.dynamics.latent import straightness as straightness

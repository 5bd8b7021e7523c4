"""Measures of geometry, which need no target: spectrum, dimension, spread, views, tokens."""

from diagnostics.measures.geometry.pooled import distinct_samples, mean_cosine, mle_dimension, two_nn, uniformity
from diagnostics.measures.geometry.spectrum import (
    alpha_req,
    effective_rank,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)
from diagnostics.measures.geometry.tokens import Activity, curvature, massive_activations
from diagnostics.measures.geometry.views import alignment, dime, infonce, lidar, matrix_entropy

__all__ = [
    "Activity",
    "alignment",
    "alpha_req",
    "curvature",
    "dime",
    "distinct_samples",
    "effective_rank",
    "infonce",
    "lidar",
    "massive_activations",
    "matrix_entropy",
    "mean_cosine",
    "mle_dimension",
    "nesum",
    "participation_ratio",
    "rankme",
    "stable_rank",
    "two_nn",
    "uniformity",
]

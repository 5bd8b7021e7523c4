"""Measures of geometry, which need no target: spectrum, dimension, spread, views, tokens."""

from diagnostics.measures.geometry.dimension import distinct_samples, mle_dimension, two_nn
from diagnostics.measures.geometry.entropies import dime, matrix_entropy
from diagnostics.measures.geometry.massive import Activity, massive_activations
from diagnostics.measures.geometry.spectrum import (
    alpha_req,
    effective_rank,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)
from diagnostics.measures.geometry.spread import mean_cosine, uniformity
from diagnostics.measures.geometry.tokens import curvature
from diagnostics.measures.geometry.views import alignment, infonce, lidar

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

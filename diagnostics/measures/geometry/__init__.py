"""Measures of geometry, which need no target: spectrum, dimension, spread, views, tokens."""

from diagnostics.measures.geometry.dimension import distinct_samples as distinct_samples
from diagnostics.measures.geometry.dimension import mle_dimension as mle_dimension
from diagnostics.measures.geometry.dimension import two_nn as two_nn
from diagnostics.measures.geometry.entropies import dime as dime
from diagnostics.measures.geometry.entropies import matrix_entropy as matrix_entropy
from diagnostics.measures.geometry.massive import Activity as Activity
from diagnostics.measures.geometry.massive import massive_activations as massive_activations
from diagnostics.measures.geometry.spectrum import alpha_req as alpha_req
from diagnostics.measures.geometry.spectrum import effective_rank as effective_rank
from diagnostics.measures.geometry.spectrum import nesum as nesum
from diagnostics.measures.geometry.spectrum import participation_ratio as participation_ratio
from diagnostics.measures.geometry.spectrum import rankme as rankme
from diagnostics.measures.geometry.spectrum import stable_rank as stable_rank
from diagnostics.measures.geometry.spread import mean_cosine as mean_cosine
from diagnostics.measures.geometry.spread import uniformity as uniformity
from diagnostics.measures.geometry.tokens import curvature as curvature
from diagnostics.measures.geometry.views import alignment as alignment
from diagnostics.measures.geometry.views import infonce as infonce
from diagnostics.measures.geometry.views import lidar as lidar

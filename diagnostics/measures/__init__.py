"""The measures that come with the package, one module an idea; nothing is loaded before it is used.

Plain functions on arrays, usable without a run, live in the same modules: `similarity`, `geometry`, `locality`,
`probes`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from diagnostics.hookspecs import hookimpl

if TYPE_CHECKING:
    from diagnostics.measures.base import Measure

_HOME = {
    "linear_probe": ("probes.linear", "LinearProbe"),
    "knn_probe": ("probes.nearest", "KnnProbe"),
    "attentive_probe": ("probes.cross_attention", "AttentiveProbe"),
    "segmentation_probe": ("probes.segmentation", "SegmentationProbe"),
    "caption_probe": ("probes.caption", "CaptionProbe"),
    "forecast_probe": ("dynamics.forecast", "ForecastProbe"),
    "event_probe": ("dynamics.events", "EventProbe"),
    "straightness": ("dynamics.latent", "Straightness"),
    "linear_predictability": ("dynamics.latent", "LinearPredictability"),
    "cka": ("similarity.kernels", "Cka"),
    "cka_rbf": ("similarity.kernels", "RbfCka"),
    "minibatch_cka": ("similarity.minibatch", "MinibatchAlignment"),
    "mutual_knn": ("similarity.nearest", "MutualKnn"),
    "cknna": ("similarity.nearest", "Cknna"),
    "torch_cka": ("similarity.package", "TorchCka"),
    "cca": ("similarity.canonical", "Cca"),
    "svcca": ("similarity.canonical", "Svcca"),
    "pwcca": ("similarity.canonical", "Pwcca"),
    "procrustes": ("similarity.shape", "Procrustes"),
    "angular_distance": ("similarity.shape", "AngularDistance"),
    "rsa": ("similarity.dissimilarity", "Rsa"),
    "gulp": ("similarity.transfer", "Gulp"),
    "rankme": ("geometry.spectrum", "RankMe"),
    "participation_ratio": ("geometry.spectrum", "ParticipationRatio"),
    "effective_rank": ("geometry.spectrum", "EffectiveRank"),
    "alpha_req": ("geometry.spectrum", "AlphaReq"),
    "nesum": ("geometry.spectrum", "NeSum"),
    "stable_rank": ("geometry.spectrum", "StableRank"),
    "two_nn": ("geometry.dimension", "TwoNn"),
    "mle_dimension": ("geometry.dimension", "MleDimension"),
    "uniformity": ("geometry.spread", "Uniformity"),
    "mean_cosine": ("geometry.spread", "MeanCosine"),
    "massive_activations": ("geometry.massive", "MassiveActivations"),
    "matrix_entropy": ("geometry.tokens", "MatrixEntropy"),
    "curvature": ("geometry.tokens", "Curvature"),
    "lidar": ("geometry.paired", "Lidar"),
    "alignment": ("geometry.paired", "Alignment"),
    "infonce": ("geometry.paired", "InfoNce"),
    "dime": ("geometry.paired", "Dime"),
    "self_similarity": ("locality.cosines", "SelfSimilarity"),
    "attention_distance": ("locality.heads", "AttentionDistance"),
    "attention_entropy": ("locality.heads", "AttentionEntropy"),
    "global_token_mass": ("locality.heads", "GlobalTokenMass"),
    "receptive_field": ("locality.receptive", "ReceptiveFieldOfTaps"),
    "morans_i": ("locality.autocorrelation", "MoransI"),
    "neighbour_consistency": ("locality.consistency", "NeighbourConsistency"),
    "outlier_tokens": ("locality.outliers", "OutlierTokenShare"),
    "position_probe": ("locality.position", "Position"),
    "label_propagation": ("locality.propagation", "LabelPropagation"),
    "object_discovery": ("locality.discovery", "ObjectDiscovery"),
}


def bundled() -> dict[str, type[Measure]]:
    """Name -> class of every bundled measure, all loaded."""
    return {name: _load(name) for name in _HOME}


@hookimpl
def measures() -> dict[str, Callable[[], Measure]]:
    """Name -> function that makes the measure, loading its module only then."""
    return {name: functools.partial(_make, name) for name in _HOME}


def _load(name: str) -> type[Measure]:
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f"diagnostics.measures.{module}"), attribute)


def _make(name: str) -> Measure:
    return _load(name)()

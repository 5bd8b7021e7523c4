"""Every plain function on small inputs, with the way that its arrays come left open.

`FUNCTIONS[name](a)` calls it with `a(array)` in place of each array: as torch, shifted, cut, spoilt.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from diagnostics.measures import dynamics, geometry, locality, probes, similarity

N, D, GRID = 24, 5, (8, 8)
T = GRID[0] * GRID[1]
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=(N, D + 2))
X_TALL, Y_TALL = RNG.normal(size=(60, 4)), RNG.normal(size=(60, 3))
TOKENS = RNG.normal(size=(3, T, 6))
ATTENTION = RNG.dirichlet(np.ones(T + 1), (2, 3, T + 1))
VIEWS = RNG.normal(size=(6, 4, 3))
LABELS = np.arange(N) % 3
SPLIT = np.array(["train", "train", "val", "test"] * 6)
MASKS = np.zeros((4, 8, 8), dtype=np.int64)
MASKS[:, 2:5, 2:5] = 1
IMAGE_MASKS = MASKS[:3]
FEW_TOKENS = RNG.normal(size=(N, 6, 4))
CLASSES = RNG.integers(0, 3, (N, T))

As = Callable[[np.ndarray], Any]
FUNCTIONS: dict[str, Callable[[As], Any]] = {
    # similarity
    "cka": lambda a: similarity.cka(a(X), a(Y)),
    "hsic": lambda a: similarity.hsic(a(X), a(Y)),
    "center_gram": lambda a: similarity.center_gram(a(X @ X.T)),
    "minibatch_cka": lambda a: similarity.minibatch_cka(a(X), a(Y), batch_size=8),
    "cknna": lambda a: similarity.cknna(a(X), a(Y), k=4),
    "mutual_knn": lambda a: similarity.mutual_knn(a(X), a(Y), k=4),
    "canonical_correlations": lambda a: similarity.canonical_correlations(a(X_TALL), a(Y_TALL)),
    "rdm": lambda a: similarity.rdm(a(X)),
    "compare_rdms": lambda a: similarity.compare_rdms(a(X[:, 0]), a(X[:, 1])),
    # geometry
    "alpha_req": lambda a: geometry.alpha_req(a(X), ranks=(1, 4)),
    "mle_dimension": lambda a: geometry.mle_dimension(a(X), k=5),
    "alignment": lambda a: geometry.alignment(a(X), a(X[::-1].copy())),
    "matrix_entropy": lambda a: geometry.matrix_entropy(a(TOKENS)),
    "curvature": lambda a: geometry.curvature(a(TOKENS)),
    "lidar": lambda a: geometry.lidar(a(VIEWS)),
    "infonce": lambda a: geometry.infonce(a(X), a(X[::-1].copy())),
    "dime": lambda a: geometry.dime(a(X), a(X[::-1].copy())),
    # locality
    "attention_distance": lambda a: locality.attention_distance(a(ATTENTION[:, :, 1:, 1:]), GRID),
    "attention_entropy": lambda a: locality.attention_entropy(a(ATTENTION)),
    "global_token_mass": lambda a: locality.global_token_mass(a(ATTENTION), 1),
    "self_similarity": lambda a: locality.self_similarity(a(TOKENS), GRID),
    "spatial_relation": lambda a: locality.spatial_relation(a(TOKENS), a(IMAGE_MASKS.reshape(3, T) > 0), GRID),
    "morans_i": lambda a: locality.morans_i(a(TOKENS), GRID),
    "neighbour_consistency": lambda a: locality.neighbour_consistency(a(TOKENS), GRID),
    "outlier_tokens": lambda a: locality.outlier_tokens(a(TOKENS), GRID),
    "position_probe": lambda a: locality.position_probe(a(TOKENS), GRID, ["train", "val", "test"]),
    "receptive_field": lambda a: locality.receptive_field(a(np.abs(TOKENS[:, :, 0].reshape(3, *GRID))), (3.5, 3.5)),
    "label_propagation": lambda a: locality.label_propagation(a(TOKENS), GRID, a(MASKS[0])),
    "j_and_f": lambda a: locality.j_and_f(a(MASKS), a(MASKS)),
    "jaccard": lambda a: locality.jaccard(a(MASKS[0] > 0), a(MASKS[1] > 0)),
    "boundary_f": lambda a: locality.boundary_f(a(MASKS[0] > 0), a(MASKS[1] > 0)),
    "box_of": lambda a: locality.box_of(a(MASKS[0] > 0)),
    "box_iou": lambda a: locality.box_iou(a(np.array([0.0, 0, 4, 4])), a(np.array([2.0, 2, 6, 6]))),
    "lost": lambda a: locality.lost(a(TOKENS[0]), GRID),
    "tokencut": lambda a: locality.tokencut(a(TOKENS[0]), GRID),
    "corloc": lambda a: locality.corloc(a(np.array([[0.0, 0, 4, 4]])), [a(np.array([[0.0, 0, 4, 4]]))]),
    "object_discovery": lambda a: locality.object_discovery(a(TOKENS), GRID, a(IMAGE_MASKS)),
    # dynamics
    "seasonal_naive": lambda a: dynamics.seasonal_naive(a(X), 3, 2),
    "mase": lambda a: dynamics.mase(a(X), a(X[::-1].copy()), a(Y)),
    "straightness": lambda a: dynamics.straightness(a(TOKENS)),
    "linear_predictability": lambda a: dynamics.linear_predictability(a(TOKENS), ["train", "val", "test"]),
    # probes
    "ridge": lambda a: probes.ridge(a(X), a(Y)),
    "logistic": lambda a: probes.logistic(a(X), a(LABELS)),
    "knn": lambda a: probes.knn(a(X), a(LABELS), a(X[::-1].copy())),
    "knn_votes": lambda a: probes.knn_votes(a(X), a(LABELS), a(X[::-1].copy())),
    "knn_weights": lambda a: probes.knn_weights(a(X)),
    "attentive": lambda a: probes.attentive(a(FEW_TOKENS), a(LABELS), a(FEW_TOKENS[::-1].copy())),
    "leave_one_out": lambda a: probes.leave_one_out(a(X), a(Y), (0.1,)),
    "confusion": lambda a: probes.confusion(a(LABELS), a(LABELS[::-1].copy()), 3),
    "iou": lambda a: probes.iou(a(np.array([[3, 1], [1, 3]]))),
    "mean_iou": lambda a: probes.mean_iou(a(np.array([[3, 1], [1, 3]]))),
    "dense_classification": lambda a: probes.dense_classification(a(np.repeat(TOKENS, 8, axis=0)), a(CLASSES), SPLIT),
    "depth_metrics": lambda a: probes.depth_metrics(a(np.abs(X) + 1), a(np.abs(X) + 2)),
    "retrieval_recall": lambda a: probes.retrieval_recall(a(X), a(X[::-1].copy())),
}


def _of_two(function: Callable[..., Any]) -> Callable[[As], Any]:
    return lambda a: function(a(X_TALL), a(Y_TALL))


def _of_one(function: Callable[..., Any]) -> Callable[[As], Any]:
    return lambda a: function(a(X))


def exported(package: ModuleType) -> list[str]:
    """The public names of a module: those that it lists, or what the `__init__` of a package of measures imports but modules."""
    if hasattr(package, "__all__"):
        return list(package.__all__)
    return [name for name, value in vars(package).items() if not name.startswith("_") and not inspect.ismodule(value)]


# Any other similarity compares two representations, any other geometry reads one.
for package, call in ((similarity, _of_two), (geometry, _of_one)):
    for name in exported(package):
        function = getattr(package, name)
        if inspect.isfunction(function) and name not in (*FUNCTIONS, "gram_of_blocks"):
            FUNCTIONS[name] = call(function)


def as_is(x: np.ndarray) -> np.ndarray:
    return x


def as_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.copy())


def numbers(result: Any) -> list[np.ndarray]:
    """All numbers of a result, whatever it is made of."""
    if isinstance(result, torch.Tensor):
        return [result.cpu().numpy().astype(np.float64)]
    if isinstance(result, (float, int, np.ndarray, np.number, bool)):
        return [np.asarray(result, dtype=np.float64)]
    if isinstance(result, dict):
        return [n for value in result.values() for n in numbers(value)]
    if isinstance(result, (list, tuple)):
        return [n for value in result for n in numbers(value)]
    if dataclasses.is_dataclass(result):
        return [n for field in dataclasses.fields(result) for n in numbers(getattr(result, field.name))]
    return []

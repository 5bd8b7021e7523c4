"""Numbers whose squares leave the floats, and sides that are constant but for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diagnostics.measures import geometry, similarity
from diagnostics.measures.arrays import SINGLE, centre, rounding, samples
from diagnostics.measures.geometry.pooled import TwoNn
from diagnostics.measures.geometry.spectrum import ParticipationRatio
from diagnostics.measures.geometry.tokens import MassiveActivations
from diagnostics.measures.similarity.base import Similarity
from diagnostics.measures.similarity.decomposed import Cca, Procrustes
from diagnostics.measures.similarity.kernels import Cka, KernelName, RbfCka
from diagnostics.measures.similarity.minibatch import MinibatchAlignment
from diagnostics.measures.similarity.pairs import Cknna, MutualKnn, Rsa
from tests.support.functions import FUNCTIONS, numbers
from tests.support.memory import MemoryActivations

# Their answer changes with the scale, or they take absolute numbers (a bandwidth, a delta, boxes, depths).
SCALE_FREE = (
    "cka", "minibatch_cka", "cknna", "mutual_knn", "canonical_correlations", "cca", "svcca", "pwcca", "procrustes",
    "angular_distance", "rsa", "gulp", "rankme", "effective_rank", "alpha_req", "nesum", "participation_ratio",
    "stable_rank", "two_nn", "mle_dimension", "distinct_samples", "uniformity", "alignment", "mean_cosine",
    "massive_activations", "matrix_entropy", "curvature", "infonce", "dime", "self_similarity", "spatial_relation",
    "morans_i", "neighbour_consistency", "label_propagation", "lost", "tokencut", "object_discovery", "straightness", "knn",
    "knn_votes", "retrieval_recall",
)  # fmt: skip
SCALES = (1e-160, 1e160, 1e300)


def scaled(scale: float) -> Any:
    return lambda x: x * scale if x.dtype.kind == "f" else x


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("scale", SCALES)
def test_what_knows_no_scale_knows_none(name: str, scale: float) -> None:
    expected, result = (numbers(FUNCTIONS[name](scaled(s))) for s in (1.0, scale))
    for one, other in zip(result, expected, strict=True):
        assert np.isfinite(other).any()
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_either_side_may_be_large_or_small(scale: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5))
    y = x[:, :3] + rng.normal(size=(40, 3))
    cases: list[tuple[KernelName, bool]] = [("linear", True), ("linear", False), ("rbf", True)]
    for kernel, unbiased in cases:
        expected = similarity.cka(x, y, kernel=kernel, unbiased=unbiased)
        assert similarity.cka(x, scale * y, kernel=kernel, unbiased=unbiased) == pytest.approx(expected, rel=1e-9)
    assert similarity.cka(x * scale, x * scale, kernel="rbf", sigma=2 * scale) == pytest.approx(1)
    assert similarity.cka(x * scale, y * scale, kernel="rbf", sigma=2 * scale) == pytest.approx(
        similarity.cka(x, y, kernel="rbf", sigma=2.0), rel=1e-9
    )
    np.testing.assert_allclose(similarity.rdm(x * scale) / scale, similarity.rdm(x), rtol=1e-12)
    # The product of the sides' squares is an ordinary number again.
    assert similarity.hsic(x * scale, y / scale) == pytest.approx(similarity.hsic(x, y), rel=1e-9)
    assert geometry.dime(x * scale, x * scale, bandwidth=scale) == pytest.approx(
        geometry.dime(x, x, bandwidth=1.0), rel=1e-9
    )


MATRICES = (Cka(), RbfCka(), MinibatchAlignment(), MutualKnn(), Cknna(), Cca(), Procrustes(), Rsa())


@pytest.mark.parametrize("measure", MATRICES, ids=lambda measure: measure.name)
@pytest.mark.parametrize("scale", SCALES)
def test_measures_of_pairs_know_no_scale(measure: Similarity, scale: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 1, 6))
    taps = {"a": x, "b": x + rng.normal(size=x.shape)}
    expected = measure.compute(MemoryActivations(taps), None, 0)
    result = measure.compute(MemoryActivations({"a": x, "b": scale * taps["b"]}), None, 0)
    assert np.isfinite(expected.matrix).all() and "reason" not in result.attrs
    np.testing.assert_allclose(result.matrix, expected.matrix, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(result.p, expected.p)


def rounded(double: bool, n: int = 64, width: int = 6) -> np.ndarray:
    """Samples that are all alike but for the last digits, in either precision."""
    rng = np.random.default_rng(5)
    # Magnitudes far apart: each feature is rounded in units of its own.
    value = rng.normal(size=width) * 10.0 ** np.arange(width)
    units = rng.integers(-3, 4, size=(n, width))
    if double:
        return value * (1 + np.finfo(np.float64).eps * units)
    return (value.astype(np.float32) * (1 + np.finfo(np.float32).eps * units).astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize("double", [True, False])
def test_a_side_that_is_constant_but_for_rounding_is_nothing_to_compare(double: bool) -> None:
    x, y = rounded(double), np.random.default_rng(0).normal(size=(64, 4))
    assert (x != x[0]).any(axis=0).all()
    calls = {
        "cka": lambda: similarity.cka(x, y),
        "biased cka": lambda: similarity.cka(y, x, unbiased=False),
        "rbf cka": lambda: similarity.cka(x, y, kernel="rbf"),
        "minibatch_cka": lambda: similarity.minibatch_cka(x, y, batch_size=16),
        "cca": lambda: similarity.cca(x, y),
        "svcca": lambda: similarity.svcca(x, y),
        "pwcca": lambda: similarity.pwcca(x, y),
        "procrustes": lambda: similarity.procrustes(y, x),
        "angular_distance": lambda: similarity.angular_distance(x, y),
        "gulp": lambda: similarity.gulp(x, y),
        "rsa": lambda: similarity.rsa(x, y),
        "euclidean rsa": lambda: similarity.rsa(x, y, distance="euclidean"),
        "mutual_knn": lambda: similarity.mutual_knn(x, y),
        "cknna": lambda: similarity.cknna(x, y),
        "participation_ratio": lambda: geometry.participation_ratio(x),
        "nesum": lambda: geometry.nesum(x),
        "alpha_req": lambda: geometry.alpha_req(x, ranks=(1, 4)),
        "two_nn": lambda: geometry.two_nn(x),
        "mle_dimension": lambda: geometry.mle_dimension(x),
        "dime": lambda: geometry.dime(x, y),
        "lidar": lambda: geometry.lidar(x.reshape(16, 4, 6)),
        "curvature": lambda: geometry.curvature(x),
        "largest ratio": lambda: geometry.massive_activations(x).largest,
    }
    assert {name: value for name, call in calls.items() if not np.isnan(value := call())} == {}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("measure", [*MATRICES, TwoNn(), ParticipationRatio()], ids=lambda measure: measure.name)
def test_measures_say_why_such_a_tap_has_no_value(measure: Any, double: bool) -> None:
    y = np.random.default_rng(0).normal(size=(64, 1, 4))
    result = measure.compute(MemoryActivations({"a": y, "still": rounded(double)[:, None]}), None, 0)
    values = result["matrix" if isinstance(measure, Similarity) else "score"]
    assert np.isnan(values.sel(tap="still")).all() and np.isfinite(values.sel(tap="a")).any()
    assert "still: " in result.attrs["reason"]


def test_wide_taps_in_single_precision_too() -> None:
    rng = np.random.default_rng(0)
    # Enough features and samples for products in single precision.
    y, x = rng.normal(size=(150, 1, 600)).astype(np.float32), rounded(False, 150, 5)
    still = np.tile(x, (1, 120)).astype(np.float32)[:, None]
    result = Cka().compute(MemoryActivations({"a": y, "still": still}), None, 0)
    assert np.isnan(result.matrix.sel(tap="still")).all()
    assert result.matrix.sel(tap="a", tap_other="a").item() == pytest.approx(1, abs=1e-7)


def test_a_feature_that_is_rounding_is_left_out_and_others_stay() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 3)), rng.normal(size=(64, 3))
    # Its noise is larger than the features, but not beside its own value.
    noisy = np.hstack([x, 1e17 + rng.integers(-2, 3, (64, 1)) * 16.0])
    assert similarity.cka(noisy, y) == pytest.approx(similarity.cka(x, y), rel=1e-12)
    assert similarity.cca(noisy, y) == pytest.approx(similarity.cca(x, y), rel=1e-9)
    assert geometry.participation_ratio(noisy) == pytest.approx(geometry.participation_ratio(x), rel=1e-12)
    # What is far from zero is no constant: these differ by a billionth.
    assert similarity.cka(1e9 + x, y) == pytest.approx(similarity.cka(x, y), abs=1e-5)


def test_a_constant_feature_in_single_precision_is_no_massive_one() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(8, 16, 4)).astype(np.float32)
    tokens[:, :, 0] += 50
    tokens[:, :, 1] = np.float32(0.3) * (1 + np.finfo(np.float32).eps * rng.integers(-3, 4, (8, 16)))
    result = MassiveActivations().compute(MemoryActivations({"a": tokens}), None, 0)
    assert result.feature.item() == 0 and result.constant.item() == 1


def test_rounding_is_that_of_the_precision_that_the_values_have() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    assert rounding(samples(x, "x")) == 1e-12
    assert rounding(samples(x.astype(np.float32), "x")) == SINGLE == 1e-6
    single = np.full((20, 1), 0.1, dtype=np.float32)
    single[3] = np.nextafter(single[3], 1)
    both = np.hstack([single.astype(np.float64), 0.1 + 1e-7 * x[:, :1]])
    assert centre(samples(both, "x")).any(dim=0).tolist() == [False, True]

"""Decompositions in double precision, and what takes over where an algorithm fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diagnostics.measures import arrays
from diagnostics.measures.apply import measure_all
from diagnostics.measures.arrays import cholesky, eigh, eigvalsh, qr, svd, svdvals, triangle
from diagnostics.measures.geometry.pooled import MeanCosine
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.softmax import logistic
from diagnostics.runs.controls.raw_input import RAW
from tests.support.memory import MemoryActivations, label_target, thirds
from tests.support.refusals import refusal


def few_words(seed: int, n: int = 300) -> np.ndarray:
    """`raw_input` of texts made of 33 words: counts in 256 bins, most of them empty, so eigenvalues that repeat."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5)) for _ in range(33)]
    return np.stack([RAW["text"](np.array(" ".join(rng.choice(words, 20)))) for _ in range(n)])


def symmetric(*shape: int) -> torch.Tensor:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(*shape, shape[-1] + 3)))
    return x @ x.mT


def check_all(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).to(dtype)
    u, s, v = svd(x)
    exact = x.double()
    assert all(part.dtype == torch.float64 for part in (u, s, v, svdvals(x)))
    np.testing.assert_allclose(u * s[..., None, :] @ v, exact, atol=1e-12)
    np.testing.assert_allclose(svdvals(x), np.linalg.svd(exact.numpy(), compute_uv=False), atol=1e-12)
    q, r = qr(x)
    np.testing.assert_allclose(q @ r, exact, atol=1e-12)
    np.testing.assert_allclose(triangle(x).mT @ triangle(x), exact.mT @ exact, atol=1e-12)
    square = symmetric(*shape[:-1]).to(dtype)
    exact = square.double()
    values, vectors = eigh(square)
    np.testing.assert_allclose(vectors * values[..., None, :] @ vectors.mT, exact, atol=1e-11)
    np.testing.assert_allclose(eigvalsh(square), np.linalg.eigvalsh(exact.numpy()), atol=1e-11)
    assert values.dtype == vectors.dtype == eigvalsh(square).dtype == torch.float64
    np.testing.assert_allclose(cholesky(square), np.linalg.cholesky(exact.numpy()), atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 4, 6), (2, 3, 6, 4)])
def test_they_are_what_they_say_in_double_precision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_all(shape, dtype)


def fails(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("linalg: the algorithm failed to converge")


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 6, 4)])
def test_another_algorithm_takes_over_where_one_fails(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    for name in ("eigh", "eigvalsh", "svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, fails)
    check_all(shape, torch.float32)


def test_where_all_fail_a_sentence_says_so_and_other_results_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import linalg

    def never(*args: Any, **kwargs: Any) -> Any:
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    rng = np.random.default_rng(0)
    activations = MemoryActivations({"a": rng.normal(size=(90, 1, 4))}, split=thirds(90))
    targets = {"kind": label_target(rng.integers(0, 2, 90))}
    measures = [LinearProbe(), MeanCosine()]
    assert "linear_probe/kind" in measure_all(measures, activations, targets).results
    monkeypatch.setattr(linalg, "eigh", never)
    result = measure_all(measures, activations, targets)
    assert list(result.results) == ["mean_cosine"]
    assert "No algorithm finds the eigenvectors" in result.skipped["linear_probe/kind"]
    assert "no convergence" in result.skipped["linear_probe/kind"]


@pytest.mark.parametrize("function", [eigh, eigvalsh, svd, svdvals, qr, triangle, cholesky])
def test_what_is_not_finite_is_said(function: Any) -> None:
    with refusal("not-finite", "(3, 3)"):
        function(torch.diag(torch.tensor([1.0, float("inf"), 1.0])))


def test_a_factor_of_what_rounding_has_made_indefinite() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 3)))
    flat = x @ x.T - 1e-12 * torch.eye(30, dtype=torch.float64)
    factor = cholesky(torch.stack([flat, symmetric(30)]))
    np.testing.assert_allclose(factor[0] @ factor[0].T, flat, atol=1e-6)
    np.testing.assert_allclose(factor[1] @ factor[1].T, symmetric(30), atol=1e-6)
    with refusal("singular"):
        cholesky(-torch.eye(3))


@pytest.mark.parametrize("seed", range(8))
def test_texts_of_a_few_words_are_probed(seed: int) -> None:
    """In single precision LAPACK's eigenvectors of these do not converge, for several seeds of these."""
    x = few_words(seed)
    labels = np.arange(len(x)) % 3
    model = logistic(x, labels, 0.01, 1e-7)[0]
    # The gradient of what it minimises, in the features themselves; those that never vary have none.
    z = x - x.mean(axis=0)
    sd = x.std(axis=0)
    some = sd > 1e-9
    error = np.exp((x - model.mean) @ model.weights + model.bias)
    error = error / error.sum(axis=1, keepdims=True) - np.eye(3)[labels]
    gradient = (z[:, some] / sd[some]).T @ error / len(x) + 0.01 * model.weights[some] * sd[some, None]
    assert np.abs(gradient).max() < 1e-6
    activations = MemoryActivations({"raw_input": x[:, None].astype(np.float32)}, split=thirds(len(x)))
    result = LinearProbe().compute(activations, label_target(labels), 0)
    assert np.isfinite(result.val_score).all()


def test_nothing_decomposes_matrices_in_a_way_of_its_own() -> None:
    root = Path(arrays.__file__).parents[2]
    pattern = re.compile(r"linalg\.(eigh|eigvalsh|eig|svd|svdvals|qr|cholesky|lstsq|pinv|inv)\b")
    # Whole numbers of places, and known answers that are to be found in another way.
    apart = {"measures/arrays.py", "encoders/places/judge.py", "measures/base.py"}
    files = [*(root / "diagnostics").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    assert len(files) > 100
    names = {file.relative_to(root).as_posix() for file in files if pattern.search(file.read_text(encoding="utf-8"))}
    assert names <= {f"diagnostics/{name}" for name in apart}

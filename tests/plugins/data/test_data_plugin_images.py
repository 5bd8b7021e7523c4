"""The bundled images, against the arrays that the libraries ship."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from diagnostics_data.plugin import datasets

from diagnostics import Dataset
from tests.support.refusals import refusal


def make(name: str, **options: int) -> Dataset:
    return datasets()[name](**options)


def test_digits_are_those_of_sklearn() -> None:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    dataset = make("digits")
    assert np.asarray(dataset.samples).dtype == np.uint8 and np.asarray(dataset.samples).max() == 255
    np.testing.assert_array_equal(np.rint(np.asarray(dataset.samples) * (16 / 255)), bunch.images)
    np.testing.assert_array_equal(dataset.targets["label"].values, bunch.target)
    some, more, other = make("digits", n=50), make("digits", n=100), make("digits", n=50, seed=1)
    assert set(some.ids) < set(more.ids) < set(dataset.ids) and some.ids != other.ids
    for i, name in enumerate(some.ids):
        original = int(name.removeprefix("digits-"))
        np.testing.assert_array_equal(some[i], dataset[original])
        assert some.targets["label"].values[i] == bunch.target[original]
    for n in (9, 1798):
        with refusal("bad-value", f"n={n}"):
            make("digits", n=n)


@pytest.mark.parametrize(("tile", "counts"), [(100, (20, 5, 10)), (247, (2, 2, 2)), (60, (56, 16, 24))])
def test_motorcycle_tiles_are_the_original(tile: int, counts: tuple[int, int, int]) -> None:
    from skimage.data import stereo_motorcycle

    left, _, disparity = stereo_motorcycle()
    known = np.where(np.isinf(disparity), np.nan, disparity)
    dataset = make("motorcycle", tile=tile)
    target = dataset.targets["disparity"]
    assert (target.kind, target.units, target.dense, target.values.dtype) == ("token_value", "px", True, np.float32)
    assert target.values.shape == (len(dataset), tile, tile) and tuple(dataset.counts().values()) == counts
    columns: dict[str, set[int]] = {}
    for i, name in enumerate(dataset.ids):
        y, x = (int(part[1:]) for part in name.split("-")[1:])
        np.testing.assert_array_equal(dataset[i], left[y : y + tile, x : x + tile])
        np.testing.assert_array_equal(target.values[i], known[y : y + tile, x : x + tile])
        columns.setdefault(dataset.split[i], set()).add(x)
    assert max(columns["train"]) < min(columns["val"]) <= max(columns["val"]) < min(columns["test"])
    assert np.isfinite(disparity).mean() == pytest.approx(0.927, abs=1e-3)


def test_motorcycle_matches_show_the_same_in_both_images() -> None:
    dataset = make("motorcycle", views=2)
    differences = np.zeros(2)
    for i, matches in enumerate(dataset.targets["matches"].values):
        known = matches[1:][np.isfinite(matches[1:, 0])]
        x, y, moved, _ = known[:, :4].astype(int).T
        one, other = (np.asarray(image, float).mean(axis=2) for image in (dataset[i], dataset.views[i]))
        differences += [np.abs(one[y, x] - other[y, at]).sum() for at in (moved, x)]
    assert differences[0] < differences[1] / 4


@pytest.mark.parametrize("tile", [7, 248])
def test_motorcycle_refuses_tiles_that_leave_no_three_columns(tile: int) -> None:
    with refusal("bad-value", f"tile={tile}"):
        make("motorcycle", tile=tile)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("digits", "sklearn.datasets", "scikit-learn"), ("motorcycle", "skimage.data", "scikit-image")],
)
def test_a_missing_library_is_named(name: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with refusal("missing-package", name, package):
        make(name)

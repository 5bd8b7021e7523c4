"""Points found in another view: against own arithmetic, planted taps, shuffled pairs, and in a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import diagnostics as dx
from diagnostics import Dataset, Run, Target
from diagnostics.datasets.dataset import subset
from diagnostics.datasets.matches import LENGTH, crop_matches, pad_matches
from diagnostics.measures.locality.correspondence import find_points, pck
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

N, SIDE, CELL = 60, 32, 4
SPLIT = ["train", "val", "test"]


def random_matches(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places that are found, and matches in shares of views of unequal extents, some of them missing."""
    rng = np.random.default_rng(seed)
    points = [
        np.concatenate([rng.random((k, 4)) * 40, rng.uniform(20, 60, (k, 1))], axis=1) for k in rng.integers(0, 9, n)
    ]
    matches = crop_matches(
        pad_matches(points, rng.integers(40, 70, (n, 4))), lambda extent: tuple((0.0, float(side)) for side in extent)
    )
    return rng.random((n, matches.shape[1] - 1, 2)), matches


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_pck_is_the_share_of_points_that_are_near_enough(share: float) -> None:
    found, matches = random_matches(20, 0)
    right = list[bool]()
    for places, (first, *rows) in zip(found, matches, strict=True):
        for (x, y), row in zip(places, rows, strict=True):
            if not np.isnan(row[LENGTH]):
                across, down = (x - row[2]) * first[2], (y - row[3]) * first[3]
                right.append((across**2 + down**2) ** 0.5 <= share * row[LENGTH])
    assert pck(found, matches, share) == pytest.approx(np.mean(right), abs=1e-12)
    assert np.isnan(pck(found[:, :0], matches[:, :1]))


def test_the_most_similar_token_is_found_by_brute_force_too() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 3, 20, 6))
    # Centres of cells, where nothing is interpolated.
    cells = rng.integers(0, (5, 4), (3, 7, 2))
    found = find_points(first, second, (4, 5), (cells + 0.5) / (5, 4))
    for sample, of in enumerate(cells):
        for point, (column, row) in enumerate(of):
            x = first[sample, row * 5 + column]
            cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in second[sample]]
            best = int(np.argmax(cosines))
            np.testing.assert_allclose(found[sample, point], [(best % 5 + 0.5) / 5, (best // 5 + 0.5) / 4])
    with refusal("bad-shape"):
        find_points(first, second[:, :19], (4, 5), (cells + 0.5) / (5, 4))


def test_points_outside_of_what_is_covered_are_gone() -> None:
    matches = pad_matches([[[2, 2, 20, 20, 9], [30, 2, 20, 20, 9], [2, 2, 39, 20, 9]]], [(20, 40, 30, 40)])
    seen = crop_matches(matches, lambda extent: ((0.0, float(extent[0])), (10.0 - 10, 30.0)))
    np.testing.assert_allclose(seen[0, :2], [[30, 20, 30, 30, 0], [2 / 30, 0.1, 20 / 30, 20 / 30, 9]])
    assert np.isfinite(seen[0, 1:, LENGTH]).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "row", [[np.inf, 1, 1, 1, 8], [9, 1, 1, 1, 8], [1, 1, -1, 1, 8], [1, 1, 1, 1, 0], [1, 1, 1, np.nan, 8]]
)
def test_matches_that_are_none_are_refused(row: list[float]) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    target = Target("matches", pad_matches([[row]] * 3, [(8, 8, 8, 8)] * 3))
    with refusal("bad-target", "match 0"):
        Dataset("pairs", "image", images, list("abc"), SPLIT, {"matches": target}, views=images)
    good = Target("matches", pad_matches([[[1, 1, 1, 1, 8]]] * 3, [(8, 8, 8, 8)] * 3))
    with refusal("bad-target", "views"):
        Dataset("pairs", "image", images, list("abc"), SPLIT, {"matches": good})
    with refusal("bad-shape", "views"):
        Dataset("pairs", "image", images, list("abc"), SPLIT, {"matches": good}, views=images[:2])


def moved(n: int = N) -> Dataset:
    """Noise, and in each view the same noise moved by whole cells, with points at the centres of cells."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (n, SIDE, SIDE, 3)).astype(np.uint8)
    views, points = np.empty_like(images), list[np.ndarray]()
    for i, image in enumerate(images):
        down, right = rng.integers(-3, 4, 2) * CELL
        views[i] = np.roll(image, (down, right), axis=(0, 1))
        at = rng.integers(0, SIDE // CELL, (12, 2)) * CELL + CELL / 2
        rows = np.concatenate([at, at + np.array([right, down]), np.full((12, 1), SIDE)], axis=1)
        points.append(rows[((rows[:, 2:4] > 0) & (rows[:, 2:4] < SIDE)).all(axis=1)])
    ids = [f"pair-{i:03}" for i in range(n)]
    target = Target("matches", pad_matches(points, [[SIDE] * 4] * n))
    return Dataset("moved", "image", images, ids, list(dx.split_groups(ids, 0)), {"matches": target}, views=views)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out: Path = tmp_path_factory.mktemp("views") / "run"
    options = {"measures": ["correspondence"], "report": False, "watch": dx.silent}
    return dx.run(tiny_image_encoder(side=SIDE), moved(), out=out, **options)


def test_a_tap_that_holds_what_is_at_each_place_finds_it_again(run: Run) -> None:
    data = run.profile("correspondence/matches").data
    first = data.isel(tap=0)
    assert float(first["score"]) == float(first["ceiling"]) == float(first["pck_05"]) == 1
    assert float(first["near"]) == float(first["far"]) == 1
    assert data.attrs["matches"] > 80
    # A square of .1 of the side around a place, less at the edges, is little; a point stays where it was in few.
    assert 0.02 < float(first["line_chance"]) < 0.04
    assert float(first["line_same_place"]) < 0.2
    assert "observed" in {place.name for place in run.path.iterdir()}


def test_points_of_another_pair_are_found_by_chance(run: Run) -> None:
    shuffled = run.profile("correspondence/matches").controls["shuffled_labels"].isel(tap=0)
    assert float(shuffled["low"]) <= float(shuffled["line_chance"]) * 2
    assert float(shuffled["score"]) < 0.15


def test_views_of_shapes_show_the_same_scene() -> None:
    data, alone = (dx.build("dataset", f"shapes?n=12&size=48{more}") for more in ("&views=2", ""))
    np.testing.assert_array_equal(data[3], alone[3])
    assert data.fingerprint != alone.fingerprint
    values = data.targets["matches"].values
    known = ~np.isnan(values[:, 1:, LENGTH])
    assert known.sum() > 200
    # The points lie on objects, and the view is another picture.
    for i, row in enumerate(values):
        x, y = row[1:][known[i], :2].astype(int).T
        assert (np.asarray(data.targets["masks"].values[i])[y, x] > 0).all()
        assert not np.array_equal(data.views[i], data[i])
    with refusal("bad-value", "views=2"):
        dx.build("dataset", "shapes?n=12&size=48&views=2&frames=2")


def test_images_without_matches_are_left_out_of_the_suite(tmp_path: Path) -> None:
    options = {"measures": ["rankme", "correspondence"], "report": False, "controls": False, "watch": dx.silent}
    data = moved(12)
    alone = Dataset("alone", "image", data.samples, data.ids, data.split.tolist(), {})
    with refusal("not-measured", "correspondence"):
        dx.run(
            tiny_image_encoder(side=SIDE), alone, out=tmp_path / "named", **options | {"measures": ["correspondence"]}
        )
    assert list(dx.run(tiny_image_encoder(side=SIDE), alone, out=tmp_path / "run", **options).results) == ["rankme"]


def test_a_subset_keeps_the_views_of_its_samples() -> None:
    data = moved(20)
    some = subset(data, 8, 0)
    at = data.ids.index(some.ids[5])
    np.testing.assert_array_equal(some.views[5], data.views[at])

"""Dense targets on a grid: known answers, and means computed by cutting places into pieces that fit the cells."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.datasets import target as module
from diagnostics.datasets.target import classes_on_grid, crop_maps, events_on_grid, on_grid, resample
from tests.support.refusals import refusal

NAN = np.nan


def whole(*extent: int) -> tuple[tuple[float, float], ...]:
    return tuple((0.0, float(n)) for n in extent)


def by_pieces(line: np.ndarray, cells: int) -> np.ndarray:
    """Mean over each of `cells` equal cells of a line, every place cut into as many pieces as needed."""
    each = math.lcm(len(line), cells) // len(line)
    return np.repeat(line, each).reshape(cells, -1).mean(axis=1)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (7, 9), (14, 10)])
def test_a_constant_map_is_constant_on_any_grid(shape: tuple[int, int]) -> None:
    result = on_grid(np.full((2, 7, 9), 0.1), whole(7, 9), shape)
    assert result.shape == (2, shape[0] * shape[1])
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, 0.1, rtol=1e-12)


def test_a_ramp_gives_the_middle_of_each_cell_in_raster_order() -> None:
    y, x = np.mgrid[0:6, 0:8].astype(float)
    result = on_grid((100 * y + x)[None], whole(6, 8), (3, 4))
    expected = [100 * (2 * row + 0.5) + (2 * column + 0.5) for row in range(3) for column in range(4)]
    np.testing.assert_allclose(result, [expected])


def test_cells_as_large_as_places_give_the_map_back() -> None:
    maps = np.random.default_rng(0).standard_normal((3, 4, 5))
    np.testing.assert_allclose(on_grid(maps, whole(4, 5), (4, 5)), maps.reshape(3, 20))


def test_a_place_shared_by_two_cells_counts_for_both_by_its_share() -> None:
    # Cells of 1.5 places: [a, half of b] and [half of b, c].
    result = on_grid(np.array([[1.0, 10.0, 100.0]]), whole(3), (2,))
    np.testing.assert_allclose(result, [[(1 + 5) / 1.5, (5 + 100) / 1.5]])


def test_cells_smaller_than_places_repeat_them() -> None:
    np.testing.assert_allclose(on_grid(np.array([[1.0, 2.0]]), whole(2), (6,)), [[1, 1, 1, 2, 2, 2]])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_any_extent_on_any_number_of_cells_equals_the_mean_over_pieces(extent: int, cells: int, seed: int) -> None:
    line = np.random.default_rng(seed).standard_normal(extent)
    np.testing.assert_allclose(on_grid(line[None], whole(extent), (cells,))[0], by_pieces(line, cells), atol=1e-12)


def test_two_axes_are_averaged_one_after_the_other() -> None:
    maps = np.random.default_rng(1).standard_normal((1, 5, 7))
    rows = np.stack([by_pieces(maps[0, :, x], 3) for x in range(7)], axis=1)
    expected = np.stack([by_pieces(row, 4) for row in rows])
    np.testing.assert_allclose(on_grid(maps, whole(5, 7), (3, 4)), expected.reshape(1, 12))


def test_three_axes_lie_in_raster_order() -> None:
    maps = np.random.default_rng(2).standard_normal((2, 4, 6, 2))
    result = on_grid(maps, whole(4, 6, 2), (2, 3, 1)).reshape(2, 2, 3, 1)
    for t in range(2):
        for y in range(3):
            cell = maps[:, 2 * t : 2 * t + 2, 2 * y : 2 * y + 2, :]
            np.testing.assert_allclose(result[:, t, y, 0], cell.mean(axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([1.0, 3.0, 5.0, 7.0], 4.0),
        ([1.0, 3.0, 5.0, NAN], 3.0),
        ([1.0, NAN, 5.0, NAN], 3.0),
        ([1.0, NAN, NAN, NAN], NAN),
    ],
)
def test_a_cell_needs_half_of_it_known_and_averages_what_is(known: list[float], expected: float) -> None:
    result = on_grid(np.array([known]), whole(4), (1,))
    np.testing.assert_equal(result, [[expected]])


def test_nothing_known_is_nan_without_warning_and_leaves_the_neighbours() -> None:
    with np.errstate(all="raise"):
        result = on_grid(np.array([[NAN, NAN, 1.0, 2.0]]), whole(4), (2,))
    np.testing.assert_equal(result, [[NAN, 1.5]])


def test_the_known_share_counts_area_not_places() -> None:
    # Cells of 2: [half of place 0, 1, half of 2] and [half of 2, 3, half of 4].
    line = [1.0, 2.0, NAN, 4.0, 5.0, 6.0]
    result = on_grid(np.array([line]), ((0.5, 4.5),), (2,))
    np.testing.assert_allclose(result, [[(0.5 * 1 + 2) / 1.5, (4 + 0.5 * 5) / 1.5]])
    sparse = on_grid(np.array([[1.0, NAN, NAN, 4.0, 5.0, 6.0]]), ((0.5, 4.5),), (2,))
    assert np.isnan(sparse[0, 0])
    assert sparse[0, 1] == pytest.approx((4 + 2.5) / 1.5)


def test_infinity_counts_as_unknown() -> None:
    np.testing.assert_equal(on_grid(np.array([[np.inf, 2.0]]), whole(2), (1,)), [[2.0]])


def test_only_the_covered_part_counts() -> None:
    maps = np.arange(8.0)[None]
    np.testing.assert_allclose(on_grid(maps, ((2.0, 6.0),), (2,)), [[2.5, 4.5]])
    np.testing.assert_allclose(on_grid(maps, ((1.5, 4.5),), (1,)), [[(0.5 * 1 + 2 + 3 + 0.5 * 4) / 3]])


def test_what_is_covered_beyond_the_sample_is_unknown() -> None:
    # Two places of padding on the left: the first cell lies outside, the second on places 0 and 1.
    np.testing.assert_equal(on_grid(np.array([[4.0, 6.0]]), ((-2.0, 2.0),), (2,)), [[NAN, 5.0]])


def test_samples_do_not_mix() -> None:
    maps = np.stack([np.full((4, 4), 1.0), np.full((4, 4), NAN), np.full((4, 4), 3.0)])
    result = on_grid(maps, whole(4, 4), (2, 2))
    np.testing.assert_equal(result, np.repeat([[1.0], [NAN], [3.0]], 4, axis=1))


def test_integer_maps_are_averaged_without_rounding() -> None:
    result = on_grid(np.array([[1, 2, 255, 254]], dtype=np.uint8), whole(4), (2,))
    np.testing.assert_allclose(result, [[1.5, 254.5]])


@pytest.mark.parametrize(
    ("extent", "cells", "cell", "places"), [(8, 5, 2, [3]), (10, 3, 1, [3, 4]), (14, 3, 1, [4, 5, 6])]
)
def test_exactly_half_known_is_enough_whatever_the_rounding(
    extent: int, cells: int, cell: int, places: list[int]
) -> None:
    """As 2/3 + 1 of a cell from 3 1/3 to 6 2/3, which add up to a hair less than half of it."""
    line = np.full((1, extent), NAN)
    line[0, places] = 1
    assert on_grid(line, whole(extent), (cells,))[0, cell] == 1
    assert classes_on_grid(np.where(np.isnan(line), -1, 1), whole(extent), (cells,))[0, cell] == 1


# Classes


def by_counting(labels: np.ndarray, fine: int, cells: int) -> list[int]:
    """The commonest class of each cell of a line, every place cut into `fine` pieces; -1 where less than half is known."""
    result = []
    for cell in np.repeat(labels, fine).reshape(cells, -1):
        known = cell[cell >= 0]
        enough = len(known) and 2 * len(known) >= len(cell)
        result.append(min(set(known.tolist()), key=lambda c: (-(known == c).sum(), c)) if enough else -1)
    return result


def test_the_class_of_most_places_wins() -> None:
    labels = np.array([[[3, 3, 0, 0], [3, 1, 0, 2]]])
    result = classes_on_grid(labels, whole(2, 4), (1, 2))
    assert result.tolist() == [[3, 0]]
    assert result.dtype == np.int16


def test_of_equal_shares_the_lower_class() -> None:
    assert classes_on_grid(np.array([[7, 2, 2, 7]]), whole(4), (2,)).tolist() == [[2, 2]]
    # Tenths of a place are equal only up to rounding: 1 - 0.1 > 3.9 - 3.
    for line in ([0, 1, 0, 1], [1, 0, 1, 0]):
        assert classes_on_grid(np.array([line]), ((0.1, 3.9),), (1,)).tolist() == [[0]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([5, 5, -1, -1], 5),
        ([5, -1, -1, -1], -1),
        ([-1, -1, -1, -1], -1),
        # What is unknown is no class of its own: one known place in two has the say.
        ([4, -1, 6, 4], 4),
    ],
)
def test_a_cell_of_classes_needs_half_of_it_known(labels: list[int], expected: int) -> None:
    assert classes_on_grid(np.array([labels]), whole(4), (1,)).tolist() == [[expected]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
def test_classes_on_any_number_of_cells_equal_counting_pieces(extent: int, cells: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(-1, 4, size=extent)
    expected = by_counting(labels, math.lcm(extent, cells) // extent, cells)
    assert classes_on_grid(labels[None], whole(extent), (cells,))[0].tolist() == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(-2, 3), st.floats(4, 9))
def test_a_class_is_the_largest_of_the_means_of_its_indicators(seed: int, start: float, stop: float) -> None:
    """By `on_grid`, over two axes, covered parts that cut places and reach beyond the sample."""
    labels = np.random.default_rng(seed).integers(-1, 5, size=(3, 6, 7))
    covered, shape = ((start, stop), (0.5, 6.5)), (2, 3)
    result = classes_on_grid(labels, covered, shape)
    share = np.stack([on_grid(np.where(labels < 0, NAN, labels == c), covered, shape) for c in range(5)])
    unknown = np.isnan(share[0])
    assert (result[unknown] == -1).all()
    best = share.max(axis=0)
    chosen = np.take_along_axis(share, np.maximum(result, 0)[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen[~unknown], best[~unknown], atol=1e-9)
    # None below it is as good.
    lower = np.arange(5)[:, None, None] < result
    assert not ((share > best - 1e-12) & lower)[:, ~unknown].any()


def test_classes_on_three_axes_lie_in_raster_order() -> None:
    expected = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    labels = expected.repeat(2, axis=0).repeat(3, axis=1).repeat(2, axis=2)[None]
    assert classes_on_grid(labels, whole(4, 9, 8), (2, 3, 4))[0].tolist() == list(range(24))


def test_classes_outside_the_sample_or_of_nothing() -> None:
    assert classes_on_grid(np.array([[4, 6]]), ((-2.0, 2.0),), (2,)).tolist() == [[-1, 4]]
    assert classes_on_grid(np.array([[4, 6]]), ((5.0, 9.0),), (2,)).tolist() == [[-1, -1]]
    assert classes_on_grid(np.zeros((0, 4), dtype=int), whole(4), (2,)).shape == (0, 2)
    assert on_grid(np.zeros((0, 4)), whole(4), (2,)).shape == (0, 2)


def test_the_largest_class_and_one_too_large() -> None:
    assert classes_on_grid(np.array([[32767, 32767]]), whole(2), (1,)).tolist() == [[32767]]
    with refusal("bad-target", "32768"):
        classes_on_grid(np.array([[32768, 0]]), whole(2), (1,))


def test_one_sample_alone_or_among_others_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    labels, maps = rng.integers(-1, 4, size=(9, 5, 7)), rng.standard_normal((9, 5, 7))
    maps[rng.random(maps.shape) < 0.4] = NAN
    together = [f(x, whole(5, 7), (2, 3)) for f, x in ((classes_on_grid, labels), (on_grid, maps))]
    monkeypatch.setattr(module, "_BLOCK", 2 * 35)
    for f, x, expected in ((classes_on_grid, labels, together[0]), (on_grid, maps, together[1])):
        np.testing.assert_array_equal(f(x, whole(5, 7), (2, 3)), expected)
        np.testing.assert_array_equal(np.concatenate([f(row[None], whole(5, 7), (2, 3)) for row in x]), expected)


@pytest.mark.parametrize("function", [on_grid, classes_on_grid, events_on_grid])
def test_memory_does_not_grow_with_the_samples(function: object) -> None:
    def peak(n: int) -> int:
        maps = np.zeros((n, 128, 128), dtype=np.int8)
        tracemalloc.start()
        function(maps, whole(128, 128), (4, 4))  # type: ignore[operator]
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(512) < 1.1 * peak(128) + 512 * 16 * 8 * 3


# Events


def test_any_event_in_a_cell_counts() -> None:
    events = np.array([[0, 0, 0, 1, 0, 0, 0, 0]])
    assert events_on_grid(events, whole(8), (4,)).tolist() == [[0, 1, 0, 0]]
    # A place that two cells share is in both.
    assert events_on_grid(events[:, :6], whole(6), (4,)).tolist() == [[0, 0, 1, 0]]
    assert events_on_grid(np.array([[0, 1, 0]]), whole(3), (2,)).tolist() == [[1, 1]]


def test_events_of_which_too_little_is_known_are_nan() -> None:
    result = events_on_grid(np.array([[0, NAN, NAN, NAN, NAN, NAN, NAN, 1.0]]), whole(8), (4,))
    np.testing.assert_equal(result, [[0, NAN, NAN, 1]])


@pytest.mark.parametrize(("extent", "cells"), [(36, 28), (42, 38), (50, 22), (12, 4)])
def test_an_event_is_seen_in_its_own_cells_only(extent: int, cells: int) -> None:
    """Ends of cells that fall between two places must not reach beyond by rounding."""
    for place in range(extent):
        result = events_on_grid(np.eye(extent)[place : place + 1], whole(extent), (cells,))[0]
        inside = [place * cells < (cell + 1) * extent and cell * extent < (place + 1) * cells for cell in range(cells)]
        assert result.astype(bool).tolist() == inside


# What a grid covers, and other grids


def test_the_covered_part_is_cut_at_whole_places() -> None:
    maps = np.arange(24).reshape(1, 4, 6)
    np.testing.assert_array_equal(crop_maps(maps, ((1.0, 3.0), (0.4, 4.6))), maps[:, 1:3, 0:5])


def test_where_a_grid_reaches_beyond_the_sample_nothing_is_known_and_places_stay() -> None:
    maps = np.arange(24).reshape(1, 4, 6)
    result = crop_maps(maps, ((-2.0, 5.0), (1.0, 7.0)))
    assert result.shape == (1, 7, 6)
    np.testing.assert_array_equal(result[:, 2:6, :5], maps[:, :, 1:])
    assert (result < 0).sum() == 7 * 6 - 4 * 5


def test_tokens_on_another_grid_are_means_over_shared_area() -> None:
    tokens = np.random.default_rng(4).standard_normal((3, 24, 2))
    for shape in ((4, 6), (2, 3), (8, 12), (3, 5)):
        result = resample(tokens, (4, 6), shape)
        for feature in range(2):
            maps = tokens[:, :, feature].reshape(3, 4, 6)
            np.testing.assert_allclose(result[:, :, feature], on_grid(maps, whole(4, 6), shape), atol=1e-12)

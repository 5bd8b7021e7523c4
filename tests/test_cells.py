"""Dense targets on a grid: known answers, and means computed by cutting places into pieces that fit the cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.cells import on_grid

NAN = np.nan


def whole(*extent: int) -> tuple[tuple[float, float], ...]:
    return tuple((0.0, float(n)) for n in extent)


def by_pieces(line: np.ndarray, cells: int) -> np.ndarray:
    """Mean over each of `cells` equal cells of a line, every place cut into as many pieces as needed."""
    each = math.lcm(len(line), cells) // len(line)
    return np.repeat(line, each).reshape(cells, -1).mean(axis=1)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (7, 9), (14, 10)])
def test_a_constant_map_is_constant_on_any_grid(shape: tuple[int, int]) -> None:
    found = on_grid(np.full((2, 7, 9), 0.1), whole(7, 9), shape)
    assert found.shape == (2, shape[0] * shape[1])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 0.1, rtol=1e-12)


def test_a_ramp_gives_the_middle_of_each_cell_in_raster_order() -> None:
    y, x = np.mgrid[0:6, 0:8].astype(float)
    found = on_grid((100 * y + x)[None], whole(6, 8), (3, 4))
    expected = [100 * (2 * row + 0.5) + (2 * column + 0.5) for row in range(3) for column in range(4)]
    np.testing.assert_allclose(found, [expected])


def test_cells_as_large_as_places_give_the_map_back() -> None:
    maps = np.random.default_rng(0).standard_normal((3, 4, 5))
    np.testing.assert_allclose(on_grid(maps, whole(4, 5), (4, 5)), maps.reshape(3, 20))


def test_a_place_shared_by_two_cells_counts_for_both_by_its_share() -> None:
    # Cells of 1.5 places: [a, half of b] and [half of b, c].
    found = on_grid(np.array([[1.0, 10.0, 100.0]]), whole(3), (2,))
    np.testing.assert_allclose(found, [[(1 + 5) / 1.5, (5 + 100) / 1.5]])


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
    found = on_grid(maps, whole(4, 6, 2), (2, 3, 1)).reshape(2, 2, 3, 1)
    for t in range(2):
        for y in range(3):
            cell = maps[:, 2 * t : 2 * t + 2, 2 * y : 2 * y + 2, :]
            np.testing.assert_allclose(found[:, t, y, 0], cell.mean(axis=(1, 2, 3)))


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
    found = on_grid(np.array([known]), whole(4), (1,))
    np.testing.assert_equal(found, [[expected]])


def test_nothing_known_is_nan_without_warning_and_leaves_the_neighbours() -> None:
    with np.errstate(all="raise"):
        found = on_grid(np.array([[NAN, NAN, 1.0, 2.0]]), whole(4), (2,))
    np.testing.assert_equal(found, [[NAN, 1.5]])


def test_the_known_share_counts_area_not_places() -> None:
    # Cells of 2: [half of place 0, 1, half of 2] and [half of 2, 3, half of 4].
    line = [1.0, 2.0, NAN, 4.0, 5.0, 6.0]
    found = on_grid(np.array([line]), ((0.5, 4.5),), (2,))
    np.testing.assert_allclose(found, [[(0.5 * 1 + 2) / 1.5, (4 + 0.5 * 5) / 1.5]])
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
    found = on_grid(maps, whole(4, 4), (2, 2))
    np.testing.assert_equal(found, np.repeat([[1.0], [NAN], [3.0]], 4, axis=1))


def test_integer_maps_are_averaged_without_rounding() -> None:
    found = on_grid(np.array([[1, 2, 255, 254]], dtype=np.uint8), whole(4), (2,))
    np.testing.assert_allclose(found, [[1.5, 254.5]])

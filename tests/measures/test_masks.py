import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.locality import boundary_f, box_iou, box_of, jaccard


def square(top, left, side=10, size=(40, 40)):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def blob(rng, size):
    """A ragged region with holes."""
    noise = rng.normal(size=size)
    for axis in (0, 1):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    return noise > rng.normal()


def edges_by_loop(mask):
    height, width = mask.shape
    edges = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            below, right = min(y + 1, height - 1), min(x + 1, width - 1)
            edges[y, x] = any(mask[y, x] != mask[p] for p in ((y, right), (below, x), (below, right)))
    return edges


def f_by_dilation(prediction, truth, tolerance):
    r = int(np.ceil(tolerance * np.sqrt(prediction.shape[0] ** 2 + prediction.shape[1] ** 2)))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    disk = x**2 + y**2 <= r**2
    a, b = edges_by_loop(prediction), edges_by_loop(truth)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (a & binary_dilation(b, disk)).sum() / a.sum()
    recall = (b & binary_dilation(a, disk)).sum() / b.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_jaccard_of_alike_apart_and_empty_masks():
    assert jaccard(square(5, 5), square(5, 5)) == 1
    assert jaccard(square(5, 5), square(25, 25)) == 0
    empty = np.zeros((4, 4), dtype=bool)
    assert jaccard(empty, empty) == 1
    assert jaccard(empty, square(0, 0, 2, (4, 4))) == 0
    assert jaccard(torch.from_numpy(square(5, 5)), square(5, 10).astype(np.int64)) == pytest.approx(1 / 3)


def test_boundary_tolerance_is_8_pixels_at_480p():
    truth = square(100, 100, 50, (480, 854))
    for moved, expected in ((8, 1.0), (9, 0.5)):
        # The two edges across the movement part, the two along it stay but for the ends.
        f = boundary_f(square(100, 100 + moved, 50, (480, 854)), truth)
        assert f == pytest.approx(expected, abs=0.15) and (f == 1) == (moved == 8)


def test_boundary_of_straight_edges():
    left = np.zeros((20, 40), dtype=bool)
    left[:, :10] = True
    further = np.zeros((20, 40), dtype=bool)
    further[:, :12] = True
    # ceil(.008 x 44.7) = 1 pixel, ceil(.04 x 44.7) = 2.
    assert boundary_f(left, further) == 0
    assert boundary_f(left, further, tolerance=0.04) == 1
    # The image's border is no boundary: all and nothing have none.
    assert boundary_f(np.ones((9, 9), bool), np.zeros((9, 9), bool)) == 1
    assert boundary_f(left, np.zeros_like(left)) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(3, 30), st.sampled_from([0.008, 0.05, 0.12]))
def test_boundary_f_equals_dilation(seed, height, width, tolerance):
    rng = np.random.default_rng(seed)
    a, b = blob(rng, (height, width)), blob(rng, (height, width))
    assert boundary_f(a, b, tolerance=tolerance) == pytest.approx(f_by_dilation(a, b, tolerance), abs=1e-12)
    assert boundary_f(a, b, tolerance=tolerance) == pytest.approx(boundary_f(b, a, tolerance=tolerance), abs=1e-12)
    assert jaccard(a, b) == pytest.approx(jaccard(~a.T == 0, b.T), abs=1e-12)


def test_boxes_count_both_border_pixels_or_edges():
    assert box_of(square(3, 7)).tolist() == [7, 3, 16, 12]
    assert np.isnan(box_of(np.zeros((5, 5)))).all()
    # Offset by half, in edges.
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10), plus_one=False) == pytest.approx(1 / 3)
    # The other rule gives another number.
    assert box_iou((0, 0, 9, 9), (5, 0, 14, 9), plus_one=False) == pytest.approx(36 / 126)
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(66 / 176)
    # One pixel is a box; one edge is none.
    assert box_iou((2, 2, 2, 2), (2, 2, 2, 2)) == 1
    assert box_iou((2, 2, 2, 2), (2, 2, 2, 2), plus_one=False) == 0
    assert box_iou((0, 0, 4, 4), (5, 0, 9, 4)) == 0
    assert box_iou((0, 0, 4, 4), np.full(4, math.nan)) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_box_iou_is_the_jaccard_of_filled_boxes(ends):
    (ax, bx), (ay, by), (cx, dx), (cy, dy) = (sorted(ends[i : i + 2]) for i in range(0, 8, 2))
    a, b = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    a[ay : by + 1, ax : bx + 1] = True
    b[cy : dy + 1, cx : dx + 1] = True
    assert box_iou(box_of(a), box_of(b)) == pytest.approx(jaccard(a, b), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaccard(np.zeros((3, 3)), np.zeros((3, 4))), r"shapes \(3, 3\) and \(3, 4\)"),
        (lambda: jaccard(np.zeros(3), np.zeros(3)), r"prediction has shape \(3,\)"),
        (lambda: jaccard(np.full((3, 3), 2), np.zeros((3, 3))), "more than 0 and 1.*one object at a time"),
        (lambda: boundary_f(np.full((3, 3), -1), np.zeros((3, 3))), "more than 0 and 1"),
        (lambda: boundary_f(np.zeros((3, 3)), np.zeros((3, 3)), tolerance=8), "tolerance is 8"),
        (lambda: box_iou((0, 0, 1), (0, 0, 1, 1)), r"shape \(3,\)"),
        (lambda: box_iou((5, 0, 1, 1), (0, 0, 1, 1)), "ends before it begins"),
    ],
)
def test_bad_input_is_said(call, message):
    with pytest.raises(DiagnosticsError, match=message):
        call()

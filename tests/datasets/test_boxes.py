"""Boxes as a target: what is refused, what a grid covers of them, and those of `shapes` against its masks."""

from __future__ import annotations

import numpy as np
import pytest

import diagnostics as dx
from diagnostics import Dataset, Target
from diagnostics.activations.prepare import dense_targets
from diagnostics.datasets.boxes import AREA, ASIDE, CROWD, HIDDEN, crop_boxes, pad_boxes, there
from diagnostics.datasets.dataset import subset, unprobeable_targets
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

SPLIT = ["train", "train", "val", "test"]


def pictures(boxes: list[object], classes: tuple[str, ...] = ("cup", "hat")) -> Dataset:
    samples = np.zeros((4, 16, 16, 3), np.uint8)
    return Dataset("boxed", "image", samples, list("abcd"), SPLIT, {"boxes": Target("boxes", boxes, classes=classes)})


ONE = [[2, 2, 8, 9, 0]]


@pytest.mark.parametrize(
    ("box", "named"),
    [
        ([2, 2, 2, 9, 0], "no area"),
        ([2, 2, 8, np.inf, 0], "finite"),
        ([2, 2, 8, 9, 2], "class"),
        ([2, 2, 8, 9, 0.5], "class"),
        ([-3, 2, 0, 9, 0], "outside"),
        ([2, 2, 8, 9, 0, 3], "crowd"),
        ([2, 2, 8, 9, 0, 0, 0], "no area"),
    ],
)
def test_what_is_no_box_is_refused(box: list[float], named: str) -> None:
    with refusal("bad-target", "sample 1", named):
        pictures([ONE, [box], ONE, []])


def test_a_class_beyond_what_tokens_can_be_given_is_refused_where_none_is_named() -> None:
    with refusal("bad-target", "sample 1", 32767):
        pictures([ONE, [[2, 2, 8, 9, 40_000]], ONE, []], classes=())


def test_other_shapes_and_samples_are_refused() -> None:
    for rows in ([[1, 2, 3, 4]], [[1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 0]], [["a"] * 5]):
        with refusal("bad-target", "sample 1"):
            pad_boxes([ONE, rows])
    with refusal("bad-target"):
        target = Target("boxes", [ONE] * 3)
        Dataset("series", "series", np.zeros((3, 8)), list("abc"), ["train", "val", "test"], {"boxes": target})


def test_a_box_outside_is_refused_where_samples_must_be_read_to_know() -> None:
    data = pictures([ONE, [[17, 2, 20, 9, 0]], ONE, ONE])
    with refusal("bad-target", "boxed", "sample 1"):
        dense_targets(tiny_image_encoder(), data, tiny_image_encoder().taps)


def test_a_sample_may_have_none_and_a_split_may_not() -> None:
    assert unprobeable_targets(pictures([ONE, [], ONE, ONE])) == {}
    (why,) = unprobeable_targets(pictures([ONE, ONE, [], ONE])).values()
    assert "val" in why
    # A crowd is nothing to be found.
    assert unprobeable_targets(pictures([ONE, ONE, ONE, [[2, 2, 8, 9, 0, 1]]]))


def test_boxes_are_clipped_to_what_is_covered() -> None:
    rows = [
        [0, 0, 8, 4, 0, 0, 32],
        [0, 0, 8, 8, 1, 0, 64],
        [2, 2, 6, 4, 0, 1, 8],
        [0, 6, 8, 8, 0, 0, 16],
        [6, 1, 7, 3, 0, 0, 1],
    ]
    seen = crop_boxes(pad_boxes([rows], [(8, 8)]), lambda extent: ((1.0, 5.0), (0.0, 8.0)))[0]
    np.testing.assert_array_equal(seen[0, :4], [0, 0, 8, 4])
    np.testing.assert_allclose(seen[1], [0, 0, 1, 0.75, 0, 0, 24])
    np.testing.assert_allclose(seen[2], [0, 0, 1, 1, 1, 0, 32])
    np.testing.assert_allclose(seen[3], [0.25, 0.25, 0.75, 0.75, 0, CROWD, 8])
    assert np.isnan(seen[4]).all()
    np.testing.assert_allclose(seen[5, [1, 3, AREA]], [0, 0.5, 1])
    assert seen[5, ASIDE] == 0
    # Of a fifth nobody can be asked.
    narrow = crop_boxes(pad_boxes([rows], [(8, 8)]), lambda extent: ((0.0, 8.0), (6.4, 8.0)))[0]
    assert narrow[1, ASIDE] == HIDDEN
    np.testing.assert_allclose(narrow[1, [0, 2, AREA]], [0, 1, 6.4])


def test_extents_are_those_of_the_samples() -> None:
    given = pad_boxes([ONE, [], ONE, ONE], [(16, 16)] * 4)
    data = pictures([ONE, [], ONE, ONE])
    encoder = tiny_image_encoder()
    found = dense_targets(encoder, data, encoder.taps)["boxes"]["covered"]
    np.testing.assert_array_equal(found, crop_boxes(given, encoder.covers))
    assert there(found).sum(axis=1).tolist() == [1, 0, 1, 1]
    assert data.fingerprint != pictures([ONE, ONE, ONE, ONE]).fingerprint
    assert there(subset(data, 3, 0).targets["boxes"].values).shape == (3, 1)


def test_shapes_gives_the_boxes_of_its_masks() -> None:
    data = dx.build("dataset", "shapes?n=12&size=48")
    boxes, masks = data.targets["boxes"].values, data.targets["masks"].values
    assert there(boxes).sum() > 20
    for rows, mask, count in zip(boxes, masks, data.targets["count"].values, strict=True):
        rows = rows[1:][~np.isnan(rows[1:, 4])]
        assert len(rows) == count
        for x0, y0, x1, y1, *_, area in rows:
            inside = mask[int(y0) : int(y1), int(x0) : int(x1)]
            same = [inside == number for number in np.flatnonzero(np.bincount(mask[mask > 0]) == area)]
            # The whole object lies inside, and reaches all four sides.
            assert any(
                one.sum() == area and all(one[edge].any() and one[:, edge].any() for edge in (0, -1)) for one in same
            )
    assert "boxes" not in dx.build("dataset", "shapes?n=10&size=32&frames=2").targets

"""Detection: COCO's average precision against pycocotools, taps with boxes, classes or neither, and what is left out."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("pycocotools", reason="pycocotools (extra images) is not installed")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diagnostics.activations.contract import shuffle
from diagnostics.datasets.boxes import ASIDE, CLASS, CROWD, crop_boxes, pad_boxes
from diagnostics.measures.apply import measure_all, with_intervals
from diagnostics.measures.probes.average_precision import AREAS, Curves, Found, Matches, match, precision_draws, summary
from diagnostics.measures.probes.detection import DetectionProbe, assign
from tests.support.boxes import SIDE, Tokens, box_target, box_tokens, random_boxes

CLASSES = 4


def by_pycocotools(found: list[Found], truth: list[np.ndarray]) -> COCOeval:
    """Its whole way: annotations and results of all images, evaluated and accumulated."""
    there, said = [], []
    for i, (of, boxes) in enumerate(zip(found, truth, strict=True)):
        size = np.tile(boxes[0, 2:4], 2)
        for row in boxes[1:][~np.isnan(boxes[1:, CLASS])]:
            x0, y0, x1, y1 = row[:4] * size
            there.append(
                {
                    "id": len(there) + 1,
                    "image_id": i,
                    "category_id": int(row[CLASS]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": row[6],
                    "iscrowd": int(row[ASIDE] == CROWD),
                }
            )
        for corners, score, number in zip(of.corners, of.scores, of.classes, strict=True):
            x0, y0, x1, y1 = corners.astype(float) * size
            box = {"image_id": i, "category_id": int(number), "score": float(score)}
            said.append(box | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
    with contextlib.redirect_stdout(io.StringIO()):
        data, images = COCO(), [{"id": i} for i in range(len(truth))]
        data.dataset = {"images": images, "annotations": there, "categories": [{"id": i} for i in range(CLASSES)]}
        data.createIndex()
        results = COCO()
        results.dataset = data.dataset | {"annotations": []}
        results.createIndex()
        evaluation = COCOeval(data, data.loadRes(said) if said else results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def images(n: int, seed: int, *, ties: bool = True) -> tuple[list[Found], list[np.ndarray]]:
    """Images with few boxes or none, small to large, crowds among them, and boxes near them with the right class or not."""
    rng, found, truth = np.random.default_rng(seed), list[Found](), list[np.ndarray]()
    for _ in range(n):
        k = rng.integers(0, 6)
        corners, sides = rng.random((k, 2)) * 90, rng.random((k, 2)) * rng.choice([20, 60, 150]) + 2
        rows = [corners, corners + sides, rng.integers(0, CLASSES, (k, 1)), rng.random((k, 1)) < 0.1]
        boxes = pad_boxes([np.concatenate(rows, axis=1)], [(240, 200)])
        (boxes,) = crop_boxes(boxes, lambda extent: tuple((0.0, float(side)) for side in extent))
        real = boxes[1:][~np.isnan(boxes[1:, CLASS])]
        near = real[rng.integers(0, len(real), rng.integers(0, 30))] if len(real) else np.zeros((0, 7))
        near = near[:, :4] + rng.normal(size=(len(near), 4)) * 0.03, near[:, CLASS]
        first = np.minimum(near[0][:, :2], near[0][:, 2:] - 0.001)
        scores = rng.random(len(first))
        number = np.where(rng.random(len(first)) < 0.7, near[1], rng.integers(0, CLASSES, len(first))).astype(int)
        found.append(
            Found(np.concatenate([first, near[0][:, 2:]], axis=1), scores.round(1) if ties else scores, number)
        )
        truth.append(boxes)
    return found, truth


def nothing_found(found: list[Found]) -> list[Found]:
    return [Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int)) for _ in found]


@pytest.mark.parametrize(
    "case", ["random", "another", "few images", "nothing found", "no box", "all crowd", "one score"]
)
def test_average_precision_is_that_of_pycocotools(case: str) -> None:
    found, truth = images(3 if case == "few images" else 30, len(case))
    truth = [boxes.copy() for boxes in truth]
    if case == "nothing found":
        found = nothing_found(found)
    elif case == "one score":
        found = [replace(of, scores=np.full_like(of.scores, 0.5)) for of in found]
    for boxes in truth:
        if case == "no box":
            boxes[1:] = np.nan
        elif case == "all crowd":
            boxes[1:, ASIDE] = np.where(np.isnan(boxes[1:, CLASS]), np.nan, CROWD)
    matches = [match(of, boxes, CLASSES, len(AREAS)) for of, boxes in zip(found, truth, strict=True)]
    oracle = by_pycocotools(found, truth)
    precision, recall = Curves(matches)(np.ones(len(matches)))
    absent = -1.0
    np.testing.assert_allclose(
        np.nan_to_num(precision, nan=absent), oracle.eval["precision"][..., 0, 2].mean(1), atol=1e-12
    )
    np.testing.assert_allclose(np.nan_to_num(recall, nan=absent), oracle.eval["recall"][..., 0, 2], atol=1e-12)
    names = ("ap_50", "ap_75", "ap_small", "ap_medium", "ap_large")
    told = [np.nan_to_num(summary(matches)[name], nan=absent) for name in (*names, "recall")]
    np.testing.assert_allclose(told, oracle.stats[[1, 2, 3, 4, 5, 8]], atol=1e-12)
    mean = np.nan_to_num(Curves(matches).mean(np.ones(len(matches))), nan=absent)
    assert mean == pytest.approx(oracle.stats[0], abs=1e-12)
    # They test something.
    assert (oracle.stats[0] > 0.05) == (case not in ("nothing found", "no box", "all crowd"))


def test_images_drawn_several_times_count_as_often() -> None:
    found, truth = images(30, 3, ties=False)
    curves = Curves([match(of, boxes, CLASSES, 1) for of, boxes in zip(found, truth, strict=True)])
    for seed in range(4):
        times = np.random.default_rng(seed).multinomial(30, np.full(30, 1 / 30))
        rows = np.repeat(np.arange(30), times)
        oracle = by_pycocotools([found[i] for i in rows], [truth[i] for i in rows])
        assert curves.mean(times.astype(float)) == pytest.approx(oracle.stats[0], abs=1e-12)


def test_a_hidden_box_is_neither_right_nor_wrong_to_find() -> None:
    truth = pad_boxes([[[0, 0, 4, 4, 0], [8, 8, 16, 16, 0]]], [(16, 16)])
    (seen,) = crop_boxes(truth, lambda extent: ((0.0, 16.0), (3.5, 16.0)))
    corners = seen[1:, :4]
    for boxes, scores, wanted in (
        (corners, [0.9, 0.5], 1.0),
        (corners[1:], [0.5], 1.0),
        (corners[1:] * 0.5, [0.5], 0.0),
    ):
        of = Found(boxes, np.array(scores), np.zeros(len(boxes), dtype=int))
        assert Curves([match(of, seen, 1, 1)]).mean(np.ones(1)) == pytest.approx(wanted)


def test_a_token_stands_for_the_smallest_box_near_whose_centre_it_is() -> None:
    rows = [[0, 0, 8, 8, 0, 0], [4, 0, 6, 2, 1, 0], [0, 6, 2, 8, 0, 1]]
    codes, sides = assign(pad_boxes([rows], [(8, 8)]) / np.array([8, 8, 8, 8, 1, 1, 1]), (4, 4))
    expected = [[0, 0, 2, 0], [0, 1, 1, 0], [0, 1, 1, 0], [-1, 0, 0, 0]]
    np.testing.assert_array_equal(codes[0].reshape(4, 4), expected)
    np.testing.assert_allclose(np.exp(sides[0].reshape(4, 4, 4)[1, 1]) * 8, [3, 3, 5, 5], rtol=1e-6)
    np.testing.assert_allclose(np.exp(sides[0].reshape(4, 4, 4)[0, 2]) * 8, [1, 1, 1, 1], rtol=1e-6)


N = 120


def measured(
    taps: dict[str, np.ndarray], boxes: np.ndarray, choose_on: str = "val", permuted: bool = False
) -> xr.Dataset:
    split = np.random.default_rng(1).choice(["train", "val", "test"], len(boxes), p=[0.5, 0.2, 0.3])
    activations, target = Tokens(taps, split.tolist()), box_target(boxes)
    activations.choose_on = choose_on
    targets = {"boxes": target}
    found = measure_all([DetectionProbe()], activations, shuffle(activations, targets) if permuted else targets)
    assert not found.skipped
    return found.results["detection_probe/boxes"]


@pytest.fixture(scope="module")
def boxes() -> np.ndarray:
    return random_boxes(N, 0)


@pytest.fixture(scope="module")
def planted(boxes: np.ndarray) -> xr.Dataset:
    return measured(box_tokens(boxes, 0), boxes, "fit")


def test_a_tap_that_holds_boxes_is_told_from_one_with_classes_and_one_with_neither(planted: xr.Dataset) -> None:
    score = planted["score"].to_series()
    assert score["boxes"] > 0.9 > 0.1 > score["classes"] > score["neither"]
    # Of scenes drawn from three seeds 2.5, 24 and 36 times: places of classes lie near boxes, those of noise do not.
    loose = planted["ap_50"].to_series()
    assert loose["classes"] > max(0.02, 2 * loose["neither"])
    assert planted.attrs["chosen_tap"] == "boxes"
    assert planted.attrs["hidden_gap_low"] > 0.5
    assert (planted["low"] <= planted["score"]).all()
    assert planted["oof_drawn"].sizes["tap"] == 3
    assert float(planted["low"].sel(tap="neither")) <= float(planted["line_chance"][0]) < score["boxes"] / 100


def test_ends_of_an_interval_of_average_precision_are_average_precisions(planted: xr.Dataset) -> None:
    drawn = np.clip(0.5 + 0.5 * np.random.default_rng(0).normal(size=(3, 2001)), 0, 1)
    drawn[:, 0] = 0.02, 0.5, 0.99
    result = with_intervals(planted.assign(drawn=(("tap", "draw"), drawn)))
    assert result["low"].values[0] == 0
    assert (result["low"] >= 0).all()
    assert (result["high"] <= 1).all()


@pytest.mark.parametrize("units", [4, 40])
def test_where_no_box_is_right_the_interval_says_how_little_is_known(units: int) -> None:
    wrong = [Matches(np.ones(1), np.zeros(1, int), *np.zeros((2, 1, 2, 1), np.uint8), np.array([[1]]))] * units
    drawn = precision_draws([Curves(wrong), Curves(wrong), None], np.arange(units).astype(str))
    np.testing.assert_array_equal(drawn[:, 0], [0, 0, np.nan])
    low, high = np.quantile(drawn[:2, 1:], [0.025, 0.975], axis=1)
    assert low.tolist() == [0, 0]
    # That none of so many units has one is as likely.
    np.testing.assert_allclose((1 - high) ** units, 0.025, rtol=0.05)
    # Nor is it known that two such taps are alike.
    low, high = np.quantile(drawn[0, 1:] - drawn[1, 1:], [0.025, 0.975])
    assert low < -1 / units
    assert high > 1 / units


def test_shuffled_boxes_are_found_by_chance(boxes: np.ndarray, planted: xr.Dataset) -> None:
    found = measured(box_tokens(boxes, 0), boxes, permuted=True)
    assert float(found["score"].sel(tap="boxes")) < 0.05
    assert "val_drawn" in found


def test_a_class_that_test_alone_has_is_missed_and_named(boxes: np.ndarray) -> None:
    some = boxes.copy()
    split = np.random.default_rng(1).choice(["train", "val", "test"], N, p=[0.5, 0.2, 0.3])
    rare = (some[:, :, CLASS] == 2) & (split != "test")[:, None]
    some[:, :, CLASS] = np.where(rare, 1, some[:, :, CLASS])
    found = measured({"boxes": box_tokens(some, 0)["boxes"]}, some)
    assert found.attrs["classes_only_in_test"] == "key"
    assert 0.5 < float(found["score"][0]) < 0.7


def test_boxes_too_small_for_the_grid_are_refused_in_a_sentence(boxes: np.ndarray) -> None:
    tiny = boxes.copy()
    tiny[:, 1:, :4] = np.where(np.isnan(tiny[:, 1:, :4]), np.nan, [0.01, 0.01, 0.02, 0.02])
    tokens = Tokens({"one": np.zeros((N, SIDE**2, 3))}, ["train", "val", "test"] * (N // 3))
    found = measure_all([DetectionProbe()], tokens, {"boxes": box_target(tiny)})
    assert "detection_probe/boxes" in found.skipped
    assert not found.failed

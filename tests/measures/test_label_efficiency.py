"""The linear probe with few labels, on taps that take few or many, and the length of an online code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes import labels
from diagnostics.measures.probes.labels import LabelEfficiency, variance_of_mean, wider_by_draws
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.statistics import Losses
from diagnostics.vocabulary import ChooseOn, Kind
from tests.support.refusals import refusal

N = 300
SPLIT = np.resize(["train", "train", "train", "val", "test"], N).tolist()


def planted(kind: Kind, choose_on: ChooseOn = "fit", classes: int = 3) -> tuple[Arrays, StoredTarget]:
    """A tap that holds the target in one feature of two, one that hides it in 60 features, and one of noise."""
    rng = np.random.default_rng(0)
    values: Any = rng.integers(classes, size=N) if kind == "label" else rng.standard_normal(N)
    signal = np.eye(classes)[values] if kind == "label" else values[:, None]
    easy = np.concatenate([2 * signal, rng.standard_normal((N, 1))], axis=1) + 0.5 * rng.standard_normal(
        (N, signal.shape[1] + 1)
    )
    hard = 4 * signal @ rng.standard_normal((signal.shape[1], 60)) / 60**0.5 + rng.standard_normal((N, 60))
    activations = Arrays({"easy": easy, "hard": hard, "noise": rng.standard_normal((N, 4))}, SPLIT)
    activations.choose_on = choose_on
    return activations, StoredTarget("y", kind, values)


@pytest.fixture(scope="module", params=[("label", "fit"), ("value", "val")], ids=["label", "value"])
def found(request: pytest.FixtureRequest) -> tuple[xr.Dataset, xr.Dataset]:
    activations, target = planted(*request.param)
    return LabelEfficiency().compute(activations, target, 0), LinearProbe().compute(activations, target, 0)


def test_a_curve_ends_at_the_score_of_the_probe_and_its_area_is_the_mean(found: tuple[xr.Dataset, xr.Dataset]) -> None:
    data, whole = found
    assert data["labels"].values.tolist() == [16, 32, 64, 128, 240]
    score = 1 - whole["loss"].sum("unit") / whole["reference_loss"].sum("unit")
    np.testing.assert_allclose(data["curve"].isel(labels=-1), score)
    np.testing.assert_allclose(data["score"], data["curve"].mean("labels"))
    assert (data["low"] <= data["score"]).all() and (data["score"] <= data["high"]).all()


def test_intervals_are_over_groups_as_those_of_the_probe() -> None:
    activations, target = planted("value", "val")
    # Four samples of a split make a group.
    ranks = np.array([SPLIT[:i].count(split) for i, split in enumerate(SPLIT)])
    activations.groups = np.array(
        [f"{split}{rank // 4}" for split, rank in zip(SPLIT, ranks, strict=True)], dtype=object
    )
    data = LabelEfficiency().compute(activations, target, 0)
    whole = LinearProbe().compute(activations, target, 0)
    losses = Losses(whole["loss"].values, whole["reference_loss"].values)
    _, low, high = losses.intervals(len({group for group in activations.groups if not group.startswith("test")}), 0)
    last = data.isel(labels=-1)
    np.testing.assert_allclose(last["curve_low"][:2], low[:2])
    np.testing.assert_allclose(last["curve_high"][:2], high[:2])
    # Of noise, which a fit may read by chance, further out.
    assert last["curve_low"][2] < low[2] and last["curve_high"][2] > high[2]


def test_few_labels_choose_the_tap_that_takes_few(found: tuple[xr.Dataset, xr.Dataset]) -> None:
    data, _ = found
    curve = data["curve"].sel(labels=16)
    assert float(curve.sel(tap="easy")) > float(curve.sel(tap="hard")) > float(curve.sel(tap="noise")) - 0.2
    np.testing.assert_allclose(data["chosen"].sum("tap"), 1)
    assert float(data["chosen"].sel(labels=16, tap="easy")) > 0.5


def test_a_code_is_short_where_classes_are_read_and_no_shorter_than_plain_for_noise() -> None:
    activations, target = planted("label")
    data = LabelEfficiency().compute(activations, target, 0)
    length, plain = data["code_length"], data.attrs["uniform_code"]
    assert plain == pytest.approx(240 * np.log2(3))
    assert float(length.sel(tap="easy")) < 0.5 * plain < 0.9 * plain < float(length.sel(tap="noise"))
    assert "code_length" not in LabelEfficiency().compute(*planted("value"), 0)


@pytest.mark.parametrize("classes", [8, 10])  # of eight, 16 labels would be two of each and none of val
def test_parts_that_cannot_hold_every_class_twice_are_left_out(classes: int) -> None:
    activations, target = planted("label", classes=classes)
    data = LabelEfficiency().compute(activations, target, 0)
    assert data["labels"].values[0] == 32


def test_the_error_for_too_few_labels_names_as_many_as_are_needed() -> None:
    activations, _ = planted("label")
    split = np.where(np.arange(N) < 40, SPLIT, "test")
    with refusal("too-few", "more than 32", "are 32"):
        LabelEfficiency().compute(
            activations.with_other(split=split), StoredTarget("y", "label", np.arange(N) // 5 % 8), 0
        )


def test_too_few_labels_are_refused_in_a_sentence() -> None:
    activations, target = planted("label")
    split = np.array(SPLIT, dtype=object)
    split[20:] = "test"
    with refusal("too-few", 16, "y"):
        LabelEfficiency().compute(activations.with_other(split=split), target, 0)


@pytest.mark.filterwarnings("error")
def test_one_label_of_val_chooses_without_a_warning() -> None:
    activations, target = planted("label", "val")
    split = np.resize([*["train"] * 28, "val", "test"], N).astype(object)
    few = activations.with_other(split=np.where(np.arange(N) < 60, split, "test"))
    assert np.isfinite(LabelEfficiency().compute(few, target, 0)["score"]).all()


def test_the_variance_between_draws_of_one_pool_gives_that_of_their_mean() -> None:
    rng = np.random.default_rng(0)
    pools = rng.standard_normal((4000, 40))
    # The mean of ten of forty values, in three draws of each pool.
    scores = np.stack([rng.permuted(pools, axis=1)[:, :10].mean(axis=1) for _ in range(3)])
    assert variance_of_mean(list(scores), 0.25).mean() == pytest.approx(scores.mean(axis=0).var(), rel=0.1)


def test_a_slope_that_is_none_adds_the_variance_of_one_parameter() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 20000, 100))
    slope = (x * y).sum(axis=1) / (x * x).sum(axis=1)
    # On many other samples of variance 1 it loses its square.
    assert (slope**2).var() == pytest.approx(labels.variance_of_one_parameter(np.zeros(1), 100)[0], rel=0.1)


def test_a_part_that_draws_read_otherwise_has_a_wider_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    activations, target = planted("value", "val")
    widths: list[np.ndarray] = []
    for variance in (lambda scores, shared: 0 * scores[0], lambda scores, shared: 0 * scores[0] + 1):
        monkeypatch.setattr(labels, "variance_of_mean", variance)
        data = LabelEfficiency().compute(activations, target, 0)
        widths.append((data["curve_high"] - data["curve_low"]).values)
    # Of more than half of the labels there is one draw.
    assert (widths[1][:3] > 1.2 * widths[0][:3]).any(axis=1).all() and (widths[1][3:] == widths[0][3:]).all()


def test_curves_hold_the_truth_where_a_tap_holds_the_target_and_where_it_holds_nothing() -> None:
    rng, draws, few, units = np.random.default_rng(2026), 40, 30, 150
    split = np.r_[np.resize(["train", "train", "train", "val"], units - few), ["test"] * (few + 300)]
    ends, truths = list[np.ndarray](), list[np.ndarray]()
    for _ in range(draws):
        values = rng.standard_normal(len(split))
        held = rng.standard_normal((2, len(split), 6))
        held[0, :, :2] += values[:, None]
        activations = Arrays({"held": held[0], "noise": held[1]}, split.tolist())
        activations.choose_on = "fit"
        found: list[xr.Dataset] = []
        for kept in (np.arange(len(split)) < units, (split != "test") | (np.arange(len(split)) >= units)):
            there = activations.with_other(split=np.where(kept, split, ""))
            found.append(LabelEfficiency().compute(there, StoredTarget("y", "value", values), 0))
        ends.append(np.stack([found[0]["curve_low"], found[0]["curve_high"]]))
        truths.append(found[1]["curve"].values)
    low, high = np.stack(ends, axis=1)
    truth = np.mean(truths, axis=0)
    held_truth = ((low <= truth) & (truth <= high)).mean(axis=0)
    assert (held_truth > 0.8).all(), held_truth.round(3)
    # Nor is it held for width alone: of the tap that holds it, beside what scores differ by from draw to draw.
    widths = np.median(high - low, axis=0)[:, 0] / np.std([(a + b) / 2 for a, b in ends], axis=0)[:, 0]
    assert (widths < 1.4 * 2 * 1.96).all(), widths


def test_what_two_draws_say_has_students_quantile_of_one_degree_and_many_units_alone_their_own() -> None:
    one, small = np.ones(1), np.full(1, 1e-6)
    few, many = wider_by_draws(small, one, 1000, 2), wider_by_draws(one, small, 1000, 2)
    assert few * stats.t.ppf(0.975, 999) == pytest.approx(stats.t.ppf(0.975, 1), rel=1e-3)
    assert many == pytest.approx(1)


def test_parts_of_few_groups_are_left_out() -> None:
    activations, target = planted("value", "val")
    order = np.argsort(SPLIT, kind="stable")
    activations.groups = np.empty(N, dtype=object)
    activations.groups[order] = [f"{SPLIT[row]}{i // 4}" for i, row in enumerate(order)]
    # Sixteen labels would be of four or five groups.
    assert LabelEfficiency().compute(activations, target, 0)["labels"].values.tolist()[0] == 32

"""Several taps side by side, on planted taps: half of the truth in each of two, or all of it in one."""

from __future__ import annotations

import numpy as np
import pytest

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.several_taps import TapSet, choose_set
from diagnostics.measures.statistics import Losses
from diagnostics.vocabulary import Kind

N = 600
SPLIT = np.resize(["train", "train", "train", "val", "test"], N).tolist()


def planted(kind: Kind, halves: bool, taps: int = 6, seed: int = 0) -> tuple[Arrays, StoredTarget]:
    """Taps of 8 features; of a target that is the sum (or its sign) of two numbers taps 1 and 3 hold one each, or tap 1 both."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((N, 2))
    values = truth.sum(axis=1)
    held = {f"t{i}": rng.standard_normal((N, 8)) for i in range(taps)}
    # Over several features, so that the truth is among a tap's leading components.
    held["t1"][:, :4] += 3 * truth[:, :1]
    held["t3" if halves else "t1"][:, 4:] += 3 * truth[:, 1:]
    activations = Arrays(held, SPLIT)
    activations.choose_on = "fit"
    return activations, StoredTarget("y", kind, values if kind == "value" else (values > 0).astype(int))


@pytest.mark.parametrize("kind", ["value", "label"])
def test_two_taps_with_half_of_the_truth_each_are_chosen_and_shown_to_gain(kind: Kind) -> None:
    activations, target = planted(kind, halves=True)
    found = TapSet().compute(activations, target, 0)
    at = found["set"].values.tolist().index("greedy")
    assert found["member"].values[at][[1, 3]].all()
    assert float(found["set_gain"][at]) > 0.1
    assert found.attrs["chosen_set"] != "single" and found.attrs["gain_low"] > 0
    # The same at the width of one tap: components of both are in it.
    alike = found.sel(set="greedy.narrow")
    assert int(alike["set_width"]) == 8 and float(alike["set_gain"]) > 0.1


def test_one_tap_with_all_of_the_truth_leaves_no_gain_to_any_set() -> None:
    activations, target = planted("value", halves=False)
    found = TapSet().compute(activations, target, 0)
    assert (found.attrs["single"], found.attrs["chosen_set"]) == ("t1", "single")
    assert "gain" not in found.attrs
    holds = found["member"].values[:, 1].astype(bool) & (found["set_width"].values > 8)
    assert holds.sum() >= 2
    assert (found["set_gain"].values[holds] < 0.02).all() and (found["set_gain_low"].values <= 0).all()


def test_the_single_tap_is_read_as_the_linear_probe_reads_it() -> None:
    activations, target = planted("value", halves=True)
    probes = measure_all([LinearProbe(), TapSet()], activations, {"y": target}).results
    for end in ("score", "low", "high"):
        np.testing.assert_allclose(probes["tap_set/y"][end], probes["linear_probe/y"][end])
    assert probes["tap_set/y"].attrs["single"] == probes["linear_probe/y"].attrs["chosen_tap"]


def test_a_weighted_sum_gives_its_weight_to_the_taps_that_hold_the_target() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(N)
    taps = {f"t{i}": rng.standard_normal((N, 8)) for i in range(4)}
    for name in ("t1", "t2"):
        taps[name][:, 0] += values
    found = TapSet().compute(Arrays(taps, SPLIT), StoredTarget("y", "value", values), 0)
    assert float(found["set_gain"].sel(set="weighted_sum")) > 0.05


def test_taps_of_unequal_width_have_no_weighted_sum_and_the_result_says_why() -> None:
    activations, target = planted("value", halves=True)
    activations.values["t0"] = activations.values["t0"][:, :5]
    found = TapSet().compute(activations, target, 0)
    assert "weighted_sum" not in found["set"].values and "weighted_sum" in found.attrs["reason"]


def test_one_tap_is_left_out_with_its_reason() -> None:
    activations, target = planted("value", halves=False)
    alone = activations.with_other(taps=activations.taps[-1:])
    assert measure_all([TapSet()], alone, {"y": target}).skipped.keys() == {"tap_set/y"}
    assert "--taps" in TapSet().compute(alone, target, 0).attrs["reason"]


def test_the_best_of_many_sets_is_rarely_said_to_gain_where_none_does() -> None:
    rng, said = np.random.default_rng(0), 0
    for _ in range(150):
        hard = rng.standard_normal((1, 160))
        lost = (hard + rng.standard_normal((13, 160)) > 1.2).astype(float)
        fit, test = (Losses(x, np.ones_like(x), counts=True) for x in (lost[:, :80], lost[:, 80:]))
        chosen = choose_set(fit, 12, fit.at(range(12)))
        if chosen is not None:
            gain = test.scores[chosen] - test.scores[12]
            error = (test.loss[12] - test.loss[chosen]).std(ddof=1) / np.sqrt(80)
            said += gain > 1.96 * error
    assert said / 150 < 0.05

"""Attention over taps: gains where a sample says which tap to read, and none where one tap has it all."""

from __future__ import annotations

import numpy as np
import pytest

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.tap_attention import TapAttention, _tap_that_tells
from diagnostics.vocabulary import Kind

N = 240
SPLIT = np.resize(["train", "train", "train", "val", "test"], N).tolist()


def test_attention_gains_where_each_sample_says_which_tap_to_read() -> None:
    found = _tap_that_tells()
    assert found["set"].values.tolist() == ["attention"]
    assert (found.attrs["chosen_set"], found["member"].values.all()) == ("attention", True)
    assert found.attrs["gain_low"] > 0 and float(found["set_gain"][0]) > 0.1


@pytest.mark.parametrize(("kind", "choose_on"), [("value", "fit"), ("label", "val")])
def test_one_tap_with_all_of_the_truth_leaves_no_gain(kind: Kind, choose_on: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(N)
    taps = {f"t{i}": rng.standard_normal((N, 3 + i)) for i in range(3)}  # of unequal width
    taps["t1"][:, 0] = 3 * values
    activations = Arrays(taps, SPLIT)
    activations.choose_on = choose_on
    target = StoredTarget("y", kind, values if kind == "value" else (values > 0).astype(int))
    results = measure_all([TapAttention()], activations, {"y": target}).results["tap_attention/y"]
    assert (results.attrs["single"], results.attrs["chosen_set"]) == ("t1", "single")
    assert float(results["set_gain_low"][0]) <= 0
    assert (int(results["set_width"][0]), results["unit"].size) == (5, N // 5)

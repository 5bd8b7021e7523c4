"""Statistics of attention: published and closed-form values, invariances, and the measures over recorded attention."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.encoders.attention import statistics
from diagnostics.encoders.encoder import Captured
from diagnostics.measures.locality import (
    attention_distance,
    attention_entropy,
    global_token_mass,
    heads,
    uniform_distance,
)
from diagnostics.measures.locality.heads import AttentionDistance, AttentionEntropy, GlobalTokenMass
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def places(grid: tuple[int, ...]) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, grid))), dtype=float)


def direct(attention: np.ndarray, grid: tuple[int, ...], cell: Any = 1.0) -> float:
    """One head's distance, written out."""
    where = places(grid) * cell
    rows = []
    for q, row in enumerate(attention):
        if row.sum() > 0:
            rows.append(sum(a * math.dist(where[q], where[k]) for k, a in enumerate(row)) / row.sum())
    return float(np.mean(rows))


def random_attention(*shape: int, seed: int = 0) -> np.ndarray:
    scores = np.exp(2 * np.random.default_rng(seed).standard_normal(shape))
    return scores / scores.sum(-1, keepdims=True)


@pytest.mark.parametrize(("grid", "cell"), [((14, 14), 16), ((7, 5), (32.0, 14.0)), ((512,), 1)])
def test_uniform_attention_has_the_distance_counted_from_offsets(grid: tuple[int, ...], cell: Any) -> None:
    tokens = math.prod(grid)
    uniform = np.full((1, tokens, tokens), 1 / tokens)
    expected = pytest.approx(uniform_distance(grid, cell), abs=1e-9)
    assert attention_distance(uniform, grid, cell=cell)[0] == expected
    # A class token with two fifths of the attention, dropped, changes nothing.
    assert attention_distance(0.6 * uniform, grid, cell=cell)[0] == expected


@pytest.mark.parametrize(
    ("grid", "cell"), [((5,), 0.25), ((3, 4), (2.0, 1.0)), ((2, 3, 2), (4.0, 1.0, 1.0)), ((1, 2), 3)]
)
def test_distance_is_its_definition(grid: tuple[int, ...], cell: Any) -> None:
    tokens = math.prod(grid)
    attention = random_attention(2, 3, tokens, tokens)
    attention[1, 2, 0] = 0  # a query without attention is left out
    result = attention_distance(attention, grid, cell=cell)
    assert result.shape == (2, 3)
    for sample, head in itertools.product(range(2), range(3)):
        assert result[sample, head] == pytest.approx(direct(attention[sample, head], grid, np.array(cell)), abs=1e-12)
    assert uniform_distance(grid, cell) == pytest.approx(direct(np.ones((tokens, tokens)), grid, np.array(cell)))


def test_entropy() -> None:
    attention = random_attention(2, 5, 7)
    expected = -(attention * np.log(attention)).sum(-1).mean(-1)
    np.testing.assert_allclose(attention_entropy(attention), expected, rtol=1e-12)
    np.testing.assert_allclose(attention_entropy(0.3 * attention), expected, rtol=1e-12)


def test_global_mass() -> None:
    attention = random_attention(3, 2, 8, 8)
    result = global_token_mass(attention, 3)
    np.testing.assert_allclose(result.prefix, attention[:, :, 3:, :3].sum(-1).mean(-1), rtol=1e-12)
    np.testing.assert_allclose(result.top_key, attention[:, :, 3:, 3:].mean(-2).max(-1), rtol=1e-12)
    assert global_token_mass(np.full((1, 197, 197), 1 / 197), 1).top_key[0] == pytest.approx(1 / 197)
    sink = np.zeros((1, 6, 6))
    sink[0, :, 4] = 1
    assert global_token_mass(sink, 0).top_key[0] == 1
    # Each to its own: nothing is global.
    assert global_token_mass(np.eye(6)[None], 0).top_key[0] == pytest.approx(1 / 6)
    assert global_token_mass(sink, 0).prefix[0] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_what_changes_nothing_and_what_does(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    attention = random_attention(2, 3, 12, 12, seed=seed)
    distance, entropy = attention_distance(attention, (3, 4)), attention_entropy(attention)
    mass = attention * rng.uniform(0.1, 1, (2, 3, 12, 1))  # what a row lost to prefix tokens
    np.testing.assert_allclose(attention_distance(mass, (3, 4)), distance, rtol=1e-9)
    np.testing.assert_allclose(attention_entropy(mass), entropy, rtol=1e-9)
    np.testing.assert_allclose(attention_distance(attention, (3, 4), cell=scale), scale * distance, rtol=1e-9)
    flip = np.arange(12)[::-1]  # the grid turned round
    np.testing.assert_allclose(attention_distance(attention[..., flip, :][..., flip], (3, 4)), distance, rtol=1e-9)
    order = rng.permutation(3)
    np.testing.assert_allclose(attention_distance(attention[:, order], (3, 4)), distance[:, order], rtol=1e-12)
    # A scrambled grid keeps the entropy.
    scrambled = rng.permutation(12)
    mixed = attention[..., scrambled, :][..., scrambled]
    np.testing.assert_allclose(attention_entropy(mixed), entropy, rtol=1e-9)


def test_a_scrambled_grid_loses_the_distance() -> None:
    neighbour = np.roll(np.eye(144), 1, axis=1)
    scrambled = np.random.default_rng(0).permutation(144)
    mixed = neighbour[scrambled][:, scrambled]
    before, after = (attention_distance(x[None], (12, 12))[0] for x in (neighbour, mixed))
    assert before < 2.1
    assert after == pytest.approx(uniform_distance((12, 12)), rel=0.1)


@pytest.mark.parametrize(
    "as_given", [np.asarray, torch.from_numpy, lambda x: torch.from_numpy(x).float(), np.ndarray.tolist]
)
def test_any_array_and_the_device_of_the_input(as_given: Any) -> None:
    attention = random_attention(3, 6, 6)
    before = attention.copy()
    with torch.device("meta"):  # a tensor made without the input's device would hold nothing
        distance = attention_distance(as_given(attention), (2, 3))
        entropy = attention_entropy(as_given(attention))
        mass = global_token_mass(as_given(attention), 2)
    for result, plain in (
        (distance, attention_distance(before, (2, 3))),
        (entropy, attention_entropy(before)),
        (mass.prefix, global_token_mass(before, 2).prefix),
    ):
        np.testing.assert_allclose(result, plain, rtol=1e-6)
    assert np.array_equal(attention, before)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = random_attention(2, 2, 30, 30)
    whole = attention_distance(attention, (5, 6)), attention_entropy(attention)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 8 * 2 * 2 * 30 * 7)
    np.testing.assert_allclose((attention_distance(attention, (5, 6)), attention_entropy(attention)), whole, rtol=1e-12)


def test_no_value_is_nan_and_bad_input_is_said() -> None:
    empty = np.zeros((2, 4, 4))
    empty[1] = 0.25
    for result in (
        attention_distance(empty, (2, 2)),
        attention_entropy(empty),
        global_token_mass(empty, 1).prefix,
        global_token_mass(empty, 1).top_key,
    ):
        assert np.isnan(result[0]) and np.isfinite(result[1])
    with refusal("bad-shape", "(1, 5, 5)", "4"):
        attention_distance(np.full((1, 5, 5), 0.2), (2, 2))
    with refusal("bad-shape"):
        attention_distance(np.full((1, 1, 1), 1.0), (1, 1, 1, 1))
    with refusal("bad-shape", "(4, 4)"):
        attention_entropy(np.full((4, 4), 0.25))
    for bad in (-0.1, np.nan, np.inf):
        wrong = np.full((1, 4, 4), 0.25)
        wrong[0, 1, 1] = bad
        with refusal("bad-value"):
            attention_entropy(wrong)
    for cell in (0.0, -1, (1.0,), (1.0, np.inf)):
        with refusal("bad-value"):
            attention_distance(np.full((1, 4, 4), 0.25), (2, 2), cell=cell)
    with refusal("bad-shape", "4"):
        global_token_mass(np.full((1, 4, 4), 0.25), 4)


def recorded(distance: Any, seed: int = 0, n: int = 12) -> np.ndarray:
    """[sample, head, statistic] with these distances a head, and noise."""
    rng = np.random.default_rng(seed)
    base = np.zeros((n, len(distance), len(heads.STATISTICS)))
    base[..., 0] = distance
    base[..., 1], base[..., 2], base[..., 3], base[..., 4] = 1.5, 0.5, 0.25, 0.125
    return (base + 0.01 * rng.standard_normal(base.shape)).astype(np.float32)


def activations(observed: Any, prefix: int = 1, **options: Any) -> MemoryActivations:
    tokens = np.zeros((12, 9 + prefix, 2))
    return MemoryActivations(
        {"embed": tokens, "a": tokens, "b": tokens},
        dict.fromkeys(("embed", "a", "b"), (3, 3)),
        prefix=prefix,
        observed={"attention": observed},
        **options,
    )


def test_the_measure_reads_what_was_recorded() -> None:
    a, b = recorded([1.0, 2.0]), recorded([0.5, 1.0, 3.0], 1)
    result = AttentionDistance().compute(
        activations(Captured({"a": a, "b": b}, {"embed": "read before a module"})), None, 3
    )
    np.testing.assert_allclose(result["score"].values, [np.nan, a[..., 0].mean(), b[..., 0].mean()], rtol=1e-6)
    by_head = result["by_head"].transpose("tap", "head").values
    np.testing.assert_allclose(by_head[1], [*a[..., 0].mean(0), np.nan], rtol=1e-6)
    np.testing.assert_allclose(by_head[2], b[..., 0].mean(0), rtol=1e-6)
    assert np.isnan(by_head[0]).all()
    np.testing.assert_allclose(result["line_uniform"].values[1:], uniform_distance((3, 3)))
    np.testing.assert_array_equal(result["line_identity"].values, [np.nan, 0, 0])
    assert (result["low"] < result["score"]).values[1:].all() and (result["score"] < result["high"]).values[1:].all()
    assert result.attrs["reason"] == "embed: read before a module"
    assert (result.attrs["n"], result.attrs["seed"], AttentionDistance.unit) == (12, 3, "cells of the tap's grid")


def test_entropy_and_global_mass_read_theirs() -> None:
    seen = {"a": recorded([1.0, 2.0])}
    entropy = AttentionEntropy().compute(activations(seen), None, 0)
    assert entropy["score"].values[1] == pytest.approx(1.5, abs=0.01)
    assert entropy["normalised_entropy"].values[1] == pytest.approx(0.5, abs=0.01)
    assert entropy["line_uniform"].values[1] == pytest.approx(math.log(9))
    mass = GlobalTokenMass().compute(activations(seen), None, 0)
    assert mass["score"].values[1] == pytest.approx(0.25, abs=0.01)
    assert mass["line_uniform"].values[1] == pytest.approx(1 / 10)
    assert mass["top_key"].values[1] == pytest.approx(0.125, abs=0.01)
    without = GlobalTokenMass().compute(activations(seen, prefix=0), None, 0)
    assert np.isnan(without["score"].values).all()
    assert "a: no prefix tokens" in without.attrs["reason"]
    assert without["top_key"].values[1] == pytest.approx(0.125, abs=0.01)


def test_the_interval_is_over_groups() -> None:
    rng = np.random.default_rng(0)
    values = recorded([1.0])
    values[..., 0] += np.repeat(rng.standard_normal(4), 3)[:, None]
    single = AttentionDistance().compute(activations({"a": values}), None, 0)
    grouped = AttentionDistance().compute(
        activations({"a": values}, groups=np.array([f"g{i // 3}" for i in range(12)])), None, 0
    )
    width = [float(result["high"][1] - result["low"][1]) for result in (single, grouped)]
    assert width[1] > 1.3 * width[0]


def test_without_attention_the_measure_says_why() -> None:
    with refusal("not-measured", "No attention"):
        AttentionDistance().compute(MemoryActivations({"a": np.zeros((5, 4, 2))}), None, 0)


def test_a_head_that_never_looks_at_the_grid_is_told() -> None:
    a = recorded([1.0, 2.0])
    a[:5, 1, 0] = np.nan
    result = AttentionDistance().compute(activations({"a": a, "b": recorded([1.0])}), None, 0)
    assert "a: 5 of 12 samples have a head that does not look at the grid" in result.attrs["reason"]
    assert "b:" not in result.attrs["reason"]

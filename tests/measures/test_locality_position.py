import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from diagnostics.measures.apply import measure_all
from diagnostics.measures.locality.single_tokens import MOST_SAMPLES, Position, position_probe
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.runs.results.profile import Profile
from tests.support.memory import MemoryActivations, thirds
from tests.support.refusals import refusal


def coordinates(grid):
    return np.indices(grid).reshape(len(grid), -1).T.astype(float)


def sinusoidal(grid, frequencies=16):
    """The code of transformers, sines and cosines of each coordinate, [token, feature]."""
    rates = 100.0 ** -(np.arange(frequencies) / frequencies)
    angles = coordinates(grid)[:, :, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=2).reshape(len(angles), -1)


@pytest.mark.parametrize("grid", [(40,), (14, 14), (3, 5, 4), (1, 12)])
def test_a_sinusoidal_code_tells_the_place(grid):
    code = sinusoidal(grid)
    result = position_probe(np.stack([code] * 10), grid, thirds(10))
    assert result.r2 == pytest.approx(1, abs=2e-4)
    assert result.error < 0.1
    away = coordinates(grid) - coordinates(grid).mean(axis=0)
    assert result.error_of_mean == pytest.approx(np.linalg.norm(away, axis=1).mean(), rel=1e-9)
    assert result.r2_by_axis[-1] == pytest.approx(1, abs=2e-4)
    assert np.isnan(result.r2_by_axis[0]) == (grid[0] == 1)


def test_noise_is_no_worse_than_the_mean_place_with_the_whole_grid_of_penalties():
    split = np.repeat(["train", "val", "test"], [16, 4, 100])
    tokens = np.random.default_rng(0).normal(size=(120, 10, 100))
    assert position_probe(tokens, (10,), split).r2 == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("grid", [(12,), (4, 5), (2, 3, 3)])
def test_equals_sklearn(grid):
    rng = np.random.default_rng(0)
    places = coordinates(grid)
    tokens = places @ rng.normal(size=(len(grid), 6)) + 3 * rng.normal(size=(20, len(places), 6)) + 5
    split = thirds(20)
    rows = {name: split == name for name in ("train", "val", "test")}

    def fitted(which, penalty):
        x, target = tokens[which].reshape(-1, 6), np.tile(places, (which.sum(), 1))
        scale = StandardScaler().fit(x)
        return scale, Ridge(alpha=len(x) * penalty).fit(scale.transform(x), target), target.mean(axis=0)

    def read(which, scale, model, mean):
        target = np.tile(places, (which.sum(), 1))
        away = target - model.predict(scale.transform(tokens[which].reshape(-1, 6))).reshape(target.shape)
        return 1 - (away**2).sum(axis=0) / ((target - mean) ** 2).sum(axis=0), away

    on_val = [read(rows["val"], *fitted(rows["train"], penalty))[0].mean() for penalty in PENALTIES]
    best = PENALTIES[int(np.argmax(on_val))]
    by_axis, away = read(rows["test"], *fitted(rows["train"] | rows["val"], best))
    result = position_probe(tokens, grid, split)
    assert result.penalty == best
    np.testing.assert_allclose(result.r2_by_axis, by_axis, atol=1e-9)
    assert result.r2 == pytest.approx(by_axis.mean(), abs=1e-9)
    assert result.error == pytest.approx(np.linalg.norm(away, axis=1).mean(), abs=1e-9)


def test_what_tells_places_in_one_sample_only_is_not_read():
    """Each sample has a code of its own; a split by token would read it, since the sample can be recognised."""
    rng = np.random.default_rng(0)
    places = coordinates((12,)) - 5.5
    own = rng.normal(size=(200, 1, 60))
    # A name that a probe could know the sample by, and what the sample's own code says.
    named = np.eye(200)[:, None] * (places * (own**2).sum(axis=2, keepdims=True))
    tokens = np.concatenate([places * own, named], axis=2)
    assert position_probe(tokens, (12,), thirds(200)).r2 < 0.1
    flat, target = tokens.reshape(-1, 260), np.tile(places[:, 0], 200)
    order = rng.permutation(len(flat))
    leaky = Ridge(alpha=1).fit(flat[order[:1200]], target[order[:1200]])
    assert leaky.score(flat[order[1200:]], target[order[1200:]]) > 0.9


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_rescaled_features_and_other_origins_change_nothing_and_scrambled_places_all(seed, scale):
    rng = np.random.default_rng(seed)
    code = sinusoidal((4, 5), 4)
    tokens = code + 0.3 * rng.normal(size=(15, *code.shape))
    result = position_probe(tokens, (4, 5), thirds(15))
    order = rng.permutation(tokens.shape[2])
    other = position_probe(tokens[:, :, order] * scale * rng.uniform(0.5, 2, size=16) + 100, (4, 5), thirds(15))
    assert other.r2 == pytest.approx(result.r2, abs=1e-6)
    assert result.r2 > 0.5
    # Scrambled in every sample anew; scrambled alike in all, each place could be learnt by heart.
    scrambled = np.stack([sample[rng.permutation(20)] for sample in tokens])
    assert position_probe(scrambled, (4, 5), thirds(15)).r2 < 0.15


def test_bad_input_is_said_and_one_token_has_no_place():
    tokens = np.random.default_rng(0).normal(size=(10, 6, 2))
    with refusal("bad-shape", "(10, 6, 2)", "(3,)"):
        position_probe(tokens, (6,), ["train", "val", "test"])
    with refusal("bad-shape", "(6, 2)", "(6,)"):
        position_probe(tokens[0], (6,), ["train"] * 6)
    with refusal("bad-splits", "test, train", "train, val, test"):
        position_probe(tokens, (6,), ["train", "test"] * 5)
    with refusal("bad-value"):
        position_probe(tokens, (6,), thirds(10), penalties=(0,))
    with refusal("bad-shape", "(7,)"):
        position_probe(tokens, (7,), thirds(10))
    with refusal("not-finite"):
        position_probe(np.where(np.arange(2), tokens, np.nan), (6,), thirds(10))
    assert np.isnan(position_probe(tokens[:, :1], (1,), thirds(10)).r2)


def test_constant_features_predict_the_mean_place():
    result = position_probe(np.full((10, 6, 2), 0.1), (6,), thirds(10))
    assert result.r2 == pytest.approx(0, abs=1e-12)
    assert result.error == pytest.approx(result.error_of_mean, abs=1e-12)


def test_torch_or_numpy_and_nothing_is_changed():
    tokens = np.random.default_rng(0).normal(size=(10, 6, 2)).astype(np.float32)
    kept = tokens.copy()
    result = position_probe(tokens, (6,), thirds(10))
    with torch.device("meta"):
        other = position_probe(torch.from_numpy(tokens).requires_grad_(), (6,), thirds(10))
    assert (result.r2, result.error, result.penalty) == (other.r2, other.error, other.penalty)
    assert isinstance(other.r2, float)
    np.testing.assert_array_equal(tokens, kept)


def taps(n=60, grid=(6, 8), noise=0.5):
    """Noise; noise and a code of the place; the same with every sample's places shuffled; one token."""
    rng = np.random.default_rng(0)
    code = sinusoidal(grid, 4)
    place = code + noise * rng.normal(size=(n, *code.shape))
    return {
        "noise": rng.normal(size=place.shape),
        "place": place,
        "scrambled": np.stack([sample[rng.permutation(len(code))] for sample in place]),
        "one": rng.normal(size=(n, 1, 4)),
    }


def activations(**options):
    grids = dict.fromkeys(("noise", "place", "scrambled"), (6, 8))
    return MemoryActivations(taps(), grids, **options)


def test_the_tap_that_holds_places_is_found_and_no_other():
    measured = measure_all([Position()], activations(), {})
    assert not measured.skipped
    result = measured.results["position_probe"]
    assert result.attrs["chosen_tap"] == "place"
    assert result.attrs["score_name"] == "R2"
    assert result.attrs["family"] == "spatial"
    assert result.attrs["target"] == ""
    assert result.low.sel(tap="place").item() > 0.6
    for tap in ("noise", "scrambled"):
        assert abs(result.score.sel(tap=tap).item()) < 0.05
    assert np.abs(result.line_shuffled.values[:3]).max() < 0.05
    assert np.isnan(result.score.sel(tap="one").item())
    assert result.attrs["reason"] == "one: one token"
    assert result.low.sel(tap="place") < result.score.sel(tap="place") < result.high.sel(tap="place")
    profile = Profile("position_probe", None, result, {})
    assert profile.is_probe
    assert profile.name == "position_probe"
    assert result.identical(measure_all([Position()], activations(), {}).results["position_probe"])


def test_the_tokens_of_a_tap_are_read_once():
    given = activations(block=11)
    passes = []
    blocks = given.token_blocks
    given.token_blocks = lambda tap: passes.append(tap) or blocks(tap)
    assert "position_probe" in measure_all([Position()], given, {}).results
    assert sorted(passes) == ["noise", "place", "scrambled"]


def test_measure_equals_the_plain_function_whatever_the_blocks():
    given = activations(block=11)
    result = measure_all([Position()], given, {}).results["position_probe"]
    for tap in ("noise", "place"):
        tokens = given.arrays[tap].astype(np.float32)
        plain = position_probe(tokens, (6, 8), given.split)
        at = result.sel(tap=tap)
        assert at.score.item() == pytest.approx(plain.r2, abs=1e-9)
        assert at.penalty.item() == plain.penalty
        assert at.error.item() == pytest.approx(plain.error, abs=1e-9)
        assert at.error_of_mean.item() == pytest.approx(plain.error_of_mean, abs=1e-9)


def test_taps_with_other_axes_stand_side_by_side():
    rng = np.random.default_rng(0)
    arrays = {
        "line": sinusoidal((12,)) + 0.1 * rng.normal(size=(30, 12, 32)),
        "cube": sinusoidal((2, 3, 4)) + 0.1 * rng.normal(size=(30, 24, 96)),
        "image": sinusoidal((3, 4)) + 0.1 * rng.normal(size=(30, 12, 64)),
    }
    given = MemoryActivations(arrays, {"cube": (2, 3, 4), "image": (3, 4)})
    result = measure_all([Position()], given, {}).results["position_probe"]
    for tap, grid in (("line", (12,)), ("cube", (2, 3, 4)), ("image", (3, 4))):
        plain = position_probe(arrays[tap].astype(np.float32), grid, given.split)
        assert result.score.sel(tap=tap).item() == pytest.approx(plain.r2, abs=1e-9)


def test_many_tokens_are_drawn_from_and_units_are_groups():
    n = MOST_SAMPLES + 40
    code = sinusoidal((10, 12), 4)
    tokens = code + 0.5 * np.random.default_rng(0).normal(size=(n, *code.shape))
    groups = np.array([f"g{i // 5}" for i in range(n)], dtype=object)
    split = np.array([("train", "val", "test")[i // 5 % 3] for i in range(n)], dtype=object)
    given = MemoryActivations({"a": tokens}, {"a": (10, 12)}, groups=groups, split=split)
    result = measure_all([Position()], given, {}).results["position_probe"]
    assert result.attrs["n_train"] + result.attrs["n_val"] + result.attrs["n_test"] == MOST_SAMPLES
    assert (
        len(result.unit)
        == result.attrs["units_test"]
        == len(set(groups[:MOST_SAMPLES][split[:MOST_SAMPLES] == "test"]))
    )
    whole = position_probe(tokens[:MOST_SAMPLES], (10, 12), split[:MOST_SAMPLES])
    assert result.score.item() == pytest.approx(whole.r2, abs=0.02)
    assert result.attrs["tokens_of_a_sample"] == 64


def test_bad_taps_and_splits_are_named():
    given = activations()
    given.arrays["place"][7, 2, 0] = np.inf
    with refusal("not-finite", "position_probe", "place"):
        Position().compute(given, None, 0)
    with refusal("too-few", "test", "--token-budget"):
        Position().compute(activations(token_samples=2), None, 0)
    with refusal("no-tokens", "position_probe"):
        Position().compute(activations(token_samples=0), None, 0)

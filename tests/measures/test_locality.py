import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.locality import autocorrelation, blocks
from diagnostics.measures.locality.autocorrelation import SelfSimilarity, self_similarity, spatial_relation
from diagnostics.measures.locality.blocks import MOST_SAMPLES
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

y, x = np.divmod(np.arange(256), 16)
RAMP = np.column_stack([np.cos(np.pi / 32 * x), np.sin(np.pi / 32 * x)])
ROW_AND_COLUMN = np.hstack([np.eye(16)[y], np.eye(16)[x]])


def test_samples_stand_side_by_side():
    alone = self_similarity(RAMP, (16, 16))
    assert isinstance(alone.lds, float)
    stacked = self_similarity(np.stack([RAMP, 3 * RAMP]), (16, 16))
    assert stacked.lds == pytest.approx([alone.lds] * 2, abs=1e-12)
    assert stacked.curve.shape == (2, 30)


def by_loops(tokens, grid):
    places = list(itertools.product(*map(range, grid)))
    by_distance: dict[int, list[float]] = {}
    for i, j in itertools.combinations(range(len(places)), 2):
        distance = sum(abs(a - b) for a, b in zip(places[i], places[j], strict=True))
        cosine = tokens[i] @ tokens[j] / np.linalg.norm(tokens[i]) / np.linalg.norm(tokens[j])
        by_distance.setdefault(distance, []).append(cosine)
    curve = np.array([np.mean(by_distance[d]) for d in sorted(by_distance)])
    far = np.mean([c for d, cosines in by_distance.items() if d >= 6 for c in cosines])
    return curve[0] - far, -np.polyfit(np.arange(1, 9), curve[:8], 1)[0], curve


@pytest.mark.parametrize("grid", [(12,), (4, 9), (3, 4, 5)])
@pytest.mark.parametrize("centred", [False, True])
def test_equals_loops_over_pairs_in_one_two_and_three_dimensions(grid, centred):
    tokens = np.random.default_rng(0).normal(size=(int(np.prod(grid)), 5)) + 1
    lds, cds, curve = by_loops(tokens - tokens.mean(axis=0) if centred else tokens, grid)
    result = self_similarity(tokens, grid, centred=centred)
    assert (result.lds, result.cds) == pytest.approx((lds, cds), abs=1e-12)
    np.testing.assert_allclose(result.curve, curve, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 1000))
def test_rotation_scale_and_mirror_change_nothing(seed, scale):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(6, 6, 4)) + 0.5
    turned = tokens[::-1].transpose(1, 0, 2) @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * scale
    one, other = (self_similarity(t.reshape(36, 4), (6, 6)) for t in (tokens, turned))
    assert (one.lds, one.cds, one.rmsc) == pytest.approx((other.lds, other.cds, other.rmsc), abs=1e-9)


def test_a_common_offset_hides_structure_that_the_centred_variant_keeps():
    still = self_similarity(RAMP, (16, 16), centred=True)
    shifted = RAMP + 1e4
    assert abs(self_similarity(shifted, (16, 16)).lds) < 1e-6
    result = self_similarity(shifted, (16, 16), centred=True)
    assert (result.lds, result.cds, result.rmsc) == pytest.approx((still.lds, still.cds, still.rmsc), abs=1e-8)


def test_scrambled_places_lose_locality():
    scrambled = ROW_AND_COLUMN[np.random.default_rng(0).permutation(256)]
    assert abs(self_similarity(scrambled, (16, 16)).lds) < 0.05


def without_fourth(tokens, mask):
    """SRSS on a line with the pairs of token 4 left out."""
    unit = np.delete(tokens, 4, axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine, place, inside = unit @ unit.T, np.delete(np.arange(12), 4), np.delete(mask, 4)
    apart = np.abs(place[:, None] - place)
    gaps = [
        cosine[i, near].mean() - cosine[i, far].mean()
        for i in np.flatnonzero(inside)
        if (near := (apart[i] == 1) & inside).any() and (far := (apart[i] >= 6) & ~inside).any()
    ]
    return np.mean(gaps)


def test_tokens_without_direction_are_left_out():
    tokens = np.random.default_rng(0).normal(size=(12, 3))
    tokens[4] = 0
    result = self_similarity(tokens, (12,))
    kept = [i for i in range(12) if i != 4]
    near = [
        tokens[i] @ tokens[i + 1] / np.linalg.norm(tokens[i]) / np.linalg.norm(tokens[i + 1])
        for i in range(11)
        if i in kept and i + 1 in kept
    ]
    assert result.curve[0] == pytest.approx(np.mean(near), abs=1e-12)
    unit = np.delete(tokens, 4, axis=0) / np.linalg.norm(np.delete(tokens, 4, axis=0), axis=1, keepdims=True)
    assert result.rmsc == pytest.approx(np.sqrt(unit.var(axis=0).sum()), abs=1e-12)
    mask = np.arange(12) < 6
    assert spatial_relation(tokens, mask, (12,)) == pytest.approx(without_fourth(tokens, mask), abs=1e-12)
    # Equal tokens whose mean, summed, is not their value.
    equal = np.tile(np.random.default_rng(1).normal(size=64), (12, 1))
    assert (equal != equal.mean(axis=0)).any()
    for tokens, centred in ((np.zeros((12, 3)), False), (equal, True)):
        nothing = self_similarity(tokens, (12,), centred=centred)
        assert np.isnan([nothing.lds, nothing.cds, nothing.rmsc, *nothing.curve]).all()


def test_short_grids_have_no_value():
    tokens = np.random.default_rng(0).normal(size=(9, 3))
    result = self_similarity(tokens, (3, 3))
    assert np.isnan(result.lds)
    assert np.isnan(result.cds)
    assert np.isfinite(result.rmsc)
    assert np.isfinite(result.curve).all()
    assert len(result.curve) == 4
    with refusal("bad-shape", "(9, 3)", "(4, 4)"):
        self_similarity(tokens, (4, 4))
    tokens[0, 0] = np.inf
    with refusal("not-finite"):
        self_similarity(tokens, (3, 3))


def relation_by_loops(tokens, mask, grid):
    places = list(itertools.product(*map(range, grid)))
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    gaps = []
    for i, a in enumerate(places):
        near, far = [], []
        for j, b in enumerate(places):
            distance = sum(abs(p - q) for p, q in zip(a, b, strict=True))
            if distance == 1 and mask[j]:
                near.append(unit[i] @ unit[j])
            if distance >= 6 and not mask[j]:
                far.append(unit[i] @ unit[j])
        if mask[i] and near and far:
            gaps.append(np.mean(near) - np.mean(far))
    return np.mean(gaps) if gaps else np.nan


@pytest.mark.parametrize("grid", [(12,), (7, 8), (3, 5, 4)])
def test_spatial_relation_equals_loops_over_anchors(grid):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(3, int(np.prod(grid)), 5)) + 0.3
    mask = rng.random(tokens.shape[:2]) < 0.5
    expected = [relation_by_loops(t, m, grid) for t, m in zip(tokens, mask, strict=True)]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(spatial_relation(tokens, mask, grid), expected, atol=1e-12)
    result = spatial_relation(tokens[1], mask[1], grid)
    assert isinstance(result, float)
    assert result == pytest.approx(expected[1], abs=1e-12)


def test_spatial_relation_known_answers():
    mask = (x >= 8) & (x < 12)
    two = np.where(mask[:, None], [1.0, 0.0], [0.0, 1.0])
    assert spatial_relation(two, mask, (16, 16)) == pytest.approx(1, abs=1e-12)
    assert spatial_relation(np.ones((256, 3)), mask, (16, 16)) == pytest.approx(0, abs=1e-12)
    assert np.isnan(spatial_relation(two, np.ones(256), (16, 16)))
    assert np.isnan(spatial_relation(two, np.zeros(256, dtype=bool), (16, 16)))
    with refusal("bad-shape", "(4,)", "(256,)"):
        spatial_relation(two, np.ones(4), (16, 16))
    with refusal("bad-value"):
        spatial_relation(two, np.full(256, 2), (16, 16))


@pytest.mark.parametrize("centred", [False, True])
def test_blocks_of_any_size_give_the_same(monkeypatch, centred):
    rng = np.random.default_rng(0)
    tokens, mask = rng.normal(size=(5, 40, 3)), rng.random((5, 40)) < 0.5
    whole = self_similarity(tokens, (5, 8), centred=centred)
    relation = spatial_relation(tokens, mask, (5, 8))
    monkeypatch.setattr(blocks, "_MOST", 300)
    monkeypatch.setattr(blocks, "_NEAR", 3500)
    parts = self_similarity(tokens, (5, 8), centred=centred)
    np.testing.assert_allclose(parts.curve, whole.curve, atol=1e-13)
    np.testing.assert_allclose([parts.lds, parts.cds, parts.rmsc], [whole.lds, whole.cds, whole.rmsc], atol=1e-13)
    np.testing.assert_allclose(spatial_relation(tokens, mask, (5, 8)), relation, atol=1e-13)


def test_torch_or_numpy_on_the_device_of_the_input_and_nothing_is_changed():
    tokens = np.random.default_rng(0).normal(size=(3, 16, 4)).astype(np.float32)
    kept = tokens.copy()
    result = self_similarity(tokens, (4, 4), centred=True)
    relation = spatial_relation(tokens, tokens[:, :, 0] > 0, (4, 4))
    with torch.device("meta"):
        other = self_similarity(torch.from_numpy(tokens).requires_grad_(), (4, 4), centred=True)
        again = spatial_relation(torch.from_numpy(tokens), torch.from_numpy(tokens)[:, :, 0] > 0, (4, 4))
    np.testing.assert_array_equal(result.curve, other.curve)
    np.testing.assert_array_equal(relation, again)
    np.testing.assert_array_equal(tokens, kept)


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_squares_neither_vanish_nor_overflow(scale):
    tokens = np.random.default_rng(0).normal(size=(16, 4))
    one, other = self_similarity(tokens, (16,)), self_similarity(tokens * scale, (16,))
    assert (one.lds, one.cds, one.rmsc) == pytest.approx((other.lds, other.cds, other.rmsc), abs=1e-12)


def activations(n=30, **options):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=(n, 16, 4)), axis=1)
    noise = rng.normal(size=(n, 16, 4))
    arrays = {"noise": noise, "smooth": smooth, "small": rng.normal(size=(n, 9, 4)), "one": rng.normal(size=(n, 1, 4))}
    return MemoryActivations(arrays, {"small": (3, 3)}, **options)


def test_measure():
    given = activations()
    result = SelfSimilarity().compute(given, None, 0)
    tokens = given.arrays["smooth"].astype(np.float32)
    for ending, centred in (("", False), ("_centred", True)):
        plain = self_similarity(tokens, (16,), centred=centred)
        at = result.sel(tap="smooth")
        assert at["score" if not centred else "lds_centred"].item() == pytest.approx(plain.lds.mean(), abs=1e-12)
        assert at["cds" + ending].item() == pytest.approx(plain.cds.mean(), abs=1e-12)
        assert at["rmsc" + ending].item() == pytest.approx(plain.rmsc.mean(), abs=1e-12)
        np.testing.assert_allclose(at["curve" + ending].values, plain.curve.mean(axis=0), atol=1e-12)
    assert result.low.sel(tap="smooth") < result.score.sel(tap="smooth") < result.high.sel(tap="smooth")
    assert result.score.sel(tap="smooth") > 0.3 > abs(result.score.sel(tap="noise"))
    assert np.isnan(result.score.sel(tap=["small", "one"]).values).all()
    assert "small: no two tokens at distance 6" in result.attrs["reason"]
    assert "one: one token" in result.attrs["reason"]
    assert (result.line_noise == 0).all()
    assert result.attrs["n"] == 30
    assert SelfSimilarity().higher_is_better is None
    assert result.equals(SelfSimilarity().compute(activations(), None, 0))


def test_measure_without_value_says_why():
    given = activations()
    given.arrays["noise"][:] = 7.0
    result = SelfSimilarity().compute(given, None, 0)
    assert result.score.sel(tap="noise").item() == pytest.approx(0, abs=1e-12)
    assert np.isnan(result.lds_centred.sel(tap="noise").item())
    assert "noise: 30 of 30 samples have only tokens of length zero once the mean is removed" in result.attrs["reason"]


def test_measure_caps_samples_and_needs_tokens():
    assert SelfSimilarity().compute(activations(MOST_SAMPLES + 20), None, 0).attrs["n"] == MOST_SAMPLES
    assert SelfSimilarity().compute(activations(token_samples=11), None, 0).attrs["n"] == 11
    with refusal("no-tokens"):
        SelfSimilarity().compute(activations(token_samples=0), None, 0)


def over_all_pairs(tokens, grid):
    """LDS, CDS, RMSC and the curve of [token, feature], straight from the cosines of all pairs."""
    places = np.stack(np.unravel_index(np.arange(len(tokens)), grid), axis=1)
    length = np.linalg.norm(tokens, axis=1)
    there = length > 0
    unit = tokens[there] / length[there, None]
    distance = np.abs(places[there, None] - places[None, there]).sum(axis=-1)
    cosine = unit @ unit.T
    reach = sum(grid) - len(grid)
    count = np.bincount(distance.ravel(), minlength=reach + 1)
    with np.errstate(invalid="ignore"):
        curve = np.bincount(distance.ravel(), cosine.ravel(), reach + 1) / np.where(count, count, np.nan)
    near, far = curve[1], (cosine * (distance >= 6)).sum() / (distance >= 6).sum()
    steps = np.arange(1, 9)
    rmsc = np.sqrt(np.square(unit - unit.mean(axis=0)).sum(axis=1).mean())
    return near - far, -np.polyfit(steps, curve[1:9], 1)[0], rmsc, curve[1:]


@pytest.fixture
def ways(monkeypatch):
    """How often cosines of all pairs are taken, and how often transforms of all features."""
    taken = {"pairs": 0, "lags": 0}
    cosines, lag_sums = blocks.cosines, blocks.lag_sums

    def counting_cosines(field):
        taken["pairs"] += 1
        return cosines(field)

    def counting_lags(field, grid):
        # The pairs that a distance has are counted by lags, of one value a token.
        taken["lags"] += field.shape[2] > 1
        return lag_sums(field, grid)

    monkeypatch.setattr(autocorrelation, "cosines", counting_cosines)
    monkeypatch.setattr(autocorrelation, "lag_sums", counting_lags)
    return taken


# The cheaper way by measured CPU time, by the factor beside it.
CHEAPER = [
    ((512,), 64, "lags"),  # 6.1
    ((512,), 384, "lags"),  # 2.3
    ((256,), 64, "lags"),  # 3.2
    ((197,), 16, "lags"),  # 3.1
    ((24, 24), 64, "lags"),  # 2.4
    ((16, 32), 64, "lags"),  # 3.9
    ((8, 14, 14), 64, "lags"),  # 2.9
    ((64,), 384, "pairs"),  # 1.9
    ((7, 7), 192, "pairs"),  # 4.3
    ((14, 14), 192, "pairs"),  # 2.2
    ((14, 14), 768, "pairs"),  # 2.2
    ((12, 20), 384, "pairs"),  # 2.0
    ((8, 8, 8), 1024, "pairs"),  # 1.8
    ((8, 10, 10), 1024, "pairs"),  # 1.4
    ((24, 24), 1024, "pairs"),  # 1.7
]


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_tokens_in_single_precision_are_multiplied_in_it_where_they_are_many(ways, shift):
    rng = np.random.default_rng(0)
    tokens = (np.cumsum(rng.normal(size=(2, 256, 512)), axis=1) + shift * rng.normal(size=512)).astype(np.float32)
    for centred in (False, True):
        single = self_similarity(torch.from_numpy(tokens), (16, 16), centred=centred)
        double = self_similarity(tokens.astype(np.float64), (16, 16), centred=centred)
        for kind in ("lds", "cds", "rmsc", "curve"):
            np.testing.assert_allclose(vars(single)[kind], vars(double)[kind], atol=2e-7)
    assert ways["lags"] == 0


@pytest.mark.parametrize(("grid", "features", "way"), CHEAPER)
def test_the_cheaper_way_is_taken_and_equals_all_pairs(ways, grid, features, way):
    rng = np.random.default_rng(features)
    tokens = np.cumsum(rng.normal(size=(int(np.prod(grid)), features)), axis=0)
    tokens[[3, 20]] = 0
    result = self_similarity(tokens, grid)
    assert ways[way] > 0
    assert sum(ways.values()) == ways[way]
    lds, cds, rmsc, curve = over_all_pairs(tokens, grid)
    assert (result.lds, result.cds, result.rmsc) == pytest.approx((lds, cds, rmsc), abs=1e-9)
    np.testing.assert_allclose(result.curve, curve, atol=1e-9)
    # Beside a sample whose tokens all have a direction; and centred, where all have one.
    whole = tokens + 1
    together = self_similarity(np.stack([tokens, whole]), grid).curve
    np.testing.assert_allclose(together, [curve, over_all_pairs(whole, grid)[3]], atol=1e-9)
    centred = over_all_pairs(tokens - tokens.mean(axis=0), grid)[3]
    np.testing.assert_allclose(self_similarity(tokens, grid, centred=True).curve, centred, atol=1e-9)


@pytest.mark.parametrize("grid", [(512,), (513,), (1, 600), (23, 29), (8, 8, 9), (1, 40, 20)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_large_grids_equal_all_pairs(grid, offset):
    rng = np.random.default_rng(len(grid))
    # Neighbours are alike, so that a wrong place shows.
    tokens = np.cumsum(rng.normal(size=(int(np.prod(grid)), 5)), axis=0) + offset
    tokens[[3, 200]] = 0
    result = self_similarity(tokens, grid)
    lds, cds, rmsc, curve = over_all_pairs(tokens, grid)
    assert result.lds == pytest.approx(lds, abs=1e-9)
    assert result.cds == pytest.approx(cds, abs=1e-9)
    assert result.rmsc == pytest.approx(rmsc, abs=1e-6 if offset else 1e-9)
    np.testing.assert_allclose(result.curve, curve, atol=1e-9)
    scrambled = self_similarity(rng.permutation(tokens), grid)
    assert offset or abs(scrambled.lds) < abs(result.lds) / 4

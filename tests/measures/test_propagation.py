import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import measure_all
from diagnostics.measures.locality import j_and_f, label_propagation, masks
from diagnostics.measures.locality.masks import LabelPropagation
from diagnostics.vocabulary import Family
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

GRID = (8, 9)


def walks(frames=5, grid=GRID):
    """Two objects of 3 x 3 and 2 x 3 cells that walk apart, int [frame, y, x]."""
    masks = np.zeros((frames, *grid), dtype=np.int64)
    for t in range(frames):
        masks[t, t % 4 : t % 4 + 3, 0:3] = 1
        masks[t, 5 - t % 4 : 7 - t % 4, 5:8] = 2
    return masks


def one_hot(masks):
    """Tokens that hold which object is there, [frame, token, feature]."""
    return np.eye(3)[np.maximum(masks, 0).reshape(len(masks), -1)]


def by_loops(tokens, grid, first, neighbours, window, memory, temperature):
    """Label propagation at the grid's size, one token at a time; soft labels [frame, token, label]."""
    labels = np.unique(np.concatenate([[0], first.ravel()]))
    unit = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
    soft = [np.array([[float(value == label) for label in labels] for value in first.ravel()])]
    for t in range(1, len(tokens)):
        now = []
        for q in range(tokens.shape[1]):
            result = []
            for s in sorted({0, *range(t - memory, t)} - set(range(-memory, 0))):
                for k in range(tokens.shape[1]):
                    (qy, qx), (ky, kx) = divmod(q, grid[1]), divmod(k, grid[1])
                    if max(abs(qy - ky), abs(qx - kx)) <= window:
                        result.append((unit[t, q] @ unit[s, k], s, k))
            result = sorted(result, reverse=True)[:neighbours]
            weight = np.exp(np.array([cosine for cosine, _, _ in result]) / temperature)
            now.append(sum(w * soft[s][k] for w, (_, s, k) in zip(weight, result, strict=True)) / weight.sum())
        soft.append(np.array(now))
    return labels, np.array(soft)


def test_object_identity_as_feature_gives_1():
    masks = walks()
    result = label_propagation(one_hot(masks), GRID, masks)
    assert (result == masks).all()
    scored = j_and_f(result, masks)
    assert (scored.j, scored.f, scored.mean) == (1, 1, 1)
    # Straight edges along the cells come back to the pixel at 8 pixels a cell; bilinear maps round corners.
    bands = np.zeros((4, *GRID), dtype=np.int64)
    for t in range(4):
        bands[t, t : t + 2], bands[t, t + 4 :] = 1, 2
    large = bands.repeat(8, 1).repeat(8, 2)
    assert j_and_f(label_propagation(one_hot(bands), GRID, large[0]), large).mean == 1
    large = masks.repeat(8, 1).repeat(8, 2)
    corners = j_and_f(label_propagation(one_hot(masks), GRID, large), large)
    assert 0.9 < corners.j < 1


def test_squares_shifted_by_half_are_a_third():
    truth = np.zeros((4, 40, 40), dtype=np.int64)
    truth[:, 10:20, 10:20] = 1
    result = j_and_f(np.roll(truth, 5, axis=2), truth)
    assert result.j == pytest.approx(1 / 3)
    assert result.mean == pytest.approx((result.j + result.f) / 2)


def test_controls_lose_the_objects():
    masks = walks(6)
    rng = np.random.default_rng(0)
    for tokens in (np.ones((6, 72, 4)), rng.normal(size=(6, 72, 30)), np.zeros((6, 72, 4))):
        assert j_and_f(label_propagation(tokens, GRID, masks), masks).mean < 0.3
    # Tokens that know the place and no object keep the first mask.
    still = label_propagation(np.tile(np.eye(72), (6, 1, 1)), GRID, masks)
    assert (still == masks[0]).all()


@pytest.mark.parametrize("parameters", [(5, 12, 7, 0.1), (3, 2, 1, 0.5), (1, 1, 0, 0.01), (50, 1, 2, 0.2)])
@pytest.mark.parametrize("entries", [2**22, 1])
def test_equals_a_direct_computation(monkeypatch, parameters, entries):
    """Also in bands of one row of cells."""
    monkeypatch.setattr(masks, "_ENTRIES", entries)
    rng = np.random.default_rng(1)
    grid, frames = (4, 5), 5
    first = rng.integers(0, 3, size=grid) * 2
    tokens = rng.normal(size=(frames, 20, 4))
    neighbours, window, memory, temperature = parameters
    result = label_propagation(
        tokens, grid, first, neighbours=neighbours, window=window, memory=memory, temperature=temperature
    )
    labels, soft = by_loops(tokens, grid, first, *parameters)
    low, high = soft.min(axis=1, keepdims=True), soft.max(axis=1, keepdims=True)
    scaled = np.where(high > low, (soft - low) / np.where(high > low, high - low, 1), soft)
    assert (result[1:] == labels[scaled.argmax(axis=2)].reshape(frames, *grid)[1:]).all()
    assert set(np.unique(result)) <= {0, 2, 4}


def test_bilinear_to_the_masks_size():
    """One row of two cells, 1 and 0 for the object: bilinear with cells' centres at a quarter and three quarters."""
    first = np.array([[1, 1, 1, 1, 0, 0, 0, 0]])
    result = label_propagation(np.tile(np.eye(2), (3, 1, 1)), (1, 2), first)
    assert (result == first).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_what_changes_nothing_and_what_does(seed):
    rng = np.random.default_rng(seed)
    masks = walks()
    tokens = one_hot(masks) @ rng.normal(size=(3, 6)) + rng.normal(size=(5, 72, 6))
    result = label_propagation(tokens, GRID, masks)
    turned = tokens @ np.linalg.qr(rng.normal(size=(6, 6)))[0] * rng.uniform(0.1, 10, size=(5, 72, 1))
    assert (label_propagation(turned, GRID, masks) == result).all()
    assert (label_propagation(torch.from_numpy(tokens), GRID, torch.from_numpy(masks[0])) == result).all()
    mirrored = label_propagation(tokens.reshape(5, *GRID, 6)[:, :, ::-1].reshape(5, 72, 6), GRID, masks[0, :, ::-1])
    assert (mirrored[:, :, ::-1] == result).all()
    names = np.array([0, 7, 4])
    assert (label_propagation(tokens, GRID, names[masks]) == names[result]).all()
    # A common component is part of the cosine.
    assert (label_propagation(tokens + 5, GRID, masks) != result).any()


def test_equal_neighbours_all_count_and_rounding_chooses_none():
    """In a row of alike tokens the 3 in the window are equal, though only 1 neighbour is asked for."""
    first = np.array([[1, 1, 0, 0, 0]])
    rng = np.random.default_rng(0)
    for _ in range(5):
        tokens = rng.normal(size=50) * rng.uniform(0.1, 10, size=(2, 5, 1))
        for neighbours in (1, 5):
            result = label_propagation(tokens, (1, 5), first, neighbours=neighbours, window=1)
            # Soft labels of the object: 1, 2/3, 1/3, 0, 0.
            assert result[1].tolist() == [[1, 1, 0, 0, 0]]


def test_rounding_makes_no_object_where_all_tokens_are_alike():
    mask = np.zeros((56, 56), dtype=int)
    mask[14:35, 14:35] = 1
    # Every token sees all: each label has one share everywhere, and the background's is the larger.
    alike = np.ones((4, 64, 1)) * np.random.default_rng(0).normal(size=7)
    assert not label_propagation(alike, (8, 8), mask)[1:].any()


def test_memory_and_window_do_what_they_say():
    """An object changes its look by half in every frame: only the frame before it is more like it than background."""
    masks = np.zeros((4, 3, 12), dtype=np.int64)
    looks = np.eye(5)
    tokens = np.zeros((4, 3, 12, 5))
    tokens[..., 4] = 1
    for t in range(4):
        masks[t, 1, 2 * t : 2 * t + 3] = 1
        tokens[t, 1, 2 * t : 2 * t + 3] = looks[t] + (looks[t - 1] if t else 0) + 0.3 * looks[4]
    flat = tokens.reshape(4, 36, 5)
    assert j_and_f(label_propagation(flat, (3, 12), masks), masks).j == 1
    assert j_and_f(label_propagation(flat, (3, 12), masks, memory=0), masks).j < 0.6
    assert j_and_f(label_propagation(flat, (3, 12), masks, window=1), masks).j < 1


def test_j_and_f_leaves_out_first_last_and_unknown():
    truth = walks(5)
    result = truth.copy()
    result[0], result[-1] = 0, 0
    assert j_and_f(result, truth).mean == 1
    result[2] = 0
    assert j_and_f(result, truth).j == pytest.approx(2 / 3)
    truth[2][result[2] != truth[2]] = -1
    # Where an object is not known at all there is nothing to find.
    assert j_and_f(result, truth).j == 1
    # Nor is a pixel wrong that cannot be known.
    part = walks(5)
    part[1:, :, 0] = -1
    assert j_and_f(walks(5), part).mean == 1
    # An object that comes later is background.
    later = walks(5)
    later[2, 0, 8] = 3
    scored = j_and_f(walks(5), later)
    assert scored.mean == 1 and scored.by_object.shape == (2, 2)
    # Each object counts once, whatever its size.
    lost = walks(5)
    lost[lost == 2] = 0
    assert j_and_f(lost, walks(5)).by_object[:, 0].tolist() == [1, 0]
    assert j_and_f(lost, walks(5)).j == 0.5


def video_taps(n=20, noise=0.3, seed=0, tubelet=1):
    """Taps where objects are erased, visible, and visible with the grid scrambled frame by frame."""
    rng = np.random.default_rng(seed)
    frames = 5
    masks = np.stack([np.roll(walks(frames), rng.integers(0, 3), axis=2) for _ in range(n)])
    seen = np.stack([one_hot(video) for video in masks]) @ np.linalg.qr(rng.normal(size=(6, 3)))[0].T
    order = np.stack([[rng.permutation(72) for _ in range(frames)] for _ in range(n)])
    noises = rng.normal(size=(3, *seen.shape)) * noise
    taps = {
        "erased": noises[0],
        "seen": seen + noises[1],
        "scrambled": np.take_along_axis(seen + noises[2], order[..., None], axis=2),
    }
    # The frames of a tubelet beside its middle one (the earlier of two) show something else.
    frame = np.arange(frames * tubelet)
    of_pixels = np.where((frame % tubelet == (tubelet - 1) // 2)[:, None, None], masks.repeat(tubelet, axis=1), 1)
    target = StoredTarget("objects", "masks", of_pixels)
    return {name: x.reshape(n, frames * 72, 6) for name, x in taps.items()}, target


def activations(taps, **kwargs):
    return MemoryActivations(taps, dict.fromkeys(taps, (5, *GRID)), **kwargs)


@pytest.mark.parametrize("tubelet", [1, 2, 3])
def test_measure_points_at_the_planted_tap(tubelet):
    taps, target = video_taps(tubelet=tubelet)
    measured = measure_all([LabelPropagation()], activations(taps), {"objects": target})
    result = measured.results["label_propagation/objects"]
    score = dict(zip(result.tap.values, result.score.values, strict=True))
    assert result.attrs["chosen_tap"] == "seen"
    assert score["seen"] > 0.9
    assert score["erased"] < 0.3 and score["scrambled"] < 0.3
    assert result.line_still.values == pytest.approx(np.full(3, result.line_still.values[0]))
    assert 0.1 < result.line_still.values[0] < score["seen"]
    assert result.line_uniform.values[0] < result.line_still.values[0]
    family: Family = "spatial"
    assert result.attrs["family"] == family and result.attrs["score_name"] == "J&F"
    assert "middle" in result.attrs["frames"] and result.attrs["n_test"] == 4


def test_measure_is_the_mean_over_objects_of_the_plain_functions():
    taps, target = video_taps(n=15, noise=0.8)
    target.values[3, :, :, 4:][target.values[3, :, :, 4:] == 2] = 0
    result = LabelPropagation().compute(activations(taps), target, 0)
    rows = np.flatnonzero(activations(taps).split == "test")
    by_object = []
    for row in rows:
        tokens = taps["seen"][row].astype(np.float32).reshape(5, 72, 6)
        by_object.append(j_and_f(label_propagation(tokens, GRID, target.values[row]), target.values[row]).by_object)
    expected = np.concatenate(by_object).mean(axis=0)
    assert (result.j[1].item(), result.f[1].item()) == pytest.approx(tuple(expected), abs=1e-12)
    score = 1 - result.loss[1].sum() / result.reference_loss[1].sum()
    assert score.item() == pytest.approx(expected.mean(), abs=1e-12)
    assert result.objects[1].item() == result.reference_loss[1].sum().item() == len(np.concatenate(by_object)) == 5


def test_measure_reads_groups_splits_and_only_kept_tokens(monkeypatch):
    taps, target = video_taps(n=20)
    groups = [f"v{i // 5}" for i in range(20)]
    split = ["train"] * 5 + ["val"] * 5 + ["test"] * 10
    result = LabelPropagation().compute(activations(taps, groups=groups, split=split), target, 0)
    assert result.unit.values.tolist() == ["v2", "v3"]
    # Nothing was fitted: no interval is widened for it.
    assert result.attrs["units_train"] == result.attrs["units_val"] == 0
    assert result.attrs["n_val"] == 5
    # What stands in train decides nothing.
    other = {name: x.copy() for name, x in taps.items()}
    for x in other.values():
        x[:5] = 7
    again = LabelPropagation().compute(activations(other, groups=groups, split=split), target, 1)
    assert again.loss.values == pytest.approx(result.loss.values)
    assert again.val_score.values == pytest.approx(result.val_score.values)
    fewer = LabelPropagation().compute(activations(taps, token_samples=9), target, 0)
    assert fewer.attrs["n_test"] == 2 and fewer.attrs["seed"] == 0
    monkeypatch.setattr(masks, "MOST_VIDEOS", 4)
    monkeypatch.setattr(masks, "MOST_VAL_VIDEOS", 3)
    capped = LabelPropagation().compute(activations(taps), target, 5)
    assert capped.attrs["n_test"] == 4 and capped.attrs["n_val"] == 3 and capped.attrs["seed"] == 5


def test_measure_leaves_out_taps_without_frames_and_says_so():
    taps, target = video_taps(n=10)
    taps["pooled"] = taps["seen"][:, :1]
    taps["odd"] = taps["seen"][:, : 2 * 72]
    grids = dict.fromkeys(taps, (5, *GRID)) | {"pooled": (1,), "odd": (2, *GRID)}
    result = LabelPropagation().compute(MemoryActivations(taps, grids), target, 0)
    score = 1 - result.loss.sum("unit", skipna=False) / result.reference_loss.sum("unit", skipna=False)
    assert np.isnan(score.values).tolist() == [False, False, False, True, True]
    assert result.attrs["reason"] == ("pooled: a grid of 1 x, not of t, y and x; odd: 2 steps do not divide 5 frames")


def test_measure_refuses_what_has_no_frames_or_objects():
    taps, target = video_taps(n=10)
    still = StoredTarget("objects", "masks", target.values[:, 0])
    with refusal("bad-target", "[sample, t, y, x]", "(10, 8, 9)", "videos"):
        LabelPropagation().compute(activations(taps), still, 0)
    with refusal("no-grid", "8 x 9", "--taps"):
        LabelPropagation().compute(MemoryActivations({"a": np.ones((10, 72, 2))}, {"a": GRID}), target, 0)
    nothing = StoredTarget("objects", "masks", np.zeros_like(target.values))
    with refusal("too-few", "target objects", "val"):
        LabelPropagation().compute(activations(taps), nothing, 0)
    with refusal("no-target"):
        LabelPropagation().compute(activations(taps), None, 0)
    taps["seen"][3, 0, 0] = np.nan
    with refusal("not-finite", "label_propagation", "tap seen"):
        LabelPropagation().compute(activations(taps), target, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.ones((72, 3))}, r"tokens has shape \(72, 3\): give \[frame"),
        ({"grid": (8, 8)}, r"does not fill a grid of \(8, 8\)"),
        ({"grid": (2, 4, 9)}, "along y and x"),
        ({"first_mask": np.zeros(GRID, int)}, "no object in frame 0"),
        ({"first_mask": np.ones(GRID)}, "first_mask is float64"),
        ({"first_mask": np.ones(9, int)}, r"shape \(9,\)"),
        ({"neighbours": 0}, "neighbours 0"),
        ({"temperature": 0.0}, "temperature 0.0"),
    ],
)
def test_bad_input_is_said(change, message):
    given = {"tokens": np.ones((3, 72, 3)), "grid": GRID, "first_mask": walks()[0]} | change
    with pytest.raises(DiagnosticsError, match=message):
        label_propagation(**given)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (walks(3), walks(4), r"shapes \(3, 8, 9\) and \(4, 8, 9\)"),
        (walks(2), walks(2), "at least 3 frames"),
        (walks(3), walks(3) * 0, "no object in frame 0"),
    ],
)
def test_bad_masks_are_said(prediction, truth, message):
    with pytest.raises(DiagnosticsError, match=message):
        j_and_f(prediction, truth)


def test_nothing_lands_on_another_device():
    with torch.device("meta"):
        label_propagation(one_hot(walks()), GRID, walks())

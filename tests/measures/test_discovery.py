import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import measure_all
from diagnostics.measures.locality import box_iou, corloc, discovery, lost, object_discovery, tokencut
from diagnostics.measures.locality.discovery import ObjectDiscovery
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

GRID = (10, 12)
BOTH = pytest.mark.parametrize("method", [lost, tokencut])


def planted(masks, rng, noise=0.0, apart=0.0, width=8):
    """Tokens [..., token, feature]: one direction inside the objects [..., y, x], one at a cosine of -`apart` outside."""
    inner, other = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    directions = np.stack([np.sqrt(1 - apart**2) * other - apart * inner, inner])
    inside = (masks > 0).reshape(*masks.shape[:-2], -1).astype(int)
    return directions[inside] + noise * rng.normal(size=(*inside.shape, width))


def square(top=3, left=4, high=4, wide=3, grid=GRID):
    mask = np.zeros(grid, dtype=np.int64)
    mask[top : top + high, left : left + wide] = 1
    return mask


def flood(inside, seed):
    """The connected part of a set of places with the seed in it, by walking."""
    todo, part = [seed], set()
    while todo:
        y, x = todo.pop()
        if (y, x) in part or not (0 <= y < inside.shape[0] and 0 <= x < inside.shape[1]) or not inside[y, x]:
            continue
        part.add((y, x))
        todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    mask = np.zeros_like(inside)
    for place in part:
        mask[place] = True
    return mask


def lost_directly(f, grid, seeds):
    product = f @ f.T
    degree = (product > 0).sum(axis=1)
    order = sorted(range(len(f)), key=lambda p: (degree[p], p))
    friends = [p for p in order[:seeds] if product[p, order[0]] > 0]
    inside = (product[:, friends].sum(axis=1) > 0).reshape(grid)
    return flood(inside, divmod(order[0], grid[1])), order[0]


def tokencut_directly(f, grid, threshold):
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    w = np.where(unit @ unit.T > threshold, 1.0, 1e-5)
    d = np.diag(w.sum(axis=1))
    y = eigh(d - w, d)[1][:, 1]
    # Tokens alike the same others have equal entries, up to rounding: of these the first.
    seed = int(np.flatnonzero(np.abs(y) > np.abs(y).max() - 1e-12)[0])
    y = y * np.sign(y[seed])
    return flood((y > y.mean()).reshape(grid), divmod(seed, grid[1])), seed


@BOTH
def test_a_planted_square_is_found_to_the_pixel(method):
    mask = square()
    for seed in range(10):  # orthogonal but for rounding, which has either sign
        result = method(planted(mask, np.random.default_rng(seed)), GRID, cell=(16, 14))
        assert (result.mask == (mask > 0)).all()
        assert result.box.tolist() == [4 * 14, 3 * 16, 7 * 14 - 1, 7 * 16 - 1]
        assert mask.ravel()[result.seed] == 1
    pixels = mask.repeat(16, 0).repeat(14, 1)
    scored = object_discovery(planted(mask, np.random.default_rng(0)), GRID, pixels, method=method.__name__)
    assert (scored.iou, scored.hit, scored.corloc) == (1, 1, 1)


@BOTH
def test_of_two_objects_only_the_part_with_the_seed(method):
    """Two squares of one direction: the box is one square's, not that of both, whatever their size and order."""
    for sizes in ((2, 4), (4, 2)):
        mask = square(1, 1, sizes[0], sizes[0]) + square(5, 7, sizes[1], sizes[1])
        result = method(planted(mask, np.random.default_rng(1)), GRID)
        part = flood(mask > 0, divmod(result.seed, GRID[1]))
        assert (result.mask == part).all() and part.sum() in (4, 16)


@BOTH
def test_the_last_component_in_raster_order_can_be_chosen(method):
    """Table 2.0: the last label of the connected parts is one of them. The object at the end carries the seed."""
    rng = np.random.default_rng(2)
    first, last = square(0, 0, 2, 2), square(7, 8, 3, 4)
    f = planted(first + last, rng)
    # The last tokens are less like the background, so that they connect least (LOST) and stand out most (TokenCut).
    outside = f[(first + last).ravel() == 0][0]
    f[first.ravel() > 0] += 0.9 * outside
    result = method(f, GRID)
    assert (result.mask == (last > 0)).all()


@BOTH
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
@example(seed=102)  # equal entries that rounding makes unequal
@example(seed=107)
@example(seed=124)
def test_equals_a_direct_computation(method, seed):
    rng = np.random.default_rng(seed)
    f = planted(square(*rng.integers(0, 5, size=2), *rng.integers(1, 5, size=2)), rng, noise=0.3, apart=0.3)
    if method is lost:
        mask, start = lost_directly(f, GRID, 20)
        result = lost(f, GRID, seeds=20)
    else:
        mask, start = tokencut_directly(f, GRID, 0.2)
        result = tokencut(f, GRID)
    assert result.seed == start
    assert (result.mask == mask).all()


def test_seeds_bound_the_expansion(monkeypatch):
    rng = np.random.default_rng(3)
    f = rng.normal(size=(120, 3))
    sizes = [int(lost(f, GRID, seeds=k).mask.sum()) for k in (1, 20, 100)]
    assert len(set(sizes)) > 1
    monkeypatch.setattr(discovery, "_BLOCK", 7)
    assert [int(lost(f, GRID, seeds=k).mask.sum()) for k in (1, 20, 100)] == sizes


@BOTH
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_turning_scaling_and_mirroring_change_nothing_a_common_component_does(method, seed, scale):
    rng = np.random.default_rng(seed)
    f = planted(square(), rng, noise=0.05, apart=0.5)
    result = method(f, GRID)
    turned = method(torch.from_numpy(f @ np.linalg.qr(rng.normal(size=(8, 8)))[0] * scale), GRID)
    assert (turned.mask == result.mask).all() and turned.seed == result.seed
    mirrored = method(f.reshape(*GRID, 8)[:, ::-1].reshape(120, 8), GRID)
    assert (mirrored.mask[:, ::-1] == result.mask).all()
    # All products become positive: nothing stands out.
    common = method(f + 100, GRID)
    assert (common.mask != result.mask).any()


def test_where_nothing_stands_out_nothing_is_found():
    alike, zero = np.full((120, 4), 0.1), np.zeros((120, 4))
    # LOST takes everything that belongs together; a cut of equal tokens is no better than another.
    assert lost(alike, GRID).mask.all()
    for result in (lost(zero, GRID), tokencut(zero, GRID), tokencut(alike, GRID), tokencut(np.eye(120), GRID)):
        assert np.isnan(result.box).all() and not result.mask.any() and result.seed == -1
    assert tokencut(np.ones((2, 3)), (1, 2)).seed == -1
    # A token without direction is no seed.
    f = planted(square(), np.random.default_rng(0))
    f[0] = 0
    assert (lost(f, GRID).mask == (square() > 0)).all()


def test_threshold_of_tokencut():
    """Object and background at a cosine of .15: apart at .2, alike at .1."""
    f = np.where(square().reshape(-1, 1) > 0, [[1.0, 0.0]], [[0.15, np.sqrt(1 - 0.15**2)]])
    assert (tokencut(f, GRID).mask == (square() > 0)).all()
    assert tokencut(f, GRID, threshold=0.1).seed == -1


def test_corloc_known_answers():
    # Two boxes offset by half: a third, which is a miss; by a third: a half, which is a hit.
    truths = [np.array([[0, 0, 9, 9]]), np.array([[0, 0, 29, 9], [0, 0, 8, 9]])]
    assert corloc([[5, 0, 14, 9], [10, 0, 39, 9]], truths) == 0.5
    assert box_iou((10, 0, 39, 9), (0, 0, 29, 9)) == 0.5
    # Any object of the image will do, and nothing found is a miss.
    assert corloc([[0, 0, 9, 9], [0, 0, 8, 9]], truths) == 1
    assert corloc(torch.tensor([[0.0, 0, 9, 9], [np.nan] * 4]), truths) == 0.5


def test_object_discovery_by_sample():
    rng = np.random.default_rng(4)
    masks = np.stack([square(), square(0, 0), np.zeros(GRID, int), square(2, 2, 5, 5)])
    masks[0, 9, :2] = 7
    tokens = planted(np.stack([square(), square(6, 9), square(), square(2, 2, 5, 5)]), rng)
    masks[3][masks[3] == 0] = -1
    result = object_discovery(tokens, GRID, torch.from_numpy(masks))
    assert result.iou[[0, 1, 3]].tolist() == [1, 0, 1] and np.isnan(result.iou[2])
    assert result.hit[[0, 1, 3]].tolist() == [1, 0, 1] and np.isnan(result.hit[2])
    assert result.corloc == pytest.approx(2 / 3)
    # The best of the image's objects.
    assert object_discovery(tokens[:1], GRID, np.where(masks[:1] == 7, 1, 7 * masks[:1])).corloc == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lost(np.ones((120, 3)), (10, 10)), r"does not fill a grid of \(10, 10\)"),
        (lambda: lost(np.ones((2, 120, 3)), GRID), "give one image's"),
        (lambda: lost(np.ones((120, 3)), (2, 5, 12)), "along y and x"),
        (lambda: lost(np.ones((120, 3)), GRID, seeds=0), "0 seeds"),
        (lambda: lost(np.full((120, 3), np.nan), GRID), "NaN"),
        (lambda: tokencut(np.ones((4200, 1)), (42, 100)), r"\(4200, 1\).*at most 4096"),
        (lambda: corloc([[0, 0, 1, 1]], []), "0 images"),
        (lambda: corloc([[0, 0, 1, 1]], [np.zeros((0, 4))]), "Image 0.*leave out images without objects"),
        (lambda: object_discovery(np.ones((120, 3)), GRID, np.ones((1, *GRID), int)), r"give integers \[y, x\]"),
        (lambda: object_discovery(np.ones((2, 120, 3)), GRID, np.ones(GRID, int)), "for 2 samples"),
        (lambda: object_discovery(np.ones((120, 3)), GRID, np.ones(GRID)), "float64"),
        (lambda: object_discovery(np.ones((120, 3)), GRID, np.zeros(GRID, int)), "show no object"),
        (lambda: object_discovery(np.ones((120, 3)), GRID, square(), method="lots"), "did you mean lost"),
        (lambda: object_discovery(np.ones((120, 3)), (1, 10, 12), square()), "along y and x"),
    ],
)
def test_bad_input_is_said(call, message):
    with pytest.raises(DiagnosticsError, match=message):
        call()


def test_nothing_lands_on_another_device():
    f = planted(square(), np.random.default_rng(0))
    with torch.device("meta"):
        lost(f, GRID)
        tokencut(f, GRID)
        object_discovery(f, GRID, square())


def image_taps(n=40, seed=0, noise=0.15):
    """Taps where the object is erased, visible, and visible on a scrambled grid; masks at 8 pixels a cell."""
    rng = np.random.default_rng(seed)
    masks = np.stack([square(*rng.integers(0, 6, size=2), *rng.integers(3, 5, size=2)) for _ in range(n)])
    seen = planted(masks, rng, noise, apart=0.5)
    erased = planted(np.zeros_like(masks), rng, noise)
    order = np.stack([rng.permutation(120) for _ in range(n)])
    scrambled = np.take_along_axis(seen, order[..., None], axis=1)
    target = StoredTarget("objects", "masks", masks.repeat(8, axis=1).repeat(8, axis=2))
    return {"erased": erased, "seen": seen, "scrambled": scrambled}, target


def activations(taps, **kwargs):
    return MemoryActivations(taps, dict.fromkeys(taps, GRID), **kwargs)


def test_measure_points_at_the_planted_tap():
    taps, target = image_taps()
    result = measure_all([ObjectDiscovery()], activations(taps), {"objects": target}).results[
        "object_discovery/objects"
    ]
    score = dict(zip(result.tap.values, result.score.values, strict=True))
    assert result.attrs["chosen_tap"] == "seen" and result.attrs["score_name"] == "CorLoc"
    assert score["seen"] > 0.9 and score["erased"] < 0.2 and score["scrambled"] < 0.2
    assert "keys" in result.attrs["functional"] and "border pixels" in result.attrs["functional"]
    assert result.line_whole_image.values.tolist() == [0, 0, 0]
    assert result.attrs["units_train"] == result.attrs["units_val"] == 0


def test_measure_is_the_plain_function_and_removes_the_mean_beside_it():
    taps, target = image_taps(noise=0.25)
    taps["seen"][[1, 6, 11]] = 1  # of val: alike all over
    taps = {"seen": taps["seen"], "common": taps["seen"] + 3}
    given = activations(taps)
    result = ObjectDiscovery().compute(given, target, 5)
    assert result.attrs["seed"] == 5
    for split, score in (
        ("test", 1 - result.loss.sum("unit") / result.reference_loss.sum("unit")),
        ("val", result.val_score),
    ):
        rows = given.split == split
        for i, x in enumerate(taps.values()):
            plain = object_discovery(x[rows].astype(np.float32), GRID, target.values[rows])
            assert score[i].item() == pytest.approx(plain.corloc)
            if split == "test":
                assert result.iou[i].item() == pytest.approx(plain.iou.mean())
    x = taps["common"][given.split == "test"].astype(np.float32).astype(np.float64)
    plain = object_discovery(x - x.mean(axis=1, keepdims=True), GRID, target.values[given.split == "test"])
    assert result.centred[1].item() == plain.corloc > 1 - result.loss[1].sum().item() / 8


def test_lines_are_the_corloc_of_boxes_that_see_nothing():
    taps, target = image_taps(n=10)
    values = np.zeros_like(target.values)
    values[:, 20:60, 24:72] = 1
    rows = np.flatnonzero(activations(taps).split == "test")
    values[rows[0]] = 1
    result = ObjectDiscovery().compute(activations(taps), StoredTarget("o", "masks", values), 0)
    assert result.line_centre.values.tolist() == result.line_whole_image.values.tolist() == [0.5] * 3


def test_measure_counts_groups_and_leaves_out_taps_without_a_grid():
    taps, target = image_taps(n=20)
    target.values[[3, 13]] = 0
    groups = [f"g{i // 10}-{i % 5}" for i in range(20)]
    taps["pooled"] = taps["seen"][:, :1]
    taps["video"] = taps["seen"]
    grids = dict.fromkeys(taps, GRID) | {"pooled": (1, 1), "video": (2, 5, 12)}
    result = ObjectDiscovery().compute(MemoryActivations(taps, grids, groups=groups), target, 0)
    # Images without an object are not counted.
    assert result.reference_loss[1].values.tolist() == [1, 1] and result.attrs["n_test"] == 2
    assert result.unit.values.tolist() == ["g0-3", "g1-3"]
    assert np.isnan(result.loss[3:]).all() and np.isnan(result.centred[3:]).all()
    assert result.attrs["reason"] == "pooled: one token; video: a grid of 2 x 5 x 12 (t, y, x), not of y and x"


def test_measure_refuses_what_it_cannot_read():
    taps, target = image_taps(n=10)
    with refusal("bad-target", "[sample, y, x]", "(10, 1, 80, 96)", "still images"):
        ObjectDiscovery().compute(activations(taps), StoredTarget("o", "masks", target.values[:, None]), 0)
    with refusal("no-grid", "seen", "120 x"):
        ObjectDiscovery().compute(MemoryActivations({"seen": taps["seen"]}), target, 0)
    with refusal("too-few", "target o", "val"):
        ObjectDiscovery().compute(activations(taps), StoredTarget("o", "masks", target.values * 0), 0)
    with refusal("no-target"):
        ObjectDiscovery().compute(activations(taps), None, 0)
    taps["seen"][3, 0, 0] = np.inf
    with refusal("not-finite", "object_discovery", "tap seen"):
        ObjectDiscovery().compute(activations(taps), target, 0)

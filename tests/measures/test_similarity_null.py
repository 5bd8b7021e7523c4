import numpy as np
import pytest
import torch

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.similarity import kernels
from diagnostics.measures.similarity.base import Null, Similarity, against_null, orders, swaps
from diagnostics.measures.similarity.kernels import Cka, center_gram, cka
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


class Spread(Similarity):
    """A distance: difference of the features' first column, made to be checked by hand. Not symmetric."""

    name, answers, source = "spread", "", ""
    functional, centring, least, distance, symmetric = "", "", 2, True, False

    def prepare(self, x):
        return x[:, 0].clone()

    def compare(self, a, b):
        return float((a - b).clamp(min=0).sum())

    def permute(self, a, order):
        return a[order]


def run(seed, taps=4, n=40, p=5, groups=None, kin=0.0):
    """A run whose taps resemble one another by `kin`."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1, p))
    arrays = {f"t{i}": kin * common + rng.normal(size=(n, 1, p)) for i in range(taps)}
    return MemoryActivations(arrays, groups=groups, token_samples=n)


def with_features(arrays, ids=None, groups=None):
    created = MemoryActivations({name: array[:, None] for name, array in arrays.items()}, groups=groups)
    if ids is not None:
        created.ids = np.asarray(ids, dtype=object)
        created.groups = created.ids if groups is None else created.groups
    return created


def test_unit_vector_of_pairs_is_the_centred_kernel():
    x = np.random.default_rng(0).normal(size=(9, 4))
    centred = center_gram(x @ x.T).numpy()
    expected = centred[np.triu_indices(9, 1)]
    result = kernels.unit_pairs(torch.from_numpy(x @ x.T))
    np.testing.assert_allclose(result, expected / np.linalg.norm(expected), atol=1e-13)


@pytest.mark.parametrize("n", [5, 200])
def test_moved_pairs_are_the_pairs_of_moved_samples(n):
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.normal(size=(n, 4))) for _ in range(2))
    order = torch.from_numpy(rng.permutation(n))
    a, b, expected = (kernels.unit_pairs(s @ s.T) for s in (x, y, y[order]))
    torch.testing.assert_close(kernels.permute_pairs(b, order), expected)
    (result,) = kernels.products_of_shuffles([a], [a, b], iter([order]))
    assert result[0, 1] == pytest.approx(float(a @ expected), abs=1e-6)
    assert kernels.pair_products([a], [b]).item() == pytest.approx(cka(x, y), abs=1e-12)


def test_orders_keep_groups_whole_and_swap_only_equal_sizes():
    groups = np.array(list("aabbbccddde"), dtype=object)
    classes = swaps(groups)
    assert classes.words(9) == (
        "9 permutations of whole groups of equal size, 1 of 11 samples have no group to swap with; "
        "the most alike of all pairs of taps"
    )
    moved = 0
    for order in orders(classes, 50, 0):
        assert sorted(order.tolist()) == list(range(11))
        for name in set(groups):
            rows = np.flatnonzero(groups == name)
            taken = order[rows].numpy()
            assert len(set(groups[taken])) == 1
            assert (groups == groups[taken[0]]).sum() == len(rows)
            assert (np.diff(taken) > 0).all()
            moved += int(not np.array_equal(taken, rows))
    assert moved > 50
    again, other = ([o.tolist() for o in orders(classes, 3, seed)] for seed in (0, 1))
    assert again == [o.tolist() for o in orders(classes, 3, 0)] != other


@pytest.mark.parametrize("groups", ["aaaaaaaa", "aabbbccc", "aabbccdd"])
def test_too_few_permutations_are_no_test(groups):
    data = run(0, n=8, groups=list(groups))
    result = Cka().compute(data, None, 0)
    enough = groups == "aabbccdd"
    assert bool(np.isfinite(result.p.sel(tap="t0", tap_other="t1").item())) is enough
    assert ("no_null" in result.attrs) is not enough
    assert ("tau" in result.attrs) is enough


def test_p_tau_and_calibration_by_hand():
    null = Null(np.arange(99) / 100, "", "")
    matrix = np.array([[0.945, 0.94, 0.935], [1.0, -1.0, np.nan]])
    p, calibrated, message = against_null(matrix, null, distance=False)
    assert message["tau"] == pytest.approx(0.94)
    np.testing.assert_allclose(p, [[0.05, 0.06, 0.06], [0.01, 1.0, np.nan]])
    np.testing.assert_allclose(calibrated, (matrix - 0.94) / 0.06)
    p, _, message = against_null(1 - matrix, Null(1 - null.extreme, "", ""), distance=True)
    assert message["tau"] == pytest.approx(0.06)
    np.testing.assert_allclose(p, [[0.05, 0.06, 0.06], [0.01, 1.0, np.nan]])


def test_permutation_that_moves_nothing_counts_whatever_its_precision():
    p, _, _ = against_null(
        np.array([[0.123456789]]), Null(np.array([np.float64(np.float32(0.123456789))] * 19), "", ""), False
    )
    assert p.item() == 1


def test_null_is_the_extreme_of_all_pairs_with_one_order_for_all_taps():
    class Quick(Cka):
        permutations = 19

    class QuickSpread(Spread):
        permutations = 19

    a, b = run(0, n=30), run(1, n=30)
    for measure in (Quick(), QuickSpread()):
        result = measure.between(a, b, 7)
        extremes = []
        for order in orders(swaps(a.groups), measure.permutations, 7):
            moved = {name: b.arrays[name][order.numpy()] for name in b.arrays}
            values = measure.between(a, MemoryActivations(moved), 0).matrix.values
            extremes.append(values.min() if measure.distance else values.max())
        extremes = np.array(extremes)
        for i, j in ((0, 0), (2, 3)):
            s = result.matrix.values[i, j]
            reached = (extremes <= s).sum() if measure.distance else (extremes >= s).sum()
            assert result.p.values[i, j] == pytest.approx((1 + reached) / 20)
        tau = extremes.min() if measure.distance else extremes.max()
        assert result.attrs["tau"] == pytest.approx(tau, abs=1e-6)
        assert ("calibrated" in result) is not measure.distance


def test_within_a_run_pairs_of_a_tap_with_itself_count_nowhere():
    data = run(0, taps=2, n=30)
    result = Cka().compute(data, None, 3)
    assert np.isnan(np.diagonal(result.p.values)).all()
    x, y = (data.arrays[name][:, 0] for name in ("t0", "t1"))
    null = [cka(x, y[order.numpy()]) for order in orders(swaps(data.groups), 39, 3)]
    assert result.p.values[0, 1] == (1 + np.sum(np.array(null) >= cka(x, y))) / 40
    assert result.p.values[1, 0] == result.p.values[0, 1]
    asymmetric = Spread().compute(data, None, 3)
    assert asymmetric.matrix.values[0, 1] == pytest.approx(np.maximum(x - y, 0)[:, 0].sum())
    assert asymmetric.matrix.values[1, 0] == pytest.approx(np.maximum(y - x, 0)[:, 0].sum())


def test_level_of_the_best_pair_and_power():
    """Independent runs: the best of 16 pairs passes at .05 in about one of 20; each pair for itself far more often."""

    rounds, best, single = 200, 0, 0
    for seed in range(rounds):
        a, b = run(2 * seed, n=16), run(2 * seed + 1, n=16)
        result = Cka().between(a, b, seed)
        best += bool(result.p.min() <= 0.05)
        # The same 39 permutations, with every pair held against its own values.
        units = [
            [kernels.unit_pairs(torch.from_numpy(x[:, 0] @ x[:, 0].T)) for x in run_.arrays.values()] for run_ in (a, b)
        ]
        null = np.stack(list(kernels.products_of_shuffles(*units, orders(swaps(a.groups), 39, seed))))
        alone = (1 + (null >= kernels.pair_products(*units)).sum(axis=0)) / 40
        single += bool(alone.min() <= 0.05)
    # Two standard deviations of 200 draws are .031.
    assert best / rounds == pytest.approx(0.05, abs=0.035)
    assert best > 3
    assert single / rounds > 0.3
    a, b = run(0, n=40), run(1, n=40)
    b.arrays["t2"] = b.arrays["t2"] + 2 * a.arrays["t1"]
    result = Cka().between(a, b, 0)
    assert result.p.sel(tap="t1", tap_other="t2").item() == 1 / 40
    assert (result.p.values <= 0.05).sum() == 1
    assert result.calibrated.sel(tap="t1", tap_other="t2").item() > 0.3


def test_level_where_samples_come_in_groups():
    """Frames of one video resemble each other: permuting frames would call every pair of runs alike."""

    class Quick(Cka):
        permutations = 19

    def grouped(seed):
        rng = np.random.default_rng(seed)
        video = np.repeat(np.arange(10), 4)
        arrays = {f"t{i}": (rng.normal(size=(10, 1, 3))[video] + 0.2 * rng.normal(size=(40, 1, 3))) for i in range(2)}
        return arrays, video.astype(str)

    whole = frames = 0
    for seed in range(80):
        (a, video), (b, _) = grouped(2 * seed), grouped(2 * seed + 1)
        for counted in ("whole", "frames"):
            groups = video if counted == "whole" else None
            result = Quick().between(MemoryActivations(a, groups=groups), MemoryActivations(b, groups=groups), seed)
            low = bool(result.p.min() <= 0.05)
            whole, frames = (whole + low, frames) if counted == "whole" else (whole, frames + low)
    assert whole / 80 < 0.12
    assert frames / 80 > 0.3


def test_kinship_of_the_taps_is_kept():
    """Ten copies of one tap are one comparison: tau is that of a single pair."""
    a, b = run(0, taps=1), run(1, taps=1)
    many = MemoryActivations({f"t{i}": b.arrays["t0"] for i in range(10)})
    assert Cka().between(a, many, 0).attrs["tau"] == pytest.approx(Cka().between(a, b, 0).attrs["tau"], abs=1e-6)


def test_runs_are_aligned_by_id():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 4))
    y[:, :2] += x[:, :2]
    ids = [f"s{i}" for i in range(30)]
    order = rng.permutation(30)
    straight = Cka().between(with_features({"a": x}, ids), with_features({"b": y}, ids), 0)
    mixed = Cka().between(with_features({"a": x}, ids), with_features({"b": y[order]}, np.array(ids)[order]), 0)
    assert mixed.matrix.item() == pytest.approx(cka(x, y), abs=1e-12) == straight.matrix.item()
    assert mixed.p.item() == straight.p.item()
    assert list(mixed.coords) == ["tap", "depth", "tap_other", "depth_other"]


def test_runs_that_keep_tokens_of_other_samples_meet_on_those_of_both():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 150, 2, 3))
    y += x
    order = rng.permutation(150)
    ids = np.array([f"s{i}" for i in range(150)], dtype=object)
    first, second = (
        MemoryActivations({"a": x}, token_samples=110),
        MemoryActivations({"b": y[order]}, token_samples=100),
    )
    second.ids = second.groups = ids[order]
    result = Cka().between(first, second, 0)
    both = sorted(set(range(110)) & set(order[:100].tolist()))
    assert result.attrs["n"] == len(both) >= 64
    expected = cka(x[both].reshape(len(both), -1), y[both].reshape(len(both), -1))
    assert result.matrix.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (range(25), "5 of the 30 in the first run are not in the second and 0 of the 25"),
        (range(1, 31), "1 of the 30 in the first run are not in the second and 1 of the 30 .*s0"),
        ([0, *range(29)], "1 of the 30"),
    ],
)
def test_runs_of_other_samples_are_refused(other, words):
    x = np.random.default_rng(0).normal(size=(31, 4))
    first = with_features({"a": x[:30]}, [f"s{i}" for i in range(30)])
    second = with_features({"a": x[: len(other)]}, [f"s{i}" for i in other])
    with pytest.raises(DiagnosticsError, match=words):
        Cka().between(first, second, 0)


def test_ids_must_be_unique():
    x = np.random.default_rng(0).normal(size=(6, 4))
    twice = with_features({"a": x}, ["s0", "s0", "s1", "s2", "s3", "s4"])
    with refusal("duplicate"):
        Cka().between(twice, twice, 0)


def test_reasons_say_which_run():
    a, b = run(0), run(1)
    b.arrays["t1"] = b.arrays["t1"] * 0 + 0.3
    result = Cka().between(a, b, 0)
    assert result.attrs["reason"].startswith("t1 of the second: ")
    assert np.isnan(result.matrix.sel(tap_other="t1").values).all()
    assert np.isfinite(result.matrix.sel(tap="t1", tap_other="t0").item())
    assert np.isfinite(result.attrs["tau"])


def test_everything_is_seeded():
    a, b = run(0), run(1)
    one, again, other = (Cka().between(a, b, seed) for seed in (3, 3, 4))
    assert one.identical(again)
    assert one.attrs["tau"] != other.attrs["tau"]

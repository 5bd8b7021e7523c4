"""Losses out of fold: against explicit fits without each group or fold, and against what they are there to prevent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.dynamics import ForecastProbe
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, ridge
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.nearest import NEIGHBOURS, KnnProbe, knn
from diagnostics.measures.probes.out_of_fold import RidgeOutOfFold, left_out_errors, mean_of_others, upper_factor
from diagnostics.measures.probes.protocol import Probe, Rows, folds
from diagnostics.measures.probes.softmax import LogisticRows, choose_out_of_fold, last_fits, start_of_last
from diagnostics.measures.result import CHOSEN_ON
from diagnostics.measures.statistics import Losses
from tests.support.memory import MemoryActivations, label_target


def standardised(x: np.ndarray) -> np.ndarray:
    sd = x.std(axis=0)
    return np.divide(x - x.mean(axis=0), sd, out=np.zeros_like(x), where=sd > 1e-10 * np.abs(x.mean(axis=0)))


def refitted(x: np.ndarray, y: np.ndarray, part: np.ndarray, penalty: float) -> np.ndarray:
    """Errors [row, target] of ridge fitted without each part: features as of all rows, the intercept without the part."""
    z, errors = standardised(x), np.zeros(y.shape)
    for out in np.unique(part):
        fit, left = part != out, part == out
        mean, about = z[fit].mean(axis=0), y[fit].mean(axis=0)
        # In the dual, as there may be more features than rows.
        near = z[fit] - mean
        dual = np.linalg.solve(near @ near.T + len(x) * penalty * np.eye(fit.sum()), y[fit] - about)
        errors[left] = (z[left] - mean) @ (near.T @ dual) + about - y[left]
    return -errors


def upper(x: np.ndarray, penalty: float) -> float:
    """What a mean squared error is raised by: the residual's hat matrix, row by row, and scipy's chi-square."""
    n, z = len(x), standardised(x)
    rest = np.eye(n) - 1 / n - z @ z.T @ np.linalg.inv(z @ z.T + n * penalty * np.eye(n))
    few = min(np.trace(rest) ** 2 / np.sum(rest**2), 32.0)
    return (few / chi2.ppf(0.01, few)) / (32 / chi2.ppf(0.01, 32))


def groups_of(sizes: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize("d", [3, 39, 40, 41, 200])
@pytest.mark.parametrize(
    "sizes", [[1] * 40, [3] * 12 + [4], [1, 2, 5, 7, 12, 13], [20, 20], [39, 1]], ids=["1", "3", "mixed", "2", "39"]
)
def test_blocks_of_the_hat_matrix_are_fits_without_the_group(sizes: list[int], d: int) -> None:
    rng = np.random.default_rng(d)
    part, x, y = groups_of(sizes), rng.normal(size=(2, 40, d)) * np.linspace(0.01, 3, d) + 7, rng.normal(size=(40, 2))
    x[1, :, 0] = 4  # constant
    features, targets = torch.from_numpy(x), torch.from_numpy(y)
    errors = left_out_errors(RidgeStack.from_data(features, targets), features, targets, part).numpy()
    for tap in range(2):
        for i, penalty in enumerate(PENALTIES):
            np.testing.assert_allclose(errors[tap, i], refitted(x[tap], y, part, penalty), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    ["one direction", "copies of rows", "nearly constant", "scales", "zero", "exact"],
)
def test_nothing_is_singular_where_rows_are_fewer_than_features(kind: str) -> None:
    """The hat matrix is then nearly the identity at small penalties, and errors and what divides them nearly 0."""
    rng = np.random.default_rng(1)
    n, d = 24, 3000
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 1))
    part = groups_of([1] * 6 + [2, 2, 2, 6, 6])
    if kind == "one direction":
        x = x[:, :1] + 1e-4 * x
    elif kind == "copies of rows":
        x = x[np.arange(n) // 2]
    elif kind == "nearly constant":
        x = 1e6 + 1e-3 * x
    elif kind == "scales":
        x *= np.logspace(-12, 12, d)
    elif kind == "zero":
        x[:] = 0
    elif kind == "exact":
        y = x[:, :1] * 2
    features, targets = torch.from_numpy(x)[None], torch.from_numpy(y)
    errors = left_out_errors(RidgeStack.from_data(features, targets), features, targets, part).numpy()[0]
    for i, penalty in enumerate(PENALTIES):
        np.testing.assert_allclose(errors[i], refitted(x, y, part, penalty), rtol=1e-4, atol=1e-7)
    if kind == "zero":
        np.testing.assert_allclose(errors, np.broadcast_to(y - mean_of_others(y, part), errors.shape), rtol=1e-12)


def activations(
    x: dict[str, np.ndarray], group: np.ndarray, split: np.ndarray, choose_on: str = "fit"
) -> MemoryActivations:
    held = MemoryActivations(
        {name: values[:, None] for name, values in x.items()}, split=split, groups=group.astype(str)
    )
    held.choose_on = choose_on
    return held


def split_of(group: np.ndarray, seed: int = 0) -> np.ndarray:
    """Groups in splits, about 3 : 1 : 1."""
    units = np.unique(group)
    order = np.random.default_rng(seed).permutation(len(units))
    return np.array(["train", "val", "train", "test", "train"], dtype=object)[order % 5][np.searchsorted(units, group)]


def fit_rows(data: MemoryActivations) -> Rows:
    return Rows.of({name: np.flatnonzero(data.split == name) for name in ("train", "val", "test")}, data.groups)


def by_unit(losses: np.ndarray, result: xr.Dataset, units: np.ndarray) -> np.ndarray:
    """[fit_unit], the sums of losses [row] over the rows of each unit of the result."""
    return np.array([losses[units == name].sum() for name in result["fit_unit"].values])


@pytest.mark.parametrize("sizes", [[1] * 50, [3] * 20, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], ids=["1", "3", "mixed"])
@pytest.mark.parametrize("target", ["one", "columns", "circle"])
@pytest.mark.parametrize("d", [8, 120])
def test_ridge_chooses_and_reports_what_fits_without_each_group_lose(sizes: list[int], target: str, d: int) -> None:
    rng = np.random.default_rng(len(sizes) + d)
    group = groups_of(sizes)
    n = len(group)
    taps = {"a": rng.normal(size=(n, d)), "b": rng.normal(size=(n, d))}
    seen = np.stack([taps["b"][:, 0] + rng.normal(size=n), rng.normal(size=n), taps["b"][:, 1]], axis=1)
    stored = {
        "one": StoredTarget("y", "value", seen[:, 0]),
        "columns": StoredTarget("y", "future", seen),
        "circle": StoredTarget("y", "value", np.arctan2(seen[:, 0], seen[:, 2]), period=2 * np.pi),
    }[target]
    y = {"one": seen[:, :1], "columns": seen, "circle": seen[:, [2, 0]] / np.hypot(seen[:, 0], seen[:, 2])[:, None]}[
        target
    ]
    data = activations(taps, group, split_of(group))
    result = LinearProbe().compute(data, stored, 0)
    assert result.attrs[CHOSEN_ON] == "fit"
    rows = fit_rows(data)
    part, wanted = data.groups[rows.fit], y[rows.fit]
    mean = np.stack([wanted[part != one].mean(axis=0) for one in part])

    def add(squares: np.ndarray) -> np.ndarray:
        return squares.sum(axis=-1, keepdims=True) if target == "circle" else squares

    away = add((wanted - mean) ** 2)
    for tap, x in taps.items():
        losses = np.stack([add(refitted(x[rows.fit], wanted, part, penalty) ** 2) for penalty in PENALTIES])
        raised = np.array([upper(x[rows.fit], penalty) for penalty in PENALTIES])[:, None]
        best = int((raised * losses.sum(axis=1) / away.sum(axis=0)).mean(axis=1).argmin())
        at = result.sel(tap=tap)
        assert float(at["penalty"]) == PENALTIES[best]
        kept, reference = (at[name].values.reshape(len(at["fit_unit"]), -1) for name in ("oof_loss", "oof_reference"))
        for column in range(away.shape[1]):
            np.testing.assert_allclose(kept[:, column], by_unit(losses[best][:, column], at, part), rtol=1e-6)
            np.testing.assert_allclose(reference[:, column], by_unit(away[:, column], at, part), rtol=1e-9)
        # Test is read by the fit on train and val at that penalty, val by that on train.
        for name, where, fit in (("loss", rows.test, rows.fit), ("val_loss", rows.val, rows.train)):
            guess = ridge(x[fit], y[fit]).predict(x[where], PENALTIES[best])[0]
            assert float(at[name].sum()) == pytest.approx(float(((guess - y[where]) ** 2).sum()), rel=1e-7)


@pytest.mark.parametrize("d", [3, 30, 39, 40, 200])
def test_few_dimensions_of_the_residual_raise_an_error_to_its_upper_limit(d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.normal(size=(2, 40, d)) * np.linspace(0.01, 3, d) + 7
    x[1, :, 0] = 4  # constant
    stack = RidgeStack.from_data(torch.from_numpy(x), torch.zeros(40, 1, dtype=torch.float64))
    factor = upper_factor(stack, np.tile(PENALTIES, (2, 1)))
    np.testing.assert_allclose(factor, [[upper(each, penalty) for penalty in PENALTIES] for each in x], rtol=1e-6)
    assert (factor == 1).all() == (d == 3)


@pytest.mark.parametrize(("noise", "least"), [(1.0, -0.5), (0.0, 0.999)])
def test_rows_about_as_many_as_features_do_not_choose_a_penalty_by_chance(noise: float, least: float) -> None:
    """Without the limit the worst of these 60 draws reads R2 -8 of new rows; and what is exact is read as such."""
    worst = np.inf
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, weights = rng.normal(size=(564, 60)), rng.normal(size=(60, 1)) / 60**0.5
        y = x @ weights + noise * rng.normal(size=(564, 1))
        rows = Rows.of({"train": np.arange(64), "val": np.arange(0), "test": np.arange(64, 564)}, np.arange(564))
        penalty, _, fits = RidgeOutOfFold(rows, y[:64], lambda errors: errors**2, 0).choose(
            torch.from_numpy(x[None, :64])
        )
        assert fits is not None
        read = fits.at(penalty)(torch.from_numpy(x[None, 64:]))[0]
        worst = min(worst, 1 - float(np.square(read - y[64:]).mean()) / y[64:].var())
    assert worst > least


def test_a_constant_scores_0_out_of_fold() -> None:
    rng = np.random.default_rng(0)
    group = groups_of([1, 1, 2, 3, 4, 9, 12, 2, 2, 6])
    data = activations({"constant": np.ones((len(group), 3))}, group, split_of(group))
    for kind, values in (("value", rng.normal(size=len(group))), ("future", rng.normal(size=(len(group), 2)))):
        result = LinearProbe().compute(data, StoredTarget("y", kind, values), 0)
        np.testing.assert_allclose(result["oof_loss"], result["oof_reference"], rtol=1e-9)


def test_forecasts_are_chosen_by_their_skill_out_of_fold() -> None:
    rng = np.random.default_rng(3)
    group = groups_of([1, 2, 3] * 10)
    n = len(group)
    x, noise = rng.normal(size=(n, 90)), rng.normal(size=(n, 3))
    values = x[:, :3] + noise
    naive = values + rng.normal(size=(n, 3)) * [1.0, 2.0, 0.0]
    data = activations({"a": x}, group, split_of(group))
    result = ForecastProbe().compute(data, StoredTarget("y", "future", values, naive=naive), 0).sel(tap="a")
    rows = fit_rows(data)
    part, wanted, off = data.groups[rows.fit], values[rows.fit], np.abs(naive - values)[rows.fit]
    losses = np.stack([np.abs(refitted(x[rows.fit], wanted, part, penalty)) for penalty in PENALTIES])
    raised = np.sqrt([upper(x[rows.fit], penalty) for penalty in PENALTIES])[:, None]  # of absolute errors
    # The last naive forecast is right: no score there.
    best = int((raised * losses.sum(axis=1) / off.sum(axis=0).clip(1e-300))[:, :2].mean(axis=1).argmin())
    assert float(result["penalty"]) == PENALTIES[best]
    for column in range(3):
        np.testing.assert_allclose(
            result["oof_loss"][:, column], by_unit(losses[best][:, column], result, part), rtol=1e-6
        )
        np.testing.assert_allclose(
            result["oof_reference"][:, column], by_unit(off[:, column], result, part), atol=1e-12
        )
    guess = ridge(x[rows.train], values[rows.train]).predict(x[rows.val], PENALTIES[best])[0]
    np.testing.assert_allclose(result["val_loss"].sum("val_unit"), np.abs(guess - values[rows.val]).sum(axis=0))


def test_of_a_group_of_many_rows_folds_are_left_out() -> None:
    rng = np.random.default_rng(5)
    group = groups_of([300, 40, 30, 30, 20, 20, 10, 10, 10, 5, 5])
    n, seed = len(group), 2
    taps = {name: rng.normal(size=(n, 30)) for name in "ab"}
    y = taps["a"][:, :2] @ [[2.0, 1.0], [1.0, 0.0]] + rng.normal(size=(n, 2)) * 3
    split = np.where(group == 0, "train", split_of(group)).astype(object)
    data = activations(taps, group, split)
    result = LinearProbe().compute(data, StoredTarget("y", "future", y), seed)
    rows = fit_rows(data)
    fold, wanted = folds(rows, None, seed), y[rows.fit]
    assert len(np.unique(fold)) > 2 and np.bincount(fold).max() >= 300
    mean = np.stack([wanted[fold != one].mean(axis=0) for one in fold])
    for tap, x in taps.items():
        at = result.sel(tap=tap)
        errors = np.zeros((len(PENALTIES), *wanted.shape))
        for one in np.unique(fold):
            out = fold == one
            guess = ridge(x[rows.fit][~out], wanted[~out]).predict(x[rows.fit][out])
            errors[:, out] = guess - wanted[out]
        away, losses = (wanted - mean) ** 2, errors**2
        of_all = (losses.sum(axis=1) / away.sum(axis=0)).mean(axis=1)
        first = fold == 0
        start = int((losses[:, first].sum(axis=1) / away[first].sum(axis=0)).mean(axis=1).argmin())
        best = max(start - 1, 0) + int(of_all[max(start - 1, 0) : start + 2].argmin())
        assert float(at["penalty"]) == PENALTIES[best]
        np.testing.assert_allclose(
            at["oof_loss"][:, 0], by_unit(losses[best][:, 0], at, data.groups[rows.fit]), rtol=1e-8
        )
        np.testing.assert_allclose(at["oof_reference"][:, 0], by_unit(away[:, 0], at, data.groups[rows.fit]), rtol=1e-9)


def test_leaving_out_rows_would_prefer_a_tap_that_knows_the_group_alone() -> None:
    """A tap that is a random code of the group, and one from which the target can be read: by groups the second always."""
    wrong = {"group": 0, "row": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(40), 5)
        y = rng.normal(size=40)[group]  # the same in all rows of a group
        code = rng.normal(size=(40, 60))[group] + 0.1 * rng.normal(size=(200, 60))
        data = activations(
            {"code": code, "real": y[:, None] + 5 * rng.normal(size=(200, 60))},
            group,
            split_of(group, seed),
        )
        rows = fit_rows(data)
        for left_out, units in (("group", rows.unit_of_fit), ("row", np.arange(len(rows.fit)))):
            wanted = y[rows.fit][:, None]
            away = (wanted - mean_of_others(wanted, units)) ** 2
            score: dict[str, float] = {}
            for tap in ("code", "real"):
                features, targets = torch.from_numpy(data.pooled(tap)[rows.fit])[None], torch.from_numpy(wanted)
                errors = left_out_errors(RidgeStack.from_data(features, targets), features, targets, units)
                score[tap] = 1 - float((errors[0] ** 2).sum(dim=(1, 2)).min()) / away.sum()
            wrong[left_out] += score["code"] > score["real"]
        result = LinearProbe().compute(data, StoredTarget("y", "value", y), 0)
        scores = Losses(result["oof_loss"].values, result["oof_reference"].values).scores
        assert scores[1] > scores[0]
    assert wrong == {"group": 0, "row": 40}


def classes(n: int, d: int, k: int, seed: int, clear: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    return clear * rng.normal(size=(k, d))[labels] + rng.normal(size=(n, d)), labels


@pytest.mark.parametrize("d", [6, 200])
def test_logistic_regression_out_of_fold_is_scikit_learns_on_each_fold(d: int) -> None:
    x, labels = classes(180, d, 3, seed=d, clear=0.35 if d > 100 else 0.8)
    fold = np.random.default_rng(0).integers(0, 5, 180)
    out = choose_out_of_fold(torch.from_numpy(x)[None], labels, fold)
    z, expected = standardised(x), np.zeros(180, dtype=bool)
    for one in range(5):
        fit = fold != one
        oracle = LogisticRegression(C=1 / (fit.sum() * out.penalty[0]), tol=1e-9, max_iter=100_000).fit(
            z[fit], labels[fit]
        )
        expected[~fit] = oracle.predict(z[~fit]) != labels[~fit]
    # Fits that only rank penalties stop early, so rows near a border may differ.
    assert (out.wrong[0] != expected).mean() < 0.04
    assert abs(out.wrong[0].mean() - expected.mean()) < 0.02


@pytest.mark.parametrize(("n", "d"), [(200, 500), (300, 40)])
def test_fits_without_a_fold_have_not_seen_it(n: int, d: int) -> None:
    """Labels without any relation to x: a fit that started from one that knew the rows would get more of them right."""
    right: list[float] = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, labels, fold = rng.normal(size=(1, n, d)), rng.integers(0, 2, n), np.arange(n) % 5
        out = choose_out_of_fold(torch.from_numpy(x), labels, fold, (1e-4,))
        right.append(1 - out.wrong.mean())
    assert abs(np.mean(right) - 0.5) < 3 * 0.5 / (8 * n) ** 0.5


def test_several_taps_at_once_are_chosen_like_one_after_the_other() -> None:
    x, labels = classes(150, 12, 3, seed=1, clear=0.6)
    stack = torch.from_numpy(np.stack([x, x * np.arange(1, 13), x + np.random.default_rng(2).normal(size=x.shape)]))
    fold = np.arange(150) % 5
    together = choose_out_of_fold(stack, labels, fold)
    for tap in range(3):
        alone = choose_out_of_fold(stack[tap : tap + 1], labels, fold)
        assert together.penalty[tap] == alone.penalty[0]
        assert (together.wrong[tap] != alone.wrong[0]).mean() < 0.02
        of_all, of_one = (last_fits(each.start, each.penalty) for each in (together, alone))
        scores = of_all.scores(stack)[tap, 0], of_one.scores(stack[tap : tap + 1])[0, 0]
        torch.testing.assert_close(*(each.softmax(dim=0) for each in scores), atol=0.02, rtol=0)


@pytest.mark.parametrize("whole", [False, True])
def test_last_fits_start_from_train_at_the_strongest_of_the_chosen_penalties(whole: bool) -> None:
    x, labels = classes(80, 5, 3, 4)
    taps, val = torch.from_numpy(x)[None].repeat(2, 1, 1), np.arange(80) % 4 == 0
    _, start = start_of_last(taps, labels, val, np.array([1e-3, 1.0]), whole)
    train = taps[:, ~val], labels[~val]
    losses = [fits.judge(*train)[1].mean().item() for fits in (start, LogisticRows(*train).fit(np.ones((2, 1))))]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("probe", [LinearProbe(), KnnProbe()])
def test_a_class_of_one_group_is_wrong_out_of_fold_and_nothing_fails(probe: Probe) -> None:
    x, labels = classes(90, 4, 2, seed=0, clear=3)
    group = np.arange(90)
    group[:8], labels[:8] = 0, 2  # one group has the class alone
    split = np.where(group == 0, "train", split_of(group)).astype(object)
    result = probe.compute(activations({"a": x}, group, split), label_target(labels), 0)
    at = result.sel(tap="a")
    alone = int(np.flatnonzero(at["fit_unit"].values == "0")[0])
    assert float(at["oof_loss"][alone]) == float(at["oof_reference"][alone]) == 8
    rest = np.arange(at.sizes["fit_unit"]) != alone
    assert float(at["oof_loss"][rest].sum() / at["oof_reference"][rest].sum()) < 0.2
    # Its own fold apart, it is learnt: test and val show that fits on all rows know it.
    assert np.isfinite(at["loss"]).all()


@pytest.mark.parametrize("probe", [LinearProbe(), KnnProbe()])
def test_one_group_a_class_is_at_chance_or_below_and_nothing_fails(probe: Probe) -> None:
    x, labels = classes(40, 3, 2, seed=0, clear=3)
    group = np.concatenate([np.where(labels[:20] > 0, 0, 1), np.arange(2, 22)])
    split = np.array(["train"] * 20 + ["val", "test"] * 10, dtype=object)
    labels[20:] = 1  # val and test have one of the classes
    result = probe.compute(activations({"a": x}, group, split), label_target(labels), 0).sel(tap="a")
    one = int(np.flatnonzero(result["fit_unit"].values == "1")[0])
    assert float(result["oof_loss"][one]) == float(result["oof_reference"][one]), "no other group has its class"
    assert np.isfinite(result["oof_loss"]).all()


def test_nearest_neighbours_vote_without_the_fold() -> None:
    x, labels = classes(140, 5, 3, seed=4, clear=0.9)
    group = groups_of([1] * 40 + [4] * 25)
    data, seed = activations({"a": x}, group, split_of(group)), 7
    result = KnnProbe().compute(data, label_target(labels), seed).sel(tap="a")
    rows = fit_rows(data)
    fold, z, y = folds(rows, labels[rows.fit], seed), x[rows.fit], labels[rows.fit]
    wrong = np.zeros((len(NEIGHBOURS), len(y)))
    for one in np.unique(fold):
        out = fold == one
        for i, k in enumerate(NEIGHBOURS):
            wrong[i, out] = knn(z[~out], y[~out], z[out], k) != y[out]
    best = int(wrong.sum(axis=1).argmin())
    assert float(result["k"]) == NEIGHBOURS[best]
    np.testing.assert_array_equal(result["oof_loss"], by_unit(wrong[best], result, data.groups[rows.fit]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.booleans()), min_size=3, max_size=60),
    st.integers(0, 10**6),
)
def test_folds_keep_groups_whole_and_leave_every_class_that_they_can(
    each: list[tuple[int, int, bool]], seed: int
) -> None:
    """Groups of a size, with a class, some rows of which have the class after it."""
    group = np.repeat(np.arange(len(each)), [size for size, *_ in each])
    labels = np.concatenate([[c] * size if pure or size == 1 else [c] * (size - 1) + [c + 1] for size, c, pure in each])
    split = np.array(["train"] * (len(each) - 2) + ["val", "test"], dtype=object)[group]
    rows = Rows.of({name: np.flatnonzero(split == name) for name in ("train", "val", "test")}, group.astype(str))
    fold, codes = folds(rows, labels[rows.fit], seed), labels[rows.fit]
    assert ((fold == 0) == (split[rows.fit] == "val")).all() and set(fold) <= set(range(5))
    assert all(len(set(fold[rows.unit_of_fit == unit])) == 1 for unit in range(len(rows.fit_units)))
    assert (fold == folds(rows, codes, seed)).all()
    for one in np.unique(codes[fold > 0]):
        of_class = codes == one
        if len(np.unique(rows.unit_of_fit[of_class])) > 1:
            # Some other fold has a row of it too.
            assert len(np.unique(fold[of_class])) > 1


def test_folds_have_like_shares_of_classes_and_of_rows() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 8, 150)
    group, of_group = np.repeat(np.arange(150), sizes), rng.choice(4, 150, p=[0.6, 0.25, 0.1, 0.05])
    labels, split = of_group[group], np.array(["train", "val", "train", "train", "test"])[group % 5]
    rows = Rows.of({name: np.flatnonzero(split == name) for name in ("train", "val", "test")}, group.astype(str))
    fold, codes = folds(rows, labels[rows.fit], 0), labels[rows.fit]
    counts = np.stack([np.bincount(codes[fold == one], minlength=4) for one in range(1, 5)])
    assert (np.ptp(counts, axis=0) <= 7).all(), "no class differs by more than the largest group"
    assert np.ptp(counts.sum(axis=1)) <= 14
    assert any((folds(rows, codes, 0) != folds(rows, codes, seed)).any() for seed in range(1, 4))


@pytest.mark.parametrize("kind", ["label", "value", "future"])
def test_four_units_are_enough(kind: str) -> None:
    rng = np.random.default_rng(0)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4])
    split = np.array(["train", "train", "val", "train", "test"], dtype=object)[group]
    values = {"label": np.arange(11) % 2, "value": rng.normal(size=11), "future": rng.normal(size=(11, 2))}[kind]
    target = label_target(values) if kind == "label" else StoredTarget("y", kind, values)
    for probe in (LinearProbe(), KnnProbe()) if kind == "label" else (LinearProbe(),):
        result = probe.compute(activations({"a": rng.normal(size=(11, 20))}, group, split), target, 0)
        assert list(result["fit_unit"].values) == list("0123")
        assert np.isfinite(result["oof_loss"]).all() and (result["oof_reference"] >= 0).all()


def test_where_val_chooses_there_are_no_losses_out_of_fold() -> None:
    x, labels = classes(60, 5, 2, seed=0)
    group = np.arange(60)
    data = activations({"a": x}, group, split_of(group), "val")
    for probe in (LinearProbe(), KnnProbe()):
        result = probe.compute(data, label_target(labels), 0)
        assert result.attrs[CHOSEN_ON] == "val" and "oof_loss" not in result and "fit_unit" not in result.dims


def test_no_target_of_test_enters_what_chooses() -> None:
    rng = np.random.default_rng(0)
    x, labels = classes(100, 6, 3, seed=0)
    group = groups_of([1, 3] * 25)
    data = activations({"a": x, "b": x + rng.normal(size=x.shape)}, group, split_of(group))
    test = data.split == "test"
    for probe, values in (
        (LinearProbe(), labels),
        (KnnProbe(), labels),
        (LinearProbe(), x[:, 0] + rng.normal(size=100)),
    ):
        moved = values.copy()
        moved[test] = rng.permutation(values[test])
        results = [
            probe.compute(data, label_target(y) if y.dtype.kind == "i" else StoredTarget("y", "value", y), 0)
            for y in (values, moved)
        ]
        for name in ("oof_loss", "oof_reference", "val_loss", "penalty" if "penalty" in results[0] else "k"):
            np.testing.assert_array_equal(*(result[name].values for result in results))
        assert (results[0]["loss"].values != results[1]["loss"].values).any()

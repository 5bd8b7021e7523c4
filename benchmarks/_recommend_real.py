"""Redraws of a large real run, for `recommend.py real`: fracast on 2,400 Lorenz series, splits of 100, 200 and 400 of them.

60 % train, 20 % val, 20 % test of each draw; what a choice is worth is read on the about 2,000 series that were not drawn.
A readout is ridge on the mean and the last token side by side. Its penalty is chosen where its tap is: on val, or out of fold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _recommend_rules import RULE, choices, clipped, favour, today
from _recommend_sets import of_draw

import diagnostics as dx
from diagnostics.measures.probes.least_squares import PENALTIES, standardise
from diagnostics.measures.tap_choice import confidence_set

from _common import verdict

SIZES, DRAWS = (100, 200, 400), 40
RATIOS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
"""By what the mean is scaled, and the last token by its inverse, where each has a penalty of its own."""
TARGETS = ("hidden_z", "hidden_y", "rho", "log_switch", "x_future")


@dataclass(frozen=True)
class Ridge:
    """Ridge of all targets on one matrix, with its prediction of each row from the others, for every penalty."""

    mean: np.ndarray
    scale: np.ndarray
    y: np.ndarray
    u: np.ndarray
    singular: np.ndarray
    vt: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray | float = 1.0) -> Ridge:
        """x [row, feature], y [row, target]; `weight` [feature] scales the standardised features."""
        mean, scale, z = (part.numpy() for part in standardise(torch.from_numpy(x)))
        u, singular, vt = np.linalg.svd(z * weight, full_matrices=False)
        return cls(mean, scale * weight, y, u, singular, vt)

    def left_out(self) -> np.ndarray:
        """[penalty, row, target], squared errors."""
        away = self.y - self.y.mean(axis=0)
        inner = self.u.T @ away
        out = []
        for penalty in PENALTIES:
            shrunk = self.singular**2 / (self.singular**2 + len(away) * penalty)
            leverage = 1 / len(away) + self.u**2 @ shrunk
            out.append(((away - (self.u * shrunk) @ inner) / (1 - leverage)[:, None]) ** 2)
        return np.stack(out)

    def squares(self, x: np.ndarray, y: np.ndarray, penalties: Sequence[float] | np.ndarray) -> np.ndarray:
        """[penalty, row, target], squared errors on other rows; of `penalties` [penalty, 1] or [penalty, target]."""
        away = self.y - self.y.mean(axis=0)
        inner, towards = self.u.T @ away, ((x - self.mean) * self.scale) @ self.vt.T
        out = []
        for penalty in penalties:
            weights = self.singular[:, None] / (self.singular[:, None] ** 2 + len(away) * penalty) * inner
            out.append((self.y.mean(axis=0) + towards @ weights - y) ** 2)
        return np.stack(out)


def pick(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The penalty with the smallest sum of errors [penalty, row, target], index [target], and its errors [row, target]."""
    at = squares.sum(axis=1).argmin(axis=0)
    return at, np.take_along_axis(squares, at[None, None], axis=0)[0]


def real_run(path: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """x [tap, sample, feature], the mean before the last, and y [sample, target] of the large run; at `path`, where it is kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = path or Path(folder) / "run"
        if not out.exists():
            dx.run("fracast", "lorenz?n=2400", measures="linear_probe", controls=False, token_budget=0, out=str(out))
        store = dx.open_run(str(out)).store
        x = np.stack([np.asarray(store.pooled(tap.name), dtype=np.float64) for tap in store.taps])
        targets = store.targets()
        y = np.stack([np.asarray(targets[name].values, dtype=np.float64) for name in TARGETS], axis=1)
    return x, y


def redraw(x: np.ndarray, y: np.ndarray, size: int, seed: int) -> dict[str, np.ndarray]:
    """Losses of one split of so many series, [target, tap, row], and scores on the others, [target, tap]."""
    order = np.random.default_rng([seed, size]).permutation(x.shape[1])
    train, val, test, others = np.split(order, [6 * size // 10, 8 * size // 10, size])
    fit = order[: 8 * size // 10]
    away = ((y[others] - y[fit].mean(axis=0)) ** 2).sum(axis=0)
    found: dict[str, list[np.ndarray]] = {}

    def put(name: str, value: np.ndarray) -> None:
        found.setdefault(name, []).append(value.T)

    def read(name: str, features: np.ndarray, weights: Sequence[np.ndarray | float] = (1.0,)) -> None:
        """Ridge chosen out of fold, among the scalings too."""
        ridges = [Ridge.of(features[fit], y[fit], weight) for weight in weights]
        picked = [pick(ridge.left_out()) for ridge in ridges]
        which = np.stack([losses.sum(axis=0) for _, losses in picked]).argmin(axis=0)
        put(f"oof_{name}", np.stack([picked[of][1][:, t] for t, of in enumerate(which)], axis=1))
        score = np.empty(y.shape[1])
        for t, of in enumerate(which):
            penalty = np.full((1, y.shape[1]), PENALTIES[picked[of][0][t]])
            score[t] = 1 - ridges[of].squares(features[others], y[others], penalty)[0, :, t].sum() / away[t]
        put(f"score_{name}", score)

    half = x.shape[2] // 2
    for features in x:
        read("both", features)
        read("mean", features[:, :half])
        read("last", features[:, half:])
        read("parts", features, [np.repeat([ratio, 1 / ratio], half) for ratio in RATIOS])
        tried = Ridge.of(features[train], y[train]).squares(features[val], y[val], np.array(PENALTIES)[:, None])
        at, losses = pick(tried)
        put("val", losses)
        ridge, penalty = Ridge.of(features[fit], y[fit]), np.array(PENALTIES)[at][None]
        put("test", ridge.squares(features[test], y[test], penalty)[0])
        put("score_val", 1 - ridge.squares(features[others], y[others], penalty)[0].sum(axis=0) / away)
    read("all", np.concatenate(list(x), axis=1))
    # [target, tap(, row)] each.
    arrays = {name: np.stack(values, axis=1) for name, values in found.items()}
    rows, fitted = len(fit), y[fit].mean(axis=0)
    arrays["oof_reference"] = (((y[fit] - fitted) * rows / (rows - 1)) ** 2).T
    arrays["val_reference"] = ((y[val] - y[train].mean(axis=0)) ** 2).T
    arrays["test_reference"] = ((y[test] - fitted) ** 2).T
    return arrays


def redraws(cache: Path | None = None) -> dict[str, np.ndarray]:
    """Every array of `redraw` stacked over draws, under "SIZE NAME"; at `cache`, where it is kept."""
    if cache and cache.exists():
        return dict(np.load(cache))
    x, y = real_run(cache and cache.parent / "run")
    stacked: dict[str, np.ndarray] = {}
    for size in SIZES:
        drawn = [redraw(x, y, size, seed) for seed in range(DRAWS)]
        stacked |= {f"{size} {name}": np.stack([each[name] for each in drawn]) for name in drawn[0]}
    if cache:
        np.savez(cache, allow_pickle=False, **stacked)
    return stacked


def real_regrets(drawn: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Of each rule and "SIZE TARGET", what it gives up [draw] of the best tap's score on the others."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for size in SIZES:
        of = {name.split(" ")[1]: values for name, values in drawn.items() if name.startswith(f"{size} ")}
        for t, target in enumerate(TARGETS):
            oof, val, test = (of[name][:, t, :, :, None] for name in ("oof_both", "val", "test"))
            oof_reference, val_reference, test_reference = (
                of[f"{name}_reference"][:, t, :, None] for name in ("oof", "val", "test")
            )
            # A readout of rules on val has the penalty chosen on val.
            on_val, out_of_fold = of["score_val"][:, t], of["score_both"][:, t]
            chosen = choices(oof, oof_reference, val, val_reference, share=False)
            chosen["today"] = today(val, val_reference, test, test_reference, 8 * size // 10, share=False)
            rows, top = np.arange(len(oof)), out_of_fold.max(axis=1)
            for rule, tap in chosen.items():
                score = on_val if rule == "today" or rule.startswith("val") else out_of_fold
                found.setdefault(rule, {})[f"{size} {target}"] = top - score[rows, tap]
            found.setdefault("all taps side by side", {})[f"{size} {target}"] = top - of["score_all"][:, t, 0]
    return found


POOLINGS = ("both", "mean", "last", "parts")
"""Side by side with one penalty, each alone, side by side with a penalty each."""


def pooled(drawn: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Of each pooling and "SIZE TARGET", [draw, 2]: the score at the output, and the regret.

    The regret is that against the best tap of the best pooling; `chosen` takes each tap's of both, mean and last by
    clipped losses out of fold.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for size in SIZES:
        for t, target in enumerate(TARGETS):
            loss = np.stack([drawn[f"{size} oof_{name}"][:, t] for name in POOLINGS])[..., None]
            score = np.stack([drawn[f"{size} score_{name}"][:, t] for name in POOLINGS])
            top, reference = score.max(axis=(0, 2)), drawn[f"{size} oof_reference"][:, t, :, None]
            cut = np.stack([clipped(each) for each in loss])
            which = cut[:3].sum(axis=(3, 4)).argmin(axis=0)[None]
            options = [*zip(POOLINGS, cut, score, strict=True)]
            taken = (np.take_along_axis(cut, which[..., None, None], 0)[0], np.take_along_axis(score, which, 0)[0])
            for name, losses, scores in [*options, ("chosen", *taken)]:
                tap = favour(losses, reference, 1.0)
                regret = top - scores[np.arange(len(tap)), tap]
                found.setdefault(name, {})[f"{size} {target}"] = np.stack([scores[:, -1], regret], axis=1)
    return found


def held_sets(drawn: dict[str, np.ndarray], column: str) -> np.ndarray:
    """[draw, plain or clipped, 2]: whether the set of taps not worse holds the best one, and its size."""
    size, target = column.split(" ")
    t = TARGETS.index(target)
    loss, reference = (drawn[f"{size} {name}"][:, t, ..., None] for name in ("oof_both", "oof_reference"))
    best, found = drawn[f"{size} score_both"][:, t].argmax(axis=1), np.empty((len(loss), 2, 2))
    for k, losses in enumerate((loss, clipped(loss))):
        for i, each in enumerate(losses):
            kept = confidence_set(of_draw(each, reference[i]), np.arange(len(each)), 0)
            found[i, k] = best[i] in kept, len(kept)
    return found


def judge_real(drawn: dict[str, np.ndarray]) -> bool:
    """Print the tables; False where the rule gives up more than best on val on average over targets."""
    found = real_regrets(drawn)
    columns = [f"{size} {target}" for size in SIZES for target in TARGETS]
    print("\n| regret, mean of targets | " + " | ".join(map(str, SIZES)) + " |\n|---|" + "---|" * len(SIZES))
    mean: dict[str, list[float]] = {}
    for rule, of in found.items():
        mean[rule] = [float(np.mean([of[f"{size} {target}"] for target in TARGETS])) for size in SIZES]
        print(f"| {rule} | " + " | ".join(f"{value:.4f}" for value in mean[rule]) + " |")
    print("\n| regret | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for rule, of in found.items():
        print(f"| {rule} | " + " | ".join(f"{of[column].mean():.3f}" for column in columns) + " |")
    print("\n| pooling: score at the output, regret | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, of in pooled(drawn).items():
        cells = ("{:.3f}, {:.3f}".format(*of[column].mean(axis=0)) for column in columns)
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| set of taps not worse: holds the best, size | plain | clipped |\n|---|---|---|")
    sets = {column: held_sets(drawn, column) for column in columns}
    for column, rows in sets.items():
        print(f"| {column} | " + " | ".join("{:.2f}, {:.1f}".format(*mean) for mean in rows.mean(axis=0)) + " |")
    share = float(np.mean([rows[:, 0, 0] for rows in sets.values()]))
    held = [verdict("sets of plain losses that hold the best tap", share, 0.9, at_least=True)]
    held += [
        verdict(f"{size} series: regret less that of best on val", ours - val, 0.0)
        for size, ours, val in zip(SIZES, mean[RULE], mean["val"], strict=True)
    ]
    return all(held)

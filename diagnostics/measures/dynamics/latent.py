"""Dynamics of a representation: whether its next step is a linear map of this one, and its path straight."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import arrays
from diagnostics.measures.base import Measure
from diagnostics.measures.known_answers import Case, normal, rotation
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgePath, choose
from diagnostics.measures.probes.protocol import KEEP_TOKENS, Rows, rows_of
from diagnostics.measures.result import stated
from diagnostics.measures.statistics import profile_intervals
from diagnostics.measures.target_free_intervals import mean_with_interval

MOST_SAMPLES = 256
HENAFF = "after Hénaff et al. 2019"
DMD = "Schmid 2010"


def straightness(path: Any) -> Any:
    """Mean cosine between successive steps of a path: 1 a straight line, 0 a random walk, -1/2 independent points
    in many dimensions (-1/3 in one).

    After the curvature of Hénaff et al. 2019 (Nature Neuroscience 22; there the mean angle): cosines do not pull towards
    90 degrees in many dimensions by averaging arccos, and have a closed form for noise.

    Parameters
    ----------
    path: [sample, time, feature] or [time, feature], in order of time, at least 3 steps.

    Returns [sample], or a float for one path; NaN where no two successive steps have a direction.

    Examples:
        >>> from diagnostics.measures.dynamics import straightness
        >>> round(straightness([[0.0, 0.0], [1.0, 2.0], [3.0, 6.0]]), 6)  # along a line
        1.0
        >>> straightness([[0.0], [1.0], [0.0]])  # there and back
        -1.0
    """
    x = arrays.as_tensor(path)
    if x.ndim not in (2, 3) or x.shape[-2] < 3 or x.shape[-1] == 0:
        raise DiagnosticsError(
            f"A path has shape {tuple(x.shape)}: give [sample, time, feature] with at least 3 times."
        )
    arrays.finite(x, "A path")
    single = x.ndim == 2
    x = x[None] if single else x
    # A step this short beside the longest value on the path has no direction.
    least = arrays.rounding(x)
    # The largest value leaves first: squares of large or small numbers must neither overflow nor vanish.
    largest = x.abs().amax(dim=(1, 2), keepdim=True)
    x = x / torch.where(largest > 0, largest, 1.0)
    steps = x[:, 1:] - x[:, :-1]
    length = steps.norm(dim=2)
    moves = length > least
    both = moves[:, 1:] & moves[:, :-1]
    products = (steps[:, 1:] * steps[:, :-1]).sum(dim=2) / (length[:, 1:] * length[:, :-1])
    total = torch.where(both, products, 0.0).sum(dim=1)
    cosines = torch.where(both.any(dim=1), total / both.sum(dim=1), torch.nan)
    return float(cosines[0]) if single else cosines.cpu().numpy()


def linear_predictability(sequences: Any, split: Any, penalties: tuple[float, ...] = PENALTIES) -> tuple[float, float]:
    """R2 of the next step of a latent from this one by a linear map, and that of predicting no change.

    Parameters
    ----------
    sequences: [sample, time, feature].
    split: `train`, `val` or `test` for each sample; steps of one sample stay together. The ridge penalty is chosen on val
        by squared error, the map fitted again on train and val, and read on test.

    Returns R2 over all features together, against the mean of the steps fitted, and the R2 of persistence (the next step
    equals this one): a slow latent is well predicted by both.

    Examples:
        A quarter turn is a linear map. The next point lies at squared distance 2 from this one and 1 from the mean, so the
        R2 of persistence is 1 - 2.

        >>> import numpy as np
        >>> from diagnostics.measures.dynamics import linear_predictability
        >>> angle = np.arange(6)[:, None] + np.pi / 2 * np.arange(5)
        >>> circles = np.stack([np.cos(angle), np.sin(angle)], axis=2)  # 6 paths
        >>> split = ["train", "train", "train", "train", "val", "test"]
        >>> [round(r2, 3) for r2 in linear_predictability(circles, split)]
        [1.0, -1.0]
    """
    x = arrays.as_tensor(sequences).cpu().numpy()
    split = np.asarray(split)
    if x.ndim != 3 or x.shape[1] < 2 or x.shape[2] == 0 or len(split) != len(x):
        raise DiagnosticsError(
            f"Sequences of shape {x.shape} with {len(split)} splits have no steps: give [sample, time, feature] with at least 2 "
            "times, and a split for each sample."
        )
    arrays.finite(torch.from_numpy(x), "The array of sequences")
    by_split = [np.flatnonzero(split == name) for name in ("train", "val", "test")]
    if any(len(rows) == 0 for rows in by_split):
        raise DiagnosticsError("Linear predictability needs train, val and test samples: give a split with all three.")
    each = [part for rows in by_split[:0:-1] for part in (rows.astype(str), np.arange(len(rows)))]
    rows = Rows(*by_split, *each)
    loss, reference, still, _ = _one_step([(slice(0, len(x)), x)], rows, penalties)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(1 - loss.sum() / reference.sum()), float(1 - still.sum() / reference.sum())


def _one_step(
    blocks: list[tuple[slice, np.ndarray]], rows: Rows, penalties: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Squared errors of the map, around the mean, and of persistence, each [unit] of test; and the penalty."""
    first = blocks[0][1][0, 0]
    train, val = Moments(first, first), Moments(first, first)
    for block, x in blocks:
        for moments, wanted in ((train, rows.train), (val, rows.val)):
            before, after, _ = _steps(block, x, wanted)
            moments.update(before, after)
    path = RidgePath.from_moments(train)
    penalty = choose([float(val.squared_error(path, p).sum()) for p in penalties], penalties)
    final = RidgePath.from_moments(train + val)
    sums = np.zeros((3, len(rows.units)))
    for block, x in blocks:
        before, after, samples = _steps(block, x, rows.test)
        units = rows.unit_of_test[np.searchsorted(rows.test, samples)]
        guesses = (final.predict(before, (penalty,))[0], final.mean_y, before)
        for i, guess in enumerate(guesses):
            sums[i] += np.bincount(units, weights=((after - guess) ** 2).sum(axis=1), minlength=len(rows.units))
    return sums[0], sums[1], sums[2], penalty


def _steps(block: slice, x: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values before and after each step of the wanted samples (sorted) in a block, and the sample of each step."""
    samples = wanted[np.searchsorted(wanted, block.start) : np.searchsorted(wanted, block.start + len(x))]
    picked = x[samples - block.start].astype(np.float64)
    d = x.shape[2]
    return picked[:, :-1].reshape(-1, d), picked[:, 1:].reshape(-1, d), np.repeat(samples, x.shape[1] - 1)


def paths(activations: Activations, tap: Tap, most: int, measure: str) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, [row, time, feature]) of the first `most` rows with tokens; other axes than time are averaged."""
    axis = tap.grid.axes.index("t")
    for block, tokens in arrays.first_tokens(activations, tap.name, most):
        arrays.require_finite_tap(tokens, measure, tap.name)
        grid = tokens.cpu().numpy().reshape(len(tokens), *tap.grid.shape, tokens.shape[-1])
        others = tuple(1 + i for i in range(len(tap.grid.shape)) if i != axis)
        yield block, grid.mean(axis=others, dtype=np.float64)


def timed(activations: Activations, measure: str, least: int) -> dict[str, str]:
    """Why a tap has no path of at least `least` steps: name -> reason, "" where it has one; raises where none has."""
    why: dict[str, str] = {}
    for tap in activations.taps:
        steps = dict(zip(tap.grid.axes, tap.grid.shape, strict=True)).get("t")
        why[tap.name] = "no time axis" if steps is None else f"{steps} step(s) in time" if steps < least else ""
    if all(why.values()):
        raise DiagnosticsError(f"{measure} follows tokens in time, and no tap has {least} of them on a time axis.")
    return why


class _Latent(Measure):
    """A measure of the tokens' path in time."""

    family = "dynamics"
    needs = "tokens"
    higher_is_better = None
    standard = False


def _line(steps: int) -> np.ndarray:
    return np.outer(np.arange(float(steps)), [1.0, -2.0])


def _polygon(corners: int) -> np.ndarray:
    """Once round a regular polygon and one side further, [time, feature]."""
    angle = 2 * np.pi * np.arange(corners + 2) / corners
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Straightness(_Latent):
    name = "straightness"
    answers = "Does the representation move in a straight line over time?"
    source = "after Hénaff et al. 2019 (Nature Neuroscience 22, 984), as the mean cosine of successive steps"
    invariant_to = ("rotation", "scale", "shift")
    known_answers = (
        Case("straight line", 1, HENAFF, lambda: straightness(_line(9))),
        Case("regular polygon of 12: cos(2 pi / 12)", math.cos(math.pi / 6), HENAFF, lambda: straightness(_polygon(12))),
        Case("steps of lengths 1, 2, 3, 1 with one right angle: every turn counts alike", 2 / 3, HENAFF, lambda: straightness([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, 3.0], [3.0, 4.0]])),
        Case("of two paths the second", 1, HENAFF, lambda: straightness(np.stack([_polygon(12), _line(14)]))[1]),
        Case("there and back", -1, HENAFF, lambda: straightness([[0.0], [1.0], [0.0], [1.0]])),
        Case("independent points in 64 dimensions (mean of 100)", -0.5, HENAFF, lambda: float(np.mean(straightness(normal(100, 30, 64, seed=0)))), 0.01),
    )  # fmt: skip

    @arrays.one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        why = timed(activations, self.name, 3)
        n = arrays.token_count(activations, self.name, MOST_SAMPLES)
        values = np.full((n, len(activations.taps)), np.nan)
        for i, tap in enumerate(activations.taps):
            if not why[tap.name]:
                for rows, path in paths(activations, tap, n, self.name):
                    values[rows, i] = straightness(path)
                if np.isnan(values[:, i]).all():
                    why[tap.name] = "nothing moves"
        count = len(activations.taps)
        variables = {
            **mean_with_interval(values, activations.groups[:n], seed),
            "line_independent_points": np.full(count, -0.5),
            "line_random_walk": np.zeros(count),
        }
        attrs = stated(
            functional="mean cosine between successive steps of the tokens in time",
            pooling="mean over the other axes of the grid", centring="none: differences", reasons=why.items(),
            n=n, seed=seed,
        )  # fmt: skip
        return arrays.over_taps(activations, variables, attrs)


def _turning() -> np.ndarray:
    """Paths [sample, time, feature] whose every step is one rotation, about the origin before they are shifted."""
    steps = [normal(30, 4, seed=0)]
    for _ in range(7):
        steps.append(steps[-1] @ rotation(4, 0))
    return np.stack(steps, axis=1) + 100


_SPLIT_OF_30 = ("train", "val", "train", "test", "train") * 6


class LinearPredictability(_Latent):
    name = "linear_predictability"
    answers = "Is the next step of the representation a linear map of the current one?"
    source = "one-step linear prediction, as in dynamic mode decomposition (Schmid 2010); ridge: Hoerl and Kennard 1970"
    invariant_to = ("scale", "shift")
    known_answers = (
        Case("rotation, shifted by 100", 1, DMD, lambda: linear_predictability(_turning(), _SPLIT_OF_30)[0], 1e-4),
        Case("noise (R2 of persistence is 1 - 2)", -1, DMD, lambda: linear_predictability(normal(30, 200, 4, seed=1), _SPLIT_OF_30)[1], 0.05),
    )  # fmt: skip

    @arrays.one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        why = timed(activations, self.name, 2)
        n = arrays.token_count(activations, self.name, MOST_SAMPLES)
        rows = rows_of(activations, self.name, np.ones(n, dtype=bool), KEEP_TOKENS)
        shape = (len(activations.taps), len(rows.units))
        loss, reference, still = (np.full(shape, np.nan) for _ in range(3))
        chosen = np.full(shape[0], np.nan)
        for i, tap in enumerate(activations.taps):
            if not why[tap.name]:
                blocks = list(paths(activations, tap, n, self.name))
                loss[i], reference[i], still[i], chosen[i] = _one_step(blocks, rows, PENALTIES)
                if not reference[i].sum() > 0:
                    why[tap.name] = "all steps are alike"
        fit_units = len(set(activations.groups[rows.fit]))
        score, low, high = profile_intervals(loss, reference, fit_units, seed)
        persistence, _, _ = profile_intervals(still, reference, fit_units, seed)
        variables = {"score": score, "low": low, "high": high, "line_persistence": persistence, "penalty": chosen}
        attrs = stated(
            functional="R2 of the next step over all features together, 1 - sum |z' - f(z)|^2 / sum |z' - mean|^2",
            pooling="mean over the other axes of the grid",
            centring="features standardised with the steps fitted",
            interval="95 %, bootstrap over test units, widened for the training set's share",
            reasons=why.items(), n=n, n_test=len(rows.test), seed=seed,
        )  # fmt: skip
        return arrays.over_taps(activations, variables, attrs)

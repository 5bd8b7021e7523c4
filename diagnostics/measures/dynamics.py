"""Dynamics of a representation.

Whether it predicts the future, holds events, moves by a linear map, and keeps a straight path.

Forecasts are compared with a naive forecast that uses no model; events (changes) are decoded from single time steps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import (
    ShortRepr,
    as_tensor,
    finite,
    first_tokens,
    over_taps,
    require_finite_tap,
    rounding,
    token_count,
)
from diagnostics.measures.base import Case, Measure, circle, normal, rotation
from diagnostics.measures.probes.dense import DenseProbe, DenseRows, TokenChoice, TokenRead
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgePath, choose
from diagnostics.measures.probes.linear import RidgeProbe
from diagnostics.measures.probes.protocol import KEEP_TOKENS, Readout, Rows, rows_of
from diagnostics.measures.probes.samples import Task
from diagnostics.measures.result import state_attributes
from diagnostics.measures.statistics import Losses, mean_with_interval, profile_intervals, scores

__all__ = ["linear_predictability", "mase", "seasonal_naive", "straightness"]

HYNDMAN = "Hyndman and Koehler 2006"
SKILL = "1 - MAE / MAE of the naive forecast"


def seasonal_naive(series: Any, horizon: int, season: int = 1) -> np.ndarray:
    """The forecast that repeats the last season (Hyndman and Athanasopoulos 2021, section 5.2).

    Season 1: the last value.

    Parameters
    ----------
    series: [sample, time] or [time], at least `season` steps.
    horizon: steps ahead.

    Returns [sample, horizon] (or [horizon]): the value at step h ahead is the one `season` steps before it, or as many
    seasons as it takes to be inside the series.

    Examples:
        >>> from diagnostics.measures.dynamics import seasonal_naive
        >>> seasonal_naive([1.0, 2.0, 3.0, 1.0, 2.0, 4.0], horizon=5, season=3).tolist()
        [1.0, 2.0, 4.0, 1.0, 2.0]
    """
    values = np.asarray(as_tensor(series).cpu())
    if values.ndim not in (1, 2) or not 1 <= season <= values.shape[-1] or horizon < 1:
        raise DiagnosticsError(
            f"Series of shape {values.shape} give no naive forecast of {horizon} steps with season {season}: give "
            "[sample, time] with at least one season, and a horizon of 1 or more.",
            code="bad-shape",
        )
    return values[..., values.shape[-1] - season + np.arange(horizon) % season]


def mase(prediction: Any, truth: Any, history: Any, season: int = 1) -> np.ndarray:
    """Mean absolute scaled error of each series (Hyndman and Koehler 2006, section 4).

    Parameters
    ----------
    prediction, truth: [sample, horizon].
    history: [sample, time], the series before; its mean absolute difference over `season` steps is the scale.

    Returns [sample]; NaN where the history repeats itself exactly, so that there is no scale.

    Examples:
        >>> from diagnostics.measures.dynamics import mase
        >>> history = [[0.0, 1.0, 2.0, 3.0]]  # steps of 1
        >>> float(mase([[3.0]], [[4.0]], history)[0])  # a naive forecast of a line
        1.0
        >>> float(mase([[6.5]], [[4.0]], history)[0])
        2.5
    """
    guess, known, past = (np.asarray(as_tensor(x).cpu()) for x in (prediction, truth, history))
    if guess.shape != known.shape or guess.ndim != 2 or past.ndim != 2 or len(past) != len(known):
        raise DiagnosticsError(
            f"Predictions {guess.shape}, truths {known.shape} and histories {past.shape} do not fit: give [sample, "
            f"horizon] twice and [sample, time].",
            code="bad-shape",
        )
    if not all(np.isfinite(x).all() for x in (guess, known, past)):
        raise DiagnosticsError(
            f"Predictions {guess.shape}, truths or histories {past.shape} hold NaN or infinity: leave those samples out.",
            code="not-finite",
        )
    if not 1 <= season < past.shape[1]:
        raise DiagnosticsError(
            f"Histories of shape {past.shape} do not fit a season of {season} steps: give longer ones.",
            code="bad-shape",
        )
    scale = np.abs(past[:, season:] - past[:, :-season]).mean(axis=1)
    return np.divide(np.abs(guess - known).mean(axis=1), scale, out=np.full(len(scale), np.nan), where=scale > 0)


def _skill(share: float) -> float:
    """Skill of a forecast that lies this share of the way from the naive one to the truth, on steps of all sizes."""
    series = np.cumsum(normal(6, 20, seed=2), axis=1)
    naive, truth = seasonal_naive(series[:, :16], 4), series[:, 16:]
    guess = naive + share * (truth - naive)
    return float(scores(np.abs(guess - truth)[None], np.abs(naive - truth)[None])[0])


class ForecastProbe(RidgeProbe):
    """Skill of ridge from pooled activations to all horizons at once.

    It is the mean over horizons of 1 - MAE / MAE of the naive forecast of the dataset: 0 says no better than naive,
    below 0 worse.
    """

    name = "forecast_probe"
    answers = "How far ahead can the future be read out, beyond a naive forecast?"
    source = "Hyndman and Athanasopoulos 2021, Forecasting: principles and practice, section 5.8"
    kinds = ("future",)
    losses, score_name, chance, exact = "squares", "skill", 0.0, True
    known_answers = (
        Case("MASE: naive forecast of a straight trend", 1, HYNDMAN, lambda: float(mase(seasonal_naive(np.arange(20.0)[None], 1), [[20.0]], np.arange(20.0)[None])[0])),
        Case("MASE: truth shifted by 2.5, steps of 1", 2.5, HYNDMAN, lambda: float(mase(np.arange(20.0, 24)[None] + 2.5, np.arange(20.0, 24)[None], np.arange(20.0)[None])[0])),
        Case("MASE: off by 2, steps of 1 over a season of 2 (and of 5 and 4 in it)", 2, HYNDMAN, lambda: float(mase([[6.0]], [[4.0]], [[0.0, 5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0]], season=2)[0])),
        Case("seasonal naive: third value of a season of 4 after 0 ... 19", 18, HYNDMAN, lambda: float(seasonal_naive(np.arange(20.0), 4, 4)[2])),
        Case("skill of the naive forecast itself", 0, SKILL, lambda: _skill(0)),
        Case("skill half way from the naive forecast to the truth", 0.5, SKILL, lambda: _skill(0.5)),
    )  # fmt: skip

    def reads(self, target: StoredTarget) -> bool:
        return super().reads(target) and target.naive is not None

    def task(self, activations: Activations, target: StoredTarget, seed: int) -> Task:
        if target.naive is None:
            raise DiagnosticsError(
                f"Target {target.name} comes without naive forecasts, which {self.name} compares with: give "
                f"Target(naive=...).",
                code="bad-target",
            )
        values, naive = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (target.values, target.naive))
        known: np.ndarray = np.asarray(np.isfinite(np.hstack([values, naive])).all(axis=1))
        return Task(
            target,
            rows_of(activations, target.name, known),
            values,
            seed=seed,
            whole=activations.choose_on == "fit",
            by_part=abs,
            naive=np.abs(naive - values),
        )

    def attributes(self, task: Task) -> dict[str, Any]:
        functional = "skill: mean over horizons of 1 - MAE / MAE of the naive forecast; ridge to all horizons"
        centring = "features standardised with the rows fitted"
        return {"functional": functional, "centring": centring, "penalties": list(PENALTIES)}

    def beside(self, task: Task, read: Mapping[int, np.ndarray], losses: Losses) -> dict[str, Any]:
        lost, whole = losses.loss.sum(axis=1), losses.reference.sum(axis=1)
        skill = 1 - np.divide(lost, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        return {"skill_by_horizon": (("tap", "horizon"), skill)}


BRODERSEN = "Brodersen et al. 2010"


def _balanced(missed: int, false: int) -> float:
    """Balanced accuracy where 4 tokens hold an event and 96 none, in two units, as the losses below are scored."""
    wrong = np.array([[[false, missed], [0, 0]]], dtype=np.float64)
    return float(scores(wrong, np.array([[[48.0, 2.0], [48.0, 2.0]]]))[0])


@dataclass(frozen=True, repr=False)
class Threshold(ShortRepr, Readout):
    """1 where x @ `weights` [feature] is above `threshold`, else 0."""

    weights: np.ndarray
    threshold: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        return (x @ self.weights > self.threshold).astype(np.int64)


class EventProbe(DenseProbe):
    """Balanced accuracy of a linear discriminant of the tokens that hold an event from those that do not.

    Ridge to 0 and 1 with the threshold half way between the values of the two classes' means, so that rare events count
    as much as the rest. Samples stay whole in their split; the penalty is chosen on val.
    """

    name = "event_probe"
    answers = "Does a token encode whether an event happens at its time?"
    source = "Hastie, Tibshirani and Friedman 2009, section 4.3"
    needs = "tokens"
    kinds = ("event",)
    losses, score_name, metric, chance = "counts", "balanced accuracy", "balanced_accuracy", 0.5
    known_answers = (
        Case("balanced accuracy, 1 of 4 events missed: (1 + 3/4) / 2", 0.875, BRODERSEN, lambda: _balanced(1, 0)),
        Case(
            "balanced accuracy, 2 of 4 events missed, 24 of 96 others taken for one",
            0.625,
            BRODERSEN,
            lambda: _balanced(2, 24),
        ),
    )

    def rows(self, activations: Activations, target: StoredTarget) -> DenseRows:
        dense = super().rows(activations, target)
        for split, chosen in (("train", dense.rows.train), ("val", dense.rows.val), ("test", dense.rows.test)):
            seen = {int(value) for value in np.unique(dense.values[chosen][dense.known[chosen]])}
            if len(seen) < 2:
                has = "no event" if 1 not in seen else "nothing but events"
                raise DiagnosticsError(
                    f"Target {target.name} has {has} in {split} tokens: use more samples.", code="too-few"
                )
        return dense

    def choose(self, dense: DenseRows, tap: Tap, seed: int) -> TokenChoice:
        train, val = (_class_moments(dense, tap, rows) for rows in (dense.rows.train, dense.rows.val))
        read = self.read(dense, tap, "val", _rules(*train))
        wrong = [-float((1 - each.loss.sum(axis=0) / each.reference.sum(axis=0)).mean()) for each in read]
        penalty = choose(wrong)
        best = read[PENALTIES.index(penalty)]
        return TokenChoice({"penalty": penalty}, (best.loss, best.reference), (train[0] + val[0], train[1] + val[1]))

    def fits(self, dense: DenseRows, tap: Tap, numbers: Mapping[str, float], start: Any = None) -> Threshold:
        if start is None:
            (none, event), val = (_class_moments(dense, tap, rows) for rows in (dense.rows.train, dense.rows.val))
            start = none + val[0], event + val[1]
        none, event = start
        return _rules(none, event, [numbers["penalty"]])[0]

    def says(self, readout: Threshold, x: np.ndarray) -> np.ndarray:
        return x @ readout.weights - readout.threshold

    def judge(
        self, dense: DenseRows, readout: Threshold, guess: np.ndarray, truth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        whole = np.eye(2)[truth.astype(int)]
        return whole * ((guess > 0) != truth)[:, None], whole

    def beside(self, dense: DenseRows, readout: Threshold, test: TokenRead) -> dict[str, float]:
        return {"auc": _auc(test.guess, test.truth.astype(int))}

    def attributes(self, dense: DenseRows, readouts: Mapping[str, Any]) -> dict[str, Any]:
        functional = "balanced accuracy: mean of the shares of event tokens and of other tokens that are told right"
        return {"functional": functional, "penalties": list(PENALTIES), "line_chance": 0.5}


def _class_moments(dense: DenseRows, tap: Tap, chosen: np.ndarray) -> tuple[Moments, Moments]:
    """Of some rows' tokens without and with an event; all of a tap's share one origin, so that they add up."""
    origin = next(tokens[0, 0] for _, tokens in dense.activations.token_blocks(tap.name))
    none, event = Moments(origin, np.zeros(1)), Moments(origin, np.zeros(1))
    for x, y, _ in dense.blocks(tap, dense.mask(chosen)):
        none.update(x[y == 0], y[y == 0][:, None])
        event.update(x[y == 1], y[y == 1][:, None])
    return none, event


def _rules(none: Moments, event: Moments, penalties: Sequence[float] = PENALTIES) -> list[Threshold]:
    """Of each penalty, from the moments of the two classes."""
    path = RidgePath.from_moments(none + event)
    middle = none.origin_x + (none.x / none.n + event.x / event.n) / 2
    weights = [path.weights(penalty)[:, 0] for penalty in penalties]
    return [Threshold(w, float(middle @ w)) for w in weights]


def _auc(margin: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs (event, other) in the right order, ties half."""
    from scipy.stats import rankdata

    events = int(label.sum())
    others = len(label) - events
    ranks = rankdata(margin)
    return float((ranks[label == 1].sum() - events * (events + 1) / 2) / (events * others))


MOST_SAMPLES = 256
HENAFF = "after Hénaff et al. 2019"
DMD = "Schmid 2010"


def straightness(path: Any) -> Any:
    """Mean cosine between successive steps of a path.

    1 is a straight line, 0 a random walk, -1/2 independent points in many dimensions (-1/3 in one).

    After the curvature of Hénaff et al. 2019 (Nature Neuroscience 22; there the mean angle): cosines do not pull
    towards 90 degrees in many dimensions by averaging arccos, and have a closed form for noise.

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
    x = as_tensor(path)
    if x.ndim not in (2, 3) or x.shape[-2] < 3 or x.shape[-1] == 0:
        raise DiagnosticsError(
            f"A path has shape {tuple(x.shape)}: give [sample, time, feature] with at least 3 times.", code="bad-shape"
        )
    finite(x, "A path")
    single = x.ndim == 2
    x = x[None] if single else x
    # A step this short beside the longest value on the path has no direction.
    least = rounding(x)
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
    split: `train`, `val` or `test` for each sample; steps of one sample stay together. The ridge penalty is chosen on
    val
        by squared error, the map fitted again on train and val, and read on test.

    Returns R2 over all features together, against the mean of the steps fitted, and the R2 of persistence (the next
    step equals this one): a slow latent is well predicted by both.

    Examples:
        A quarter turn is a linear map. The next point lies at squared distance 2 from this one and 1 from the mean, so
        the R2 of persistence is 1 - 2.

        >>> import numpy as np
        >>> from diagnostics.measures.dynamics import linear_predictability
        >>> angle = np.arange(6)[:, None] + np.pi / 2 * np.arange(5)
        >>> circles = np.stack([np.cos(angle), np.sin(angle)], axis=2)  # 6 paths
        >>> split = ["train", "train", "train", "train", "val", "test"]
        >>> [round(r2, 3) for r2 in linear_predictability(circles, split)]
        [1.0, -1.0]
    """
    x = as_tensor(sequences).cpu().numpy()
    split = np.asarray(split)
    if x.ndim != 3 or x.shape[1] < 2 or x.shape[2] == 0 or len(split) != len(x):
        raise DiagnosticsError(
            f"Sequences of shape {x.shape} with {len(split)} splits have no steps: give [sample, time, feature] with "
            f"at least 2 times, and a split for each sample.",
            code="bad-shape",
        )
    finite(torch.from_numpy(x), "The array of sequences")
    by_split = [np.flatnonzero(split == name) for name in ("train", "val", "test")]
    if any(len(rows) == 0 for rows in by_split):
        raise DiagnosticsError(
            "Linear predictability needs train, val and test samples: give a split with all three.", code="bad-splits"
        )
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
    penalty = choose(val.squared_errors(path, penalties).sum(axis=1), penalties)
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
    for block, tokens in first_tokens(activations, tap.name, most):
        require_finite_tap(tokens, measure, tap.name)
        grid = tokens.cpu().numpy().reshape(len(tokens), *tap.grid.shape, tokens.shape[-1])
        others = tuple(1 + i for i in range(len(tap.grid.shape)) if i != axis)
        yield block, grid.mean(axis=others, dtype=np.float64)


def reasons_without_time(activations: Activations, measure: str, least: int) -> dict[str, str]:
    """The reason why each tap has no path of at least `least` steps, "" where it has one; raises where none has."""
    why: dict[str, str] = {}
    for tap in activations.taps:
        steps = dict(zip(tap.grid.axes, tap.grid.shape, strict=True)).get("t")
        why[tap.name] = "no time axis" if steps is None else f"{steps} step(s) in time" if steps < least else ""
    if all(why.values()):
        raise DiagnosticsError(
            f"{measure} follows tokens in time, and no tap has {least} of them on a time axis.", code="no-tokens"
        )
    return why


class _Latent(Measure):
    """A measure of the tokens' path in time."""

    family = "dynamics"
    needs = "tokens"
    higher_is_better = None
    standard = False


def _line(steps: int) -> np.ndarray:
    return np.outer(np.arange(float(steps)), [1.0, -2.0])


class Straightness(_Latent):
    name = "straightness"
    answers = "Does the representation move in a straight line over time?"
    source = "after Hénaff et al. 2019 (Nature Neuroscience 22, 984), as the mean cosine of successive steps"
    invariant_to = ("rotation", "scale", "shift")
    known_answers = (
        Case("straight line", 1, HENAFF, lambda: straightness(_line(9))),
        Case("regular polygon of 12: cos(2 pi / 12)", math.cos(math.pi / 6), HENAFF, lambda: straightness(np.resize(circle(12), (14, 2)))),
        Case("steps of lengths 1, 2, 3, 1 with one right angle: every turn counts alike", 2 / 3, HENAFF, lambda: straightness([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, 3.0], [3.0, 4.0]])),
        Case("of two paths the second", 1, HENAFF, lambda: straightness(np.stack([np.resize(circle(12), (14, 2)), _line(14)]))[1]),
        Case("there and back", -1, HENAFF, lambda: straightness([[0.0], [1.0], [0.0], [1.0]])),
        Case("independent points in 64 dimensions (mean of 100)", -0.5, HENAFF, lambda: float(np.mean(straightness(normal(100, 30, 64, seed=0)))), 0.01),
    )  # fmt: skip

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        why = reasons_without_time(activations, self.name, 3)
        n = token_count(activations, self.name, MOST_SAMPLES)
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
        attrs = state_attributes(
            functional="mean cosine between successive steps of the tokens in time",
            pooling="mean over the other axes of the grid",
            centring="none: differences",
            reasons=why.items(),
            n=n,
            seed=seed,
        )
        return over_taps(activations, variables, attrs)


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
        Case(
            "noise (R2 of persistence is 1 - 2)",
            -1,
            DMD,
            lambda: linear_predictability(normal(30, 200, 4, seed=1), _SPLIT_OF_30)[1],
            0.05,
        ),
    )

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        why = reasons_without_time(activations, self.name, 2)
        n = token_count(activations, self.name, MOST_SAMPLES)
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
        attrs = state_attributes(
            functional="R2 of the next step over all features together, 1 - sum |z' - f(z)|^2 / sum |z' - mean|^2",
            pooling="mean over the other axes of the grid",
            centring="features standardised with the steps fitted",
            interval="95 %, bootstrap over test units, widened for the training set's share",
            reasons=why.items(),
            n=n,
            n_test=len(rows.test),
            seed=seed,
        )
        return over_taps(activations, variables, attrs)

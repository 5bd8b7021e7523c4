"""Number of labels that a target takes: the linear probe on nested parts of train and val, and the length of an online code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import over_taps
from diagnostics.measures.base import Arrays, Case, define, normal
from diagnostics.measures.probes.linear import OWN, OutOfFoldProbe
from diagnostics.measures.probes.protocol import ClassOrValueProbe, Rows, sum_by_unit
from diagnostics.measures.probes.samples import Task
from diagnostics.measures.probes.softmax import Classifiers, LogisticFits, last_fits
from diagnostics.measures.result import CENTRING, FUNCTIONAL, POOLING, SEED, UNITS_TRAIN, UNITS_VAL, N
from diagnostics.measures.statistics import LEVEL, Losses, interval
from diagnostics.measures.tap_choice import choose_tap

FEWEST = 16
"""Labels of the smallest part; each further part has twice as many."""
DRAWS = 3
"""Of a part of at most a quarter of the labels; of a larger one, which draws would share, two up to a half, then one."""
FEWEST_UNITS = 8
"""Independent units that a part has at least: what fewer read is skewed so that no interval holds it."""
OF_PART = 3e-4
"""Nats that the last step of a fit on a part may promise: draws of it differ by far more."""
OF_EACH_CLASS = 2
"""Labels of every class that a part has at least: with one, a fold would lack the class."""


def _noise_free() -> xr.Dataset:
    """A tap of one feature that is the target, and one of noise."""
    x = normal(80, 2, seed=0)
    taps = Arrays({"noise": x[:, :1], "truth": x[:, 1:]}, np.resize(["train", "train", "val", "test"], 80).tolist())
    return LabelEfficiency().compute(taps, StoredTarget("y", "value", x[:, 1]), 0)


@dataclass(frozen=True)
class Part:
    """The task with a part of the labels, rows that the next part adds, and how many units are fitted.

    Found for each tap: losses on test [unit, part], those that choose [row, part], and for classes the bits for the
    labels of the rows added.
    """

    task: Task
    then: np.ndarray
    fit_units: int
    lost: list[np.ndarray] = field(default_factory=list[np.ndarray])
    choosing: list[np.ndarray] = field(default_factory=list[np.ndarray])
    bits: list[float] = field(default_factory=list[float])

    @property
    def test(self) -> Losses:
        """The losses on test of all taps."""
        rows = self.task.rows
        around = sum_by_unit(self.task.reference_of(rows.fit, rows.test), rows)
        return _losses(np.stack(self.lost), around, self.task.label)


_Reader = define(OutOfFoldProbe, "_Reader", name="label_efficiency")
"""The linear probe, whose errors name the measure that uses it."""


class LabelEfficiency(ClassOrValueProbe):
    """The linear probe with few labels: its `score` is the area under the curve of a tap.

    That is the mean score over 16, 32, ... and all labels of train and val, each of up to a quarter the mean of 3 nested
    draws, of up to a half of 2.

    Along `labels`: `curve` [labels, tap] with its interval, and `chosen` [labels, tap], the share of draws in which the
    rule for taps takes each. For classes `code_length` [tap], the bits of an online code of the labels of train and val,
    beside the attribute `uniform_code`, those without a probe: the first part is sent so, and each next one with a probe
    of those before.
    """

    name = "label_efficiency"
    answers = "How many labels does a target take, and does the best layer change with them?"
    source = "online code: Voita and Titov 2020 (2003.12298), section 2.2"
    kinds = ("label", "value", "state", "future")
    standard = False
    instead = "it fits several probes: fit one of your own on run.features(tap)"
    known_answers = (
        Case("area under the curve of a tap that is the target", 1, OWN, lambda: float(_noise_free()["score"][1]), 1e-3),
        Case("the same: share of draws that choose it with 16 labels", 1, OWN, lambda: float(_noise_free()["chosen"].sel(labels=16)[1])),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        probe = _Reader()
        whole = probe.task(activations, target, seed)
        fit = whole.rows.fit
        # And one of val, with which each part begins.
        least = 1 + OF_EACH_CLASS * len(whole.numbers) if whole.label else 2
        enough = [FEWEST * 2**k for k in range(32) if FEWEST * 2**k >= least]
        orders = [self._order(activations, whole, np.random.default_rng([seed, draw])) for draw in range(DRAWS)]
        units = [[len(set(activations.groups[order[:size]])) for order in orders] for size in enough]
        sizes = [size for size, of in zip(enough, units, strict=True) if size < len(fit) and min(of) >= FEWEST_UNITS]
        if not sizes:
            raise DiagnosticsError(
                f"{self.name} of {target.name} needs more than {enough[0]} labels of {FEWEST_UNITS} independent units in "
                f"train and val, and there are {len(fit)} of {len(whole.rows.fit_units)}: use more samples.",
                code="too-few",
            )
        ends = [*sizes[1:], len(fit)]
        by_size = [
            [
                self._part(activations, whole, order[:size], order[size:end])
                for order in orders[: DRAWS - (4 * size > len(fit)) - (2 * size > len(fit))]
            ]
            for size, end in zip(sizes, ends, strict=True)
        ]
        by_size.append([self._part(activations, whole, fit, fit[:0])])
        for _, x in probe.stacks(activations, whole):
            like = None
            # All labels first, whose principal axes serve the parts.
            for parts in reversed(by_size):
                # A shared choice hides what choosing adds. Of classes a choice is dear: there only the smallest part has more.
                share, penalty = whole.label and parts is not by_size[0], None
                for part in parts:
                    penalty, fits = self._read(probe, part, x, penalty if share else None, like)
                    like = like or fits
        return self._result(activations, whole, [*sizes, len(fit)], by_size, seed)

    def _order(self, activations: Activations, task: Task, draws: np.random.Generator) -> np.ndarray:
        """The rows of train and val, whole groups one after the other.

        Each beginning has both in proportion, and some of each class.
        """
        placed: list[tuple[float, int]] = []
        for rows in (task.rows.train, task.rows.val):
            groups, at = np.unique(activations.groups[rows].astype(str), return_inverse=True)
            order = rows[np.argsort(draws.permutation(len(groups))[at], kind="stable")]
            placed += [((i + 0.5) / len(order), int(row)) for i, row in enumerate(order)]
        order = np.array([row for _, row in sorted(placed)])
        train = np.isin(order, task.rows.train)
        first = [int(np.flatnonzero(~train)[0])]
        if task.label:
            codes = task.codes[order]
            first += [
                int(i) for c in range(len(task.numbers)) for i in np.flatnonzero(train & (codes == c))[:OF_EACH_CLASS]
            ]
        return np.concatenate([order[first], np.delete(order, first)])

    def _part(self, activations: Activations, whole: Task, labelled: np.ndarray, then: np.ndarray) -> Part:
        """The task with the labels of some rows alone; bits are for those that come `then`."""
        split = activations.split.copy()
        split[np.setdiff1d(whole.rows.fit, labelled)] = ""
        task = _Reader().task(activations.with_other(split=split), whole.target, whole.seed)
        return Part(task, then, len(set(activations.groups[labelled])))

    def _read(
        self, probe: OutOfFoldProbe, part: Part, x: Tensor, given: np.ndarray | None, like: LogisticFits | None
    ) -> tuple[np.ndarray, LogisticFits | None]:
        """Fits the probe at the taps of x [tap, row, feature] on a part, and returns its penalty [tap] and fits of classes.

        A penalty that is `given` [tap] is not chosen again; `like`: see `LogisticRows`.
        """
        task = part.task
        choice = probe.choose(task, x, given, like)
        readouts: Any
        if task.label and task.whole and len(part.then):
            readouts = Classifiers(last_fits(choice.start, choice.numbers["penalty"], OF_PART), task.numbers)
        else:
            readouts = probe.fits(task, x, choice.numbers, choice.start)
        lost = task.lost(readouts(x[:, task.rows.test]), task.rows.test)
        part.lost.extend(sum_by_unit(each, task.rows) for each in lost)
        part.choosing.extend(choice.val if choice.out_of_fold is None else choice.out_of_fold)
        if isinstance(readouts, Classifiers) and len(part.then):
            nats = readouts.fits.judge(x[:, part.then], task.codes[part.then])[1][:, 0].sum(dim=1)
            part.bits.extend((nats / math.log(2)).tolist())
        return choice.numbers["penalty"], readouts.fits if isinstance(readouts, Classifiers) else None

    def _chosen(self, activations: Activations, part: Part) -> np.ndarray:
        """The share in which each tap is the one to use, [tap]."""
        names, task, lost = [tap.name for tap in activations.taps], part.task, np.stack(part.choosing)
        if task.whole:
            around = np.ones(lost.shape[1:]) if task.label else task.ridge.reference
        else:
            around = task.reference_of(task.rows.train, task.rows.val)
        depth = np.array([tap.depth for tap in activations.taps])
        losses = _losses(lost, around, task.label)
        choice = choose_tap(losses, names.index(activations.output_tap), depth, None)
        return np.eye(len(names))[choice.tap] if choice else np.full(len(names), np.nan)

    def _result(
        self, activations: Activations, task: Task, sizes: Sequence[int], by_size: Sequence[Sequence[Part]], seed: int
    ) -> xr.Dataset:
        rows: Rows = task.rows
        units = len(rows.units)
        student = quantile(max(units - 1, 1))
        curve, low, high, resampled, spread = [], [], [], [], []
        for parts in by_size:
            tests = [part.test for part in parts]
            loss, reference = (
                np.mean([getattr(test, side) for test in tests], axis=0) for side in ("loss", "reference")
            )
            mean, fitted = Losses(loss, reference, task.label), float(np.mean([part.fit_units for part in parts]))
            if len(parts) == 1:
                # What one fit adds shows in no draw: as of the probe.
                score, *ends = mean.intervals(round(fitted), seed)
                counted, between = units / fitted, 0 * score
            else:
                score, *ends = mean.intervals(0, seed)
                shared = len(parts[0].task.rows.fit) / len(rows.fit)
                counted, between = 0.0, variance_of_mean([test.scores for test in tests], shared)
            resampled.append(mean.resample(seed))
            of_test = np.nanvar(resampled[-1], axis=0)
            least = variance_of_one_parameter(score, fitted)
            wider = np.where(between > least, wider_by_draws(of_test, between, units, len(parts)), 1.0)
            spread.append(np.sqrt(np.maximum(np.maximum(between, least), counted * of_test)))
            reach = student * np.sqrt(np.maximum(spread[-1] ** 2 - counted * of_test, 0))
            curve.append(score)
            low.append(np.maximum(score - wider * np.hypot(score - ends[0], reach), 0.0 if task.label else -np.inf))
            high.append(np.minimum(score + wider * np.hypot(ends[1] - score, reach), 1.0))
        area = np.mean(curve, axis=0)
        # What fits add counts as one error that moves the whole curve.
        ends, reach = interval(area, np.mean(resampled, axis=0), units), student * np.mean(spread, axis=0)
        variables: dict[str, Any] = {
            "score": area,
            "low": np.maximum(area - np.hypot(area - ends[0], reach), 0.0 if task.label else -np.inf),
            "high": np.minimum(area + np.hypot(ends[1] - area, reach), 1.0),
        }
        by_labels = {"curve": curve, "curve_low": low, "curve_high": high}
        by_labels["chosen"] = [
            np.mean([self._chosen(activations, part) for part in parts], axis=0) for parts in by_size
        ]
        variables |= {name: (("labels", "tap"), np.array(values)) for name, values in by_labels.items()}
        if task.label:
            plain = math.log2(len(task.numbers))
            sent = sum(np.mean([part.bits for part in parts], axis=0) for parts in by_size[:-1])
            variables["code_length"] = sizes[0] * plain + sent
        names = [tap.name for tap in activations.taps]
        stated = {
            FUNCTIONAL: f"mean over numbers of labels of the score of the linear probe; {DRAWS} nested draws",
            POOLING: activations.pooling,
            CENTRING: "features standardised with the rows fitted",
            "uniform_code": sizes[-1] * math.log2(len(task.numbers)) if task.label else "",
            "chosen_with": ", ".join(
                f"{size}: {names[int(np.nanargmax(share))]}"
                for size, share in zip(sizes, by_labels["chosen"], strict=True)
                if np.isfinite(share).any()
            ),
            N: len(rows.fit) + len(rows.test),
            SEED: seed,
            **{key: len(set(activations.groups[of])) for key, of in ((UNITS_TRAIN, rows.train), (UNITS_VAL, rows.val))},
        }
        return over_taps(activations, variables, stated, labels=np.array(sizes))


def variance_of_mean(scores: Sequence[np.ndarray], shared: float) -> np.ndarray:
    """[tap], the variance of the mean of draws' scores [tap], of which any two have a `shared` part of their pool.

    Their own variance lacks what they share: with n draws, a variance v between them and a correlation r it is
    v (1 + (n - 1) r) / (n (1 - r)) (Nadeau and Bengio 2003, Machine Learning 52, section 3).
    """
    count = len(scores)
    return np.var(scores, axis=0, ddof=1) * (1 + (count - 1) * shared) / (count * (1 - shared))


def variance_of_one_parameter(score: np.ndarray, units: float) -> np.ndarray:
    """[tap], the variance that one fitted parameter adds to a score: the least that a fit on so many units may add.

    Its excess loss is that of the target's noise times chi squared of one degree of freedom over the units. So it falls
    with their square. Draws that all read nothing do not differ, though the next one may.
    """
    return 2 * ((1 - score) / units) ** 2


def quantile(freedom: np.ndarray | float) -> Any:
    """Student's, of the upper end of an interval."""
    from scipy.special import stdtrit

    return stdtrit(freedom, 0.5 + LEVEL / 2)


def wider_by_draws(of_test: np.ndarray, between: np.ndarray, units: int, draws: int) -> np.ndarray:
    """[tap], the factor by which an interval is wider where so few draws say the variance `between` them.

    Beside it stands that of the test units, `of_test`. It is the ratio of Student's quantiles, with the degrees of
    freedom of the sum of both variances by Welch (1947) and Satterthwaite (1946) and with those of the units.
    """
    of_units = max(units - 1, 1)
    squares = of_test**2 / of_units + between**2 / max(draws - 1, 1)
    freedom = np.divide((of_test + between) ** 2, squares, out=np.full_like(squares, of_units), where=squares > 0)
    return quantile(np.minimum(freedom, of_units)) / quantile(of_units)


def _losses(lost: np.ndarray, around: np.ndarray, counts: bool) -> Losses:
    """Losses [tap, row, part] beside a reference [row, part], without the last axis where it has one part."""
    reference = np.broadcast_to(around, lost.shape)
    one = lost.shape[2] == 1
    return Losses(lost[..., 0], reference[..., 0], counts) if one else Losses(lost, reference, counts)

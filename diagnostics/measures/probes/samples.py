"""Probes that predict a class or a value of each sample: the way from activations to a readout that they share."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.measures.probes.out_of_fold import RidgeOutOfFold
from diagnostics.measures.probes.protocol import (
    Probe,
    Readout,
    Rows,
    Split,
    TapReadouts,
    angular_error,
    commonest,
    folds,
    label_rows,
    probe_result,
    sum_by_unit,
    tap_stacks,
    value_rows,
    widest,
)
from diagnostics.measures.result import FEATURES
from diagnostics.measures.statistics import Losses


@dataclass(frozen=True)
class Task:
    """The values to be predicted, and what counts as lost.

    `values` are class numbers, int [sample], or float [sample, column]; `by_part` makes errors [..., column] losses
    [..., part]; `naive` are losses [sample, part] of a forecast that stands for the mean. `whole`: losses out of fold
    choose.
    """

    target: StoredTarget
    rows: Rows
    values: np.ndarray
    seed: int
    whole: bool
    by_part: Callable[[Any], Any] = lambda errors: errors**2
    naive: np.ndarray | None = None

    @property
    def label(self) -> bool:
        """Test for classes."""
        return self.target.kind == "label"

    @cached_property
    def numbers(self) -> np.ndarray:
        """The classes [class]; numbers that no row has would be classes without a solution."""
        return np.unique(self.values[self.rows.train])

    @cached_property
    def codes(self) -> np.ndarray:
        """The place of each sample's class among the classes."""
        return np.searchsorted(self.numbers, self.values)

    @cached_property
    def fold(self) -> np.ndarray:
        """The fold of each row of train and val, as of `folds`."""
        return folds(self.rows, self.codes[self.rows.fit], self.seed)

    @cached_property
    def ridge(self) -> RidgeOutOfFold:
        """The choice of ridge's penalty out of fold."""
        fit = self.rows.fit
        return RidgeOutOfFold(
            self.rows, self.values[fit], self.by_part, self.seed, None if self.naive is None else self.naive[fit]
        )

    def lost(self, read: np.ndarray, at: np.ndarray) -> np.ndarray:
        """[..., row, part], of predictions [..., row] or [..., row, column] for some rows."""
        return (read != self.values[at])[..., None] if self.label else self.by_part(read - self.values[at])

    def reference_of(self, fitted: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Losses against which those of some rows are held, [row, part].

        Of classes 1 a row, of values the loss of the mean of the rows fitted.
        """
        if self.label:
            return np.ones((len(at), 1))
        return (
            self.by_part(self.values[at] - self.values[fitted].mean(axis=0)) if self.naive is None else self.naive[at]
        )


@dataclass(frozen=True)
class Choice:
    """The choice for some taps: numbers [tap] by name.

    Beside them stand their losses on val [tap, val row, part], those out of fold [tap, fit row, part] where they
    choose, and what the last fit may start from.
    """

    numbers: dict[str, np.ndarray]
    val: np.ndarray
    out_of_fold: np.ndarray | None = None
    start: Any = None


@dataclass(frozen=True)
class TapRead:
    """The reading at a tap: the numbers chosen, losses summed [unit, part], and predictions on test.

    Predictions are [row, column] where the target is one number.
    """

    numbers: dict[str, float]
    sums: dict[Split, np.ndarray]
    guess: np.ndarray | None


class SampleProbe(Probe):
    """A probe of a class or of values of each sample: a subclass chooses and fits, for some taps at a time."""

    def task(self, activations: Activations, target: StoredTarget, seed: int) -> Task:
        """The task of a target: a class, or values of one or several columns.

        A target that goes round is cosine and sine.
        """
        rows, values = (label_rows if target.kind == "label" else value_rows)(activations, target)
        task = Task(target, rows, values, seed, activations.choose_on == "fit")
        # Cosine and sine are one, horizons each their own.
        return (
            replace(task, by_part=lambda errors: (errors**2).sum(-1, keepdims=True))
            if target.period is not None
            else task
        )

    def stacks(self, activations: Activations, task: Task) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Numbers of taps, and what is read from them, [tap, row, ...]."""
        for taps, x in tap_stacks(activations, self.name):
            yield range(taps.start, taps.start + len(x)), x
            del x

    @abstractmethod
    def choose(self, task: Task, x: Tensor) -> Choice:
        """The choice by train and val for the taps of x [tap, row, ...]."""

    @abstractmethod
    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> TapReadouts:
        """The readouts fitted on train and val with chosen numbers [tap].

        `start`: of the `Choice`, where it was made here.
        """

    @abstractmethod
    def attributes(self, task: Task) -> dict[str, Any]:
        """The attributes `functional` and `centring` of a result, and others."""

    def beside(self, task: Task, read: Mapping[int, np.ndarray], losses: Losses) -> dict[str, Any]:
        """Further variables, from predictions on test by tap, and losses [tap, unit, part].

        Predictions are [row, column] where the target is one number.
        """
        return {}

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        task = self.task(activations, target, int(choice["seed"]))
        _, x = next(self.stacks(activations.with_other(taps=[tap]), task))
        return self.fits(task, x, {name: np.array([value]) for name, value in choice.items()})

    def at_tap(self, activations: Activations, target: StoredTarget, tap: Tap, seed: int) -> Any:
        ((_, found),) = self._read(activations.with_other(taps=[tap]), self.task(activations, target, seed))
        return found

    def _read(self, activations: Activations, task: Task) -> Iterator[tuple[str, TapRead]]:
        """Each tap's name, and what is read there."""
        rows = task.rows
        for taps, x in self.stacks(activations, task) if activations.taps else ():
            choice = self.choose(task, x)
            guess = self.fits(task, x, choice.numbers, choice.start)(x[:, rows.test])
            for j, i in enumerate(taps):
                test = sum_by_unit(task.lost(guess[j], rows.test), rows)
                sums: dict[Split, np.ndarray] = {"test": test, "val": sum_by_unit(choice.val[j], rows, "val")}
                if choice.out_of_fold is not None:
                    sums["fit"] = sum_by_unit(choice.out_of_fold[j], rows, "fit")
                numbers = {name: float(values[j]) for name, values in choice.numbers.items()}
                kept = guess[j] if test.shape[1] == 1 and not task.label else None
                yield activations.taps[i].name, TapRead(numbers, sums, kept)
            del x, choice, guess

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        task = self.task(activations, target, seed)
        rows, count, taps, key = task.rows, range(len(activations.taps)), activations.taps, self.key(target)
        ready: dict[str, TapRead] = {tap.name: of for tap in taps if (of := activations.ready.get((key, tap.name)))}
        missing = [tap for tap in taps if tap.name not in ready]
        ready.update(self._read(activations.with_other(taps=missing), task))
        found = [ready[tap.name] for tap in taps]
        numbers = {name: np.array([each.numbers[name] for each in found]) for name in found[0].numbers}
        read = {i: each.guess for i, each in enumerate(found) if each.guess is not None}
        around: dict[Split, np.ndarray] = {
            "test": task.reference_of(rows.fit, rows.test),
            "val": task.reference_of(rows.train, rows.val),
        }
        if "fit" in found[0].sums:
            around["fit"] = np.ones((len(rows.fit), 1)) if task.label else task.ridge.reference
        losses: dict[Split, Losses] = {}
        for split, each in around.items():
            lost = np.stack([of_tap.sums[split] for of_tap in found])
            losses[split] = Losses(lost, np.broadcast_to(sum_by_unit(each, rows, split), lost.shape))
        extra = dict[str, Any](numbers)
        if target.period is not None:
            extra["angular_error"] = [angular_error(task.target, read[i], rows.test) for i in count]
        if task.label:
            extra |= commonest(task.values, rows, len(count))
        extra |= self.beside(task, read, losses["test"])
        if losses["test"].loss.shape[2] == 1:
            losses = {split: Losses(each.loss[..., 0], each.reference[..., 0]) for split, each in losses.items()}
        return probe_result(
            activations,
            rows,
            losses["test"].loss,
            losses["test"].reference,
            losses["val"],
            extra,
            seed=seed,
            oof=losses.get("fit"),
            **self.attributes(task),
        ).assign_attrs({FEATURES: widest(activations)})

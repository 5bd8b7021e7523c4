"""The protocol of all probes: rows of each split, losses by independent unit, and the form of a result."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import pad

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import over_taps, samples
from diagnostics.measures.base import Measure, Readout
from diagnostics.measures.result import (
    CENTRING,
    CHOSEN_ON,
    FUNCTIONAL,
    LOSSES,
    METRIC,
    POOLING,
    READOUT,
    REASON,
    SCORE_NAME,
    SEED,
    store_reasons,
)
from diagnostics.measures.statistics import Losses
from diagnostics.vocabulary import SPLITS

KEEP_TOKENS = " whose tokens are kept: raise the token budget (--token-budget)"
"""What `rows_of` advises where a split has no sample with tokens."""
Split = Literal["test", "val", "fit"]
"""Rows whose losses are summed; `fit`: train and val."""
MOST_VALUES = 2**28
"""Values of the taps that a GPU computes on together: 2 GiB in float64, and several times that while it computes."""


@dataclass(frozen=True)
class Rows:
    """Rows with a known target in each split, int [row].

    `units` (group names) of test, of val and of both train and val (`fit`, empty where nothing is left out of them),
    and each row's unit.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    units: np.ndarray
    unit_of_test: np.ndarray
    val_units: np.ndarray
    unit_of_val: np.ndarray
    fit_units: np.ndarray = field(default_factory=lambda: np.empty(0))
    unit_of_fit: np.ndarray = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, by_split: Mapping[str, np.ndarray], groups: np.ndarray) -> Self:
        """With the units of `groups` [sample]."""
        rows = by_split["test"], by_split["val"], np.concatenate([by_split["train"], by_split["val"]])
        test, val, fit = (np.unique(groups[some].astype(str), return_inverse=True) for some in rows)
        return cls(by_split["train"], by_split["val"], by_split["test"], *test, *val, *fit)

    @property
    def fit(self) -> np.ndarray:
        """Train and val, on which the chosen hyperparameter is fitted again."""
        return np.concatenate([self.train, self.val])


class TapReadouts(Readout):
    """Readouts of several taps side by side; `predict` is that of the first."""

    @abstractmethod
    def __call__(self, x: Tensor) -> np.ndarray:
        """[tap, row] or [tap, row, column], from float64 x [tap, row, feature], or [tap, row, token, feature]."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self(torch.tensor(x, device="cpu")[None])[0]


class Probe(Measure):
    """A measure that reads out a target, on one thread.

    Its features are standardised unless it says otherwise.
    """

    invariant_to = ("scale", "shift")

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        if target is None:
            raise DiagnosticsError(
                f"{self.name} reads out a target, and none was given: choose a dataset with targets.", code="no-target"
            )
        return self.read_out(activations, target, seed)

    @abstractmethod
    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        """The result of `compute` for a target."""


class ClassOrValueProbe(Probe):
    """A probe whose score is accuracy of classes, and R2 of everything else."""

    losses, score_name, metric, chance = "squares", "R2", "r_squared", 0.0

    def declaration(self, target: StoredTarget | None) -> dict[str, Any]:
        if target is not None and target.kind == "label":
            return {LOSSES: "counts", SCORE_NAME: "accuracy", METRIC: "accuracy", READOUT: self.readout}
        return super().declaration(target)


def rows_of(
    activations: Activations, target: str, known: np.ndarray, remedy: str = ": leave it out or use more samples"
) -> Rows:
    """Rows by split where `known` [sample] (shorter: the first rows only); raises where a split has none."""
    split = activations.split[: len(known)]
    by_split = {name: np.flatnonzero(known & (split == name)) for name in SPLITS}
    if empty := [name for name, rows in by_split.items() if len(rows) == 0]:
        raise DiagnosticsError(f"Target {target} is known for no {empty[0]} sample{remedy}.", code="too-few")
    return Rows.of(by_split, activations.groups)


def value_columns(target: StoredTarget) -> np.ndarray:
    """The values of a real-valued target, float64 [sample, column].

    A target that goes round (`period`) has two columns, the cosine and sine of its angle: its ends must meet.
    """
    values = np.asarray(target.values, dtype=np.float64).reshape(len(target.values), -1)
    if target.period is not None:
        angle = values * (2 * np.pi / target.period)
        values = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return values


def value_rows(activations: Activations, target: StoredTarget) -> tuple[Rows, np.ndarray]:
    """Rows where a real-valued target is known, and its `value_columns`."""
    values = value_columns(target)
    known: np.ndarray = np.asarray(np.isfinite(values).all(axis=1))
    return rows_of(activations, target.name, known), values


def angular_error(target: StoredTarget, prediction: np.ndarray, rows: np.ndarray) -> float:
    """Mean absolute difference, the short way round, between a target and predictions [row, cosine and sine].

    In the target's units; half its period at most, a quarter by chance.
    """
    assert target.period is not None
    turn = np.arctan2(prediction[:, 1], prediction[:, 0]) / (2 * np.pi) - target.values[rows] / target.period
    return float(np.abs(turn - np.round(turn)).mean() * target.period)


def label_rows(activations: Activations, target: StoredTarget) -> tuple[Rows, np.ndarray]:
    """Rows where the class is known, and the labels int [sample]; raises where train does not show every class."""
    labels = np.asarray(target.values).astype(np.int64)
    rows = rows_of(activations, target.name, labels >= 0)
    seen = np.unique(labels[rows.train])
    if len(seen) < 2:
        count = len(rows.train)
        raise DiagnosticsError(
            f"Target {target.name} has only one class in its {count} train samples: use more samples.", code="too-few"
        )
    if missing := sorted(set(np.unique(labels[labels >= 0]).tolist()) - set(seen.tolist())):
        names = ", ".join(target.classes[c] if c < len(target.classes) else str(c) for c in missing)
        raise DiagnosticsError(
            f"Target {target.name} has no train sample of class {names}: use more samples of it, leave it out, or mark it "
            f"unknown (-1).",
            code="too-few",
        )
    return rows, labels


FOLDS = 5
# Draws of folds, of which the one is taken that leaves the fewest classes without a row to fit on.
_DRAWS = 20


def folds(rows: Rows, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """The fold of each row of train and val, int [fit row]: 0 for val, the others for groups of train.

    So the fits without fold 0 are those on train, which give the losses on val. `labels` (codes from 0) [fit row]:
    groups with the same rarest class are dealt out evenly, larger ones first, so that folds have similar shares of
    classes, and of rows.
    """
    inside = np.arange(len(rows.fit)) < len(rows.train)
    units, unit_of = np.unique(rows.unit_of_fit[inside], return_inverse=True)
    codes = np.zeros(len(rows.fit), dtype=np.int64) if labels is None else labels
    has = np.zeros((len(units), int(codes.max()) + 1), dtype=bool)
    has[unit_of, codes[inside]] = True
    # A class with groups in val too is never left without a row.
    at_risk = ~np.isin(np.arange(has.shape[1]), codes[~inside])
    rarest, sizes = np.where(has, has.sum(axis=0), np.inf).argmin(axis=1), np.bincount(unit_of)
    drawn = np.random.default_rng(seed).random((_DRAWS if at_risk.any() else 1, len(units)))
    # The place of each group in an order gives its fold.
    dealt = [np.argsort(np.lexsort((each, -sizes, rarest))) % (FOLDS - 1) + 1 for each in drawn]
    in_folds = [sum(has[each == fold].any(axis=0).astype(int) for fold in np.unique(each)) for each in dealt]
    alone = [(at_risk & (each == 1)).sum() for each in in_folds]
    result = np.zeros(len(rows.fit), dtype=np.int64)
    result[inside] = dealt[int(np.argmin(alone))][unit_of]
    return result


def sum_by_unit(values: np.ndarray, rows: Rows, split: Split = "test") -> np.ndarray:
    """[unit, ...], the sums over each unit's rows of values [test, val or fit row, ...]."""
    units, unit_of = {
        "test": (rows.units, rows.unit_of_test),
        "val": (rows.val_units, rows.unit_of_val),
        "fit": (rows.fit_units, rows.unit_of_fit),
    }[split]
    sums = np.zeros((len(units), *values.shape[1:]))
    np.add.at(sums, unit_of, values)
    return sums


def commonest(labels: np.ndarray, rows: Rows, taps: int) -> dict[str, np.ndarray]:
    """A reference line [tap]: the accuracy on test of always saying the class that most fitted rows have."""
    return {"line_commonest": np.full(taps, (labels[rows.test] == np.bincount(labels[rows.fit]).argmax()).mean())}


def widest(activations: Activations) -> int:
    """The features of the widest tap, its poolings side by side."""
    return max(tap.features for tap in activations.taps) * len(activations.poolings)


def tap_stacks(activations: Activations, measure: str) -> Iterator[tuple[slice, Tensor]]:
    """(taps, float64 [tap, row, feature]) through all taps in order, pooled activations on the device to compute on.

    One tap at a time on a CPU, where nothing is gained by more; on a GPU as many as fit, the narrower ones filled up
    with zeros, which every probe drops as constant features.
    """
    device = activations.device if activations.device.startswith("cuda") else "cpu"
    rows = len(activations.ids)
    most = 1 if device == "cpu" else max(1, MOST_VALUES // (rows * widest(activations)))
    for start in range(0, len(activations.taps), most):
        taps = activations.taps[start : start + most]
        pooled = [samples(activations.pooled(tap.name), f"Tap {tap.name} for {measure}").to(device) for tap in taps]
        width = max(x.shape[1] for x in pooled)
        stack = pooled[0][None] if len(pooled) == 1 else torch.stack([pad(x, (0, width - x.shape[1])) for x in pooled])
        yield slice(start, start + len(taps)), stack
        del pooled, stack  # before the next is read


def probe_result(
    activations: Activations,
    rows: Rows,
    loss: np.ndarray,
    reference: np.ndarray,
    val: Losses | np.ndarray,
    extra: Mapping[str, Any],
    functional: str,
    centring: str,
    seed: int,
    oof: Losses | None = None,
    reasons: Iterable[tuple[str, str]] = (),
    **attrs: Any,
) -> xr.Dataset:
    """A probe's dataset.

    `loss`, `reference_loss` [tap, unit(, part)], the same of val with `val_score` [tap], and `extra` [tap].

    `val`: losses on val by the fit on train, or the score [tap] alone where no tap is chosen for a target. `oof`:
    losses of train and val out of fold, [tap, fit_unit(, part)], where they choose.
    Attributes `n_train`, `n_val`, `n_test` count samples, `units_train` and so on independent groups. `reasons` are the
    pairs (tap, reason) of the taps without a value.
    """
    by_split = {"train": rows.train, "val": rows.val, "test": rows.test}
    axes = ("tap", "unit", "part")[: loss.ndim]
    variables = {"loss": (axes, loss), "reference_loss": (axes, reference), "val_score": val, **extra}
    units = {"unit": rows.units.astype(object)}
    if isinstance(val, Losses):
        axes = ("tap", "val_unit", "part")[: loss.ndim]
        variables |= {"val_score": val.scores, "val_loss": (axes, val.loss), "val_reference": (axes, val.reference)}
        units["val_unit"] = rows.val_units.astype(object)
    if oof is not None:
        axes = ("tap", "fit_unit", "part")[: loss.ndim]
        variables |= {"oof_loss": (axes, oof.loss), "oof_reference": (axes, oof.reference)}
        units["fit_unit"] = rows.fit_units.astype(object)
    everything = {
        FUNCTIONAL: functional,
        POOLING: activations.pooling,
        CENTRING: centring,
        **{f"n_{name}": len(chosen) for name, chosen in by_split.items()},
        **{f"units_{name}": len(set(activations.groups[chosen])) for name, chosen in by_split.items()},
        SEED: seed,
        CHOSEN_ON: "val" if oof is None else "fit",
        REASON: store_reasons(reasons),
        **attrs,
    }
    return over_taps(activations, variables, everything, **units)

"""The probe behind a score, fitted again from stored activations: with its standardisation, for new samples.

A run stores what a probe lost on test and the penalty (or number of neighbours) that val chose, not its coefficients. They
follow from the pooled activations, which are there: the same rows, the same solver, the stored choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures.arrays import ShortRepr, as_tensor, finite, one_thread
from diagnostics.measures.probes.least_squares import ridge
from diagnostics.measures.probes.nearest import knn
from diagnostics.measures.probes.protocol import Rows, label_rows, rows_of, value_rows
from diagnostics.measures.probes.softmax import FINAL, PENALTIES, RANKING, LogisticRows
from diagnostics.measures.statistics import Interval
from diagnostics.runs.recommendation import recommend

if TYPE_CHECKING:
    from diagnostics.runs.profile import Profile
    from diagnostics.runs.run import Run

POOLED = ("label", "value", "state", "future")
"""Kinds of target that are read from pooled activations."""


class Readout(Protocol):
    """What was fitted: the numbers [row, column] or the class codes [row] that it reads out of x [row, feature]."""

    def __call__(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, repr=False)
class Linear(ShortRepr):
    """x @ `weights` [feature, column] + `bias` [column], the standardisation multiplied in."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


@dataclass(frozen=True, repr=False)
class LargestScore(ShortRepr):
    """The code of the class whose score is largest."""

    scores: Linear

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.scores(x).argmax(axis=1)


@dataclass(frozen=True, repr=False)
class Neighbours(ShortRepr):
    """The class of the `k` rows of `bank` [row, feature] that are nearest; see `diagnostics.measures.probes.knn`."""

    bank: np.ndarray
    codes: np.ndarray
    k: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return knn(self.bank, self.codes, x, self.k)


@dataclass(frozen=True, repr=False)
class FittedProbe(ShortRepr):
    """A probe as it was read on test: fitted on train and val, with the choice that val made.

    `tap` and `pooling` say what it reads, as `Encoder.transform` and `Run.features` give it; `score` is its score on test with
    its interval, as the run recorded it; `classes` are the names (or numbers) of a label's classes, `units` those of a value.
    `readout` holds what was fitted: of a linear probe `weights` and `bias`.
    """

    measure: str
    target: str
    tap: str
    pooling: tuple[str, ...]
    features: int
    score: Interval
    units: str
    classes: tuple[Any, ...]
    period: float | None
    readout: Readout = field(repr=False)

    @one_thread()
    def predict(self, features: Any) -> np.ndarray:
        """What the probe says of each sample: [sample], of a target with several horizons [sample, horizon].

        Of a label the class, by its name where the target names its classes, and as a number where the names are whole numbers or
        there are none; of a value a number in the
        target's units; of a value with a period a number from 0 up to the period.

        Parameters
        ----------
        features: [sample, feature] at the probe's tap and pooling, numpy, torch or xarray.

        Raises DiagnosticsError for another width, for a `Run.features` of another tap, and for NaN or infinity.
        """
        read = self.readout(self._checked(features))
        if self.classes:
            return _as_given(self.classes)[read]
        if self.period is not None:
            turns = np.arctan2(read[:, 1], read[:, 0]) / (2 * np.pi)
            # The remainder of a tiny negative number is the divisor itself.
            return (turns % 1.0) % 1.0 * self.period
        return read[:, 0] if read.shape[1] == 1 else read

    def _checked(self, features: Any) -> np.ndarray:
        """float64 [sample, feature] of the probe's tap."""
        if isinstance(features, xr.DataArray):
            tap = features.attrs.get("tap", self.tap)
            if tap != self.tap:
                raise DiagnosticsError(
                    f"The probe {self.measure}/{self.target} reads tap {self.tap}, and these are features of {tap}: give those of "
                    f'{self.tap}, or ask for run.probe("{self.target}", tap="{tap}").'
                )
            features = features.values
        x = as_tensor(features).cpu()
        if x.ndim != 2 or x.shape[1] != self.features:
            raise DiagnosticsError(
                f"The probe {self.measure}/{self.target} reads {self.features} features a sample, {' and '.join(self.pooling)} at "
                f"tap {self.tap}, and was given shape {tuple(x.shape)}: give encoder.transform(samples, tap=probe.tap, "
                "pooling=probe.pooling), or run.features(probe.tap)."
            )
        return finite(x, "What the probe was given").numpy()

    def __str__(self) -> str:
        return f"{self.measure} of {self.target} at {self.tap} ({' and '.join(self.pooling)}): {self.score}"


@one_thread()
def fitted_probe(run: Run, target: str, measure: str, tap: str | None) -> FittedProbe:
    """What `Run.probe` returns."""
    profile = _profile(run, f"{measure}/{target}")
    stored = run.store.targets()[target]
    if measure not in _FIT or stored.kind not in POOLED:
        raise DiagnosticsError(
            f"{profile.name} cannot be fitted again here: only probes that read pooled activations can ({', '.join(_FIT)}, of a "
            f"target of kind {', '.join(POOLED[:-1])} or {POOLED[-1]})."
        )
    if tap is None:
        tap = recommend(profile).tap or profile.best_tap
        if tap is None:
            raise DiagnosticsError(f"No tap of {profile.name} has a score on val: name one with tap=.")
    elif tap not in profile.taps:
        raise unknown("tap", tap, profile.taps)
    x = run.store.pooled(tap)
    at = profile.data.sel(tap=tap)
    classes, readout = _FIT[measure](run, stored, x, at)
    return FittedProbe(
        measure, target, tap, tuple(run.store.poolings), x.shape[1],
        Interval(*(float(at[key]) for key in ("score", "low", "high"))),
        stored.units, classes, stored.period, readout,
    )  # fmt: skip


def _as_given(classes: Sequence[Any]) -> np.ndarray:
    """Class names, or the whole numbers that all of them are: labels that were numbers in a file are to be compared as such."""
    names = np.asarray(classes)
    numbers = [str(name).removeprefix("-").isdecimal() and str(int(name)) == str(name) for name in classes]
    return names.astype(np.int64) if all(numbers) else names


def _measures() -> list[str]:
    from diagnostics.registry import offered

    return list(offered("measure"))


def _profile(run: Run, name: str) -> Profile:
    """The profile of a probe; where it was not measured, the refusal says why and how to."""
    measure, _, target = name.partition("/")
    known = [profile.name for profile in run.profiles() if profile.is_probe]
    if name in known:
        return run.profile(name)
    why = run.skipped.get(name) or run.skipped.get(measure)
    if why:
        raise DiagnosticsError(f"{run.path} holds no fitted {measure} of {target}: {why}")
    targets = run.store.targets()
    if target not in targets:
        raise unknown("target", target, targets)
    if measure not in (bundled := _measures()):
        raise unknown("measure", measure, bundled)
    if measure not in _FIT:
        raise DiagnosticsError(
            f"{measure} of {target} cannot be fitted again here: only probes that read pooled activations can ({', '.join(_FIT)})."
        )
    fitted = [other.partition("/")[0] for other in known if other.partition("/")[2] == target]
    there = f"{' and '.join(fitted)} of it {'was' if len(fitted) == 1 else 'were'}" if fitted else "no probe of it was"
    raise DiagnosticsError(
        f"{measure} of {target} was not fitted in {run.path}, {there}: give the same run with --measures {measure}, which adds it "
        "without a new extraction."
    )


def _linear(run: Run, target: StoredTarget, x: np.ndarray, at: xr.Dataset) -> tuple[tuple[Any, ...], Readout]:
    penalty = float(at["penalty"])
    if target.kind == "label":
        return _logistic(run, target, x, penalty)
    rows, values = value_rows(run.store, target)
    return (), _ridge(x, values, rows, penalty)


def _logistic(run: Run, target: StoredTarget, x: np.ndarray, penalty: float) -> tuple[tuple[Any, ...], Readout]:
    """Along the measure's own way: through the stronger penalties on train to the chosen one, and from there on train and val.

    So the last fit starts where the measure's did, and ends at the same place to the last digits.
    """
    rows, labels = label_rows(run.store, target)
    numbers, codes = np.unique(labels[rows.train]), np.searchsorted(np.unique(labels[rows.train]), labels)
    stack = torch.from_numpy(x)[None]
    train = LogisticRows(stack[:, rows.train], codes[rows.train])
    fits = None
    for stronger in sorted(PENALTIES, reverse=True):
        if stronger >= penalty:
            fits = train.fit([[stronger]], decrease=RANKING, start=fits)
    again = LogisticRows(stack[:, rows.fit], codes[rows.fit], like=fits)
    fits = again.fit([[penalty]], decrease=FINAL, start=fits)
    weights, mean = fits.weights[0, 0].numpy().T, fits.mean[0].numpy()
    bias = fits.bias[0, 0].numpy() - mean @ weights
    return _names(target, numbers), LargestScore(Linear(weights, bias))


def _ridge(x: np.ndarray, values: np.ndarray, rows: Rows, penalty: float) -> Linear:
    path = ridge(x[rows.fit], values[rows.fit])
    return Linear(path.weights(penalty), path.intercept(penalty))


def _forecast(run: Run, target: StoredTarget, x: np.ndarray, at: xr.Dataset) -> tuple[tuple[Any, ...], Readout]:
    """As `ForecastProbe`: of the rows whose naive forecasts are known too."""
    assert target.naive is not None  # which it was measured with
    values, naive = (np.asarray(y, dtype=np.float64).reshape(len(y), -1) for y in (target.values, target.naive))
    known = np.asarray(np.isfinite(values).all(axis=1) & np.isfinite(naive).all(axis=1))
    rows = rows_of(run.store, target.name, known, ": leave it out or use more samples")
    return (), _ridge(x, values, rows, float(at["penalty"]))


def _nearest(run: Run, target: StoredTarget, x: np.ndarray, at: xr.Dataset) -> tuple[tuple[Any, ...], Readout]:
    rows, labels = label_rows(run.store, target)
    numbers, codes = np.unique(labels[rows.fit], return_inverse=True)
    return _names(target, numbers), Neighbours(x[rows.fit], codes, int(at["k"]))


def _names(target: StoredTarget, numbers: np.ndarray) -> tuple[Any, ...]:
    """Of each class code: the name of its class where the target names them, else its number."""
    return tuple(target.classes[c] if target.classes else c for c in numbers.tolist())


_FIT = {"linear_probe": _linear, "knn_probe": _nearest, "forecast_probe": _forecast}
"""How each measure whose probe can be fitted again from pooled activations is."""

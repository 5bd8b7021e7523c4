"""The probe behind a score, fitted again from stored activations: with its standardisation, for new samples.

A run stores what a probe lost on test and the penalty (or number of neighbours) that val chose, not its coefficients. They
follow from the activations, which are there: the same rows, the same solver, the stored choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import StoredTarget
from diagnostics.encoders.taps import Grid
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures.arrays import ShortRepr, as_tensor, finite, one_thread
from diagnostics.measures.probes.least_squares import ridge
from diagnostics.measures.probes.protocol import Rows, label_rows, rows_of, value_rows
from diagnostics.measures.probes.softmax import FINAL, PENALTIES, RANKING, LogisticRows
from diagnostics.measures.result import CHOSEN_ON
from diagnostics.measures.statistics import Interval
from diagnostics.runs.readouts import LargestScore, Linear, Neighbours, Readout
from diagnostics.runs.token_probes import ON_TOKENS, fit_on_tokens

if TYPE_CHECKING:
    from diagnostics.runs.profile import Profile
    from diagnostics.runs.run import Run

POOLED = ("label", "value", "state", "future")
"""Kinds of target that are read from pooled activations."""
_NOT_FITTED = {
    "position_probe": "its targets are places: call diagnostics.measures.locality.position_probe on run.features(tap, tokens=True)",
    "label_propagation": "it fits nothing: call diagnostics.measures.locality.label_propagation on the tokens of a video",
    "object_discovery": "it fits nothing: call diagnostics.measures.locality.object_discovery on run.features(tap, tokens=True)",
    "caption_probe": "it predicts embeddings of captions, and no caption: fit diagnostics.measures.probes.ridge on run.features(tap)",
}
"""Why there is nothing to hand over, and what to call instead."""


@dataclass(frozen=True, repr=False)
class FittedProbe(ShortRepr):
    """A probe as it was read on test: fitted on train and val, with the choice that val made.

    `tap` and `pooling` say what it reads, as `Encoder.transform` and `Run.features` give it: pooled values, or where `pooling`
    is empty the tokens of `grid`. `on` is the grid that its predictions lie on, None where there is one a sample. `score` is its score on
    test with its interval, as the run recorded it; `classes` are the names (or numbers) of a label's classes, `units` those of
    a value. `readout` holds what was fitted: of a linear probe `weights` and `bias`.

    Examples:
        >>> import diagnostics as dx
        >>> run = dx.open_run("runs/forecast")
        >>> probe = run.probe("hidden_z")
        >>> print(probe)
        linear_probe of hidden_z at blocks.3 (mean and last): 0.917 [0.833, 0.968]
        >>> probe.readout.weights.shape
        (96, 1)
        >>> probe.predict(run.features(probe.tap, split="test")).round()[:3]
        array([38., 41., 23.])
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
    grid: Grid | None = None
    on: Grid | None = None

    @one_thread()
    def predict(self, features: Any) -> np.ndarray:
        """What the probe says of each sample: [sample], of a target with several horizons [sample, horizon]; and of each token,
        [sample, token], where the target has a value for every place.

        Of a label the class, by its name where the target names its classes, and as a number where the names are whole numbers or
        there are none; of an event 1 or 0; of a value a number in the target's units; of a value with a period a number from 0 up
        to the period.

        Parameters
        ----------
        features: [sample, feature] at the probe's tap and pooling, or [sample, token, feature] of the tap's grid tokens where
            `pooling` is empty; numpy, torch or xarray.

        Raises DiagnosticsError for another shape, for a `Run.features` of another tap, and for NaN or infinity.
        """
        read = self.readout(self._checked(features))
        if self.classes:
            return _as_given(self.classes)[read]
        if self.period is not None:
            turns = np.arctan2(read[..., 1], read[..., 0]) / (2 * np.pi)
            # The remainder of a tiny negative number is the divisor itself.
            return (turns % 1.0) % 1.0 * self.period
        return read[..., 0] if read.shape[-1] == 1 else read

    def _checked(self, features: Any) -> np.ndarray:
        """float64 [sample, feature] or [sample, token, feature] of the probe's tap."""
        if isinstance(features, xr.DataArray):
            tap = features.attrs.get("tap", self.tap)
            if tap != self.tap:
                raise DiagnosticsError(
                    f"The probe {self.measure}/{self.target} reads tap {self.tap}, and these are features of {tap}: give those of "
                    f'{self.tap}, or ask for run.probe("{self.target}", "{self.measure}", "{tap}").'
                )
            features = features.values
        x = as_tensor(features).cpu()
        if self.grid is None:
            fits = x.ndim == 2 and x.shape[1] == self.features
            reads = f"{self.features} features a sample, {' and '.join(self.pooling)} at tap {self.tap}"
            give = "pooling=probe.pooling), or run.features(probe.tap)"
        else:
            fits = x.ndim == 3 and tuple(x.shape[1:]) == (self.grid.tokens, self.features)
            reads = f"{self.grid.tokens} tokens ({self.grid}) of {self.features} features at tap {self.tap}, prefix tokens left out"
            give = "tokens=True), or run.features(probe.tap, tokens=True)"
        if not fits:
            raise DiagnosticsError(
                f"The probe {self.measure}/{self.target} reads {reads}, and was given shape {tuple(x.shape)}: give "
                f"encoder.transform(samples, tap=probe.tap, {give}."
            )
        return finite(x, "What the probe was given").numpy()

    def __str__(self) -> str:
        return f"{self.measure} of {self.target} at {self.tap} ({' and '.join(self.pooling) or 'tokens'}): {self.score}"


@one_thread()
def fitted_probe(run: Run, target: str, measure: str, tap: str | None) -> FittedProbe:
    """What `Run.probe` returns."""
    profile = _profile(run, f"{measure}/{target}")
    stored = run.store.targets()[target]
    pooled = measure in _FIT and stored.kind in POOLED
    if not pooled and measure not in ON_TOKENS:
        raise DiagnosticsError(_refusal(profile.name, measure))
    if tap is None:
        tap = profile.chosen_tap
        if tap is None:
            raise DiagnosticsError(f"No tap of {profile.name} has a score by which to choose: name one with tap=.")
    elif tap not in profile.taps:
        raise unknown("tap", tap, profile.taps)
    at = profile.data.sel(tap=tap)
    grid = on = None
    if pooled:
        x = run.store.pooled(tap)
        numbers, readout = _FIT[measure](run, stored, x, at)
        features = x.shape[1]
    else:
        read = next(read for read in run.store.taps if read.name == tap)
        numbers, readout, on = fit_on_tokens(run.store, stored, read, measure, at)
        grid, features = read.grid, read.features
    classes = tuple(stored.classes[c] if stored.classes else c for c in numbers)
    return FittedProbe(
        measure, target, tap, tuple(run.store.poolings) if pooled else (), features,
        Interval(*(float(at[key]) for key in ("score", "low", "high"))),
        stored.units, classes, stored.period, readout, grid, on,
    )  # fmt: skip


def _refusal(name: str, measure: str) -> str:
    """Why a probe of no measure that is known here is handed over."""
    others = f"only those of {', '.join(sorted(_FIT | ON_TOKENS))} can: fit one of your own on run.features(tap)"
    return f"{name} cannot be fitted again here, since {_NOT_FITTED.get(measure, others)}."


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
    if measure not in _FIT and measure not in ON_TOKENS:
        raise DiagnosticsError(_refusal(f"{measure} of {target}", measure))
    fitted = [other.partition("/")[0] for other in known if other.partition("/")[2] == target]
    there = f"{' and '.join(fitted)} of it {'was' if len(fitted) == 1 else 'were'}" if fitted else "no probe of it was"
    raise DiagnosticsError(
        f"{measure} of {target} was not fitted in {run.path}, {there}: give the same run with --measures {measure}, which adds it "
        "without a new extraction."
    )


def _linear(run: Run, target: StoredTarget, x: np.ndarray, at: xr.Dataset) -> tuple[tuple[int, ...], Readout]:
    penalty = float(at["penalty"])
    if target.kind == "label":
        return _logistic(run, target, x, penalty, whole=at.attrs.get(CHOSEN_ON) == "fit")
    rows, values = value_rows(run.store, target)
    return (), _ridge(x, values, rows, penalty)


def _logistic(
    run: Run, target: StoredTarget, x: np.ndarray, penalty: float, whole: bool
) -> tuple[tuple[int, ...], Readout]:
    """Along the measure's own way: through the stronger penalties on train to the chosen one, and from there on train and val.

    So the last fit starts where the measure's did, and ends at the same place to the last digits. `whole`: whether features were
    standardised with train and val throughout, as where losses out of fold choose.
    """
    rows, labels = label_rows(run.store, target)
    numbers, codes = np.unique(labels[rows.train]), np.searchsorted(np.unique(labels[rows.train]), labels)
    stack = torch.from_numpy(x)[None]
    again = LogisticRows(stack[:, rows.fit], codes[rows.fit]) if whole else None
    first = torch.arange(len(rows.fit)) < len(rows.train)
    train = again.only(first, codes[rows.train]) if again else LogisticRows(stack[:, rows.train], codes[rows.train])
    fits = None
    for stronger in sorted(PENALTIES, reverse=True):
        if stronger >= penalty:
            fits = train.fit([[stronger]], decrease=RANKING, start=fits)
    again = again or LogisticRows(stack[:, rows.fit], codes[rows.fit], like=fits)
    fits = again.fit([[penalty]], decrease=FINAL, start=fits)
    return tuple(numbers.tolist()), LargestScore.of(fits)


def _ridge(x: np.ndarray, values: np.ndarray, rows: Rows, penalty: float) -> Linear:
    path = ridge(x[rows.fit], values[rows.fit])
    return Linear(path.weights(penalty), path.intercept(penalty))


def _forecast(run: Run, target: StoredTarget, x: np.ndarray, at: xr.Dataset) -> tuple[tuple[int, ...], Readout]:
    """As `ForecastProbe`: of the rows whose naive forecasts are known too."""
    assert target.naive is not None  # which it was measured with
    values, naive = (np.asarray(y, dtype=np.float64).reshape(len(y), -1) for y in (target.values, target.naive))
    known = np.asarray(np.isfinite(values).all(axis=1) & np.isfinite(naive).all(axis=1))
    rows = rows_of(run.store, target.name, known, ": leave it out or use more samples")
    return (), _ridge(x, values, rows, float(at["penalty"]))


def _nearest(run: Run, target: StoredTarget, x: np.ndarray, at: xr.Dataset) -> tuple[tuple[int, ...], Readout]:
    rows, labels = label_rows(run.store, target)
    numbers, codes = np.unique(labels[rows.fit], return_inverse=True)
    return tuple(numbers.tolist()), Neighbours(x[rows.fit], codes, int(at["k"]))


_FIT = {"linear_probe": _linear, "knn_probe": _nearest, "forecast_probe": _forecast}
"""How each measure whose probe can be fitted again from pooled activations is."""

"""The probe behind a score, fitted again from stored activations: with its standardisation, for new samples.

A run stores what a probe lost on test and the penalty (or number of neighbours) that val chose, not its coefficients. They
follow from the activations, which are there, by the `fit` of the measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from diagnostics.encoders.taps import Grid
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures.arrays import ShortRepr, as_tensor, finite, one_thread
from diagnostics.measures.base import Measure, Readout
from diagnostics.measures.result import CHOSEN_ON, SEED
from diagnostics.measures.statistics import Interval
from diagnostics.registry import offered
from diagnostics.vocabulary import DENSE

if TYPE_CHECKING:
    from diagnostics.runs.profile import Profile
    from diagnostics.runs.run_data import RunData
CLASSES = ("label", "token_label", "event")
"""Kinds of target of which a class is predicted."""


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
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)
    """The numbers by which the target holds `classes`."""

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
        read = self.readout.predict(self._checked(features))
        if self.classes:
            return _as_given(self.classes)[np.searchsorted(self.numbers, read)]
        if self.period is not None:
            turns = np.arctan2(read[..., 1], read[..., 0]) / (2 * np.pi)
            # The remainder of a tiny negative number is the divisor itself.
            return (turns % 1.0) % 1.0 * self.period
        several = read.ndim > (1 if self.on is None else 2)
        return read[..., 0] if several and read.shape[-1] == 1 else read

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
def fitted_probe(run: RunData, target: str, measure: str | Measure, tap: str | None) -> FittedProbe:
    """What `Run.probe` returns."""
    name = measure if isinstance(measure, str) else measure.name
    profile = _profile(run, name, target, measure)
    probe, stored, store = _measure(measure), run.store.targets()[target], run.store
    if tap is None:
        tap = profile.chosen_tap
        if tap is None:
            raise DiagnosticsError(f"No tap of {profile.name} has a score by which to choose: name one with tap=.")
    elif tap not in profile.taps:
        raise unknown("tap", tap, profile.taps)
    tokens = probe.needs == "tokens" or stored.kind in DENSE
    if tokens and store.tokens_removed:
        raise DiagnosticsError(
            f"{profile.measure} of {target} is fitted again from tokens, and those of {store.path} were removed (`diagnostics clean`): "
            "give the same `diagnostics run` command again with another measure that reads tokens (as cka), which extracts them again."
        )
    (read,) = (each for each in store.taps if each.name == tap)
    at = profile.data.sel(tap=tap)
    choice = {str(key): float(value) for key, value in at.data_vars.items() if value.ndim == 0}
    activations = store.with_other(device="cpu", choose_on=at.attrs.get(CHOSEN_ON, "val"))
    readout = probe.fit(activations, stored, read, choice | {"seed": int(at.attrs[SEED])})
    on = getattr(readout, "on", None)
    values = stored.values if on is None else stored.tokens(on)[: store.token_samples]
    numbers = np.unique(values[values >= 0]).astype(np.int64) if stored.kind in CLASSES else np.zeros(0, dtype=np.int64)
    return FittedProbe(
        name, target, tap, () if tokens else tuple(store.poolings),
        read.features if tokens else activations.pooled(tap).shape[1],
        Interval(*(float(at[key]) for key in ("score", "low", "high"))), stored.units,
        tuple(stored.classes[c] if stored.classes else c for c in numbers.tolist()), stored.period, readout,
        read.grid if tokens else None, on, numbers,
    )  # fmt: skip


def _measure(measure: str | Measure) -> Measure:
    """The measure of a name; raises where no plugin offers it."""
    if isinstance(measure, Measure):
        return measure
    known = offered("measure")
    if measure not in known:
        raise unknown("measure", measure, known)
    return known[measure][1]()


def _as_given(classes: Sequence[Any]) -> np.ndarray:
    """Class names, or the whole numbers that all of them are: labels that were numbers in a file are to be compared as such."""
    names = np.asarray(classes)
    numbers = [str(name).removeprefix("-").isdecimal() and str(int(name)) == str(name) for name in classes]
    return names.astype(np.int64) if all(numbers) else names


def _profile(run: RunData, measure: str, target: str, given: str | Measure) -> Profile:
    """The profile of a probe; where it was not measured, the refusal says why and how to."""
    name = f"{measure}/{target}"
    known = [profile.name for profile in run.profiles() if profile.is_probe]
    if name in known:
        return run.profile(name)
    why = run.skipped.get(name) or run.skipped.get(measure)
    if why:
        raise DiagnosticsError(f"{run.path} holds no fitted {measure} of {target}: {why}")
    targets = run.store.targets()
    if target not in targets:
        raise unknown("target", target, targets)
    probe = _measure(given)
    if type(probe).fit is Measure.fit:
        probe.fit(run.store, targets[target], run.store.taps[0], {})
    fitted = [other.partition("/")[0] for other in known if other.partition("/")[2] == target]
    there = f"{' and '.join(fitted)} of it {'was' if len(fitted) == 1 else 'were'}" if fitted else "no probe of it was"
    raise DiagnosticsError(
        f"{measure} of {target} was not fitted in {run.path}, {there}: give the same run with --measures {measure}, which adds it "
        "without a new extraction."
    )

"""Results that are computed anew from a finished run.

Fitted probes, similarity with another run, and its output tap beside the tap before it.

A run stores what a probe lost on test and the penalty (or number of neighbours) that was chosen, not its coefficients.
They follow from the activations, which are there, by the `fit` of the measure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch.utils.data import default_collate

from diagnostics.activations.contract import Activations
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import pool
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError, check_known, name_error
from diagnostics.measures import CATALOGUE
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import FEWEST_COMPARED, too_few
from diagnostics.measures.arrays import ShortRepr, as_tensor, finite
from diagnostics.measures.base import Measure, Readout
from diagnostics.measures.similarity import cka
from diagnostics.measures.similarity.base import Similarity
from diagnostics.measures.statistics import Interval
from diagnostics.measures.threads import one_thread
from diagnostics.registry import plugin_entries
from diagnostics.report.numbers import format_number, number
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.run_data import RunData
from diagnostics.runs.setup import select_measures
from diagnostics.vocabulary import DENSE

CLASSES = ("label", "token_label", "event")
"""Kinds of target of which a class is predicted."""


@dataclass(frozen=True, repr=False)
class FittedProbe(ShortRepr):
    """A probe as it was read on test: fitted on train and val, with the choice that val made.

    `tap` and `pooling` say what it reads, as `Encoder.transform` and `Run.features` give it: pooled values, or where
    `pooling` is empty the tokens of `grid`. `on` is the grid that its predictions lie on, None where there is one a
    sample. `score` is its score on test with its interval, as the run recorded it; `classes` are the names (or numbers)
    of a label's classes, `units` those of a value. `readout` holds what was fitted: of a linear probe `weights` and
    `bias`.

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
        """The prediction for each sample: [sample], of a target with several horizons [sample, horizon].

        And of each token, [sample, token], where the target has a value for every place.

        Of a label the class, by its name where the target names its classes, and as a number where the names are whole
        numbers or there are none; of an event 1 or 0; of a value a number in the target's units; of a value with a
        period a number from 0 up to the period.

        Parameters
        ----------
        features: [sample, feature] at the probe's tap and pooling, or [sample, token, feature] of the tap's grid tokens
        where
            `pooling` is empty; numpy, torch or xarray.

        Raises DiagnosticsError for another shape, for a `Run.features` of another tap, and for NaN or infinity.
        """
        read = self.readout.predict(self._check(features))
        if self.classes:
            return _as_given(self.classes)[np.searchsorted(self.numbers, read)]
        if self.period is not None:
            turns = np.arctan2(read[..., 1], read[..., 0]) / (2 * np.pi)
            # The remainder of a tiny negative number is the divisor itself.
            return (turns % 1.0) % 1.0 * self.period
        several = read.ndim > (1 if self.on is None else 2)
        return read[..., 0] if several and read.shape[-1] == 1 else read

    def _check(self, features: Any) -> np.ndarray:
        """float64 [sample, feature] or [sample, token, feature] of the probe's tap."""
        if isinstance(features, xr.DataArray):
            tap = features.attrs.get("tap", self.tap)
            if tap != self.tap:
                raise DiagnosticsError(
                    f"The probe {self.measure}/{self.target} reads tap {self.tap}, and these are features of {tap}: "
                    f"give those of "
                    f'{self.tap}, or ask for run.probe("{self.target}", "{self.measure}", "{tap}").',
                    code="bad-tap",
                )
            features = features.values
        x = as_tensor(features).cpu()
        if self.grid is None:
            fits = x.ndim == 2 and x.shape[1] == self.features
            reads = f"{self.features} features a sample, {' and '.join(self.pooling)} at tap {self.tap}"
            give = "pooling=probe.pooling), or run.features(probe.tap)"
        else:
            fits = x.ndim == 3 and tuple(x.shape[1:]) == (self.grid.tokens, self.features)
            reads = (
                f"{self.grid.tokens} tokens ({self.grid}) of {self.features} features at tap {self.tap}, prefix "
                f"tokens left out"
            )
            give = "tokens=True), or run.features(probe.tap, tokens=True)"
        if not fits:
            raise DiagnosticsError(
                f"The probe {self.measure}/{self.target} reads {reads}, and was given shape {tuple(x.shape)}: give "
                f"encoder.transform(samples, tap=probe.tap, {give}.",
                code="bad-shape",
            )
        return finite(x, "What the probe was given").numpy()

    def __str__(self) -> str:
        return f"{self.measure} of {self.target} at {self.tap} ({' and '.join(self.pooling) or 'tokens'}): {self.score}"


@one_thread()
def fit_probe(run: RunData, target: str, measure: str | Measure | None, tap: str | None) -> FittedProbe:
    """The probe that `Run.probe` returns."""
    measure = measure or _default_probe(run, target)
    name = measure if isinstance(measure, str) else measure.name
    profile = _profile(run, name, target, measure)
    probe, stored, store = _measure(measure), run.store.targets()[target], run.store
    if tap is None:
        tap = profile.chosen_tap
        if tap is None:
            raise DiagnosticsError(
                f"No tap of {profile.name} has a score by which to choose: name one with tap=.", code="not-measured"
            )
    elif tap not in profile.taps:
        raise name_error("tap", tap, profile.taps)
    tokens = probe.needs == "tokens" or stored.kind in DENSE
    streamed = profile.data.attrs.get("tokens") == "streamed"
    if tokens and store.tokens_removed and not streamed:
        raise DiagnosticsError(
            f"{profile.measure} of {target} is fitted again from tokens, and those of {store.path} were removed "
            f"(`diagnostics clean`): give the same `diagnostics run` command again with another measure that reads "
            f"tokens (as cka), which extracts them again.",
            code="no-tokens",
        )
    (read,) = (each for each in store.taps if each.name == tap)
    at = profile.data.sel(tap=tap)
    choice = {str(key): float(value) for key, value in at.data_vars.items() if value.ndim == 0}
    activations = store.with_other(device="cpu", choose_on=at.attrs.get(attribute.CHOSEN_ON, "val"))
    if streamed and type(probe).fit is not Measure.fit:
        from diagnostics.runs.streaming.stream import readout  # a command that prints what lies on disk reads no model

        fitted = readout(store, probe, stored, read, choice)
    else:
        fitted = probe.fit(activations, stored, read, choice | {"seed": int(at.attrs[attribute.SEED])})
    on = getattr(fitted, "on", None)
    values = stored.values if on is None else stored.tokens(on)[: len(store.ids) if streamed else store.token_samples]
    numbers = np.unique(values[values >= 0]).astype(np.int64) if stored.kind in CLASSES else np.zeros(0, dtype=np.int64)
    return FittedProbe(
        name,
        target,
        tap,
        pooling=() if tokens else tuple(store.poolings),
        features=read.features if tokens else activations.pooled(tap).shape[1],
        score=Interval(*(float(at[key]) for key in ("score", "low", "high"))),
        units=stored.units,
        classes=tuple(stored.classes[c] if stored.classes else c for c in numbers.tolist()),
        period=stored.period,
        readout=fitted,
        grid=read.grid if tokens else None,
        on=on,
        numbers=numbers,
    )


def _default_probe(run: RunData, target: str) -> str:
    """The probe by which a layer is recommended; of a target that none read, the first that reads its kind."""
    targets, recommended = run.store.targets(), {each.target: each.measure for each in run.recommendations()}
    check_known("target", target, targets)
    return recommended.get(target) or next(n for n, each in CATALOGUE.items() if targets[target].kind in each["kinds"])


def _measure(measure: str | Measure) -> Measure:
    """The measure of a name; raises where no plugin offers it."""
    if isinstance(measure, Measure):
        return measure
    known = plugin_entries("measure")
    check_known("measure", measure, known)
    return known[measure][1]()


def _as_given(classes: Sequence[Any]) -> np.ndarray:
    """Class names, or the whole numbers that all of them are.

    Labels that were numbers in a file are to be compared as such.
    """
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
        raise DiagnosticsError(f"{run.path} holds no fitted {measure} of {target}: {why}", code="not-measured")
    targets = run.store.targets()
    check_known("target", target, targets)
    probe = _measure(given)
    if type(probe).fit is Measure.fit:
        probe.fit(run.store, targets[target], run.store.taps[0], {})
    fitted = [other.partition("/")[0] for other in known if other.partition("/")[2] == target]
    there = f"{' and '.join(fitted)} of it {'was' if len(fitted) == 1 else 'were'}" if fitted else "no probe of it was"
    raise DiagnosticsError(
        f"{measure} of {target} was not fitted in {run.path}, {there}: give the same run with --measures {measure}, "
        f"which adds it without a new extraction.",
        code="not-measured",
    )


def between(
    first: Activations, second: Activations, measure: str = "cka", seed: int = 0, most_rows: int | None = None
) -> xr.Dataset:
    """The similarity of each tap of one run to each tap of another, on the same samples.

    `matrix` [tap, tap_other], and its null distribution where the measure has one (see `Similarity`).

    `measure` names one that compares pairs of taps; `most_rows` limits the samples further than the measure itself
    does. Raises DiagnosticsError for any other measure, and where the sample ids of the two runs differ.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.runs.derived import between
        >>> run, other = dx.open_run("runs/forecast"), dx.open_run("runs/jepa")
        >>> cka = between(run.store, other.store, "cka")
        >>> cka["matrix"].sel(tap="norm", tap_other=["embed", "norm"]).values.round(2)
        array([0.94, 0.27])
    """
    measures, _ = select_measures([measure])
    chosen = measures[0] if len(measures) == 1 else None
    if not isinstance(chosen, Similarity):
        able = [each.name for each in select_measures(["all"])[0] if isinstance(each, Similarity)]
        raise DiagnosticsError(
            f"{measure} does not compare pairs of taps: choose one of {', '.join(sorted(able))}.", code="bad-value"
        )
    stated = {
        attribute.MEASURE: chosen.name,
        attribute.SOURCE: chosen.source,
        attribute.ABOUT: chosen.answers,
        attribute.FAMILY: chosen.family,
    }
    result = chosen.between(first, second, seed, most_rows).assign_attrs(stated)
    if reason := too_few(result):
        raise DiagnosticsError(reason, code="too-few")
    return result


MOST_SAMPLES = 64
"""Samples of a dataset that `inspect` passes through the encoder for this."""
MOST_ROWS = 1000
"""Stored samples that are compared."""


@dataclass(frozen=True)
class HandedOut:
    """The output tap by its makers' name, and the tap before it on the trunk.

    norm_ratio: mean norm at `before` over mean norm at `tap`, of grid tokens, or of their means over each sample where
    tokens are not at hand (`norms_of`). cka: debiased linear CKA of the means over tokens; None for fewer than 20
    samples.

    Examples:
        >>> import diagnostics as dx
        >>> handed_out = dx.open_run("runs/forecast").handed_out
        >>> print(handed_out)
        The output tap is norm. The tap before it, blocks.5, is a separate tap:
        the norm of its means over tokens is 5.83 times that of the output; linear CKA
        with it is 0.985 (200 samples).
        >>> handed_out.to_json()["before"]
        'blocks.5'
    """

    tap: str
    names: Mapping[str, str]
    before: str | None = None
    norms_of: str = "tokens"
    norm_ratio: float | None = None
    cka: float | None = None
    samples: int = 0
    why_no_cka: str = field(default="", repr=False)

    def __str__(self) -> str:
        own = f", which the model's own API calls {self.names[self.tap]}" if self.tap in self.names else ""
        behind = [
            f"; the model's own API calls {tap} {name}"
            for tap, name in self.names.items()
            if tap not in (self.tap, self.before)
        ]
        sentence = f"The output tap is {self.tap}{own}{''.join(behind)}."
        if self.before is None or self.norm_ratio is None:
            return sentence
        before = f" ({self.names[self.before]})" if self.before in self.names else ""
        alike = f"linear CKA with it is {format_number(self.cka)}" if self.cka is not None else self.why_no_cka
        count = f"{self.samples} sample{'s' if self.samples != 1 else ''}"
        ratio = format_number(self.norm_ratio, ".3g")
        return (
            f"{sentence} The tap before it, {self.before}{before}, is a separate tap: the norm of its "
            f"{self.norms_of} is {'' if ratio == '1' else f'{ratio} times '}that of the output; {alike} ({count})."
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, and the sentence."""
        values = vars(self) | {"names": dict(self.names), "sentence": str(self)}
        return {key: value for key, value in values.items() if key != "why_no_cka"}


def tap_before(taps: Sequence[Tap], output_tap: str) -> Tap | None:
    """The tap on the trunk before the output tap; None where there is none."""
    names = [tap.name for tap in taps]
    trunk = [tap for tap in taps[: names.index(output_tap)] if tap.part != "head"]
    return trunk[-1] if trunk else None


def compare_output(encoder: Encoder, dataset: Dataset | None = None) -> HandedOut:
    """Measured in new passes over samples of a dataset, or over the encoder's example alone."""
    before, names = tap_before(encoder.taps, encoder.output_tap), _names_of(encoder.taps, encoder.maker_names)
    if before is None:
        return HandedOut(encoder.output_tap, names)
    taps = [before.name, encoder.output_tap]
    # Evenly over the dataset, whose samples may be sorted.
    places = [] if dataset is None else np.linspace(0, len(dataset) - 1, min(MOST_SAMPLES, len(dataset))).astype(int)
    samples = [encoder.example()] if dataset is None else [dataset[int(place)] for place in places]
    norms: dict[str, list[np.ndarray]] = {tap: [] for tap in taps}
    means: dict[str, list[np.ndarray]] = {tap: [] for tap in taps}
    for sample in samples:
        sized = encoder.sized_for(sample)
        batch = default_collate([sized.preprocess(sample)])

        def reduce(tap: Tap, tokens: torch.Tensor, sized: Encoder = sized, batch: Any = batch) -> None:
            valid = sized.valid(batch, tap)
            grid = tokens[0, tap.grid.prefix :].float().cpu()
            norms[tap.name].append((grid if valid is None else grid[valid[0].cpu()]).norm(dim=1).numpy())
            valid = None if valid is None else valid.to(tokens.device)
            means[tap.name].append(pool(tap, tokens, ("mean",), valid)[0, 0].cpu().numpy())

        sized.capture(batch, taps, reduce)
    few = "CKA needs 20 samples: give --data" if dataset is None else "CKA needs 20 samples"
    return _comparison(encoder.output_tap, before.name, names, norms_of="tokens", norms=norms, means=means, few=few)


def compare_stored_output(run: RunData) -> HandedOut:
    """Measured on what a run stored: the pooled activations, the first pooling."""
    store, makers = run.store, run.record.encoder.maker_names
    before, names = tap_before(store.taps, store.output_tap), _names_of(store.taps, makers)
    if before is None:
        return HandedOut(store.output_tap, names)
    means = {tap: store.pooled(tap, store.poolings[0])[:MOST_ROWS] for tap in (before.name, store.output_tap)}
    finite = np.all([np.isfinite(values).all(axis=1) for values in means.values()], axis=0)
    means = {tap: values[finite] for tap, values in means.items()}
    norms = {tap: [np.linalg.norm(values, axis=1)] for tap, values in means.items()}
    return _comparison(
        store.output_tap,
        before.name,
        names,
        norms_of="means over tokens" if store.poolings[0] == "mean" else f"pooled values ({store.poolings[0]})",
        norms=norms,
        means={tap: list(values) for tap, values in means.items()},
        few="CKA needs 20 samples",
    )


def _names_of(taps: Sequence[Tap], names: Mapping[str, str]) -> dict[str, str]:
    """Of the taps that are there: an encoder that was cut, or a run of some taps, has fewer."""
    return {tap.name: names[tap.name] for tap in taps if tap.name in names}


def _comparison(
    tap: str,
    before: str,
    names: Mapping[str, str],
    norms_of: str,
    norms: Mapping[str, Sequence[np.ndarray]],
    means: Mapping[str, Sequence[np.ndarray]],
    few: str,
) -> HandedOut:
    n = len(means[tap])
    if not n:
        return HandedOut(tap, names, before)
    own, other = (float(np.concatenate(norms[name]).mean()) for name in (tap, before))
    alike = None
    if n >= FEWEST_COMPARED:
        alike = number(cka(np.stack(means[before]), np.stack(means[tap])))
        few = "linear CKA has no value, since all samples are equal at one of them"
    ratio = number(other / own) if own and math.isfinite(own) else None
    return HandedOut(tap, names, before, norms_of=norms_of, norm_ratio=ratio, cka=alike, samples=n, why_no_cka=few)

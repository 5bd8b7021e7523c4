"""Applies measures to stored activations.

Scores with intervals, the tap to use (chosen without test), and the hidden gap.

A measure may come from any plugin. One that returns a wrong variable, axis, attribute or type is left out of the run
with a sentence that says so, and the other measures are not affected.
"""

import json
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError, StorageError, describe
from diagnostics.measures.base import Measure
from diagnostics.measures.result import (
    ABOUT,
    BEST_TAP,
    CHOSEN_GAP_LOW,
    CHOSEN_TAP,
    FAMILY,
    FUNCTIONAL,
    GAP_BOUND,
    HIDDEN_GAP,
    HIGHER_IS_BETTER,
    INTERVALS,
    LOSSES,
    MARGIN,
    MEASURE,
    OLDER,
    OUTPUT_TAP,
    OVER,
    REASON,
    SEED,
    SOURCE,
    TAP_SET,
    TARGET,
    TOKEN_SAMPLES,
    UNITS,
    UNITS_TRAIN,
    UNITS_VAL,
    N,
    choosing_losses,
    choosing_scores,
    is_probe,
    losses_of,
    merge_reasons,
    store_interval,
    units_fitted,
)
from diagnostics.measures.statistics import Losses
from diagnostics.measures.tap_choice import FEWEST, TapChoice, choose_tap
from diagnostics.measures.threads import one_thread
from diagnostics.measures.verdict import largest_upper_end, paired_differences
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import BY_PLACE, SAFE_NAME, Family

# What a measure has to give, by kind: variables with their axes. See `Measure`.
PAIRWISE = {"matrix": ("tap", "tap_other")}
PROBE = {"loss": ("tap", "unit"), "reference_loss": ("tap", "unit"), "val_score": ("tap",)}
DRAWN = {"drawn": ("tap", "draw"), "unit": ("unit",), "val_score": ("tap",)}
SCORE = {"score": ("tap",), "low": ("tap",), "high": ("tap",)}
COMPUTED = (CHOSEN_TAP, BEST_TAP, TAP_SET, HIDDEN_GAP, CHOSEN_GAP_LOW, GAP_BOUND, MARGIN, OVER)
"""How attributes begin that `apply` computes from what a measure gives."""

LONGEST_NAME = 200
"""Of what becomes a folder; most systems take 255 bytes."""


def misfit(result: Any, measure: Measure, activations: Activations) -> str:
    """The sentence on a result that cannot be read or stored (a variable, axis, attribute or tap is missing), or ""."""
    if not isinstance(result, xr.Dataset):
        return f"Measure {measure.name} gives a {type(result).__name__}: return an xarray.Dataset."
    # A probe may need no target, as one of places does not.
    gives_losses = is_probe(result) or (measure.kinds and "score" not in result)
    if gives_losses and (missing := measure.missing_declarations()):
        return f"Measure {measure.name} gives losses and does not declare {missing}"
    probe = DRAWN if measure.losses == "resampled" else PROBE
    wanted = PAIRWISE if measure.pairwise else probe if gives_losses else SCORE
    for name, axes in wanted.items():
        if name not in result or not set(axes) <= set(result[name].dims):
            given = ", ".join(f"{key} {_axes(v.dims)}" for key, v in result.data_vars.items()) or "no variables"
            return f"Measure {measure.name} gives {given}, and no {name} {_axes(axes)}: return {', '.join(wanted)} by these names."
    if missing := [name for name in (UNITS_TRAIN, UNITS_VAL) if wanted is probe and name not in result.attrs]:
        return f"Measure {measure.name} does not state {' and '.join(missing)}: give these attributes."
    taps = [tap.name for tap in activations.taps]
    if not measure.pairwise and ("tap" not in result.coords or list(result["tap"].values) != taps):
        return f"Measure {measure.name} gives other taps than it was given: return a value (NaN for none) for each, by name."
    return _odd_variable(result, measure, wanted) or _odd_attribute(result, measure)


def _odd_variable(result: xr.Dataset, measure: Measure, wanted: Mapping[str, tuple[str, ...]]) -> str:
    # They become folders and files.
    for name in dict.fromkeys([*result.variables, *result.dims]):
        if not isinstance(name, str) or not SAFE_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            return f"Measure {measure.name} names a variable or axis {name!r:.60}: use letters, digits, '_', '-' and '.', {LONGEST_NAME} at most."
    for name, variable in result.variables.items():
        axes = ("tap",) if name == "depth" or str(name).startswith("line_") else wanted.get(str(name))
        if axes is not None and set(variable.dims) - ({"part"} if "unit" in axes else set()) != set(axes):
            return f"Measure {measure.name} gives {name} {_axes(variable.dims)}: return it as {_axes(axes)}."
        is_numeric = variable.dtype.kind in "biuf" and variable.dtype.itemsize <= 8
        texts = axes in (None, ("unit",))
        if not (is_numeric or (texts and _is_text(variable))):
            kinds = "numbers or texts" if texts else "numbers"
            return f"Measure {measure.name} gives {name} of type {variable.dtype}: return {kinds}, of 64 bits at most."
    return ""


def _axes(names: Iterable[Hashable]) -> str:
    return f"[{', '.join(map(str, names))}]"


def _is_text(variable: xr.Variable) -> bool:
    texts = variable.values.flat if variable.dtype.kind in "UTO" else [None]
    return all(isinstance(text, str) and _writable(text) for text in texts)


def _odd_attribute(result: xr.Dataset, measure: Measure) -> str:
    for key, value in result.attrs.items():
        if not isinstance(key, str) or not _writable({key: plain(value)}):
            return (
                f"Measure {measure.name} gives an attribute {key!r:.60} of type {type(value).__name__}, which cannot "
                f"be written as JSON: use plain numbers, texts, lists and mappings."
            )
    return ""


def _writable(value: Any) -> bool:
    """Test for what JSON holds: no lone surrogate, no circle, and no key that would come back as a text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return _has_text_keys(value)
    except (TypeError, ValueError, RecursionError):
        return False


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(inner) for key, inner in value.items())
    return not isinstance(value, (list, tuple)) or all(map(_has_text_keys, value))


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def bare(result: xr.Dataset) -> xr.Dataset:
    """A copy without encodings and attributes of variables, and without those that `apply` computes.

    Encodings are fill values and scales, which xarray would apply when reading.
    """
    bare = result.copy().drop_encoding()
    for variable in bare.variables.values():
        variable.attrs = {}
    bare.attrs = {key: value for key, value in bare.attrs.items() if not str(key).startswith(COMPUTED)}
    return bare


@dataclass
class Measured:
    """Results by `measure/target`, or `measure` where it reads no target.

    Also, by the same keys, why others are missing.
    """

    results: dict[str, xr.Dataset] = field(default_factory=dict[str, xr.Dataset])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    failed: set[str] = field(default_factory=set[str])
    """Those of `skipped` that broke, where the others have no value here by their nature."""

    def add(self, other: Self) -> None:
        """Take in those of other measures or targets."""
        self.results |= other.results
        self.skipped |= other.skipped
        self.failed |= other.failed


@one_thread()
def measure_all(
    measures: Sequence[Measure],
    activations: Activations,
    targets: Mapping[str, StoredTarget],
    *,
    asked: Collection[str] = (),
    what: str = "",
    watch: Watch = silent,
) -> Measured:
    """Apply each measure to each target that it reads, or once where it reads none.

    A measure that has no value for these activations, or that fails, is left out with its reason. A StorageError ends
    all. A measure named in `asked` is also listed where the dataset has no target for it.
    """
    measured = Measured()

    def fail(key: str, reason: str) -> None:
        measured.skipped[key] = reason
        measured.failed.add(key)

    jobs: list[tuple[str, Measure, StoredTarget | None]] = []
    for measure in measures:
        if not measure.kinds:
            jobs.append((measure.key(None), measure, None))
            continue
        try:
            read = [t for t in targets.values() if measure.reads(t)]
        except (Exception, SystemExit) as error:
            fail(measure.name, f"Measure {measure.name} failed to say what it reads: {describe(error)}.")
            continue
        jobs.extend((measure.key(t), measure, t) for t in read)
        if not read and measure.name in asked:
            kinds = " or ".join(measure.kinds)
            measured.skipped[measure.name] = f"it reads a target of kind {kinds}, and the dataset has none that fits."
    for done, (key, measure, target) in enumerate(jobs):
        watch(Progress(f"measuring {what}".strip(), done, len(jobs), key))
        try:
            result = activations.ready.get((key, ""))
            if result is None:
                result = measure.compute(activations, target, activations.seed)
            if why := misfit(result, measure, activations):
                fail(key, why)
                continue
            result = _complete(
                result.assign_attrs({SEED: activations.seed, **result.attrs}), measure, target, activations
            )
            if measure.pairwise and (few := too_few(result)):
                measured.skipped[key] = few
            elif not any(np.isfinite(result[name]).any() for name in ("score", "matrix") if name in result):
                reason = result.attrs.get(REASON) or "it gives no reason"
                measured.skipped[key] = f"no tap has a value: {reason}."
            else:
                measured.results[key] = result
        except StorageError:
            raise
        except DiagnosticsError as error:
            measured.skipped[key] = str(error)
        except (Exception, SystemExit) as error:
            fail(key, f"Measure {key} failed on {what}: {describe(error)}.")
    if jobs:
        watch(Progress(f"measuring {what}".strip(), len(jobs), len(jobs)))
    measured.results = choose_taps(measured.results)
    return measured


def _complete(
    result: xr.Dataset, measure: Measure, target: StoredTarget | None, activations: Activations
) -> xr.Dataset:
    """The result with intervals, selection and the attributes that every result has."""
    family: Family | None = measure.family or (target.family if target else None)
    attrs: dict[str, Any] = {
        MEASURE: measure.name,
        TARGET: target.name if target else "",
        UNITS: target.units if target else "",
        ABOUT: target.about if target else measure.answers,
        FAMILY: family or "geometry",
        HIGHER_IS_BETTER: {True: "yes", False: "no", None: "neither"}[measure.higher_is_better],
        OUTPUT_TAP: activations.output_tap,
        SOURCE: measure.source,
        **measure.declaration(target),
    }
    by_place = target is not None and target.kind in BY_PLACE and measure.observation is None
    if not measure.pairwise and (measure.needs == "tokens" or by_place):
        attrs[TOKEN_SAMPLES] = activations.token_samples
    result = bare(result)
    if "tap" in result.coords and "depth" not in result.coords and not measure.pairwise:
        depths = {tap.name: tap.depth for tap in activations.taps}
        result = result.assign_coords(depth=("tap", [depths[str(tap)] for tap in result["tap"].values]))
    result = result.assign_attrs(attrs)
    if is_probe(result):
        result = with_intervals(result)
    if reason := merge_reasons(str(result.attrs.get(REASON, "")), [tap.name for tap in activations.taps]):
        result.attrs[REASON] = reason
    else:
        result.attrs.pop(REASON, None)
    result.attrs = {key: plain(value) for key, value in result.attrs.items()}
    return result


FEWEST_COMPARED = 20
"""Samples from which a similarity of taps is shown: from fewer, unrelated taps look alike."""


def too_few(result: xr.Dataset) -> str:
    """The reason why a similarity is not shown; "" where it rests on enough samples."""
    if (n := int(result.attrs.get(N, FEWEST_COMPARED))) >= FEWEST_COMPARED:
        return ""
    return f"{result.attrs[MEASURE]} compares taps on at least {FEWEST_COMPARED} samples, and there are {n}: use a dataset with more."


LIKELY = 0.8
"""Level of the interval whose lower end is the one-sided one at 90 %."""


def with_intervals(result: xr.Dataset) -> xr.Dataset:
    """The result with scores and intervals from test losses, and what the intervals are."""
    test, fit_units = losses_of(result, "unit"), units_fitted(result)
    score, low, high = test.intervals(fit_units, result.attrs[SEED])
    counts = result.attrs[LOSSES] == "counts"
    widened = ", widened for the training set's share" if fit_units else "; nothing was fitted"
    half_units = "; with half a unit that is right and half a unit that is wrong, shared out among the parts"
    border = "; where all answers are right, or all wrong, the far end is Clopper and Pearson's for as many units"
    unanimous = counts and "part" not in result["loss"].dims and bool(np.isin(score, (0.0, 1.0)).any())
    stated = f"95 %, bootstrap over test units{half_units if counts else ''}{widened}{border if unanimous else ''}"
    result = result.assign(score=("tap", score), low=("tap", low), high=("tap", high))
    return result.assign_attrs({INTERVALS: stated})


def _choose(result: xr.Dataset) -> TapChoice | None:
    """The choice of a tap by the losses that choose, or by the score on val alone where the probe gives no losses."""
    output = [str(tap) for tap in result["tap"].values].index(result.attrs[OUTPUT_TAP])
    losses = choosing_losses(result)
    # Scores alone have no standard error, so that the best is taken.
    enough = losses is not None and not 0 < units_fitted(result) < FEWEST
    if losses is None:
        remaining = 1.0 - choosing_scores(result)[:, None]
        losses = Losses(remaining, np.ones_like(remaining))
    return choose_tap(losses, output, np.asarray(result["depth"].values), result.attrs[SEED], favour=enough)


def _with_choice(result: xr.Dataset, choice: TapChoice) -> xr.Dataset:
    """The choice, and what test says of the gaps, as attributes."""
    taps = [str(tap) for tap in result["tap"].values]
    output = taps.index(result.attrs[OUTPUT_TAP])
    test, fit_units = losses_of(result, "unit"), units_fitted(result)
    attrs: dict[str, Any] = {
        CHOSEN_TAP: taps[choice.tap],
        TAP_SET: [taps[tap] for tap in choice.alike],
    }
    if choice.best is not None:
        depth = result["depth"].values
        others = [tap for tap in range(len(taps)) if tap != output and depth[tap] <= depth[output]]
        against = test.at([output]), fit_units, result.attrs[SEED]
        attrs[BEST_TAP] = taps[choice.best]
        (gap,) = paired_differences(test.at([choice.best]), *against)
        attrs |= store_interval(HIDDEN_GAP, gap)
        attrs[GAP_BOUND] = largest_upper_end(paired_differences(test.at(others), *against, student=True))
        if choice.tap != output:
            (own,) = paired_differences(test.at([choice.tap]), *against, LIKELY)
            attrs[CHOSEN_GAP_LOW] = own.low
    return result.assign_attrs(attrs)


def choose_taps(results: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The results, those of probes with the tap to use and what test says of it.

    A target with fewer than `FEWEST` units of train and val takes the best tap of the others that its probe reads, else
    its own best.
    """
    choices = {key: choice for key, result in results.items() if is_probe(result) and (choice := _choose(result))}
    few = {key for key in choices if 0 < units_fitted(results[key]) < FEWEST}
    for key in few:
        others = [results[other] for other in choices.keys() - few if _alike(results[other], results[key])]
        if (tap := common_tap(others)) is not None:
            choices[key] = replace(choices[key], tap=tap)
    return {key: _with_choice(result, choices[key]) if key in choices else result for key, result in results.items()}


def with_choice(result: xr.Dataset) -> xr.Dataset:
    """A stored result, with the choice of a tap.

    A probe's of an older version, which chose by another rule, has the choice by its losses on val.
    """
    if not is_probe(result) or CHOSEN_TAP in result.attrs:
        return result
    kept = {key: value for key, value in result.attrs.items() if key != BEST_TAP}
    older = result.drop_attrs(deep=False).assign_attrs({**kept, OLDER: 1})
    return choose_taps({"": older})[""]


def _alike(result: xr.Dataset, other: xr.Dataset) -> bool:
    """Test for one probe at the same taps."""
    same = result.attrs[MEASURE] == other.attrs[MEASURE]
    return same and list(result["tap"].values) == list(other["tap"].values)


TINY = 1e-12


def common_tap(results: Sequence[xr.Dataset]) -> int | None:
    """Index of the one tap for several targets, up to the output.

    It has the smallest mean loss by what chooses, each target's relative to its mean over the taps. None without
    results, and where no tap has a score for all.
    """
    if not results:
        return None
    depth = results[0]["depth"]
    upto = (depth <= depth.sel(tap=results[0].attrs[OUTPUT_TAP])).values
    remaining = np.stack([np.where(upto, 1.0 - choosing_scores(result), np.nan) for result in results])
    # A target that all taps read without an error has nothing to say.
    relative = (remaining / np.maximum(np.nanmean(remaining, axis=1, keepdims=True), TINY)).mean(axis=0)
    return int(np.nanargmin(relative)) if np.isfinite(relative).any() else None


def read_alike(result: xr.Dataset, other: xr.Dataset) -> bool:
    """Test for one reader, of stored tokens or of streamed ones, so that losses can be paired."""
    return all(result.attrs.get(name) == other.attrs.get(name) for name in (FUNCTIONAL, "tokens"))


def against_control(result: xr.Dataset, other: xr.Dataset, control: str, own: xr.Dataset | None = None) -> xr.Dataset:
    """A probe's result with by how much its chosen tap beats a control's.

    The tap is its own or that of the encoder's `own` on the control's samples; both are paired over the same test
    units.
    """
    own = result if own is None else own
    if CHOSEN_TAP not in own.attrs or CHOSEN_TAP not in other.attrs:
        return result
    ours, theirs = (data.sel(tap=[data.attrs[CHOSEN_TAP]]) for data in (own, other))
    if list(ours["unit"].values) != list(theirs["unit"].values):
        ours, theirs = ours.sortby("unit"), theirs.sortby("unit")
    if list(ours["unit"].values) != list(theirs["unit"].values):
        return result
    (gap,) = paired_differences(losses_of(ours, "unit"), losses_of(theirs, "unit"), units_fitted(own), own.attrs[SEED])
    return result.assign_attrs(store_interval(f"{OVER}{control}", gap))

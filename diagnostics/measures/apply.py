"""Applies measures to stored activations: scores with intervals, the tap to use (chosen without test), and the hidden gap."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError, StorageError, describe
from diagnostics.measures import result as attribute
from diagnostics.measures.base import Measure
from diagnostics.measures.hidden_gap import largest_upper_end, paired_differences
from diagnostics.measures.result import (
    choosing_losses,
    choosing_scores,
    is_probe,
    losses_of,
    shorten_reasons,
    store_interval,
    units_fitted,
)
from diagnostics.measures.statistics import Losses
from diagnostics.measures.tap_choice import FEWEST, TapChoice, choose_tap
from diagnostics.measures.validation import bare, misfit, plain
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import BY_PLACE, Family


@dataclass
class Measured:
    """Results by `measure/target`, or `measure` where it reads no target; and, by the same keys, why others are missing."""

    results: dict[str, xr.Dataset] = field(default_factory=dict[str, xr.Dataset])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    failed: set[str] = field(default_factory=set[str])
    """Those of `skipped` that broke, where the others have no value here by their nature."""


def measure_all(
    measures: Sequence[Measure],
    activations: Activations,
    targets: Mapping[str, StoredTarget],
    seed: int,
    *,
    asked: Collection[str] = (),
    what: str = "",
    watch: Watch = silent,
) -> Measured:
    """Applies each measure to each target that it reads, or once where it reads none.

    A measure that has no value for these activations, or that fails, is left out with its reason. A StorageError ends all.
    A measure named in `asked` is also listed where the dataset has no target for it.
    """
    measured = Measured()

    def fail(key: str, reason: str) -> None:
        measured.skipped[key] = reason
        measured.failed.add(key)

    jobs: list[tuple[str, Measure, StoredTarget | None]] = []
    for measure in measures:
        if not measure.kinds:
            jobs.append((measure.name, measure, None))
            continue
        try:
            read = [t for t in targets.values() if measure.reads(t)]
        except (Exception, SystemExit) as error:
            fail(measure.name, f"Measure {measure.name} failed to say what it reads: {describe(error)}.")
            continue
        jobs.extend((f"{measure.name}/{t.name}", measure, t) for t in read)
        if not read and measure.name in asked:
            kinds = " or ".join(measure.kinds)
            measured.skipped[measure.name] = f"it reads a target of kind {kinds}, and the dataset has none that fits."
    for done, (key, measure, target) in enumerate(jobs):
        watch(Progress(f"measuring {what}".strip(), done, len(jobs), key))
        try:
            result = measure.compute(activations, target, seed)
            if why := misfit(result, measure, activations):
                fail(key, why)
                continue
            result = _completed(result, measure, target, activations, seed)
            if measure.pairwise and (few := too_few(result)):
                measured.skipped[key] = few
            elif not any(np.isfinite(result[name]).any() for name in ("score", "matrix") if name in result):
                reason = result.attrs.get(attribute.REASON) or "it gives no reason"
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
    measured.results = choose_taps(measured.results, seed)
    return measured


def _completed(
    result: xr.Dataset, measure: Measure, target: StoredTarget | None, activations: Activations, seed: int
) -> xr.Dataset:
    """The result with intervals, selection and the attributes that every result has."""
    family: Family | None = measure.family or (target.family if target else None)
    attrs: dict[str, Any] = {
        attribute.MEASURE: measure.name,
        attribute.TARGET: target.name if target else "",
        attribute.UNITS: target.units if target else "",
        attribute.ABOUT: target.about if target else measure.answers,
        attribute.FAMILY: family or "geometry",
        attribute.HIGHER_IS_BETTER: {True: "yes", False: "no", None: "neither"}[measure.higher_is_better],
        attribute.OUTPUT_TAP: activations.output_tap,
        attribute.SOURCE: measure.source,
        **measure.declaration(target),
    }
    if not measure.pairwise and (measure.needs == "tokens" or (target is not None and target.kind in BY_PLACE)):
        attrs[attribute.TOKEN_SAMPLES] = activations.token_samples
    result = bare(result)
    if "tap" in result.coords and "depth" not in result.coords and not measure.pairwise:
        depths = {tap.name: tap.depth for tap in activations.taps}
        result = result.assign_coords(depth=("tap", [depths[str(tap)] for tap in result["tap"].values]))
    result = result.assign_attrs(attrs)
    if is_probe(result):
        result = _with_intervals(result, seed)
    if reason := shorten_reasons(str(result.attrs.get(attribute.REASON, "")), [tap.name for tap in activations.taps]):
        result.attrs[attribute.REASON] = reason
    else:
        result.attrs.pop(attribute.REASON, None)
    result.attrs = {key: plain(value) for key, value in result.attrs.items()}
    return result


FEWEST_COMPARED = 20
"""Samples from which a similarity of taps is shown: from fewer, unrelated taps look alike."""


def too_few(result: xr.Dataset) -> str:
    """Why a similarity is not shown; "" where it rests on enough samples."""
    if (n := int(result.attrs.get(attribute.N, FEWEST_COMPARED))) >= FEWEST_COMPARED:
        return ""
    return f"{result.attrs[attribute.MEASURE]} compares taps on at least {FEWEST_COMPARED} samples, and there are {n}: use a dataset with more."


LIKELY = 0.8
"""Level of the interval whose lower end is the one-sided one at 90 %."""


def _with_intervals(result: xr.Dataset, seed: int) -> xr.Dataset:
    """The result with scores and intervals from test losses, and what the intervals are."""
    test, fit_units = losses_of(result, "unit"), units_fitted(result)
    score, low, high = test.intervals(fit_units, seed)
    counts = result.attrs[attribute.LOSSES] == "counts"
    widened = ", widened for the training set's share" if fit_units else "; nothing was fitted"
    half_units = "; with half a unit that is right and half a unit that is wrong, shared out among the parts"
    border = "; where all answers are right, or all wrong, the far end is Clopper and Pearson's for as many units"
    unanimous = counts and "part" not in result["loss"].dims and bool(np.isin(score, (0.0, 1.0)).any())
    stated = f"95 %, bootstrap over test units{half_units if counts else ''}{widened}{border if unanimous else ''}"
    result = result.assign(score=("tap", score), low=("tap", low), high=("tap", high))
    return result.assign_attrs({attribute.INTERVALS: stated})


def _choose(result: xr.Dataset, seed: int) -> TapChoice | None:
    """The choice of a tap by the losses that choose, or by the score on val alone where the probe gives no losses."""
    output = [str(tap) for tap in result["tap"].values].index(result.attrs[attribute.OUTPUT_TAP])
    losses = choosing_losses(result)
    # Scores alone have no standard error, so that the best is taken.
    enough = losses is not None and not 0 < units_fitted(result) < FEWEST
    if losses is None:
        remaining = 1.0 - choosing_scores(result)[:, None]
        losses = Losses(remaining, np.ones_like(remaining))
    return choose_tap(losses, output, np.asarray(result["depth"].values), seed, favour=enough)


def _with_choice(result: xr.Dataset, choice: TapChoice, seed: int) -> xr.Dataset:
    """The choice, and what test says of the gaps, as attributes."""
    taps = [str(tap) for tap in result["tap"].values]
    output = taps.index(result.attrs[attribute.OUTPUT_TAP])
    test, fit_units = losses_of(result, "unit"), units_fitted(result)
    attrs: dict[str, Any] = {
        attribute.CHOSEN_TAP: taps[choice.tap],
        attribute.TAP_SET: [taps[tap] for tap in choice.alike],
    }
    if choice.best is not None:
        depth = result["depth"].values
        others = [tap for tap in range(len(taps)) if tap != output and depth[tap] <= depth[output]]
        against = test.at([output]), fit_units, seed
        attrs[attribute.BEST_TAP] = taps[choice.best]
        attrs |= store_interval(attribute.HIDDEN_GAP, paired_differences(test.at([choice.best]), *against)[0])
        attrs[attribute.GAP_BOUND] = largest_upper_end(paired_differences(test.at(others), *against, student=True))
        if choice.tap != output:
            attrs[attribute.CHOSEN_GAP_LOW] = paired_differences(test.at([choice.tap]), *against, LIKELY)[0].low
    return result.assign_attrs(attrs)


def choose_taps(results: Mapping[str, xr.Dataset], seed: int) -> dict[str, xr.Dataset]:
    """The results, those of probes with the tap to use and what test says of it.

    A target with fewer than `FEWEST` units of train and val takes the best tap of the others that its probe reads, else its own best.
    """
    choices = {key: choice for key, result in results.items() if is_probe(result) and (choice := _choose(result, seed))}
    few = {key for key in choices if 0 < units_fitted(results[key]) < FEWEST}
    for key in few:
        others = [results[other] for other in choices.keys() - few if _alike(results[other], results[key])]
        if (tap := common_tap(others)) is not None:
            choices[key] = replace(choices[key], tap=tap)
    return {
        key: _with_choice(result, choices[key], seed) if key in choices else result for key, result in results.items()
    }


def with_choice(result: xr.Dataset) -> xr.Dataset:
    """A stored result; a probe's of an older version, which chose by another rule, with the choice by its losses on val."""
    if not is_probe(result) or attribute.CHOSEN_TAP in result.attrs:
        return result
    kept = {key: value for key, value in result.attrs.items() if key != attribute.BEST_TAP}
    older = result.drop_attrs(deep=False).assign_attrs({**kept, attribute.OLDER: 1})
    return choose_taps({"": older}, int(older.attrs[attribute.SEED]))[""]


def _alike(result: xr.Dataset, other: xr.Dataset) -> bool:
    """Test for one probe at the same taps."""
    same = result.attrs[attribute.MEASURE] == other.attrs[attribute.MEASURE]
    return same and list(result["tap"].values) == list(other["tap"].values)


TINY = 1e-12


def common_tap(results: Sequence[xr.Dataset]) -> int | None:
    """Index of the one tap for several targets, up to the output: the smallest mean loss by what chooses, each target's relative to its
    mean over the taps; None without results, and where no tap has a score for all."""
    if not results:
        return None
    depth = results[0]["depth"]
    upto = (depth <= depth.sel(tap=results[0].attrs[attribute.OUTPUT_TAP])).values
    remaining = np.stack([np.where(upto, 1.0 - choosing_scores(result), np.nan) for result in results])
    # A target that all taps read without an error has nothing to say.
    relative = (remaining / np.maximum(np.nanmean(remaining, axis=1, keepdims=True), TINY)).mean(axis=0)
    return int(np.nanargmin(relative)) if np.isfinite(relative).any() else None


def against_control(result: xr.Dataset, other: xr.Dataset, control: str, seed: int) -> xr.Dataset:
    """A probe's result with by how much its chosen tap beats a control's chosen tap, paired over the same test units."""
    if attribute.CHOSEN_TAP not in result.attrs or attribute.CHOSEN_TAP not in other.attrs:
        return result
    ours, theirs = (data.sel(tap=[data.attrs[attribute.CHOSEN_TAP]]).sortby("unit") for data in (result, other))
    if list(ours["unit"].values) != list(theirs["unit"].values):
        return result
    sides = losses_of(ours, "unit"), losses_of(theirs, "unit")
    (gap,) = paired_differences(*sides, units_fitted(result), seed)
    return result.assign_attrs(store_interval(f"{attribute.OVER}{control}", gap))

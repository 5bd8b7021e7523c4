"""Applies measures to stored activations: scores with intervals, and the best tap (chosen on val, read on test)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError, StorageError, describe
from diagnostics.measures import result as attribute
from diagnostics.measures.base import Measure
from diagnostics.measures.hidden_gap import paired_difference, select
from diagnostics.measures.result import shorten_reasons, store_interval, units_fitted
from diagnostics.measures.statistics import SHARES, profile_intervals
from diagnostics.measures.validation import bare, misfit, plain
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import DENSE, Family


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
    return measured


def _completed(
    result: xr.Dataset, measure: Measure, target: StoredTarget | None, activations: Activations, seed: int
) -> xr.Dataset:
    """The result with intervals, selection and the attributes that every result has."""
    family: Family | None = measure.family or (target.family if target else None)
    score_name = measure.name if target is None else "accuracy" if target.kind == "label" else "R2"
    attrs: dict[str, Any] = {
        attribute.MEASURE: measure.name,
        attribute.TARGET: target.name if target else "",
        attribute.UNITS: target.units if target else "",
        attribute.ABOUT: target.about if target else measure.answers,
        attribute.FAMILY: family or "geometry",
        attribute.HIGHER_IS_BETTER: {True: "yes", False: "no", None: "neither"}[measure.higher_is_better],
        attribute.OUTPUT_TAP: activations.output_tap,
        attribute.SOURCE: measure.source,
        attribute.SCORE_NAME: result.attrs.get(attribute.SCORE_NAME, score_name),
    }
    if not measure.pairwise and (
        measure.needs == "tokens" or (target is not None and target.kind in (*DENSE, "masks"))
    ):
        attrs[attribute.TOKEN_SAMPLES] = activations.token_samples
    result = bare(result)
    if "tap" in result.coords and "depth" not in result.coords and not measure.pairwise:
        depths = {tap.name: tap.depth for tap in activations.taps}
        result = result.assign_coords(depth=("tap", [depths[str(tap)] for tap in result["tap"].values]))
    if "loss" in result:
        result, selected = _with_selection(result, activations.output_tap, str(attrs[attribute.SCORE_NAME]), seed)
        attrs |= selected
    if reason := shorten_reasons(str(result.attrs.get(attribute.REASON, "")), [tap.name for tap in activations.taps]):
        attrs[attribute.REASON] = reason
    else:
        result.attrs.pop(attribute.REASON, None)
    result.attrs = {key: plain(value) for key, value in (result.attrs | attrs).items()}
    return result


FEWEST_COMPARED = 20
"""Samples from which a similarity of taps is shown: from fewer, unrelated taps look alike."""


def too_few(result: xr.Dataset) -> str:
    """Why a similarity is not shown; "" where it rests on enough samples."""
    if (n := int(result.attrs.get(attribute.N, FEWEST_COMPARED))) >= FEWEST_COMPARED:
        return ""
    return f"{result.attrs[attribute.MEASURE]} compares taps on at least {FEWEST_COMPARED} samples, and there are {n}: use a dataset with more."


def _with_selection(
    result: xr.Dataset, output_tap: str, score_name: str, seed: int
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Scores and intervals from test losses; and, as attributes, the best tap from val and its hidden gap."""
    taps = [str(tap) for tap in result["tap"].values]
    loss = result["loss"].transpose("tap", "unit", ...).values
    reference = result["reference_loss"].transpose("tap", "unit", ...).values
    fit_units = units_fitted(result)
    share = score_name in SHARES
    score, low, high = profile_intervals(loss, reference, fit_units, seed, share)
    result = result.assign(score=("tap", score), low=("tap", low), high=("tap", high))
    # The output cannot hide what lies behind it.
    val_score = result["val_score"].where(result["depth"] <= result["depth"].sel(tap=output_tap)).values
    selection = select(taps, output_tap, val_score, loss, reference, fit_units, seed, share)
    if selection is None:
        return result, {}
    widened = ", widened for the training set's share" if fit_units else "; nothing was fitted"
    half_units = "; with half a unit that is right and half a unit that is wrong, shared out among the parts"
    border = "; where all answers are right, or all wrong, the far end is Clopper and Pearson's for as many units"
    unanimous = share and loss.ndim == 2 and bool(np.isin(score, (0.0, 1.0)).any())
    return result, {
        attribute.BEST_TAP: selection.best_tap,
        **store_interval(attribute.BEST_SCORE, selection.best),
        **store_interval(attribute.HIDDEN_GAP, selection.hidden_gap),
        attribute.INTERVALS: f"95 %, bootstrap over test units{half_units if share else ''}{widened}{border if unanimous else ''}",
    }


def against_control(result: xr.Dataset, other: xr.Dataset, control: str, seed: int) -> xr.Dataset:
    """A probe's result with by how much its best tap beats a control's best tap, paired over the same test units."""
    if attribute.BEST_TAP not in result.attrs or attribute.BEST_TAP not in other.attrs:
        return result
    ours, theirs = (
        data[["loss", "reference_loss"]].sel(tap=data.attrs[attribute.BEST_TAP]).sortby("unit").transpose("unit", ...)
        for data in (result, other)
    )
    if list(ours["unit"].values) != list(theirs["unit"].values):
        return result
    first, second = ((data["loss"].values, data["reference_loss"].values) for data in (ours, theirs))
    share = result.attrs[attribute.SCORE_NAME] in SHARES
    gap = paired_difference(*first, *second, units_fitted(result), seed, share)
    return result.assign_attrs(store_interval(f"{attribute.OVER}{control}", gap))

"""Applying measures to stored activations, and choosing the best tap honestly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError, StorageError, describe
from diagnostics.measures.base import Measure
from diagnostics.measures.statistics import SHARES, paired_difference, profile_intervals, select
from diagnostics.measures.validation import bare, misfit, plain
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import DENSE, Family


@dataclass
class Measured:
    """Results by `measure/target` (or `measure`), and why others are missing."""

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
    """Every measure whose needs are met, for every target that it reads.

    One that has no value here is left out with its reason, and so is one that fails otherwise: the rest stands. `asked`
    are those named, of which it is also said that no target fits them.
    """
    measured = Measured()
    jobs: list[tuple[str, Measure, StoredTarget | None]] = []
    for measure in measures:
        if not measure.kinds:
            jobs.append((measure.name, measure, None))
            continue
        try:
            read = [t for t in targets.values() if measure.reads(t)]
        except (Exception, SystemExit) as error:
            measured.skipped[measure.name] = f"Measure {measure.name} failed to say what it reads: {describe(error)}."
            measured.failed.add(measure.name)
            continue
        jobs.extend((f"{measure.name}/{t.name}", measure, t) for t in read)
        if not read and measure.name in asked:
            kinds = " or ".join(measure.kinds)
            measured.skipped[measure.name] = f"it reads a target of kind {kinds}, and the dataset has none that fits."
    for done, (key, measure, target) in enumerate(jobs):
        watch(Progress(f"measuring {what}".strip(), done, len(jobs), key))
        try:
            found = measure.compute(activations, target, seed)
            if why := misfit(found, measure, activations):
                measured.skipped[key] = why
                measured.failed.add(key)
                continue
            found = _completed(found, measure, target, activations, seed)
            if measure.pairwise and (few := too_few(found)):
                measured.skipped[key] = few
            elif _without_value(found):
                measured.skipped[key] = f"no tap has a value: {found.attrs.get('reason') or 'it says no reason'}."
            else:
                measured.results[key] = found
        except StorageError:
            raise
        except DiagnosticsError as error:
            measured.skipped[key] = str(error)
        except (Exception, SystemExit) as error:
            measured.skipped[key] = f"Measure {key} failed on {what}: {describe(error)}."
            measured.failed.add(key)
    if jobs:
        watch(Progress(f"measuring {what}".strip(), len(jobs), len(jobs)))
    return measured


def _completed(
    found: xr.Dataset, measure: Measure, target: StoredTarget | None, activations: Activations, seed: int
) -> xr.Dataset:
    """The result with intervals, selection and the attributes that every result has."""
    better = {True: "yes", False: "no", None: "neither"}[measure.higher_is_better]
    family: Family | None = measure.family or (target.family if target else None)
    attrs: dict[str, Any] = {
        "measure": measure.name,
        "target": target.name if target else "",
        "units": target.units if target else "",
        "about": target.about if target else measure.answers,
        "family": family or "geometry",
        "higher_is_better": better,
        "output_tap": activations.output_tap,
        "source": measure.source,
        "score_name": measure.name if target is None else "accuracy" if target.kind == "label" else "R2",
    } | ({"score_name": found.attrs["score_name"]} if "score_name" in found.attrs else {})
    if not measure.pairwise and (
        measure.needs == "tokens" or (target is not None and target.kind in (*DENSE, "masks"))
    ):
        attrs["token_samples"] = activations.token_samples
    found = bare(found)
    if "loss" in found:
        found, selected = _judged(found, activations.output_tap, str(attrs["score_name"]), seed)
        attrs |= selected
    if reason := together(str(found.attrs.get("reason", ""))):
        attrs["reason"] = reason
    else:
        found.attrs.pop("reason", None)
    found.attrs = {key: plain(value) for key, value in (found.attrs | attrs).items()}
    if "tap" in found.coords and "depth" not in found.coords and not measure.pairwise:
        depths = {tap.name: tap.depth for tap in activations.taps}
        found = found.assign_coords(depth=("tap", [depths[str(tap)] for tap in found["tap"].values]))
    return found


FEWEST_COMPARED = 20
"""Samples from which a similarity of taps is shown: from fewer, unrelated taps look alike."""


def too_few(result: xr.Dataset) -> str:
    """Why a similarity is not shown; "" where it rests on enough samples."""
    n = int(result.attrs.get("n", FEWEST_COMPARED))
    if n >= FEWEST_COMPARED:
        return ""
    name = result.attrs["measure"]
    return f"{name} compares taps on at least {FEWEST_COMPARED} samples, and there are {n}: use a dataset with more."


def _without_value(found: xr.Dataset) -> bool:
    values = [found[name].values for name in ("score", "matrix") if name in found]
    return bool(values) and not any(np.isfinite(value).any() for value in values)


def together(reasons: str) -> str:
    """Reasons "tap: why; tap: why" with equal ones said once: "tap and 3 others: why"."""
    by_reason: dict[str, list[str]] = {}
    for part in reasons.split("; "):
        tap, _, why = part.partition(": ")
        by_reason.setdefault(why, []).append(tap)
    said_once: list[str] = []
    for why, taps in by_reason.items():
        if not why or len(taps) <= 2:
            said_once.extend(f"{tap}: {why}" if why else tap for tap in taps)
            continue
        shown = f"{taps[0]} and {len(taps) - 1} others"
        said_once.append(f"{shown}: {why}")
    return "; ".join(part for part in said_once if part)


def _judged(found: xr.Dataset, output_tap: str, score_name: str, seed: int) -> tuple[xr.Dataset, dict[str, Any]]:
    """Scores and intervals from test losses, and the best tap from val."""
    taps = [str(tap) for tap in found["tap"].values]
    loss = found["loss"].transpose("tap", "unit", ...).values
    reference = found["reference_loss"].transpose("tap", "unit", ...).values
    fit_units = int(found.attrs["units_train"] + found.attrs["units_val"])
    share = score_name in SHARES
    score, low, high = profile_intervals(loss, reference, fit_units, seed, share)
    found = found.assign(score=("tap", score), low=("tap", low), high=("tap", high))
    selection = select(taps, output_tap, found["val_score"].values, loss, reference, fit_units, seed, share)
    if selection is None:
        return found, {}
    attrs: dict[str, Any] = {"best_tap": selection.best_tap}
    for key, interval in (("best_score", selection.best), ("hidden_gap", selection.hidden_gap)):
        attrs |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    widened = ", widened for the training set's share" if fit_units else "; nothing was fitted"
    halves = (
        "; with half a unit that is right and half a unit that is wrong, shared out among the parts" if share else ""
    )
    border = "; where all answers are right, or all wrong, the far end is Clopper and Pearson's for as many units"
    unanimous = share and loss.ndim == 2 and bool(np.isin(score, (0.0, 1.0)).any())
    attrs["intervals"] = f"95 %, bootstrap over test units{halves}{widened}{border if unanimous else ''}"
    return found, attrs


def against_control(found: xr.Dataset, other: xr.Dataset, control: str, seed: int) -> xr.Dataset:
    """The result of a probe with what its best tap beats a control's best tap by, paired over the same test units."""
    if "best_tap" not in found.attrs or "best_tap" not in other.attrs:
        return found
    ours, theirs = (
        data[["loss", "reference_loss"]].sel(tap=data.attrs["best_tap"]).sortby("unit").transpose("unit", ...)
        for data in (found, other)
    )
    if list(ours["unit"].values) != list(theirs["unit"].values):
        return found
    fit_units = int(found.attrs["units_train"] + found.attrs["units_val"])
    gap = paired_difference(
        ours["loss"].values,
        ours["reference_loss"].values,
        theirs["loss"].values,
        theirs["reference_loss"].values,
        fit_units,
        seed,
        str(found.attrs["score_name"]) in SHARES,
    )
    over = {f"over_{control}": gap.value, f"over_{control}_low": gap.low, f"over_{control}_high": gap.high}
    return found.assign_attrs(over)

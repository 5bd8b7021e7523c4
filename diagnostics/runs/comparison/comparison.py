"""One call of `compare`: runs that agree, held against each other in every way that their measures allow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.statistics import Interval
from diagnostics.progress import Progress, Watch, silent
from diagnostics.runs.comparison.agreement import check_agreement
from diagnostics.runs.comparison.curves import curves
from diagnostics.runs.comparison.differences import CurveDifference, Difference, curve_differences, differences_of
from diagnostics.runs.comparison.estimates import Estimate
from diagnostics.runs.comparison.positions import Likeness, likeness
from diagnostics.runs.comparison.readouts import Readout, readout
from diagnostics.runs.comparison.shares import Matched, Shares, shares_of
from diagnostics.runs.comparison.sides import (
    Side,
    by_group,
    lineage_of,
    pairs_with_base,
    places,
    sides_of,
    without_base,
)
from diagnostics.runs.comparison.standings import FamilyGap, Standing, family_gaps, standings_of
from diagnostics.runs.profile import number, numbers
from diagnostics.runs.run import Run


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    data: all profiles of all runs on one axis of relative depth; see `diagnostics.runs.comparison.curves`.
    standings: what each group reaches in each probe, over its seeds.
    family_gaps: the mean hidden gap of each group over the targets of each family.
    differences: of every pair of groups, at the best tap, at the output and in the hidden gap, corrected for their number.
    curve_differences: where along the depth every pair of groups differs.
    shares: what each alignment bought and cost, where a base is among the runs.
    likenesses: similarity of the taps of two runs, of one run of each pair of groups and of two seeds of each group.
    left_out: profiles that could not be compared, and why.
    """

    sides: tuple[Side, ...]
    data: xr.Dataset
    standings: tuple[Standing, ...]
    family_gaps: tuple[FamilyGap, ...]
    differences: tuple[Difference, ...]
    curve_differences: tuple[CurveDifference, ...]
    shares: tuple[Shares, ...]
    likenesses: tuple[Likeness, ...]
    left_out: dict[str, str]

    @property
    def groups(self) -> dict[str, list[Side]]:
        """The runs of each group, seeds ascending."""
        return by_group(self.sides)

    @property
    def default_path(self) -> Path:
        """Of its report: beside the first run, named by the labels."""
        slug = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(self.groups)).strip("-.")[:100]
        return self.sides[0].run.path.parent / f"comparison-{slug}.html"

    def to_xarray(self) -> xr.Dataset:
        """`data`, with dimensions (run, target, depth)."""
        return self.data

    def to_json(self) -> dict[str, Any]:
        """The findings as plain numbers; None for what has no value."""
        return {
            "dataset": self.data.attrs["dataset"],
            "n": self.sides[0].run.n,
            "pooling": self.data.attrs["pooling"],
            "seed": self.data.attrs["seed"],
            "runs": [_side(side) for side in self.sides],
            "depth": numbers(self.data["depth"]),
            "profiles": [self._profile(str(name)) for name in self.data["target"].values],
            "groups": [_standing(one) for one in self.standings],
            "families": [
                {"family": one.family, "group": one.group, "profiles": list(one.profiles), **_estimate(one.hidden_gap)}
                for one in self.family_gaps
            ],
            "differences": [_difference(one) for one in self.differences],
            "along_depth": [_curve(one) for one in self.curve_differences],
            "shares": [_shares(one) for one in self.shares],
            "similarity": [_likeness(one) for one in self.likenesses],
            "left_out": self.left_out,
        }

    def _profile(self, name: str) -> dict[str, Any]:
        found = self.data.sel(target=name)
        keys = ("best_score", "output_score", "hidden_gap", "head_drop")
        return {
            "profile": name,
            "family": str(found["family"].values),
            "score_name": str(found["score_name"].values),
            "runs": {
                str(run): {
                    "score": numbers(found["score"].values[r]),
                    "low": numbers(found["low"].values[r]),
                    "high": numbers(found["high"].values[r]),
                    "best_tap": str(found["best_tap"].values[r]) or None,
                    "head_tap": str(found["head_tap"].values[r]) or None,
                    **{
                        key: [number(found[f"{key}{end}"].values[r]) for end in ("", "_low", "_high")]
                        for key in keys
                        if np.isfinite(found[key].values[r])
                    },
                }
                for r, run in enumerate(found["run"].values)
            },
        }

    def report(self, path: str | Path) -> Path:
        """Writes the comparison as one self-contained HTML file."""
        from diagnostics.runs.comparison.report_page import write_comparison

        return write_comparison(self, Path(path))

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(side.name for side in self.sides)} on {self.data.attrs['dataset']}>"

    def _repr_html_(self) -> str:
        from diagnostics.runs.comparison.report_page import comparison_html

        return comparison_html(self)


def compare(
    runs: Sequence[Run | str | Path],
    *,
    base: str | None = None,
    similarity: str | None = "cka",
    seed: int = 0,
    watch: Watch = silent,
) -> Comparison:
    """Holds runs of different encoders on the same dataset against each other.

    Parameters
    ----------
    runs: finished runs or their folders; `LABEL=PATH` gives a run another group than its encoder tells. Runs of one group
        are the seeds of one training.
    base: the group that the others were aligned from; by default what each alignment recorded.
    similarity: the measure of tap pairs, or None for none.
    seed: of the bootstrap, the flips and the permutations.

    Raises
    ------
    DiagnosticsError: where the runs differ in samples, targets, splits, pooling or protocol, naming the difference.
    """
    if seed < 0:
        raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.")
    sides = sides_of(runs)
    pairs = pairs_with_base(sides, base)
    left_out = check_agreement(sides)
    names = [name for name in sides[0].profiles if name not in left_out]
    left_out |= without_base(sides, pairs)
    probes = [name for name in names if sides[0].profiles[name].is_probe]
    groups = by_group(sides)
    read = {name: {side.name: readout(side.profiles[name]) for side in sides} for name in probes}
    by_profile = {
        name: {group: [read[name][side.name] for side in members] for group, members in groups.items()}
        for name in probes
    }
    profiles = {
        name: {group: [side.profiles[name] for side in members] for group, members in groups.items()} for name in probes
    }
    families = {name: sides[0].profiles[name].family for name in probes}
    standings = standings_of(by_profile, profiles, seed)
    matched = places(pairs, groups)
    likenesses: list[Likeness] = []
    wanted = _pairs_of_runs(groups) if similarity else []
    for done, (first, second) in enumerate(wanted):
        watch(Progress("comparing taps", done, len(wanted), f"{first.name} and {second.name}"))
        likenesses.append(likeness(first, second, similarity or "", seed))
    watch(Progress("comparing taps", len(wanted), len(wanted)))
    return Comparison(
        tuple(sides),
        curves(sides, names, seed),
        tuple(standings),
        tuple(family_gaps(by_profile, families, one_for_each_target([one.profile for one in standings]), seed)),
        tuple(differences_of(by_profile, seed, matched)),
        tuple(curve_differences(by_profile, seed, matched)),
        tuple(_all_shares(pairs, groups, probes, read, seed)),
        tuple(likenesses),
        left_out,
    )


def _pairs_of_runs(groups: dict[str, list[Side]]) -> list[tuple[Side, Side]]:
    """The first run of each pair of groups; and two seeds of each group, the yardstick of how alike two trainings are."""
    within = [(members[0], members[1]) for members in groups.values() if len(members) > 1]
    return [*((one[0], other[0]) for one, other in combinations(groups.values(), 2)), *within]


def _all_shares(
    pairs: dict[str, list[tuple[Side, Side]]],
    groups: dict[str, list[Side]],
    probes: Sequence[str],
    read: dict[str, dict[str, Readout]],
    seed: int,
) -> list[Shares]:
    found: list[Shares] = []
    for group, matched in pairs.items():
        for name in probes:
            target = name.partition("/")[2]
            purpose = bool(target) and any(target == aligned.target for aligned, _ in matched)
            runs = [Matched(read[name][one.name], read[name][base.name], base.profiles[name]) for one, base in matched]
            base = matched[0][1].group
            found.append(shares_of(name, group, base, len(groups[base]), purpose, runs, seed))
    return found


def one_for_each_target(profiles: Sequence[str]) -> list[str]:
    """The first probe of each target: what fits a page at a glance, and counts each target once."""
    first: dict[str, str] = {}
    for name in profiles:
        first.setdefault(name.partition("/")[2] or name, name)
    return list(first.values())


def _interval(found: Interval | None) -> dict[str, float | None] | None:
    return None if found is None else {key: number(getattr(found, key)) for key in ("value", "low", "high")}


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "value": number(found.value),
        "over_samples": _interval(found.over_samples),
        "over_samples_and_seeds": _interval(found.over_both),
        "p": number(found.p),
    }


def _side(side: Side) -> dict[str, Any]:
    run = side.run
    return {
        "name": side.name, "group": side.group, "seed": side.seed, "run": str(run.path), "encoder": run.encoder,
        "output_tap": run.store.output_tap, "weights": side.weights, "lineage": dict(lineage_of(run)),
        "taps": [{"name": tap.name, "depth": tap.depth, "part": tap.part} for tap in run.store.taps],
    }  # fmt: skip


def _standing(found: Standing) -> dict[str, Any]:
    return {
        "profile": found.profile, "group": found.group, "best_taps": [tap for tap, _ in found.best_taps],
        "best_depths": [depth for _, depth in found.best_taps], "best": _estimate(found.best),
        "output": _estimate(found.output), "hidden_gap": _estimate(found.hidden_gap),
        "head_drop": None if found.head_drop is None else _estimate(found.head_drop),
    }  # fmt: skip


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "profile": found.profile, "first": found.first, "second": found.second, "quantity": found.quantity,
        **_estimate(found.estimate), "p_corrected": number(found.p_corrected), "survives": found.survives,
    }  # fmt: skip


def _curve(found: CurveDifference) -> dict[str, Any]:
    at = found.at
    return {
        "profile": found.profile, "first": found.first, "second": found.second, "depth": numbers(found.depths),
        "difference": numbers(found.difference), "p": numbers(found.p),
        "at": None if at is None else number(float(found.depths[at])),
    }  # fmt: skip


def _shares(found: Shares) -> dict[str, Any]:
    return {
        "profile": found.profile, "alignment": found.group, "base": found.base, "seeds": found.seeds,
        "seeds_of_base": found.of_seeds, "made_for_it": found.purpose,
        "floor": number(found.floor), "hidden_gap_of_base": _interval(found.gap), "recovered": _interval(found.recovered),
        "kept_best": _interval(found.kept_best), "kept_output": _interval(found.kept_output),
        "reasons": dict(found.reasons),
    }  # fmt: skip


def _likeness(found: Likeness) -> dict[str, Any]:
    data = found.data
    return {
        "first": found.first, "second": found.second, "measure": data.attrs["measure"],
        "taps": [str(tap) for tap in data["tap"].values], "taps_other": [str(tap) for tap in data["tap_other"].values],
        "matrix": [numbers(row) for row in data["matrix"].values],
        "p": [numbers(row) for row in data["p"].values] if "p" in data else None,
        "aligned_depth": numbers(found.aligned), "at_outputs": number(found.at_outputs),
    }  # fmt: skip

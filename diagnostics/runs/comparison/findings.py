"""The findings of a comparison, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from diagnostics.report.page import CurvesFigure, DepthCurve, Mark, MarkKind, SharesFigure
from diagnostics.runs.comparison.differences import CurveDifference, Difference
from diagnostics.runs.comparison.group_scores import FamilyGap, GroupScore
from diagnostics.runs.comparison.members import Member, by_group
from diagnostics.runs.comparison.shares import Shares

# Figures of a comparison as arrays: curves of all runs by relative depth, and matrices of alignments by target.

SHARES = {
    "recovered": "recovered share of the base's hidden gap",
    "kept_best": "kept share at the chosen tap",
    "kept_output": "kept share at the output",
}


def curves_figure(findings: Findings, profile: str) -> CurvesFigure:
    """Score over relative depth, of each run of each group."""
    data = findings.data.sel(target=profile)
    return CurvesFigure(
        axis=str(data["score_name"].values),
        is_score=findings.members[0].profiles[profile].is_probe,
        depths=findings.data["depth"].values,
        groups={
            group: tuple(_curve(data, member, profile) for member in members)
            for group, members in findings.groups.items()
        },
    )


def _curve(data: xr.Dataset, member: Member, profile: str) -> DepthCurve:
    row, own = data.sel(run=member.name), member.profiles[profile]
    taps: dict[MarkKind, str | None] = {"chosen tap": own.chosen_tap, "output": own.output_tap}
    marks = [
        Mark(kind, tap, own.depth_of(tap), float(own.data["score"].sel(tap=tap)))
        for kind, tap in taps.items()
        if tap in own.taps
    ]
    return DepthCurve(member.name, *(row[key].values for key in ("score", "low", "high")), marks=tuple(marks))


def shares_figures(findings: Findings, profiles: Sequence[str]) -> list[SharesFigure]:
    """Each share that any alignment has, as a matrix of alignments by targets."""
    chosen = [alignment for alignment in findings.shares if alignment.profile in profiles]
    by_cell = {(alignment.group, alignment.profile): alignment for alignment in chosen}
    rows = tuple(dict.fromkeys(group for group, _ in by_cell))
    columns = [name for name in profiles if any(alignment.profile == name for alignment in chosen)]
    return [
        SharesFigure(
            title,
            rows,
            tuple(target_name(findings, name) for name in columns),
            tuple(tuple(getattr(by_cell.get((row, name)), share, None) for name in columns) for row in rows),
            # What is kept at an output that held next to nothing may be many times what was there; colours stop at 2. What
            # keeps or recovers nothing more than the base has no colour.
            *((-1.0, 1.0) if share == "recovered" else (0.0, 2.0)),
        )
        for share, title in SHARES.items()
        if any(getattr(alignment, share) for alignment in chosen)
    ]


# Which taps of two runs match: the most similar tap of the other run.

ALPHA = 0.05
MOST_ROWS = 512
"""Samples that CKA reads of each pair of runs: its time grows with their square, and there are many pairs."""


@dataclass(frozen=True)
class TapSimilarity:
    """How alike each tap of one run is to each of another.

    matrix: [tap, tap_other] with `p` against permuted samples, corrected for all pairs; aligned: float [tap], the depth in
    the other run of the most alike tap, NaN where no tap is shown to be more alike than chance would make one.
    """

    first: str
    second: str
    data: xr.Dataset
    aligned: np.ndarray

    @property
    def at_outputs(self) -> float:
        """The similarity of the two output taps."""
        return float(self.data.attrs["at_outputs"])


def tap_similarity(first: Member, second: Member, measure: str, seed: int) -> TapSimilarity:
    """The similarity of all pairs of taps of two runs, and the aligned position of each tap of the first."""
    data = first.run.similarity_with(second.run, measure, seed, MOST_ROWS if measure == "cka" else None)
    matrix = data["matrix"].values
    smaller = data.attrs.get("alike") == "smaller"
    shown = np.isfinite(matrix) & (data["p"].values <= ALPHA if "p" in data else False)
    ranked = np.where(shown, -matrix if smaller else matrix, -np.inf)
    nearest = ranked.argmax(axis=1)
    aligned = np.where(shown.any(axis=1), data["depth_other"].values[nearest], np.nan)
    outputs = matrix[
        list(data["tap"].values).index(first.run.store.output_tap),
        list(data["tap_other"].values).index(second.run.store.output_tap),
    ]
    return TapSimilarity(first.name, second.name, data.assign_attrs(at_outputs=float(outputs)), aligned)


@dataclass(frozen=True)
class Findings:
    """What `compare` found.

    data: all profiles of all runs on one axis of relative depth; see `diagnostics.runs.comparison.comparison`.
    group_scores: what each group reaches in each probe, over its seeds.
    family_gaps: the mean hidden gap of each group over the targets of each family.
    differences: of every pair of groups, at the chosen tap, at the output and in the hidden gap, corrected for their number.
    curve_differences: where along the depth every pair of groups differs.
    shares: what each alignment bought and cost, where a base is among the runs.
    tap_similarities: similarity of the taps of two runs, of one run of each pair of groups and of two seeds of each group.
    left_out: profiles that could not be compared, and why.
    """

    members: tuple[Member, ...]
    data: xr.Dataset
    group_scores: tuple[GroupScore, ...]
    family_gaps: tuple[FamilyGap, ...]
    differences: tuple[Difference, ...]
    curve_differences: tuple[CurveDifference, ...]
    shares: tuple[Shares, ...]
    tap_similarities: tuple[TapSimilarity, ...]
    left_out: dict[str, str]

    @property
    def groups(self) -> dict[str, list[Member]]:
        """The runs of each group, seeds ascending."""
        return by_group(self.members)


def first_of_each_target(profiles: Sequence[str]) -> list[str]:
    """The first probe of each target: what fits a page at a glance, and counts each target once."""
    first: dict[str, str] = {}
    for name in profiles:
        first.setdefault(name.partition("/")[2] or name, name)
    return list(first.values())


def target_name(findings: Findings, profile: str) -> str:
    """The label of a profile, which all runs share."""
    return findings.members[0].profiles[profile].label

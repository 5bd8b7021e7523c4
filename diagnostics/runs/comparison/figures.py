"""Figures of a comparison as arrays: curves of all runs by relative depth, and matrices of alignments by target."""

from collections.abc import Sequence

import xarray as xr

from diagnostics.report.figures import CurvesFigure, DepthCurve, Mark, MarkKind, SharesFigure
from diagnostics.runs.comparison.findings import Findings
from diagnostics.runs.comparison.members import Member
from diagnostics.runs.comparison.words import target_name

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

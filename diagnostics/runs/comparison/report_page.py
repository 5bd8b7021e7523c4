"""A comparison as one self-contained HTML file: what it found as plain data, poured into a thin template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diagnostics.report.html import templates, write_page
from diagnostics.runs.comparison import Comparison
from diagnostics.runs.comparison.differences import QUANTITIES
from diagnostics.runs.comparison.sides import lineage_of
from diagnostics.runs.comparison.words import (
    about_runs,
    alignment_said,
    along_depth_said,
    controls_said,
    corrected_over,
    difference_said,
    differences_by_pair,
    families_said,
    few_said,
    likeness_said,
    reasons_of,
    shares_said,
    shown_profiles,
    target_said,
)
from diagnostics.runs.page import shown


@dataclass(frozen=True)
class Table:
    """A table; the first column of rows that follow one another with the same text says it once."""

    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Curve:
    """One profile of all runs: title, what its runs are (HTML that plotly made; "" for none), and its anchor."""

    title: str
    figure: str
    anchor: str


@dataclass(frozen=True)
class Family:
    """The curves of one family."""

    title: str
    curves: list[Curve]


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    title: str
    lead: str
    runs: Table
    standings: Table
    family_notes: list[str]
    shares: Table | None
    share_notes: list[str]
    matrices: list[str]
    differences: Table
    differences_said: str
    families: list[Family]
    likenesses: list[Curve]
    likeness_notes: list[str]
    left_out: dict[str, str]
    provenance: list[tuple[str, str]]


def page_of(found: Comparison, *, figures: bool) -> Page:
    """The findings in words and tables, with figures when asked."""
    names = [str(name) for name in found.data["target"].values]
    first = shown_profiles(found)
    heads = any(one.head_drop for one in found.standings)
    lead = (
        f"{about_runs(found)}. The best tap of each run was chosen on val, every score is read on test. Brackets are 95 % "
        "intervals over independent test units and, where a label has several seeds, over its seeds too; differences are "
        "paired on the same test samples." + "".join(f" Beware: {few}." for few in few_said(found))
    )
    return Page(
        title=f"{len(found.sides)} runs on {found.data.attrs['dataset']}",
        lead=lead,
        runs=Table(
            ["run", "encoder", "output tap", "seed", "how it was made", "folder"],
            [
                [
                    side.name, side.run.encoder, side.run.store.output_tap, "–" if side.seed is None else str(side.seed),
                    str(lineage_of(side.run).get("how", "–")), str(side.run.path),
                ]
                for side in found.sides
            ],
        ),
        standings=_once(
            Table(
                ["target", "encoder", "best tap (depth)", "score", "output", "hidden gap"]
                + (["trunk - head"] if heads else []),
                [
                    [
                        target_said(found, one.profile), one.group, one.best_tap_said, shown(one.best.interval),
                        shown(one.output.interval), shown(one.hidden_gap.interval),
                        *([shown(one.head_drop.interval if one.head_drop else None)] if heads else []),
                    ]
                    for one in found.standings
                ],
            )
        ),
        family_notes=[
            *controls_said(found, first),
            *(f"mean hidden gap, {line}" for line in families_said(found)),
        ],
        shares=_shares(found),
        share_notes=[
            "Recovered: what the aligned output gained over the base's output, of the base's hidden gap. Kept: the aligned "
            "score over the base's, both above what knows nothing (0 of R2 and skill, the score with shuffled labels "
            "otherwise); over 1 where it gained.",
            *(f"({i}) {why}" for i, why in enumerate(reasons_of(found), 1)),
        ],
        matrices=_matrices(found, first) if figures and found.shares else [],
        differences=_once(
            Table(
                ["target", "first - second", *QUANTITIES, "along the trunk"],
                [
                    [
                        target_said(found, row.profile), f"{row.first} - {row.second}",
                        *(difference_said(one) for one in row.differences), along_depth_said(row.curve),
                    ]
                    for row in differences_by_pair(found)
                ],
            )
        ),
        differences_said=(
            f"First minus second; * survives the correction for their number ({corrected_over(found)}). Along the trunk: the depths at which the two curves differ, against random "
            "flips of the sign of each test unit's difference, corrected for all depths, targets and pairs together; of the "
            "encoders as they are, not of other seeds."
        ),
        families=_families(found, names) if figures else [],
        likenesses=_likenesses(found) if figures else [],
        likeness_notes=[likeness_said(one) for one in found.likenesses],
        left_out=found.left_out,
        provenance=[(key.replace("_", " "), str(value)) for key, value in found.data.attrs.items()],
    )  # fmt: skip


def _once(table: Table) -> Table:
    before = ""
    rows: list[list[str]] = []
    for first, *rest in table.rows:
        rows.append(["" if first == before else first, *rest])
        before = first
    return Table(table.columns, rows)


def _shares(found: Comparison) -> Table | None:
    if not found.shares:
        return None
    reasons = reasons_of(found)
    rows = [
        [
            alignment_said(one), target_said(found, one.profile) + (" · made for it" if one.purpose else ""),
            shown(one.gap), *shares_said(one, reasons),
        ]
        for one in found.shares
    ]  # fmt: skip
    return _once(
        Table(["alignment", "target", "base's hidden gap", "recovered", "kept at best tap", "kept at output"], rows)
    )


def _matrices(found: Comparison, profiles: list[str]) -> list[str]:
    from diagnostics.report.plots import html
    from diagnostics.runs.comparison.figures import SHARES, shares_figure

    able = [share for share in SHARES if any(getattr(one, share) for one in found.shares if one.profile in profiles)]
    return [html(shares_figure(found, share, profiles)) for share in able]


def _families(found: Comparison, names: list[str]) -> list[Family]:
    from diagnostics.report.plots import html
    from diagnostics.runs.comparison.figures import curves_figure

    by_family: dict[str, list[Curve]] = {}
    for i, name in enumerate(names):
        family = str(found.data["family"].sel(target=name).values)
        by_family.setdefault(family, []).append(Curve(name, html(curves_figure(found, name)), f"c{i}"))
    return [Family(family, curves) for family, curves in by_family.items()]


def _likenesses(found: Comparison) -> list[Curve]:
    from diagnostics.report.plots import html
    from diagnostics.runs.comparison.figures import likeness_figure

    return [
        Curve(f"{one.first} and {one.second}", html(likeness_figure(found, i)), f"m{i}")
        for i, one in enumerate(found.likenesses)
    ]


def write_comparison(found: Comparison, path: Path) -> Path:
    """Writes the page whole or not at all; everything it needs lies inside the file."""
    return write_page("comparison.html.j2", path, page=page_of(found, figures=True))


def comparison_html(found: Comparison) -> str:
    """The tables of the page alone, for notebooks."""
    return templates().get_template("comparison_tables.html.j2").render(page=page_of(found, figures=False))

"""The page of a comparison: scores, gains and losses of alignments, paired differences, matching taps."""

from collections.abc import Iterable, Sequence

from diagnostics.report.numbers import unbroken
from diagnostics.report.page import (
    Cell,
    Column,
    Length,
    Note,
    Notes,
    Number,
    Page,
    Row,
    Section,
    Sentence,
    Table,
    Tone,
    filled,
    left_out_section,
)
from diagnostics.runs.comparison.differences import QUANTITIES, Difference
from diagnostics.runs.comparison.findings import (
    SHARES,
    Findings,
    curves_figure,
    first_of_each_target,
    shares_figures,
    target_name,
)
from diagnostics.runs.comparison.members import lineage_of
from diagnostics.runs.comparison.shares import Shares
from diagnostics.runs.comparison.words import (
    alignment_name,
    cautions,
    describe_controls,
    describe_correction,
    describe_curve,
    describe_families,
    describe_heads,
    describe_lifts,
    describe_outcomes,
    describe_runs,
    describe_similarity,
    describe_uncontrolled,
    describe_verdict,
)
from diagnostics.runs.tap_map import map_figure

MOST_ROWS = 30
"""Rows of differences on a brief page."""


def comparison_page(findings: Findings) -> Page:
    """The findings of a comparison. A brief page has one probe of each target."""
    brief = first_of_each_target([row.profile for row in findings.group_scores])
    outcomes = [Sentence(f"{line}.", "strong") for line in describe_outcomes(findings, brief)]
    beware = [Sentence(f"Beware: {caution}.", "caution", only="full") for caution in cautions(findings)]
    return Page(
        title=f"{len(findings.members)} runs on {findings.data.attrs['dataset']}",
        lead=(
            # What an alignment is made for comes before all that was compared.
            *(Sentence(f"{line}.", "strong") for line in describe_lifts(findings, brief)),
            *(outcomes if any(difference.survives for difference in findings.differences) else ()),
            *filled(Sentence(describe_verdict(findings), "strong")),
            Sentence(describe_runs(findings), only="brief"),
            Sentence(
                f"{describe_runs(findings)}. The tap of each run was chosen without test, every score is read on test. "
                "Brackets are 95 % intervals over independent test units and, where a label has several seeds, over its "
                "seeds too; differences are paired on the same test samples.",
                only="full",
            ),
            *beware,
        ),
        sections=filled(
            _group_scores(findings, brief),
            _alignments(findings, brief),
            _differences(findings, brief),
            Section("", "", filled(_notes(map(describe_similarity, findings.tap_similarities), only="brief"), _more(findings, brief))),
            Section("Runs", "runs", filled(_runs(findings))),
            left_out_section(findings.left_out),
            *_families(findings),
            _tap_maps(findings),
        ),
        provenance=tuple((key.replace("_", " "), str(value)) for key, value in findings.data.attrs.items()),
    )  # fmt: skip


def _notes(lines: Iterable[str], tone: Tone = "plain", only: Length | None = None) -> Notes:
    return Notes(tuple(map(Note, lines)), tone, only)


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names))


def _length(profile: str, brief: Sequence[str]) -> Length | None:
    return None if profile in brief else "full"


def _anchors(findings: Findings) -> dict[str, str]:
    """Of the section of each profile."""
    return {str(name): f"c{i}" for i, name in enumerate(findings.data["target"].values)}


def _group_scores(findings: Findings, brief: Sequence[str]) -> Section:
    if not findings.group_scores:
        return Section("", "")
    several = any(len(members) > 1 for members in findings.groups.values())
    seeds = " and, where a label has several seeds, over seeds; 2/3: the tap of 2 of 3 seeds" if several else ""
    heads = any(row.head_drop for row in findings.group_scores)
    anchors = _anchors(findings)
    columns = _columns("target", "encoder", "chosen tap (depth)", "score", "output", "hidden gap")
    columns += (Column("trunk - head", only="full"),) * heads
    rows = [
        Row(
            (
                target_name(findings, row.profile), unbroken(row.group), row.chosen_tap_text, Number(row.chosen.interval),
                Number(row.output.interval), Number(row.hidden_gap.interval, signed=True),
                *([Number(row.head_drop and row.head_drop.interval, signed=True)] if heads else []),
            ),
            anchors[row.profile],
            _length(row.profile, brief),
        )
        for row in findings.group_scores
    ]  # fmt: skip
    return Section(
        "What each holds, and what its output hides",
        "holds",
        filled(
            Sentence(
                f"Taps chosen without test, scores read on test; 95 % intervals over test units{seeds}", only="brief"
            ),
            Table(columns, tuple(rows), grouped=True),
            _notes(describe_controls(findings, brief), "quiet"),
            _notes(describe_families(findings)),
            _notes(describe_heads(findings, brief), only="brief"),
            *(Sentence(f"Beware: {caution}.", "caution", only="brief") for caution in cautions(findings)),
        ),
        label="What each holds",
    )


def _alignments(findings: Findings, brief: Sequence[str]) -> Section:
    if not findings.shares:
        return Section("", "")
    # A share without a value names its reason by its place among them, from 1.
    reasons = list(
        dict.fromkeys(row.reasons[name] for row in findings.shares for name in (*SHARES, "cut") if name in row.reasons)
    )

    def cell(row: Shares, name: str, mark: str = "") -> Cell:
        if (value := getattr(row, name)) is not None:
            return Number(value, ".2f", mark=mark)
        return f"- ({reasons.index(row.reasons[name]) + 1})" if name in row.reasons else "-"

    columns = _columns("alignment", "target", "base's hidden gap", "recovered", "kept at chosen tap", "kept at output")
    controlled = any(row.over_control for row in findings.shares)
    cut = any(row.cut or "cut" in row.reasons for row in findings.shares)
    columns += (Column("cut"),) * cut + (Column("output - control's"),) * controlled
    rows = [
        Row(
            (
                alignment_name(row), target_name(findings, row.profile) + (", trained for it" if row.purpose else ""),
                Number(row.gap, signed=True),
                *(cell(row, name) for name in SHARES),
                *([cell(row, "cut", row.cut_is or "")] if cut else []),
                *([_over_control(row)] if controlled else []),
            ),
            only=_length(row.profile, brief),
        )
        for row in findings.shares
    ]  # fmt: skip
    return Section(
        "What an alignment gained, and what it cost",
        "alignments",
        filled(
            Sentence("Alignments relative to their base encoder (1: all of it)", only="brief", apart=True),
            *shares_figures(findings, brief),
            Table(columns, tuple(rows), grouped=True),
            _notes(
                [
                    "Recovered: the gain of the aligned output over the base's output, as a share of the base's hidden gap. Kept: the "
                    "aligned score divided by the base's, both above chance (0 for R2, otherwise what the measure declares or the score with shuffled "
                    "labels); over 1 where the score rose. Cut: the same share, recovered or kept, of the base read at the tap that the "
                    "alignment names, without any training. Output - control's: the aligned output's score minus that of the control, "
                    "which was trained in the same way but with the base's own tokens as teacher. The tap lifted a target only where "
                    "this difference is above 0."
                ],
                only="full",
            ),
            _notes(describe_uncontrolled(findings)),
            _notes([f"({i}) {why}" for i, why in enumerate(reasons, 1)], "quiet"),
        ),
        label="Alignments",
    )


def _over_control(row: Shares) -> Cell:
    if row.over_control is None:
        return "-"
    return Number(row.over_control, signed=True, mark=" lifted" if row.lifted else "")


def _differences(findings: Findings, brief: Sequence[str]) -> Section:
    by_pair: dict[tuple[str, str, str], list[Difference]] = {}
    for difference in findings.differences:
        by_pair.setdefault((difference.profile, difference.first, difference.second), []).append(difference)
    if not by_pair:
        return Section("", "")
    curves = {(curve.profile, curve.first, curve.second): curve for curve in findings.curve_differences}
    kept = shown = [pair for pair in by_pair if pair[0] in brief]
    few = ""
    if len(shown) > MOST_ROWS:
        differing = [p for p in shown if any(row.survives for row in by_pair[p]) or curves[p].at is not None]
        kept = differing[:MOST_ROWS]
        which = "the first of those" if len(differing) > MOST_ROWS else "those"
        few = f"{len(kept)} of {len(shown)} rows, {which} that differ; all are in the report"
    rows = [
        Row(
            (
                target_name(findings, pair[0]),
                f"{unbroken(pair[1])} - {unbroken(pair[2])}",
                *(
                    Number(row.estimate.interval, signed=True, mark=row.outcome if row.survives else "")
                    for row in differences
                ),
                describe_curve(curves[pair]),
            ),
            only=None if pair in kept else "full",
        )
        for pair, differences in by_pair.items()
    ]
    survivors = f"gained, lost (a hidden gap: grew, shrank): significant after correction for multiple comparisons ({describe_correction(findings)}); else cannot tell"
    return Section(
        "Paired differences",
        "differences",
        filled(
            Sentence(
                f"Paired differences, after minus before; {survivors}. Along the trunk: where the curves of these encoders "
                "differ most, if the difference is significant",
                only="brief",
                apart=True,
            ),
            Sentence(
                f"After minus before, in the order that the runs were named in; {survivors}. Along the trunk: the depths at which the two curves differ, by a test with "
                "random flips of the sign of each test unit's difference, corrected for all depths, targets and pairs together. "
                "It holds for these trained encoders, not for other seeds.",
                only="full",
            ),
            Sentence(few, "quiet", only="brief"),
            Table(_columns("target", "after - before", *QUANTITIES, "along the trunk"), tuple(rows), grouped=True),
        ),
        label="Differences",
    )


def _more(findings: Findings, brief: Sequence[str]) -> Sentence:
    more = findings.data.sizes["target"] - len(brief)
    profiles = "profile (another probe, or a measure" if more == 1 else "profiles (other probes, measures"
    verb = "is" if more == 1 else "are"
    text = f"{more} further {profiles} without a target) {verb} in the report." if more > 0 else ""
    return Sentence(text, "quiet", only="brief")


def _runs(findings: Findings) -> Table:
    columns = _columns("run", "encoder", "output tap", "seed", "how it was made", "folder")
    rows = [
        Row(
            (
                member.name, member.run.encoder_name, member.run.store.output_tap, "-" if member.seed is None else str(member.seed),
                str(lineage_of(member.run).get("how", "-")), str(member.run.path),
            )
        )
        for member in findings.members
    ]  # fmt: skip
    return Table(columns, tuple(rows), only="full")


def _families(findings: Findings) -> list[Section]:
    by_family: dict[str, list[Section]] = {}
    for name, anchor in _anchors(findings).items():
        family = str(findings.data["family"].sel(target=name).values)
        by_family.setdefault(family, []).append(Section(name, anchor, (curves_figure(findings, name),)))
    return [Section(family, f"f{i}", sections=tuple(curves)) for i, (family, curves) in enumerate(by_family.items())]


def _tap_maps(findings: Findings) -> Section:
    figures = {(pair.first, pair.second): pair.data for pair in findings.tap_similarities}
    maps = [
        Section(" and ".join(names), f"m{i}", (map_figure(data, names),), wide=False)
        for i, (names, data) in enumerate(figures.items())
    ]
    notes = _notes(map(describe_similarity, findings.tap_similarities), only="full")
    return Section("Where taps correspond", "similarity", filled(notes), tuple(maps))

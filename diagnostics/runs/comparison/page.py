"""The page of a comparison, and its findings as sentences."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from diagnostics.errors import join_names
from diagnostics.report.numbers import format_interval, format_number, nowrap
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
    left_out_section,
    nonempty,
)
from diagnostics.runs.comparison.differences import ALPHA, QUANTITIES, CurveDifference, Difference, Shares
from diagnostics.runs.comparison.findings import (
    SHARES,
    Findings,
    Member,
    TapSimilarity,
    curves_figure,
    first_of_each_target,
    lineage_of,
    shares_figures,
    target_name,
)
from diagnostics.runs.pages.answer_in_words import tasks_figure
from diagnostics.runs.pages.run import map_figure


def describe_runs(findings: Findings) -> str:
    """The runs, and their data, in words."""
    n = findings.members[0].run.n
    several = {group: f" ({len(members)} seeds)" * (len(members) > 1) for group, members in findings.groups.items()}
    runs = [f"{group}{seeds}" for group, seeds in several.items()]
    return (
        f"{', '.join(runs)} on {findings.data.attrs['dataset']}, n = {n['train']} train, {n['val']} val, "
        f"{n['test']} test; pooling: {findings.data.attrs['pooling']}"
    )


NO_WEIGHTS = "none"
"""The weights of encoders that have none."""
BESIDE_WEIGHTS = ("configuration", "preprocessing")
"""What makes an encoder beside its weights, as a store names it."""
MOST_NAMED = 3
"""Differences that a verdict names."""


def describe_verdict(findings: Findings) -> str:
    """Differences between the groups, after correction for all that was compared: the largest differences by name.

    Before them it is said which runs have equal weights.
    """
    return " ".join(filter(None, (_describe_equal(findings.members), _describe_differences(findings))))


def _describe_equal(members: Sequence[Member]) -> str:
    sentences: list[str] = []
    for weights in dict.fromkeys(member.weights for member in members):
        alike = [member for member in members if member.weights == weights]
        if weights == NO_WEIGHTS or len(alike) < 2:
            continue
        *names, last = [member.name for member in alike]
        other = " and ".join(key for key in BESIDE_WEIGHTS if len({_identity(member)[key] for member in alike}) > 1)
        rest = f"they differ in {other} alone" if other else "they are one encoder"
        sentences.append(f"{', '.join(names)} and {last} have equal weights: {rest}.")
    return " ".join(sentences)


def _identity(member: Member) -> dict[str, str]:
    """Digests of its encoder, by name."""
    return {key: member.run.store.identity.get(key, "") for key in ("weights", *BESIDE_WEIGHTS)}


def _describe_differences(findings: Findings) -> str:
    if len(findings.groups) < 2 or not findings.differences:
        return ""
    n = findings.members[0].run.n["test"]
    shown = sorted((d for d in findings.differences if d.survives), key=lambda d: -abs(d.estimate.value))
    count = len(findings.differences)
    if not shown:
        identities = [_identity(member) for member in findings.members]
        one = identities[0]["weights"] != NO_WEIGHTS and all(each == identities[0] for each in identities)
        proof = "That is no proof that they are alike: the intervals say how large a difference may be."
        return (
            f"No difference between these runs is shown on these {n} test samples, of {count} compared "
            f"({', '.join(QUANTITIES)}) and corrected for their number.{'' if one else f' {proof}'}"
        )
    named = [_describe_difference(findings, d) for d in shown[:MOST_NAMED]]
    more = f" (the {MOST_NAMED} largest are named)" if len(shown) > MOST_NAMED else ""
    return f"{len(shown)} of {count} differences are shown on these {n} test samples{more}: {'; '.join(named)}."


def describe_outcomes(findings: Findings, profiles: Sequence[str]) -> list[str]:
    """Gains and losses of the later of two labels against the earlier one.

    Also for which targets that cannot be told.
    """
    if len(findings.groups) != 2:
        return []
    lines: list[str] = []
    for quantity, at in (("chosen tap", "the layer to use"), ("output", "the output")):
        rows = [d for d in findings.differences if d.quantity == quantity and d.profile in profiles]
        named = {
            what: [target_name(findings, d.profile) for d in rows if d.outcome == what]
            for what in ("lost", "gained", "cannot tell")
        }
        parts = [
            f"{what}{' for' * (what == 'cannot tell')} {join_names(names)}" for what, names in named.items() if names
        ]
        lines += [f"{rows[0].first} minus {rows[0].second} at {at}: {'; '.join(parts)}"] if parts else []
    return lines


def _describe_difference(findings: Findings, difference: Difference) -> str:
    above, below = difference.first, difference.second
    if difference.estimate.value < 0:
        above, below = below, above
    amount = format_number(abs(difference.estimate.value), "+.3f")
    target = target_name(findings, difference.profile)
    if difference.quantity == "hidden gap":
        return f"{above} has a larger hidden gap of {target} than {below}, by {amount}"
    return f"{above} is above {below} in {target}, {difference.quantity}, by {amount}"


def cautions(findings: Findings) -> list[str]:
    """Cautions about scores that rest on few units; and of which run's loss a few carry most."""
    members = [(member, score.profile) for score in findings.group_scores for member in findings.members]
    few = [member.profiles[name].few for member, name in members]
    skewed = [f"{member.name}: {why}" for member, name in members if "carry" in (why := member.profiles[name].skew)]
    return list(dict.fromkeys([*filter(None, few), *skewed]))


def describe_families(findings: Findings) -> list[str]:
    """The mean hidden gap of each family's targets, by group."""
    lines: list[str] = []
    for family in dict.fromkeys(gap.family for gap in findings.family_gaps):
        rows = [gap for gap in findings.family_gaps if gap.family == family]
        gaps = "; ".join(f"{gap.group} {format_interval(gap.hidden_gap.interval, signed=True)}" for gap in rows)
        counts = sorted({len(gap.profiles) for gap in rows})
        of = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
        lines.append(f"mean hidden gap, {family} ({of} target{'s' if counts[-1] > 1 else ''}): {gaps}")
    return lines


def describe_controls(findings: Findings, profiles: Sequence[str]) -> list[str]:
    """The labels that are not shown to beat fresh weights, and in which targets.

    Where an encoder of the same architecture that was never trained reads a target as well, training brought nothing
    that the probe shows.
    """
    targets: dict[str, list[str]] = {}
    for profile in profiles:
        poor: list[str] = []
        for group, members in findings.groups.items():
            margins = [member.profiles[profile].over("fresh_weights") for member in members]
            known = [margin for margin in margins if margin is not None and not math.isnan(margin.low)]
            missed = sum(not margin.low > 0 for margin in known)
            if missed:
                poor.append(group if len(known) == 1 else f"{group} ({missed} of {len(known)} seeds)")
        if poor:
            targets.setdefault(join_names(poor), []).append(target_name(findings, profile))
    return [f"not shown to beat fresh weights: {who}, in {join_names(names)}" for who, names in targets.items()]


def describe_heads(findings: Findings, profiles: Sequence[str]) -> list[str]:
    """Loss in each group's head: the trunk's last tap minus the head's last."""
    drops: dict[str, list[str]] = {group: [] for group in findings.groups}
    for score in findings.group_scores:
        if score.profile in profiles and score.head_drop is not None:
            drop = format_interval(score.head_drop.interval, signed=True)
            drops[score.group].append(f"{target_name(findings, score.profile)} {drop}")
    return [f"end of trunk minus end of head, {group}: {'; '.join(own)}" for group, own in drops.items() if own]


def alignment_name(shares: Shares) -> str:
    """The alignment, what it started from, and how many trainings its shares rest on."""
    seeds = f"; {shares.seeds} of {shares.of_seeds} seeds" if shares.seeds < shares.of_seeds else ""
    alone = ", over samples alone" if seeds and shares.seeds == 1 else ""
    return f"{shares.group} (from {shares.base}{seeds}{alone})"


def describe_lifts(findings: Findings, profiles: Sequence[str]) -> list[str]:
    """Of each alignment, which targets the tap lifted beyond what its control shows, and which it is not shown to have.

    Each by its own interval.
    """
    lines: list[str] = []
    for group in dict.fromkeys(row.group for row in findings.shares if row.over_control is not None):
        held = [row for row in findings.shares if row.group == group and row.profile in profiles and row.over_control]
        lifted = [target_name(findings, row.profile) for row in held if row.is_lifted]
        rest = [target_name(findings, row.profile) for row in held if not row.is_lifted]
        parts = (
            [f"lifted by the tap, beyond its control, each by its own interval: {', '.join(lifted)}"] if lifted else []
        )
        parts += [f"not shown to be lifted by the tap: {', '.join(rest)}"] if rest else []
        lines.append(f"{group}: {'; '.join(parts)}")
    return lines


def describe_uncontrolled(findings: Findings) -> list[str]:
    """Of which alignments there is no control, and why."""
    whys = {row.group: row.reasons["over_control"] for row in findings.shares if "over_control" in row.reasons}
    return [
        f"{group}: the effect of training by itself is not known ({why})"
        for group, why in whys.items()
        if "itself" not in why
    ]


def describe_correction(findings: Findings) -> str:
    """Number of differences that survive, after which correction, and what the intervals are over."""
    tested = [difference for difference in findings.differences if not math.isnan(difference.p_corrected)]
    if not tested:
        return "none can be tested"
    both = [difference for difference in tested if difference.estimate.over_both is not None]
    kind = "over samples and, where both labels have several seeds, over seeds"
    if not both:
        kind = "over samples only, since a label has one training run: other seeds might differ"
    elif len(both) == len(tested):
        kind = "over samples and seeds"
    return f"{sum(difference.survives for difference in tested)} of {len(tested)}; Holm, 0.05; {kind}"


def describe_curve(curve: CurveDifference) -> str:
    """The depths of the trunk at which two groups differ."""
    shown = np.flatnonzero(curve.p < ALPHA)
    if not np.isfinite(curve.p).any():
        return "not tested"
    if curve.at is None:
        return "at no depth"
    at = f"{curve.difference[curve.at]:+.3f} at depth {curve.depths[curve.at]:.2f}"
    return at if len(shown) == 1 else f"{at}; shown at {len(shown)} of {len(curve.p)} depths"


def describe_similarity(similarity: TapSimilarity) -> str:
    """Similarity of two outputs, and where the first run's taps stand in the second."""
    data = similarity.data
    taps = [str(tap) for tap in data["tap"].values]
    known = np.isfinite(similarity.aligned)
    outputs = "not defined" if math.isnan(similarity.at_outputs) else f"{similarity.at_outputs:.3f}"
    alike = f"{data.attrs['measure']} of {similarity.first} and {similarity.second}: {outputs} at the outputs"
    if "p" not in data:
        return f"{alike}; the chance level is not known, so no depths are matched"
    if not np.isfinite(data["p"].values).any():
        return (
            f"{alike}; the chance level is not known ({data.attrs.get('no_null', 'no pair has a value')}), so no "
            f"depths are matched"
        )
    if not known.any():
        return f"{alike}; no tap of one is more similar to a tap of the other than by chance"
    depths, aligned = data["depth"].values, similarity.aligned
    ends = [f"{depths[i]:.2f} ({taps[i]}) with {aligned[i]:.2f}" for i in np.flatnonzero(known)]
    shown = ends if len(ends) <= 4 else [ends[0], ends[len(ends) // 2], ends[-1]]
    lost = f"; {int((~known).sum())} of {len(taps)} taps of {similarity.first} match none" if not known.all() else ""
    return f"{alike}; most similar depths: {', '.join(shown)}{lost}"


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
            *nonempty(Sentence(describe_verdict(findings), "strong")),
            Sentence(describe_runs(findings), only="brief"),
            Sentence(
                f"{describe_runs(findings)}. The tap of each run was chosen without test, every score is read on test. "
                "Brackets are 95 % intervals over independent test units and, where a label has several "
                "seeds, over its seeds too; differences are paired on the same test samples.",
                only="full",
            ),
            *beware,
        ),
        sections=nonempty(
            _tasks(findings),
            _group_scores(findings, brief),
            _alignments(findings, brief),
            _differences(findings, brief),
            Section(
                "",
                "",
                nonempty(
                    _notes(map(describe_similarity, findings.tap_similarities), only="brief"), _more(findings, brief)
                ),
            ),
            Section("Runs", "runs", nonempty(_runs(findings))),
            left_out_section(findings.left_out),
            *_families(findings),
            _tap_maps(findings),
        ),
        provenance=tuple((key.replace("_", " "), str(value)) for key, value in findings.data.attrs.items()),
    )


def _notes(lines: Iterable[str], tone: Tone = "plain", only: Length | None = None) -> Notes:
    return Notes(tuple(map(Note, lines)), tone, only)


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names))


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
                target_name(findings, row.profile),
                nowrap(row.group),
                row.chosen_tap_text,
                Number(row.chosen.interval),
                Number(row.output.interval),
                Number(row.hidden_gap.interval, signed=True),
                *([Number(row.head_drop.interval if row.head_drop else None, signed=True)] if heads else []),
            ),
            anchors[row.profile],
            None if row.profile in brief else "full",
        )
        for row in findings.group_scores
    ]
    return Section(
        "What each holds, and what its output hides",
        "holds",
        nonempty(
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
                alignment_name(row),
                target_name(findings, row.profile) + (", trained for it" if row.purpose else ""),
                Number(row.gap, signed=True),
                *(cell(row, name) for name in SHARES),
                *([cell(row, "cut", row.cut_is or "")] if cut else []),
                *([_over_control(row)] if controlled else []),
            ),
            only=None if row.profile in brief else "full",
        )
        for row in findings.shares
    ]
    return Section(
        "What an alignment gained, and what it cost",
        "alignments",
        nonempty(
            Sentence("Alignments relative to their base encoder (1: all of it)", only="brief", apart=True),
            *shares_figures(findings, brief),
            Table(columns, tuple(rows), grouped=True),
            _notes(
                [
                    "Recovered: the gain of the aligned output over the base's output, as a share of the base's hidden "
                    "gap. Kept: the aligned score divided by the base's, both above chance (0 for R2, otherwise what "
                    "the measure declares or the score with shuffled labels); over 1 where the score rose. Cut: the "
                    "same share, recovered or kept, of the base read at the tap that the alignment names, without any "
                    "training. Output - control's: the aligned output's score minus that of the control, which was "
                    "trained in the same way but with the base's own tokens as teacher. The tap lifted a target only "
                    "where this difference is above 0."
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
    return Number(row.over_control, signed=True, mark=" lifted" if row.is_lifted else "")


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
                f"{nowrap(pair[1])} - {nowrap(pair[2])}",
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
    survivors = (
        f"gained, lost (a hidden gap: grew, shrank): significant after correction for multiple comparisons "
        f"({describe_correction(findings)}); else cannot tell"
    )
    return Section(
        "Paired differences",
        "differences",
        nonempty(
            Sentence(
                f"Paired differences, after minus before; {survivors}. Along the trunk: where the curves of these "
                f"encoders differ most, if the difference is significant",
                only="brief",
                apart=True,
            ),
            Sentence(
                f"After minus before, in the order that the runs were named in; {survivors}. Along the trunk: the "
                f"depths at which the two curves differ, by a test with random flips of the sign of each test unit's "
                f"difference, corrected for all depths, targets and pairs together. It holds for these trained "
                f"encoders, not for other seeds.",
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
                member.name,
                member.run.encoder_name,
                member.run.store.output_tap,
                "-" if member.seed is None else str(member.seed),
                str(lineage_of(member.run).get("how", "-")),
                str(member.run.path),
            )
        )
        for member in findings.members
    ]
    return Table(columns, tuple(rows), only="full")


def _tasks(findings: Findings) -> Section:
    """All tasks over depth, of the first run of each label.

    Each is in shares of its own encoder's best tap, so those belong here too that lie on grids of their own.
    """
    first = {
        group: [profile for profile in members[0].profiles.values() if profile.is_probe]
        for group, members in findings.groups.items()
    }
    return Section("All tasks over depth", "tasks", nonempty(tasks_figure(first)))


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
    return Section("Where taps correspond", "similarity", nonempty(notes), tuple(maps))

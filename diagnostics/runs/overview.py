"""What opens a run's report: a verdict in a few sentences, one picture of all targets, and what to read for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diagnostics.report.figures import ScoreMap, State
from diagnostics.report.page import Block, Finding, Findings, Legend, MapLegend, Section, Sentence, filled
from diagnostics.runs.controls.kinds import NAMES
from diagnostics.runs.profile import Profile
from diagnostics.runs.recommendation import Recommendation


def overview(
    verdict: str,
    probes: Sequence[tuple[str, Profile]],
    recommendations: Sequence[Recommendation],
    more: Sequence[Sentence],
) -> Section:
    """The first section of a report, from probes with the anchors of their sections; `more` is what has to be known of all."""
    rows = by_state([(anchor, p) for anchor, p in probes if p.target])
    if not rows:
        return Section("In short", "short", filled(*more))
    by_name = {(p.measure, p.target): (anchor, p) for anchor, p in rows}
    findings = [_finding(r, *by_name[r.measure, r.target]) for r in recommendations if (r.measure, r.target) in by_name]
    findings.sort(key=lambda finding: [anchor for anchor, _ in rows].index(finding.anchor))
    blocks: list[Block] = [
        Sentence(verdict, "verdict", only="full"),
        score_map(rows),
        MapLegend(tuple(dict.fromkeys(state_of(p) for _, p in rows))),
        Findings(tuple(findings)),
        *more,
    ]  # fmt: skip
    return Section("In short", "short", filled(*blocks))


def state_of(profile: Profile) -> State:
    """What is shown of a probe's target."""
    if not profile.is_readable:
        return "unread"
    if not profile.is_hidden:
        return "none"
    return "doubtful" if profile.rivals else "hidden"


def _finding(recommendation: Recommendation, anchor: str, profile: Profile) -> Finding:
    where = "the output, " if recommendation.at_output else ""
    link = f"{where}{recommendation.tap}" if recommendation.tap else ""
    # After the verb: a target may have the name of a tap.
    return Finding(str(recommendation), state_of(profile), f"use {link}" if link else "nothing to recommend", anchor)


def by_state(rows: Sequence[tuple[str, Profile]]) -> list[tuple[str, Profile]]:
    """Rows of the first picture in their order."""
    return sorted(rows, key=lambda row: _order(row[1]))


def _order(profile: Profile) -> tuple[int, float]:
    """Hidden ones first, the widest gap before the others."""
    gap = profile.hidden_gap.value if profile.hidden_gap else 0.0
    return ("hidden", "doubtful", "none", "unread").index(state_of(profile)), -gap if np.isfinite(gap) else 0.0


def score_map(rows: Sequence[tuple[str, Profile]]) -> ScoreMap:
    """The first picture as arrays. A tap that only some probes read has no value for the others."""
    taps = max((p.taps for _, p in rows), key=len)
    taps = [*taps, *dict.fromkeys(tap for _, p in rows for tap in p.taps if tap not in taps)]
    data = [p.data.reindex(tap=taps) for _, p in rows]
    depths = {tap: float(at) for _, p in rows for tap, at in zip(p.taps, p.data["depth"].values, strict=True)}
    score, low, high = (np.stack([each[key].values for each in data]) for key in ("score", "low", "high"))
    return ScoreMap(
        targets=[p.label for _, p in rows],
        taps=taps,
        depth=np.array([depths[tap] for tap in taps]),
        score=score,
        low=low,
        high=high,
        floor=np.array([p.floor for _, p in rows]),
        states=[state_of(p) for _, p in rows],
        best=[p.best_tap for _, p in rows],
        output=rows[0][1].output_tap,
        anchors=[anchor for anchor, _ in rows],
    )


def legend_of(profiles: Sequence[Profile]) -> Legend:
    """What the figures of a family have in common."""
    controls = {name.replace("_", " "): NAMES.index(name) for p in profiles for name in p.controls}
    return Legend(
        controls=tuple(sorted(controls.items(), key=lambda entry: entry[1])),
        band=any(bool(np.isfinite(p.data["low"].values).any()) for p in profiles),
        best=any(p.best_tap is not None for p in profiles),
        lines=any(p.lines for p in profiles),
    )

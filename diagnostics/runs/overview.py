"""What opens a run's report: a verdict in a few sentences, one picture of all targets, and what to read for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diagnostics.report.figures import ScoreMap
from diagnostics.report.page import Block, Finding, Findings, Legend, MapLegend, Section, Sentence, filled
from diagnostics.runs.controls.kinds import NAMES
from diagnostics.runs.profile import Profile, by_verdict
from diagnostics.runs.recommendation import Recommendation


def overview(
    answer: Sequence[str],
    probes: Sequence[tuple[str, Profile]],
    recommendations: Sequence[Recommendation],
    more: Sequence[Sentence],
) -> Section:
    """The first section of a report, from probes with the anchors of their sections; `answer` are its sentences, `more` is what has to be known of all."""
    anchors = {id(p): anchor for anchor, p in probes}
    rows = [(anchors[id(p)], p) for p in by_verdict([p for _, p in probes])]
    if not rows:
        return Section("In short", "short", filled(*more))
    by_name = {(p.measure, p.target): (anchor, p) for anchor, p in rows}
    findings = [_finding(r, *by_name[r.measure, r.target]) for r in recommendations if (r.measure, r.target) in by_name]
    findings.sort(key=lambda finding: [anchor for anchor, _ in rows].index(finding.anchor))
    blocks: list[Block] = [
        *(Sentence(each, "verdict" if not i else "plain", only="full") for i, each in enumerate(answer)),
        score_map(rows),
        MapLegend(tuple(dict.fromkeys(p.verdict for _, p in rows))),
        Findings(tuple(findings)),
        *more,
    ]  # fmt: skip
    return Section("In short", "short", filled(*blocks))


def _finding(recommendation: Recommendation, anchor: str, profile: Profile) -> Finding:
    # After the verb: a target may have the name of a tap.
    link = f"use {recommendation.place}" if recommendation.tap else "nothing to recommend"
    if recommendation.confidence == "at chance":
        link = "no layer is of use"
    return Finding(str(recommendation), profile.verdict, link, anchor)


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
        verdicts=[p.verdict for _, p in rows],
        chosen=[p.chosen_tap for _, p in rows],
        output=rows[0][1].output_tap,
        anchors=[anchor for anchor, _ in rows],
    )


def legend_of(profiles: Sequence[Profile]) -> Legend:
    """What the figures of a family have in common."""
    controls = {name.replace("_", " "): NAMES.index(name) for p in profiles for name in p.controls}
    return Legend(
        controls=tuple(sorted(controls.items(), key=lambda entry: entry[1])),
        band=any(bool(np.isfinite(p.data["low"].values).any()) for p in profiles),
        chosen=any(p.chosen_tap is not None for p in profiles),
        lines=any(p.lines for p in profiles),
    )

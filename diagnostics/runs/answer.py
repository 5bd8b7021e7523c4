"""The answer of a run, which comes first: a row a target with the layer to use, and in a few sentences how sure that is."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diagnostics.errors import enumerated
from diagnostics.measures.verdict import Verdict
from diagnostics.progress import size
from diagnostics.report.numbers import format_interval, format_number, unbroken
from diagnostics.report.page import Block, Column, Note, Notes, Number, Row, Sentence, Table, filled
from diagnostics.runs.nonlinear import nonlinear_reading
from diagnostics.runs.profile import INTERVALS, Profile, first_probes
from diagnostics.runs.recommendation import Recommendation, recommend

if TYPE_CHECKING:
    from diagnostics.runs.run import Run

SHORT = ".2f"
"""Format of the scores of a first screen."""
MOST_NAMED = 4
"""Targets that a sentence names."""


def by_verdict(profiles: Sequence[Profile]) -> list[Profile]:
    """Probes of targets in the order of their verdicts, the largest gap first."""

    def order(profile: Profile) -> tuple[int, float]:
        gap = profile.hidden_gap.value if profile.hidden_gap else math.nan
        return list(Verdict).index(profile.verdict), 0.0 if math.isnan(gap) else -gap

    return sorted((profile for profile in profiles if profile.is_probe and profile.target), key=order)


def answer_blocks(run: Run) -> tuple[Block, ...]:
    """The rows and the sentences of a brief page; nothing where no probe read a target."""
    read = by_verdict(list(first_probes(run.profiles()).values()))
    if not read:
        return ()
    rows = [_row(profile, recommend(profile)) for profile in read]
    columns = (Column("  target"), Column("use"), Column("score"), Column("at output", bare=True))
    return filled(
        Table(columns, tuple(rows), only="brief"),
        *(Sentence(each, only="brief", apart=not i) for i, each in enumerate(answer(run.profiles()))),
    )


def _row(profile: Profile, read: Recommendation) -> Row:
    cells = (
        unbroken(f"{profile.verdict.mark} {profile.label}"), unbroken(read.place),
        Number(read.score, SHORT), Number(read.output, SHORT),
    )  # fmt: skip
    return Row(cells, note="; ".join(_notes(profile, read)))


def _notes(profile: Profile, read: Recommendation) -> list[str]:
    """What a reader of the row must know: too few units, a gap that the rule did not follow, controls, other taps."""
    notes = [profile.few.removeprefix("only ").replace(": they", "")] if profile.few else []
    if profile.verdict is Verdict.SHOWN and read.at_output and profile.hidden_gap:
        notes.append(f"{profile.best_tap} shows {format_number(profile.hidden_gap.value, f'+{SHORT}')}")
    if profile.is_readable and (rivals := rivals_with_scores(profile)):
        notes.append(f"a control does as well: {enumerated(rivals)}")
    if profile.redraws:
        notes.append(profile.redraws.line)
    if read.also:
        notes.append(f"also {enumerated(_shortened(read.also))}")
    return notes


def rivals_with_scores(profile: Profile) -> list[str]:
    """The controls that the chosen tap is not shown to beat, each with its score."""
    reached = {name.replace("_", " "): profile.control(name) for name in profile.controls}
    scores = {name: score.value for name in profile.rivals if (score := reached.get(name))}
    return [
        f"{name} {format_number(value, SHORT)}" for name, value in sorted(scores.items(), key=lambda item: -item[1])
    ]


def _shortened(names: Sequence[str]) -> list[str]:
    return [*names] if len(names) <= MOST_NAMED else [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]


def answer(profiles: Sequence[Profile]) -> list[str]:
    """The findings of probes of targets, one sentence a verdict; empty where no probe read a target."""
    read = by_verdict(list(first_probes(profiles).values()))
    groups = {verdict: [p for p in read if p.verdict is verdict] for verdict in Verdict}
    few = [p for p in groups[Verdict.UNDECIDED] if p.few]
    undecided = [p for p in groups[Verdict.UNDECIDED] if not p.few]
    readable = [p for p in undecided if p.is_readable and math.isfinite(p.gap_bound)]
    unread = [p for p in undecided if not p.is_readable]
    alone = [p for p in undecided if p.is_readable and not math.isfinite(p.gap_bound)]
    sentences = (
        _shown(groups[Verdict.SHOWN]), _nonlinear(groups[Verdict.SHOWN], profiles), _matched(read), _possible(readable), _excluded(groups[Verdict.EXCLUDED]),
        _few(few), _named("Cannot tell whether any layer reads {}.", unread),
        _named("The output has no score for {}, so there is nothing to compare with.", alone),
        _named("{} is at chance at every layer.", groups[Verdict.AT_CHANCE], "{} are at chance at every layer."),
    )  # fmt: skip
    return [sentence for sentence in sentences if sentence]


def _shown(profiles: Sequence[Profile]) -> str:
    if not profiles:
        return ""
    gaps = [f"{p.target} ({format_interval(p.hidden_gap, f'{SHORT}', signed=True)} at {p.best_tap})" for p in profiles]
    return f"The output hides {enumerated(_shortened(gaps))} from a linear readout."


def _nonlinear(profiles: Sequence[Profile], every: Sequence[Profile]) -> str:
    """What a kernel reads where the output hides something from a linear readout: hidden, or harder to read."""
    read = [(p.target, nonlinear_reading(every, str(p.target))) for p in profiles]
    words = [f"{target}: {reading.words}" for target, reading in read if reading]
    return f"Hidden, or harder to read? {'; '.join(_shortened(words))}." if words else ""


def _matched(profiles: Sequence[Profile]) -> str:
    """Targets that need no encoder, since a control without the trained weights reads them as well."""
    matched = [p for p in profiles if p.is_readable and p.rivals]
    return _named("A control reads {} as well, so a high score there says nothing for the encoder.", matched)


def _possible(profiles: Sequence[Profile]) -> str:
    if not profiles:
        return ""
    bounds = [f"{p.target} (gaps up to {format_number(p.gap_bound, SHORT)} are possible{_needed(p)})" for p in profiles]
    return f"Cannot tell for {enumerated(_shortened(bounds))}."


def _needed(profile: Profile) -> str:
    needed, units = profile.units_needed, profile.units["test"]
    return f"; about {needed:,} test units would tell, {units:,} now" if needed and needed > units else ""


def _excluded(profiles: Sequence[Profile]) -> str:
    bounds = [f"{p.target} (gaps above {format_number(p.gap_bound, SHORT)} are excluded)" for p in profiles]
    return f"The output is as good as any layer for {enumerated(_shortened(bounds))}." if bounds else ""


def _few(profiles: Sequence[Profile]) -> str:
    if not profiles:
        return ""
    p = profiles[0]
    scores = p.data["score"].values[p.data["depth"].values <= p.depth_of(p.output_tap)]
    scores = scores[~(scores != scores)]
    between = (
        f" ({format_number(scores.min(), SHORT)} to {format_number(scores.max(), SHORT)} over the layers)"
        if len(profiles) == 1 and len(scores)
        else ""
    )
    return f"For {_names(profiles)} the layer is a guess{between}: {p.few}."


def _named(sentence: str, profiles: Sequence[Profile], plural: str = "") -> str:
    if not profiles:
        return ""
    return (plural if plural and len(profiles) > 1 else sentence).format(_names(profiles))


def _names(profiles: Sequence[Profile]) -> str:
    return enumerated(_shortened([str(p.target) for p in profiles]))


def brief_cautions(profiles: Sequence[Profile]) -> list[str]:
    """Why values or intervals are not to be believed, each reason once for all that it concerns."""
    skewed = [str(p.target or p.measure) for p in profiles if "carry" in p.skewed]
    sparse = [p.measure for p in profiles if p.sparse]
    cautions: list[str] = []
    if skewed:
        names = enumerated(dict.fromkeys(skewed))
        cautions.append(
            f"Beware: a few units decide {names}, so intervals may be too narrow. `?log=TARGET` reads a logarithm."
        )
    if sparse:
        few = min(p.token_samples for p in profiles if p.sparse)
        cautions.append(
            f"Beware: {enumerated(dict.fromkeys(sparse))} rest on the tokens of only {few} samples: a larger "
            "--token-budget gives more."
        )
    return cautions


def legend(profiles: Sequence[Profile]) -> str:
    """What the marks mean, and what chose and what scored."""
    marks = "; ".join(f"{verdict.mark} {verdict.meaning}" for verdict in Verdict)
    chosen = " or ".join(dict.fromkeys(p.chosen_on for p in profiles if p.chosen_tap))
    return f"{marks}. Layers were chosen without test{f' ({chosen})' if chosen else ''}; scores are read on test; {INTERVALS}."


def closing_blocks(run: Run) -> tuple[Block, ...]:
    """Where the features, the report and the rest are."""
    tokens, whole = run.disk_use
    path = shlex.quote(str(run.path))
    target = next((r.target for r in run.recommendations() if r.tap is not None), None)
    open_run = f"dx.open_run({json.dumps(str(run.path), ensure_ascii=False)})"
    lines = {
        "features": f"{open_run}.features(target={json.dumps(target, ensure_ascii=False)})" if target else "",
        "report": f"diagnostics open {path}",
        "why": f"diagnostics show {path} --full",
        "disk": f"{size(tokens)} of {size(whole)} are tokens: {unbroken(f'diagnostics clean --tokens {path}')}"
        if tokens
        else size(whole),
    }
    return (
        Notes(
            tuple(
                Note(unbroken(text) if name != "disk" else text, f"{name:8}") for name, text in lines.items() if text
            ),
            "quiet",
            lead="  ",
        ),
    )

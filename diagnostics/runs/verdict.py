"""What a reader wants first of a run: a row a target, the answer in two sentences, and which tap to read."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diagnostics.errors import enumerated
from diagnostics.progress import size
from diagnostics.report.numbers import format_number, unbroken
from diagnostics.report.page import Block, Column, Note, Notes, Number, Row, Sentence, Table, filled
from diagnostics.runs.profile import INTERVALS, Profile, first_probes

if TYPE_CHECKING:
    from diagnostics.runs.run import Run

TAUGHT, MATCHED, KEPT, UNREADABLE = "++", "+", "=", "-"
"""Marks of a target, in characters that every terminal has."""


def verdict(profile: Profile) -> str:
    """The mark of a probe of a target."""
    if not profile.is_readable:
        return UNREADABLE
    if not profile.is_hidden:
        return KEPT
    return MATCHED if profile.rivals else TAUGHT


def targets_read(profiles: Sequence[Profile]) -> list[Profile]:
    """Probes of targets, the largest hidden gap first and what is not readable last."""

    def order(profile: Profile) -> tuple[bool, float]:
        gap = profile.hidden_gap.value if profile.hidden_gap else math.nan
        return verdict(profile) == UNREADABLE, math.inf if math.isnan(gap) else -gap

    return sorted((profile for profile in profiles if profile.is_probe and profile.target), key=order)


def verdict_blocks(run: Run) -> tuple[Block, ...]:
    """The table with its legend, and in short, for a brief page; nothing where no probe read a target."""
    profiles = run.profiles()
    read = targets_read(profiles)
    if not read:
        return ()
    rows = [
        Row(
            (
                unbroken(f"{verdict(p):2} {p.label}"), unbroken(p.best_tap or "-"), Number(p.best), Number(p.output),
                Number(p.hidden_gap, signed=True),
            ),
            note="; ".join(p.remarks) if p.is_readable else "",
        )
        for p in read
    ]  # fmt: skip
    columns = (
        Column("   target"), Column("best tap"), Column("score", bare=True), Column("output", bare=True),
        Column("hidden gap"),
    )  # fmt: skip
    marks = {verdict(p) for p in read}
    legend = [f"{mark} {text}" for mark, text in _legend(run).items() if mark in marks]
    return filled(
        Table(columns, tuple(rows), only="brief"),
        Sentence(
            f"{'; '.join(legend)}. Best tap chosen on val, scores read on test; {INTERVALS}.", "quiet", only="brief"
        ),
        Sentence(
            f"In short{_by(profiles)}: {in_short(profiles, bool(run.controls))}", "strong", only="brief", apart=True
        ),
    )


def _legend(run: Run) -> dict[str, str]:
    taught = "hidden by the output, and no control measured does as well" if run.controls else "hidden by the output"
    if "fresh_weights" in run.controls:
        taught = "hidden by the output, and taught by training: no control does as well"
    return {
        TAUGHT: taught,
        MATCHED: "hidden by the output, but a control does as well",
        KEPT: "no hidden gap shown",
        UNREADABLE: "not shown to be readable",
    }


def in_short(profiles: Sequence[Profile], controls: bool) -> str:
    """The findings of a run's profiles in two sentences; `controls`: whether any were measured. "" where no probe read a target."""
    read = targets_read(list(first_probes(profiles).values()))
    if not read:
        return ""
    by_mark = {mark: [p for p in read if verdict(p) == mark] for mark in (TAUGHT, MATCHED, KEPT, UNREADABLE)}
    hidden = [p for p in read if p.is_hidden]
    if not hidden:
        return _nothing_hidden(read, by_mark[KEPT], by_mark[UNREADABLE])
    most = hidden[0]
    gap = format_number(most.hidden_gap.value if most.hidden_gap else math.nan, "+.3f")
    which = f"The output hides {_of(hidden, read)}"
    where = f"({gap} at {most.best_tap})"
    largest = f" {where}" if len(read) == 1 else f", {most.target} {'most ' * (len(hidden) > 1)}{where}"
    rest: list[str] = []
    if controls:
        matched = by_mark[MATCHED]
        rest.append(
            "no control does as well on any of them" if not matched else f"a control does as well on {_names(matched)}"
        )
    if by_mark[KEPT]:
        rest.append(f"no hidden gap is shown for {_names(by_mark[KEPT])}")
    if by_mark[UNREADABLE]:
        # A name never begins a sentence: it would get another first letter.
        rest.append(f"no probe is shown to read {_names(by_mark[UNREADABLE])}")
    second = "; ".join(rest)
    return f"{which}{largest}." + (f" {second[0].upper()}{second[1:]}." if second else "")


def _nothing_hidden(read: Sequence[Profile], kept: Sequence[Profile], unreadable: Sequence[Profile]) -> str:
    if not kept:
        return "No target is shown to be readable at the tap chosen. There is nothing to recommend."
    every = len(kept) == len(read) > 1
    which = f"any of {len(read)} targets" if every else _names(kept)
    first = f"No hidden gap is shown for {which}, so use the output, {kept[0].output_tap}."
    if unreadable:
        return f"{first} No probe is shown to read {_names(unreadable)}."
    return f"{first} That is no proof that it keeps everything: the intervals say how large a gap may be."


def _of(some: Sequence[Profile], read: Sequence[Profile]) -> str:
    if len(read) == 1:
        return str(read[0].target)
    return f"all {len(read)} targets" if len(some) == len(read) else f"{len(some)} of {len(read)} targets"


def _names(profiles: Sequence[Profile]) -> str:
    return f"{len(profiles)} targets" if len(profiles) > 3 else enumerated([str(p.target) for p in profiles])


def brief_cautions(profiles: Sequence[Profile]) -> list[str]:
    """Why values or intervals are not to be believed, each reason once for all that it concerns."""
    cautions = [f"Beware: {caution}." for caution in dict.fromkeys(p.few for p in profiles if p.few)]
    heavy = [str(p.target or p.measure) for p in profiles if p.heavy]
    sparse = [p.measure for p in profiles if p.sparse]
    if heavy:
        names = enumerated(dict.fromkeys(heavy))
        cautions.append(
            f"Beware: intervals of {names} may be too narrow, since a few test units carry most of the loss."
        )
    if sparse:
        few = min(p.token_samples for p in profiles if p.sparse)
        cautions.append(
            f"Beware: {enumerated(dict.fromkeys(sparse))} rest on the tokens of only {few} samples: a larger "
            "--token-budget gives more."
        )
    return cautions


def _by(profiles: Sequence[Profile]) -> str:
    """By which probes a run recommends, where one target has several."""
    first = first_probes(profiles)
    names = dict.fromkeys(p.measure for p in first.values())
    return f" (by {', '.join(names)})" if len(first) < len(targets_read(profiles)) else ""


def closing_blocks(run: Run) -> tuple[Block, ...]:
    """Where the features and the disk space are, and which tap to read for each target."""
    tokens, whole = run.disk_use
    disk = f"Disk: {size(tokens)} of {size(whole)} are tokens" if tokens else f"Disk: {size(whole)}, no tokens"
    advice = run.recommendations()
    notes = [Note(r.line) for r in advice if r.tap is not None]
    if nothing := [r.target for r in advice if r.tap is None]:
        notes.append(Note(f"{enumerated(nothing)}: none, not shown to be readable at the tap chosen"))
    tap = next((r.tap for r in advice if r.tap is not None), None)
    features = f"dx.open_run({json.dumps(str(run.path), ensure_ascii=False)}).features({json.dumps(tap)})"
    clean = f"diagnostics clean --tokens {shlex.quote(str(run.path))}"
    return filled(
        Sentence(f"Features: {unbroken(features)}", "quiet") if tap else None,
        Sentence(f"{disk}: {unbroken(clean)}" if tokens else f"{disk}.", "quiet"),
        Sentence(f"Which layer to use{_by(run.profiles())}", "strong", apart=True) if notes else None,
        Notes(tuple(notes), lead="  "),
    )

"""The runs of a comparison: what each is called, its group, its seed, and the run that an alignment started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.runs.profile import Profile
from diagnostics.runs.run import Run, open_run


@dataclass(frozen=True)
class Side:
    """One run of a comparison."""

    run: Run
    group: str
    """Runs of one group differ in their seed alone."""
    seed: int | None
    """Of the training; None where nobody said."""
    name: str
    """Unique in the comparison: the group, and the seed where the group has several runs."""

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """By `measure/target`, or the measure alone."""
        return {profile.name: profile for profile in self.run.profiles()}

    @property
    def weights(self) -> str:
        """Digest of the encoder's weights."""
        return self.run.store.identity.get("weights", "")

    @property
    def base(self) -> str:
        """Digest of the weights that an alignment started from; "" where it is no alignment."""
        return str(lineage_of(self.run).get("base", ""))

    @property
    def target(self) -> str:
        """The target whose best tap an alignment lifted; "" where it was made for none."""
        return str(lineage_of(self.run).get("for", "") or "")


def lineage_of(run: Run) -> Mapping[str, Any]:
    """What made the encoder's weights, as the run recorded it."""
    return run.record.encoder.lineage


def sides_of(runs: Sequence[Run | str | Path]) -> list[Side]:
    """The runs, opened and named; `LABEL=PATH` overrules the group that the encoder itself tells.

    Raises where there are fewer than two, or one of them twice.
    """
    if len(runs) < 2:
        raise DiagnosticsError("A comparison needs two runs or more: name the folders that `diagnostics run` wrote.")
    opened = [_opened(run) for run in runs]
    places = [run.path.resolve() for _, run in opened]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise DiagnosticsError(f"{opened[i][1].path} is given twice: name each run once.")
    groups = [label or str(lineage_of(run).get("group", "")) or run.encoder for label, run in opened]
    seeds = [_seed(run) for _, run in opened]
    if len(set(groups)) < len(groups):
        groups = _told_apart(groups, seeds, opened)
    found: list[Side] = []
    for group, seed, (_, run) in zip(groups, seeds, opened, strict=True):
        several = groups.count(group) > 1
        found.append(Side(run, group, seed, f"{group} seed {seed}" if several else group))
    return found


def _opened(run: Run | str | Path) -> tuple[str, Run]:
    if isinstance(run, Run):
        return "", run
    label, equals, path = str(run).partition("=")
    if equals and label and not Path(str(run)).exists():
        return label, open_run(path)
    return "", open_run(run)


def _seed(run: Run) -> int | None:
    seed = lineage_of(run).get("seed")
    return int(seed) if isinstance(seed, (int, float)) else None


def _told_apart(groups: Sequence[str], seeds: Sequence[int | None], opened: Sequence[tuple[str, Run]]) -> list[str]:
    """Runs that neither group nor seed tells apart are groups of their own, named by how long they were trained where that
    differs, else by their folders; where a label was given for them, it is wrong to do so."""
    pairs = list(zip(groups, seeds, strict=True))
    found = list(groups)
    for i, ((group, seed), (label, run)) in enumerate(zip(pairs, opened, strict=True)):
        if groups.count(group) == 1 or (seed is not None and pairs.count((group, seed)) == 1):
            continue
        if label:
            said = "no seed of their training is known" if seed is None else f"two of them have seed {seed}"
            raise DiagnosticsError(
                f"Several runs are labelled {label}, but {said}: runs of one label are the seeds of one training, so "
                "give each a label of its own."
            )
        alike = [other for other, pair in zip(opened, pairs, strict=True) if pair == (group, seed)]
        steps = [lineage_of(other).get("steps") for _, other in alike]
        names = [other.path.name for _, other in alike]
        if None not in steps and len(set(steps)) == len(steps):
            found[i] = f"{group}, {lineage_of(run)['steps']} steps"
        else:
            found[i] = f"{group} ({run.path.name if len(set(names)) == len(names) else run.path})"
    return found


def by_group(sides: Sequence[Side]) -> dict[str, list[Side]]:
    """The sides of each group, in the order in which groups were named; seeds ascend."""
    found: dict[str, list[Side]] = {}
    for side in sides:
        found.setdefault(side.group, []).append(side)
    return {group: sorted(members, key=lambda side: side.seed or 0) for group, members in found.items()}


def pairs_with_base(sides: Sequence[Side], base: str | None) -> dict[str, list[tuple[Side, Side]]]:
    """(aligned, its base) by the group of the aligned: by the weights that an alignment says it started from, or, where
    `base` names a group, every other run with that group's run of its seed (its only run, where it has one).
    """
    found: dict[str, list[tuple[Side, Side]]] = {}
    if base is None:
        for side in sides:
            # An alignment that changed nothing has its base's weights; one may have started from another alignment.
            able = [one for one in sides if side.base and one.weights == side.base and one.group != side.group]
            if able:
                found.setdefault(side.group, []).append((side, min(able, key=lambda one: bool(one.base))))
        return found
    groups = by_group(sides)
    if base not in groups:
        raise unknown("base", base, list(groups))
    bases = groups[base]
    for side in sides:
        if side.group == base:
            continue
        matching = bases if len(bases) == 1 else [one for one in bases if one.seed == side.seed]
        if not matching:
            raise DiagnosticsError(
                f"{side.name} has no base: {base} has seeds {', '.join(str(one.seed) for one in bases)}. Leave it out, or "
                "give the run of that seed."
            )
        found.setdefault(side.group, []).append((side, matching[0]))
    return found


def without_base(sides: Sequence[Side], pairs: Mapping[str, Sequence[tuple[Side, Side]]]) -> dict[str, str]:
    """What to tell of alignments of which some seeds have their base here and some have not: those count for no share."""
    found: dict[str, str] = {}
    for group, members in by_group(sides).items():
        matched = {aligned.name for aligned, _ in pairs.get(group, [])}
        missing = [side.name for side in members if side.name not in matched]
        if matched and missing:
            found[f"shares of {', '.join(missing)}"] = (
                "the run of the base that it was aligned from is not among the runs"
            )
    return found


def places(
    pairs: Mapping[str, Sequence[tuple[Side, Side]]], groups: Mapping[str, Sequence[Side]]
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Of each alignment and its base, in both orders, which run goes with which: places in the lists of `groups`."""
    at = {side.name: i for members in groups.values() for i, side in enumerate(members)}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for group, matched in pairs.items():
        for aligned, base in matched:
            found.setdefault((group, base.group), []).append((at[aligned.name], at[base.name]))
            found.setdefault((base.group, group), []).append((at[base.name], at[aligned.name]))
    return found

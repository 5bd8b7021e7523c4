"""The runs of a comparison, with their groups, seeds and bases, and what is found of them, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.errors import DiagnosticsError, check_known
from diagnostics.report.page import CurvesFigure, DepthCurve, Mark, MarkKind, SharesFigure
from diagnostics.runs.comparison.differences import ALPHA, CurveDifference, Difference, FamilyGap, GroupScore, Shares
from diagnostics.runs.comparison.estimates import ProbeLosses, probe_losses
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import without_nonlinear
from diagnostics.runs.run import Run, open_run


@dataclass(frozen=True)
class Member:
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
        """By `measure/target`, or the measure alone; none of a kernel at two taps."""
        return {profile.name: profile for profile in without_nonlinear(self.run.profiles())}

    @cached_property
    def losses(self) -> dict[str, ProbeLosses]:
        """Those of its probes, by the names of their profiles."""
        return {name: probe_losses(profile) for name, profile in self.profiles.items() if "loss" in profile.data}

    @property
    def weights(self) -> str:
        """Digest of the encoder's weights."""
        return self.run.store.identity.get("weights", "")

    @property
    def base(self) -> str:
        """Digest of the weights that an alignment started from; "" where it is no alignment."""
        return str(lineage_of(self.run).get("base", ""))

    @property
    def control_of(self) -> str:
        """Digest of the training whose control it is; "" where it is none."""
        return str(lineage_of(self.run).get("control_of", "") or "")

    @property
    def cut_at(self) -> str:
        """The tap of its base that an alignment lifted to the output; "" of one that names none, and of a control."""
        return "" if self.control_of else str(lineage_of(self.run).get("to", "") or "")

    @property
    def target(self) -> str:
        """The target whose best tap an alignment lifted; "" where it was made for none."""
        return str(lineage_of(self.run).get("for", "") or "")


def lineage_of(run: Run) -> Mapping[str, Any]:
    """The origin of the encoder's weights, as the run recorded it."""
    return run.record.encoder.lineage


def open_members(runs: Sequence[Run | str | PurePath]) -> list[Member]:
    """The runs, opened and named; `LABEL=PATH` overrules the group that the encoder itself tells.

    Raises where there are fewer than two, or one of them twice.
    """
    if len(runs) < 2:
        raise DiagnosticsError(
            "A comparison needs two runs or more: name the folders that `diagnostics run` wrote.", code="too-few"
        )
    opened = [_open(run) for run in runs]
    places = [run.path.resolve() if isinstance(run.path, Path) else run.path for _, run in opened]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise DiagnosticsError(f"{opened[i][1].path} is given twice: name each run once.", code="duplicate")
    groups = [label or str(lineage_of(run).get("group", "")) or run.encoder_name for label, run in opened]
    seeds = [_seed(run) for _, run in opened]
    if len(set(groups)) < len(groups):
        groups = _distinguish(groups, seeds, opened)
    return [
        Member(run, group, seed, f"{group} seed {seed}" if groups.count(group) > 1 else group)
        for group, seed, (_, run) in zip(groups, seeds, opened, strict=True)
    ]


def _open(run: Run | str | PurePath) -> tuple[str, Run]:
    if isinstance(run, Run):
        return "", run
    label, equals, path = str(run).partition("=")
    if equals and label and "://" not in label and not Path(str(run)).exists():
        return label, open_run(path)
    return "", open_run(run)


def _seed(run: Run) -> int | None:
    seed = lineage_of(run).get("seed")
    return int(seed) if isinstance(seed, (int, float)) else None


def _distinguish(groups: Sequence[str], seeds: Sequence[int | None], opened: Sequence[tuple[str, Run]]) -> list[str]:
    """Make runs that neither group nor seed tells apart groups of their own.

    They are named by how long they were trained where that differs, else by their folders; where a label was given for
    them, it is wrong to do so.
    """
    pairs = list(zip(groups, seeds, strict=True))
    labels = list(groups)
    for i, ((group, seed), (label, run)) in enumerate(zip(pairs, opened, strict=True)):
        if groups.count(group) == 1 or (seed is not None and pairs.count((group, seed)) == 1):
            continue
        if label:
            why = "no seed of their training is known" if seed is None else f"two of them have seed {seed}"
            raise DiagnosticsError(
                f"Several runs are labelled {label}, but {why}: runs of one label are the seeds of one training, so "
                "give each a label of its own.",
                code="unclear",
            )
        alike = [other for other, pair in zip(opened, pairs, strict=True) if pair == (group, seed)]
        steps = [lineage_of(other).get("steps") for _, other in alike]
        names = [other.path.name for _, other in alike]
        if None not in steps and len(set(steps)) == len(steps):
            labels[i] = f"{group}, {lineage_of(run)['steps']} steps"
        else:
            labels[i] = f"{group} ({run.path.name if len(set(names)) == len(names) else run.path})"
    return labels


def by_group(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The members of each group, in the order in which groups were named; seeds ascend."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.group, []).append(member)
    return {group: sorted(members, key=lambda member: member.seed or 0) for group, members in groups.items()}


def pairs_with_base(members: Sequence[Member], base: str | None) -> dict[str, list[tuple[Member, Member]]]:
    """Pairs (aligned, its base) by the group of the aligned.

    The base is found by the weights that an alignment says it started from, or, where `base` names a group, every other
    run with that group's run of its seed (its only run, where it has one).
    """
    pairs: dict[str, list[tuple[Member, Member]]] = {}
    if base is None:
        for member in members:
            # An alignment that changed nothing has its base's weights; one may have started from another alignment.
            able = [run for run in members if member.base and run.weights == member.base and run.group != member.group]
            if able:
                pairs.setdefault(member.group, []).append((member, min(able, key=lambda run: bool(run.base))))
        return pairs
    groups = by_group(members)
    check_known("base", base, list(groups))
    bases = groups[base]
    for member in members:
        if member.group == base:
            continue
        matching = bases if len(bases) == 1 else [run for run in bases if run.seed == member.seed]
        if not matching:
            raise DiagnosticsError(
                f"{member.name} has no base: {base} has seeds {', '.join(str(run.seed) for run in bases)}. Leave it "
                f"out, or give the run of that seed.",
                code="not-comparable",
            )
        pairs.setdefault(member.group, []).append((member, matching[0]))
    return pairs


def without_base(members: Sequence[Member], pairs: Mapping[str, Sequence[tuple[Member, Member]]]) -> dict[str, str]:
    """The alignments some of whose seeds lack their base among the runs, and why: those seeds count for no share."""
    why = "the run of the base that it was aligned from is not among the runs"
    matched = {aligned.name for own in pairs.values() for aligned, _ in own}
    missing = [
        [member.name for member in runs if member.name not in matched]
        for group, runs in by_group(members).items()
        if group in pairs
    ]
    return {f"shares of {', '.join(names)}": why for names in missing if names}


def control_of(aligned: Member, members: Sequence[Member]) -> Member | str:
    """The control of an alignment, trained in the same way from the same base but taught by the base itself.

    Or why there is none.
    """
    if aligned.control_of:
        return "it is a control itself"
    training = lineage_of(aligned.run).get("training")
    for member in members:
        if training is not None and member.control_of == training:
            return member
    if lineage_of(aligned.run).get("control") == "none":
        return "it was made without a control (--no-control)"
    return "the run of its control is not among the runs"


def places(
    pairs: Mapping[str, Sequence[tuple[Member, Member]]], groups: Mapping[str, Sequence[Member]]
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Of each alignment and its base, in both orders, which run goes with which: places in the lists of `groups`."""
    at = {member.name: i for members in groups.values() for i, member in enumerate(members)}
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for group, matched in pairs.items():
        for aligned, base in matched:
            places.setdefault((group, base.group), []).append((at[aligned.name], at[base.name]))
            places.setdefault((base.group, group), []).append((at[base.name], at[aligned.name]))
    return places


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
            # What is kept at an output that held next to nothing may be many times what was there; colours stop at 2.
            # What keeps or recovers nothing more than the base has no colour.
            *((-1.0, 1.0) if share == "recovered" else (0.0, 2.0)),
        )
        for share, title in SHARES.items()
        if any(getattr(alignment, share) for alignment in chosen)
    ]


# Which taps of two runs match: the most similar tap of the other run.

MOST_ROWS = 512
"""Samples that CKA reads of each pair of runs: its time grows with their square, and there are many pairs."""


@dataclass(frozen=True)
class TapSimilarity:
    """The similarity of each tap of one run to each of another.

    matrix: [tap, tap_other] with `p` against permuted samples, corrected for all pairs; aligned: float [tap], the depth
    in the other run of the most alike tap, NaN where no tap is shown to be more alike than chance would make one.
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
    nearest = np.where(shown, -matrix if smaller else matrix, -np.inf).argmax(axis=1)
    aligned = np.where(shown.any(axis=1), data["depth_other"].values[nearest], np.nan)
    outputs = matrix[
        list(data["tap"].values).index(first.run.store.output_tap),
        list(data["tap_other"].values).index(second.run.store.output_tap),
    ]
    return TapSimilarity(first.name, second.name, data.assign_attrs(at_outputs=float(outputs)), aligned)


@dataclass(frozen=True)
class Findings:
    """The findings of `compare`.

    data: all profiles of all runs on one axis of relative depth; see `diagnostics.runs.comparison.comparison`.
    group_scores: what each group reaches in each probe, over its seeds.
    family_gaps: the mean hidden gap of each group over the targets of each family.
    differences: of every pair of groups, at the chosen tap, at the output and in the hidden gap, corrected for their
    number.
    curve_differences: where along the depth every pair of groups differs.
    shares: what each alignment bought and cost, where a base is among the runs.
    tap_similarities: similarity of the taps of two runs, of one run of each pair of groups and of two seeds of each
    group.
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

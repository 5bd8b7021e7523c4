"""Compares runs in every way that their measures allow, after checking that they are comparable."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from diagnostics.activations.place import Location, locate
from diagnostics.activations.prepare import SampleFacts, differences
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.statistics import Interval
from diagnostics.progress import Progress, Watch
from diagnostics.report.html import page_tables, write_page
from diagnostics.report.numbers import number, numbers
from diagnostics.report.plots import StillFigure, draw, multiples
from diagnostics.report.progress_bars import watching
from diagnostics.runs.comparison.differences import (
    Shares,
    curve_differences,
    differences_of,
    family_gaps,
    group_scores_of,
    shares_of,
)
from diagnostics.runs.comparison.estimates import (
    SAME,
    Estimate,
    ProbeLosses,
    by_depth,
    common_depths,
    estimate_sum,
    near,
)
from diagnostics.runs.comparison.findings import (
    Findings,
    Member,
    TapSimilarity,
    by_group,
    control_of,
    curves_figure,
    first_of_each_target,
    lineage_of,
    open_members,
    pairs_with_base,
    places,
    tap_similarity,
    without_base,
)
from diagnostics.runs.comparison.page import comparison_page
from diagnostics.runs.options import slug
from diagnostics.runs.results.run_data import map_json, run_dataframe
from diagnostics.runs.run import Run

PROTOCOL = ("functional", "centring", "pooling")
"""Attributes of a result that say how a number was computed."""
COUNTS = ("n", "n_train", "n_val", "n_test", "units_train", "units_val")
"""Attributes that say how much it rests on."""


def check_agreement(members: Sequence[Member]) -> dict[str, str]:
    """Raise where two runs differ in samples, targets, splits, pooling or protocol, naming the difference.

    Returns the profiles that are left out, and why: those that some run lacks, and those of tokens that two encoders
    lay on grids of their own.
    """
    first, *others = members
    for other in others:
        for reason, remedy in chain(_other_data(first, other), _other_storage(first, other), _other_taps(first, other)):
            raise _refused(first, other, reason, remedy)
    left_out: dict[str, str] = {}
    names = list(dict.fromkeys(name for member in members for name in member.profiles))
    for name in names:
        lacking = [member.name for member in members if name not in member.profiles]
        if lacking:
            left_out[name] = f"not measured in {', '.join(lacking)}"
            continue
        for other in others:
            if why := _same_protocol(name, first, other):
                left_out[name] = why
                break
    if not names:
        raise DiagnosticsError(
            f"{first.run.path} holds no measure by depth: run all with --measures standard.", code="not-measured"
        )
    if len(left_out) == len(names):
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        unmeasured = all(why.startswith("not measured") for why in left_out.values())
        remedy = "Give all the same --measures." if unmeasured else "Run all with the same data and options."
        raise DiagnosticsError(
            f"The runs have no measure in common that can be compared ({reasons}). {remedy}", code="not-comparable"
        )
    return left_out


def _refused(first: Member, other: Member, reason: str, remedy: str) -> DiagnosticsError:
    return DiagnosticsError(
        f"{first.run.path} and {other.run.path} cannot be compared: {reason}. {remedy}", code="not-comparable"
    )


Problems = Iterator[tuple[str, str]]
"""Why two runs cannot be compared, each reason with its remedy."""


def _other_data(first: Member, other: Member) -> Problems:
    data = first.run.record.dataset, other.run.record.dataset
    names = f" ({data[0].name} and {data[1].name})" if data[0].name != data[1].name else ""
    for reason in differences(SampleFacts.of(first.run.store), SampleFacts.of(other.run.store)):
        yield f"they hold other data{names}, {reason}", "Run both encoders on one dataset."
    if data[0].fingerprint != data[1].fingerprint:
        yield (
            "they hold other data under the same sample ids (the datasets' fingerprints differ)",
            "Run both encoders on one dataset.",
        )


def _other_storage(first: Member, other: Member) -> Problems:
    """Another pooling, precision (of what is stored, or of the pass) or version."""
    mine, theirs = first.run.store, other.run.store
    if tuple(mine.poolings) != tuple(theirs.poolings):
        both = [name for name in mine.poolings if name in theirs.poolings] or ["mean"]
        remedy = f"Run both with --pooling {','.join(both)}."
        yield f"one pools tokens by {mine.pooling}, the other by {theirs.pooling}", remedy
    precisions = mine.plan.precision, theirs.plan.precision
    if precisions[0] != precisions[1]:
        yield "one keeps tokens in {}, the other in {}".format(*precisions), "Run both with one --precision."
    computed = [store.identity.get("compute", "float32") for store in (mine, theirs)]
    if computed[0] != computed[1]:
        yield "one was computed in {}, the other in {}".format(*computed), "Run both with one --compute."
    if len(versions := first.run.versions | other.run.versions) > 1:
        reason = f"they were measured by versions {' and '.join(sorted(versions))} of diagnostics"
        yield reason, "Give the `diagnostics run` command of the older one again."


def _other_taps(first: Member, other: Member) -> Problems:
    """Of one encoder other taps: its curve would differ from itself between them."""
    mine, theirs = ({tap.name for tap in member.run.store.taps} for member in (first, other))
    if first.weights == other.weights and mine != theirs:
        reason = f"both are of one encoder, and only one of them has its tap {min(mine ^ theirs)}"
        yield reason, "Run both with the same --taps."


def _same_protocol(name: str, first: Member, other: Member) -> str:
    """The reason why a profile is left out ("" where it is not).

    Raises where pooled activations were measured in different ways.
    """
    results, other_results = (member.profiles[name].data for member in (first, other))
    for key in ("seed", "penalties"):
        mine, theirs = results.attrs.get(key), other_results.attrs.get(key)
        if not np.array_equal(np.asarray(mine), np.asarray(theirs)):
            reason = f"{name} was computed with another {key} ({mine} and {theirs})"
            raise _refused(first, other, reason, "Give both the same options.")
    pooled = all(data.attrs.get("pooling") == first.run.store.pooling for data in (results, other_results))
    for key in PROTOCOL:
        mine, theirs = results.attrs.get(key), other_results.attrs.get(key)
        if mine != theirs and pooled:
            reason = f"{name} was computed with another {key} ({mine} and {theirs})"
            raise _refused(first, other, reason, "Run both again.")
        if mine != theirs:
            # Each encoder has tokens of its own.
            return f"{first.name} and {other.name} were read with another {key} ({mine}; {theirs})"
    for key in COUNTS:
        mine, theirs = results.attrs.get(key), other_results.attrs.get(key)
        if mine != theirs:
            return f"{key} is {mine} in {first.name} and {theirs} in {other.name}"
    if not first.profiles[name].is_probe:
        return ""
    if name not in first.losses:
        return "its score is no sum of losses, by which runs are compared"
    units = [sorted(map(str, data["unit"].values)) for data in (results, other_results)]
    if units[0] != units[1]:
        return f"read on other test units in {first.name} and {other.name}"
    reference = [member.losses[name].common_reference for member in (first, other)]
    if reference[0] is not None and reference[1] is not None and not near(reference[0], reference[1]):
        return f"{first.name} and {other.name} are scored against other references"
    return ""


# All profiles of all runs on one axis of relative depth, heads beyond 1, as an `xarray.Dataset`.

SINGLE = ("chosen_score", "output_score", "hidden_gap", "head_drop")
ENDS = {"": "value", "_low": "low", "_high": "high"}
TAPS = ("chosen_tap", "head_tap")


def curves(members: Sequence[Member], names: Sequence[str], seed: int) -> xr.Dataset:
    """Scores of all runs over depth, with the taps that stand there.

    `score`, `low`, `high` [run, target, depth], `tap` [run, depth] (the tap that stands there; "" where the value lies
    on the line between two), and by [run, target] `chosen_score`, `output_score`, `hidden_gap` and `head_drop`, each
    with `_low` and `_high`, `chosen_tap`, `head_tap`. A `target` is a profile, `measure/target`.

    `head_drop` is the trunk's last tap minus the head's last, paired over test units (the Guillotine curve, Bordes et
    al. 2023, 2206.13378): positive where the head threw away what the trunk's end still shows.
    """
    depths = common_depths([_depths(member, name) for name in names for member in members])
    cells = [[_cell(member, name, depths, seed) for name in names] for member in members]
    variables = {
        key: np.array([[cell[key] for cell in row] for row in cells], dtype=object if key in TAPS else np.float64)
        for key in cells[0][0]
    }
    return xr.Dataset(
        {
            **{key: (("run", "target", "depth")[: values.ndim], values) for key, values in variables.items()},
            "tap": (("run", "depth"), np.array([_taps_at(member, depths) for member in members], dtype=object)),
        },
        coords={
            "run": [member.name for member in members],
            "target": list(names),
            "depth": depths,
            "group": ("run", [member.group for member in members]),
            "seed": ("run", [math.nan if member.seed is None else float(member.seed) for member in members]),
            "output_tap": ("run", [member.run.store.output_tap for member in members]),
            **{
                key: ("target", [str(members[0].profiles[name].data.attrs[key]) for name in names])
                for key in ("family", "score_name")
            },
        },
        attrs={
            "dataset": members[0].run.dataset,
            **{f"n_{split}": n for split, n in members[0].run.n.items()},
            "pooling": members[0].run.store.pooling,
            "seed": seed,
            "interpolation": "between two taps of the trunk a straight line; a head's taps only where they stand",
            "intervals": "95 %, over independent test units",
        },
    )


def _depths(member: Member, name: str) -> np.ndarray:
    return member.profiles[name].data["depth"].values.astype(np.float64)


def _cell(member: Member, name: str, depths: np.ndarray, seed: int) -> dict[str, Any]:
    """All variables of one run in one profile."""
    profile, own = member.profiles[name], _depths(member, name)
    cell: dict[str, Any] = {
        key: by_depth(profile.data[key].values.astype(np.float64), own, depths) for key in ("score", "low", "high")
    }
    head, drop = _head_drop(member.losses.get(name), seed)
    for key, interval in zip(SINGLE, (profile.score, profile.output, profile.hidden_gap, drop), strict=True):
        cell |= {f"{key}{end}": getattr(interval, part, math.nan) for end, part in ENDS.items()}
    return cell | dict(zip(TAPS, (profile.chosen_tap or "", head), strict=True))


def _taps_at(member: Member, depths: np.ndarray) -> list[str]:
    names = [""] * len(depths)
    for tap in member.run.store.taps:
        near = np.flatnonzero(np.abs(depths - tap.depth) < SAME)
        if near.size:
            names[int(near[0])] = tap.name
    return names


def _head_drop(losses: ProbeLosses | None, seed: int) -> tuple[str, Interval | None]:
    """The last tap of the head, and by how much the trunk's last tap beats it."""
    if losses is None or losses.ends is None:
        return "", None
    last = losses.taps[int(np.flatnonzero(losses.depths > 1 + SAME)[-1])]
    return last, estimate_sum([([losses.ends], 1.0)], seed).over_samples


# The findings of a comparison as JSON values.

# Key -> attribute of a finding, where they are not the same.
GROUP_SCORE = ("profile", "group", "chosen", "output", "hidden_gap", "head_drop")
FAMILY_GAP = ("family", "group", "profiles")
DIFFERENCE = ("profile", "first", "second", "quantity", "p_corrected", "survives", "outcome")
CURVE = {
    "profile": "profile",
    "first": "first",
    "second": "second",
    "depth": "depths",
    "difference": "difference",
    "p": "p",
}
SHARES = {
    "profile": "profile", "alignment": "group", "base": "base", "seeds": "seeds", "seeds_of_base": "of_seeds",
    "made_for_it": "purpose", "floor": "floor", "hidden_gap_of_base": "gap", "recovered": "recovered",
    "kept_best": "kept_best", "kept_output": "kept_output", "over_control": "over_control",
    "recovered_over_control": "recovered_over_control", "cut": "cut", "cut_is": "cut_is", "lifted": "is_lifted",
    "reasons": "reasons",
}  # fmt: skip


def _pick(finding: Any, keys: Mapping[str, str] | tuple[str, ...]) -> dict[str, Any]:
    """Attributes of a finding by key."""
    attributes = keys if isinstance(keys, Mapping) else {key: key for key in keys}
    return {key: _plain(getattr(finding, attribute)) for key, attribute in attributes.items()}


def _plain(value: Any) -> Any:
    match value:
        case Estimate():
            return {
                "value": number(value.value),
                "over_samples": _plain(value.over_samples),
                "over_samples_and_seeds": _plain(value.over_both),
                "p": number(value.p),
            }
        case Interval():
            return {key: number(getattr(value, key)) for key in ("value", "low", "high")}
        case np.ndarray():
            return numbers(value)
        case float():
            return number(value)
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value


def _profile(findings: Findings, name: str) -> dict[str, Any]:
    data = findings.data.sel(target=name)
    runs: dict[str, Any] = {}
    for run in data["run"].values:
        row = data.sel(run=run)
        runs[str(run)] = {
            **{key: numbers(row[key]) for key in ("score", "low", "high")},
            **{key: str(row[key].values) or None for key in ("chosen_tap", "head_tap")},
            **{key: numbers([row[f"{key}{end}"] for end in ENDS]) for key in SINGLE if np.isfinite(row[key])},
        }
    return {"profile": name, **{key: str(data[key].values) for key in ("family", "score_name")}, "runs": runs}


class Comparison(Findings):
    """The findings of `compare`, and what can be made of them.

    Examples:
        >>> import diagnostics as dx
        >>> comparison = dx.compare(["runs/forecast", "runs/jepa"], similarity=None)
        >>> gap = comparison.differences[2]
        >>> print(gap.profile, gap.quantity, gap.first, "-", gap.second)
        linear_probe/hidden_z hidden gap jepa - forecast
        >>> print(gap.estimate.over_samples)
        -0.356 [-0.883, -0.084]
        >>> round(gap.p_corrected, 1)
        0.2
        >>> curves = comparison.to_xarray()["score"]  # by run, target and depth
        >>> curves.sel(target="linear_probe/hidden_z", depth=[0, 1]).values.round(2)
        array([[0.  , 0.59],
               [0.  , 0.85]])
        >>> table = comparison.to_dataframe()
        >>> table.groupby("group")["score"].count().to_dict()
        {'forecast': 54, 'jepa': 72}
        >>> sorted(comparison.to_json())[:4]
        ['along_depth', 'dataset', 'depth', 'differences']
        >>> comparison.plot().write_html("curves.html")
        >>> print(comparison.report("comparison.html"))
        comparison.html
    """

    @property
    def default_path(self) -> Location:
        """Of its report: beside the first run, named by the labels."""
        return self.members[0].run.path.parent / f"comparison-{slug('-'.join(self.groups))[:100]}.html"

    def to_xarray(self) -> xr.Dataset:
        """`data`, with dimensions (run, target, depth)."""
        return self.data

    def to_dataframe(self) -> pd.DataFrame:
        """The profiles of all runs that are compared, as one tidy table.

        Its columns are `run`, `group`, `seed`, and those of `Run.to_dataframe`.
        """
        names = {str(name) for name in self.data["target"].values}
        tables: list[pd.DataFrame] = []
        for member in self.members:
            table = run_dataframe(member.run, names)
            for at, (key, value) in enumerate((("run", member.name), ("group", member.group), ("seed", member.seed))):
                table.insert(at, key, pd.Series([value] * len(table), dtype="Int64" if key == "seed" else object))
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def plot(self) -> go.Figure:
        """Score by relative depth of every run, a panel for each probe of each target, as a plotly figure.

        Where no probe is among the profiles, a panel for each measure.
        """
        names = [str(name) for name in self.data["target"].values]
        probes = {row.profile for row in self.group_scores}
        drawn = [name for name in names if name in probes] or names
        if not drawn:
            raise DiagnosticsError(
                "The runs share no profile to draw: run them with the same measures.", code="not-comparable"
            )
        return StillFigure(multiples([(name, draw(curves_figure(self, name))) for name in drawn]))

    def to_json(self) -> dict[str, Any]:
        """The findings as plain numbers; None for what has no value."""
        return {
            "dataset": self.data.attrs["dataset"],
            "n": self.members[0].run.n,
            "pooling": self.data.attrs["pooling"],
            "seed": self.data.attrs["seed"],
            "runs": [
                {
                    "name": member.name,
                    "group": member.group,
                    "seed": member.seed,
                    "run": str(member.run.path),
                    "encoder": member.run.encoder_name,
                    "output_tap": member.run.store.output_tap,
                    "weights": member.weights,
                    "lineage": dict(lineage_of(member.run)),
                    "taps": [{"name": tap.name, "depth": tap.depth, "part": tap.part} for tap in member.run.store.taps],
                }
                for member in self.members
            ],
            "depth": numbers(self.data["depth"]),
            "profiles": [_profile(self, str(name)) for name in self.data["target"].values],
            "groups": [
                _pick(score, GROUP_SCORE)
                | {
                    "chosen_taps": [tap for tap, _ in score.chosen_taps],
                    "chosen_depths": [depth for _, depth in score.chosen_taps],
                }
                for score in self.group_scores
            ],
            "families": [_pick(gap, FAMILY_GAP) | _plain(gap.hidden_gap) for gap in self.family_gaps],
            "differences": [_pick(each, DIFFERENCE) | _plain(each.estimate) for each in self.differences],
            "along_depth": [
                _pick(curve, CURVE) | {"at": None if curve.at is None else number(curve.depths[curve.at])}
                for curve in self.curve_differences
            ],
            "shares": [_pick(shares, SHARES) for shares in self.shares],
            "similarity": [
                {
                    "first": each.first,
                    "second": each.second,
                    **map_json(each.data),
                    "taps_other": [str(tap) for tap in each.data["tap_other"].values],
                    "aligned_depth": numbers(each.aligned),
                    "at_outputs": number(each.at_outputs),
                }
                for each in self.tap_similarities
            ],
            "left_out": self.left_out,
        }

    def report(self, path: str | PurePath) -> Location:
        """Write the comparison as one self-contained HTML file."""
        return write_page(comparison_page(self), locate(path))

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(member.name for member in self.members)} on {self.data.attrs['dataset']}>"

    def _repr_html_(self) -> str:
        return page_tables(comparison_page(self))


def compare(
    runs: Sequence[Run | str | PurePath],
    *,
    base: str | None = None,
    similarity: str | None = "cka",
    seed: int = 0,
    watch: Watch | None = None,
) -> Comparison:
    """Hold runs of different encoders on the same dataset against each other.

    Parameters
    ----------
    runs: finished runs or their folders; `LABEL=PATH` gives a run another group than its encoder tells. Runs of one
    group
        are the seeds of one training.
    base: the group that the others were aligned from; by default what each alignment recorded.
    similarity: the measure of tap pairs, or None for none.
    seed: of the bootstrap, the flips and the permutations.
    watch: is given the progress; by default it is shown, as by `run`.

    Raises
    ------
    DiagnosticsError: where the runs differ in samples, targets, splits, pooling or protocol, naming the difference.

    Examples:
        >>> import diagnostics as dx
        >>> comparison = dx.compare(["runs/forecast", "runs/jepa"])
        >>> comparison
        <Comparison of forecast, jepa on lorenz>
        >>> for score in comparison.group_scores[:2]:  # of hidden_z
        ...     print(score.group, score.chosen_tap_text, score.hidden_gap.over_samples)
        forecast blocks.3 (0.67) 0.323 [0.106, 0.687]
        jepa norm (1.00) -0.033 [-0.211, 0.046]
    """
    if seed < 0:
        raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.", code="bad-value")
    members = open_members(runs)
    pairs = pairs_with_base(members, base)
    left_out = check_agreement(members)
    names = [name for name in members[0].profiles if name not in left_out]
    left_out |= without_base(members, pairs)
    groups = by_group(members)
    by_profile = {
        name: {group: [member.losses[name] for member in members] for group, members in groups.items()}
        for name in names
        if members[0].profiles[name].is_probe
    }
    group_scores = group_scores_of(by_profile, seed)
    matched = places(pairs, groups)
    tap_similarities: list[TapSimilarity] = []
    if similarity:
        # The first run of each pair of groups; two seeds of a group are the yardstick of how alike two trainings are.
        wanted = [(first[0], second[0]) for first, second in combinations(groups.values(), 2)]
        wanted += [(members[0], members[1]) for members in groups.values() if len(members) > 1]
        with watching(watch) as shown:
            for done, (first, second) in enumerate(wanted):
                shown(Progress("comparing taps", done, len(wanted), f"{first.name} and {second.name}"))
                tap_similarities.append(tap_similarity(first, second, similarity, seed))
            shown(Progress("comparing taps", len(wanted), len(wanted)))
    return Comparison(
        members=tuple(members),
        data=curves(members, names, seed),
        group_scores=tuple(group_scores),
        family_gaps=tuple(family_gaps(by_profile, first_of_each_target([row.profile for row in group_scores]), seed)),
        differences=tuple(differences_of(by_profile, seed, matched)),
        curve_differences=tuple(curve_differences(by_profile, seed, matched)),
        shares=tuple(_all_shares(pairs, members, list(by_profile), seed)),
        tap_similarities=tuple(tap_similarities),
        left_out=left_out,
    )


def _all_shares(
    pairs: dict[str, list[tuple[Member, Member]]],
    members: Sequence[Member],
    probes: Sequence[str],
    seed: int,
) -> list[Shares]:
    shares: list[Shares] = []
    groups = by_group(members)
    for group, matched in pairs.items():
        base = matched[0][1].group
        controls = [control_of(aligned, members) for aligned, _ in matched]
        cut_at = [aligned.cut_at for aligned, _ in matched]
        for name in probes:
            target = name.partition("/")[2]
            purpose = bool(target) and any(target == aligned.target for aligned, _ in matched)
            losses = [(aligned.losses[name], own.losses[name]) for aligned, own in matched]
            shares.append(
                shares_of(
                    name,
                    group,
                    base,
                    of_seeds=len(groups[base]),
                    purpose=purpose,
                    pairs=losses,
                    controls=[one if isinstance(one, str) else one.losses[name] for one in controls],
                    cut_at=cut_at,
                    seed=seed,
                )
            )
    return shares

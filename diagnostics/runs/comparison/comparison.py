"""Compares runs in every way that their measures allow, after checking that they are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from diagnostics.errors import DiagnosticsError
from diagnostics.progress import Progress, Watch
from diagnostics.report.progress_bars import watching
from diagnostics.runs.comparison.agreement import check_agreement
from diagnostics.runs.comparison.as_json import findings_json
from diagnostics.runs.comparison.curves import curves
from diagnostics.runs.comparison.differences import curve_differences, differences_of
from diagnostics.runs.comparison.findings import Findings, first_of_each_target
from diagnostics.runs.comparison.group_scores import family_gaps, group_scores_of
from diagnostics.runs.comparison.members import (
    Member,
    by_group,
    control_of,
    open_members,
    pairs_with_base,
    places,
    without_base,
)
from diagnostics.runs.comparison.shares import Shares, shares_of
from diagnostics.runs.comparison.tap_similarity import TapSimilarity, tap_similarity
from diagnostics.runs.folder import slug
from diagnostics.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


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
    def default_path(self) -> Path:
        """Of its report: beside the first run, named by the labels."""
        return self.members[0].run.path.parent / f"comparison-{slug('-'.join(self.groups))[:100]}.html"

    def to_xarray(self) -> xr.Dataset:
        """`data`, with dimensions (run, target, depth)."""
        return self.data

    def to_dataframe(self) -> pd.DataFrame:
        """The profiles of all runs that are compared, as one tidy table: `run`, `group`, `seed`, and the columns of
        `Run.to_dataframe`."""
        import pandas as pd

        from diagnostics.runs.dataframe import run_dataframe

        names = {str(name) for name in self.data["target"].values}
        tables: list[pd.DataFrame] = []
        for member in self.members:
            table = run_dataframe(member.run, names)
            for at, (key, value) in enumerate((("run", member.name), ("group", member.group), ("seed", member.seed))):
                table.insert(at, key, pd.Series([value] * len(table), dtype="Int64" if key == "seed" else object))
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def plot(self) -> go.Figure:
        """Score by relative depth of every run, a panel for each probe of each target, as a plotly figure; for each
        measure where no probe is among the profiles."""
        from diagnostics.runs.comparison.plots import plot_comparison

        return plot_comparison(self)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain numbers; None for what has no value."""
        return findings_json(self)

    def report(self, path: str | Path) -> Path:
        """Writes the comparison as one self-contained HTML file."""
        from diagnostics.report.html import write_page
        from diagnostics.runs.comparison.page import comparison_page

        return write_page(comparison_page(self), Path(path))

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(member.name for member in self.members)} on {self.data.attrs['dataset']}>"

    def _repr_html_(self) -> str:
        from diagnostics.report.html import page_tables
        from diagnostics.runs.comparison.page import comparison_page

        return page_tables(comparison_page(self))


def compare(
    runs: Sequence[Run | str | Path],
    *,
    base: str | None = None,
    similarity: str | None = "cka",
    seed: int = 0,
    watch: Watch | None = None,
) -> Comparison:
    """Holds runs of different encoders on the same dataset against each other.

    Parameters
    ----------
    runs: finished runs or their folders; `LABEL=PATH` gives a run another group than its encoder tells. Runs of one group
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
        raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.")
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
        wanted = _pairs_of_runs(groups)
        with watching(watch) as shown:
            for done, (first, second) in enumerate(wanted):
                shown(Progress("comparing taps", done, len(wanted), f"{first.name} and {second.name}"))
                tap_similarities.append(tap_similarity(first, second, similarity, seed))
            shown(Progress("comparing taps", len(wanted), len(wanted)))
    return Comparison(
        tuple(members),
        curves(members, names, seed),
        tuple(group_scores),
        tuple(family_gaps(by_profile, first_of_each_target([row.profile for row in group_scores]), seed)),
        tuple(differences_of(by_profile, seed, matched)),
        tuple(curve_differences(by_profile, seed, matched)),
        tuple(_all_shares(pairs, members, list(by_profile), seed)),
        tuple(tap_similarities),
        left_out,
    )


def _pairs_of_runs(groups: dict[str, list[Member]]) -> list[tuple[Member, Member]]:
    """The first run of each pair of groups; and two seeds of each group, the yardstick of how alike two trainings are."""
    within = [(members[0], members[1]) for members in groups.values() if len(members) > 1]
    return [*((first[0], second[0]) for first, second in combinations(groups.values(), 2)), *within]


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
            beside = [one if isinstance(one, str) else one.losses[name] for one in controls]
            shares.append(shares_of(name, group, base, len(groups[base]), purpose, losses, beside, cut_at, seed))
    return shares

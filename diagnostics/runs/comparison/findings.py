"""The findings of a comparison, as data."""

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from diagnostics.runs.comparison.differences import CurveDifference, Difference
from diagnostics.runs.comparison.group_scores import FamilyGap, GroupScore
from diagnostics.runs.comparison.members import Member, by_group
from diagnostics.runs.comparison.shares import Shares
from diagnostics.runs.comparison.tap_similarity import TapSimilarity


@dataclass(frozen=True)
class Findings:
    """What `compare` found.

    data: all profiles of all runs on one axis of relative depth; see `diagnostics.runs.comparison.curves`.
    group_scores: what each group reaches in each probe, over its seeds.
    family_gaps: the mean hidden gap of each group over the targets of each family.
    differences: of every pair of groups, at the chosen tap, at the output and in the hidden gap, corrected for their number.
    curve_differences: where along the depth every pair of groups differs.
    shares: what each alignment bought and cost, where a base is among the runs.
    tap_similarities: similarity of the taps of two runs, of one run of each pair of groups and of two seeds of each group.
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

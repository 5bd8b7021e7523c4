"""What a comparison found, in words; the terminal and the report say it alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.comparison import Comparison, one_for_each_target
from diagnostics.runs.comparison.differences import ALPHA, CurveDifference, Difference
from diagnostics.runs.comparison.positions import Likeness
from diagnostics.runs.comparison.shares import Shares


def about_runs(found: Comparison) -> str:
    """Which runs, on what."""
    n = found.sides[0].run.n
    runs = [f"{group} ({len(members)} seeds)" if len(members) > 1 else group for group, members in found.groups.items()]
    return (
        f"{', '.join(runs)} on {found.data.attrs['dataset']}, n = {n['train']} train, {n['val']} val, {n['test']} test; "
        f"pooling: {found.data.attrs['pooling']}"
    )


def shown_profiles(found: Comparison) -> list[str]:
    """One profile for each target, the first probe that reads it."""
    return one_for_each_target([one.profile for one in found.standings])


def few_said(found: Comparison) -> list[str]:
    """How few units scores rest on, where they do; and of which run's loss a few carry most."""
    profiles = [(side.name, side.profiles[one.profile]) for one in found.standings for side in found.sides]
    heavy = [f"{name}: {profile.heavy}" for name, profile in profiles if profile.heavy]
    return list(dict.fromkeys([*(profile.few for _, profile in profiles if profile.few), *heavy]))


def target_said(found: Comparison, profile: str) -> str:
    """The target and what was scored; the probe too where it is not the linear one."""
    measure, _, target = profile.partition("/")
    score = str(found.data["score_name"].sel(target=profile).values)
    return f"{target or measure} ({'' if measure == 'linear_probe' or not target else f'{measure} '}{score})"


def families_said(found: Comparison) -> list[str]:
    """The mean hidden gap of each family's targets, by group."""
    lines: list[str] = []
    for family in dict.fromkeys(one.family for one in found.family_gaps):
        rows = [one for one in found.family_gaps if one.family == family]
        gaps = "; ".join(f"{one.group} {interval_text(one.hidden_gap.interval)}" for one in rows)
        counts = sorted({len(one.profiles) for one in rows})
        of = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
        lines.append(f"{family} ({of} target{'s' if counts[-1] > 1 else ''}): {gaps}")
    return lines


def interval_text(found: Interval) -> str:
    """A signed value with its interval, or a dash."""
    if math.isnan(found.value):
        return "-"
    ends = "" if math.isnan(found.low) else f" [{_plain(found.low)}, {_plain(found.high)}]"
    return f"{_plain(found.value, '+')}{ends}"


def _plain(value: float, sign: str = "-") -> str:
    """Three digits; what rounds to 0 has no sign."""
    said = f"{value:{sign}.3f}"
    return said[1:] if said in ("-0.000", "+0.000") else said


def controls_said(found: Comparison, profiles: Sequence[str]) -> list[str]:
    """Which labels are not shown to beat fresh weights, by target: where an encoder of the same architecture that was never
    trained reads a target as well, training brought nothing that the probe shows."""
    lines: list[str] = []
    for profile in profiles:
        poor: list[str] = []
        for group, members in found.groups.items():
            margins = [side.profiles[profile].over("fresh_weights") for side in members]
            known = [margin for margin in margins if margin is not None and not math.isnan(margin.low)]
            missed = sum(not margin.low > 0 for margin in known)
            if missed:
                poor.append(group if len(known) == 1 else f"{group} ({missed} of {len(known)} seeds)")
        if poor:
            lines.append(f"{target_said(found, profile)}, not shown to beat fresh weights: {', '.join(poor)}")
    return lines


def heads_said(found: Comparison, profiles: Sequence[str]) -> list[str]:
    """What each group's head throws away: the trunk's last tap minus the head's last."""
    lines: list[str] = []
    for group in found.groups:
        drops = [
            f"{target_said(found, one.profile)} {interval_text(one.head_drop.interval)}"
            for one in found.standings
            if one.group == group and one.profile in profiles and one.head_drop is not None
        ]
        if drops:
            lines.append(f"end of trunk minus end of head, {group}: {'; '.join(drops)}")
    return lines


def reasons_of(found: Comparison) -> list[str]:
    """Why shares have no value, each once; a share names its reason by its place here, from 1."""
    return list(dict.fromkeys(why for one in found.shares for why in one.reasons.values()))


def alignment_said(one: Shares) -> str:
    """The alignment, what it started from, and how many trainings its shares rest on."""
    seeds = f"; {one.seeds} of {one.of_seeds} seeds" if one.seeds < one.of_seeds else ""
    alone = ", over samples alone" if seeds and one.seeds == 1 else ""
    return f"{one.group} (from {one.base}{seeds}{alone})"


def shares_said(one: Shares, reasons: Sequence[str]) -> list[str]:
    """Recovered share, kept at the best tap and at the output."""
    found = {"recovered": one.recovered, "kept_best": one.kept_best, "kept_output": one.kept_output}
    return [
        share_said(share) if share is not None else f"- ({reasons.index(one.reasons[name]) + 1})"
        for name, share in found.items()
    ]


def share_said(found: Interval) -> str:
    """A share with its interval."""
    ends = "" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{ends}"


def corrected_over(found: Comparison) -> str:
    """How many differences survive, after which correction, and what the intervals are over."""
    tested = [one for one in found.differences if not math.isnan(one.p_corrected)]
    if not tested:
        return "none can be tested"
    both = [one for one in tested if one.estimate.over_both is not None]
    kind = (
        "over samples and seeds"
        if both and len(both) == len(tested)
        else "over samples and, where both labels have several seeds, over seeds"
        if both
        else "over samples alone, since a label has one training: another seed might differ"
    )
    return f"{sum(one.survives for one in tested)} of {len(tested)} do; Holm, 0.05; {kind}"


@dataclass(frozen=True)
class PairRow:
    """All differences of two groups in one profile, in the order of `QUANTITIES`."""

    profile: str
    first: str
    second: str
    differences: tuple[Difference, ...]
    curve: CurveDifference


def differences_by_pair(found: Comparison) -> list[PairRow]:
    """The differences of each pair of groups in each profile, side by side."""
    by_pair: dict[tuple[str, str, str], list[Difference]] = {}
    for one in found.differences:
        by_pair.setdefault((one.profile, one.first, one.second), []).append(one)
    curves = {(one.profile, one.first, one.second): one for one in found.curve_differences}
    return [PairRow(*key, tuple(each), curves[key]) for key, each in by_pair.items()]


def difference_said(one: Difference) -> str:
    """A difference with its interval; a star where it survives the correction."""
    return f"{interval_text(one.estimate.interval)}{' *' if one.survives else ''}"


def along_depth_said(one: CurveDifference) -> str:
    """Where two curves differ."""
    shown = np.flatnonzero(one.p < ALPHA)
    if not np.isfinite(one.p).any():
        return "not tested"
    if one.at is None:
        return "at no depth"
    at = f"{one.difference[one.at]:+.3f} at depth {one.depths[one.at]:.2f}"
    return at if len(shown) == 1 else f"{at}; shown at {len(shown)} of {len(one.p)} depths"


def likeness_said(one: Likeness) -> str:
    """How alike two outputs are, and where the first run's taps stand in the second."""
    data = one.data
    measure = data.attrs["measure"]
    taps = [str(tap) for tap in data["tap"].values]
    known = np.isfinite(one.aligned)
    outputs = "not defined" if math.isnan(one.at_outputs) else f"{one.at_outputs:.3f}"
    said = f"{measure} of {one.first} and {one.second}: {outputs} at the outputs"
    if "p" not in data:
        return f"{said}; what chance reaches is not known, so no positions"
    if not np.isfinite(data["p"].values).any():
        return f"{said}; what chance reaches is not known ({data.attrs.get('no_null', 'no pair has a value')}), so no positions"
    if not known.any():
        return f"{said}; no tap of the one is more alike a tap of the other than chance makes one"
    ends = [f"{data['depth'].values[i]:.2f} ({taps[i]}) with {one.aligned[i]:.2f}" for i in np.flatnonzero(known)]
    shown = ends if len(ends) <= 4 else [ends[0], ends[len(ends) // 2], ends[-1]]
    lost = f"; {int((~known).sum())} of {len(taps)} taps of {one.first} are like none" if not known.all() else ""
    return f"{said}; most alike, depth with depth: {', '.join(shown)}{lost}"

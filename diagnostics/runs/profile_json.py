"""A profile as plain numbers, as `--json` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostics.measures.statistics import Interval
from diagnostics.report.numbers import is_plain, number, numbers
from diagnostics.runs.controls.kinds import NAMES, WEIGHTS

if TYPE_CHECKING:
    from diagnostics.runs.profile import Profile

ENDS = ("value", "low", "high")


def profile_json(profile: Profile) -> dict[str, Any]:
    """The numbers of a profile; None for what has no value."""
    score = profile.score
    controls = {name: profile.control(name) for name in NAMES}
    return {
        "measure": profile.measure,
        "target": profile.target,
        "family": profile.family,
        "higher_is_better": profile.higher_is_better,
        "taps": profile.taps,
        "depth": numbers(profile.data["depth"]),
        "score": numbers(profile.data["score"]),
        "low": numbers(profile.data["low"]),
        "high": numbers(profile.data["high"]),
        "lines": {name: numbers(values) for name, values in profile.lines.items()},
        "beside": {name: numbers(values) for name, values in profile.beside.items()},
        "chosen_tap": profile.chosen_tap,
        "chosen_score": number(score.value) if score else None,
        "chosen_on": profile.chosen_on if profile.chosen_tap else None,
        "tap_set": profile.tap_set,
        "best_tap": profile.best_tap,
        "output_tap": profile.output_tap,
        "output_score": number(profile.output.value),
        "hidden_gap": _json(profile.hidden_gap) or dict.fromkeys(ENDS),
        "verdict": str(profile.verdict) if profile.target and profile.is_probe else None,
        "readability": profile.readability if profile.is_probe else None,
        "gap_bound": number(profile.gap_bound),
        "margin": number(profile.margin) if profile.is_probe else None,
        "units_needed": profile.units_needed,
        "cautions": profile.cautions,
        "redraws": profile.redraws.to_json() if profile.redraws else None,
        "controls": {name: number(reached.value) if reached else None for name, reached in controls.items()},
        "over_controls": {name: _json(margin) for name in NAMES if (margin := profile.over(name))},
        "control_draws": {
            name: [number(draw.value) for draw in profile.drawn(name)] for name in WEIGHTS if name in profile.controls
        },
        "control_intervals": {name: [number(c.low), number(c.high)] for name, c in controls.items() if c},
        "attributes": {key: value for key, value in profile.data.attrs.items() if is_plain(value)},
    }


def _json(interval: Interval | None) -> dict[str, float | None] | None:
    return {key: number(getattr(interval, key)) for key in ENDS} if interval else None

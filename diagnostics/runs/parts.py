"""The scores of a target's parts, its classes or horizons, of which the score of the whole is the mean."""

from __future__ import annotations

import numpy as np

from diagnostics.measures.result import FUNCTIONAL
from diagnostics.report.numbers import format_compact, format_number
from diagnostics.report.page import Column, Details, Notes, Row, Table
from diagnostics.runs.profile import Profile

# Scores by part that a measure stores itself, and what a part of them is.
STORED = {"iou": "class", "skill_by_horizon": "horizon"}


def part_scores(profile: Profile) -> tuple[str, list[str], np.ndarray] | None:
    """What a part is, the names of the parts, and their scores [tap, part] on test; None of a target without parts."""
    data = profile.data
    for name, part in STORED.items():
        if name in data and data[name].ndim == 2:
            (axis,) = (str(axis) for axis in data[name].dims if axis != "tap")
            return part, _names(profile, axis), data[name].transpose("tap", axis).values
    if "part" not in data.dims or "part" not in data["loss"].dims:
        return None
    loss, reference = (data[key].sum("unit").transpose("tap", "part").values for key in ("loss", "reference_loss"))
    # A part that no test sample has, or that does not vary, has no score.
    score = 1 - np.divide(loss, reference, out=np.full(loss.shape, np.nan), where=reference > 0)
    part = "column" if "column" in str(data.attrs.get(FUNCTIONAL, "")) else "part"
    return part, _names(profile, "part"), score


def _names(profile: Profile, axis: str) -> list[str]:
    if axis in profile.data.coords:
        return [str(name) for name in profile.data[axis].values]
    return [str(i + 1) for i in range(profile.data.sizes[axis])]


def parts_table(profile: Profile) -> Details | None:
    """Scores of the parts at the tap chosen for the whole and at the output; None of a target without parts."""
    scores = part_scores(profile)
    if scores is None or profile.chosen_tap is None:
        return None
    part, names, values = scores
    chosen, output = (values[profile.taps.index(tap)] for tap in (profile.chosen_tap, profile.output_tap))
    rows = [
        Row((name, *map(format_compact, ends), format_number(float(ends[0] - ends[1]), "+.3g")))
        for name, *ends in zip(names, chosen, output, strict=True)
    ]
    columns = (part, f"at the chosen tap, {profile.chosen_tap}", f"at the output, {profile.output_tap}", "difference")
    return Details(f"Score by {part}", Table(tuple(map(Column, columns)), tuple(rows)), Notes(()))

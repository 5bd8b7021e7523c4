"""Which tap to read for a target, why, and how sure that is: what `Run.recommend` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diagnostics.measures import result as attribute
from diagnostics.measures.result import units_fitted
from diagnostics.measures.statistics import SHARES, Interval, Losses
from diagnostics.measures.tap_choice import TapChoice, choose_tap
from diagnostics.report.numbers import format_interval, format_number, format_share, number
from diagnostics.runs.profile import Profile


@dataclass(frozen=True)
class Recommendation:
    """The tap and the pooling to read for a target, by the rule of `measures.tap_choice`; it prints as a sentence.

    `tap` is None where nothing is recommended: the target is not shown to be readable at `best_tap`, the best on val.
    `score` and `output` are read on test. `reading` names the controls (baselines) that do as well, `best_control` is the one that
    scores highest, and `best_control_score` its score on test; both are None without controls. `changed` is the share of
    bootstrap resamples of val in which another tap is chosen, most often `rival`; `cost` by how much these others are worse
    on test, on average. All three are None where the measure gives no losses on val.

    Examples:
        >>> import diagnostics as dx
        >>> read = dx.open_run("runs/forecast").recommend("hidden_z")
        >>> print(read.tap, read.pooling, read.score)
        blocks.1 mean and last side by side 0.914 [0.853, 0.961]
        >>> print(read.output_tap, read.output)
        norm 0.594 [0.167, 0.837]
        >>> read.at_output, round(read.changed, 2), read.rival
        (False, 0.31, 'blocks.3')
        >>> read.to_json()["tap"]
        'blocks.1'
    """

    target: str
    measure: str
    tap: str | None
    best_tap: str | None
    pooling: str
    score_name: str
    score: Interval | None
    output_tap: str
    output: Interval
    hidden_gap: Interval | None
    reading: str
    best_control: str | None
    best_control_score: float | None
    changed: float | None
    rival: str | None
    cost: float | None

    @property
    def at_output(self) -> bool:
        """Whether the output itself is to be read."""
        return self.tap == self.output_tap

    def __str__(self) -> str:
        if self.tap is None:
            return f"For {self.target} there is nothing to recommend: {self.reading}."
        where = f"the output, {self.tap}" if self.at_output else self.tap
        parts = [f"For {self.target} use {where} ({self.pooling}): {self.score_name} {format_interval(self.score)}"]
        if not self.at_output:
            parts[0] += f", output {format_interval(self.output)}"
            if self.tap != self.best_tap:
                parts.append(f"the earliest that is as good on val as the best, {self.best_tap}")
        parts.append(self.reading)
        if self.changed is not None:
            parts.append(self._how_sure())
        return f"{'; '.join(parts)}."

    @property
    def line(self) -> str:
        """The sentence in short, as the last lines of a run give it."""
        if self.tap is None:
            return f"{self.target}: none, {self.reading}"
        where = f"the output, {self.tap}" if self.at_output else self.tap
        pooling = self.pooling.removesuffix(" side by side")
        line = f"{self.target}: {where} ({pooling}), {self.score_name} {format_interval(self.score)}"
        if not self.at_output:
            line += f", output {format_number(self.output.value)}"
        if self.best_control and self.best_control_score is not None:
            line += f"; best control {self.best_control.replace('_', ' ')} {format_number(self.best_control_score)}"
        return f"{line}; {self._how_sure()}" if self.changed else line

    def _how_sure(self) -> str:
        if not self.changed:
            return "no resample of val chooses another tap"
        assert self.cost is not None
        worse = f"{format_number(abs(self.cost))} {'lower' if self.cost >= 0 else 'higher'} on test"
        return f"{format_share(self.changed)} of resamples of val choose another tap (most often {self.rival}), on average {worse}"

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, and the sentence."""
        intervals = {
            key: {end: number(value) for end, value in asdict(interval).items()} if interval else None
            for key, interval in (("score", self.score), ("output", self.output), ("hidden_gap", self.hidden_gap))
        }
        return {**vars(self), **intervals, "sentence": str(self)}

    def __repr__(self) -> str:
        return f"<Recommendation: {self}>"

    def _repr_html_(self) -> str:
        from diagnostics.runs.tables import recommendation_table

        return recommendation_table(self)


def recommend(profile: Profile) -> Recommendation:
    """The recommendation that a probe's profile gives."""
    choice = _choice(profile) if profile.is_readable else None
    tap = profile.taps[choice.tap] if choice else profile.best_tap if profile.is_readable else None
    if choice is None and tap is not None and not (profile.hidden_gap and profile.hidden_gap.low > 0):
        tap = profile.output_tap
    known = choice is not None
    control, reached = profile.best_control or (None, None)
    return Recommendation(
        target=profile.target or "",
        measure=profile.measure,
        tap=tap,
        best_tap=profile.best_tap,
        pooling=str(profile.data.attrs[attribute.POOLING]),
        score_name=str(profile.data.attrs[attribute.SCORE_NAME]),
        score=profile.at(tap) if tap else None,
        output_tap=profile.output_tap,
        output=profile.output,
        hidden_gap=profile.hidden_gap,
        reading=profile.reading,
        best_control=control,
        best_control_score=reached.value if reached else None,
        changed=choice.changed if known else None,
        rival=profile.taps[choice.rival] if known and choice.rival is not None else None,
        cost=choice.cost if known else None,
    )


def _choice(profile: Profile) -> TapChoice | None:
    data = profile.data
    if "val_loss" not in data:
        return None
    val, test = (
        Losses(*(data[key].transpose("tap", unit, ...).values for key in keys))
        for unit, keys in (("val_unit", ("val_loss", "val_reference")), ("unit", ("loss", "reference_loss")))
    )
    return choose_tap(
        val,
        test,
        profile.taps.index(profile.output_tap),
        np.asarray(data["depth"].values),
        units_fitted(data),
        int(data.attrs[attribute.SEED]),
        str(data.attrs[attribute.SCORE_NAME]) in SHARES,
    )

"""The tap to use for a target, how sure that is, and what a kernel reads of the target: `Run.recommend`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diagnostics.errors import join_names
from diagnostics.measures import result as attribute
from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.numbers import format_interval, format_number, number
from diagnostics.report.page import Cell, Column, Number, Row, Table, note
from diagnostics.runs.results.profile import Profile

MOST_NAMED = 10
"""Other taps up to which the sentence names each; all are in `also`."""

Confidence = Literal["shown", "no gap", "likely", "undecided", "at chance"]


@dataclass(frozen=True)
class Recommendation:
    """The tap and the pooling to use for a target, by the rule of `measures.verdict`; it prints as a sentence.

    No test loss enters `tap`; None where no tap has a score by which to choose. `score`, `output` and `hidden_gap` (of
    `best_tap`, the best other than the output) are read on test, and `confidence` is what they say of the choice:

    - `shown`: the output hides the target, and the tap is another.
    - `no gap`: no tap is better than the output by the margin, so that the choice costs little either way.
    - `likely`: the tap is not the output, and the one-sided 90 % lower end of its gap lies above 0.
    - `undecided`: none of these. `at chance`: no tap reads the target.

    `also` are the other taps that are not shown to be worse, by the losses that chose. `reading` says the verdict in
    words, and names the controls (baselines) that do as well; `best_control` is the one that scores highest, None
    without controls.

    Examples:
        >>> import diagnostics as dx
        >>> read = dx.open_run("runs/forecast").recommend("hidden_z")
        >>> print(read.tap, read.score)
        blocks.3 0.917 [0.833, 0.968]
        >>> print(read.output_tap, read.output)
        norm 0.594 [0.167, 0.837]
        >>> read.at_output, read.confidence, read.also
        (False, 'shown', ('blocks.1', 'blocks.2', 'blocks.4'))
        >>> read.pooling, read.to_json()["tap"]
        ('mean and last side by side', 'blocks.3')
    """

    target: str
    measure: str
    tap: str | None
    confidence: Confidence
    verdict: Verdict
    pooling: str
    chosen_on: str
    also: tuple[str, ...]
    score_name: str
    score: Interval | None
    output_tap: str
    output: Interval
    best_tap: str | None
    hidden_gap: Interval | None
    reading: str
    best_control: str | None
    best_control_score: float | None

    @property
    def at_output(self) -> bool:
        """Test for the output itself."""
        return self.tap == self.output_tap

    @property
    def place(self) -> str:
        """The tap to use, in words."""
        return f"{self.tap}, the output" if self.at_output else self.tap or "nothing"

    @property
    def _pooled(self) -> str:
        """The pooling, as a sentence says it."""
        return self.pooling.removeprefix("none: ")

    def __str__(self) -> str:
        if self.tap is None:
            return f"For {self.target} there is nothing to recommend: no tap has a score by which to choose."
        if self.confidence == "at chance":
            at = f"{self.score_name} {format_interval(self.score)} at {self.place}"
            return f"For {self.target} {self.measure} finds no layer of use: {self.reading} ({at}, {self._pooled})."
        text = f"For {self.target} use {self.place} ({self._pooled}): {self.score_name} {format_interval(self.score)}"
        if not self.at_output:
            text += f", output {format_interval(self.output)}"
        also = ""
        if self.also:
            others = join_names(self.also) if len(self.also) <= MOST_NAMED else f"{len(self.also)} other taps"
            also = f"; {others} not shown to be worse"
        sure = "" if self.reading.startswith(self.confidence) else f"{self.confidence}: "
        return f"{text}; {sure}{self.reading}{also}."

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, and the sentence."""
        intervals = {
            key: {end: number(value) for end, value in asdict(interval).items()} if interval else None
            for key, interval in (("score", self.score), ("output", self.output), ("hidden_gap", self.hidden_gap))
        }
        return {**vars(self), **intervals, "also": list(self.also), "sentence": str(self)}

    def __repr__(self) -> str:
        return f"<Recommendation: {self}>"

    def _repr_html_(self) -> str:
        from diagnostics.report.html import page_tables

        rows: dict[str, Cell] = {
            "tap": self.tap or "none",
            "pooling": self.pooling,
            self.score_name: Number(self.score),
            f"at the output, {self.output_tap}": Number(self.output),
            "hidden gap": Number(self.hidden_gap, signed=True),
            "how sure": self.confidence,
            "not shown to be worse": ", ".join(self.also) or "-",
        }
        table = Table((Column("for"), Column(self.target)), tuple(Row(row) for row in rows.items()))
        return page_tables(note("Recommendation", str(self), table))


def recommend(profile: Profile, nonlinear: str = "") -> Recommendation:
    """The recommendation that a probe's profile gives; `nonlinear`: what a kernel reads of its target."""
    control, reached = profile.best_control or (None, None)
    return Recommendation(
        target=profile.target or "",
        measure=profile.measure,
        tap=profile.chosen_tap,
        confidence=_confidence(profile),
        verdict=profile.verdict,
        pooling=str(profile.data.attrs[attribute.POOLING]),
        chosen_on=profile.chosen_on,
        also=tuple(tap for tap in profile.tap_set if tap != profile.chosen_tap),
        score_name=str(profile.data.attrs[attribute.SCORE_NAME]),
        score=profile.score,
        output_tap=profile.output_tap,
        output=profile.output,
        best_tap=profile.best_tap,
        hidden_gap=profile.hidden_gap,
        reading="; ".join(
            filter(None, (profile.reading, nonlinear if profile.verdict is Verdict.SHOWN else "", profile.redrawn))
        ),
        best_control=control,
        best_control_score=reached.value if reached else None,
    )


def _confidence(profile: Profile) -> Confidence:
    """The word of test on the choice of a tap."""
    verdict, at_output = profile.verdict, profile.chosen_tap == profile.output_tap
    if verdict is Verdict.AT_CHANCE:
        return "at chance"
    if verdict is Verdict.EXCLUDED:
        return "no gap"
    if profile.few or at_output:
        return "undecided"
    if verdict is Verdict.SHOWN:
        return "shown"
    return "likely" if profile.data.attrs.get(attribute.CHOSEN_GAP_LOW, math.nan) > 0 else "undecided"


@dataclass(frozen=True)
class NonlinearReading:
    """The scores of a kernel on a target at the output and at another tap, on test, beside those of the linear probe.

    gap: by how much it reads more from that tap, paired over test units; None where the taps it was chosen among are
    others.
    """

    output: Interval
    best: Interval
    linear_output: Interval
    linear_best: Interval
    gap: Interval | None
    tap: str
    floor: float

    @property
    def words(self) -> str:
        """Its scores, beside what the linear probe does not read, as half a sentence."""
        output, best = (format_number(each.value, ".2f") for each in (self.output, self.best))
        chance = f"; {format_number(self.floor, '.2f')} is chance" if self.floor > 0 else ""
        return f"a kernel reads {output} of {best} from the output{chance}"


def nonlinear_reading(profiles: Sequence[Profile], target: str) -> NonlinearReading | None:
    """Scores of a kernel on a target at the output and at the linear probe's best tap, of the profiles of a run.

    None where the kernel did not read the target at the output and at the linear probe's best tap.
    """
    linear, kernel = (_profile(profiles, readout, target) for readout in ("linear", "kernel"))
    if not (linear and kernel and linear.best_tap in kernel.taps and linear.best_tap != linear.output_tap):
        return None
    return NonlinearReading(
        kernel.output,
        kernel.at(linear.best_tap),
        linear.output,
        linear_best=linear.at(linear.best_tap),
        gap=kernel.hidden_gap if kernel.best_tap == linear.best_tap else None,
        tap=linear.best_tap,
        floor=linear.floor,
    )


def first_probes(profiles: Sequence[Profile]) -> dict[str, Profile]:
    """The probe by which a layer is recommended for each target, the first of the run that read it.

    In the order of `by_verdict`.
    """
    first: dict[str, Profile] = {}
    for profile in profiles:
        if profile.is_probe and profile.target:
            first.setdefault(profile.target, profile)
    return {str(profile.target): profile for profile in by_verdict([*first.values()])}


def by_verdict(profiles: Sequence[Profile]) -> list[Profile]:
    """Probes of targets in the order of their verdicts, those that can be read first, then the largest gap."""

    def order(profile: Profile) -> tuple[int, int, float]:
        gap = profile.hidden_gap.value if profile.hidden_gap else math.nan
        read = ("readable", "undecided", "at chance").index(profile.readability)
        return list(Verdict).index(profile.verdict), read, 0.0 if math.isnan(gap) else -gap

    return sorted((profile for profile in profiles if profile.is_probe and profile.target), key=order)


def without_nonlinear(profiles: Sequence[Profile]) -> list[Profile]:
    """The profiles that have a row and a curve of their own.

    Those of a kernel at two taps beside the linear probe have none.
    """
    return [
        profile
        for profile in profiles
        if profile.readout != "kernel"
        or (linear := _profile(profiles, "linear", profile.target)) is None
        or len(profile.taps) == len(linear.taps)
    ]


def _profile(profiles: Sequence[Profile], readout: str, target: str | None) -> Profile | None:
    return next((profile for profile in profiles if (profile.readout, profile.target) == (readout, target)), None)

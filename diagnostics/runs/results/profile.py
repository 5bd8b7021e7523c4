"""A profile: one measure as a function of depth, with its uncertainty and its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from diagnostics.errors import join_names
from diagnostics.measures import CATALOGUE
from diagnostics.measures import result as attribute
from diagnostics.measures.result import choosing_score, is_probe, read_interval, sets_of
from diagnostics.measures.statistics import Interval
from diagnostics.measures.tap_choice import FEWEST
from diagnostics.measures.verdict import MARGIN, Verdict, round_count, units_needed
from diagnostics.report.numbers import SIGNIFICANT, format_interval, format_number, is_plain, nowrap, number, numbers
from diagnostics.report.page import ControlCurve, Details, ProfileFigure, note, tap_table
from diagnostics.runs.controls.names import INPUTS, NAMES, WEIGHTS, control_of, in_words
from diagnostics.runs.results.cautions import FEW, outlier_of, size_of_fit, skew_of
from diagnostics.runs.results.redraws import NO_REDRAWS, Redraws, redraws_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

# A control that reaches this share of the best score is named even where it is beaten: training then adds little.
NEAR = 0.9
CUT = "the interval of a score never exceeds 1"
INTERVALS = f"95 % intervals over independent units; {CUT}"
"""What the intervals of scores are, as terminal and report say it; `statistics.profile_intervals` makes them."""

OLDER = "val, by an older version: run again"
"""What chose the tap of a run that holds no losses out of fold and does not say that it chose on val."""
FEW_WITH_TOKENS = 20
"""Samples with tokens, below which what is read of tokens says little of other samples."""
CHANCE = ("chance", "commonest")
"""Reference lines that say what knowing nothing reaches."""


@dataclass(frozen=True)
class Profile:
    """One measure (of one target) at every tap.

    `data` is the `xarray.Dataset` that the run stores: `score`, `low`, `high` over `tap`, and attributes that state n,
    pooling, centring, functional and seed. `controls` holds the same for each control encoder (baseline).

    Examples:
        >>> import diagnostics as dx
        >>> profile = dx.open_run("runs/with-controls").profile("linear_probe/hidden_z")
        >>> print(profile)
        linear_probe/hidden_z (R2) at 2 taps: use blocks.1 0.905 [0.836, 0.96],
        output norm 0.594 [0.167, 0.837]; hidden by the output (+0.311 [0.075, 0.713] at
        blocks.1)
        >>> print(profile.at("blocks.1"), profile.hidden_gap)
        0.905 [0.836, 0.960] 0.311 [0.075, 0.713]
        >>> round(profile.depth_of("blocks.1"), 2), profile.to_json()["chosen_tap"]
        (0.33, 'blocks.1')

        What the encoder reaches without its training, and by how much the chosen tap beats that:

        >>> print(profile.control("fresh_weights"), profile.over("fresh_weights"))
        0.556 [0.176, 0.766] 0.349 [0.136, 0.712]
        >>> len(profile.drawn("fresh_weights")), profile.spread("fresh_weights")
        (1, None)
        >>> profile.plot().write_html("hidden_z.html")
        >>> profile.figure().taps, len(profile.table().table.rows)
        (['blocks.1', 'norm'], 2)
    """

    measure: str
    target: str | None
    data: xr.Dataset
    controls: Mapping[str, xr.Dataset]
    """Of a control with several draws, the one that is best by what chooses (the first of a measure that chooses no
    tap).
    """
    draws: Mapping[str, Sequence[xr.Dataset]] = field(default_factory=dict[str, Sequence[xr.Dataset]])
    """All draws of each control."""

    @classmethod
    def of(cls, measure: str, target: str | None, data: xr.Dataset, controls: Mapping[str, xr.Dataset]) -> Profile:
        """From the results of controls by name, those of several draws as `fresh_weights.2`."""
        draws: dict[str, list[xr.Dataset]] = {}
        for name, other in controls.items():
            draws.setdefault(control_of(name), []).append(other)
        return cls(
            measure, target, data, {name: max(theirs, key=choosing_score) for name, theirs in draws.items()}, draws
        )

    @property
    def name(self) -> str:
        """`measure/target`, or the measure alone."""
        return f"{self.measure}/{self.target}" if self.target else self.measure

    @cached_property
    def taps(self) -> list[str]:
        """Tap names in order of execution."""
        return [str(tap) for tap in self.data["tap"].values]

    @property
    def family(self) -> str:
        """The family of the measure or of its target."""
        return self.data.attrs["family"]

    @property
    def is_probe(self) -> bool:
        """True if something was fitted, chosen on val and read on test."""
        return is_probe(self.data)

    @property
    def readout(self) -> str:
        """`linear` or `kernel`, as the probe declares it; "" of others."""
        return str(self.data.attrs.get(attribute.READOUT, ""))

    @property
    def label(self) -> str:
        """The target and what was scored; also by which probe, where another one is the first to read such targets."""
        telling = self.readout == "linear" or not self.target or _reads_first(self.measure)
        probe = "" if telling else f"{nowrap(self.measure)} "
        return f"{nowrap(self.target or self.measure)} ({probe}{self.data.attrs['score_name']})"

    @cached_property
    def lines(self) -> dict[str, np.ndarray]:
        """Reference lines: name -> [tap], as `uniform` for what uniform attention would give."""
        lines = {name: data.values for name, data in self._variables.items() if name.startswith("line_")}
        return {name.removeprefix("line_").replace("_", " "): values for name, values in lines.items()}

    @property
    def beside(self) -> dict[str, np.ndarray]:
        """Numbers beside the score, name -> [tap]."""
        numeric = {name: data.values for name, data in self._variables.items() if data.dtype.kind in "fiu"}
        known = ("score", "low", "high", "val_score")
        return {name: v for name, v in numeric.items() if name not in known and not name.startswith("line_")}

    @cached_property
    def _variables(self) -> dict[str, xr.DataArray]:
        return {str(name): data for name, data in self.data.data_vars.items() if data.dims == ("tap",)}

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither way is better by itself."""
        return {"yes": True, "no": False}.get(self.data.attrs["higher_is_better"])

    @property
    def chosen_tap(self) -> str | None:
        """The tap to use, chosen without test; None where no tap is chosen."""
        return self.data.attrs.get(attribute.CHOSEN_TAP)

    @cached_property
    def score(self) -> Interval | None:
        """The chosen tap's score on test."""
        return self.at(self.chosen_tap) if self.chosen_tap else None

    @property
    def tap_set(self) -> list[str]:
        """The taps not shown to be worse than the chosen one, itself among them, by the losses that chose it."""
        return list(self.data.attrs.get(attribute.TAP_SET, ()))

    @property
    def chosen_on(self) -> str:
        """The samples whose losses chose, in words."""
        if self.data.attrs.get(attribute.OLDER):
            return OLDER
        return "train and val, out of fold" if self.data.attrs.get(attribute.CHOSEN_ON) == "fit" else "val"

    @property
    def best_tap(self) -> str | None:
        """The best tap other than the output, chosen without test; None where there is none."""
        return self.data.attrs.get(attribute.BEST_TAP)

    @cached_property
    def best(self) -> Interval | None:
        """The best tap's score on test."""
        return self.at(self.best_tap) if self.best_tap else None

    @property
    def output_tap(self) -> str:
        """The tap that the encoder's makers hand to users."""
        return self.data.attrs["output_tap"]

    @cached_property
    def output(self) -> Interval:
        """The output tap's value."""
        return self.at(self.output_tap)

    def at(self, tap: str) -> Interval:
        """The value at one of the taps."""
        at = self.taps.index(tap)
        return Interval(*(float(self._variables[key].values[at]) for key in ("score", "low", "high")))

    @cached_property
    def hidden_gap(self) -> Interval | None:
        """By how much the best tap beats the output tap on test, paired over units."""
        return read_interval(self.data.attrs, "hidden_gap")

    def depth_of(self, tap: str) -> float:
        """Depth of one of the taps."""
        return float(self.data["depth"].values[self.taps.index(tap)])

    def control(self, name: str) -> Interval | None:
        """Score of a control: its own chosen tap's score on test, or its value at its output tap."""
        return self._reached(self.controls[name]) if name in self.controls else None

    @property
    def best_control(self) -> tuple[str, Interval] | None:
        """The control that reaches most on test, with its score; None where none has a value."""
        reached = {
            name: score for name in self.controls if (score := self.control(name)) and math.isfinite(score.value)
        }
        return max(reached.items(), key=lambda item: item[1].value, default=None)

    def drawn(self, name: str) -> list[Interval]:
        """The same of all draws of a control."""
        draws = self.draws.get(name, [self.controls[name]] if name in self.controls else [])
        return [reached for draw in draws if (reached := self._reached(draw)) is not None]

    def spread(self, name: str) -> tuple[float, float] | None:
        """The smallest and the largest that draws of a control reach; None of a single one."""
        values = [reached.value for reached in self.drawn(name) if math.isfinite(reached.value)]
        return (min(values), max(values)) if len(values) > 1 else None

    def _reached(self, control: xr.Dataset) -> Interval | None:
        other = Profile(self.measure, self.target, control, {})
        return other.score if self.chosen_tap else other.output

    @property
    def units(self) -> dict[str, int]:
        """Independent units in each split."""
        counts = {split: int(self.data.attrs.get(f"units_{split}", 0)) for split in ("train", "val")}
        return {**counts, "test": self.data.sizes.get("unit", 0)}

    @cached_property
    def redraws(self) -> Redraws | None:
        """Redraws of the split, of the same samples; None without `--redraws`."""
        return redraws_of(self.data, self.controls.get("raw_input"))

    @property
    def redrawn(self) -> str:
        """The redraws in words, or why there are none; "" where none were asked for."""
        if self.redraws:
            return self.redraws.line
        return f"not redrawn: {why}" if (why := self.data.attrs.get(NO_REDRAWS)) else ""

    @cached_property
    def few(self) -> str:
        """The few independent units behind a score, in words; nothing where there are enough to tell anything."""
        units = self.units
        few = [f"{(n := units['test'])} test unit{'s' * (n != 1)}"] if units["test"] < FEW else []
        few += [f"{n} units of train and val"] if 0 < (n := units["train"] + units["val"]) < FEWEST else []
        return f"only {' and '.join(few)}: they cannot tell" if few and self.is_probe else ""

    @property
    def skew(self) -> str:
        """The few units of train and val that carry most of the target's spread, or of its errors, in words; or ""."""
        return skew_of(self.data, str(self.chosen_tap), self.name) if self.chosen_tap else ""

    @property
    def outlier(self) -> str:
        """The one test unit that carries most of the error at a tap that the answer rests on, in words; or ""."""
        rests_on = dict.fromkeys((self.chosen_tap, self.best_tap, self.output_tap))
        return next((words for tap in rests_on if tap and (words := outlier_of(self.data, tap, self.name))), "")

    @property
    def token_samples(self) -> int:
        """The samples whose tokens a value rests on; of one that reads no tokens `FEW_WITH_TOKENS`."""
        return int(self.data.attrs.get("token_samples", FEW_WITH_TOKENS))

    @property
    def sparse(self) -> str:
        """The few samples whose tokens a value rests on, in words; "" where they are enough or none are read."""
        n = self.token_samples
        return (
            f"{self.measure} rests on the tokens of only {n} samples: a larger --token-budget or a larger dataset "
            f"gives more"
            if n < FEW_WITH_TOKENS
            else ""
        )

    @property
    def cautions(self) -> list[str]:
        """Reasons why a value or its interval is not to be believed, each in words."""
        return [caution for caution in (self.few, self.skew, self.outlier, self.sparse) if caution]

    def over(self, control: str) -> Interval | None:
        """By how much the chosen tap beats a control's chosen tap on test, paired over units.

        Of several draws, the margin whose lower bound is smallest: who beats the control beats each of its draws.
        """
        keys = [key.removesuffix("_low") for key in self.data.attrs if key.startswith("over_") and key.endswith("_low")]
        margins = [
            read_interval(self.data.attrs, key) for key in keys if control_of(key.removeprefix("over_")) == control
        ]
        return min((m for m in margins if m), key=lambda m: m.low if math.isfinite(m.low) else -math.inf, default=None)

    @cached_property
    def margin(self) -> float:
        """The gap that matters.

        It is the one that the user named, else `MARGIN` of what lies between chance and the better score.
        """
        if (named := self.data.attrs.get(attribute.MARGIN)) is not None:
            return float(named)
        reached = [each.value for each in (self.score, self.output) if each and math.isfinite(each.value)]
        return MARGIN * max(max(reached, default=0.0) - self.floor, 0.0)

    @property
    def gap_bound(self) -> float:
        """The upper end of the largest gap over all taps, above which gaps are excluded; NaN without output."""
        return float(self.data.attrs.get(attribute.GAP_BOUND, math.nan))

    @property
    def gap_bound_text(self) -> str:
        """The bound to three decimals, upwards: a rounded one excludes nothing that it does not."""
        return format_number(math.ceil(1000 * self.gap_bound) / 1000) if math.isfinite(self.gap_bound) else "-"

    @property
    def units_needed(self) -> int | None:
        """Test units that would tell a gap of the margin from none; None where no more are needed, or none help."""
        needed = units_needed(self.hidden_gap, self.units["test"], self.margin) if self.hidden_gap else None
        return needed if needed and needed > self.units["test"] else None

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on the hidden gap.

        It is undecided wherever units are too few, and excluded where it is shown but smaller than matters.
        """
        if self.few:
            return Verdict.UNDECIDED
        if self.is_at_chance:
            return Verdict.UNDECIDED if self.lacks_samples else Verdict.AT_CHANCE
        gap, best = self.hidden_gap, self.best
        if self.is_readable and self.gap_bound < self.margin:
            return Verdict.EXCLUDED
        if self.is_readable and gap and best and gap.low > 0 and best.low > self.floor:
            return Verdict.SHOWN
        return Verdict.UNDECIDED

    @cached_property
    def is_readable(self) -> bool:
        """Test for a score at the chosen tap that is shown to be above 0, above chance, and above shuffled labels.

        A score that is next to nothing at every tap is none, however sure it is.
        """
        if self.score is None or not self.score.low > 0.0 or self.is_at_chance:
            return False
        shuffled = None if attribute.CHANCE in self.data.attrs else self.over("shuffled_labels")
        return self.score.low > self._chance and (shuffled is None or shuffled.low > 0.0)

    @cached_property
    def is_at_chance(self) -> bool:
        """Test for scores that exclude, at every tap up to the output, a gain over chance that matters.

        Such a gain is `MARGIN` of what lies between chance and a perfect score.
        """
        return self.ceiling < self.floor + MARGIN * (1.0 - self.floor)

    @property
    def lacks_samples(self) -> str:
        """The samples of a target at chance, where they are fewer than the features, in words; or "".

        Ridge then predicts the mean and scores 0, sure of it, also where the features hold a fifth of the target.
        """
        n, width = size_of_fit(self.data)
        return f"{n:,} samples for {width:,} features" * (self.is_at_chance and n < width)

    @cached_property
    def ceiling(self) -> float:
        """The upper end of the best score over all taps up to the output; NaN without intervals."""
        upto = self.data["depth"].values <= self.depth_of(self.output_tap)
        high = self.data["high"].values[upto & np.isfinite(self.data["score"].values)]
        return float(high.max()) if high.size else math.nan

    @property
    def readability(self) -> str:
        """readable, at chance, or undecided."""
        undecided = self.lacks_samples or not self.is_at_chance
        return "readable" if self.is_readable else "undecided" if undecided else "at chance"

    @cached_property
    def floor(self) -> float:
        """The score of knowing nothing: what the measure declares or draws as a line, at least 0."""
        return max(self._chance, 0.0)

    @cached_property
    def _chance(self) -> float:
        """Score of knowing nothing at the chosen tap, as declared or drawn as a line by the measure, else -inf."""
        at = self.taps.index(self.chosen_tap or self.output_tap)
        drawn = max((self.lines[name][at] for name in CHANCE if name in self.lines), default=-math.inf)
        return float(self.data.attrs.get(attribute.CHANCE, drawn))

    @property
    def rivals(self) -> list[str]:
        """Controls that the chosen tap is not shown to beat, in words."""
        return [in_words(name) for name, margin in self._margins.items() if margin and not margin.low > 0.0]

    @cached_property
    def rival(self) -> tuple[str, Interval] | None:
        """The control that says most, of those that the chosen tap is not shown to beat by a gain that matters.

        Most says one over which gains that matter are excluded, and of those one that lacks the model; else the
        highest, of equals again that. None where none is above chance.
        """
        floor = self.floor + MARGIN * (1.0 - self.floor)
        rivals = [
            (name, reached)
            for name, over in self._margins.items()
            if over and (not over.low > 0.0 or self._adds_nothing(name)) and (reached := self.control(name))
            if reached.value > floor
        ]

        def says(rival: tuple[str, Interval]) -> tuple[bool, bool, float, bool]:
            nothing, alone = self._adds_nothing(rival[0]), rival[0] in INPUTS
            return nothing, nothing and alone, rival[1].value, alone

        return max(rivals, key=says, default=None)

    def _adds_nothing(self, control: str) -> bool:
        """Test for an advantage over a control whose upper end lies below the margin, as that of an excluded gap."""
        over = self._margins[control]
        return not self.few and over is not None and over.high < self.margin

    @property
    def needless(self) -> str:
        """The part that the best rival does without: `model` or `training`, else nothing.

        It is named where gains over that rival that matter are excluded.
        """
        if not (self.rival and self._adds_nothing(self.rival[0])):
            return ""
        return "model" if self.rival[0] in INPUTS else "training"

    @property
    def near(self) -> list[str]:
        """Controls of which a draw reaches nearly what the chosen tap does, in words."""
        level = NEAR * self.score.value if self.score else math.inf
        return [in_words(name) for name in self._margins if any(drawn.value >= level for drawn in self.drawn(name))]

    @cached_property
    def _margins(self) -> dict[str, Interval | None]:
        """By how much the chosen tap beats each control that could do as well."""
        # What beats chance beats the shuffled labels. Of maps the place alone may be readable, which shuffled ones
        # keep.
        return {
            name: self.over(name) for name in NAMES if name != "shuffled_labels" or attribute.CHANCE in self.data.attrs
        }

    @property
    def remarks(self) -> list[str]:
        """Remarks behind the finding: whether chance was tested, and which controls do as well, or nearly."""
        remarks: list[str] = []
        if self.over("shuffled_labels") is None and self._chance == -math.inf:
            remarks.append("chance not tested without the shuffled labels")
        if self.rivals:
            remarks.append(f"not shown to beat {join_names(self.rivals)}")
        elif self.near:
            remarks.append(f"within {1 - NEAR:.0%} of {join_names(self.near)}")
        return remarks

    @property
    def reading(self) -> str:
        """Reading of the numbers in a few words."""
        if self.score is None:
            return ""
        return "; ".join([self.finding, *(self.remarks if self.is_readable else [])])

    @property
    def finding(self) -> str:
        """The verdict with its number, in words."""
        verdict, gap = self.verdict, self.hidden_gap
        if self.few:
            return self.few
        if verdict is Verdict.AT_CHANCE:
            return verdict.meaning
        if gap is None or math.isnan(gap.value):
            return "the output has no value to compare with" if gap else "no other tap to compare with"
        if verdict is Verdict.SHOWN:
            return f"hidden by the output ({format_interval(gap, signed=True)} at {self.best_tap})"
        if not self.is_readable:
            return ": ".join(filter(None, ("not shown to be readable, nor to be at chance", self.lacks_samples)))
        bound = self.gap_bound_text
        if verdict is Verdict.EXCLUDED:
            return f"gaps above {bound} are excluded"
        needed = f": about {round_count(self.units_needed):,} test units would tell" if self.units_needed else ""
        return f"gaps up to {bound} are possible, above {format_number(self.margin)} they matter{needed}"

    def to_json(self) -> dict[str, Any]:
        """The profile as plain numbers; None for what has no value."""
        score = self.score
        controls = {name: self.control(name) for name in NAMES}
        return {
            "measure": self.measure,
            "target": self.target,
            "family": self.family,
            "higher_is_better": self.higher_is_better,
            "taps": self.taps,
            "depth": numbers(self.data["depth"]),
            "score": numbers(self.data["score"]),
            "low": numbers(self.data["low"]),
            "high": numbers(self.data["high"]),
            "lines": {name: numbers(values) for name, values in self.lines.items()},
            "beside": {name: numbers(values) for name, values in self.beside.items()},
            "chosen_tap": self.chosen_tap,
            "chosen_score": number(score.value) if score else None,
            "chosen_on": self.chosen_on if self.chosen_tap else None,
            "tap_set": self.tap_set,
            "sets": {
                name: {"taps": held, "features": width, "score": _json(score), "gain": _json(gain)}
                for name, held, width, score, gain in sets_of(self.data)
            },
            "best_tap": self.best_tap,
            "output_tap": self.output_tap,
            "output_score": number(self.output.value),
            "hidden_gap": _json(self.hidden_gap or Interval(math.nan, math.nan, math.nan)),
            "verdict": str(self.verdict) if self.target and self.is_probe else None,
            "readability": self.readability if self.is_probe else None,
            "gap_bound": number(self.gap_bound),
            "margin": number(self.margin) if self.is_probe else None,
            "units_needed": self.units_needed,
            "cautions": self.cautions,
            "redraws": self.redraws.to_json() if self.redraws else None,
            "controls": {name: number(reached.value) if reached else None for name, reached in controls.items()},
            "over_controls": {name: _json(margin) for name in NAMES if (margin := self.over(name))},
            "control_draws": {
                name: [number(draw.value) for draw in self.drawn(name)] for name in WEIGHTS if name in self.controls
            },
            "control_intervals": {name: [number(c.low), number(c.high)] for name, c in controls.items() if c},
            "attributes": {key: value for key, value in self.data.attrs.items() if is_plain(value)},
        }

    def table(self, facts: str = "") -> Details:
        """A row for each tap: depth, score, interval, and what the measure gives beside; `facts` stand below."""
        return tap_table(self.data, self.lines, self.beside, facts)

    def figure(self) -> ProfileFigure:
        """Figure that `plot` draws, as arrays."""
        depth, score, low, high = (self.data[key].values for key in ("depth", "score", "low", "high"))
        chosen = (self.chosen_tap, self.score.value) if self.chosen_tap is not None and self.score is not None else None
        return ProfileFigure(
            self.measure,
            str(self.data.attrs.get("score_name", self.measure)),
            self.is_probe,
            taps=self.taps,
            depth=depth,
            score=score,
            low=low,
            high=high,
            output=(self.output_tap, self.output.value),
            chosen=chosen,
            lines=self.lines,
            heads=self.data["by_head"].transpose("tap", "head").values if "by_head" in self.data else None,
            controls=tuple(self._control_curve(name) for name in self.controls),
        )

    def _control_curve(self, name: str) -> ControlCurve:
        data = self.controls[name]
        taps, values = [str(tap) for tap in data["tap"].values], data["score"].values
        if name in INPUTS:
            # Without the encoder's own taps it has one number, drawn as a level.
            reached = self.control(name)
            taps, values = self.taps, np.full(len(self.taps), reached.value if reached else math.nan)
        return ControlCurve(in_words(name), NAMES.index(name), taps, values)

    def plot(self) -> go.Figure:
        """The profile as a plotly figure: score with its band over the taps, controls beside it."""
        from diagnostics.report.plots import StillFigure, draw

        return StillFigure(draw(self.figure()))

    def __str__(self) -> str:
        """The profile on a line: the best tap against the output, or the output alone."""
        score = nowrap(self.data.attrs.get("score_name", self.measure))
        output = f"output {self.output_tap} {format_interval(self.output, SIGNIFICANT)}"
        if self.score is None:
            return f"{self.name} at {len(self.taps)} taps: {output}"
        chosen = f"use {self.chosen_tap} {format_interval(self.score, SIGNIFICANT)}"
        return f"{self.name} ({score}) at {len(self.taps)} taps: {chosen}, {output}; {self.reading}"

    def __repr__(self) -> str:
        return f"<Profile {self}>"

    def _repr_html_(self) -> str:
        from diagnostics.report.html import page_tables

        return page_tables(note(self.name, str(self), self.table().table))


def _reads_first(measure: str) -> bool:
    """True for the measure that is listed first of those that read its kinds of targets."""
    kinds = CATALOGUE.get(measure, {}).get("kinds", ())
    first = (next(name for name, row in CATALOGUE.items() if kind in row["kinds"]) for kind in kinds)
    return bool(kinds) and all(name == measure for name in first)


def _json(interval: Interval | None) -> dict[str, float | None] | None:
    return {key: number(end) for key, end in vars(interval).items()} if interval else None

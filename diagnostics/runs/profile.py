"""A profile: one measure as a function of depth, with its uncertainty and its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from diagnostics.errors import enumerated
from diagnostics.measures.result import read_interval
from diagnostics.measures.statistics import Interval, carried_by_few
from diagnostics.report.figures import ControlCurve, ProfileFigure
from diagnostics.report.numbers import SIGNIFICANT, format_interval, unbroken
from diagnostics.runs.controls.kinds import INPUTS, NAMES, control_of

if TYPE_CHECKING:
    import plotly.graph_objects as go


# A control that reaches this share of the best score is named even where the encoder is shown to beat it: what fresh
# weights solve almost as well says little about training.
NEAR = 0.9


CUT = "the interval of a score never exceeds 1"
INTERVALS = f"95 % intervals over independent units; {CUT}"
"""What the intervals of scores are, as terminal and report say it; `statistics.profile_intervals` makes them."""

FEW = 10
"""Independent units, below which a bootstrap interval is too narrow to be believed."""
FEW_WITH_TOKENS = 20
"""Samples with tokens, below which what is read of tokens says little of other samples."""


CHANCE = ("chance", "commonest")
"""Reference lines that say what knowing nothing reaches."""

HEAVY = 0.45
"""Share of the loss that, carried by a twentieth of the test units, says that its tails are heavy."""


@dataclass(frozen=True)
class Profile:
    """One measure (of one target) at every tap.

    `data` is the `xarray.Dataset` that the run stores: `score`, `low`, `high` over `tap`, and attributes that state n,
    pooling, centring, functional and seed. `controls` holds the same for each control encoder (baseline).

    Examples:
        >>> import diagnostics as dx
        >>> profile = dx.open_run("runs/with-controls").profile("linear_probe/hidden_z")
        >>> print(profile)
        linear_probe/hidden_z (R2) at 2 taps: best tap blocks.1 0.914 [0.853, 0.961],
        output norm 0.594 [0.167, 0.837]; hidden by the output
        >>> print(profile.at("blocks.1"), profile.hidden_gap)
        0.914 [0.853, 0.961] 0.320 [0.081, 0.726]
        >>> round(profile.depth_of("blocks.1"), 2)
        0.33

        What the encoder reaches without its training, and by how much the best tap beats that:

        >>> print(profile.control("fresh_weights"), profile.over("fresh_weights"))
        0.583 [0.354, 0.739] 0.331 [0.189, 0.528]
        >>> len(profile.drawn("fresh_weights")), profile.spread("fresh_weights")
        (1, None)
        >>> profile.plot().write_html("hidden_z.html")
        >>> profile.figure().taps, profile.to_json()["best_tap"]
        (['blocks.1', 'norm'], 'blocks.1')
    """

    measure: str
    target: str | None
    data: xr.Dataset
    controls: Mapping[str, xr.Dataset]
    """Of a control with several draws, the one that is best on val (the first of a measure that chooses no tap)."""
    draws: Mapping[str, Sequence[xr.Dataset]] = field(default_factory=dict[str, Sequence[xr.Dataset]])
    """All draws of each control."""

    @classmethod
    def of(cls, measure: str, target: str | None, data: xr.Dataset, controls: Mapping[str, xr.Dataset]) -> Profile:
        """From the results of controls by name, those of several draws as `fresh_weights.2`."""
        draws: dict[str, list[xr.Dataset]] = {}
        for name, other in controls.items():
            draws.setdefault(control_of(name), []).append(other)
        return cls(measure, target, data, {name: max(theirs, key=_on_val) for name, theirs in draws.items()}, draws)

    @property
    def name(self) -> str:
        """`measure/target`, or the measure alone."""
        return f"{self.measure}/{self.target}" if self.target else self.measure

    @property
    def taps(self) -> list[str]:
        """Tap names in order of execution."""
        return [str(tap) for tap in self.data["tap"].values]

    @property
    def family(self) -> str:
        """The family of the measure or of its target."""
        return self.data.attrs["family"]

    @property
    def is_probe(self) -> bool:
        """Whether something was fitted, chosen on val and read on test."""
        return "loss" in self.data

    @property
    def label(self) -> str:
        """The target and what was scored; also by which probe, where that is not the linear one."""
        probe = "" if self.measure == "linear_probe" or not self.target else f"{unbroken(self.measure)} "
        return f"{unbroken(self.target or self.measure)} ({probe}{self.data.attrs['score_name']})"

    @property
    def lines(self) -> dict[str, np.ndarray]:
        """Reference lines: name -> [tap], as `uniform` for what uniform attention would give."""
        lines = {name: data.values for name, data in self._variables().items() if name.startswith("line_")}
        return {name.removeprefix("line_").replace("_", " "): values for name, values in lines.items()}

    @property
    def beside(self) -> dict[str, np.ndarray]:
        """Numbers beside the score, name -> [tap]."""
        numeric = {name: data.values for name, data in self._variables().items() if data.dtype.kind in "fiu"}
        known = ("score", "low", "high", "val_score")
        return {name: v for name, v in numeric.items() if name not in known and not name.startswith("line_")}

    def _variables(self) -> dict[str, xr.DataArray]:
        return {str(name): data for name, data in self.data.data_vars.items() if data.dims == ("tap",)}

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither way is better by itself."""
        return {"yes": True, "no": False}.get(self.data.attrs["higher_is_better"])

    @property
    def best_tap(self) -> str | None:
        """The tap with the best score on val; None where neither way is better."""
        return self.data.attrs.get("best_tap")

    @property
    def best(self) -> Interval | None:
        """The best tap's score on test."""
        return self._interval("best_score")

    @property
    def output_tap(self) -> str:
        """The tap that the encoder's makers hand to users."""
        return self.data.attrs["output_tap"]

    @property
    def output(self) -> Interval:
        """The output tap's value."""
        return self.at(self.output_tap)

    def at(self, tap: str) -> Interval:
        """The value at one of the taps."""
        row = self.data.sel(tap=tap)
        return Interval(*(float(row[key]) for key in ("score", "low", "high")))

    @property
    def hidden_gap(self) -> Interval | None:
        """By how much the best tap beats the output tap on test, paired over units."""
        return self._interval("hidden_gap")

    def depth_of(self, tap: str) -> float:
        """Depth of one of the taps."""
        return float(self.data["depth"].sel(tap=tap))

    def control(self, name: str) -> Interval | None:
        """What a control reaches: its own best tap's score on test, or its value at its output tap."""
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
        return other.best if self.best_tap is not None else other.output

    @property
    def few(self) -> str:
        """How few independent units a score rests on, in words; nothing where there are enough for its interval."""
        counts = {"test": self.data.sizes.get("unit", 0), "val": int(self.data.attrs.get("units_val", 0))}
        few = [f"{n} {split} units" for split, n in counts.items() if 0 < n < FEW]
        return f"only {' and '.join(few)}: neither the choice of tap nor an interval means much" if few else ""

    @property
    def heavy(self) -> str:
        """How few test units carry most of what a score without lower bound is made of, in words; nothing where many do."""
        if self.best_tap is None or self.data.attrs["score_name"] not in ("R2", "skill"):
            return ""
        units = self.data.transpose("tap", "unit", ...)
        taps = dict.fromkeys((self.best_tap, self.output_tap))
        amounts = {f"the loss at {tap}": units["loss"].sel(tap=tap).values for tap in taps}
        amounts["the reference loss"] = units["reference_loss"].sel(tap=self.best_tap).values
        carried = {name: carried_by_few(values) for name, values in amounts.items()}
        name, (few, share) = max(carried.items(), key=lambda item: np.nan_to_num(item[1][1]))
        return (
            f"{few} of {self.data.sizes['unit']} test units carry {share:.0%} of {name} in {self.name}: its intervals may be too "
            "narrow, since these few dominate"
            if share > HEAVY
            else ""
        )

    @property
    def token_samples(self) -> int:
        """The samples whose tokens a value rests on; of one that reads no tokens `FEW_WITH_TOKENS`."""
        return int(self.data.attrs.get("token_samples", FEW_WITH_TOKENS))

    @property
    def sparse(self) -> str:
        """How few samples' tokens a value rests on, in words; nothing where they are enough or where it reads no tokens."""
        n = self.token_samples
        return (
            f"{self.measure} rests on the tokens of only {n} samples: a larger --token-budget or a larger dataset gives more"
            if n < FEW_WITH_TOKENS
            else ""
        )

    @property
    def cautions(self) -> list[str]:
        """Why a value or its interval is not to be believed, each in words."""
        return [caution for caution in (self.few, self.heavy, self.sparse) if caution]

    def _interval(self, key: str) -> Interval | None:
        return read_interval(self.data.attrs, key)

    def over(self, control: str) -> Interval | None:
        """By how much the best tap beats a control's best tap on test, paired over units.

        Of several draws, the margin whose lower bound is smallest: who beats the control beats each of its draws.
        """
        keys = [key.removesuffix("_low") for key in self.data.attrs if key.startswith("over_") and key.endswith("_low")]
        margins = [self._interval(key) for key in keys if control_of(key.removeprefix("over_")) == control]
        return min((m for m in margins if m), key=lambda m: m.low if math.isfinite(m.low) else -math.inf, default=None)

    @property
    def is_readable(self) -> bool:
        """Whether the best tap's score on test is shown to be above 0, above chance, and above the probe of shuffled labels."""
        if self.best is None or not self.best.low > 0.0:
            return False
        if self._zero_is_chance:
            return True
        shuffled = self.over("shuffled_labels")
        return self.best.low > self._chance and (shuffled is None or shuffled.low > 0.0)

    @property
    def _zero_is_chance(self) -> bool:
        """R2 and skill are 0 where nothing is known; what counts right answers is not."""
        return self.data.attrs["score_name"] in ("R2", "skill")

    @property
    def floor(self) -> float:
        """The score of knowing nothing: what the measure states of chance, else 0."""
        return max(self._chance, 0.0)

    @property
    def _chance(self) -> float:
        """What knowing nothing reaches at the best tap, where the measure states it; else -inf."""
        at = self.taps.index(self.best_tap or self.output_tap)
        return max((self.lines[name][at] for name in CHANCE if name in self.lines), default=-math.inf)

    @property
    def is_hidden(self) -> bool:
        """Whether the best tap is shown to hold more than the output does."""
        return self.is_readable and self.hidden_gap is not None and self.hidden_gap.low > 0

    @property
    def rivals(self) -> list[str]:
        """Controls that the best tap is not shown to beat, in words."""
        return [_in_words(name) for name, margin in self._margins.items() if margin and not margin.low > 0.0]

    @property
    def near(self) -> list[str]:
        """Controls of which a draw reaches nearly what the best tap does, in words."""
        level = NEAR * self.best.value if self.best else math.inf
        return [_in_words(name) for name in self._margins if any(drawn.value >= level for drawn in self.drawn(name))]

    @property
    def _margins(self) -> dict[str, Interval | None]:
        """By how much the best tap beats each control that could do as well."""
        # What beats chance beats the shuffled labels. Of maps the place alone may be readable, which shuffled ones keep.
        return {name: self.over(name) for name in NAMES if name != "shuffled_labels" or self._zero_is_chance}

    @property
    def remarks(self) -> list[str]:
        """What stands behind the finding: whether chance was tested, and which controls do as well, or nearly."""
        remarks: list[str] = []
        if not self._zero_is_chance and self.over("shuffled_labels") is None and self._chance == -math.inf:
            remarks.append("chance not tested without the shuffled labels")
        if self.rivals:
            remarks.append(f"not shown to beat {enumerated(self.rivals)}")
        elif self.near:
            remarks.append(f"within {1 - NEAR:.0%} of {enumerated(self.near)}")
        return remarks

    @property
    def reading(self) -> str:
        """What the numbers say, in a few words."""
        if self.best is None or self.hidden_gap is None:
            return ""
        if not self.is_readable:
            return "not shown to be readable at the tap chosen"
        finding = "hidden by the output" if self.is_hidden else "no hidden gap shown"
        if math.isnan(self.hidden_gap.value):
            finding = "the output has no value to compare with"
        return "; ".join([finding, *self.remarks])

    def to_json(self) -> dict[str, Any]:
        """The profile as plain numbers; None for what has no value."""
        from diagnostics.runs.profile_json import profile_json

        return profile_json(self)

    def figure(self) -> ProfileFigure:
        """What `plot` draws, as arrays."""
        depth, score, low, high = (self.data[key].values for key in ("depth", "score", "low", "high"))
        best = (self.best_tap, self.best.value) if self.best_tap is not None and self.best is not None else None
        heads = self.data["by_head"].transpose("tap", "head").values if "by_head" in self.data else None
        return ProfileFigure(
            self.measure, str(self.data.attrs.get("score_name", self.measure)), self.is_probe, self.taps, depth, score, low,
            high, (self.output_tap, self.output.value), best, self.lines, heads,
            tuple(self._control_curve(name) for name in self.controls),
        )  # fmt: skip

    def _control_curve(self, name: str) -> ControlCurve:
        data = self.controls[name]
        taps, values = [str(tap) for tap in data["tap"].values], data["score"].values
        if name in INPUTS:
            # Without the encoder's own taps it has one number, drawn as a level.
            reached = self.control(name)
            taps, values = self.taps, np.full(len(self.taps), reached.value if reached else math.nan)
        return ControlCurve(name.replace("_", " "), NAMES.index(name), taps, values)

    def plot(self) -> go.Figure:
        """The profile as a plotly figure: score with its band over the taps, controls beside it."""
        from diagnostics.report.plots import StillFigure, draw

        return StillFigure(draw(self.figure()))

    def __str__(self) -> str:
        """The profile on a line: the best tap against the output, or the output alone."""
        score = unbroken(self.data.attrs.get("score_name", self.measure))
        output = f"output {self.output_tap} {format_interval(self.output, SIGNIFICANT)}"
        if self.best is None:
            return f"{self.name} at {len(self.taps)} taps: {output}"
        best = f"best tap {self.best_tap} {format_interval(self.best, SIGNIFICANT)}"
        return f"{self.name} ({score}) at {len(self.taps)} taps: {best}, {output}; {self.reading}"

    def __repr__(self) -> str:
        return f"<Profile {self}>"

    def _repr_html_(self) -> str:
        from diagnostics.runs.tables import profile_table

        return profile_table(self)


def first_probes(profiles: Sequence[Profile]) -> dict[str, Profile]:
    """The probe by which a layer is recommended for each target: the first of the run that read it."""
    first: dict[str, Profile] = {}
    for profile in profiles:
        if profile.is_probe and profile.target:
            first.setdefault(profile.target, profile)
    return first


def _in_words(name: str) -> str:
    return name.replace("_", " ")


def _on_val(data: xr.Dataset) -> float:
    """How good its own best tap is on val; the same for all where no tap is chosen."""
    if "val_score" not in data or "best_tap" not in data.attrs:
        return -math.inf
    score = float(data["val_score"].sel(tap=data.attrs["best_tap"]))
    score = -score if data.attrs["higher_is_better"] == "no" else score
    return score if math.isfinite(score) else -math.inf

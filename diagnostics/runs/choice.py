"""Choice of an encoder's tap for another target, and what rules for it would have lost on those measured.

Every rule chooses without test (`measures.regret_rules`), and its regret is read on test. Reading runs loads no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.errors import DiagnosticsError, describe, join_names, refuse_values
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import TINY, common_tap
from diagnostics.measures.regret import Regrets, mean_over_tasks, mean_over_units, noise_floor
from diagnostics.measures.regret_rules import DIRECTIONS, OTHERS, OUTPUT, RANDOM, WITH_LABELS, Evidence
from diagnostics.measures.result import choosing_scores, losses_of, units_fitted
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.registry import Entry, plugin_entries
from diagnostics.report.numbers import format_interval, format_number, number
from diagnostics.report.page import Column, Number, Page, Row, Section, Sentence, Table, left_out_section, nonempty
from diagnostics.runs.results.recommendation import first_probes
from diagnostics.runs.results.run_data import RunData
from diagnostics.runs.run import Run

FEW_TARGETS = 5
"""Targets of an encoder below which its advice says that they are few."""
SETS, LABELS = "tap_set", "label_efficiency"
"""The measures whose sets of taps are readers too, and that choose taps with few labels."""
FLOOR = "noise floor of test"
FREE = "least of the measures without labels", "largest of them"
PUBLISHED = {"best of 3 others": 0.035, RANDOM: 0.051, OUTPUT: 0.067, "second last": 0.049}
"""Regrets in the study of published layers (docs/studies/public-layers), all layers being candidates."""
DEFAULT = (
    "Without a run of the encoder nothing is known to choose better than a random tap. Measure three targets first "
    "(`diagnostics run ENCODER --data DATA`), and name those runs here: in published scores of four text decoders the "
    f"best tap of three other tasks loses {PUBLISHED['best of 3 others']}, a random one {PUBLISHED[RANDOM]}, the "
    f"output {PUBLISHED[OUTPUT]}. Of fixed places the second last tap ({PUBLISHED['second last']}) is a better guess "
    "than the output, and no better than a random one."
)
"""The advice to those who have no run."""


@dataclass(frozen=True)
class Cell:
    """A target that a run of an encoder read.

    The result of its first probe, and by measure the other results of the run without a target or of this one.
    """

    encoder: str
    dataset: str
    result: xr.Dataset
    beside: Mapping[str, xr.Dataset]
    flops: Mapping[str, float] = field(default_factory=dict[str, float])
    """Those of a pass until each tap, where the run has them."""

    @property
    def target(self) -> str:
        """The target's name."""
        return str(self.result.attrs[attribute.TARGET])

    @property
    def task(self) -> tuple[str, str]:
        """The data and the target on which all encoders were measured."""
        return self.dataset, self.target

    @cached_property
    def taps(self) -> list[str]:
        """Tap names in order of execution."""
        return [str(tap) for tap in self.result["tap"].values]

    @property
    def used(self) -> int:
        """Index of the tap that is recommended."""
        return self.taps.index(self.result.attrs[attribute.CHOSEN_TAP])

    @cached_property
    def candidates(self) -> list[int]:
        """Indices of the taps that a rule may take."""
        depth, output = self.result["depth"].values, self.taps.index(self.result.attrs[attribute.OUTPUT_TAP])
        known = np.isfinite(choosing_scores(self.result)) & np.isfinite(losses_of(self.result, "unit").scores)
        return np.flatnonzero(known & (depth <= depth[output])).tolist()

    @cached_property
    def relative(self) -> dict[str, float]:
        """The loss of each candidate by what chooses, relative to their mean."""
        lost = 1.0 - choosing_scores(self.result)[self.candidates]
        return self._named(lost / max(float(lost.mean()), TINY))

    def _named(self, values: np.ndarray) -> dict[str, float]:
        return {self.taps[i]: float(value) for i, value in zip(self.candidates, values, strict=True)}

    def evidence(self, cells: Sequence[Cell]) -> Evidence:
        """Evidence that a rule may look at; `cells`: all of them, from which the encoder's other targets come."""
        measured = {
            name: dict(zip(map(str, data["tap"].values), map(float, data["score"].values), strict=True))
            for name, data in self.beside.items()
            if name in DIRECTIONS | WITH_LABELS or not data.attrs[attribute.TARGET]
            if data["score"].dims == ("tap",)
        }
        # Another draw of the same data may have trained on what is test here.
        others = [
            cell for cell in cells if cell.encoder == self.encoder and cell.data_and_target != self.data_and_target
        ]
        return Evidence(
            taps=[self.taps[i] for i in self.candidates],
            output=str(self.result.attrs[attribute.OUTPUT_TAP]),
            depth=dict(zip(self.taps, map(float, self.result["depth"].values), strict=True)),
            val=self._named(self.result["val_score"].values[self.candidates]),
            others=[cell.relative for cell in others],
            measured=measured,
            by_labels=self.by_labels,
            sets=self.sets,
        )

    @property
    def data_and_target(self) -> tuple[str, str]:
        """The task without the options of its data."""
        return self.dataset.partition("?")[0], self.target

    @property
    def by_labels(self) -> dict[int, dict[str, float]]:
        """Number of labels -> the share of draws in which each tap is the one to use with so many."""
        found = self.beside.get(LABELS)
        if found is None or [str(tap) for tap in found["tap"].values] != self.taps:
            return {}
        shares = zip(found["labels"].values, found["chosen"].values, strict=True)
        return {int(count): dict(zip(self.taps, map(float, each), strict=True)) for count, each in shares}

    @cached_property
    def sets(self) -> list[str]:
        """Names of the tap sets that were read on the same test units."""
        found = self.beside.get(SETS)
        if found is None or found.attrs.get("tokens") != self.result.attrs.get("tokens"):
            return []
        same = np.array_equal(found["unit"].values, self.result["unit"].values)
        return [str(name) for name in found["set"].values] if same else []

    @cached_property
    def test(self) -> Losses:
        """The losses on test of all taps, and then of the tap sets."""
        own = losses_of(self.result, "unit")
        if not self.sets:
            return own
        more = (self.beside[SETS][name].transpose("set", "unit", ...).values for name in ("set_loss", "set_reference"))
        loss, reference = (np.concatenate(each) for each in zip((own.loss, own.reference), more, strict=True))
        return Losses(loss, reference, own.counts)

    def shares(self, chosen: Any) -> np.ndarray:
        """Frequency with which a rule takes each tap and each tap set, from what it returned.

        Raises where that is neither a candidate nor shares of candidates.
        """
        by_tap = {chosen: 1.0} if isinstance(chosen, str) else dict(chosen)
        names = {*(self.taps[i] for i in self.candidates), *self.sets}
        by_tap = {tap: share for tap, share in by_tap.items() if share}
        if not by_tap.keys() <= names or not math.isclose(sum(by_tap.values()), 1.0, abs_tol=1e-6):
            raise DiagnosticsError(
                f"it returns {chosen!r:.80}: return the name of a candidate, or shares of them that add up to 1.",
                code="bad-value",
            )
        return np.array([by_tap.get(tap, 0.0) for tap in [*self.taps, *self.sets]])


def cells_of(run: RunData, encoder: str) -> list[Cell]:
    """The targets of a run that have a tap to use; raises where there is none, and where one tap alone was read."""
    profiles = run.profiles()
    cells: list[Cell] = []
    for target, profile in first_probes(profiles).items():
        if profile.chosen_tap:
            beside = {p.measure: p.data for p in profiles if p.target in (None, target) and p is not profile}
            flops = run.store.attrs.get("flops", {})
            cells.append(Cell(encoder, run.dataset, profile.data, beside, flops))
    refuse_values(
        (
            not cells,
            f"{run.path} has no target with a tap to use: run it with a probe on a dataset with targets.",
            "no-target",
        ),
        (
            all(len(cell.candidates) < 2 for cell in cells),
            f"{run.path} has one tap alone up to its output, and nothing to choose: run with more --taps.",
            "too-few",
        ),
    )
    return [cell for cell in cells if len(cell.candidates) > 1]


@dataclass(frozen=True)
class RuleRegret:
    """Loss of a rule: the mean over `cells` targets, with its interval over their units, and over tasks and encoders.

    `labels`: of the target, which it takes. `depth`: of the taps that it takes, the share of the trunk's pass that they
    cost. `flops`: of a sample up to them; NaN where a run lacks them.
    `share`: the regret as a share of the output's on the same targets; None where that is not above 0.
    """

    rule: str
    labels: str
    depth: float
    flops: float
    cells: int
    regret: Interval
    over_tasks: Interval
    share: float | None


@dataclass(frozen=True)
class Advice:
    """The tap to use of an encoder for another target, and what such advice lost.

    It lost that on those measured, each from the others; None where there are no others.
    """

    encoder: str
    runs: int
    targets: int
    tap: str
    regret: RuleRegret | None
    beside: Mapping[str, float]
    """Mean regret of a random tap, of the output, and of the measures without labels the least and the largest."""

    @property
    def expected(self) -> Interval | None:
        """The regret on another target, as an interval; None where there are no other targets.

        It lies between the farther ends of both intervals, since that over tasks does not hold what the targets of one
        dataset owe to its samples.
        """
        if self.regret is None:
            return None
        units, tasks = self.regret.regret, self.regret.over_tasks
        return Interval(units.value, float(np.fmin(units.low, tasks.low)), float(np.fmax(units.high, tasks.high)))

    def __str__(self) -> str:
        runs, targets = (f"{n} {what}{'s' * (n > 1)}" for n, what in ((self.runs, "run"), (self.targets, "target")))
        text = f"{self.encoder} ({runs}, {targets}): for another target use {self.tap}"
        if self.expected is None:
            return f"{text}; no other target of this encoder says what that may cost: name runs on other data."
        few = f", of few targets ({self.targets})" if self.targets < FEW_TARGETS else ""
        others = join_names([f"{name} {format_number(value)}" for name, value in self.beside.items()])
        return f"{text}; expected regret {format_interval(self.expected)}{few}; in its place {others}."


@dataclass(frozen=True)
class Choice:
    """The regret of each rule on the targets of some runs, and an advice for each encoder.

    `floor`: the standard error of a difference of two taps on test, mean over targets: what equally good taps would
    show. `left_out`: rules that gave no tap for any target -> why.

    Examples:
        >>> import diagnostics as dx
        >>> choice = dx.choose(["runs/forecast", "runs/jepa"])
        >>> [advice.tap for advice in choice.advice]
        ['blocks.4', 'norm']
        >>> sorted(choice.to_json())
        ['advice', 'floor', 'left_out', 'rules', 'sentence']
        >>> round(choice.regret("output").regret.value, 2)
        0.05
    """

    rules: tuple[RuleRegret, ...]
    advice: tuple[Advice, ...]
    floor: float
    left_out: Mapping[str, str]

    def regret(self, rule: str) -> RuleRegret:
        """Regret of one of the rules."""
        return next(each for each in self.rules if each.rule == rule)

    def __str__(self) -> str:
        return "\n".join(map(str, self.advice)) if self.advice else DEFAULT

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; None for what has no value."""

        def plain(interval: Interval) -> dict[str, float | None]:
            return {end: number(value) for end, value in vars(interval).items()}

        rules = [
            {
                **vars(each),
                "depth": number(each.depth),
                "flops": number(each.flops),
                "regret": plain(each.regret),
                "over_tasks": plain(each.over_tasks),
            }
            for each in self.rules
        ]
        advice = [
            {
                **vars(each),
                "regret": each.regret and each.regret.rule,
                "beside": dict(each.beside),
                "sentence": str(each),
            }
            for each in self.advice
        ]
        floor = number(self.floor)
        return {
            "rules": rules,
            "advice": advice,
            "floor": floor,
            "left_out": dict(self.left_out),
            "sentence": str(self),
        }

    @property
    def targets(self) -> int:
        """Number of targets that the runs read."""
        return sum(each.targets for each in self.advice)

    @property
    def page(self) -> Page:
        """As a page: the advice, the rules, and which are left out."""
        lead = [Sentence(line) for line in str(self).split("\n")]
        if not self.rules:
            return Page("", tuple(lead[:-1]), (), (), closing=tuple(lead[-1:]))
        names = ("rule", "labels", "depth", "FLOPs", "targets", "regret", "over tasks", "share")
        rows = [
            Row(
                (
                    each.rule,
                    each.labels,
                    format_number(each.depth, ".2f"),
                    format_number(each.flops, ".3g"),
                    str(each.cells),
                    Number(each.regret, signed=True),
                    Number(each.over_tasks, signed=True),
                    "-" if each.share is None else f"{each.share:.0%}",
                )
            )
            for each in self.rules
        ]
        floor = Number(Interval(self.floor, math.nan, math.nan))
        rows.append(Row((FLOOR, "", "", "", str(self.targets), floor, "", "")))
        said = (
            "Regret: the test score of the recommended tap minus that of the rule's tap. Every rule chose without "
            "test; 95 % intervals over units, and over tasks and three or more encoders. Share: of the output's "
            "regret. Depth: the part of the pass that the taps cost."
        )
        sections = nonempty(
            Section("Rules", "rules", (Table(tuple(map(Column, names)), tuple(rows)),)), left_out_section(self.left_out)
        )
        return Page("", tuple(lead), sections, (), closing=(Sentence(said, "quiet"),))

    def _repr_html_(self) -> str:
        from diagnostics.report.html import page_tables

        return page_tables(self.page)


def choose(runs: Run | str | PurePath | Sequence[Run | str | PurePath], seed: int = 0) -> Choice:
    """The tap to use of an encoder for another target, from runs of it, and what each rule would have lost on theirs.

    Rules of plugins count too. One whose measure a run lacks is left out with its reason, as is one that fails.

    Parameters
    ----------
    runs: finished runs or their folders; without any, the advice is that of a study of published scores.
    seed: of the resamples.

    Raises DiagnosticsError where a run has no target or one tap alone, and where runs of several encoders share no
    target.

    Examples:
        >>> import diagnostics as dx
        >>> [advice.tap for advice in dx.choose("runs/forecast").advice]
        ['blocks.4']
    """
    each = [runs] if isinstance(runs, Run | str | PurePath) else list(runs)
    opened = [run if isinstance(run, Run) else Run(run) for run in each]
    if not opened:
        return Choice((), (), math.nan, {})
    names = _encoder_names(opened)
    cells = [cell for run, name in zip(opened, names, strict=True) for cell in cells_of(run, name)]
    _check_tasks(cells)
    return judge(cells, {name: entry for name, (_, entry) in plugin_entries("rule").items()}, Counter(names), seed)


def _encoder_names(runs: Sequence[RunData]) -> list[str]:
    """The name of each run's encoder, with a number where others of that name have other weights."""
    keys = [(run.encoder_name, *(run.store.identity[part] for part in ("weights", "configuration"))) for run in runs]
    alike = {name: list(dict.fromkeys(key for key in keys if key[0] == name)) for name, *_ in keys}
    return [key[0] if len(alike[key[0]]) == 1 else f"{key[0]} ({alike[key[0]].index(key) + 1})" for key in keys]


def _check_tasks(cells: Sequence[Cell]) -> None:
    """Raise where encoders cannot be told from tasks, and where a cell is there twice."""
    by_encoder: dict[str, set[tuple[str, str]]] = {}
    for cell in cells:
        known = by_encoder.setdefault(cell.encoder, set())
        if cell.task in known:
            raise DiagnosticsError(
                f"Two runs of {cell.encoder} measure {cell.target} of {cell.dataset}: name one of them.",
                code="duplicate",
            )
        known.add(cell.task)
    if len(by_encoder) > 1 and not set.intersection(*by_encoder.values()):
        raise DiagnosticsError(
            f"The runs of {join_names(by_encoder)} share no target: name runs of them on one dataset, or of one "
            f"encoder.",
            code="not-comparable",
        )


def judge(cells: Sequence[Cell], rules: Mapping[str, Entry], runs: Mapping[str, int], seed: int = 0) -> Choice:
    """The regret of each rule on all cells; `runs`: how many there are of each encoder."""
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    draws: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    reasons: dict[str, str] = {}
    floors: list[float] = []
    for i, cell in enumerate(cells):
        evidence = cell.evidence(cells)
        # Sets are as deep as the output, which is in that of all.
        names = [*cell.taps, *[str(cell.result.attrs[attribute.OUTPUT_TAP])] * len(cell.sets)]
        depths = np.append(cell.result["depth"].values, np.ones(len(cell.sets)))
        costs = np.stack([depths, [cell.flops.get(name, math.nan) for name in names]])
        regrets = Regrets(cell.test, cell.used, units_fitted(cell.result), seed + datasets.index(cell.dataset))
        floors.append(noise_floor(cell.test, cell.used, cell.candidates))
        for name, rule in rules.items():
            try:
                shares = cell.shares(rule(evidence))
            except DiagnosticsError as error:
                reasons[name] = str(error)
            except (Exception, SystemExit) as error:
                reasons[name] = f"it failed: {describe(error)}."
            else:
                draws.setdefault(name, {})[i] = regrets.of(shares), costs[:, shares > 0] @ shares[shares > 0]

    def regret_of(name: str, some: Sequence[int]) -> RuleRegret:
        found = [draws[name][i] for i in some]
        values = np.full((len(runs), len(tasks)), np.nan)
        for i, (drawn, _) in zip(some, found, strict=True):
            values[list(runs).index(cells[i].encoder), tasks.index(cells[i].task)] = drawn[0]
        units = min(cells[i].result.sizes["unit"] for i in some)
        regret = mean_over_units([drawn for drawn, _ in found], units)
        lost = [draws[OUTPUT][i][0] for i in some if i in draws.get(OUTPUT, {})]
        output = mean_over_units(lost, units) if len(lost) == len(some) else None
        share = regret.value / output.value if output and output.low > 0 else None
        depth, flops = np.mean([cost for _, cost in found], axis=0).tolist()
        return RuleRegret(
            name,
            rules[name].labels,
            depth,
            flops,
            cells=len(some),
            regret=regret,
            over_tasks=mean_over_tasks(values, of_data),
            share=share,
        )

    tasks = list(dict.fromkeys(cell.task for cell in cells))
    # Targets of one dataset have its samples in common, whatever its options.
    of_data = [dataset.partition("?")[0] for dataset, _ in tasks]
    judged = tuple(regret_of(name, list(of)) for name in rules if (of := draws.get(name)))
    advice: list[Advice] = []
    for encoder, count in runs.items():
        own = [i for i, cell in enumerate(cells) if cell.encoder == encoder]
        expected = [i for i in own if i in draws.get(OTHERS, {})]
        free = [regret_of(name, some).regret.value for name in DIRECTIONS if (some := _among(own, draws.get(name)))]
        beside = {
            name: regret_of(name, own).regret.value
            for name in (RANDOM, OUTPUT)
            if len(_among(own, draws.get(name))) == len(own)
        }
        if free:
            beside |= {FREE[0]: min(free), FREE[1]: max(free)}
        regret = regret_of(OTHERS, expected) if expected else None
        advice.append(Advice(encoder, count, len(own), _tap_for_all([cells[i] for i in own]), regret, beside))
    left_out = {name: reason for name, reason in reasons.items() if name not in draws}
    if lacking := list(dict.fromkeys(cell.encoder for cell in cells if not cell.flops)):
        left_out["FLOPs"] = f"those of {join_names(lacking)} are not known."
    return Choice(judged, tuple(advice), float(np.nanmean(floors)), left_out)


def _among(cells: Sequence[int], known: Mapping[int, Any] | None) -> list[int]:
    return [i for i in cells if i in (known or {})]


def _tap_for_all(cells: Sequence[Cell]) -> str:
    """The one tap for all targets of an encoder: those that were read at the same taps as the most."""
    common = Counter(tuple(cell.taps) for cell in cells).most_common(1)[0][0]
    same = [cell for cell in cells if tuple(cell.taps) == common]
    at = common_tap([cell.result for cell in same])
    return common[at] if at is not None else common[same[0].used]

"""Figures as arrays, independent of the plotting library; `diagnostics.report.plots` draws them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict


@dataclass(frozen=True, eq=False)
class ControlCurve:
    """What a control encoder (baseline) reaches: values [tap] at `taps`.

    `style`: number of its colour and dashes, the same in every figure of a page.
    """

    name: str
    style: int
    taps: list[str]
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class ProfileFigure:
    """One measure by tap, in order of execution: score with its interval, [tap] each; reference lines, [tap] each.

    is_score: whether it is the score of a probe, which is at most 1 and may have no floor. heads: [tap, head] or None.
    chosen, output: the tap to use, and the encoder's output, each with its value; NaN or None is not marked.
    """

    name: str
    axis: str
    is_score: bool
    taps: list[str]
    depth: np.ndarray
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    output: tuple[str, float]
    chosen: tuple[str, float] | None = None
    lines: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    heads: np.ndarray | None = None
    controls: tuple[ControlCurve, ...] = ()


@dataclass(frozen=True, eq=False)
class MapFigure:
    """A similarity of pairs of taps, [row, column]; `distance`: whether smaller is more alike.

    beside: further numbers of each pair, as their p. titles: of the rows and of the columns.
    """

    name: str
    matrix: np.ndarray
    rows: list[str]
    columns: list[str]
    distance: bool
    beside: Mapping[str, np.ndarray]
    titles: tuple[str, str] = ("", "")


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """Scores of targets by tap, [target, tap], in order of execution, drawn relative to the best of each row.

    floor: [target], what knowing nothing reaches. chosen: the tap to use, by target; None of one that has none.
    anchors: of the section that shows more of each target.
    """

    targets: list[str]
    taps: list[str]
    depth: np.ndarray
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    verdicts: list[Verdict]
    chosen: list[str | None]
    output: str
    anchors: list[str]


MarkKind = Literal["chosen tap", "output"]


@dataclass(frozen=True)
class Mark:
    """A tap marked on a curve."""

    kind: MarkKind
    tap: str
    depth: float
    value: float


@dataclass(frozen=True, eq=False)
class DepthCurve:
    """One encoder by relative depth: score with its interval, [depth] each."""

    name: str
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    marks: tuple[Mark, ...]


@dataclass(frozen=True, eq=False)
class CurvesFigure:
    """One measure of several encoders by relative depth, [depth]; the curves of a group are seeds of one training."""

    axis: str
    is_score: bool
    depths: np.ndarray
    groups: Mapping[str, tuple[DepthCurve, ...]]


@dataclass(frozen=True)
class SharesFigure:
    """Shares as a matrix, [row, column]; None where there is none. Colours span from `least` to `most`."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shares: tuple[tuple[Interval | None, ...], ...]
    least: float
    most: float


@dataclass(frozen=True, eq=False)
class StepsFigure:
    """One measure while a model trains, [tap, step], taps in order of execution; NaN where there is no value.

    chosen: the tap to use at each step, "" where none is. output: the encoder's output.
    """

    name: str
    steps: list[int]
    taps: list[str]
    depth: np.ndarray
    score: np.ndarray
    chosen: list[str]
    output: str


Figure = ProfileFigure | ScoreMap | MapFigure | CurvesFigure | SharesFigure | StepsFigure

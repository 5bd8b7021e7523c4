"""A page as data: headings, sentences, tables and figures, which renderers (`html`, `terminal`) lay out.

A page is read in two lengths. A terminal shows it brief, a report in full; what belongs to one of them alone says so
(`only`). No-break spaces hold together what a line must not break (`numbers.nowrap`); text is plain, and renderers
escape it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from diagnostics.measures.result import taps_by_reason
from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.escaping import printable
from diagnostics.report.numbers import NO_BREAK, SCORE, format_compact, format_interval, format_number, nowrap

if TYPE_CHECKING:
    import xarray as xr

# Figures as arrays, independent of the plotting library; `diagnostics.report.plots` draws them.


@dataclass(frozen=True, eq=False)
class ControlCurve:
    """The values of a control encoder (baseline) [tap] at `taps`.

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
    lines: Mapping[str, np.ndarray] = field(default_factory=dict[str, Any])
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

    floor: [target], what knowing nothing reaches. unread: which targets have next to nothing more at any tap.
    chosen: the tap to use, by target; None of one that has none.
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
    unread: list[bool]
    chosen: list[str | None]
    output: str
    anchors: list[str]


@dataclass(frozen=True, eq=False)
class TaskCurve:
    """A task of an encoder by tap, in order of execution.

    Score on test, and `share` of what the best tap has above knowing nothing, [tap] each.

    inside: which taps are not shown to be worse than the one to use, bool [tap]. chosen, output: the places of the tap
    to use, None without one, and of the encoder's output.
    """

    name: str
    family: str
    taps: list[str]
    depth: np.ndarray
    score: np.ndarray
    share: np.ndarray
    inside: np.ndarray
    chosen: int | None
    output: int


@dataclass(frozen=True, eq=False)
class TasksFigure:
    """All tasks of encoders over depth, by the encoder's name."""

    encoders: Mapping[str, tuple[TaskCurve, ...]]

    def __bool__(self) -> bool:
        return bool(self.encoders)


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


Figure = ProfileFigure | ScoreMap | MapFigure | CurvesFigure | SharesFigure | StepsFigure | TasksFigure


T = TypeVar("T")
Length = Literal["brief", "full"]
Tone = Literal["plain", "strong", "small", "quiet", "verdict", "caution"]


@dataclass(frozen=True)
class Sentence:
    """Text that stands by itself. `apart`: whether a blank line stands before it where there are no headings."""

    text: str
    tone: Tone = "plain"
    only: Length | None = None
    apart: bool = False

    def __bool__(self) -> bool:
        return bool(self.text)


@dataclass(frozen=True)
class Note:
    """An item of a list; `name`: what it is about."""

    text: str
    name: str = ""


@dataclass(frozen=True)
class Notes:
    """A list of notes. `lead` stands before each name where there are no headings."""

    notes: tuple[Note, ...]
    tone: Tone = "plain"
    only: Length | None = None
    lead: str = ""

    def __bool__(self) -> bool:
        return bool(self.notes)


@dataclass(frozen=True)
class Number:
    """A cell with a value, its interval, and the smallest and largest of several draws; `mark` stands behind it."""

    interval: Interval | None
    spec: str = SCORE
    signed: bool = False
    draws: tuple[float, float] | None = None
    mark: str = ""

    def text(self, bare: bool = False) -> str:
        """As people read it; `bare`: without the interval."""
        interval = self.interval
        if bare and interval is not None:
            interval = Interval(interval.value, float("nan"), float("nan"))
        text = format_interval(interval, self.spec, signed=self.signed)
        if self.draws:
            smallest, largest = (format_number(value, self.spec) for value in self.draws)
            text += f" ({smallest}{NO_BREAK}to{NO_BREAK}{largest})"
        return f"{text}{NO_BREAK}{self.mark}" if self.mark else text


@dataclass(frozen=True)
class Finding:
    """The finding on a target, in words; `verdict` decides its mark and colour on full pages.

    link: the part of the words that leads to the section `anchor`; "" for none.
    """

    words: str
    verdict: Verdict
    link: str = ""
    anchor: str = ""

    def text(self, bare: bool = False) -> str:
        """The words alone."""
        return self.words

    def __bool__(self) -> bool:
        return bool(self.words)


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file beside the page.

    `path` is relative to the page's folder, "" where there is no such file.
    """

    words: str
    path: str

    def text(self, bare: bool = False) -> str:
        """The words alone."""
        return self.words


@dataclass(frozen=True)
class Findings:
    """A list of findings, on full pages alone."""

    findings: tuple[Finding, ...]
    only: Length = "full"

    def __bool__(self) -> bool:
        return bool(self.findings)


Cell = str | Number | Finding | Link


@dataclass(frozen=True)
class Column:
    """A column by its heading.

    `bare`: a brief page shows its numbers without intervals. `prose`: it holds sentences. `choice`: readers of a table
    that they can sort choose one of its values, of findings one of their verdicts.
    """

    name: str
    only: Length | None = None
    bare: bool = False
    prose: bool = False
    choice: bool = False


@dataclass(frozen=True)
class Row:
    """Cells, one for each column, and the anchor of the section that shows more of it ("" for none).

    `note`: what a brief page says below the row.
    """

    cells: tuple[Cell, ...]
    anchor: str = ""
    only: Length | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows below the names of their columns.

    `grouped`: rows with the same first cell belong together, and it is shown once. `sortable`: readers of a full page
    sort its rows, search them, and choose among the values of some columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    grouped: bool = False
    only: Length | None = None
    sortable: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Details:
    """A table that a reader opens, with notes on its columns; on full pages alone."""

    title: str
    table: Table
    notes: Notes
    only: Length = "full"


@dataclass(frozen=True)
class Legend:
    """Legend that the figures of a section have in common: the lines of controls, by name and number of their style.

    On full pages alone. `band`: whether they have intervals; `chosen`: whether a tap to use is marked; `lines`: whether
    there are reference lines.
    """

    controls: tuple[tuple[str, int], ...]
    band: bool = True
    chosen: bool = True
    lines: bool = True
    only: Length = "full"


@dataclass(frozen=True)
class MapLegend:
    """Meaning of the marks, the colours and the signs of the picture of all targets; `verdicts`: those that it has.

    unread: whether its targets are, of which it may have both kinds.
    """

    verdicts: tuple[Verdict, ...]
    unread: tuple[bool, ...]
    only: Length = "full"


Block = Sentence | Notes | Findings | Table | Details | Legend | MapLegend | Figure


@dataclass(frozen=True)
class Section:
    """Blocks under a heading, and the sections within it. `wide`: whether it needs the whole width of the page.

    A brief page shows neither the heading nor the sections within.
    """

    title: str
    anchor: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()
    wide: bool = True
    label: str = ""
    """Its name in the table of contents, where that is not its title."""

    def __bool__(self) -> bool:
        return bool(self.blocks or self.sections)


@dataclass(frozen=True)
class Page:
    """The whole page: what opens it, its sections, and where its numbers come from (on full pages alone).

    `closing`: with what a brief page ends, below the name of the file that holds the full one.
    """

    title: str
    lead: tuple[Sentence, ...]
    sections: tuple[Section, ...]
    provenance: tuple[tuple[str, str], ...]
    closing: tuple[Block, ...] = ()


def note(title: str, sentence: str, table: Table) -> Page:
    """A page of a sentence and a table, as notebooks show an object."""
    return Page("", (Sentence(sentence),), (Section(title, "shown", (table,)),), ())


def nonempty(*parts: T | None) -> tuple[T, ...]:
    """The blocks, or the sections, that hold anything."""
    return tuple(part for part in parts if part)


_PARTS: dict[str, Any] = {
    part.__name__: part
    for part in (
        Page, Section, Sentence, Notes, Note, Findings, Finding,
        Table, Column, Row, Number, Link, Details, Interval, Verdict,
    )
}  # fmt: skip


def page_values(part: Any) -> Any:
    """A page, or a part of one, as JSON values without its figures and their legends."""
    if isinstance(part, Verdict):
        return {"is": "Verdict", "value": str(part)}
    if is_dataclass(part):
        values = {each.name: page_values(getattr(part, each.name)) for each in fields(part)}
        return {"is": type(part).__name__, **values}
    if isinstance(part, tuple):
        return [page_values(each) for each in part if not isinstance(each, (*get_args(Figure), Legend, MapLegend))]
    return part


def page_of(values: Any) -> Any:
    """The page, or the part of one, that `page_values` gave; its texts as a terminal may show them, whoever wrote them.

    Raises ValueError where they are no page.
    """
    if isinstance(values, list):
        return tuple(page_of(each) for each in values)
    if isinstance(values, dict):
        try:
            return _PARTS[values["is"]](**{name: page_of(each) for name, each in values.items() if name != "is"})
        except (KeyError, TypeError) as error:
            raise ValueError("no part of a page") from error
    return printable(values) if isinstance(values, str) else values


def left_out_section(reasons: Mapping[str, str]) -> Section:
    """The section on what is not there, from name -> reason: each reason once."""
    notes = [
        Note(reason, ", ".join(nowrap(name) for name in names))
        for reason, names in taps_by_reason(reasons.items()).items()
    ]
    return Section("Left out", "skipped", nonempty(Notes(tuple(notes), "quiet", lead="left out: ")))


# A variable over taps and something else is spread over columns up to this many.
MOST_COLUMNS = 12
# Losses of units: a score is their sum, and one out of fold is no score.
_RAW = (
    "loss",
    "reference_loss",
    "val_loss",
    "val_reference",
    "oof_loss",
    "oof_reference",
    "drawn",
    "val_drawn",
    "oof_drawn",
)


def tap_table(
    data: xr.Dataset, lines: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray], facts: str = ""
) -> Details:
    """A result with the taps as rows, its `lines` and the numbers `beside`.

    Also what its columns are, and the facts of how it was computed.
    """
    columns = {name: data[name].values for name in ("depth", "score", "low", "high")}
    columns |= {f"line: {name}": values for name, values in lines.items()}
    if "val_score" in data:
        columns["score on val"] = data["val_score"].values
    columns |= {name.replace("_", " "): values for name, values in beside.items()}
    columns |= _spread(data)
    notes = [
        Note(str(data.attrs[name]), name.replace("_", " "))
        for name in map(str, data.data_vars)
        if name in data.attrs and not name.startswith("line_") and name not in ("score", "low", "high")
    ]
    rows = [
        Row((tap, *map(format_compact, values)))
        for tap, *values in zip(map(str, data["tap"].values), *columns.values(), strict=True)
    ]
    table = Table(tuple(Column(name) for name in ("tap", *columns)), tuple(rows))
    return Details(
        "Numbers at each tap, and how they were computed", table, Notes((*([Note(facts)] if facts else []), *notes))
    )


def _spread(data: xr.Dataset) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, values in data.data_vars.items():
        narrow = values.ndim == 2 and values.dims[0] == "tap" and values.shape[1] <= MOST_COLUMNS
        if not narrow or name in _RAW or values.dtype.kind not in "fiu":
            continue
        other = str(values.dims[1])
        label = str(name).replace("_", " ")
        places = values[other].values if other in values.coords else np.arange(values.shape[1])
        for i, place in enumerate(places):
            # `by_head` names its dimension already.
            at = f"{other} {place}" if label == f"by {other}" else f"{label}, {other} {place}"
            columns[at] = values.values[:, i]
    return columns

"""One page over any number of runs: encoders by targets, and a table of all that readers sort, search and narrow."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diagnostics.activations.place import Location
from diagnostics.errors import DiagnosticsError, join_names
from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.html import write_page
from diagnostics.report.numbers import format_number
from diagnostics.report.page import (
    Cell,
    Column,
    Details,
    Finding,
    Link,
    Note,
    Notes,
    Number,
    Page,
    Row,
    Section,
    Sentence,
    Table,
    nonempty,
)
from diagnostics.runs.controls.kinds import ABOUT
from diagnostics.runs.controls.names import NAMES, in_words
from diagnostics.runs.pages.answer_in_words import MARKS
from diagnostics.runs.results.profile import INTERVALS
from diagnostics.runs.results.recommendation import without_nonlinear
from diagnostics.runs.results.run_data import RunData

NAN = float("nan")


@dataclass(frozen=True)
class Readout:
    """Reading of a target by a probe of a run.

    `data` is the dataset's name and fingerprint; `first`: whether it is the first probe of its target, by which a layer
    is recommended; `test_units`: the independent units (groups) on which its score rests.
    """

    run: Location
    encoder: str
    data: tuple[str, str]
    test_units: int
    label: str
    first: bool
    verdict: Verdict
    reading: str
    tap: str
    depth: float
    score: Interval | None
    output: Interval
    hidden_gap: Interval | None
    controls: Mapping[str, Interval]
    best_control: tuple[str, Interval] | None


def readouts(run: RunData) -> list[Readout]:
    """Readings of targets by all probes of a run."""
    found: list[Readout] = []
    targets: set[str] = set()
    for profile in without_nonlinear(run.profiles()):
        if profile.is_probe and profile.target and profile.chosen_tap:
            found.append(
                Readout(
                    run=run.path,
                    encoder=run.encoder_name,
                    data=(run.dataset, run.record.dataset.fingerprint),
                    test_units=profile.units["test"],
                    label=profile.label,
                    first=profile.target not in targets,
                    verdict=profile.verdict,
                    reading=profile.finding,
                    tap=profile.chosen_tap,
                    depth=profile.depth_of(profile.chosen_tap),
                    score=profile.score,
                    output=profile.output,
                    hidden_gap=profile.hidden_gap,
                    controls={name: reached for name in NAMES if (reached := profile.control(name)) is not None},
                    best_control=profile.best_control,
                )
            )
            targets.add(profile.target)
    return found


def explorer_page(found: Sequence[Readout], left_out: Mapping[str, str], folder: Location) -> Page:
    """The page of what runs read, to lie in `folder`; `left_out` says of other runs why they are not on it."""
    data = list(dict.fromkeys(each.data for each in found))
    runs = list(dict.fromkeys(each.run for each in found))
    verdicts = [each.verdict for each in found if each.first]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts]
    reports = _reports(found, folder)
    return Page(
        title=f"{_count(runs, 'run')} of {_count({each.encoder for each in found}, 'encoder')} on "
        f"{_count(data, 'dataset')}",
        lead=(
            Sentence(
                f"Hidden gaps of the {len(verdicts)} targets that the runs read: {join_names(counts)}.", "verdict"
            ),
            Sentence(
                f"{MARKS}. Each run chose its layer without test and reads every score on test; {INTERVALS}. The "
                f"hidden gap is the best other layer's score minus the output tap's on the same samples. Nothing is "
                f"corrected for the number of rows: the largest of many gaps is larger than it would be alone. Scores "
                f"of different targets or samples are not comparable. The name of an encoder links to the report of "
                f"its run, where there is one."
            ),
        ),
        sections=nonempty(
            Section("All targets", "all", nonempty(_all_rows(found, reports), _controls(found, reports))),
            Section(
                "Encoders by targets",
                "matrices",
                sections=tuple(_matrix(each, i, found, reports) for i, each in enumerate(data)),
            ),
            Section(
                "Left out", "skipped", nonempty(Notes(tuple(Note(why, run) for run, why in left_out.items()), "quiet"))
            ),
        ),
        provenance=(("runs", ", ".join(map(str, runs))),),
    )


def _count(things: Collection[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def explore(runs: Sequence[Location], left_out: Mapping[str, str], path: Location) -> Location:
    """Write the page of finished runs, in the folders given, as one HTML file that links to their reports.

    Raises DiagnosticsError where none of them read a target.
    """
    # One run after another: its results are as large as its taps are many.
    read = {run: readouts(RunData(run)) for run in runs}
    nothing = {str(run): "No probe read a target." for run, found in read.items() if not found}
    found = [each for of_run in read.values() for each in of_run]
    if not found:
        raise DiagnosticsError(
            f"No probe read a target in {join_names(nothing)}, so there is nothing to show: run on data with targets, "
            f"and with a probe among the measures.",
            code="no-target",
        )
    return write_page(explorer_page(found, {**left_out, **nothing}, path.parent), path)


def _all_rows(found: Sequence[Readout], reports: Mapping[Location, Link]) -> Table:
    columns = (
        Column("encoder", choice=True),
        Column("dataset", choice=True),
        Column("target"),
        Column("finding", prose=True, choice=True),
        Column("layer to use"),
        Column("depth"),
        Column("score"),
        Column("output"),
        Column("hidden gap"),
        Column("best control"),
        Column("test units"),
    )
    rows = [
        Row(
            (
                reports[each.run],
                each.data[0],
                each.label,
                Finding(each.reading, each.verdict),
                each.tap,
                Number(Interval(each.depth, NAN, NAN), ".2f"),
                Number(each.score),
                Number(each.output),
                Number(each.hidden_gap, signed=True),
                _best_control(each),
                str(each.test_units),
            )
        )
        for each in found
    ]
    return Table(columns, tuple(rows), sortable=True)


def _best_control(each: Readout) -> Cell:
    if each.best_control is None:
        return "-"
    name, reached = each.best_control
    return Number(Interval(reached.value, NAN, NAN), mark=in_words(name))


def _controls(found: Sequence[Readout], reports: Mapping[Location, Link]) -> Details | None:
    names = [name for name in NAMES if any(name in each.controls for each in found)]
    if not names:
        return None
    columns = ("encoder", "dataset", "target", "score", *(in_words(name) for name in names))
    rows = [
        Row(
            (
                reports[each.run],
                each.data[0],
                each.label,
                Number(each.score),
                *(Number(each.controls.get(name)) for name in names),
            )
        )
        for each in found
    ]
    notes = Notes(tuple(Note(ABOUT[name], in_words(name)) for name in names))
    return Details("Scores of every control", Table(tuple(map(Column, columns)), tuple(rows)), notes)


def _matrix(data: tuple[str, str], number: int, found: Sequence[Readout], reports: Mapping[Location, Link]) -> Section:
    """Encoders by targets of one dataset; of several probes of a target the first."""
    of_data = [each for each in found if each.data == data and each.first]
    labels = list(dict.fromkeys(each.label for each in of_data))
    rows: list[Row] = []
    for run in dict.fromkeys(each.run for each in of_data):
        cells = {each.label: each for each in of_data if each.run == run}
        rows.append(Row((reports[run], *(_brief(cells.get(label)) for label in labels))))
    columns = (Column("encoder"), *(Column(label, prose=True) for label in labels))
    return Section(data[0], f"d{number}", (Table(columns, tuple(rows)),))


def _brief(each: Readout | None) -> Cell:
    """A cell of the matrix: the layer to use with its score, and that of the output."""
    if each is None or each.score is None:
        return "-"
    words = f"{format_number(each.score.value)} at {each.tap}, output {format_number(each.output.value)}"
    return Finding(words, each.verdict)


def _reports(found: Sequence[Readout], folder: Location) -> dict[Location, Link]:
    """The encoder of each run, as a link to its report.

    The run's folder is named too where an encoder has several runs on the same data.
    """
    encoders = {each.run: (each.encoder, each.data) for each in found}
    alike = Counter(encoders.values())
    links: dict[Location, Link] = {}
    for run, known in encoders.items():
        report = run / "report.html"
        here = isinstance(report, Path) and report.is_file() and isinstance(folder, Path)
        path = Path(os.path.relpath(report, folder)).as_posix() if here else ""
        links[run] = Link(f"{known[0]} ({run.name})" if alike[known] > 1 else known[0], path)
    return links

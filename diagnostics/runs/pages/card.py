"""The section for a model card, beside `.eval_results`.

It is Markdown with a picture, that begins with `model-index` metadata.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from diagnostics.activations.place import Location
from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.result import METRIC, SCORE_NAME
from diagnostics.report.escaping import printable
from diagnostics.report.numbers import NO_BREAK
from diagnostics.report.page import (
    Block,
    Cell,
    Column,
    Figure,
    Finding,
    Findings,
    Note,
    Notes,
    Number,
    Page,
    Row,
    ScoreMap,
    Section,
    Sentence,
    Table,
    nonempty,
)
from diagnostics.report.writing import write_whole
from diagnostics.runs.pages.answer_in_words import answer, legend, score_map
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import Recommendation
from diagnostics.runs.results.record import DISTRIBUTION
from diagnostics.runs.results.run_data import RunData

OWN = re.compile(r"---\nmodel-index:\n([- ].*\n)*---\n\n## Which layer to use\n(?!(.*\n)*#)")
"""A card as it was written: a model's own card has other metadata, or other headings too."""


def write_card(run: RunData, path: Location) -> Location:
    """Write the card: Markdown that begins with the metadata, and its picture beside it.

    The picture is an SVG of the same name; `.eval_results/NAME.yaml` stands beside them.

    Raises DiagnosticsError where the name does not end in `.md` or is that of another text, and where no probe read a
    target: there is no layer to name then.
    """
    refuse_values(
        (path.suffix != ".md", f"A card is Markdown: give it a name that ends in .md, not {path.name}."),
        (
            isinstance(path, Path) and path.is_file() and not OWN.match(path.read_text(errors="replace")),
            f"{path} is there, and this command did not write it: give another name, and copy the section from there.",
            "occupied",
        ),
    )
    from diagnostics.report.plots import draw
    from diagnostics.report.plots.still import svg

    picture = path.with_suffix(".svg")
    described = {
        picture.name: f"Scores of {run.encoder_name} on {run.dataset} by layer, each row relative to its best; stars "
        f"mark the layers to use"
    }
    text = f"---\n{model_index(run)}---\n\n{page_markdown(card_page(run), described)}"
    write_whole(picture, svg(draw(card_picture(run))))
    results = path.parent / ".eval_results" / f"{path.stem}.yaml"
    if isinstance(results, Path):
        results.parent.mkdir(exist_ok=True)
    write_whole(results, eval_results(run))
    return write_whole(path, text)


def card_page(run: RunData) -> Page:
    """The card as a page: finding, picture of all targets, a row for each of them, and what the numbers rest on."""
    read = _read(run)
    rows = [
        Row(
            (
                p.label,
                r.tap or "-",
                Number(r.score),
                Number(p.output),
                p.best_tap or "-",
                Number(p.hidden_gap, signed=True),
                Finding(p.reading if p.reading.startswith(r.confidence) else f"{r.confidence}: {p.reading}", p.verdict),
            )
        )
        for p, r in read
    ]
    columns = tuple(
        map(
            Column,
            ("target (score)", "layer to use", "score there", "output", "best other layer", "hidden gap", "how sure"),
        )
    )
    n, units = run.n, max(p.units["test"] for p, _ in read)
    return Page(
        title="Which layer to use",
        lead=nonempty(
            Sentence(
                f"Every layer of {run.encoder_name} was read on {run.dataset}: {n['train'] + n['val']} samples to fit "
                f"probes and to choose with, {n['test']} to "
                f"score{f', of {units} independent units' if units != n['test'] else ''}."
            ),
            *(Sentence(each, "strong" if not i else "plain") for i, each in enumerate(answer(run.profiles()))),
            Sentence(run.untrained, "caution"),
            Sentence(run.record.unrepeatable, "caution"),
            Sentence(run.record.beware, "caution"),
        ),
        sections=(
            Section(
                "",
                "",
                (
                    card_picture(run),
                    Table(columns, tuple(rows)),
                    Sentence(
                        f"{legend([p for p, _ in read])} The hidden gap is the score of the best other layer minus the "
                        f"output's."
                    ),
                ),
            ),
        ),
        provenance=tuple(_provenance(run)),
    )


def card_picture(run: RunData) -> ScoreMap:
    """The picture of the card: which layer holds which target."""
    return score_map([("", profile) for profile, _ in _read(run)])


def model_index(run: RunData) -> str:
    """The scores as YAML that model hubs read: for each target those at the layer to use and at the output."""
    data = run.record.dataset
    lines = ["model-index:", f"- name: {_quote(run.encoder_name)}", "  results:"]
    for profile, recommendation in _read(run):
        name = str(profile.data.attrs[SCORE_NAME])
        metric = profile.data.attrs.get(METRIC, name)
        scores = {f"{name} at the output, {profile.output_tap}": profile.output}
        if recommendation.tap and recommendation.score and not recommendation.at_output:
            scores = {f"{name} at {recommendation.tap}": recommendation.score, **scores}
        lines += [
            "  - task:",
            "      type: feature-extraction",
            f"      name: {_quote(f'{profile.measure} of {profile.target}')}",
            "    dataset:",
            f"      type: {_quote(data.asked or data.name)}",
            f"      name: {_quote(data.name)}",
            "      split: test",
            f"      revision: {_quote(data.fingerprint)}",
            "    metrics:",
        ]
        for label, score in scores.items():
            value = f"{score.value:.4f}" if math.isfinite(score.value) else ".nan"
            lines += [f"    - type: {_quote(metric)}", f"      name: {_quote(label)}", f"      value: {value}"]
    return "\n".join(lines) + "\n"


def eval_results(run: RunData) -> str:
    """The score of each target at the layer to use, as YAML.

    The Hugging Face hub reads it from `.eval_results/`: https://huggingface.co/docs/hub/eval-results.
    """
    data, call = run.record.dataset, run.calls[-1]
    lines: list[str] = []
    for profile, recommendation in _read(run):
        score = recommendation.score if recommendation.tap else None
        if score is None or not math.isfinite(score.value):
            continue
        at = f"{profile.measure}, {profile.data.attrs[SCORE_NAME]} at {recommendation.tap}"
        notes = f"{at}; {profile.output.value:.4f} at the output; {DISTRIBUTION} {call.version}"
        lines += [
            "- dataset:",
            f"    id: {_quote(data.asked or data.name)}",
            f"    task_id: {_quote(recommendation.target)}",
            f"    revision: {_quote(data.fingerprint)}",
            f"  value: {score.value:.4f}",
            f"  date: {_quote(call.created)}",
            f"  notes: {_quote(notes)}",
        ]
    return "\n".join(lines or ["[]"]) + "\n"


def _read(run: RunData) -> list[tuple[Profile, Recommendation]]:
    """The probe that each target is recommended by, with what it recommends."""
    by_name = {(p.measure, p.target): p for p in run.profiles()}
    pairs = [(by_name[r.measure, r.target], r) for r in run.recommendations()]
    if not pairs:
        raise DiagnosticsError(
            f"No probe of {run.path} read a target, so there is no layer to name: run on data with targets, and "
            f"with a probe among the measures.",
            code="no-target",
        )
    return pairs


def _provenance(run: RunData) -> list[tuple[str, str]]:
    record, call = run.record, run.calls[-1]
    command = (
        call.command
        or f"in Python, {record.encoder.asked or record.encoder.name} on {record.dataset.asked or record.dataset.name}"
    )
    return [
        ("measured by", f"{DISTRIBUTION} {call.version}, {call.created[:10]}, seed {call.seed}"),
        ("command", command),
        ("weights", str(run.store.identity["weights"])),
        ("data", record.dataset.fingerprint),
    ]


def _quote(text: str) -> str:
    """A text as a scalar of YAML, in which JSON's are all valid.

    Without what HTML would read as a tag, since pages show the card.
    """
    return json.dumps(printable(text), ensure_ascii=False).translate(
        {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&"}
    )


# What Markdown takes for markup within a line (a dollar begins a formula for some readers), and what begins a list or a
# heading.
_MARKUP = re.compile(r"[\\`*_\[\]|~$]")
_OPENING = re.compile(r"^(?=[-+#=])|^\d+(?=[.)] )")
_TONES = {"strong": "**", "verdict": "**", "caution": "*", "small": "*"}


def page_markdown(page: Page, pictures: dict[str, str], level: int = 2) -> str:
    """The page as Markdown whose title is a heading of this level.

    Each figure becomes `![title](NAME)`, with NAME the next of `pictures` (name -> description), in the order of the
    page.
    """
    names = iter(pictures.items())
    parts = [f"{'#' * level} {plain(page.title)}", *(part for block in page.lead for part in _block(block, names))]
    for section in page.sections:
        parts += _section(section, names, level + 1)
    parts += ["\n".join(f"- {plain(key)}: {plain(value)}" for key, value in page.provenance)]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """One line that reads as it is written: names from files are neither markup nor addresses."""
    line = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _OPENING.sub(r"\g<0>\\", _MARKUP.sub(r"\\\g<0>", line))
    return line.replace("://", "&#58;//").replace(NO_BREAK, " ")


def _section(section: Section, names: Iterator[tuple[str, str]], level: int) -> Iterator[str]:
    if section.title:
        yield f"{'#' * level} {plain(section.title)}"
    for block in section.blocks:
        yield from _block(block, names)
    for inner in section.sections:
        yield from _section(inner, names, level + 1)


def _block(block: Block, names: Iterator[tuple[str, str]]) -> Iterator[str]:
    if getattr(block, "only", None) == "brief":
        return
    match block:
        case Sentence():
            mark = _TONES.get(block.tone, "")
            yield f"{mark}{plain(block.text)}{mark}"
        case Notes():
            yield "\n".join(f"- {_note(note)}" for note in block.notes)
        case Findings():
            yield "\n".join(f"- {_cell(finding)}" for finding in block.findings)
        case Table():
            yield _table(block)
        case _ if isinstance(block, get_args(Figure)):
            name, description = next(names)
            yield f"![{plain(description)}]({quote(name)})"


def _note(note: Note) -> str:
    return f"**{plain(note.name)}**: {plain(note.text)}" if note.name else plain(note.text)


def _table(table: Table) -> str:
    shown = [i for i, column in enumerate(table.columns) if column.only != "brief"]
    lines = [[plain(table.columns[i].name) for i in shown], ["---"] * len(shown)]
    lines += [[_cell(row.cells[i]) for i in shown] for row in table.rows if row.only != "brief"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Finding):
        return plain(f"{cell.verdict.mark} {cell.words}")  # at its start a mark would open a list
    return plain(cell if isinstance(cell, str) else cell.text())

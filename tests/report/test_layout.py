"""No name is lost, no number is cut and no line is too long, at any width from 60 on."""

from __future__ import annotations

import itertools
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from diagnostics.checks.conformance import CHECKS
from diagnostics.checks.selftest import Outcome
from diagnostics.cli import encoders
from diagnostics.cli import tables as console
from diagnostics.cli.app import say
from diagnostics.measures.base import Case
from diagnostics.measures.statistics import Interval
from diagnostics.report import terminal as report_terminal
from diagnostics.report.layout import show, show_table, whole
from diagnostics.report.numbers import format_interval
from diagnostics.runs.controls.names import NAMES
from diagnostics.runs.pages.run import run_page
from diagnostics.runs.results.recommendation import recommend
from tests.support.commands import diagnose
from tests.support.profiles import finished_run, profile

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w.]*\w)")
WIDTHS = st.integers(60, 160)
# Plain, wide (two cells a character), accented and, where a name may hold them, with spaces.
SAFE = st.text("abcXYZ019_.-", min_size=1, max_size=70).map(lambda text: f"n{text}n")
FREE = st.text("abc XY層中文é—α", min_size=1, max_size=70).map(lambda text: f"n{text}n")
TAPS = (
    "encoder.layers.11.mlp.fc2",
    "blocks.3",
    "base_model.model.vision_tower.encoder.layers.23.attention.output.dense",
)
VALUES = st.floats(-1e4, 1e4) | st.floats(-1, 1) | st.sampled_from([0.0, -1e160, 0.907, -0.0004])


def cells(text: str) -> int:
    """Columns of a terminal, without the package's own help."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def lines_of(width: int, call: Any, names: Sequence[str] = ()) -> list[str]:
    out = Console(width=width, highlight=False)
    with out.capture() as caught:
        call(out)
    lines = caught.get().splitlines()
    for line in lines:
        # Only what is one word, as a name may be, takes more: the terminal breaks that, and it can be copied.
        word = line.strip()
        for name in names:
            word = word.replace(name, "n")
        assert cells(line) <= width or " " not in word, line
    return lines


def shown_by(width: int, call: Callable[[], None], names: Sequence[str] = ()) -> list[str]:
    """The lines that a function of `console`, `encoders` or `report.terminal` prints on a console of this width."""

    def on(out: Console) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for module in (console, encoders, report_terminal):
                patch.setattr(module, "terminal", lambda: out)
            call()

    return lines_of(width, on, names)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    columns = [
        "target",
        *draw(st.lists(st.sampled_from(["score", "hidden gap", "summary statistics"]), min_size=1, max_size=7)),
    ]
    row = st.tuples(FREE, *(VALUES for _ in columns[1:]))
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return columns, [
        [name, *(f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3e}" for value in values)] for name, *values in rows
    ]


@settings(max_examples=150)
@given(tables(), WIDTHS)
def test_a_table_of_any_width_holds_every_name_and_number_whole(
    table: tuple[list[str], list[list[str]]], width: int
) -> None:
    columns, rows = table
    lines = lines_of(
        width,
        lambda out: show_table(out, columns, [[whole(name), *numbers] for name, *numbers in rows]),
        [name for name, *_ in rows],
    )
    for name, *_ in rows:
        assert any(name in line for line in lines)
    wanted = Counter(number for _, *numbers in rows for number in numbers)
    assert Counter(result for line in lines for result in NUMBER.findall(line)) >= wanted


@given(
    st.lists(st.sampled_from(["a", "words", "0.907", "[0.834, 0.950]", "-0.129"]), max_size=60),
    WIDTHS,
    st.integers(0, 8),
)
def test_sentences_break_between_words_and_never_in_an_interval(words: list[str], width: int, hanging: int) -> None:
    lines = lines_of(width, lambda out: show(out, " ".join(words), hanging=hanging))
    assert " ".join(line.strip() for line in lines).split() == " ".join(words).split()
    assert sum(line.count("[0.834, 0.950]") for line in lines) == words.count("[0.834, 0.950]")
    assert all(line.startswith(" " * hanging) for line in lines[1:])
    # No line is shorter than it need be.
    for line, after in itertools.pairwise(lines):
        first = re.match(r"\[[^]]*\]|\S+", after.strip())
        assert first and cells(line) + 1 + cells(first[0]) > width


def test_a_table_that_fits_has_a_row_a_line_and_a_narrow_one_blocks() -> None:
    columns = ["target", "best tap (depth)", "score", "output"]
    rows = [["hidden_z (R2)", "block.3 (0.40)", "0.907 [0.834, 0.950]", "0.611 [0.483, 0.721]"]]
    assert lines_of(80, lambda out: show_table(out, columns, rows)) == [
        "target          best tap (depth)   score                  output",
        "─" * 78,
        "hidden_z (R2)   block.3 (0.40)     0.907 [0.834, 0.950]   0.611 [0.483, 0.721]",
    ]
    long = [[row[0], f"{TAPS[2]} (0.40)", *row[2:]] for row in rows]
    assert lines_of(72, lambda out: show_table(out, columns, long)) == [
        "target",
        "─" * 72,
        "hidden_z (R2)",
        "  best tap (depth)",
        f"  {TAPS[2]}",
        "                    (0.40)",
        "  score  0.907 [0.834, 0.950]   output  0.611 [0.483, 0.721]",
    ]


INTERVALS = st.builds(
    lambda value, low, high: Interval(value, value - abs(low), value + abs(high)), VALUES, VALUES, VALUES
)


@settings(max_examples=60, deadline=None)
@given(
    targets=st.lists(SAFE, min_size=1, max_size=3, unique=True),
    taps=st.lists(st.sampled_from(TAPS) | SAFE, min_size=2, max_size=3, unique=True),
    names=st.tuples(FREE, FREE),
    values=st.lists(INTERVALS, min_size=4, max_size=4),
    others=st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)),
    width=WIDTHS,
)
def test_a_run_is_shown_with_every_name_and_number_at_any_width(
    targets: list[str],
    taps: list[str],
    names: tuple[str, str],
    values: list[Interval],
    others: dict[str, float],
    width: int,
) -> None:
    probes = [
        profile("linear_probe", taps, value, others, probe=True, target=target)
        for target, value in zip(targets, values, strict=False)
    ]
    measure = "measure_" + targets[0]
    rest = [profile(measure, taps, values[3], {"fresh_weights": others["fresh_weights"]}, probe=False, target="")]
    run = finished_run([*probes, *rest], *names, skipped={names[0]: "a reason"})
    lines = [
        line
        for full in (False, True)
        for line in shown_by(
            width, lambda full=full: report_terminal.print_page(run_page(run), Path("report.html"), full=full)
        )
    ]
    for name in (*targets, taps[0], *names, measure):
        assert any(name in line for line in lines)
    wanted = Counter[str]()
    for p in probes:
        for shown in (
            format_interval(p.score),
            format_interval(p.output),
            format_interval(p.hidden_gap, signed=True),
        ):
            wanted += Counter(NUMBER.findall(shown))
        shown = (f"{other:.3f}" if abs(other) < 1e6 else f"{other:.3e}" for other in others.values())
        wanted += Counter("0.000" if number == "-0.000" else number for number in shown)
    assert Counter(result for line in lines for result in NUMBER.findall(line)) >= wanted
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("width", [60, 100])
def test_a_path_and_a_command_can_be_copied(width: int) -> None:
    folder = Path(f"runs/{'long-' * 15}and spaced")
    probe = profile("linear_probe", ["embed", "norm"], Interval(0.5, 0.4, 0.6), {}, probe=True, target="y")
    run = finished_run([probe], "it", "data", disk_use=(3, 4), recommendations=lambda: [recommend(probe)])
    run.path = folder
    words = {
        f'dx.open_run("{folder}").features(target="y")',
        f"diagnostics open '{folder}'",
        f"diagnostics show '{folder}' --full",
        f"diagnostics clean --tokens '{folder}'",
    }
    lines = shown_by(
        width, lambda: report_terminal.print_page(run_page(run), folder / "report.html"), [*words, str(folder)]
    )
    assert words <= set(lines)


def test_an_error_is_one_line_in_a_pipe_and_broken_between_words_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "`diagnostics clean runs/a-folder-of-a-run --tokens`"
    sentence = f"Nothing to remove is named, which would be a pity for all of us here: give {command}."
    say(sentence)
    assert capsys.readouterr().err == f"diagnostics: {sentence}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    say(sentence)
    lines = capsys.readouterr().err.splitlines()
    assert " ".join(lines) == f"diagnostics: {sentence}" and len(lines) == 3
    assert lines[-1] == f"{command}."


@pytest.mark.parametrize("width", [60, 80, 100])
def test_what_plugins_offer_and_what_an_encoder_is_fit_the_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    offers = json.loads(diagnose("list", "--json").out)
    overview = diagnose("list").out.splitlines()
    for name in (row["name"] for rows in offers.values() for row in rows):
        assert any(name in line for line in overview)
    lines = [line for what in offers for line in diagnose("list", what).out.splitlines()]
    assert len(overview) < len(lines) / 3
    assert overview[1].startswith("timm:MODEL ") and lines[1].startswith("timm:MODEL ")
    lines += overview
    for name in (row["name"] for rows in offers.values() for row in rows):
        assert any(name in line for line in lines)
    encoder = f"{Path(__file__).parents[1] / 'support' / 'tiny.py'}:tiny_image_encoder"
    lines += diagnose("inspect", encoder).out.splitlines()
    for tap in json.loads(diagnose("inspect", encoder, "--json").out)["taps"]:
        assert any(line.startswith(tap["name"]) for line in lines)
        assert any(f"{tap['depth']:.2f}" in line for line in lines)
        assert all(any(word in line for line in lines) for word in tap["read"].split())
    lines += diagnose("check", encoder).out.splitlines()
    assert all(any(check in line for line in lines) for check in CHECKS)
    assert all(cells(line) <= width for line in lines), max(lines, key=cells)


def test_how_all_taps_are_read_is_said_once() -> None:
    def inspection(*reads: str) -> list[str]:
        taps = [
            {
                "name": f"b.{i}",
                "depth": 0.5,
                "part": "trunk",
                "features": 8,
                "grid": [4, 4],
                "axes": ["y", "x"],
                "prefix": 0,
                "read": read,
            }
            for i, read in enumerate(reads)
        ]
        about = {
            "encoder": "it",
            "modality": "image",
            "parameters": 5,
            "output_tap": "b.1",
            "taps": taps,
            "identity": {},
            "handed_out": {"sentence": "The output tap is b.1."},
            "lineage": {},
            "pooling": ["mean"],
            "seconds_per_sample": 0.1,
            "input": None,
            "pooled_bytes_per_sample": 8,
            "token_bytes_per_sample": 8,
        }
        return shown_by(80, lambda: encoders.print_inspection(about))

    lines = inspection("after b call 1 of 2 without 3 of padding", "after b call 2 of 2 without 3 of padding")
    assert lines[3].endswith("4 x 4 (y, x)   after b call 1 of 2")
    assert lines[5] == "All taps are read without 3 of padding."
    assert not any(
        "All taps are read" in line for line in inspection("after a as features", "after b as channels_first")
    )
    assert not any("All taps are read" in line for line in inspection("", ""))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FREE, FREE, VALUES, VALUES, st.booleans()), min_size=1, max_size=3), WIDTHS)
def test_known_answers_are_shown_whole_at_any_width(
    rows: list[tuple[str, str, float, float, bool]], width: int
) -> None:
    outcomes = [
        Outcome(
            "family",
            Case(what, expected, "a source", lambda: 0.0, measure=measure),
            value,
            "it broke" if broken else "",
        )
        for measure, what, expected, value, broken in rows
    ]
    lines = shown_by(width, lambda: console.print_selftest(outcomes, full=True), [measure for measure, *_ in rows])
    for measure, _, expected, value, broken in rows:
        assert any(measure in line for line in lines)
        numbers = [number for line in lines for number in NUMBER.findall(line)]
        assert f"{expected:.6g}" in numbers
        assert broken or f"{value:.6g}" in numbers


def test_the_width_of_a_pipe_is_columns_or_100(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(["word"] * 200)
    for columns, width in (("72", 69), ("", 99), ("0", 99), ("wide", 99), ("100000", 999)):
        monkeypatch.setenv("COLUMNS", columns)
        show(console.terminal(), words)
        assert max(map(len, capsys.readouterr().out.splitlines())) == width

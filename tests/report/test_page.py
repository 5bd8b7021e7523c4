"""A page as data is shown by both renderers: briefly in a terminal, in full as HTML."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from diagnostics.measures.statistics import Interval
from diagnostics.report.html import page_tables, write_page
from diagnostics.report.numbers import format_compact, format_interval, format_number, format_reasons
from diagnostics.report.page import Column, Note, Notes, Number, Page, Row, Section, Sentence, Table, left_out_section
from diagnostics.report.terminal import print_page

NAN = math.nan
HALF = Interval(0.5, 0.4, 0.6)

PAGE = Page(
    "a <title>",
    (Sentence("in a few words", "strong", only="brief"), Sentence("at length", only="full")),
    (
        Section(
            "Scores",
            "scores",
            (
                Table(
                    (
                        Column("target"),
                        Column("encoder"),
                        Column("score", bare=True),
                        Column("gap"),
                        Column("more", "full"),
                    ),
                    (
                        Row(("z", "first", Number(HALF), Number(HALF, signed=True, mark="*"), "wide")),
                        Row(("z", "second", Number(None), Number(HALF, draws=(0.1, 0.2)), "wide")),
                        Row(("y", "third", "-", "-", "narrow"), only="full"),
                    ),
                    grouped=True,
                ),
                Notes((Note("it is so", "why"),)),
            ),
        ),
        left_out_section({"one name": "a reason", "two": "a reason", "three": "another"}),
        Section("Figures", "figures", sections=(Section("within", "s0", (Sentence("under a figure"),)),)),
    ),
    (("seed", "7"),),
)


def test_a_terminal_shows_the_page_briefly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    print_page(PAGE, Path("report.html"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "in a few words"
    assert [line.split("   ")[0] for line in lines[1:6] if "─" not in line] == [
        "target, encoder",
        "z",
        "  first",
        "  second",
    ]
    assert lines[4].split() == ["first", "0.500", "+0.500", "[0.400,", "0.600]", "*"], "bare, and with its interval"
    assert lines[5].split() == ["second", "-", "0.500", "[0.400,", "0.600]", "(0.100", "to", "0.200)"]
    assert lines[6:] == [
        "why: it is so",
        "left out: one name, two: a reason",
        "left out: three: another",
        "",
        "Report: report.html",
    ]


def test_html_shows_the_page_in_full(tmp_path: Path) -> None:
    text = write_page(PAGE, tmp_path / "page.html").read_text(encoding="utf-8").split("<body>", 1)[1]
    assert "<h1>a &lt;title&gt;</h1>" in text
    assert "at length" in text and "in a few words" not in text
    assert text.count("<td>z</td>") == 1, "the first cell of rows that belong together, once"
    assert ">narrow<" in text and "<th>more</th>" in text
    assert "0.500 [0.400,\u00a00.600]" in text
    assert "<b>why</b>: it is so" in text
    assert '<a href="#s0">within</a>' in text and '<section id="s0"' in text and "under a figure" in text
    tables = page_tables(PAGE)
    assert ">narrow<" in tables
    assert "under a figure" not in tables and "seed" not in tables


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (format_number(NAN), "-"),
        (format_number(-0.0004), "0.000"),
        (format_number(-1e100), "-1.000e+100"),
        (format_number(0.0001, "+.3f"), "0.000"),
        (format_interval(None), "-"),
        (format_interval(Interval(NAN, 0, 1)), "-"),
        (format_interval(Interval(0.5, NAN, NAN), signed=True), "+0.500"),
        (format_interval(Interval(-0.5, -0.6, 0.0004), signed=True), "-0.500 [-0.600,\u00a00.000]"),
        (format_interval(Interval(1234.5, 0.001234, 1e4), ".3g"), "1.23e+03 [0.00123,\u00a01e+04]"),
        (format_compact(123456.7), "123457"),
        (format_compact(0.000123456), "0.0001235"),
        (format_reasons([("a", "x"), ("b", "y"), ("c", "x")], "abc"), "a, c: x; b: y"),
    ],
)
def test_numbers_have_one_spelling(text: str, shown: str) -> None:
    assert text == shown

"""A page as Markdown: what it holds in full, pictures by name, and names that are not markup."""

from __future__ import annotations

import numpy as np
import pytest

from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.page import (
    Column,
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
)
from diagnostics.runs.pages.card import page_markdown, plain

HALF = Interval(0.5, 0.4, 0.6)
MAP = ScoreMap(
    targets=["z"],
    taps=["a"],
    depth=np.zeros(1),
    score=np.ones((1, 1)),
    low=np.ones((1, 1)),
    high=np.ones((1, 1)),
    floor=np.zeros(1),
    verdicts=[Verdict.EXCLUDED],
    unread=[False],
    chosen=["a"],
    output="a",
    anchors=[""],
)


def test_a_page_becomes_headings_sentences_a_table_a_picture_and_a_list() -> None:
    table = Table(
        (Column("target"), Column("gap"), Column("brief", only="brief"), Column("finding")),
        (Row(("z|y", Number(HALF, signed=True), "no", Finding("hidden", Verdict.SHOWN))),),
    )
    chance = Findings((Finding("nothing", Verdict.AT_CHANCE),))
    blocks = (MAP, table, Sentence("nowhere", only="brief"), chance, Notes((Note("it is so", "why"),)))
    page = Page("A title", (Sentence("lead", "strong"),), (Section("Part", "part", blocks),), (("seed", "7"),))
    assert page_markdown(page, {"my one.svg": "all targets"}).split("\n\n") == [
        "## A title",
        "**lead**",
        "### Part",
        "![all targets](my%20one.svg)",
        "| target | gap | finding |\n| --- | --- | --- |\n| z\\|y | \\+0.500 \\[0.400, 0.600\\] | \\+ hidden |",
        "- \\- nothing",
        "- **why**: it is so",
        "- seed: 7\n",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b `c` *d* ~e~ $f$", r"a\_b \`c\` \*d\* \~e\~ \$f\$"),
        ("[x](y) ![z](w)", r"\[x\](y) !\[z\](w)"),
        ("<script>&amp;", "&lt;script&gt;&amp;amp;"),
        ("see https://example.org", "see https&#58;//example.org"),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"1\. no list"),
        ("0.5 stays", "0.5 stays"),
        ("two\nlines", r"two\\nlines"),
    ],
)
def test_names_are_neither_markup_nor_addresses(text: str, shown: str) -> None:
    assert plain(text) == shown

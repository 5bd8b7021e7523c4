"""The pages are plain: words of this project's own are linked to the glossary, and phrases that stop a reader are absent."""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path

import pytest

from tests.support import sentences

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="tests run without the docs beside them")

NOT_PROSE = (
    "changelog.md",
    "dev/decisions",
    "dev/history.md",
    "explanation/words.md",
    "reference/cli.md",
)
"""Generated pages, records of their time, and the glossary itself."""

WORDS = {
    "hidden gap": "hidden-gap",
    "best tap": "best-tap",
    "output tap": "output-tap",
    "recovered share": "recovered-share",
    "kept share": "kept-share",
}
"""Words that the field does not use, and their anchors in the glossary."""

DIALECT = (
    r"said",
    r"told(?! apart)",
    r"what (is|was) found",
    r"how sure that is",
    r"holds 0",  # an interval includes it
    r"of use",
    r"hitherto|thereby|therein|whereof|upon|whilst|shall|lest",
    r"stands? (above|below|beside|behind|beyond)",
    r"one (file|line|row|tap|vector) an? \w+",  # per
)
"""Phrases of another century, or of nowhere, as regular expressions between word boundaries."""


def pages() -> list[str]:
    """Paths below docs of the pages that are checked; READMEs of plugins count as the pages that include them."""
    every = (page.relative_to(DOCS) for page in DOCS.rglob("*.md"))
    return sorted(page.as_posix() for page in every if not page.as_posix().startswith(NOT_PROSE))


def prose(page: str) -> str:
    """A page's text in one line with what it includes, without code, comments and front matter."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub(
        r'^--8<-- "([^":]+)[^"]*"$', lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text, flags=re.M
    )
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"^ *(```+).*?^ *\1$|<!--.*?-->", "", text, flags=re.M | re.S)
    return " ".join(re.sub(r"`[^`\n]+`", "", text).split())


def anchors(page: str, text: str) -> set[str]:
    """Of the glossary, those that the text of a page links to."""
    links = re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", text)
    return {
        anchor
        for path, anchor in links
        if posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) == "explanation/words.md"
    }


def test_the_glossary_has_every_word() -> None:
    headings = re.findall(r"^## (.+)$", (DOCS / "explanation" / "words.md").read_text(encoding="utf-8"), re.M)
    assert set(WORDS) <= {heading.lower() for heading in headings}


@pytest.mark.parametrize("page", pages())
def test_a_word_of_ours_is_linked_to_the_glossary(page: str) -> None:
    text = prose(page)
    used = {anchor for word, anchor in WORDS.items() if re.search(rf"\b{word}s?\b", text, re.I)}
    assert used <= anchors(page, text)


@pytest.mark.parametrize("page", pages())
def test_a_page_is_in_plain_english(page: str) -> None:
    assert not [found[0] for phrase in DIALECT for found in re.finditer(rf"\b(?:{phrase})\b", prose(page), re.I)]


def test_the_site_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python docs/words.py` says which pages are long."""
    monkeypatch.syspath_prepend(str(DOCS))
    counter = importlib.import_module("words")
    assert counter.words("Of `a` 3 - | taps |\n|---|") == 4
    assert sum(counter.counted().values()) <= counter.MOST


def test_no_more_tests_compare_sentences() -> None:
    assert sentences.count() <= sentences.MOST

"""Counts the words of the site's prose: `python docs/words.py` prints each page and the sum.

Prose is what a page in the navigation holds with the files that it includes (READMEs of plugins, the changelog), text, tables and names in
a line, but no blocks of code or output, comments, front matter and addresses of links. Answers of studies count on their own pages. The page of the command line, which a script writes, and what mkdocstrings
writes are generated reference and do not count.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MOST = 65_000
GENERATED = "reference/cli.md"


def pages() -> list[str]:
    """Paths below docs of the pages in the navigation, in its order."""
    return re.findall(r"[\w/.-]+\.md\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1])


def prose(page: str) -> str:
    """The text of a page with what it includes."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub(
        r'^--8<-- "([^":]+)[^"]*"$', lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text, flags=re.M
    )
    text = re.sub(r"\A---\n.*?\n---\n|^ +--8<-- [^\n]*", "", text, flags=re.S | re.M)
    text = re.sub(r"^ *(```+).*?^ *\1$|<!--.*?-->|^::: .*\n(?: {4}.*\n)*", "", text, flags=re.M | re.S)
    return re.sub(r"\]\([^)\s]*\)", "]", text)


def words(text: str) -> int:
    """How many of the parts between spaces hold a letter or a digit."""
    return sum(any(map(str.isalnum, part)) for part in text.split())


def counted() -> dict[str, int]:
    """Page below docs -> its words, for all that count."""
    return {page: words(prose(page)) for page in pages() if page != GENERATED}


if __name__ == "__main__":
    found = counted()
    for page, count in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{count:7,}  {page}")
    print(f"{sum(found.values()):7,}  of at most {MOST:,}")

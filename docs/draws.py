"""Says where a page shows scores and not of how many draws: `python docs/draws.py` prints each place, and fails if there is one.

Held to it are README, the landing page, tutorials and studies. A section (up to the next heading) that shows a score has to name
redraws, draws, seeds or cells, at least `LEAST` of them, or to say `one draw`; what stands above the first section of a page counts for
all of it. That the numbers themselves are those of the result files is checked by `recount.py`.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAST = 5
HEADING = re.compile(r"^#{2,6} .*$", re.M)
SCORE = re.compile(r"(?<![\w.,])[-+−]?(?:0|1)?\.\d{2,4}(?![\w.%]|\.\d)")
"""A number as the tables print scores; years, versions, sizes and times look otherwise."""
ONE = re.compile(r"\bone\s+draw\b")
SEVERAL = re.compile(r"\b(\d[\d,]*)\s+(?:\w+\s+)?(?:redraws|draws|cells|seeds)\b")


def pages() -> list[Path]:
    """README, the landing page, and the pages of tutorials and studies, in a fixed order."""
    docs = ROOT / "docs"
    folders = [page for kind in ("tutorials", "studies") for page in sorted((docs / kind).glob("*/index.md"))]
    folders += sorted((docs / "studies").glob("*/full.md"))
    return [ROOT / "README.md", docs / "index.md", *folders]


def says_draws(text: str) -> bool:
    """Whether a text names how many draws its numbers are of."""
    return bool(ONE.search(text)) or any(int(many[1].replace(",", "")) >= LEAST for many in SEVERAL.finditer(text))


def silent_sections(text: str) -> list[str]:
    """The headings of the sections of a page that show a score and do not say of how many draws."""
    starts = [0, *(found.start() for found in HEADING.finditer(text)), len(text)]
    sections = [text[start:end] for start, end in itertools.pairwise(starts)]
    if says_draws(sections[0]):
        return []
    return [one.strip().splitlines()[0] for one in sections if SCORE.search(one) and not says_draws(one)]


def silent() -> dict[str, list[str]]:
    """Page -> its sections that do not say; pages that have none are left out."""
    found = {str(page.relative_to(ROOT)): silent_sections(page.read_text(encoding="utf-8")) for page in pages()}
    return {page: sections for page, sections in found.items() if sections}


if __name__ == "__main__":
    places = silent()
    for page, sections in places.items():
        print(page, *sections, sep="\n    ")
    sys.exit(bool(places))

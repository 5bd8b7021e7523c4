"""Runs the blocks of Python on pages that no test runs, since what they import is large: `python docs/by_hand.py`.

They say so in the comment above them (`not run: ... docs/by_hand.py`), and need `pip install mteb`.
"""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^<!-- not run: [^\n]*docs/by_hand\.py -->\n```python\n(.*?)^```$", re.M | re.S)


def blocks() -> dict[Path, list[str]]:
    """The blocks of each page that has some."""
    pages = sorted(Path(__file__).parent.rglob("*.md"))
    return {page: found for page in pages if (found := BLOCK.findall(page.read_text(encoding="utf-8")))}


if __name__ == "__main__":
    for page, texts in blocks().items():
        print(page)
        space: dict[str, object] = {}
        exec("import diagnostics as dx", space)
        for text in texts:
            exec(compile(text, str(page), "exec"), space)

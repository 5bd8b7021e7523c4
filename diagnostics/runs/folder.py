"""The folder of a run where none is named; importing it imports nothing heavy."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

LONGEST = 40
"""Characters of a name that stays whole: its report's path then fits a terminal of 60 columns."""
PART = 16
"""Characters that stay of the encoder's name, and of the dataset's, where it does not; whole words of them."""


def default_folder(encoder: str, dataset: str) -> Path:
    """`runs/<encoder>-<dataset>`, by the names as they are typed, options too; folders of Python files are left out.

    A long name keeps the beginning of each, without scheme, folders and options, and ends in a digest of it all.
    """
    names = [re.sub(r"^.*/(?=[^/]*\.py:)", "", name) for name in (encoder, dataset)]
    whole = slug("-".join(names))
    # Letters of other scripts are all replaced alike.
    if 0 < len(whole) <= LONGEST and "".join(names).isascii():
        return Path("runs") / whole
    short = [_shortened(slug(_own_name(name))) for name in names]
    digest = hashlib.sha256("\x1f".join(names).encode(errors="surrogateescape")).hexdigest()[:8]
    return Path("runs") / "-".join([*filter(None, short), digest])


def slug(text: str) -> str:
    """The text with characters that a file's name should not hold replaced."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


def _own_name(name: str) -> str:
    """Without options, folders, and a scheme; of a Python file with its function."""
    name = name.partition("?")[0].rstrip("/")
    return name if ".py:" in name else re.split(r"[/:]", name)[-1]


def _shortened(name: str) -> str:
    words = re.match(rf".{{1,{PART}}}(?=[-_.]|$)", name)
    return (words[0] if words else name[:PART]).strip("-_.")

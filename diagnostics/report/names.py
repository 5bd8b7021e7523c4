"""Names where there is little room: where their lines may break, and short forms that still tell taps apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup, escape

# Behind a dot, underscore, slash or colon after a letter: never within a number.
_SEAM = re.compile(r"(?<=[^\W\d][._/:])(?=\w)")


# Shorter words fit wherever we show them, and stay whole for whoever searches the file.
_LONG = re.compile(r"(\S{25,})")


def breakable(text: object) -> Markup:
    """Text as HTML whose long names may break between their parts."""
    words = _LONG.split(str(text))
    return Markup().join(
        Markup("<wbr>").join(map(escape, _SEAM.split(word) if i % 2 else [word])) for i, word in enumerate(words)
    )


def name_lines(name: str, most: int) -> list[str]:
    """A name in lines of at most `most` characters, broken between its parts; only a part that is longer is cut."""
    lines = [""]
    for piece in [part for word in re.split(r"(?<=\s)", name) for part in _SEAM.split(word)]:
        if len(lines[-1]) + len(piece.rstrip()) > most and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > most:
            lines[-1:] = [lines[-1][:most], lines[-1][most:]]
    return [line.rstrip() for line in lines]


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Names of at most `most` characters each: a longer one keeps its numbers, by which the taps of a stack differ, and of the
    rest what fits; where two come out alike, as of two stacks, each keeps its beginning and its end instead."""
    short = [_short(name, most) for name in names]
    counts = Counter(short)
    return [
        _ends(name, most) if counts[each] > 1 and each != name else each
        for name, each in zip(names, short, strict=True)
    ]


def _short(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()] or [len(parts) - 1]
    first, last = numbers[0], numbers[-1]
    word = max(first - 1, 0)
    forms = (parts[word:], parts[first:], [*parts[word : last + 1], ""], [*parts[first : last + 1], ""])
    shortened = (re.sub(r"\.$", "…", ".".join(form)) for form in forms)
    return next((f"…{form}" for form in shortened if len(form) < most), _ends(name, most))


def _ends(name: str, most: int) -> str:
    """The beginning and the end of a name."""
    end = (most - 1) * 2 // 3
    return f"{name[: most - 1 - end]}…{name[-end:]}" if len(name) > most else name

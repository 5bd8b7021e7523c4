"""Names, text and tables laid out for a width: nothing is truncated, and lines break between words only.

A word that is longer than the line, as a path may be, is left to the terminal: what that breaks is copied whole. A
space that must not break is a no-break space here and a space on the screen: see `whole`. Names have short forms that
still tell taps apart.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup, escape
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from diagnostics.report.escaping import printable

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
    """Names of at most `most` characters each.

    A longer one keeps its numbers, by which the taps of a stack differ, and of the rest what fits; where two come out
    alike, as of two stacks, each keeps its beginning and its end instead.
    """
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


PIPE_WIDTH = 100
"""Cells of a line where the output is a file or a pipe and COLUMNS says nothing else."""
LEAST_WIDTH = 20
_GAP = 3
_UNBROKEN = "\N{NO-BREAK SPACE}"
# An interval with its mark, a command between backticks, and a number of percent.
_TOGETHER = re.compile(r"\[[-+.\w]+, [-+.\w]+\]( \*)?|`[^`]+`|\b\d+ %")


def terminal() -> Console:
    """The console that tables go to, as wide as COLUMNS says where it is a file or a pipe."""
    console = Console(highlight=False)
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    return Console(highlight=False, width=int(columns) if columns.isdecimal() and int(columns) > 0 else PIPE_WIDTH)


def whole(name: object) -> str:
    """A name, path or command for `show` and `show_table`: printable, and on one line."""
    return printable(name).replace(" ", _UNBROKEN)


def show(console: Console, text: str, style: str = "", hanging: int = 0) -> None:
    """Print text of one style, broken between words; lines after the first start `hanging` cells in."""
    for line in wrap(text, max(console.width, LEAST_WIDTH), hanging):
        _print(console, Text(line, style))


def show_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print rows below the names of their columns; a row of one cell is a heading over the rows below it.

    Where they are too wide for the console, cells are broken between words, or each row becomes a block of lines with
    the columns' names: whichever takes fewer lines.
    """
    width = max(console.width, LEAST_WIDTH)
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    rule = "─" if console.encoding.lower().startswith("utf") else "-"
    lines = _side_by_side(columns, cells, width, rule)
    # Only a table that is too wide for one line a row may be shorter as blocks.
    if lines is None or len(lines) > 2 + len(rows):
        blocks = _blocks(columns, cells, width, rule)
        lines = blocks if lines is None or len(blocks) < len(lines) else lines
    for line in lines:
        _print(console, line)


def wrap(text: str, width: int, hanging: int = 0) -> list[str]:
    """Lines of at most `width` cells, broken at spaces outside intervals and `commands`.

    Only a word that is longer takes more.
    """
    lines: list[str] = []
    lead = " " * (len(text) - len(text.lstrip(" ")))
    line = None
    for word in _words(text[len(lead) :]):
        longer = f"{lead}{word}" if line is None else f"{line} {word}"
        if cell_len(longer) <= width:
            line = longer
            continue
        if line is not None:
            lines.append(line)
        # A long word stands as far to the left as it needs.
        indent = max(0, min(len(lead) + hanging if lines else len(lead), width - cell_len(word)))
        line = " " * indent + word
    return [text.rstrip(" ") for text in (*lines, line or "")]


def _words(text: str) -> list[str]:
    return _TOGETHER.sub(lambda match: match[0].replace(" ", _UNBROKEN), text).split(" ")


def _longest_word(cell: str) -> int:
    words = cell.lstrip(" ")
    return len(cell) - len(words) + max(map(cell_len, _words(words)))


def _side_by_side(columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int, rule: str) -> list[Text] | None:
    """One row below the other, cells broken where they must be; None where the longest words do not fit."""
    by_column = [[name, *(row[i].plain for row in rows if len(row) > 1)] for i, name in enumerate(columns)]
    widths = [max(map(cell_len, cells)) for cells in by_column]
    gap = _GAP
    if sum(widths) + gap * (len(widths) - 1) > width:
        gap -= 1
        least = [max(map(_longest_word, cells)) for cells in by_column]
        spare = width - sum(least) - gap * (len(widths) - 1)
        if spare < 0:
            return None
        widths = _share_out(by_column, least, widths, spare)
    lines = _row_lines([Text(name, "bold") for name in columns], widths, gap)
    lines.append(Text(rule * (sum(widths) + gap * (len(widths) - 1))))
    for row in rows:
        lines += _heading(row[0], width) if len(row) == 1 else _row_lines(row, widths, gap)
    return lines


def _share_out(by_column: Sequence[Sequence[str]], least: Sequence[int], most: Sequence[int], spare: int) -> list[int]:
    """Widths of columns from the least to the most that they can use.

    First the names below the first column's title get what they need, then each spare cell goes to the tallest column.
    """
    widths = list(least)
    widths[0] = min(least[0] + spare, max([least[0], *map(cell_len, by_column[0][1:])]))
    spare -= widths[0] - least[0]
    heights = [_height(cells, size) for cells, size in zip(by_column, widths, strict=True)]
    for _ in range(spare):
        growing = [i for i in range(len(widths)) if widths[i] < most[i]]
        if not growing:
            break
        i = max(growing, key=heights.__getitem__)
        widths[i] += 1
        heights[i] = _height(by_column[i], widths[i])
    return widths


def _height(cells: Sequence[str], width: int) -> int:
    return sum(len(wrap(cell, width)) for cell in cells)


def _row_lines(row: Sequence[Text], widths: Sequence[int], gap: int) -> list[Text]:
    """The lines of a row, whose first cell hangs when it is broken."""
    broken = [wrap(cell.plain, size, 0 if i else 2) for i, (cell, size) in enumerate(zip(row, widths, strict=True))]
    lines = [Text() for _ in range(max(map(len, broken)))]
    start = 0
    for cell, parts, size in zip(row, broken, widths, strict=True):
        for line, part in zip(lines, parts, strict=False):
            _place(line, start, part, cell.style)
        start += size + gap
    return lines


def _place(line: Text, start: int, text: str, style: str | Style = "") -> None:
    if text:
        line.append(" " * (start - cell_len(line.plain)))
        line.append(text, style)


def _heading(cell: Text, width: int) -> list[Text]:
    return [Text(line, cell.style) for line in wrap(cell.plain, width, hanging=2)]


def _blocks(columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int, rule: str) -> list[Text]:
    """Each row as a block: its first cell, and below it the others with their columns' names.

    They stand side by side where they fit.
    """
    names = columns[1:]
    lead = 2 + max((len(row[0].plain) - len(row[0].plain.lstrip(" ")) for row in rows if len(row) > 1), default=0)
    pairs = [
        cell_len(name) + 2 + max((cell_len(row[1 + i].plain) for row in rows if len(row) > 1), default=0)
        for i, name in enumerate(names)
    ]
    groups: list[list[tuple[int, int]]] = []  # of each line: which columns, and where they start
    end = width
    for i, pair in enumerate(pairs):
        if end + _GAP + pair > width:
            groups.append([])
            end = lead - _GAP
        groups[-1].append((i, end + _GAP))
        end += _GAP + pair
    lines = [*(Text(line, "bold") for line in wrap(columns[0], width)), Text(rule * width)]
    for row in rows:
        lines += _heading(row[0], width)
        for group in groups if len(row) > 1 else ():
            lines += _pairs([(names[i], row[1 + i], start) for i, start in group], width)
    return lines


def _pairs(part: Sequence[tuple[str, Text, int]], width: int) -> list[Text]:
    """Names and values beside each other on one line; one that is alone there may be too long for it."""
    lines = [Text()]
    for name, cell, start in part:
        if not cell.plain.strip():
            continue
        _place(lines[0], start, name)
        value = start + cell_len(name) + 2
        if value + cell_len(cell.plain) <= width:
            _place(lines[0], value, cell.plain, cell.style)
        else:
            broken = wrap(" " * value + cell.plain, width)
            # Moved to the left, the first word is too long to stand beside the name.
            if broken[0].startswith(" " * value):
                _place(lines[0], value, broken.pop(0).strip(" "), cell.style)
            lines += [Text(line, cell.style) for line in broken]
    return [line for line in lines if line.plain]


def _print(console: Console, line: Text) -> None:
    line.rstrip()
    # Of equal length, so that styles stay where they are.
    line.plain = line.plain.replace(_UNBROKEN, " ")
    console.print(line, soft_wrap=True)

"""Escaping of text for display: control and invisible characters are shown as escapes."""

import unicodedata

# Zero-width joiners belong to the spelling of words and emoji.
_JOINERS = "\u200c\u200d"


def printable(text: object) -> str:
    """One line of text that a terminal shows and does not obey, for names that come from files, plugins and users.

    Control characters (C0 with ESC and newline, DEL, C1), marks that change the direction of text, what has no width
    and what is no character (a byte of a file name that is not UTF-8) become escapes like `\\x1b`; everything else
    stays.

    Examples:
        >>> import diagnostics as dx
        >>> print(dx.printable("cat\\x1b[31m.png"))
        cat\\x1b[31m.png
        >>> print(dx.printable("Käse 奶酪.png"))
        Käse 奶酪.png
    """
    text = str(text)
    return (
        text
        if text.isprintable()
        else "".join(c if _shown(c) else c.encode("unicode_escape").decode("ascii") for c in text)
    )


def _shown(character: str) -> bool:
    # Spaces other than " " (Zs) and characters newer than this Python's tables (Cn) do nothing to a terminal.
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) in ("Zs", "Co", "Cn")

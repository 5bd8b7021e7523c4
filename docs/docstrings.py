"""Griffe extension: the sections of our docstrings (`name: text` under an underlined word) become lists in the docs."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Parameters|Returns|Raises)\n-+\n(.*?)(?=\n\n|\Z)", re.M | re.S)


class Sections(griffe.Extension):
    """Rewrites every docstring once it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = SECTION.sub(_listed, obj.docstring.value)


def _listed(section: re.Match[str]) -> str:
    items = re.sub(r"^(\w[\w, ]*): ", lambda item: f"- {_names(item[1])}: ", section[2], flags=re.M)
    return f"**{section[1]}**\n\n{items}"


def _names(text: str) -> str:
    return ", ".join(f"`{name.strip()}`" for name in text.split(","))

"""What this plugin offers; importing it imports nothing heavy."""

from collections.abc import Callable, Mapping
from typing import Any

from diagnostics import hookimpl

PACKAGES = {"timm": "timm", "open_clip_torch": "open_clip"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {}

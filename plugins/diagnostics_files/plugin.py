"""What this plugin offers; importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diagnostics import hookimpl


@hookimpl
def datasets() -> Mapping[str, Callable[..., Any]]:
    """Name or scheme -> builder."""
    return {}

"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from diagnostics import hookimpl

if TYPE_CHECKING:
    from diagnostics import Encoder


def _fracast(path: str | None = None) -> Encoder:
    from diagnostics_timeseries.fracast import build

    return build(path)


@hookimpl
def encoders() -> Mapping[str, Callable[..., Encoder]]:
    """`fracast`, with the weights of its wheel or of a release directory (`?path=DIR`)."""
    return {"fracast": _fracast}

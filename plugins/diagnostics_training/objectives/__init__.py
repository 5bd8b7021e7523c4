"""The objectives: one module each, which defines the loss as its paper does, and one row here. Importing this is cheap."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagnostics_training.objectives.base import EncoderObjective

OBJECTIVES: Mapping[str, str] = {
    "forecast": "Forecast",
    "reconstruct": "Reconstruct",
    "contrastive": "Contrastive",
    "jepa": "Jepa",
    "random": "Random",
    "supervised": "Supervised",
}
"""Name (as `--objective` and `objective:NAME` take it, and as the module here is called) -> class, in the order of `all`."""


def objective_class(name: str) -> type[EncoderObjective]:
    """The class of an objective by its name in `OBJECTIVES`."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), OBJECTIVES[name])

"""The objectives: one module each, which defines the loss as its paper does in a class of the module's name.

Importing this is cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagnostics_training.models.encoder import EncoderObjective

FIRST = ("forecast", "reconstruct", "contrastive", "jepa", "random", "supervised")
OBJECTIVES = tuple(dict.fromkeys((*FIRST, *sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))))
"""Names, as `--objective` and `objective:NAME` take them, in the order of `all`: those that lie here, others than
`FIRST` last.
"""


def objective_class(name: str) -> type[EncoderObjective]:
    """Class of an objective by its name."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), name.title())

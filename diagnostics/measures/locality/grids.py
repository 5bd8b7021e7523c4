"""Validation of user arguments for a grid and for the size of its cells."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor


def extents(grid: Any) -> tuple[int, ...]:
    """The extents of a grid from any sequence of whole numbers above 0; raises DiagnosticsError for everything else."""
    try:
        shape = tuple(operator.index(extent) for extent in grid)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise DiagnosticsError(f"grid is {grid!r}: give the extents of the grid, as (14, 14).")
    return shape


def plane(grid: Any, of: str) -> tuple[int, int]:
    """The extents of a grid of y and x; `of` says of what ("an image")."""
    cells = extents(grid)
    if len(cells) != 2:
        raise DiagnosticsError(f"grid is {cells}: give the cells of {of} along y and x, as (14, 14).")
    return cells


def lengths(cell: Any, axes: int) -> tuple[float, ...]:
    """The length of a cell along each of `axes`, from one number for all of them or one for each."""
    given = list(cell) if isinstance(cell, Sequence) and not isinstance(cell, str) else cell
    values = np.asarray(np.nan) if isinstance(cell, str) else np.asarray(as_tensor(given).cpu())
    sizes = tuple(np.full(axes, values).tolist()) if values.ndim == 0 else tuple(values.ravel().tolist())
    if len(sizes) != axes or values.ndim > 1 or not all(math.isfinite(x) and x > 0 for x in sizes):
        raise DiagnosticsError(
            f"A grid of {axes} axes has no cells of {cell}: give one length above 0, or one for each axis."
        )
    return sizes

"""The grid: where in the input a tap's tokens lie, and which come before it without a place (class token, registers)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics.errors import DiagnosticsError


@dataclass(frozen=True)
class Grid:
    """The grid of places in the input that a tap's tokens represent.

    Parameters
    ----------
    shape: extent along each axis; tokens are in raster order (last axis fastest).
    axes: one of `t` (time), `y`, `x`, `v` (variate) for each extent, in the order of `shape`.
    prefix: number of tokens before the grid tokens that represent no place (class token, registers).

    Raises DiagnosticsError where shape and axes differ in length, an extent is below 1, or `prefix` is negative.

    Examples:
        A vision transformer that cuts 224 x 224 pixels into patches of 16, with a class token:

        >>> import diagnostics as dx
        >>> grid = dx.Grid((14, 14), ("y", "x"), prefix=1)
        >>> grid.tokens
        196
        >>> print(grid)
        14 x 14 (y, x) + 1 prefix
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    prefix: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes) or any(n < 1 for n in self.shape) or self.prefix < 0:
            raise DiagnosticsError(
                f"A grid needs one axis name for each extent of at least 1, not shape {self.shape} with axes {self.axes}."
            )

    @property
    def tokens(self) -> int:
        """Number of grid tokens, without prefix tokens."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        cells = spelled(self.shape, self.axes)
        return f"{cells} + {self.prefix} prefix" if self.prefix else cells


def spelled(shape: Sequence[int], axes: Sequence[str]) -> str:
    """A grid in words: `16 t`, or `8 x 8 (y, x)`."""
    if len(axes) == 1:
        return f"{shape[0]} {axes[0]}"
    return f"{' x '.join(map(str, shape))} ({', '.join(axes)})"

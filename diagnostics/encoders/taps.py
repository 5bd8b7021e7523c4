"""Where activations are read: taps, the sites at which they read a forward pass, and the grids of their tokens.

Shape suffixes used below: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import SAFE_NAME

Part = Literal["embedding", "trunk", "head"]
Layout = Literal["tokens", "channels_first", "channels_last", "features", "time_first", "packed"]


@dataclass(frozen=True)
class Grid:
    """The places that a tap's tokens stand for.

    Parameters
    ----------
    shape: extent along each axis; tokens lie in raster order (last axis fastest).
    axes: one of `t` (time), `y`, `x`, `v` (variate) for each extent, in the order of `shape`.
    prefix: number of tokens before the grid (class, registers) that stand for no place.
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
        """Number of grid tokens, prefix tokens not counted."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        cells = " x ".join(f"{n} {axis}" for n, axis in zip(self.shape, self.axes, strict=True))
        return f"{cells} + {self.prefix} prefix" if self.prefix else cells


@dataclass(frozen=True)
class Site:
    """The moment of a forward pass at which a tap reads, and how what lies there becomes tokens.

    `module` is the qualified name, `call` which of the module's `calls` calls in one pass (from 0), `when` whether its
    input or its output is read. `layout` says what the tensor there looks like: `tokens` [B, T, F], `time_first`
    [T, B, F], `channels_first` [B, F, *grid], `channels_last` [B, *grid, F], `features` [B, F], or
    `packed` [B * T, F] or [1, B * T, F], all samples behind one another. `padding` leading
    and `trailing` last tokens are dropped, so that padding never counts as data.

    `order` is for tokens that do not lie prefix first and then in raster order (special tokens at the end, unrolled
    windows, patch by patch through time): `order[i]` is where, behind the padding, the i-th token handed over lies; a
    permutation. `rows` is for samples cut into several rows of the batch axis, one after the other (frames, variates):
    they become the first axis of the grid, and their prefix tokens are averaged over the rows. `item` is which of the
    tensors that lie there is read, in the order in which they stand, where a module hands on several side by side.
    """

    module: str
    call: int = 0
    calls: int = 1
    when: Literal["before", "after"] = "after"
    layout: Layout = "tokens"
    padding: int = 0
    trailing: int = 0
    order: tuple[int, ...] = ()
    rows: int = 1
    item: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.call < self.calls:
            raise DiagnosticsError(
                f"A tap cannot read call {self.call} of the {self.calls} call(s) of '{self.module}': calls count from 0."
            )
        if sorted(self.order) != list(range(len(self.order))):
            raise DiagnosticsError(
                f"The order of tokens at '{self.module}' is no permutation: name each of {len(self.order)} tokens once, from 0."
            )
        if self.rows < 1 or self.padding < 0 or self.trailing < 0:
            raise DiagnosticsError(
                f"A tap at '{self.module}' cannot have {self.rows} rows a sample, {self.padding} tokens of padding and "
                f"{self.trailing} trailing ones."
            )

    def __str__(self) -> str:
        which = f" call {self.call + 1} of {self.calls}" if self.calls > 1 else ""
        layout = "" if self.layout == "tokens" else f" as {self.layout}"
        rows = f", {self.rows} rows a sample" if self.rows > 1 else ""
        padding = f" without {self.padding} of padding" if self.padding else ""
        trailing = f" without the last {self.trailing}" if self.trailing else ""
        item = f", tensor {self.item + 1}" if self.item else ""
        place = self.module or "the whole module"
        return f"{self.when} {place}{which}{item}{layout}{rows}{padding}{trailing}{self._ordered()}"

    @property
    def dropped(self) -> int:
        """How many tokens at both ends are no part of the tap."""
        return self.padding + self.trailing

    @property
    def kept(self) -> slice:
        """The tokens between them."""
        return slice(self.padding, -self.trailing or None)

    def _ordered(self) -> str:
        """The order by a digest of itself: the text stands in the identity of what is stored."""
        if not self.order:
            return ""
        return f" in order {hashlib.sha256(repr(self.order).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Tap:
    """A named place where activations are read.

    `depth` is 0 after the embedding and 1 at the trunk's output; taps of a head stand beyond 1. `features` is the
    width F of what the tap hands over as [sample, token, feature].
    """

    name: str
    depth: float
    part: Part
    features: int
    grid: Grid
    site: Site | None = None

    def __post_init__(self) -> None:
        if not SAFE_NAME.fullmatch(self.name):
            raise DiagnosticsError(
                f"Tap name {self.name!r} cannot be stored: use letters, digits, '_', '-' and '.', not starting with a dot."
            )
        if not (math.isfinite(self.depth) and self.depth >= 0) or (self.part != "head" and self.depth > 1):
            raise DiagnosticsError(
                f"Tap {self.name} has depth {self.depth}: 0 is after the embedding, 1 the trunk's output, only heads lie beyond."
            )
        if self.site is not None and self.site.rows > 1 and self.site.rows != self.grid.shape[0]:
            raise DiagnosticsError(
                f"Tap {self.name} has {self.site.rows} rows a sample, which do not fit a grid of {self.grid}: its first axis "
                "must be theirs."
            )

    @property
    def tokens(self) -> int:
        """Number of tokens handed over, prefix tokens included."""
        return self.grid.prefix + self.grid.tokens


def stack_taps(
    stack: str,
    count: int,
    features: int,
    grid: Grid,
    *,
    norm: str | None = None,
    layout: Layout = "tokens",
) -> list[Tap]:
    """Taps of the common encoder: `embed` (what `stack`.0 takes), `stack`.0 ... `stack`.{count-1}, and the final `norm`.

    The last block and the norm both stand at depth 1: the trunk's output before and after normalisation.
    """
    short = stack.rsplit(".", 1)[-1]
    taps = [Tap("embed", 0.0, "embedding", features, grid, Site(f"{stack}.0", when="before", layout=layout))]
    for i in range(count):
        site = Site(f"{stack}.{i}", layout=layout)
        taps.append(Tap(f"{short}.{i}", (i + 1) / count, "trunk", features, grid, site))
    if norm is not None:
        taps.append(Tap("norm", 1.0, "trunk", features, grid, Site(norm, layout=layout)))
    return taps

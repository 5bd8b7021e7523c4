"""Declaring where activations are read: taps, and their sites in a forward pass.

Shape suffixes used below: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from diagnostics.errors import DiagnosticsError, join_names, refuse_values
from diagnostics.vocabulary import SAFE_NAME

# The grid: where in the input a tap's tokens lie, and which come before it without a place (class token, registers).


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
                f"A grid needs one axis name for each extent of at least 1, not shape {self.shape} with axes "
                f"{self.axes}.",
                code="bad-value",
            )

    @property
    def tokens(self) -> int:
        """Number of grid tokens, without prefix tokens."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        cells = spell_grid(self.shape, self.axes)
        return f"{cells} + {self.prefix} prefix" if self.prefix else cells


def spell_grid(shape: Sequence[int], axes: Sequence[str]) -> str:
    """A grid in words: `16 t`, or `8 x 8 (y, x)`."""
    if len(axes) == 1:
        return f"{shape[0]} {axes[0]}"
    return f"{' x '.join(map(str, shape))} ({', '.join(axes)})"


Part = Literal["embedding", "trunk", "head"]
Layout = Literal["tokens", "channels_first", "channels_last", "features", "time_first", "packed"]


@dataclass(frozen=True)
class Site:
    """The point of a forward pass at which a tap reads, and how the tensor there becomes tokens [B, T, F].

    Parameters
    ----------
    module: qualified name of a module; "" for the whole module.
    call, calls: which call of the module is read (from 0), and how many there are in one pass.
    when: whether the module's input (`before`) or its output (`after`) is read.
    layout: of the tensor: `tokens` [B, T, F], `time_first` [T, B, F], `channels_first` [B, F, *grid], `channels_last`
        [B, *grid, F], `features` [B, F], or `packed` [B * T, F] or [1, B * T, F] (all samples concatenated).
    padding, trailing: number of first and last tokens that are dropped, so that padding never counts as data.
    order: for tensors whose tokens are not prefix first and then in raster order (special tokens at the end, windows,
    patch
        by patch through time): `order[i]` is the position, after the padding, of the i-th token of the tap; a
        permutation.
    rows: for samples that occupy several consecutive rows of the batch axis (frames, variates): these become the first
    axis
        of the grid, and their prefix tokens are averaged.
    item: which tensor is read where a module takes or gives several, in their order.

    Raises DiagnosticsError for a call out of range, an `order` that is no permutation, and negative counts.

    Examples:
        What a block takes; a map of channels, as a ResNet gives it; and the third of ten calls of a shared block:

        >>> import diagnostics as dx
        >>> print(dx.Site("blocks.0", when="before"))
        before blocks.0
        >>> print(dx.Site("layer3", layout="channels_first"))
        after layer3 as channels_first
        >>> print(dx.Site("block", call=2, calls=10))
        after block call 3 of 10
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
        refuse_values(
            (
                not 0 <= self.call < self.calls,
                f"A tap cannot read call {self.call} of the {self.calls} call(s) of '{self.module}': calls "
                f"count from 0.",
            ),
            (
                sorted(self.order) != list(range(len(self.order))),
                f"The order of tokens at '{self.module}' is no permutation: name each of {len(self.order)} tokens "
                f"once, from 0.",
            ),
            (
                self.rows < 1 or self.padding < 0 or self.trailing < 0,
                f"A tap at '{self.module}' cannot have {self.rows} rows a sample, {self.padding} tokens of padding and "
                f"{self.trailing} trailing ones.",
            ),
        )

    def __str__(self) -> str:
        which = f" call {self.call + 1} of {self.calls}" if self.calls > 1 else ""
        layout = "" if self.layout == "tokens" else f" as {self.layout}"
        rows = f", {self.rows} rows a sample" if self.rows > 1 else ""
        padding = f" without {self.padding} of padding" if self.padding else ""
        trailing = f" without the last {self.trailing}" if self.trailing else ""
        item = f", tensor {self.item + 1}" if self.item else ""
        # A short digest, since this text is part of the identity of stored activations.
        order = f" in order {hashlib.sha256(repr(self.order).encode()).hexdigest()[:8]}" if self.order else ""
        place = self.module or "the whole module"
        return f"{self.when} {place}{which}{item}{layout}{rows}{padding}{trailing}{order}"

    @property
    def dropped(self) -> int:
        """Number of tokens at both ends that are not part of the tap."""
        return self.padding + self.trailing

    @property
    def kept(self) -> slice:
        """The tokens that are part of the tap, before they are put in order."""
        return slice(self.padding, -self.trailing or None)


@dataclass(frozen=True)
class Tap:
    """A named place in an encoder where activations [sample, token, feature] are read.

    Parameters
    ----------
    name: also the name of a folder in the store: letters, digits, `_`, `-` and `.`.
    depth: 0 after the embedding, 1 at the trunk's output, above 1 in a head.
    part: `embedding`, `trunk` or `head`.
    features: width F of a token.
    grid: the places that the tokens represent.
    site: where a torch module (or graph) is read; None for encoders that read their taps in another way.

    Raises DiagnosticsError for a name that cannot be stored, a depth out of range, and rows that do not fit the grid.

    Examples:
        >>> import diagnostics as dx
        >>> grid = dx.Grid((14, 14), ("y", "x"), prefix=1)
        >>> tap = dx.Tap("blocks.5", 0.5, "trunk", 384, grid, dx.Site("blocks.5"))
        >>> tap.tokens
        197
    """

    name: str
    depth: float
    part: Part
    features: int
    grid: Grid
    site: Site | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Grid):
            raise DiagnosticsError(
                f"Tap {self.name} has no grid: a tap with one token, as a head, has Grid((), ()).",
                code="missing-option",
            )
        refuse_values(
            (
                not SAFE_NAME.fullmatch(self.name),
                f"Tap name {self.name!r} cannot be stored: use letters, digits, '_', '-' and '.', not starting "
                f"with a dot.",
            ),
            (
                not (math.isfinite(self.depth) and self.depth >= 0) or (self.part != "head" and self.depth > 1),
                f"Tap {self.name} has depth {self.depth}: 0 is after the embedding, 1 the trunk's output, only heads "
                f"lie beyond.",
            ),
        )
        if self.site is not None and self.site.rows > 1 and self.site.rows != self.grid.shape[0]:
            raise DiagnosticsError(
                f"Tap {self.name} has {self.site.rows} rows a sample, which do not fit a grid of {self.grid}: its "
                f"first axis must be theirs.",
                code="no-grid",
            )

    @property
    def tokens(self) -> int:
        """Number of tokens of a sample, prefix tokens included."""
        return self.grid.prefix + self.grid.tokens


def taps_together(taps: Iterable[str]) -> list[str]:
    """Names of taps that are read side by side; raises DiagnosticsError for none, and for one that is there twice."""
    names = list(taps)
    if not names or len(set(names)) < len(names):
        raise DiagnosticsError(
            f"Taps to read side by side are {names}: name one or several, each once.", code="bad-value"
        )
    return names


def require_one_grid(taps: Iterable[Tap]) -> None:
    """Raise for taps whose tokens cannot stand side by side, since their grids differ."""
    grids = {str(tap.grid): tap.name for tap in taps}
    if len(grids) > 1:
        found = join_names([f"{name} has {grid}" for grid, name in grids.items()])
        raise DiagnosticsError(
            f"Tokens of taps on unequal grids cannot stand side by side ({found}): name taps of one grid.",
            code="no-grid",
        )


def stack_taps(
    stack: str,
    count: int,
    features: int,
    grid: Grid,
    *,
    norm: str | None = None,
    layout: Layout = "tokens",
) -> list[Tap]:
    """Taps of a stack of blocks: `embed` (the input of `stack`.0), `stack`.0 to `stack`.{count-1}, and the `norm`.

    Parameters
    ----------
    stack: qualified name of the list of blocks; `count` is its length.
    features, grid: of all these taps.
    norm: qualified name of the final normalisation, if any. It and the last block are both at depth 1: the trunk's
    output
        before and after normalisation.
    layout: of the tensors at all these sites; see `Site`.

    Examples:
        >>> import diagnostics as dx
        >>> grid = dx.Grid((32,), ("t",))
        >>> for tap in dx.stack_taps("model.layers", 2, 64, grid, norm="model.norm"):
        ...     print(tap.name, tap.depth, tap.site)
        embed 0.0 before model.layers.0
        layers.0 0.5 after model.layers.0
        layers.1 1.0 after model.layers.1
        norm 1.0 after model.norm
    """
    short = stack.rsplit(".", 1)[-1]
    taps = [Tap("embed", 0.0, "embedding", features, grid, Site(f"{stack}.0", when="before", layout=layout))]
    for i in range(count):
        site = Site(f"{stack}.{i}", layout=layout)
        taps.append(Tap(f"{short}.{i}", (i + 1) / count, "trunk", features, grid, site))
    if norm is not None:
        taps.append(Tap("norm", 1.0, "trunk", features, grid, Site(norm, layout=layout)))
    return taps

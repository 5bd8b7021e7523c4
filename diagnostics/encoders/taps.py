"""Where activations are read: grids, sites, taps, and the encoder contract.

Shape suffixes used below: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from torch import Tensor

from diagnostics.errors import DiagnosticsError, unknown

Modality = Literal["image", "video", "series", "audio", "text"]
Part = Literal["embedding", "trunk", "head"]
Layout = Literal["tokens", "channels_first", "channels_last", "features", "time_first", "packed"]

# Tap names become folders of the store, in which Zarr keeps one file of its own.
SAFE_NAME = re.compile(r"(?!zarr\.json$)[A-Za-z0-9_][A-Za-z0-9_.\-]*")


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


Reduce = Callable[[Tap, Tensor], Any]


def keep(tap: Tap, tokens: Tensor) -> Tensor:
    """The reduction that keeps all tokens: a copy [B, T, F], safe from later in-place operations."""
    return tokens.clone()


class Seen(dict[str, Any]):
    """What was read at some taps, `{tap name: value}`, and why it was not at others, `left_out`."""

    def __init__(self, values: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
        super().__init__(values)
        self.left_out = dict(left_out)


class Encoder(ABC):
    """A model with its preprocessing, seen through its taps.

    Subclasses set `name`, `modality`, `taps` (in order of execution) and `output_tap` (the name of the tap that the
    encoder's makers hand to users), and implement the abstract methods. A torch module needs no subclass: see
    `TorchEncoder`.
    """

    name: str
    modality: Modality
    taps: tuple[Tap, ...]
    output_tap: str
    rate: float | None = None
    """Samples a second (Hz) that audio must have, frames a second of a video; None where it does not matter."""
    spec: str = ""
    """The name that it was asked for, as on the command line; "" for an object made in Python."""
    skeleton: str = ""
    """A name that builds the same architecture, preprocessing and taps, whatever the weights; "" means `spec`."""
    lineage: Mapping[str, Any] = MappingProxyType({})
    """What made the weights, as plain JSON values. Comparisons read `group` (a label), `seed` (of the training) and `base`
    (the weights' identity of the encoder that an alignment started from)."""

    redrawn: float = 1.0
    """Of a control with other weights: which share of the encoder's numbers it has otherwise."""
    note: str = ""
    """What is to be known beside it, in words: of a control, which numbers are not drawn anew."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Digests of `weights`, `configuration` and `preprocessing`; equal digests mean equal activations."""

    @abstractmethod
    def example(self) -> np.ndarray:
        """A raw sample that the encoder accepts, for dry runs and cost estimates."""

    @abstractmethod
    def preprocess(self, sample: np.ndarray) -> Any:
        """One raw sample as what `torch.utils.data.default_collate` can batch."""

    @abstractmethod
    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        """`{tap name: reduce(tap, activations [sample, token, feature])}` from one forward pass.

        `reduce` runs on the device at the moment the tap fires, before a later operation can overwrite the tensor,
        and must not keep the tensor it is given. All taps when `taps` is None.
        """

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Seen:
        """`{tap name: reduce(tap, attention [sample, head, query, key])}` of the blocks that the taps stand after.

        Over all tokens of the tap, prefix tokens first. `reduce` returns a tensor [sample, ...], and may be given the
        batch in parts. Taps without one attention of their own are left out; raises where all are.
        """
        raise DiagnosticsError(f"{self.name} gives no attention.")

    def input_gradient(self, batch: Any, taps: Sequence[str] | None = None) -> Seen:
        """`{tap name: float tensor [sample, *places]}`: how strongly the tap's central grid token depends on each place.

        Places are those of the input that the grid covers, as the model takes it (pixels, time steps). Taps whose grid
        does not show which axes these are are left out; raises where all are.
        """
        raise DiagnosticsError(f"{self.name} gives no gradients.")

    def sized_for(self, sample: np.ndarray) -> Encoder:
        """This encoder with the grids that it has for samples of this size; raises when the size does not fit."""
        return self

    def valid(self, batch: Any, tap: Tap) -> Tensor | None:
        """Which grid tokens of a tap stand for data, bool [sample, grid token]; None where all do (no padding, no mask)."""
        return None

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """For a sample whose grid axes have these extents: the (start, stop) that the grid covers along each axis.

        Differs from `(0, extent)` where preprocessing crops, so that dense targets are cut as the input was.
        """
        return tuple((0.0, float(n)) for n in shape)

    def to(self, device: str) -> Encoder:
        """This encoder on a device; returns itself."""
        return self

    @contextmanager
    def on(self, device: str) -> Generator[None]:
        """This encoder on a device while inside, and afterwards where it was; by default `to` it and to the CPU."""
        self.to(device)
        try:
            yield
        finally:
            self.to("cpu")

    def fresh(self, seed: int) -> Encoder:
        """The same architecture with untrained weights: the control for what training brought."""
        raise DiagnosticsError(f"{self.name} has no weights to draw afresh.")

    def permuted(self, seed: int) -> Encoder:
        """The same weights, shuffled within each tensor: the control for the weights' distribution alone."""
        raise DiagnosticsError(f"{self.name} has no weights to permute.")

    def tap(self, name: str) -> Tap:
        """The tap of that name; unknown names raise with the nearest ones."""
        for tap in self.taps:
            if tap.name == name:
                return tap
        raise unknown("tap", name, [tap.name for tap in self.taps], f"See `diagnostics inspect {self.name}`.")

    @property
    def poolings(self) -> tuple[str, ...]:
        """How tokens are pooled, side by side: see `pool`."""
        grids = [tap.grid for tap in self.taps]
        last = ("last",) if any(grid.axes == ("t",) and grid.tokens > 1 for grid in grids) else ()
        prefix = ("prefix",) if any(grid.prefix for grid in grids) else ()
        return ("mean", *last, *prefix)


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

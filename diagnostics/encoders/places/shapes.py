"""Which places a tensor's tokens stand for, inferred from its shape and the axes of the input.

Shape suffixes: B sample, T token, F feature.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from diagnostics.encoders.hooks import tensors_in
from diagnostics.encoders.taps import Grid, Layout, spelled
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import Modality

MOST_PREFIX = 16
"""More special tokens than that are not guessed."""


@dataclass(frozen=True)
class Place:
    """How a tensor becomes tokens: the layout and rows of its `Site`, and the features and grid of its `Tap`.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders.places import Places
        >>> places = Places("mine", {"y": 224, "x": 224}, samples=2)
        >>> place = places.of(torch.zeros(2, 256, 14, 14), "layer3")
        >>> print(place.layout, place.features, place.grid)
        channels_first 256 14 x 14 (y, x)
    """

    layout: Layout
    features: int
    grid: Grid
    rows: int = 1


@dataclass
class Places:
    """Finds the places of tensors from their shapes, given the input's extents.

    Parameters
    ----------
    encoder: its name, for errors.
    extents: of the input along each axis that tokens can lie on, slowest first: {"y": 224, "x": 224}, {"t": 512}.
    samples: in the batch.
    grid, prefix: of the trunk's tokens (number of special tokens) where they are known; both are tried first.
    channels_last: of maps whose shape leaves it open, where the model says so itself.
    certain: whether `prefix` was given, and not only seen at the first block.
    features_first: whether places lie behind features, where shape and weights leave it open; see `FirstBlockInput`.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders.places import Places
        >>> places = Places("mine", {"y": 224, "x": 224}, samples=2, prefix=1)
        >>> print(places.of(torch.zeros(2, 197, 384), "blocks.0").grid)
        14 x 14 (y, x) + 1 prefix
        >>> print(places.of(torch.zeros(2, 49, 384), "stages.3").grid)
        7 x 7 (y, x)
    """

    encoder: str
    extents: Mapping[str, int]
    samples: int
    grid: Grid | None = None
    prefix: int | None = None
    channels_last: bool | None = None
    certain: bool = True
    features_first: bool | None = None

    def of(self, tensor: Tensor, name: str, module: nn.Module | None = None) -> Place:
        """The place of a tensor; raises where no grid fits, or several do."""
        shape = tuple(tensor.shape)
        if shape[0] == self.samples:
            place = self._of_row(shape, tuple(self.extents), module)
        elif len(shape) == 3 and shape[1] == self.samples:
            grid = self._token_grid(shape[0], tuple(self.extents))
            place = Place("time_first", shape[2], grid) if grid else None
        elif shape[0] % self.samples == 0:
            place = self._of_rows(shape, module)
        else:
            place = None
        if place is None:
            raise DiagnosticsError(
                f"{self.encoder} gives a tensor of shape {list(shape)} at {name} for an input of "
                f"{spelled([*self.extents.values()], [*self.extents])}, which fits no grid of it: declare its taps "
                "yourself (docs/how-to/plugins.md)."
            )
        return place

    def _of_rows(self, shape: tuple[int, ...], module: nn.Module | None) -> Place | None:
        """Frames or variates folded into the batch: the first axis of the input is that of the rows."""
        rows = shape[0] // self.samples
        first, *rest = self.extents
        if first not in ("t", "v") or rows > self.extents[first] or not rest:
            return None
        known = self.grid.prefix if self.grid else self.prefix
        extents = {axis: self.extents[axis] for axis in rest}
        inner = replace(self, extents=extents, samples=shape[0], grid=None, prefix=known)
        row = inner._of_row(shape, tuple(rest), module)
        if row is None:
            return None
        if len(shape) == 2:
            return Place("features", shape[1], Grid((rows,), (first,)), rows)
        grid = Grid((rows, *row.grid.shape), (first, *row.grid.axes), row.grid.prefix)
        return Place(row.layout, row.features, grid, rows)

    def _of_row(self, shape: tuple[int, ...], axes: tuple[str, ...], module: nn.Module | None) -> Place | None:
        if len(shape) == 2:
            return Place("features", shape[1], Grid((1,), ("t",)))
        if len(shape) == 3:
            grid = self._token_grid(shape[1], axes)
            certain = grid is not None and self.grid is not None and grid.shape == self.grid.shape
            turned = self._token_grid(shape[2], axes) if len(axes) == 1 and not certain else None
            if turned is not None and (grid is None or self._features_first(shape[1], shape[2], module)):
                return Place("channels_first", shape[1], Grid(turned.shape, axes)) if not turned.prefix else None
            return Place("tokens", shape[2], grid) if grid else None
        if len(shape) != 2 + len(axes):
            return None
        first, last = self._fits(shape[2:], axes), self._fits(shape[1:-1], axes)
        if not first and not last:
            # Strides that differ along the axes keep no proportions, and divide.
            first, last = self._divides(shape[2:], axes), self._divides(shape[1:-1], axes)
        if first and last:
            # As many features as places along a side: the model may tell, or its weights, which have as many features.
            if self.channels_last is not None:
                first = not self.channels_last
            else:
                first = self._features_first(shape[1], shape[-1], module)
        if first:
            return Place("channels_first", shape[1], Grid(shape[2:], axes))
        return Place("channels_last", shape[-1], Grid(shape[1:-1], axes)) if last else None

    def _features_first(self, first: int, last: int, module: nn.Module | None) -> bool:
        """Whether features lie on the first of two axes that both fit: the weights have as many, or a change showed it."""
        sizes = {size for p in module.parameters() for size in p.shape} if module is not None else set[int]()
        if (first in sizes) != (last in sizes):
            return first in sizes
        if self.features_first is None:
            raise DiagnosticsError(
                f"{self.encoder} has {first} by {last} numbers, and it is unclear which axis is the features: give it an "
                "example of another size, or declare its taps yourself (docs/how-to/plugins.md)."
            )
        return self.features_first

    def _token_grid(self, tokens: int, axes: Sequence[str]) -> Grid | None:
        known = self.grid
        if "v" in axes and known is None and tokens - (self.prefix or 0) == self.extents["v"]:
            return Grid((self.extents["v"],), ("v",), self.prefix or 0)
        # Some models add their class token only after the blocks.
        if known is not None and tuple(known.axes) == tuple(axes):
            for before in dict.fromkeys((known.prefix, 0)):
                if tokens == before + known.tokens:
                    return Grid(known.shape, known.axes, before)
        guesses = dict.fromkeys((0,) if self.prefix is None else (self.prefix, 0))
        if not self.certain and len(axes) > 1:
            # Special tokens may come in after the first block, and only two axes or more show how many.
            guesses |= dict.fromkeys(range(MOST_PREFIX + 1))
        for before in guesses:
            shapes = self._shapes(tokens - before, axes)
            if len(shapes) == 1:
                return Grid(shapes[0], tuple(axes), before)
            if shapes:
                raise DiagnosticsError(
                    f"{self.encoder} has {tokens} tokens, which may be a grid of "
                    f"{' or '.join('x'.join(map(str, shape)) for shape in shapes[:3])}: declare which one."
                )
        # Frames of a convolution without padding divide no length.
        alone = len(axes) == 1 and axes[0] == "t" and 0 < tokens - (self.prefix or 0) <= self.extents["t"]
        return Grid((tokens - (self.prefix or 0),), ("t",), self.prefix or 0) if alone else None

    def _shapes(self, tokens: int, axes: Sequence[str]) -> list[tuple[int, ...]]:
        """The grids of so many tokens that divide the input, or keep its proportions."""
        if tokens < 1:
            return []
        first, *rest = axes
        if tuple(axes) == ("y", "x"):
            rows = round(math.sqrt(tokens * self.extents["y"] / self.extents["x"]))
            shape = (rows, tokens // rows) if rows else (0, 0)
            return [shape] if rows and math.prod(shape) == tokens and self._fits(shape, axes) else []
        if first == "v" and rest:
            count = self.extents["v"]
            return [(count, *shape) for shape in self._shapes(tokens // count, rest)] if tokens % count == 0 else []
        extent = self.extents[first]
        if not rest:
            return [(tokens,)] if extent % tokens == 0 else []
        return [
            (n, *shape)
            for n in range(1, extent + 1)
            if extent % n == 0 and tokens % n == 0
            for shape in self._shapes(tokens // n, rest)
        ]

    def _divides(self, shape: Sequence[int], axes: Sequence[str]) -> bool:
        return all(self.extents[axis] % n == 0 for axis, n in zip(axes, shape, strict=True))

    def _fits(self, shape: Sequence[int], axes: Sequence[str]) -> bool:
        """Whether a map has the input's proportions, and no axis more places than the input."""
        sizes = dict(zip(axes, shape, strict=True))
        if any(n > self.extents[axis] for axis, n in sizes.items() if axis in "tv"):
            return False
        if "v" in sizes and sizes["v"] != self.extents["v"]:
            return False
        if "y" not in sizes or "x" not in sizes:
            return True
        height, width = self.extents["y"], self.extents["x"]
        return abs(sizes["y"] * width - sizes["x"] * height) < max(height, width)


def extents_of(modality: Modality, batch: Any, encoder: str, sample: tuple[int, ...] = ()) -> dict[str, int]:
    """The extents of a preprocessed batch, by its modality; raises where the shape leaves them open.

    image [B, (channel,) y, x] or [B, y, x, channel]; video [B, (channel,) t, (channel,) y, x]; audio and text [B, t], or
    the longer of two axes; series [B, t], [B, variate, t] or [B, t, variate], of which the shape of the raw `sample` [time,
    variate] says which is which, and otherwise time is the longer one.
    """
    tensors = tensors_in(batch)
    shape = list(tensors[0].shape[1:]) if tensors else list[int]()
    colours = (1, 3, 4)
    if modality == "image" and len(shape) in (2, 3):
        last = len(shape) == 3 and shape[2] in colours and shape[0] not in colours
        y, x = (shape[0], shape[1]) if last else (shape[-2], shape[-1])
        return {"y": y, "x": x}
    if modality == "video" and len(shape) == 4 and (shape[0] == 3) != (shape[1] == 3):
        return {"t": shape[1] if shape[0] == 3 else shape[0], "y": shape[2], "x": shape[3]}
    if modality == "video" and len(shape) == 4 and shape[0] == 3 and len(sample) == 4 and sample[0] == 3:
        return {"t": 3, "y": shape[2], "x": shape[3]}
    if modality in ("series", "audio", "text") and len(shape) in (1, 2):
        if len(shape) == 1 or modality != "series":
            return {"t": max(shape)}
        if len(sample) == 2 and sorted(sample) == sorted(shape) and sample[1] > 1:
            return {"v": sample[1], "t": sample[0]}
        return {"v": min(shape), "t": max(shape)} if min(shape) > 1 else {"t": max(shape)}
    raise DiagnosticsError(
        f"{encoder} prepares a {modality} as a tensor of shape {shape}, which does not show its axes: declare its "
        "taps yourself (docs/how-to/plugins.md)."
    )

"""The taps of a timm model, with grids from what one dry forward pass shows.

Shape suffixes: B sample, T token, F feature, Y and X places.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, Site, Tap
from diagnostics.discovery import find_blocks

# Their tokens do not lie in raster order or have no fixed grid.
_NOT_YET = {"Hiera": "its tokens lie in unrolled windows", "NaFlexVit": "its grid differs from image to image"}


def forward(module: nn.Module, batch: Tensor) -> None:
    """The trunk without pooling and classifier."""
    module.forward_features(batch)  # pyright: ignore[reportCallIssue]


@dataclass
class _Trace:
    """What a dry pass showed: blocks in order of execution, and what ran after the last of them."""

    calls: Counter[str] = field(default_factory=Counter[str])
    order: list[str] = field(default_factory=list[str])
    entered: Any = None
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    tail: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    final: Any = None


def model_taps(model: nn.Module, encoder: str, input_size: tuple[int, int, int]) -> list[Tap]:
    """`embed`, every block, and the trunk's end where something follows the last block; in order of execution."""
    kind = type(model).__name__
    if kind in _NOT_YET:
        raise DiagnosticsError(f"{encoder} ({kind}) is not supported yet: {_NOT_YET[kind]}.")
    _check_size(model, encoder, input_size)
    blocks = find_blocks(model, encoder)
    model.eval()
    image = torch.randn((1, *input_size), generator=torch.Generator().manual_seed(0))
    trace = _dry_run(model, blocks, image, encoder)
    places = _Places(model, encoder, input_size)
    taps = [places.tap("embed", 0.0, "embedding", trace.entered, trace.order[0], when="before")]
    for i, name in enumerate(trace.order):
        taps.append(places.tap(name, (i + 1) / len(blocks), "trunk", trace.outputs[name], name))
    end = _end(model, trace, taps[-1])
    if end is not None:
        taps.append(places.tap(end[0], 1.0, "trunk", end[1], end[0]))
    _check_places(model, taps[0], trace.order[0], image, encoder)
    return taps


def _check_size(model: nn.Module, encoder: str, input_size: tuple[int, int, int]) -> None:
    """Patches that do not divide the image would leave its last rows and columns unseen."""
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    # Overlapping patches are padded, and leave nothing out.
    if not isinstance(cut, nn.Conv2d) or cut.kernel_size != cut.stride:
        return
    if any(n % side for n, side in zip(input_size[1:], cut.stride, strict=True)):
        raise DiagnosticsError(
            f"{encoder} cuts images of {list(input_size[1:])} pixels into patches of {list(cut.stride)}, "
            "which do not fit: choose an img_size that is a multiple of the patch."
        )


def _dry_run(model: nn.Module, blocks: list[str], image: Tensor, encoder: str) -> _Trace:
    trace = _Trace()
    inside = tuple(f"{name}." for name in blocks)
    handles: list[Any] = []
    open_blocks: list[str] = []

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if open_blocks:
                raise DiagnosticsError(f"{encoder} runs {name} inside {open_blocks[-1]}: it is not supported yet.")
            open_blocks.append(name)
            if not trace.order:
                # What else a block takes (position codes, a map's size, global queries) is no activation of the trunk.
                trace.entered = _only((args or tuple(kwargs.values()))[:1], name, encoder)
            trace.calls[name] += 1
            trace.order.append(name)

        return hook

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if name in blocks:
                open_blocks.pop()
                trace.tail.clear()
                # Cloned, as a later operation may work in place.
                trace.outputs[name] = _only(output, name, encoder).clone()
            elif trace.order and isinstance(output, Tensor):
                trace.tail.append((name, output.clone()))

        return hook

    for name, module in model.named_modules():
        if name in blocks:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        elif name.startswith(inside) or not name or isinstance(module, nn.Identity):
            continue
        handles.append(module.register_forward_hook(after(name)))
    try:
        with torch.inference_mode():
            trace.final = model.forward_features(image)  # pyright: ignore[reportCallIssue]
    except DiagnosticsError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise DiagnosticsError(
            f"{encoder} does not run on an input of {list(image.shape[1:])} ({type(error).__name__}: {said}): "
            "try another img_size."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    odd = [name for name in blocks if trace.calls[name] != 1]
    if odd:
        raise DiagnosticsError(
            f"{encoder} runs {odd[0]} {trace.calls[odd[0]]} times in a pass, not once: it is not supported yet."
        )
    return trace


def _only(value: Any, name: str, encoder: str) -> Tensor:
    """The activations among what a block takes or gives; several maps side by side are refused, not cut to one."""
    parts = list(value) if isinstance(value, (tuple, list)) else [value]
    maps = [part for part in parts if isinstance(part, Tensor) and part.ndim >= 3]
    if len(maps) != 1 or parts[0] is not maps[0]:
        raise DiagnosticsError(
            f"{encoder} ({name} does not hand on exactly one tensor of activations) is not supported yet."
        )
    return maps[0]


@dataclass
class _Places:
    """Which places a tensor's tokens stand for, from its shape and what the model declares."""

    model: nn.Module
    encoder: str
    input_size: tuple[int, int, int]

    def tap(self, name: str, depth: float, part: Any, seen: Tensor, module: str, when: Any = "after") -> Tap:
        layout, features, grid = self._places(seen, name)
        return Tap(name, depth, part, features, grid, Site(module, when=when, layout=layout))

    def _places(self, seen: Tensor, name: str) -> tuple[Any, int, Grid]:
        shape = tuple(seen.shape)
        if shape[0] == 1 and len(shape) == 3:
            grid = self._token_grid(shape[1])
            if grid is not None:
                return "tokens", shape[2], grid
        if shape[0] == 1 and len(shape) == 4:
            first, last = self._fits(shape[2], shape[3]), self._fits(shape[1], shape[2])
            if first and last:
                # As many features as places along a side: only the model can tell.
                last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
                first = not last
            if first:
                return "channels_first", shape[1], Grid(shape[2:], ("y", "x"))
            if last:
                return "channels_last", shape[3], Grid(shape[1:3], ("y", "x"))
        raise DiagnosticsError(
            f"{self.encoder} gives a tensor of shape {list(shape)} at {name} for an input of {list(self.input_size)}, "
            "which fits no grid of its image: it is not supported yet."
        )

    def _token_grid(self, tokens: int) -> Grid | None:
        prefix = int(getattr(self.model, "num_prefix_tokens", 0) or 0)
        declared = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        # Some models add their class token only after the blocks.
        counts = dict.fromkeys((prefix, 0))
        for before in counts:
            if declared is not None and tokens == before + math.prod(declared):
                return Grid(tuple(int(n) for n in declared), ("y", "x"), before)
        height, width = self.input_size[1:]
        for before in counts:
            rows = round(math.sqrt(max(0, tokens - before) * height / width))
            columns = (tokens - before) // rows if rows else 0
            if rows and rows * columns == tokens - before and self._fits(rows, columns):
                return Grid((rows, columns), ("y", "x"), before)
        return None

    def _fits(self, rows: int, columns: int) -> bool:
        """Whether a map has the image's proportions."""
        height, width = self.input_size[1:]
        return abs(rows * width - columns * height) < max(height, width)


def _end(model: nn.Module, trace: _Trace, last: Tap) -> tuple[str, Tensor] | None:
    """What gives the trunk's output after the last block: its final norm, or final convolution and norm.

    The norm may stand elsewhere under the same name (in the head, after pooling) or be an identity, so what counts is
    whose output the trunk hands over.
    """
    final = trace.final
    if not isinstance(final, Tensor):
        return None
    block = trace.outputs[trace.order[-1]]
    if block.shape == final.shape and torch.equal(block, final):
        return None
    around = tuple(name for name, _ in trace.tail if trace.order[-1].startswith(f"{name}."))
    tail = [(name, seen) for name, seen in trace.tail if name not in around]
    givers = [(name, seen) for name, seen in tail if seen.shape == final.shape and torch.equal(seen, final)]
    if givers:
        # Of a module and its own last part, both of which give it, the module.
        return min(reversed(givers), key=lambda pair: pair[0].count("."))
    norms = [(name, seen) for name, seen in tail if "norm" in name.lower() and seen.shape == block.shape]
    return norms[-1] if norms else None


class _Reached(Exception):
    """Ends a pass at the first block."""


def _check_places(model: nn.Module, embed: Tap, module: str, image: Tensor, encoder: str) -> None:
    """Changes one cell of the image and looks which token moves, so that no order of tokens is taken on trust."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered: Tensor = (args or tuple(kwargs.values()))[0]
        if embed.site is not None and embed.site.layout == "channels_first":
            entered = entered.movedim(1, -1)
        seen.append(entered.reshape(1, -1, embed.features).clone())
        raise _Reached

    handle = model.get_submodule(module).register_forward_pre_hook(hook, with_kwargs=True)
    rows, columns = embed.grid.shape
    height, width = image.shape[2] / rows, image.shape[3] / columns
    cells = [None, (0, columns - 1), (rows - 1, 0)]
    try:
        with torch.inference_mode():
            for cell in cells:
                changed = image.clone()
                if cell is not None:
                    y, x = (int(cell[0] * height), int(cell[1] * width))
                    changed[:, :, y : max(y + 1, int(y + height)), x : max(x + 1, int(x + width))] += 3.0
                with contextlib.suppress(_Reached):
                    model.forward_features(changed)  # pyright: ignore[reportCallIssue]
    finally:
        handle.remove()
    for cell, tokens in zip(cells[1:], seen[1:], strict=True):
        moved = (tokens - seen[0])[0, embed.grid.prefix :].abs().sum(dim=-1)
        assert cell is not None
        row, column = divmod(int(moved.argmax()), columns)
        # A convolutional stem reaches one cell further.
        if bool(moved.max() > 0) and max(abs(row - cell[0]), abs(column - cell[1])) > 1:
            raise DiagnosticsError(
                f"{encoder} does not keep its tokens in the order of the image (cell {list(cell)} moved token "
                f"{[row, column]}): it is not supported yet."
            )

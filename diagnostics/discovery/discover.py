"""The taps of any torch module: `embed`, its blocks, the trunk's end, and its heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.discovery.order import axis_order, raster
from diagnostics.discovery.places import Place, Places, tensors_of
from diagnostics.discovery.stacks import find_blocks
from diagnostics.discovery.trace import Step, Trace, dry_run
from diagnostics.errors import DiagnosticsError
from diagnostics.taps import Grid, Part, Site, Tap

# They change no activations while a model is evaluated.
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass
class Discovered:
    """Taps in order of execution, `output_tap` (the trunk's last), and which heads were left out for what reason."""

    taps: list[Tap]
    output_tap: str
    left_out: dict[str, str] = field(default_factory=dict[str, str])


def discover(
    module: nn.Module,
    batch: Any,
    encoder: str,
    extents: Mapping[str, int],
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    blocks: Sequence[str] | None = None,
    grid: Grid | None = None,
    prefix: int | None = None,
    channels_last: bool | None = None,
    trunk: Callable[[nn.Module, Any], Any] | None = None,
) -> Discovered:
    """The taps that one dry pass shows.

    Parameters
    ----------
    module: in eval mode on the CPU.
    batch: what `forward` takes, of one sample or a few.
    extents: of the input along each axis that its tokens can lie on, slowest first: `{"y": 224, "x": 224}`,
        `{"t": 16, "y": 224, "x": 224}`, `{"t": 512}`, `{"v": 3, "t": 512}`.
    forward: `(module, batch)`, by default `module(batch)`.
    blocks: qualified names of the trunk's blocks; by default the stack that `find_blocks` finds.
    grid, prefix: of the trunk's tokens where they are known; otherwise what fits the extents.
    channels_last: of maps whose shape leaves it open.
    trunk: the part of `forward` that gives the trunk's output, where that is a call of its own; shows where the trunk
        ends.

    A module that runs several times in a pass gives a tap for each call, `name.0`, `name.1`, ... Modules that run after
    the trunk's end are heads, at depths beyond 1. The order of tokens is looked at, not trusted: see `axis_order`.

    Raises
    ------
    DiagnosticsError: where there is no stack of blocks, a tensor fits no grid, or tokens lie in an order of no axes.
    """
    run: Callable[[nn.Module, Any], Any] = forward or (lambda module, batch: module(batch))
    module.eval()
    names = list(blocks) if blocks is not None else find_blocks(module, encoder)
    whole = dry_run(module, names, batch, run, encoder)
    samples = len(tensors_of(batch)[0])
    places = Places(encoder, extents, samples, grid, prefix, channels_last)
    parts = dict(module.named_modules())
    first = whole.blocks[0]

    def placed(name: str, tap: str, depth: float, part: Part, seen: Tensor, call: int = 0, when: Any = "after") -> Tap:
        place = places.of(seen, name, parts[name])
        calls = whole.calls[name]
        site = Site(name, call, calls, when=when, layout=place.layout, rows=place.rows)
        return Tap(tap, depth, part, place.features, place.grid, site)

    taps = [placed(first.name, "embed", 0.0, "embedding", whole.entered, first.call, "before")]
    for i, step in enumerate(whole.blocks):
        tap = step.name if whole.calls[step.name] == 1 else f"{step.name}.{step.call}"
        taps.append(placed(step.name, tap, (i + 1) / len(whole.blocks), "trunk", step.gave, step.call))
    ended = whole if trunk is None else dry_run(module, names, batch, trunk, encoder)
    end = _end(ended, parts)
    if end is not None:
        taps.append(placed(end.name, end.name, 1.0, "trunk", end.gave, end.call))
    taps = _in_order(module, taps, batch, extents, run, encoder)
    found = Discovered(taps, taps[-1].name)
    _add_heads(found, _heads(whole, end, parts), placed)
    return found


def _in_order(
    module: nn.Module, taps: list[Tap], batch: Any, extents: Mapping[str, int], forward: Any, encoder: str
) -> list[Tap]:
    """The taps with the order that their tokens are found to lie in."""
    axes = axis_order(module, taps[0], batch, extents, forward, encoder)
    if axes is None or axes == tuple(range(len(axes))):
        return taps
    made: list[Tap] = []
    for tap in taps:
        assert tap.site is not None
        if tap.site.layout != "tokens" or tap.site.rows > 1 or len(tap.grid.shape) != len(axes):
            raise DiagnosticsError(
                f"{encoder} keeps its tokens in an order of its own (axes {axes}), and tap {tap.name} is no list of "
                "tokens: declare its taps yourself (docs/plugins.md)."
            )
        made.append(replace(tap, site=replace(tap.site, order=raster(tap.grid.shape, axes, tap.grid.prefix))))
    return made


def _end(trace: Trace, parts: Mapping[str, nn.Module]) -> Step | None:
    """What gives the trunk's output after the last block: its final norm, or final convolution and norm.

    The norm may stand elsewhere under the same name (in the head, after pooling) or be an identity, so what counts is
    whose output the trunk hands over.
    """
    final = trace.final
    last = trace.blocks[-1]
    tail = _after(trace)
    if final is not None and final.ndim >= 3:
        if _same(last.gave, final):
            return None
        givers = [step for step in tail if _same(step.gave, final)]
        if givers:
            # Of a module and its own last part, both of which give it, the module.
            return min(reversed(givers), key=lambda step: step.name.count("."))
    for step in tail:
        norm = "norm" in f"{step.name} {type(parts[step.name]).__name__}".lower()
        if norm and step.gave.shape == last.gave.shape and not _same(step.gave, last.gave):
            return step
    return None


def _after(trace: Trace) -> list[Step]:
    """What ran after the last block, without the modules that the last block is a part of."""
    last = trace.blocks[-1].name
    return [step for step in trace.tail if not last.startswith(f"{step.name}.")]


def _heads(trace: Trace, end: Step | None, parts: Mapping[str, nn.Module]) -> list[Step]:
    """The outermost modules that ran behind the trunk's end and changed something."""
    tail = _after(trace)
    if end is not None:
        behind = [i for i, step in enumerate(tail) if step.name == end.name]
        tail = tail[behind[0] + 1 :] if behind else tail
    names = {step.name for step in tail}

    def within(name: str) -> bool:
        return any(name.startswith(f"{other}.") for other in names)

    return [
        step
        for step in tail
        if not within(step.name)
        and not isinstance(parts[step.name], _IDLE)
        and not (end is not None and end.name.startswith(f"{step.name}."))
        and not (step.took is not None and _same(step.took, step.gave))
    ]


def _add_heads(found: Discovered, heads: Sequence[Step], placed: Callable[..., Tap]) -> None:
    """Taps of the heads, with what was pooled before the first of them where no module of its own did that."""
    steps: list[tuple[str, Step, Tensor, str]] = []
    for i, step in enumerate(heads):
        if i == 0 and step.took is not None and step.took.ndim == 2:
            steps.append(("pooled", step, step.took, "before"))
        steps.append((step.name, step, step.gave, "after"))
    for i, (tap, step, seen, when) in enumerate(steps):
        try:
            found.taps.append(placed(step.name, tap, 1 + (i + 1) / len(steps), "head", seen, step.call, when))
        except DiagnosticsError as error:
            found.left_out[tap] = str(error)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


__all__ = ["Discovered", "Place", "discover"]

"""Discovers the taps of a torch module in one dry pass: `embed`, its blocks, the end of the trunk, and its heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.hooks import (
    LOCAL,
    FirstBlockInput,
    Forward,
    as_tokens,
    distances,
    floating_in,
    largest_move,
    part_of,
    replace_tensor,
    tensor_at,
    tensors_in,
    tokens_at,
)
from diagnostics.encoders.places.judge import order_of_axes
from diagnostics.encoders.places.trunk import MOST_PREFIX, Places, Step, Trace, dry_run, earlier_stack, find_blocks
from diagnostics.encoders.taps import Grid, Part, Site, Tap
from diagnostics.errors import DiagnosticsError

# The order in which the tokens of a grid lie, determined by changing one cell of the input at a time.
#
# So no order of tokens is taken on trust. Only images and videos are tried: what a series' normalisation does to one
# cell, it does to all.

CHANGE = 3.0
"""What is added to a cell of a normalised input."""

RANDOM_CELLS = 6
MOST_CUTS = 16
_NOTHING = 1e-5


def axis_order(
    grid: Grid, batch: Any, extents: Mapping[str, int], tokens: Callable[[Any], Tensor | None], encoder: str
) -> tuple[int, ...] | None:
    """In which order the axes of a grid lie in its tokens, slowest first; (0, 1, ...) is raster order.

    `tokens`: batch -> [B, T, F] at the first tap.

    None where it cannot be told: no image or video, no axis of the input to change, or nothing that moves. Raises
    DiagnosticsError where no order of the axes explains what moves.
    """
    # Of images and videos alone.
    given = _input(batch, extents, grid.axes) if "y" in grid.axes and grid.axes == tuple(extents) else None
    if given is None:
        return None
    rest = tokens(batch)
    if rest is None:
        return None
    cells = _cells(grid.shape)
    moved: list[int] = []
    for cell in cells:
        changed = tokens(_changed(batch, *given, cell, grid.shape))
        if changed is None or changed.shape != rest.shape:
            return None
        token = largest_move(changed, rest, grid, grid.axes)
        moved.append(-1 if token is None else token)
    if max(moved) < 0:
        return None
    if (order := order_of_axes(grid.shape, np.array(cells), np.array(moved))) is not None:
        return order
    if _halves_follow(grid, batch, *given, tokens, rest):
        return tuple(range(len(grid.shape)))
    first = "none" if moved[0] < 0 else [int(n) for n in np.unravel_index(moved[0], grid.shape)]
    raise DiagnosticsError(
        f"{encoder} does not keep its tokens in the order of its input (cell {list(cells[0])} moved token {first}), "
        f"or its first layers reach too far to see it: "
        f"declare the taps yourself, with the order of their tokens (docs/how-to/plugins.md).",
        code="token-order",
    )


def raster(shape: Sequence[int], axes: Sequence[int], prefix: int) -> tuple[int, ...]:
    """The `order` of a `Site` whose tokens lie with `axes` slowest first, after `prefix` tokens."""
    tokens = np.arange(int(np.prod(shape))).reshape([shape[axis] for axis in axes])
    grid = tokens.transpose(np.argsort(axes)).ravel()
    return (*range(prefix), *(int(i) + prefix for i in grid))


def _halves_follow(
    grid: Grid, batch: Any, given: Tensor, axes: Sequence[int], tokens: Callable[[Any], Tensor | None], rest: Tensor
) -> bool:
    """True if a change of all that lies on one side of a place moves all tokens on that side of it, and no others.

    Convolutions are told by it whose first kernel covers many tokens: which of them a single cell moves the farthest is
    up to their weights. Both sides reach as far beyond the place, to within an eighth of the grid: without padding, a
    kernel lies off its place towards the edges by up to half its width.
    """
    for axis, n in enumerate(grid.shape):
        for place in range(1, n, max(1, n // MOST_CUTS)):
            start, stop = place * given.shape[axes[axis]] // n, given.shape[axes[axis]]
            ends: list[int] = []
            for span, step in (((start, stop), 1), ((0, start), -1)):
                changed = given.clone()
                part_of(changed, {axes[axis]: span}).add_(CHANGE)
                seen = tokens(replace_tensor(batch, given, changed))
                if seen is None or seen.shape != rest.shape:
                    return False
                far = distances(seen[:1], rest[:1], grid, grid.axes)[0, grid.prefix :].reshape(grid.shape)
                moved = np.moveaxis(far > _NOTHING * far.max(), axis, -1).reshape(-1, n).mean(0)[::step]
                ends.append(int(np.argmax(moved > 0.5)))
                if moved[: ends[-1]].any() or moved[ends[-1] :].min() <= 0.5:
                    return False
            if abs((ends[0] + n - ends[1]) / 2 - place) > max(1, n // 8):
                return False
    return True


def _input(batch: Any, extents: Mapping[str, int], axes: Sequence[str]) -> tuple[Tensor, list[int]] | None:
    """The tensor of the batch that has all the extents, and where its axes of places lie.

    None unless that is certain.
    """
    floating = [tensor for tensor in floating_in(batch) if tensor.ndim > len(axes)]
    if len(floating) != 1:
        return None
    places: list[int] = []
    stop = floating[0].ndim
    for axis in reversed(axes):
        # From the end, since pixels lie innermost; a channel axis may stand between frames and rows.
        fitting = [i for i in range(1, stop) if floating[0].shape[i] == extents[axis]]
        if not fitting:
            return None
        stop = fitting[-1]
        places.insert(0, stop)
    return floating[0], places


def _cells(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The far end of each axis, a cell whose places are as unlike as they can be, and some at random."""
    ends = [tuple(n - 1 if i == axis else 0 for i, n in enumerate(shape)) for axis in range(len(shape))]
    rng = np.random.default_rng(0)
    others = [tuple(int(rng.integers(n)) for n in shape) for _ in range(RANDOM_CELLS)]
    return list(dict.fromkeys([*ends, tuple(min(n - 1, i) for i, n in enumerate(shape)), *others]))


def _changed(batch: Any, given: Tensor, axes: Sequence[int], cell: Sequence[int], shape: Sequence[int]) -> Any:
    """The batch with something added in one cell of a grid of that shape."""
    spans: dict[int, tuple[int, int]] = {}
    for axis, place, n in zip(axes, cell, shape, strict=True):
        start, stop = (int(i * given.shape[axis] / n) for i in (place, place + 1))
        spans[axis] = start, max(start + 1, stop)
    changed = given.clone()
    part_of(changed, spans).add_(CHANGE)
    return replace_tensor(batch, given, changed)


# They change no activations while a model is evaluated.
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass
class Discovered:
    """The findings of discovery on a module.

    `taps` in order of execution, `output_tap` (the trunk's last), and `left_out`: why a head or a branch has no tap.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import diagnostics as dx
        >>> def block(n, m):
        ...     return nn.Sequential(nn.Conv1d(n, m, 5, stride=2, padding=2), nn.ReLU())
        >>> model = nn.Sequential(block(1, 8), block(8, 16), block(16, 32))
        >>> found = dx.discover(model, torch.randn(2, 1, 64), "mine", {"t": 64})
        >>> found.output_tap, found.taps[-1].depth, found.left_out
        ('2', 1.0, {})
    """

    taps: list[Tap]
    output_tap: str
    left_out: dict[str, str] = field(default_factory=dict[str, str])


def discover(
    module: nn.Module,
    batch: Any,
    encoder: str,
    extents: Mapping[str, int],
    *,
    forward: Forward | None = None,
    blocks: Sequence[str] | None = None,
    grid: Grid | None = None,
    prefix: int | None = None,
    channels_last: bool | None = None,
    trunk: Forward | None = None,
    with_order: Callable[[Tap], Tap] = lambda tap: tap,
) -> Discovered:
    """The taps of a module, from one dry pass and a few passes with part of the input changed.

    Parameters
    ----------
    module: on any device, in any mode, which it keeps: passes run in eval mode.
    batch: on that device, what `forward` takes, of one sample or a few.
    extents: of the input along each axis that its tokens can lie on, slowest first: `{"y": 224, "x": 224}`,
        `{"t": 16, "y": 224, "x": 224}`, `{"t": 512}`, `{"v": 3, "t": 512}`.
    forward: `(module, batch)`, by default `module(batch)`.
    blocks: qualified names of the trunk's blocks; by default the stack that `find_blocks` finds.
    grid, prefix: of the trunk's tokens where they are known; otherwise what fits the extents.
    channels_last: of maps whose shape leaves it open.
    trunk: the part of `forward` that gives the trunk's output, where that is a call of its own; shows where the trunk
        ends.
    with_order: a tap as discovered -> the same with the `order` of its tokens, where that is known; it is verified as
    well.

    A module that runs several times in a pass gives a tap for each call, `name.0`, `name.1`, ...; a block that hands on
    several branches side by side one for each that has a place in the grid, `name.branch0`, `name.branch1`, ... Modules
    with weights that run after the trunk's end are heads, at depths beyond 1, and `pooled` is the first vector of a
    sample there. The order of tokens is verified, not trusted: see `axis_order`.

    Raises
    ------
    DiagnosticsError: where there is no stack of blocks, a tensor fits no grid, or tokens lie in an order of no axes.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import diagnostics as dx
        >>> def block(n, m):
        ...     return nn.Sequential(nn.Conv1d(n, m, 5, stride=2, padding=2), nn.ReLU())
        >>> model = nn.Sequential(block(1, 8), block(8, 16), block(16, 32))
        >>> found = dx.discover(model, torch.randn(2, 1, 64), "mine", {"t": 64})
        >>> [(tap.name, str(tap.grid)) for tap in found.taps]
        [('embed', '64 t'), ('0', '32 t'), ('1', '16 t'), ('2', '8 t')]
    """
    run: Forward = forward or (lambda module, batch: module(batch))
    names = list(blocks) if blocks is not None else find_blocks(module, encoder)
    whole = dry_run(module, names, batch, run, encoder)
    earlier = earlier_stack(module, names, set(whole.early)) if blocks is None and trunk is None else ""
    if earlier:
        raise DiagnosticsError(
            f"{encoder} runs the stack {earlier} before {names[0]}, and it is unclear which of them is its trunk: name "
            f"the blocks (discover(blocks=)), or declare its taps yourself (docs/how-to/plugins.md).",
            code="unclear",
        )
    samples = len(tensors_in(batch)[0])
    parts = dict(module.named_modules())
    first = whole.blocks[0]
    entered = Site(first.name, when="before", item=next(iter(whole.entered)))
    first_input = FirstBlockInput(batch, lambda batch: tensor_at(module, entered, batch, run))
    special: list[int] = []
    certain = prefix is not None
    if grid is None and prefix is None:
        special = (first_input.special_tokens() or [])[: MOST_PREFIX + 1]
        prefix = len(special) if len(special) <= MOST_PREFIX else None
        told = first_input
        if first_input.is_series():
            # The variates of the input itself lie apart, whether or not the first block takes them as features.
            given = replace(entered, when="after", item=0)
            told = FirstBlockInput(batch, lambda batch: tensor_at(module, given, batch, run))
        if "v" in extents and told.variates_apart(extents["v"]) is False:
            extents = {axis: n for axis, n in extents.items() if axis != "v"}
    places = Places(
        encoder,
        extents,
        samples,
        grid=grid,
        prefix=prefix,
        channels_last=channels_last,
        certain=certain,
        features_first=first_input.features_first(extents),
    )
    discovered = Discovered([], "")

    def placed(
        name: str, tap: str, depth: float, part: Part, tensor: Tensor, call: int = 0, when: Any = "after"
    ) -> Tap:
        place = places.of(tensor, name, parts[name])
        site = Site(name, call, whole.calls[name], when=when, layout=place.layout, rows=place.rows)
        if place.rows > 1 and part == "embedding" and samples > 1 and not first_input.rows_follow_samples(place.rows):
            raise DiagnosticsError(
                f"{encoder} interleaves the rows of its samples (not one sample after the other) at {name}: declare "
                "its taps yourself (docs/how-to/plugins.md).",
                code="token-order",
            )
        if place.layout == "tokens" and special and place.grid.prefix == len(special):
            # Special tokens at the end or among the others are handed over first.
            there = place.grid.prefix + place.grid.tokens // place.rows
            order = (*special, *(i for i in range(there) if i not in special))
            site = replace(site, order=order if list(order) != list(range(there)) else ())
        return with_order(Tap(tap, depth, part, place.features, place.grid, site))

    def branched(name: str, tap: str, depth: float, part: Part, seen: Mapping[int, Tensor], **where: Any) -> list[Tap]:
        """A tap of each branch that has a place in the grid; `.branch1` ... where there are several."""
        branches: dict[int, Tap] = {}
        errors: list[DiagnosticsError] = []
        for item, tensor in seen.items():
            try:
                branches[item] = placed(name, tap, depth, part, tensor, **where)
            except DiagnosticsError as error:
                errors.append(error)
                discovered.left_out[f"{tap}.branch{item}"] = str(error)
        if not branches:
            raise errors[0]
        several = len(branches) > 1
        return [
            replace(branch, name=f"{tap}.branch{item}" if several else tap, site=replace(branch.site, item=item))
            for item, branch in branches.items()
            if branch.site is not None
        ]

    taps = branched(first.name, "embed", 0.0, "embedding", whole.entered, call=first.call, when="before")
    for i, step in enumerate(whole.blocks):
        tap = _call_name(whole, step)
        taps += branched(step.name, tap, (i + 1) / len(whole.blocks), "trunk", step.branches, call=step.call)
    ends = (
        _ends(whole, parts, own=False) if trunk is None else _ends(dry_run(module, names, batch, trunk, encoder), parts)
    )
    taps += [placed(end.name, _call_name(whole, end), 1.0, "trunk", end.gave, end.call) for end in ends]
    taps = _in_order(module, taps, batch, extents, run, encoder)
    _check_time(first_input, taps[0], extents, encoder)
    # Of branches side by side the first is the main one.
    discovered.taps = taps
    moments = [(tap.site.module, tap.site.call, tap.site.when) for tap in taps if tap.site]
    discovered.output_tap = taps[moments.index(moments[-1])].name
    _add_heads(discovered, _behind(whole, ends), parts, placed, whole)
    return discovered


def _call_name(trace: Trace, step: Step) -> str:
    """The module's name, and which of its calls where there are several."""
    return step.name if trace.calls[step.name] == 1 else f"{step.name}.{step.call}"


def _in_order(
    module: nn.Module, taps: list[Tap], batch: Any, extents: Mapping[str, int], forward: Forward, encoder: str
) -> list[Tap]:
    """The taps with the order in which their tokens are seen to lie."""
    axes = axis_order(taps[0].grid, batch, extents, lambda batch: tokens_at(module, taps[0], batch, forward), encoder)
    if axes is None or axes == tuple(range(len(axes))):
        return taps
    ordered: list[Tap] = []
    for tap in taps:
        assert tap.site is not None
        if tap.site.layout != "tokens" or tap.site.rows > 1 or len(tap.grid.shape) != len(axes):
            raise DiagnosticsError(
                f"{encoder} keeps its tokens in an order of its own (axes {axes}), and tap {tap.name} is no list of "
                "tokens: declare its taps yourself (docs/how-to/plugins.md).",
                code="token-order",
            )
        known = tap.site.order or tuple(range(tap.tokens))
        order = tuple(known[i] for i in raster(tap.grid.shape, axes, tap.grid.prefix))
        ordered.append(replace(tap, site=replace(tap.site, order=order)))
    return ordered


def _check_time(first_input: FirstBlockInput, tap: Tap, extents: Mapping[str, int], encoder: str) -> None:
    """Raise where the end of a series moves the first tokens.

    Nothing is said where normalisation moves all of them.
    """
    moved = first_input.movement_by_end(extents) if tap.grid.axes == ("t",) else None
    if moved is None or tap.site is None:
        return
    places = (
        as_tokens(tap, replace(tap.site, item=0), moved.float())[:, tap.grid.prefix :].any(2).any(0).nonzero().float()
    )
    if 0 < len(places) <= LOCAL * tap.grid.tokens and float(places.mean()) < (tap.grid.tokens - 1) / 2:
        raise DiagnosticsError(
            f"{encoder} does not keep its tokens in the order of time (the last quarter of a sample moves the first "
            f"ones): declare the taps yourself, with the order of their tokens (docs/how-to/plugins.md).",
            code="token-order",
        )


def _ends(trace: Trace, parts: Mapping[str, nn.Module], own: bool = True) -> list[Step]:
    """Module that gives the trunk's output after the last block (norm, convolution), whose output the trunk hands over.

    Of a whole pass, not the trunk's `own`, only what is as wide as the last block: the rest may be a head's tokens.
    """
    last = trace.blocks[-1]
    tail = _after(trace)
    finals = [final for final in trace.finals if final.ndim >= 3 and final.is_floating_point()]
    finals = [final for final in finals if own or final.shape == last.gave.shape][: len(last.branches)]
    ends: list[Step] = []
    for final in finals:
        if any(_same(branch, final) for branch in last.branches.values()):
            continue
        givers = [
            step
            for step in tail
            if not isinstance(parts[step.name], _IDLE)
            and (_same(step.gave, final) or (step.gave.ndim > 3 and _same(step.gave.movedim(-1, 1), final)))
        ]
        if givers:
            # Of a module and its own last part, both of which give it, the module.
            ends.append(min(reversed(givers), key=lambda step: step.name.count(".")))
    if ends or any(_same(last.gave, final) for final in finals):
        return sorted(ends, key=tail.index)
    for step in tail:
        norm = "norm" in f"{step.name} {type(parts[step.name]).__name__}".lower()
        if norm and step.gave.shape == last.gave.shape and not _same(step.gave, last.gave):
            return [step]
    return []


def _after(trace: Trace) -> list[Step]:
    """Modules that ran after the last block, without the modules that the last block is a part of."""
    last = trace.blocks[-1].name
    return [step for step in trace.tail if not last.startswith(f"{step.name}.")]


def _behind(trace: Trace, ends: Sequence[Step]) -> list[Step]:
    """Modules that ran after the trunk's end."""
    tail = _after(trace)
    moments = [(end.name, end.call) for end in ends]
    after = 1 + max((i for i, step in enumerate(tail) if (step.name, step.call) in moments), default=-1)
    return [step for step in tail[after:] if not any(end.name.startswith(f"{step.name}.") for end in ends)]


def _is_head(step: Step, tail: Sequence[Step], parts: Mapping[str, nn.Module]) -> bool:
    """True if it is an outermost module that changed something by weights, or a norm."""
    kind = parts[step.name]
    return not (
        any(step.name.startswith(f"{other.name}.") for other in tail)
        or isinstance(kind, _IDLE)
        or (step.took is not None and _same(step.took, step.gave))
        or (next(kind.parameters(), None) is None and "norm" not in type(kind).__name__.lower())
    )


def _add_heads(
    discovered: Discovered,
    tail: Sequence[Step],
    parts: Mapping[str, nn.Module],
    placed: Callable[..., Tap],
    trace: Trace,
) -> None:
    """Taps of the heads, and of the first vector that stands for a sample where no head gives just that."""
    heads = [step for step in tail if _is_head(step, tail, parts)]
    candidates = [(_call_name(trace, step), step, step.gave, "after") for step in heads]
    # A trunk of vectors has its own at its end.
    pooled = _pooled(tail, heads) if trace.blocks[-1].gave.ndim > 2 else None
    if pooled is not None:
        step, tensor, when = pooled
        candidates.insert(sum(tail.index(head) < tail.index(step) for head in heads), ("pooled", step, tensor, when))
    for i, (tap, step, tensor, when) in enumerate(candidates):
        if not tensor.is_floating_point():
            discovered.left_out[tap] = (
                f"{step.name} gives {tensor.dtype}: choices (classes, tokens, counts), no activations."
            )
            continue
        try:
            discovered.taps.append(
                placed(
                    step.name, tap, 1 + (i + 1) / len(candidates), part="head", tensor=tensor, call=step.call, when=when
                )
            )
        except DiagnosticsError as error:
            discovered.left_out[tap] = str(error)


def _pooled(tail: Sequence[Step], heads: Sequence[Step]) -> tuple[Step, Tensor, str] | None:
    """The first vector of each sample (or map of one place) that goes into a module, unless it is what a head gives."""
    samples = len(tail[0].gave) if tail else 0
    last = tail.index(heads[-1]) if heads else len(tail)
    for dims in (2, 4):
        for i, step in enumerate(tail):
            taken = step.took
            if taken is not None and _is_vector(taken, samples, dims) and i <= last:
                return None if any(_same(taken, head.gave) for head in heads) else (step, taken, "before")
    given = [step for step in tail if _is_vector(step.gave, samples, 2)]
    if not given or heads:
        return None
    outermost = min(reversed(given), key=lambda step: step.name.count("."))
    return outermost, outermost.gave, "after"


def _is_vector(tensor: Tensor, samples: int, dims: int) -> bool:
    """True if it is a vector for each sample, [B, F] or [B, F, 1, 1], of real numbers."""
    of_samples = tensor.ndim == dims and len(tensor) == samples and tensor.is_floating_point()
    return of_samples and tensor[0].numel() == tensor.shape[1]


def _same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and torch.equal(tensor, other)

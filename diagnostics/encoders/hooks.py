"""Reading taps while a torch module runs: hooks, passes that end early, layouts brought to [sample, token, feature].

Also which tokens respond when a part of the model's input is changed.

`propose` finds with that in which order tokens lie, `verify` holds the order that is declared against it.

Shape suffixes: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.encoder import Reduce
from diagnostics.encoders.modules import evaluating, map_tensors, whole
from diagnostics.encoders.taps import Grid, Site, Tap
from diagnostics.errors import DiagnosticsError


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: what it took, by position and by name, and what it gave."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@contextmanager
def hook_calls(
    module: nn.Module,
    names: Iterable[str],
    begin: Callable[[str, tuple[Any, ...], Mapping[str, Any]], None] | None = None,
    end: Callable[[Call], None] | None = None,
) -> Generator[None]:
    """A context in which each call of some submodules is reported: `begin(name, args, kwargs)`, then `end(call)`.

    Raises AttributeError for a name of no submodule.
    """

    def before(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert begin is not None
        begin(name, args, kwargs)

    def after(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        assert end is not None
        end(Call(name, args, kwargs, output))

    with ExitStack() as hooks:
        for name in names:
            part = module.get_submodule(name)
            if begin is not None:
                hooks.enter_context(part.register_forward_pre_hook(partial(before, name), with_kwargs=True))
            if end is not None:
                hooks.enter_context(part.register_forward_hook(partial(after, name), with_kwargs=True))
        yield


@contextmanager
def at_taps(
    module: nn.Module,
    taps: Sequence[Tap],
    encoder: str,
    begin: Callable[[Tap, Site, Any], None],
    end: Callable[[Tap, Site, Any], None],
) -> Generator[None]:
    """A context in which each tap's call of its module is reported.

    `begin(tap, site, taken)`, `end(tap, site, output)`.

    Raises DiagnosticsError on exit where a tap's module ran another number of times than its site declares.
    """
    sites: dict[str, list[tuple[Tap, Site]]] = defaultdict(list)
    for tap in taps:
        if tap.site is not None:
            sites[tap.site.module].append((tap, tap.site))
    calls: Counter[str] = Counter()

    def report(name: str, value: Any, to: Callable[[Tap, Site, Any], None]) -> None:
        for tap, site in sites[name]:
            if site.call == calls[name] - 1:
                to(tap, site, value)

    def began(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        calls[name] += 1
        report(name, (*args, *kwargs.values()), begin)

    with hook_calls(module, sites, began, lambda call: report(call.name, call.output, end)):
        yield
    for tap, site in chain(*sites.values()):
        if calls[site.module] != site.calls:
            raise DiagnosticsError(
                f"Tap {tap.name} of {encoder} expects module '{site.module}' to run {site.calls} time(s) in a pass, "
                f"but it ran {calls[site.module]} time(s): correct the tap's Site.",
                code="bad-tap",
            )


@contextmanager
def capture_at(
    module: nn.Module, taps: Sequence[Tap], encoder: str, reduce: Reduce, *, whole_pass: bool
) -> Generator[dict[str, Any]]:
    """Values of taps from a pass that runs inside, by name, each reduced at the moment it fires.

    Raises as `at_taps`.

    The pass ends when the modules of all taps have run as often as their sites declare, so that reading a tap costs no
    more than the way to it; a `whole_pass` does not, and notices a module that runs once more.
    """
    captured: dict[str, Any] = {}
    runs_left = {tap.site.module: tap.site.calls for tap in taps if tap.site is not None}
    end = EarlyEnd()

    def read(when: str, tap: Tap, site: Site, value: Any) -> None:
        if site.when == when:
            tokens = as_tokens(tap, site, value)
            with whole(tokens.device):
                captured[tap.name] = reduce(tap, tokens)

    def leave(call: Call) -> None:
        runs_left[call.name] -= 1
        if not any(runs_left.values()):
            end()

    reading = at_taps(module, taps, encoder, partial(read, "before"), partial(read, "after"))
    # Registered last, so that what lies at the site is read by then.
    leaving = nullcontext() if whole_pass else hook_calls(module, runs_left, end=leave)
    with reading, leaving, end:
        yield captured


class _EndOfPass(Exception):
    """Leaves a forward pass; only the `EarlyEnd` that raised it catches it."""


class EarlyEnd:
    """A block of code that ends early.

    `with EarlyEnd() as end: ...`, inside of which, however deep, `end(value)` is called.

    `ended` says afterwards whether the block was left by that call, and `value` what it was given: code that catches
    any exception may go on after it.
    """

    def __init__(self) -> None:
        self.ended, self.value = False, None
        self._exception = _EndOfPass()

    def __call__(self, value: Any = None) -> NoReturn:
        self.value = value
        raise self._exception

    def __enter__(self) -> EarlyEnd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        # Blocks may be nested, and each ends at its own exception alone.
        self.ended = error is self._exception
        # The frames of the pass, and the tensors in them, would be kept alive by a reference cycle.
        self._exception.__traceback__ = None
        return self.ended


@contextmanager
def until(module: nn.Module, site: Site) -> Generator[EarlyEnd]:
    """End a forward pass of the module that runs inside when it comes to a site.

    What is yielded has as its `value` what lies at the site: all that the site's module takes (a tuple) or what it
    gives. Hooks that were registered before have read it by then.
    """
    calls = 0
    end = EarlyEnd()

    def leave(value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > site.call:
            end(value)

    hooks = (
        hook_calls(module, [site.module], begin=lambda _, args, kwargs: leave((*args, *kwargs.values())))
        if site.when == "before"
        else hook_calls(module, [site.module], end=lambda call: leave(call.output))
    )
    with hooks, end:
        yield end


@contextmanager
def record_calls(module: nn.Module, names: Iterable[str]) -> Generator[list[Call]]:
    """The calls of some submodules in passes that run inside, in the order in which they end."""
    calls: list[Call] = []
    with hook_calls(module, names, end=calls.append):
        yield calls


def record_passes(module: Any) -> AbstractContextManager[list[Call]]:
    """As `record_calls` of the module itself, whose calls are passes that ended; none where it is no torch module."""
    return record_calls(module, [""] if isinstance(module, nn.Module) else [])


def as_tokens(tap: Tap, site: Site, value: Any) -> Tensor:
    """Tensors that a module took or gave, as tokens [B, T, F] in the order that the tap's site declares.

    Raises DiagnosticsError where it is no tensor of real numbers, or does not fit the site's layout and the tap's grid.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.hooks import as_tokens
        >>> site = dx.Site("layer4", layout="channels_first")
        >>> tap = dx.Tap("layer4", 1.0, "trunk", 512, dx.Grid((7, 7), ("y", "x")), site)
        >>> as_tokens(tap, site, torch.zeros(2, 512, 7, 7)).shape
        torch.Size([2, 49, 512])
    """
    value = dict(enumerate(tensors_in(value))).get(site.item) if site.item else first_tensor(value)
    if not isinstance(value, Tensor):
        raise DiagnosticsError(
            f"Tap {tap.name} read a {type(value).__name__} {site}, not a tensor: tap a module inside it that gives "
            f"one.",
            code="bad-tap",
        )
    if not value.is_floating_point():
        raise DiagnosticsError(
            f"Tap {tap.name} read {str(value.dtype).removeprefix('torch.')} values {site}: tap a module that gives "
            f"real numbers.",
            code="bad-tap",
        )
    places: tuple[int, ...] | None = None
    if site.layout == "channels_first" and value.ndim >= 3:
        tokens = value.flatten(2).transpose(1, 2)
        places = tuple(value.shape[2:])
    elif site.layout == "channels_last" and value.ndim >= 3:
        tokens = value.flatten(1, -2)
        places = tuple(value.shape[1:-1])
    elif site.layout == "features" and value.ndim == 2:
        tokens = value[:, None]
    elif site.layout == "tokens" and value.ndim == 3:
        tokens = value
    elif site.layout == "time_first" and value.ndim == 3:
        tokens = value.transpose(0, 1)
    elif site.layout == "packed" and value.ndim in (2, 3) and value.shape[-2] % (tap.tokens + site.dropped) == 0:
        tokens = value.flatten(0, -2).unflatten(0, (-1, tap.tokens + site.dropped))
    else:
        raise DiagnosticsError(
            f"Tap {tap.name} read a tensor of shape {tuple(value.shape)} {site}, which is not of layout "
            f"'{site.layout}'.",
            code="bad-tap",
        )
    expected = (tap.grid.prefix + tap.grid.tokens // site.rows, tap.features)
    tokens = tokens[:, site.kept]
    # Rows of a sample are the grid's first axis. One row, one frame or one variate orders nothing: axes of 1 do not
    # count.
    shape = tap.grid.shape if site.rows == 1 else tap.grid.shape[1:] if site.rows == tap.grid.shape[0] else None
    fits = places is None or (shape is not None and _long_axes(places) == _long_axes(shape))
    # A map may hold special tokens among its places, which only an order puts apart.
    apart = bool(site.order) and tap.grid.prefix > 0
    wrong = tokens.shape[1:] != expected or not (fits or apart)
    if wrong or len(site.order) not in (0, expected[0]) or len(tokens) % site.rows:
        raise DiagnosticsError(
            f"Tap {tap.name} read a tensor of shape {tuple(value.shape)} {site}, but declares {tap.tokens} tokens, "
            f"{tap.grid}, of {tap.features} features.",
            code="bad-tap",
        )
    if site.order:
        tokens = tokens[:, torch.tensor(site.order, device=tokens.device)]
    return _rows_as_places(tokens, site.rows, tap.grid.prefix) if site.rows > 1 else tokens


def _long_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in shape if extent > 1)


def first_tensor(value: Any) -> Any:
    """The activations that a module gives: the first part of a tuple, a mapping or a dataclass, however nested.

    The value itself where that part is no tensor.
    """
    first = value
    while not isinstance(first, Tensor):
        parts = _parts(first)
        if not parts:
            return value
        first = parts[0]
    return first


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a batch, or in what a module took or gave, in the order in which they stand."""
    return [value] if isinstance(value, Tensor) else [tensor for part in _parts(value) for tensor in tensors_in(part)]


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (tuple, list)):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, part.name) for part in fields(value)]
    return []


def _rows_as_places(tokens: Tensor, rows: int, prefix: int) -> Tensor:
    """[B * rows, prefix + T, F] as [B, prefix + rows * T, F]."""
    of_rows = tokens.unflatten(0, (-1, rows))
    grid = of_rows[:, :, prefix:].flatten(1, 2)
    return torch.cat([of_rows[:, :, :prefix].mean(1), grid], dim=1) if prefix else grid


Forward = Callable[[nn.Module, Any], Any]
"""`(module, batch)`: one forward pass."""
LOCAL = 0.75
"""A change of a quarter of the input that moves a larger share of an axis than this has not stayed at its place."""
_ROUNDING = 1e-6


def value_at(module: nn.Module, site: Site, batch: Any, forward: Forward) -> Any:
    """The tensor at a site in a pass that ends there, in eval mode and without gradients.

    None where no pass comes there.
    """
    with evaluating(module), torch.no_grad(), until(module, site) as end:
        forward(module, batch)
    return end.value


def tensor_at(module: nn.Module, site: Site, batch: Any, forward: Forward) -> Tensor | None:
    """A copy of the tensor that the site names, as it lies there."""
    tensors = tensors_in(value_at(module, site, batch, forward))
    return tensors[site.item].clone() if site.item < len(tensors) else None


def tokens_at(module: nn.Module, tap: Tap, batch: Any, forward: Forward) -> Tensor | None:
    """A copy of a tap's tokens [B, T, F]."""
    assert tap.site is not None
    value = value_at(module, tap.site, batch, forward)
    return None if value is None else as_tokens(tap, tap.site, value).clone()


def floating_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch that can be changed by a little."""
    return [tensor for tensor in tensors_in(batch) if tensor.is_floating_point()]


def replace_tensor(batch: Any, old: Tensor, new: Tensor) -> Any:
    """The batch with one tensor in another's place."""
    return map_tensors(lambda tensor: new if tensor is old else tensor, batch)


def part_of(given: Tensor, spans: Mapping[int, tuple[int, int]]) -> Tensor:
    """The view of a tensor within (start, stop) along some axes."""
    for axis, (start, stop) in spans.items():
        given = given.narrow(axis, start, stop - start)
    return given


def noisy(given: Tensor) -> Tensor:
    """Another input of about the same spread."""
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(1)).to(given)
    return given + noise * (given.std() if given.numel() > 1 and float(given.std()) > 0 else 1.0)


def aggregate(values: np.ndarray, grid: Grid, axes: Sequence[str]) -> np.ndarray:
    """Values of grid tokens [n, token] summed over the grid's axes other than `axes`, [n, place]."""
    others = tuple(i + 1 for i, axis in enumerate(grid.axes) if axis not in axes)
    return values.reshape(len(values), *grid.shape).sum(axis=others).reshape(len(values), -1)


def distances(tokens: Tensor, rest: Tensor, grid: Grid, axes: Sequence[str]) -> np.ndarray:
    """Distances of tokens [n, T, F] from those of the unchanged input [1, T, F].

    [n, prefix + places], by `aggregate`.
    """
    far = (tokens.double() - rest.double()).norm(dim=-1).nan_to_num(0.0).cpu().numpy()
    return np.concatenate([far[:, : grid.prefix], aggregate(far[:, grid.prefix :], grid, axes)], axis=1)


def largest_move(tokens: Tensor, rest: Tensor, grid: Grid, axes: Sequence[str]) -> int | None:
    """The place of the first sample whose tokens lie farthest from those of the unchanged input.

    None where nothing moved.
    """
    far = distances(tokens[:1], rest[:1], grid, axes)[0, grid.prefix :]
    return int(far.argmax()) if far.max() > 0 else None


def tokens_of_cells(grid: Grid, read: Callable[[np.ndarray], Tensor]) -> list[int] | None:
    """Index of the token that each cell of a grid moves, in raster order; None unless each cell moves one of its own.

    `read`: which cells of the input are changed, bool [*grid.shape] -> tokens [T, F] of one sample, of which the grid's
    prefix comes first. Cells are changed together, by the bits of their numbers: a pass for each bit, not for each
    cell.
    """
    rest = read(np.zeros(grid.shape, dtype=bool))
    if len(rest) != grid.prefix + grid.tokens:
        return None
    numbers = np.arange(1, grid.tokens + 1).reshape(grid.shape)  # from 1, so that each cell is changed
    cell_of_token = np.full(grid.tokens, -1)
    for bit in range(grid.tokens.bit_length()):
        far = distances(read(numbers >> bit & 1 > 0)[None], rest[None], grid, grid.axes)[0, grid.prefix :]
        cell_of_token += (far > _ROUNDING).astype(int) << bit
    if sorted(cell_of_token) != list(range(grid.tokens)):
        return None
    return [grid.prefix + int(token) for token in np.argsort(cell_of_token)]


SAME = 1e-3


def _unit(values: Tensor, axis: int) -> Tensor:
    """Values of mean 0 and norm 1 along the axis."""
    return torch.nn.functional.normalize(values - values.mean(axis, keepdim=True), dim=axis)


@dataclass
class FirstBlockInput:
    """The tensor [B, ...] that a model's first block takes, as a function of the batch.

    `read`: batch -> that tensor, from one pass; None, or any exception, where the pass does not come there. What cannot
    be told (the batch has several tensors of real numbers, nothing moves, the pass fails) is None in all answers.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from diagnostics.encoders.places import FirstBlockInput
        >>> embed, token = nn.Linear(16, 8), torch.ones(2, 1, 8)
        >>> def read(batch):
        ...     return torch.cat([token, embed(batch.unflatten(1, (4, 16)))], dim=1)
        >>> first = FirstBlockInput(torch.randn(2, 64), read)
        >>> first.special_tokens()
        [0]
        >>> first.movement_by_end({"t": 64}).any(2)[0].tolist()
        [False, False, False, False, True]
    """

    batch: Any
    read: Callable[[Any], Tensor | None]

    def __post_init__(self) -> None:
        self.rest = self._read(self.batch)

    def _read(self, batch: Any) -> Tensor | None:
        with contextlib.suppress(Exception):
            return self.read(batch)
        return None

    def movement(self, change: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """The numbers that move, bool [B, ...], when the one tensor of real numbers in the batch is changed."""
        floating = floating_in(self.batch)
        changed = change(floating[0].clone()) if len(floating) == 1 else None
        if changed is None or self.rest is None:
            return None
        now = self._read(replace_tensor(self.batch, floating[0], changed))
        if now is None or now.shape != self.rest.shape:
            return None
        moved = now != self.rest
        return moved if bool(moved.any()) else None

    def movement_by_end(self, extents: Mapping[str, int]) -> Tensor | None:
        """The numbers that move when the last quarter of the input along every axis of places changes."""

        def change(given: Tensor) -> Tensor | None:
            spans: dict[int, tuple[int, int]] = {}
            for extent in extents.values():
                # A square has one extent twice: its axes follow one another.
                axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == extent and axis not in spans]
                if not axes:
                    return None
                spans[axes[0]] = (extent - max(1, extent // 4), extent)
            part = part_of(given, spans)
            part.copy_(noisy(part))
            return given

        return self.movement(change)

    def special_tokens(self) -> list[int] | None:
        """Tokens of [B, T, F] that no input moves: class tokens, registers."""
        moved = self.movement(noisy)
        if moved is None or moved.ndim != 3:
            return None
        return [i for i, any_moved in enumerate(moved.any(2).any(0).tolist()) if not any_moved]

    def features_first(self, extents: Mapping[str, int]) -> bool | None:
        """True if places lie behind the features.

        It is told by what a change in one corner of the input moves along either axis.
        """
        moved = self.movement_by_end(extents)
        if moved is None or moved.ndim < 3:
            return None
        first = float(moved.flatten(2).any(2).float().mean())
        last = float(moved.transpose(1, -1).flatten(2).any(2).float().mean())
        return last <= LOCAL if (first <= LOCAL) != (last <= LOCAL) else None

    def variates_apart(self, variates: int) -> bool | None:
        """True if tokens [B, T, F] belong to one variate each.

        So that a change of the first leaves most as they are.
        """

        def change(given: Tensor) -> Tensor | None:
            axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == variates]
            if len(axes) != 1:
                return None
            first = given.narrow(axes[0], 0, 1)
            first.copy_(noisy(first))
            return given

        moved = self.movement(change)
        return None if moved is None or moved.ndim != 3 else float(moved.any(2).float().mean()) <= LOCAL

    def is_series(self) -> bool:
        """True if it is the input itself, [B, V, T] or [B, T, V], up to a scale and a shift of each variate."""
        floating = floating_in(self.batch)
        if len(floating) != 1 or self.rest is None or floating[0].ndim != 3:
            return False
        given, rest = floating[0].double(), self.rest.double()
        return any(
            rest.shape == other.shape and bool((_unit(rest, axis) - _unit(other, axis)).abs().max() < SAME)
            for other in (given, given.mT)
            for axis in (1, 2)
        )

    def rows_follow_samples(self, rows: int) -> bool:
        """True if the first sample moves its own `rows` of the batch axis, and no others."""

        def change(given: Tensor) -> Tensor:
            given[0] = noisy(given[0])
            return given

        moved = self.movement(change)
        return moved is None or not bool(moved[rows:].any())

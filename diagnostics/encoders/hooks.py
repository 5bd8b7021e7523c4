"""Reading taps while a torch module runs: hooks, passes that end early, layouts brought to [sample, token, feature], pooling.

Shape suffixes: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from diagnostics.encoders.encoder import Reduce
from diagnostics.encoders.modules import whole
from diagnostics.encoders.taps import Site, Tap
from diagnostics.errors import DiagnosticsError


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: what it took, by position and by name, and what it gave."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@contextmanager
def hooked(
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
    """A context in which each tap's call of its module is reported: `begin(tap, site, taken)`, `end(tap, site, output)`.

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

    with hooked(module, sites, began, lambda call: report(call.name, call.output, end)):
        yield
    for tap, site in chain(*sites.values()):
        if calls[site.module] != site.calls:
            raise DiagnosticsError(
                f"Tap {tap.name} of {encoder} expects module '{site.module}' to run {site.calls} time(s) in a pass, "
                f"but it ran {calls[site.module]} time(s): correct the tap's Site."
            )


@contextmanager
def captured_at(module: nn.Module, taps: Sequence[Tap], encoder: str, reduce: Reduce) -> Generator[dict[str, Any]]:
    """Values of taps from a pass that runs inside, by name, each reduced at the moment it fires; raises as `at_taps`."""
    captured: dict[str, Any] = {}

    def read(when: str, tap: Tap, site: Site, value: Any) -> None:
        if site.when == when:
            tokens = as_tokens(tap, site, value)
            with whole(tokens.device):
                captured[tap.name] = reduce(tap, tokens)

    with at_taps(module, taps, encoder, partial(read, "before"), partial(read, "after")):
        yield captured


class _EndOfPass(Exception):
    """Leaves a forward pass; only the `EarlyEnd` that raised it catches it."""


class EarlyEnd:
    """A block of code that ends early: `with EarlyEnd() as end: ...`, inside of which, however deep, `end(value)` is called.

    `ended` says afterwards whether the block was left by that call, and `value` what it was given: code that catches any
    exception may go on after it.
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
    """Ends a forward pass of the module that runs inside when it comes to a site.

    What is yielded has as its `value` what lies at the site: all that the site's module takes (a tuple) or what it gives.
    Hooks that were registered before have read it by then.
    """
    calls = 0
    end = EarlyEnd()

    def leave(value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > site.call:
            end(value)

    hooks = (
        hooked(module, [site.module], begin=lambda _, args, kwargs: leave((*args, *kwargs.values())))
        if site.when == "before"
        else hooked(module, [site.module], end=lambda call: leave(call.output))
    )
    with hooks, end:
        yield end


@contextmanager
def recorded(module: nn.Module, names: Iterable[str]) -> Generator[list[Call]]:
    """The calls of some submodules in passes that run inside, in the order in which they end."""
    calls: list[Call] = []
    with hooked(module, names, end=calls.append):
        yield calls


def as_tokens(tap: Tap, site: Site, value: Any) -> Tensor:
    """What a module took or gave, as tokens [B, T, F] in the order that the tap's site declares.

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
            f"Tap {tap.name} read a {type(value).__name__} {site}, not a tensor: tap a module inside it that gives one."
        )
    if not value.is_floating_point():
        raise DiagnosticsError(
            f"Tap {tap.name} read {str(value.dtype).removeprefix('torch.')} values {site}: tap a module that gives real numbers."
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
            f"Tap {tap.name} read a tensor of shape {tuple(value.shape)} {site}, which is not of layout '{site.layout}'."
        )
    expected = (tap.grid.prefix + tap.grid.tokens // site.rows, tap.features)
    tokens = tokens[:, site.kept]
    # Rows of a sample are the grid's first axis. One row, one frame or one variate orders nothing: axes of 1 do not count.
    shape = tap.grid.shape if site.rows == 1 else tap.grid.shape[1:] if site.rows == tap.grid.shape[0] else None
    fits = places is None or (shape is not None and _long_axes(places) == _long_axes(shape))
    # A map may hold special tokens among its places, which only an order puts apart.
    apart = bool(site.order) and tap.grid.prefix > 0
    wrong = tokens.shape[1:] != expected or not (fits or apart)
    if wrong or len(site.order) not in (0, expected[0]) or len(tokens) % site.rows:
        raise DiagnosticsError(
            f"Tap {tap.name} read a tensor of shape {tuple(value.shape)} {site}, but declares {tap.tokens} tokens, "
            f"{tap.grid}, of {tap.features} features."
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
        return list(value.values())  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, (tuple, list)):
        return list(value)  # pyright: ignore[reportUnknownArgumentType]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, part.name) for part in fields(value)]
    return []


def _rows_as_places(tokens: Tensor, rows: int, prefix: int) -> Tensor:
    """[B * rows, prefix + T, F] as [B, prefix + rows * T, F]."""
    of_rows = tokens.unflatten(0, (-1, rows))
    grid = of_rows[:, :, prefix:].flatten(1, 2)
    return torch.cat([of_rows[:, :, :prefix].mean(1), grid], dim=1) if prefix else grid

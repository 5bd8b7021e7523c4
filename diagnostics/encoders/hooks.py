"""Reading taps while a torch module runs: hooks, layouts brought to [sample, token, feature], and pooling.

Shape suffixes: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.encoders.encoder import Reduce
from diagnostics.encoders.taps import Site, Tap
from diagnostics.errors import DiagnosticsError


def pool(tap: Tap, tokens: Tensor, poolings: Sequence[str], valid: Tensor | None = None) -> Tensor:
    """Tokens [B, T, F] pooled to float32 [B, pooling, F].

    `mean` averages the grid tokens (never prefix tokens), `last` is the last grid token, `prefix` the first prefix
    token (the class token where a model has one). A tap without prefix tokens gives its mean for `prefix`. Grid tokens
    that are not `valid` (bool [B, grid tokens]) count for neither; a sample without any gives NaN.
    """
    prefix = tap.grid.prefix
    grid = tokens[:, prefix:]
    if valid is None or bool(valid.all()):
        mean, last = grid.mean(dim=1, dtype=torch.float32), grid[:, -1].float()
    else:
        counts = valid.sum(dim=1, keepdim=True)
        mean = torch.where(valid[..., None], grid, 0).sum(dim=1, dtype=torch.float32) / counts
        places = torch.arange(valid.shape[1], device=valid.device)
        ends = torch.where(valid, places, -1).amax(dim=1).clamp_min(0)
        last = grid[torch.arange(len(grid), device=grid.device), ends].float()
        last = torch.where(counts > 0, last, torch.nan)
    parts = {"mean": mean, "last": last, "prefix": tokens[:, 0].float() if prefix else mean}
    return torch.stack([parts[name] for name in poolings], dim=1)


class Hooks:
    """Forward hooks on the modules of some taps, removed on leaving; counts calls and complains on leaving."""

    def __init__(
        self, module: nn.Module, taps: Sequence[Tap], encoder: str, found: dict[str, Any], reduce: Reduce
    ) -> None:
        self.encoder, self.found, self.reduce = encoder, found, reduce
        self.module = module
        self.by_module: dict[str, list[tuple[Tap, Site]]] = defaultdict(list)
        for tap in taps:
            if tap.site is not None:
                self.by_module[tap.site.module].append((tap, tap.site))
        self.calls: dict[str, int] = dict.fromkeys(self.by_module, 0)
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        try:
            for name in self.by_module:
                module = self.module.get_submodule(name)
                # The pre-hook comes first in a call, so it counts; the post-hook reads the same count.
                self.handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
                self.handles.append(module.register_forward_hook(self._after(name)))
        except BaseException:  # an interrupt, or no such module
            self._remove()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._remove()
        if kind is not None:
            return
        for name, tap, site in ((name, *pair) for name, pairs in self.by_module.items() for pair in pairs):
            if self.calls[name] != site.calls:
                raise DiagnosticsError(
                    f"Tap {tap.name} of {self.encoder} expects module '{name}' to run {site.calls} time(s) in a pass, "
                    f"but it ran {self.calls[name]} time(s): correct the tap's Site."
                )

    def _remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = self.calls[name]
            self.calls[name] += 1
            self._read(name, call, "before", args or tuple(kwargs.values()))

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._read(name, self.calls[name] - 1, "after", output)

        return hook

    def _read(self, name: str, call: int, when: str, value: Any) -> None:
        for tap, site in self.by_module[name]:
            if site.call == call and site.when == when:
                self.found[tap.name] = self.reduce(tap, as_tokens(tap, site, value))


def as_tokens(tap: Tap, site: Site, value: Any) -> Tensor:
    """What a module took or gave as [B, T, F], as the tap's site declares it; raises when it does not fit."""
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
    # One row a sample may be an axis of the grid as well: a clip of a single frame.
    shapes = [tap.grid.shape] if site.rows == 1 else []
    shapes += [tap.grid.shape[1:]] if site.rows == tap.grid.shape[0] else []
    # A map may hold special tokens among its places, which only an order puts apart.
    apart = bool(site.order) and tap.grid.prefix > 0
    wrong = tokens.shape[1:] != expected or (places is not None and not apart and places not in shapes)
    if wrong or len(site.order) not in (0, expected[0]) or len(tokens) % site.rows:
        raise DiagnosticsError(
            f"Tap {tap.name} read a tensor of shape {tuple(value.shape)} {site}, but declares {tap.tokens} tokens "
            f"({tap.grid}) of {tap.features} features."
        )
    if site.order:
        tokens = tokens[:, torch.tensor(site.order, device=tokens.device)]
    return _rows_as_places(tokens, site.rows, tap.grid.prefix) if site.rows > 1 else tokens


def first_tensor(value: Any) -> Any:
    """The first part of what a module gives, which is its activations: of a tuple, a mapping or a dataclass.

    The value itself where that is no tensor.
    """
    found = value
    while not isinstance(found, Tensor):
        parts = _parts(found)
        if not parts:
            return value
        found = parts[0]
    return found


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in what a module took or gave, in the order in which they stand."""
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

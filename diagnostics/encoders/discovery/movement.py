"""What moves at the entrance of the first block when part of the input changes; what shapes leave open, this shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.encoders.discovery.places import tensors_of
from diagnostics.encoders.evaluating import evaluating
from diagnostics.encoders.hooks import tensors_in

LOCAL = 0.75
"""A change of a quarter of the input that moves a larger share of an axis than this has not stayed at its place."""


class _Reached(Exception):
    """Ends a pass at the first block."""


@dataclass
class Entrance:
    """The tensor that a module takes as its `item`-th in its first call, as a function of the batch."""

    module: nn.Module
    name: str
    item: int
    batch: Any
    forward: Callable[[nn.Module, Any], Any]

    def __post_init__(self) -> None:
        self.rest = self.of(self.batch)

    def of(self, batch: Any) -> Tensor | None:
        """What enters for a batch; None where the pass fails before."""
        seen: list[Tensor] = []

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.extend(tensors_in(args or tuple(kwargs.values()))[self.item : self.item + 1])
            raise _Reached

        handle = self.module.get_submodule(self.name).register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with evaluating(self.module), torch.no_grad(), contextlib.suppress(Exception):
                self.forward(self.module, batch)
        finally:
            handle.remove()
        return seen[0].detach().clone() if seen else None

    def moved(self, change: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """Which numbers of it moved, bool, when the batch's one floating point tensor is changed; None where untold."""
        floats = [tensor for tensor in tensors_of(self.batch) if tensor.is_floating_point()]
        changed = change(floats[0].clone()) if len(floats) == 1 else None
        if changed is None or self.rest is None:
            return None
        now = self.of(exchanged(self.batch, floats[0], changed))
        if now is None or now.shape != self.rest.shape:
            return None
        moved = now != self.rest
        return moved if bool(moved.any()) else None

    def special_tokens(self) -> list[int] | None:
        """Places along the second axis [B, T, F] that no input moves: class tokens, registers. None where untold."""
        moved = self.moved(noisy)
        return None if moved is None else special_tokens(moved)

    def features_first(self, extents: Mapping[str, int]) -> bool | None:
        """Whether places lie behind the features: by what a change in one corner of the input moves along either axis."""
        moved = self.moved(lambda given: corner_changed(given, extents))
        return None if moved is None else features_first(moved)

    def variates_apart(self, variates: int) -> bool | None:
        """Whether tokens [B, T, F] belong to one variate each, so that a change of the first leaves most as they are."""

        def change(given: Tensor) -> Tensor | None:
            axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == variates]
            if len(axes) != 1:
                return None
            given.narrow(axes[0], 0, 1).copy_(noisy(given.narrow(axes[0], 0, 1)))
            return given

        moved = self.moved(change)
        return None if moved is None or moved.ndim != 3 else float(moved.any(2).float().mean()) <= LOCAL

    def rows_follow_samples(self, rows: int) -> bool:
        """Whether the first sample moves its own `rows` of the batch axis, and no others."""

        def change(given: Tensor) -> Tensor:
            given[0] = noisy(given[0])
            return given

        moved = self.moved(change)
        return moved is None or not bool(moved[rows:].any())


def noisy(given: Tensor) -> Tensor:
    """Another input of about the same spread."""
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(1)).to(given)
    return given + noise * (given.std() if given.numel() > 1 and float(given.std()) > 0 else 1.0)


def special_tokens(moved: Tensor) -> list[int] | None:
    """The tokens [B, T, F] of which no number moved; None where the numbers are no tokens."""
    if moved.ndim != 3:
        return None
    return [i for i, any_moved in enumerate(moved.any(2).any(0).tolist()) if not any_moved]


def features_first(moved: Tensor) -> bool | None:
    """Whether places lie behind the features, from which numbers [B, ...] a change in one corner moved; None where untold."""
    if moved.ndim < 3:
        return None
    first = float(moved.flatten(2).any(2).float().mean())
    last = float(moved.transpose(1, -1).flatten(2).any(2).float().mean())
    if first <= LOCAL < last:
        return False
    return True if last <= LOCAL < first else None


def corner_changed(given: Tensor, extents: Mapping[str, int]) -> Tensor | None:
    """Changed in the last quarter along every axis of places."""
    part, used = given, set[int]()
    for extent in extents.values():
        # A square has one extent twice: its axes follow one another.
        axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == extent and axis not in used]
        if not axes:
            return None
        used.add(axes[0])
        part = part.narrow(axes[0], extent - max(1, extent // 4), max(1, extent // 4))
    part.copy_(noisy(part))
    return given


def exchanged(batch: Any, old: Tensor, new: Tensor) -> Any:
    """The batch with one tensor in another's place."""
    if isinstance(batch, Mapping):
        return {key: exchanged(part, old, new) for key, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(exchanged(part, old, new) for part in batch)  # pyright: ignore[reportCallIssue]
    return new if batch is old else batch

"""Tells class tokens and registers from grid tokens: how the first block's input moves when part of the input changes."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diagnostics.encoders.perturbation import floating_in, noisy, part_of, replaced

LOCAL = 0.75
"""A change of a quarter of the input that moves a larger share of an axis than this has not stayed at its place."""


@dataclass
class FirstBlockInput:
    """The tensor [B, ...] that a model's first block takes, as a function of the batch.

    `read`: batch -> that tensor, from one pass; None, or any exception, where the pass does not come there. What cannot be
    told (the batch has several tensors of real numbers, nothing moves, the pass fails) is None in all answers.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from diagnostics.encoders.discovery import FirstBlockInput
        >>> embed, token = nn.Linear(16, 8), torch.ones(2, 1, 8)
        >>> def read(batch):
        ...     return torch.cat([token, embed(batch.unflatten(1, (4, 16)))], dim=1)
        >>> first = FirstBlockInput(torch.randn(2, 64), read)
        >>> first.special_tokens()
        [0]
        >>> first.moved_by_end({"t": 64}).any(2)[0].tolist()
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

    def moved(self, change: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """Which of its numbers move, bool [B, ...], when the one tensor of real numbers in the batch is changed."""
        floating = floating_in(self.batch)
        changed = change(floating[0].clone()) if len(floating) == 1 else None
        if changed is None or self.rest is None:
            return None
        now = self._read(replaced(self.batch, floating[0], changed))
        if now is None or now.shape != self.rest.shape:
            return None
        moved = now != self.rest
        return moved if bool(moved.any()) else None

    def moved_by_end(self, extents: Mapping[str, int]) -> Tensor | None:
        """Which of its numbers move when the last quarter of the input along every axis of places changes."""

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

        return self.moved(change)

    def special_tokens(self) -> list[int] | None:
        """Tokens of [B, T, F] that no input moves: class tokens, registers."""
        moved = self.moved(noisy)
        if moved is None or moved.ndim != 3:
            return None
        return [i for i, any_moved in enumerate(moved.any(2).any(0).tolist()) if not any_moved]

    def features_first(self, extents: Mapping[str, int]) -> bool | None:
        """Whether places lie behind the features, by what a change in one corner of the input moves along either axis."""
        moved = self.moved_by_end(extents)
        if moved is None or moved.ndim < 3:
            return None
        first = float(moved.flatten(2).any(2).float().mean())
        last = float(moved.transpose(1, -1).flatten(2).any(2).float().mean())
        return last <= LOCAL if (first <= LOCAL) != (last <= LOCAL) else None

    def variates_apart(self, variates: int) -> bool | None:
        """Whether tokens [B, T, F] belong to one variate each, so that a change of the first leaves most as they are."""

        def change(given: Tensor) -> Tensor | None:
            axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == variates]
            if len(axes) != 1:
                return None
            first = given.narrow(axes[0], 0, 1)
            first.copy_(noisy(first))
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

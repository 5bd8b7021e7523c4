"""Which token moves when one place of the input changes, so that no order of tokens is taken on trust.

Images and videos are looked at by discovery itself; here, what has one axis: texts, sounds and series.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Tap
from diagnostics_transformers.inputs import Prepared

Forward = Callable[[nn.Module, Any], Any]


class _Reached(Exception):
    """Ends a pass at the first layer."""


def entering(module: nn.Module, first: str, batch: Any, forward: Forward) -> Tensor | None:
    """What a module takes in a pass, the first tensor of it; None where it never runs or takes none."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.extend(t.clone() for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
        raise _Reached

    handle = module.get_submodule(first).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad(), contextlib.suppress(_Reached):
            forward(module, batch)
    finally:
        handle.remove()
    return seen[0] if seen else None


def check_places(
    module: nn.Module, tap: Tap, batch: Mapping[str, Tensor], forward: Forward, prepared: Prepared, name: str
) -> None:
    """Raises where the token of a changed place is not the one that the grid of the first tap says."""
    site, grid = tap.site, tap.grid
    if site is not None and site.rows == 1:
        both = entering(module, site.module, batch, forward)
        if both is not None and len(both) == 2 and torch.equal(both[0], both[1]):
            raise DiagnosticsError(
                f"{name} gives its first layer '{site.module}' the same for any {prepared.modality} (queries, no places of it): "
                "it is not supported yet."
            )
    if site is None or "t" not in grid.axes or prepared.modality not in ("text", "audio", "series") or grid.tokens < 2:
        return
    steps = grid.shape[grid.axes.index("t")]
    rest = _tokens(module, tap, batch, forward)
    for share in (0.3, 0.8):
        changed, start, stop = _changed(batch, prepared, share)
        moved = _tokens(module, tap, changed, forward)
        if rest is None or moved is None or moved.shape != rest.shape:
            return
        size = (moved - rest)[0, grid.prefix :].abs().sum(-1).reshape(grid.shape)
        size = size.sum(tuple(i for i, axis in enumerate(grid.axes) if axis != "t")) if grid.axes != ("t",) else size
        if not bool(size.max() > 0):
            return
        place = int(size.argmax())
        low, high = start * steps, stop * steps
        # Frames overlap and convolutions reach further.
        slack = 1.0 if prepared.modality == "text" else 2.0 + 0.05 * steps + prepared.reach
        if not low - slack <= place <= high + slack:
            raise DiagnosticsError(
                f"{name} does not keep its tokens in the order of time (a change between {start:.0%} and {stop:.0%} of the "
                f"{prepared.modality} moved token {place} of {steps}): it is not supported yet."
            )


def _tokens(module: nn.Module, tap: Tap, batch: Any, forward: Forward) -> Tensor | None:
    """[B, T, F] as they enter the first layer."""
    site = tap.site
    assert site is not None
    seen = entering(module, site.module, batch, forward)
    if seen is None:
        return None
    if site.layout == "channels_first":
        return seen.flatten(2).mT
    if site.layout == "time_first":
        return seen.transpose(0, 1)
    if site.rows > 1:
        return seen.unflatten(0, (-1, site.rows)).flatten(1, 2)
    return seen.flatten(1, -2)


def _changed(batch: Mapping[str, Tensor], prepared: Prepared, share: float) -> tuple[dict[str, Tensor], float, float]:
    """The batch with one place changed, and between which shares of the time that lies."""
    made = dict(batch)
    if prepared.modality == "text":
        ids, words = batch["input_ids"].clone(), batch["words"]
        lead = int(words[0].long().argmax())
        place = lead + int(share * int(words[0].sum()))
        ids[:, place] = ids[:, lead] if int(ids[0, place]) != int(ids[0, lead]) else ids[:, lead] + 1
        made["input_ids"] = ids
        total = ids.shape[1] - lead
        return made, (place - lead) / total, (place - lead) / total
    key = "sound" if prepared.modality == "audio" else "values"
    values = batch[key].clone()
    axis = _time_axis(values, prepared) if prepared.modality == "audio" else 1
    extent = values.shape[axis]
    width = max(1, extent // 50) if prepared.modality == "audio" else max(2, extent // 16)
    start = int(share * extent)
    part = values.narrow(axis, start, min(width, extent - start))
    if prepared.modality == "audio":
        part += 1.0
    else:
        # Reversed, not added to: a normalisation over all of the series stays as it was.
        part.copy_(part.flip(axis))
    made[key] = values
    return made, start / extent, (start + width) / extent


def _time_axis(values: Tensor, prepared: Prepared) -> int:
    return 1 + [i for i, n in enumerate(values.shape[1:]) if n == prepared.extents["t"]][-1]

"""Where tokens lie in towers that keep them in an order of their own, and a check that those of others lie in time.

Discovery verifies the order of images and videos itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import (
    DiagnosticsError,
    Grid,
    Site,
    Tap,
    first_tensor,
    moved_most,
    order_of_axes,
    part_of,
    tokens_at,
)
from diagnostics_transformers.passes import Passes
from diagnostics_transformers.prepared import Prepared
from diagnostics_transformers.towers import model_type

SHARES = (0.3, 0.8)
"""Of a sample's length: where it is changed."""

TRAILING = ("llama4_vision_model",)
"""Their special tokens stand behind those of the patches."""

_FILLED = ("mllama_vision_model",)
"""Behind a class token and the patches comes what fills up: zeros to a multiple of 8 tokens, and tiles without an image."""


def with_order(tower: nn.Module, tap: Tap) -> Tap:
    """A tap as discovered, with the order of its tokens where the model is known to have one."""
    kind = model_type(tower)
    order, site = _ORDERS.get(kind), tap.site
    if kind in _FILLED and site is not None and tap.grid.prefix > 1:
        filling = tap.grid.prefix - 1
        return replace(tap, grid=replace(tap.grid, prefix=1), site=replace(site, trailing=filling))
    if order is None or site is None or site.layout != "tokens":
        return tap
    return replace(tap, site=replace(site, order=order(tower, tap)))


def _rolled(tower: Any, tap: Tap) -> tuple[int, ...]:
    """Hiera keeps windows together; each stage of fewer tokens has one step less of that to undo."""
    count = tap.grid.tokens
    encoder = tower.encoder
    for stage, (_, size) in encoder.schedule.items():
        if size[0] * size[1] == count and not tap.grid.prefix:
            return tuple(encoder.reroll(torch.arange(count).reshape(1, count, 1), stage).flatten().tolist())
    return ()


def _queries_last(_: Any, tap: Tap) -> tuple[int, ...]:
    """YOLOS: a class token, the patches, the tokens that detect."""
    queries, count = tap.grid.prefix - 1, tap.grid.tokens
    return (0, *range(1 + count, 1 + count + queries), *range(1, 1 + count)) if queries > 0 else ()


_ORDERS = {"hiera": _rolled, "yolos": _queries_last}


def packed_taps(passes: Passes, names: Sequence[str], grid: Grid, order: tuple[int, ...]) -> list[Tap]:
    """`embed`, the layers, and the first norm behind them that keeps all tokens, of a tower that keeps the patches of all
    images of a batch behind one another, [B * T, F] or [1, B * T, F].
    """
    layers = tuple(f"{name}." for name in names)
    modules = passes.module.named_modules()
    norms = [n for n, part in modules if "norm" in type(part).__name__.lower() and not n.startswith(layers)]
    calls = passes.calls((*names, *norms))
    entered = passes.entering(names[0], passes.batch)
    assert entered is not None
    seen = [(names[0], entered), *((call.name, first_tensor(call.output)) for call in calls)]
    seen = [entry for entry in seen if isinstance(entry[1], Tensor)]
    last = max(i for i, (name, _) in enumerate(seen) if name in names)
    behind = [entry for entry in seen[last + 1 :] if _tokens(entry[1]) == _tokens(seen[last][1])]
    steps = [entry for entry in seen[: last + 1] if entry[0] in names] + behind[:1]
    taps: list[Tap] = []
    for i, (name, tensor) in enumerate(steps):
        mergeable = not order and not grid.prefix and all(n % 2 == 0 for n in grid.shape)
        if mergeable and 4 * _tokens(tensor) == 2 * grid.tokens:
            # Four neighbours become one, of what lies in raster order.
            grid = Grid(tuple(n // 2 for n in grid.shape), grid.axes)
        if _tokens(tensor) != 2 * (grid.prefix + grid.tokens):
            raise DiagnosticsError(
                f"{passes.name} has {_tokens(tensor)} tokens at {name} for two images of {grid.tokens} patches: it merges them on "
                "its way, which is not supported yet."
            )
        depth = min(1.0, i / len(names))
        site = Site(name, when="after" if i else "before", layout="packed", order=order)
        tap = Tap(name, depth, "trunk", tensor.shape[-1], grid, site)
        taps.append(tap if i else replace(tap, name="embed", part="embedding"))
    if len(steps) < len(names) + 1:
        raise DiagnosticsError(
            f"{passes.name} does not run all its layers once on two images: it is not supported yet."
        )
    return taps


def _tokens(tensor: Tensor) -> int:
    """Tokens of all samples together; 0 where they do not lie in one row."""
    if tensor.ndim == 3 and len(tensor) == 1:
        return tensor.shape[1]
    return len(tensor) if tensor.ndim == 2 else 0


def check_places(passes: Passes, tap: Tap) -> None:
    """Raises DiagnosticsError where the first tap's tokens do not stand for the places that its grid declares."""
    site, grid, prepared, name = tap.site, tap.grid, passes.prepared, passes.name
    rest = tokens_at(passes.module, tap, passes.batch, passes.forward)
    if site is None or rest is None:
        return
    if site.rows == 1 and len(rest) == 2 and torch.equal(rest[0], rest[1]):
        raise DiagnosticsError(
            f"{name} gives its first layer '{site.module}' the same for any {prepared.modality} (queries, no places of it): "
            "it is not supported yet."
        )
    if "t" not in grid.axes or prepared.modality not in ("text", "audio", "series") or grid.tokens < 2:
        return
    steps = grid.shape[grid.axes.index("t")]
    for share in SHARES:
        changed, start, stop = _changed(passes.batch, prepared, share)
        tokens = tokens_at(passes.module, tap, changed, passes.forward)
        place = None if tokens is None else moved_most(tokens, rest, grid, ("t",))
        if place is None:
            return
        # Frames overlap and convolutions reach further.
        slack = 1.0 if prepared.modality == "text" else 2.0 + 0.05 * steps + prepared.reach
        middle, reach = steps * (start + stop) / 2, slack + steps * (stop - start) / 2
        if order_of_axes((steps,), np.array([[middle]]), np.array([place]), [reach]) is None:
            raise DiagnosticsError(
                f"{name} does not keep its tokens in the order of time (a change between {start:.0%} and {stop:.0%} of the "
                f"{prepared.modality} moved token {place} of {steps}): it is not supported yet."
            )


def _changed(batch: Mapping[str, Tensor], prepared: Prepared, share: float) -> tuple[dict[str, Tensor], float, float]:
    """The batch with one place changed, and between which shares of the time that lies."""
    if prepared.modality == "text":
        ids, words = batch["input_ids"].clone(), batch["words"]
        lead = int(words[0].long().argmax())
        place = lead + int(share * int(words[0].sum()))
        ids[:, place] = ids[:, lead] if int(ids[0, place]) != int(ids[0, lead]) else ids[:, lead] + 1
        at = (place - lead) / (ids.shape[1] - lead)
        return {**batch, "input_ids": ids}, at, at
    audio = prepared.modality == "audio"
    key = "sound" if audio else "values"
    values = batch[key].clone()
    axis = 1 + [i for i, n in enumerate(values.shape[1:]) if n == prepared.extents["t"]][-1] if audio else 1
    extent = values.shape[axis]
    width = max(1, extent // 50) if audio else max(2, extent // 16)
    start = int(share * extent)
    part = part_of(values, {axis: (start, min(start + width, extent))})
    # A series is reversed, not added to: a normalisation over all of it stays as it was.
    part.copy_(part + 1.0 if audio else part.flip(axis))
    return {**batch, key: values}, start / extent, (start + width) / extent

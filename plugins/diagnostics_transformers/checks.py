"""Which token moves when one place of a text, a sound or a series changes, so that no order of tokens is taken on trust.

Discovery verifies the order of images and videos itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diagnostics import DiagnosticsError, Tap
from diagnostics.encoders.perturbation import moved_most, part_of, tokens_at
from diagnostics_transformers.prepared import Prepared
from diagnostics_transformers.trial import Trial

SHARES = (0.3, 0.8)
"""Of a sample's length: where it is changed."""


def check_places(trial: Trial, tap: Tap) -> None:
    """Raises DiagnosticsError where the first tap's tokens do not stand for the places that its grid declares."""
    site, grid, prepared, name = tap.site, tap.grid, trial.prepared, trial.name
    rest = tokens_at(trial.module, tap, trial.batch, trial.forward)
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
        changed, start, stop = _changed(trial.batch, prepared, share)
        tokens = tokens_at(trial.module, tap, changed, trial.forward)
        place = None if tokens is None else moved_most(tokens, rest, grid, ("t",))
        if place is None:
            return
        low, high = start * steps, stop * steps
        # Frames overlap and convolutions reach further.
        slack = 1.0 if prepared.modality == "text" else 2.0 + 0.05 * steps + prepared.reach
        if not low - slack <= place <= high + slack:
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

"""How far a model's input reaches along the axes that its tokens can lie on."""

from __future__ import annotations

from typing import Any

from diagnostics.encoders.discovery.places import tensors_of
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import Modality


def extents_of(modality: Modality, batch: Any, encoder: str, sample: tuple[int, ...] = ()) -> dict[str, int]:
    """The extents of a preprocessed batch, by its modality; raises where the shape leaves them open.

    image [B, (channel,) y, x] or [B, y, x, channel]; video [B, (channel,) t, (channel,) y, x]; audio and text [B, t], or
    the longer of two axes; series [B, t], [B, variate, t] or [B, t, variate], of which the shape of the raw `sample` [time,
    variate] says which is which, and otherwise time is the longer one.
    """
    tensors = tensors_of(batch)
    shape = list(tensors[0].shape[1:]) if tensors else list[int]()
    colours = (1, 3, 4)
    if modality == "image" and len(shape) in (2, 3):
        last = len(shape) == 3 and shape[2] in colours and shape[0] not in colours
        y, x = (shape[0], shape[1]) if last else (shape[-2], shape[-1])
        return {"y": y, "x": x}
    if modality == "video" and len(shape) == 4 and (shape[0] == 3) != (shape[1] == 3):
        return {"t": shape[1] if shape[0] == 3 else shape[0], "y": shape[2], "x": shape[3]}
    if modality == "video" and len(shape) == 4 and shape[0] == 3 and len(sample) == 4 and sample[0] == 3:
        return {"t": 3, "y": shape[2], "x": shape[3]}
    if modality in ("series", "audio", "text") and len(shape) in (1, 2):
        if len(shape) == 1 or modality != "series":
            return {"t": max(shape)}
        if len(sample) == 2 and sorted(sample) == sorted(shape) and sample[1] > 1:
            return {"v": sample[1], "t": sample[0]}
        return {"v": min(shape), "t": max(shape)} if min(shape) > 1 else {"t": max(shape)}
    raise DiagnosticsError(
        f"{encoder} prepares a {modality} as a tensor of shape {shape}, which does not show its axes: declare its "
        "taps yourself (docs/plugins.md)."
    )

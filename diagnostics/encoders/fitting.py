"""Whether samples fit an encoder: their modality, the order of their axes, their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.errors import DiagnosticsError, describe

if TYPE_CHECKING:
    from diagnostics.encoders.encoder import Encoder

COLOURS = (1, 3)
"""Channels of an image that is taken for one where they come first: fewer than any side has pixels."""


def check_modality(encoder: Encoder, samples: Any) -> None:
    """Raises where samples, as those of a dataset do, say that they are of another modality."""
    modality = getattr(samples, "modality", encoder.modality)
    if modality != encoder.modality:
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, but {getattr(samples, 'name', 'what was given')} holds {modality} "
            f"samples: give {encoder.modality} samples."
        )


def sized(encoder: Encoder, sample: np.ndarray, whose: str) -> Encoder:
    """The encoder sized for a sample; raises where it takes none like it, of which `whose` says in words what they are."""
    try:
        if encoder.modality in ("image", "video"):
            check_channels_last(sample, encoder.example())
        return encoder.sized_for(sample)
    except DiagnosticsError as error:
        raise DiagnosticsError(f"{whose} do not fit {encoder.name}: {error}") from error
    except Exception as error:
        raise DiagnosticsError(f"{whose} cannot be read for {encoder.name}: {describe(error)}") from error


def pinned_to(encoder: Encoder, shape: Sequence[int]) -> Encoder:
    """The encoder sized for samples of a shape, whose `transform` takes only what is prepared as they are; as it is for texts, and
    where no shape is known."""
    if not shape:
        return encoder
    like = np.zeros(tuple(shape), np.asarray(encoder.example()).dtype)
    return sized(encoder, like, f"Samples of shape {tuple(shape)}").replace(pinned=True)


def check_channels_last(sample: np.ndarray, example: np.ndarray | None = None) -> None:
    """Raises for an image or a video whose channels come before its pixels, unless those of the example do too."""
    if channels_first(sample) and (example is None or not channels_first(example)):
        raise DiagnosticsError(
            f"it has shape {list(np.shape(sample))}, and channels come last, as in {_moved(np.shape(sample))}: give "
            "np.moveaxis(images, -3, -1), or images.movedim(-3, -1) of a tensor."
        )


def channels_first(sample: Any) -> bool:
    """Whether it can only be [..., channel, y, x]."""
    shape = tuple(np.shape(sample))
    return len(shape) in (3, 4) and shape[-3] in COLOURS and min(shape[-2:]) > max(COLOURS) + 1


def _moved(shape: tuple[int, ...]) -> list[int]:
    return [*shape[:-3], *shape[-2:], shape[-3]]

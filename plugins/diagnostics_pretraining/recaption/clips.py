"""A clip and what is known of it besides its pixels."""

import hashlib
from dataclasses import dataclass

import numpy as np

from diagnostics import Dataset, DiagnosticsError


@dataclass(frozen=True)
class Clip:
    """Sample `row` of a dataset: frames uint8 [t, y, x, 3], `rate` of them a second (None: not known).

    title, human_caption: what people wrote; "" where nobody did.
    """

    row: int
    id: str
    frames: np.ndarray
    rate: float | None
    title: str = ""
    human_caption: str = ""


def clip_of(dataset: Dataset, row: int, title: str = "", human_caption: str = "") -> Clip:
    """A sample as a clip; an image is a clip of one frame."""
    frames = dataset[row]
    if dataset.modality == "image":
        frames = frames[None]
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.shape[-1] == 1:
        frames = np.repeat(frames, 3, axis=-1)
    return Clip(row, str(dataset.ids[row]), frames[..., :3], dataset.rate, title, human_caption)


def check_clips(dataset: Dataset) -> None:
    """Raises for samples that cannot be looked at."""
    if dataset.modality not in ("video", "image"):
        raise DiagnosticsError(
            f"{dataset.name} holds {dataset.modality} samples, and captions are of what can be seen: give `videos:FOLDER`, "
            "`images:FOLDER` or `shapes?frames=8`."
        )


def digest_of(frames: np.ndarray) -> str:
    """Of pixels: other frames have another digest, under whatever name."""
    array = np.ascontiguousarray(frames)
    return hashlib.sha256(f"{array.dtype.str} {array.shape};".encode() + array.tobytes()).hexdigest()

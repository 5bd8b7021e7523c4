"""Clips among a batch's images: their frames join the images, and a clip's embedding is the mean of its frames'.

As in Perception Encoder (arXiv 2504.13181, section 2.2). Neither the towers nor this mean know of time: the order of frames
changes nothing, so what is learned tells what is in a clip and never in which direction it moves.
"""

import numpy as np
import torch
from diagnostics_training.trainer.objective import Batch
from torch import Tensor

from diagnostics import DiagnosticsError
from diagnostics.encoders.frames import sampled_frames

FRAMES = "frames"
"""Of a batch's clips, float32 [clip, frame, 3, size, size]; its `pixels` are those of its images, which come first."""


def clip_places(batch: int, share: float) -> np.ndarray:
    """Which samples of a batch are clips, bool [sample]: the share as nearly as whole samples allow, spread evenly, so that
    processes have as many each as they can.

    Raises for a share that is none.
    """
    if not 0 <= share <= 1:
        raise DiagnosticsError(f"A batch cannot have a share of {share} clips: give 0 to 1.")
    return np.diff(np.arange(batch + 1) * round(share * batch) // batch) > 0


def frames_seen(clip: np.ndarray, count: int) -> list[np.ndarray]:
    """The first frame of each of `count` equal parts of a clip [t, y, x, channel]; a single one is its first frame."""
    return [clip[frame] for frame in sampled_frames(len(clip), count, "floor")]


def flattened(batch: Batch) -> Tensor:
    """All images of a batch, float32 [image, 3, size, size]: its own, then the frames of its clips."""
    pixels = batch["pixels"]
    return torch.cat([pixels, batch[FRAMES].flatten(0, 1)]) if FRAMES in batch else pixels


def pooled(embeddings: Tensor, batch: Batch) -> Tensor:
    """Embeddings [image, feature] of `flattened` images as those of the batch's samples [sample, feature]: images, then clips."""
    if FRAMES not in batch:
        return embeddings
    images, (clips, frames) = len(batch["pixels"]), batch[FRAMES].shape[:2]
    return torch.cat([embeddings[:images], embeddings[images:].unflatten(0, (clips, frames)).mean(1)])

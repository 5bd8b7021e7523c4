"""Procedural scenes and clips with exact ground truth: `world` draws them, `render` shows them, `dataset` hands them over."""

from __future__ import annotations

import diagnostics as dx


def shapes(n: int = 1000, size: int = 64, frames: int = 1, seed: int = 0) -> dx.Dataset:
    """Scenes of one to six objects in a room, rendered, with exact labels, counts, places, masks, depth and captions.

    Samples are images uint8 [size, size, 3], or, with `frames` above 1, clips uint8 [frames, size, size, 3] with optical
    flow and velocities too. n: 10 to 1,000,000; size: 32 to 512; frames: 1 to 64; together they must fit into 4 GiB, at
    9 bytes a pixel of an image and 17 of a clip. Scene i of a seed is the same whatever `n`, and the same world at every
    size. Its attributes `captions`, `centres` and `visible` are those of `dataset.Shapes`.
    """
    from diagnostics_data.shapes.dataset import build

    return build(n, size, frames, seed)

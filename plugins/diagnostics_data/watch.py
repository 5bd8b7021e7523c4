"""Shoulder exercises seen by a watch, split by person; the recordings arrive inside the wheel of seglearn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostics import DiagnosticsError

if TYPE_CHECKING:
    from diagnostics import Dataset
else:
    Dataset = Any

RATE = 50
"""Of the recordings, in Hz."""
SHORTEST = 947
"""Steps of the shortest recording."""


def watch(length: int = 200, seed: int = 0) -> Dataset:
    """Windows float32 [length, 6] of acceleration and rotation at 50 Hz; targets `exercise` (7) and `side`.

    Windows of `length` steps (16 to 947) follow one another; what is left of a recording is dropped. A person is a group, so
    no one is in two splits: 10 people, and intervals over 2 of them in test are wide. Source: Burns et al., Shoulder
    physiotherapy exercise recognition (2018, 1802.01489), as in `seglearn.datasets.load_watch`.
    """
    if not 16 <= length <= SHORTEST:
        raise DiagnosticsError(f"Dataset watch cannot have windows of length={length}: give 16 to {SHORTEST} steps.")
    if seed < 0:
        raise DiagnosticsError(f"Dataset watch cannot have seed={seed}: give 0 or more.")
    try:
        from seglearn.datasets import load_watch
    except ImportError as error:
        raise DiagnosticsError(
            "Dataset watch comes with seglearn, which is not installed: pip install seglearn"
        ) from error
    import numpy as np

    from diagnostics import Dataset, Target, split_groups

    data: Any = load_watch()
    pieces = [
        (recording, start)
        for recording, steps in enumerate(data["X"])
        for start in range(0, len(steps) - length + 1, length)
    ]
    of_piece = np.array([recording for recording, _ in pieces])
    people = [f"person-{int(person):02d}" for person in np.asarray(data["subject"])[of_piece]]
    exercise = np.asarray(data["y"])[of_piece].astype(np.int64)
    side = np.asarray(data["side"])[of_piece].astype(np.int64)
    return Dataset(
        "watch",
        "series",
        np.stack([np.asarray(data["X"][r][start : start + length], dtype=np.float32) for r, start in pieces]),
        [f"recording-{recording:03d}-step-{start:04d}" for recording, start in pieces],
        list(split_groups(people, seed)),
        {
            "exercise": Target("label", exercise, about="which exercise", classes=tuple(map(str, data["y_labels"]))),
            "side": Target("label", side, about="which arm", classes=("left", "right")),
        },
        groups=people,
        about=f"windows of {length / RATE:g} s of a watch's acceleration and rotation during shoulder exercises",
    )

"""Frames of video files: counted without decoding, read from the key frame before them. Needs PyAV."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics_files.decode.declared_size import check_declared_size
from diagnostics_files.errors import check_regular, damaged, decoding, need

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True, slots=True)
class Video:
    """A video file: `times` [frame] in the stream's own unit, in order of showing; frames a second, None if not known."""

    path: Path
    name: str
    times: np.ndarray
    rate: float | None

    def starts(self, span: int, clips: int | None) -> list[int]:
        """First frames of clips of `span` frames that do not overlap: all that fit, or at most `clips` spread evenly."""
        count = len(self.times)
        fit = count // span
        if clips is None or clips >= fit:
            return [i * span for i in range(fit)]
        return (
            [int(start) for start in np.linspace(0, count - span, clips).round()]
            if clips > 1
            else [(count - span) // 2]
        )


def index(path: Path, name: str) -> Video:
    """The frames of the first video stream, from the packets' times; reads the file and decodes nothing."""
    av = need("av", "av", "Reading video files")
    check_regular(path, name)
    check_declared_size(path, name)
    with decoding(name), av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.pts is not None]
        times = [p.pts for p in packets if not p.is_discard]
        rate = float(stream.average_rate) if stream.average_rate else None
        # Tables of these formats list every frame; what is cut short still shows the first ones.
        listed = stream.frames if "mp4" in container.format.name else 0
    if not times:
        raise damaged(name, "no frame of it has a time")
    if len(packets) < listed:
        raise damaged(name, f"it ends after {len(packets)} of {listed} frames")
    return Video(path, name, np.unique(np.asarray(times, dtype=np.int64)), rate)


def read(video: Video, wanted: Sequence[int]) -> np.ndarray:
    """Frames by their numbers, ascending, as uint8 [t, y, x, 3].

    Decoding begins at a key frame. Some formats look for the time of decoding and land too late, others make up the times of
    what follows; so frames must come one after another at the times of the index, from one at or before the first wanted.
    Where they do not, the search goes back further, at last to the start of the file.
    """
    av = need("av", "av", "Reading video files")
    check_regular(video.path, video.name)
    first, back = wanted[0], 0
    with decoding(video.name):
        while True:
            with av.open(str(video.path)) as container:
                if searched := first > back:
                    container.seek(int(video.times[first - back]), stream=container.streams.video[0], backward=True)
                frames = _decoded(container, video, wanted, strict=searched)
            if frames is not None:
                return frames
            if not searched:
                raise damaged(video.name, f"frames {first} to {wanted[-1]} are not all there")
            back = 2 * back + 1


def _decoded(container: Any, video: Video, wanted: Sequence[int], strict: bool) -> np.ndarray | None:
    """The wanted frames; None where some do not come, or with `strict` where any comes at another time than the index says."""
    frames: dict[int, np.ndarray] = {}
    last = None
    for frame in container.decode(video=0):
        number = int(np.searchsorted(video.times, frame.pts)) if frame.pts is not None else len(video.times)
        there = number < len(video.times) and video.times[number] == frame.pts
        if strict and (not there or frame.is_corrupt or (number > wanted[0] if last is None else number != last + 1)):
            return None
        last = number
        if there and number in wanted:
            frames[number] = frame.to_ndarray(format="rgb24")
        if len(frames) == len(wanted):
            return np.stack([frames[i] for i in wanted])
    return None

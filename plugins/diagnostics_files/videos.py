"""Folders of video files, cut into clips."""

from __future__ import annotations

import numpy as np

from diagnostics import DiagnosticsError
from diagnostics_files.decode.images import check_size
from diagnostics_files.decode.video import VIDEOS, Video, index, read
from diagnostics_files.errors import join_notes, sentence, unfit, usable
from diagnostics_files.labelled import labelled
from diagnostics_files.lazy_dataset import FileDataset, Lazy
from diagnostics_files.scan import find, folder


def build(
    path: str, *, frames: int, every: int, clips: int | None, table: str, file: str, values: str, size: int | None,
    seed: int, on_error: str,
) -> FileDataset:  # fmt: skip
    """See `plugin.videos`."""
    scheme = f"videos:{path}"
    root = folder(path, "videos")
    check_size(size, "videos")
    if frames < 1 or every < 1 or (clips is not None and clips < 1):
        raise DiagnosticsError(
            f"Dataset videos cannot have frames={frames}, every={every}, clips={clips}: give 1 or more."
        )
    span = (frames - 1) * every + 1
    files = find(root, VIDEOS, "videos")
    indexed: dict[int, Video] = {}

    def look(i: int) -> Video:
        video = indexed[i] = index(files[i].path, files[i].name)
        if len(video.times) < span:
            why = f"has {len(video.times)} frames, and a clip spans {span}"
            raise unfit(files[i].name, why, "give a smaller ?frames= or ?every=")
        return video

    def check(i: int) -> None:
        video = look(i)
        for start in starts(len(video.times), span, clips):
            read(video, range(start, start + span, every), size)

    kept, left_out = usable([f.name for f in files], check, on_error, scheme)
    videos = [indexed[i] if i in indexed else look(i) for i in kept]
    known = labelled(files, kept, root, scheme, table=table, key=file, values=values, seed=seed)
    cut = [(i, start) for i, video in enumerate(videos) for start in starts(len(video.times), span, clips)]
    rates = {video.rate for video in videos}
    rate = rates.pop() if len(rates) == 1 else None
    return FileDataset(
        root.resolve().name,
        "video",
        Lazy(len(cut), lambda i: read(videos[cut[i][0]], range(cut[i][1], cut[i][1] + span, every), size)),
        [f"{videos[i].name}@{start:06d}" for i, start in cut],
        **known.of([i for i, _ in cut]),
        about=join_notes(
            f"{len(cut)} clips of {frames} frames from {len(videos)} videos",
            known.about,
            sentence(left_out, len(files)),
        ),
        rate=rate / every if rate else None,
        files={video.name: video.path for video in videos},
        options=f"frames={frames} every={every} clips={clips} size={size}",
        left_out=left_out,
    )


def starts(count: int, span: int, clips: int | None) -> list[int]:
    """First frames of clips that do not overlap: all that fit, or at most `clips` spread evenly over the video."""
    fit = count // span
    if clips is None or clips >= fit:
        return [i * span for i in range(fit)]
    return [int(start) for start in np.linspace(0, count - span, clips).round()] if clips > 1 else [(count - span) // 2]

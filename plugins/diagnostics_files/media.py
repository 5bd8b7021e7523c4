"""Folders of images, of texts, of videos cut into clips, and of sound files, whole or cut into windows."""

import functools
import hashlib

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples
from diagnostics_files.decode import audio as sounds
from diagnostics_files.decode import video as videos_of
from diagnostics_files.decode.audio import FASTEST, SOUNDS, Sound, one_rate
from diagnostics_files.decode.images import picture
from diagnostics_files.decode.video import VIDEOS, Video
from diagnostics_files.errors import Unusable, check_regular, damaged, decoding
from diagnostics_files.labelled import Labels, labelled
from diagnostics_files.lazy_dataset import FileDataset, pad_left
from diagnostics_files.scan import PICTURES, File, find, folder


def images(path: str, labels: Labels) -> FileDataset:
    """See `plugin.images`."""
    root = folder(path, "images")

    def read(file: File) -> np.ndarray:
        return picture(file.path, file.name)

    known = labelled(find(root, PICTURES, "images"), read, root, f"images:{path}", labels)
    files = known.files
    samples = LazySamples(len(files), lambda i: read(files[i]))
    about = f"{len(files)} images of a folder"
    return known.dataset("image", samples, [f.name for f in files], range(len(files)), about, "")


LONGEST_TEXT = 10 * 2**20
"""Bytes of a file that is one text."""


def texts(path: str, labels: Labels) -> FileDataset:
    """See `plugin.texts`; equal texts are a group, since the same words in train and test would be a test of memory."""
    root = folder(path, "texts")

    def read(file: File) -> str:
        check_regular(file.path, file.name)
        if (length := file.path.stat().st_size) > LONGEST_TEXT:
            raise Unusable(file.name, f"has {length:,} bytes, more than the {LONGEST_TEXT:,} of a text", "split it")
        with decoding(file.name):
            text = file.path.read_text(encoding="utf-8-sig").strip()
        if not text:
            raise damaged(file.name, "it is an empty text")
        return text

    first: dict[bytes, str] = {}

    def group(file: File) -> str:
        return first.setdefault(hashlib.sha256(read(file).encode()).digest(), file.name)

    known = labelled(find(root, (".txt",), "texts"), read, root, f"texts:{path}", labels, group=group)
    files = known.files
    samples = LazySamples(len(files), lambda i: np.asarray(read(files[i])))
    return known.dataset(
        "text", samples, [f.name for f in files], range(len(files)), f"{len(files)} texts of a folder", ""
    )


def videos(path: str, frames: int, every: int, clips: int | None, labels: Labels) -> FileDataset:
    """See `plugin.videos`."""
    root = folder(path, "videos")
    if frames < 1 or every < 1 or (clips is not None and clips < 1):
        raise DiagnosticsError(
            f"Dataset videos cannot have frames={frames}, every={every}, clips={clips}: give 1 or more."
        )
    span = (frames - 1) * every + 1

    @functools.cache
    def index(file: File) -> Video:
        video = videos_of.index(file.path, file.name)
        if len(video.times) < span:
            why = f"has {len(video.times)} frames, and a clip spans {span}"
            raise Unusable(file.name, why, "give a smaller ?frames= or ?every=")
        return video

    def read(video: Video, start: int) -> np.ndarray:
        return videos_of.read(video, range(start, start + span, every))

    def check(file: File) -> None:
        for start in index(file).starts(span, clips):
            read(index(file), start)

    known = labelled(find(root, VIDEOS, "videos"), check, root, f"videos:{path}", labels, index)
    indexed = [index(file) for file in known.files]
    cut = [(i, start) for i, video in enumerate(indexed) for start in video.starts(span, clips)]
    rates = {video.rate for video in indexed}
    rate = rates.pop() if len(rates) == 1 else None
    return known.dataset(
        "video",
        LazySamples(len(cut), lambda i: read(indexed[cut[i][0]], cut[i][1])),
        [f"{indexed[i].name}@{start:06d}" for i, start in cut],
        [i for i, _ in cut],
        f"{len(cut)} clips of {frames} frames from {len(indexed)} videos",
        f"frames={frames} every={every} clips={clips}",
        rate=rate / every if rate else None,
    )


def audio(path: str, rate: int | None, seconds: float | None, labels: Labels) -> FileDataset:
    """See `plugin.audio`."""
    scheme = f"audio:{path}"
    root = folder(path, "audio")
    if (rate is not None and not 1 <= rate <= FASTEST) or (seconds is not None and not 0 < seconds < np.inf):
        raise DiagnosticsError(
            f"Dataset audio cannot have rate={rate} and seconds={seconds}: give numbers above 0, and {FASTEST:,} "
            "samples a second at most."
        )

    @functools.cache
    def index(file: File) -> Sound:
        return sounds.index(file.path, file.name)

    def check(file: File) -> None:
        sounds.read(index(file), index(file).rate)

    known = labelled(find(root, SOUNDS, "sound files"), check, root, scheme, labels, index)
    indexed = [index(file) for file in known.files]
    hertz = rate if rate is not None else one_rate(indexed, scheme)
    pieces = [(i, start, stop) for i, sound in enumerate(indexed) for start, stop in sound.windows(hertz, seconds)]
    longest = max(stop - start for _, start, stop in pieces)

    def sample(i: int) -> np.ndarray:
        file, start, stop = pieces[i]
        return pad_left(sounds.read(indexed[file], hertz, start, stop), longest)

    cut = seconds is not None
    return known.dataset(
        "audio",
        LazySamples(len(pieces), sample),
        [f"{indexed[i].name}@{start:09d}" if cut else indexed[i].name for i, start, _ in pieces],
        [i for i, _, _ in pieces],
        f"{len(pieces)} {'windows' if cut else 'recordings'} at {hertz} Hz of {len(indexed)} sound files",
        f"rate={hertz} seconds={seconds}",
        rate=float(hertz),
        ragged=any(stop - start < longest for _, start, stop in pieces),
    )

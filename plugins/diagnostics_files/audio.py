"""Folders of sound files, whole or cut into windows."""

from __future__ import annotations

import numpy as np

from diagnostics import DiagnosticsError
from diagnostics_files.decode.audio import FASTEST, SOUNDS, Sound, index, read
from diagnostics_files.errors import join_notes, sentence, usable
from diagnostics_files.labelled import labelled
from diagnostics_files.lazy_dataset import FileDataset, Lazy
from diagnostics_files.scan import find, folder


def build(
    path: str, *, rate: int | None, seconds: float | None, table: str, file: str, values: str, seed: int, on_error: str
) -> FileDataset:
    """See `plugin.audio`."""
    scheme = f"audio:{path}"
    root = folder(path, "audio")
    if (rate is not None and not 1 <= rate <= FASTEST) or (seconds is not None and not 0 < seconds < np.inf):
        raise DiagnosticsError(
            f"Dataset audio cannot have rate={rate} and seconds={seconds}: give numbers above 0, and {FASTEST:,} "
            "samples a second at most."
        )
    files = find(root, SOUNDS, "sound files")
    indexed: dict[int, Sound] = {}

    def look(i: int) -> Sound:
        indexed[i] = index(files[i].path, files[i].name)
        return indexed[i]

    def check(i: int) -> None:
        sound = look(i)
        read(sound, sound.rate)

    kept, left_out = usable([f.name for f in files], check, on_error, scheme)
    sounds = [indexed[i] if i in indexed else look(i) for i in kept]
    hertz = rate if rate is not None else _one_rate(sounds, scheme)
    known = labelled(files, kept, root, scheme, table=table, key=file, values=values, seed=seed)
    pieces = [(i, start, stop) for i, sound in enumerate(sounds) for start, stop in windows(sound, hertz, seconds)]
    longest = max(stop - start for _, start, stop in pieces)
    ragged = any(stop - start < longest for _, start, stop in pieces)

    def sample(i: int) -> np.ndarray:
        which, start, stop = pieces[i]
        sample_padded = np.full(longest, np.nan, np.float32)
        sample_padded[longest - (stop - start) :] = read(sounds[which], hertz, start, stop)
        return sample_padded

    cut = seconds is not None
    return FileDataset(
        root.resolve().name,
        "audio",
        Lazy(len(pieces), sample),
        [f"{sounds[i].name}@{start:09d}" if cut else sounds[i].name for i, start, _ in pieces],
        **known.of([i for i, _, _ in pieces]),
        about=join_notes(
            f"{len(pieces)} {'windows' if cut else 'recordings'} at {hertz} Hz of {len(sounds)} sound files", known.about,
            sentence(left_out, len(files)),
        ),
        rate=float(hertz),
        ragged=ragged,
        files={files[i].name: files[i].path for i in kept},
        options=f"rate={hertz} seconds={seconds}",
        left_out=left_out,
    )  # fmt: skip


def windows(sound: Sound, rate: int, seconds: float | None) -> list[tuple[int, int]]:
    """(start, stop) at `rate` of windows that follow one another; a shorter file is one window, a remainder is dropped."""
    length = sound.length_at(rate)
    size = length if seconds is None else max(1, round(seconds * rate))
    return [(i * size, (i + 1) * size) for i in range(length // size)] or [(0, length)]


def _one_rate(sounds: list[Sound], scheme: str) -> int:
    for sound in sounds:
        if sound.rate != sounds[0].rate:
            raise DiagnosticsError(
                f"{sound.name} of {scheme} has {sound.rate} Hz and {sounds[0].name} {sounds[0].rate} Hz: add ?rate=16000 or "
                "the rate that your encoder takes."
            )
    return sounds[0].rate

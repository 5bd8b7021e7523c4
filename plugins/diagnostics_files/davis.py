"""Videos as folders of frames with the masks of their objects, in the layout of DAVIS."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.decode.images import mask, picture
from diagnostics_files.errors import Unusable, alone, join_notes, sentence, usable, utf8_name, warn
from diagnostics_files.lazy_dataset import FileDataset
from diagnostics_files.pairs import class_numbers, common_extent
from diagnostics_files.scan import folder, safe_name


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video; (image, mask) of each, names below the root."""

    video: str
    first: int
    frames: tuple[tuple[str, str], ...]
    split: str

    @property
    def id(self) -> str:
        return f"{utf8_name(self.video)}/{self.first:05d}"


def build(path: str, frames: int, sets: str | None, seed: int, on_error: str) -> FileDataset:
    """See `plugin.davis`."""
    scheme = f"davis:{path}"
    root = folder(path, "davis")
    if frames < 1:
        raise DiagnosticsError(f"Dataset davis cannot have frames={frames}: give the frames of a clip, 1 or more.")
    every, note = _clips(root, frames, sets, scheme)

    def images(clip: Clip) -> np.ndarray:
        return np.stack([picture(root / image, image) for image, _ in clip.frames])

    def masks(clip: Clip) -> np.ndarray:
        return np.stack([mask(root / name, name) for _, name in clip.frames])

    def check(i: int) -> None:
        _check_extents(root, every[i])
        images(every[i])
        masks(every[i])

    kept, left_out = usable([clip.id for clip in every], check, on_error, scheme)
    clips = [every[i] for i in kept]
    for clip in clips:
        _check_extents(root, clip)
    read, present, how = class_numbers(map(masks, clips), 255)
    if not any(present):
        raise DiagnosticsError(f"The masks of {scheme} show no object: give masks that number objects from 1.")
    maps: Any = LazySamples(len(clips), lambda i: read(masks(clips[i])))
    groups = [utf8_name(clip.video) for clip in clips]
    split, drawn, exchangeable = complete_splits([clip.split for clip in clips], groups, seed, scheme)
    return FileDataset(
        root.resolve().name,
        "video",
        LazySamples(len(clips), lambda i: images(clips[i])),
        [clip.id for clip in clips],
        split,
        {"objects": Target("masks", maps, about=f"which object each pixel of each frame belongs to; {how}")},
        groups=groups,
        about=join_notes(
            f"{len(clips)} clips of {frames} frames from {len(set(groups))} videos", drawn, how,
            note, sentence(left_out, len(every)),
        ),
        files={utf8_name(name): root / name for clip in clips for pair in clip.frames for name in pair},
        options=f"frames={frames} {how}",
        left_out=left_out,
        exchangeable=exchangeable,
    )  # fmt: skip


def _clips(root: Path, frames: int, sets: str | None, scheme: str) -> tuple[list[Clip], str]:
    """Clips that follow one another (what is left at the end of a video is dropped), and which videos have no masks."""
    images_at, masks_at = (_resolution(root / name, scheme) for name in ("JPEGImages", "Annotations"))
    split_of = _sets(root, sets, scheme) if sets else None
    clips: list[Clip] = []
    for video in sorted(
        entry.name for entry in masks_at.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    ):
        if split_of is not None and video not in split_of:
            continue
        masks = {entry.stem: entry for entry in sorted((masks_at / video).glob("*.png"))}
        images = [
            entry
            for entry in sorted((images_at / video).glob("*"))
            if entry.suffix.lower() in (".jpg", ".jpeg", ".png")
        ]
        pairs: list[tuple[str, str]] = []
        for image in images:
            if image.stem not in masks:
                raise DiagnosticsError(
                    f"Frame {image.relative_to(root).as_posix()} of {scheme} has no mask: add {image.stem}.png."
                )
            pairs.append((image.relative_to(root).as_posix(), masks[image.stem].relative_to(root).as_posix()))
        if len(pairs) != len(masks):
            raise DiagnosticsError(
                f"Video {video} of {scheme} has {len(masks)} masks and {len(pairs)} frames: give one for each."
            )
        split = split_of[video] if split_of is not None else ""
        clips += [
            Clip(video, first, tuple(pairs[first : first + frames]), split)
            for first in range(0, len(pairs) - frames + 1, frames)
        ]
    if not clips:
        raise DiagnosticsError(f"No video of {scheme} has {frames} frames with masks: give a smaller ?frames=.")
    shown = sorted(entry.name for entry in images_at.iterdir() if entry.is_dir())
    if note := alone([name for name in shown if not (masks_at / name).is_dir()], "video", "masks"):
        warn(f"{scheme}: {note}.")
    return clips, note


def _resolution(folder_of_all: Path, scheme: str) -> Path:
    if not folder_of_all.is_dir():
        raise DiagnosticsError(
            f"{scheme} has no folder {folder_of_all.name}: lay out JPEGImages/480p/VIDEO/*.jpg and Annotations/480p/VIDEO/*.png."
        )
    return folder_of_all / "480p" if (folder_of_all / "480p").is_dir() else folder_of_all


def _sets(root: Path, sets: str, scheme: str) -> dict[str, str]:
    """Video -> split, from the lists ImageSets/<sets>/{train,val,test}.txt."""
    at = root / "ImageSets" / safe_name(sets, "Option sets")
    lists = {split: at / f"{split}.txt" for split in ("train", "val", "test")}
    split_of = {
        video: split for split, path in lists.items() if path.is_file() for video in path.read_text("utf-8").split()
    }
    if not split_of:
        raise DiagnosticsError(
            f"{scheme} has no lists ImageSets/{sets}/train.txt and val.txt: correct ?sets= or leave it out."
        )
    return split_of


def _check_extents(root: Path, clip: Clip) -> None:
    """Raises where a mask is not as large as its frame, or a frame not as large as the first of its clip."""
    sizes = [common_extent((root / image, image), (root / name, name), "frame") for image, name in clip.frames]
    for (image, _), (y, x) in zip(clip.frames, sizes, strict=True):
        if (y, x) != sizes[0]:
            why = f"is {y} x {x} pixels and {clip.frames[0][0]} of the same clip {sizes[0][0]} x {sizes[0][1]}"
            raise Unusable(image, why, "give the frames of a video one size")

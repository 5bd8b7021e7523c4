"""Pairs of files of the same names: images with maps for each pixel, and DAVIS, clips with masks."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from diagnostics.plugin import SPLIT_OF, DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.decode import depth, extent, mask, picture
from diagnostics_files.folder import (
    PICTURES,
    File,
    FileDataset,
    Unusable,
    alone,
    find,
    folder,
    join_notes,
    safe_name,
    sentence,
    tell,
    usable,
    utf8_name,
)

# Folders of images with a mask or a depth map for each: pairs and dense targets, whose maps are read on demand.


IMAGES = ("images", "rgb")
MASKS = ("annotations", "masks")
DEPTHS = ("depth",)


@dataclass(frozen=True)
class Pair:
    """An image and its map; `name` and `map_name` below the root."""

    image: Path
    map: Path
    name: str
    map_name: str
    split: str

    def check_extent(self) -> None:
        """Raise where the map is not as large as its image."""
        common_extent((self.image, self.name), (self.map, self.map_name))

    def sample(self) -> np.ndarray:
        """The pixels of the image."""
        return picture(self.image, self.name)


def segmentation(path: str, unknown: int | None, seed: int, on_error: str) -> FileDataset:
    """See `plugin.segmentation`."""
    scheme = f"segmentation:{path}"
    root = folder(path, "segmentation")
    pairs, note = pairs_of(root, MASKS, PICTURES, scheme)
    if not (asked := unknown is not None):
        # ADE20k's layout numbers its classes from 1; elsewhere 255 is what annotators leave out.
        unknown = 0 if any(pair.map_name.startswith("annotations/training/") for pair in pairs) else 255

    def numbers(pair: Pair) -> np.ndarray:
        return mask(pair.map, pair.map_name)

    kept, left_out = _usable(pairs, numbers, on_error, scheme)
    read, present, how = class_numbers(map(numbers, kept), unknown, drawings=not asked)
    if len(present) < 2:
        raise DiagnosticsError(
            f"The masks of {scheme} hold one class only ({', '.join(map(str, present)) or 'none'}; {unknown} is "
            f"unknown): give masks with at least two, or another{' or no' if asked else ''} ?unknown=.",
            code="bad-target",
        )
    maps: Any = LazySamples(len(kept), lambda i: read(numbers(kept[i])))
    target = Target("token_label", maps, about=f"class of each pixel; {how}")
    return _dataset(
        root, kept, target, "segmentation", options=how, seed=seed, notes=(note, how), left_out=left_out, of=len(pairs)
    )


def depths(path: str, scale: float, seed: int, on_error: str) -> FileDataset:
    """See `plugin.depth`."""
    scheme = f"depth:{path}"
    root = folder(path, "depth")
    if not 0 < scale < np.inf:
        raise DiagnosticsError(
            f"Dataset depth cannot have scale={scale}: give the metres that one step of the PNG means.",
            code="bad-value",
        )
    pairs, note = pairs_of(root, DEPTHS, (".png", ".npy"), scheme)

    def metres(pair: Pair) -> np.ndarray:
        return depth(pair.map, pair.map_name, scale)

    kept, left_out = _usable(pairs, metres, on_error, scheme)
    if not any(np.isfinite(metres(pair)).any() for pair in kept):
        raise DiagnosticsError(
            f"The maps of {scheme} hold no depth above 0: give depth in metres, or 16-bit steps of ?scale=.",
            code="bad-target",
        )
    maps: Any = LazySamples(len(kept), lambda i: metres(kept[i]))
    target = Target("token_value", maps, units="m", about="distance of each pixel; NaN where unknown")
    return _dataset(
        root,
        kept,
        target,
        "depth",
        options=f"scale={scale}",
        seed=seed,
        notes=(note,),
        left_out=left_out,
        of=len(pairs),
    )


def pairs_of(root: Path, map_folders: Sequence[str], suffixes: Sequence[str], scheme: str) -> tuple[list[Pair], str]:
    """Images and maps of the same name, ordered; in words, how many images have no map and the first of them.

    Either `root/images/...` beside `root/<maps>/...`, with split folders below each where there are splits, or both
    below each split folder. Raises where no pair is found and where two images would share a map.
    """
    tops = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    bases = [("", root)]
    if tops and all(top.name.lower() in SPLIT_OF for top in tops):
        bases = [(SPLIT_OF[top.name.lower()], top) for top in tops]
    pairs: list[Pair] = []
    single: list[str] = []
    for split, base in bases:
        images_at, maps_at = (_one_of(base, names, scheme) for names in (IMAGES, map_folders))
        maps = _by_stem(find(maps_at, suffixes, "maps"), maps_at, "maps")
        every = find(images_at, PICTURES, "images")
        images = _by_stem([file for file in every if _stem(file) in maps], images_at, "images")
        single += [utf8_name(file.path.relative_to(root).as_posix()) for file in every if _stem(file) not in maps]
        for stem, image in images.items():
            name, map_name = (utf8_name(path.relative_to(root).as_posix()) for path in (image.path, maps[stem].path))
            pairs.append(Pair(image.path, maps[stem].path, name, map_name, split or image.split))
    if not pairs:
        raise DiagnosticsError(
            f"No image of {scheme} has a map of the same name: name them alike, as images/a.jpg and "
            f"{map_folders[0]}/a.png.",
            code="missing-file",
        )
    return pairs, tell(scheme, alone(single, "image", "a map"))


def _stem(file: File) -> PurePosixPath:
    return PurePosixPath(file.name).with_suffix("")


def _by_stem(files: Sequence[File], folder: Path, kind: str) -> dict[PurePosixPath, File]:
    by_stem = {_stem(file): file for file in files}
    if len(by_stem) < len(files):
        twice = next(stem for stem, count in Counter(map(_stem, files)).items() if count > 1)
        raise DiagnosticsError(f"{folder} has two {kind} named {twice}: keep one of them.", code="duplicate")
    return by_stem


def class_numbers(
    maps: Iterable[np.ndarray], unknown: int, drawings: bool = True
) -> tuple[Callable[[np.ndarray], np.ndarray], list[int], str]:
    """The function from the numbers in the files to classes, -1 for what is unknown.

    Also the classes there are, and in words what was done.

    With `drawings`, masks that hold 0 and 255 alone are drawings of one object: 0 and 1.
    """
    held = {number for numbers in maps for number in np.unique(numbers).tolist()}
    if drawings and held == {0, 255}:
        return lambda numbers: (numbers == 255).astype(np.int16), [0, 1], "masks of 0 and 255 read as 0 and 1"
    present = sorted(number for number in held if number >= 0 and number != unknown)
    return lambda numbers: np.where(numbers == unknown, -1, numbers), present, f"{unknown} is unknown"


Item = TypeVar("Item", "Pair", "Clip")


def _usable(
    every: Sequence[Item], read: Callable[[Item], np.ndarray], on_error: str, scheme: str
) -> tuple[list[Item], dict[str, Unusable]]:
    """The pairs or clips that can be used; raises where a map is not as large as its image."""

    def check(i: int) -> None:
        every[i].check_extent()
        every[i].sample()
        read(every[i])

    kept, left_out = usable([each.name for each in every], check, on_error, scheme)
    for i in kept:
        every[i].check_extent()
    return [every[i] for i in kept], left_out


def common_extent(image: tuple[Path, str], of_map: tuple[Path, str], kind: str = "image") -> tuple[int, int]:
    """(y, x) of an image and its map, each a file and its name; raises where they differ."""
    (y, x), (map_y, map_x) = extent(*image), extent(*of_map)
    if (y, x) != (map_y, map_x):
        why = f"is {map_y} x {map_x} pixels and its {kind} {image[1]} {y} x {x}"
        raise Unusable(of_map[1], why, f"give maps of their {kind}s' size")
    return y, x


def _one_of(base: Path, names: Sequence[str], scheme: str) -> Path:
    for name in names:
        if (base / name).is_dir():
            return base / name
    raise DiagnosticsError(
        f"{base} has no folder {' or '.join(names)}: {scheme} needs images and maps side by side.", code="missing-file"
    )


def _dataset(
    root: Path,
    pairs: Sequence[Pair],
    target: Target,
    name: str,
    options: str,
    seed: int,
    notes: Sequence[str],
    left_out: dict[str, Unusable],
    of: int,
) -> FileDataset:
    ids = [pair.name for pair in pairs]
    split, how, exchangeable = complete_splits([pair.split for pair in pairs], ids, seed, name)
    return FileDataset(
        root.resolve().name,
        "image",
        LazySamples(len(pairs), lambda i: pairs[i].sample()),
        ids,
        split,
        {name: target},
        about=join_notes(f"{len(pairs)} images with {name} of each pixel", how, *notes, sentence(left_out, of)),
        files={n: p for pair in pairs for n, p in ((pair.name, pair.image), (pair.map_name, pair.map))},
        options=options,
        left_out=left_out,
        exchangeable=exchangeable,
    )


# Videos as folders of frames with the masks of their objects, in the layout of DAVIS.


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video; (image, mask) of each, names below the root."""

    root: Path
    video: str
    first: int
    frames: tuple[tuple[str, str], ...]
    split: str

    @property
    def name(self) -> str:
        return f"{utf8_name(self.video)}/{self.first:05d}"

    def check_extent(self) -> None:
        """Raise where a mask is not as large as its frame, or a frame not as large as the first of its clip."""
        root, (first, _) = self.root, self.frames[0]
        sizes = [common_extent((root / image, image), (root / name, name), "frame") for image, name in self.frames]
        for (image, _), (y, x) in zip(self.frames, sizes, strict=True):
            if (y, x) != sizes[0]:
                why = f"is {y} x {x} pixels and {first} of the same clip {sizes[0][0]} x {sizes[0][1]}"
                raise Unusable(image, why, "give the frames of a video one size")

    def sample(self) -> np.ndarray:
        """The pixels of the frames."""
        return np.stack([picture(self.root / image, image) for image, _ in self.frames])


def davis(path: str, frames: int, sets: str | None, seed: int, on_error: str) -> FileDataset:
    """See `plugin.davis`."""
    scheme = f"davis:{path}"
    root = folder(path, "davis")
    if frames < 1:
        raise DiagnosticsError(
            f"Dataset davis cannot have frames={frames}: give the frames of a clip, 1 or more.", code="bad-value"
        )
    every, note = _clips(root, frames, sets, scheme)

    def masks(clip: Clip) -> np.ndarray:
        return np.stack([mask(root / name, name) for _, name in clip.frames])

    clips, left_out = _usable(every, masks, on_error, scheme)
    read, present, how = class_numbers(map(masks, clips), 255)
    if not any(present):
        raise DiagnosticsError(
            f"The masks of {scheme} show no object: give masks that number objects from 1.", code="bad-target"
        )
    maps: Any = LazySamples(len(clips), lambda i: read(masks(clips[i])))
    groups = [utf8_name(clip.video) for clip in clips]
    split, drawn, exchangeable = complete_splits([clip.split for clip in clips], groups, seed, scheme)
    return FileDataset(
        root.resolve().name,
        "video",
        LazySamples(len(clips), lambda i: clips[i].sample()),
        [clip.name for clip in clips],
        split,
        {"objects": Target("masks", maps, about=f"which object each pixel of each frame belongs to; {how}")},
        groups=groups,
        about=join_notes(
            f"{len(clips)} clips of {frames} frames from {len(set(groups))} videos",
            drawn,
            how,
            note,
            sentence(left_out, len(every)),
        ),
        files={utf8_name(name): root / name for clip in clips for pair in clip.frames for name in pair},
        options=f"frames={frames} {how}",
        left_out=left_out,
        exchangeable=exchangeable,
    )


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
                    f"Frame {image.relative_to(root).as_posix()} of {scheme} has no mask: add {image.stem}.png.",
                    code="missing-file",
                )
            pairs.append((image.relative_to(root).as_posix(), masks[image.stem].relative_to(root).as_posix()))
        if len(pairs) != len(masks):
            raise DiagnosticsError(
                f"Video {video} of {scheme} has {len(masks)} masks and {len(pairs)} frames: give one for each.",
                code="bad-shape",
            )
        split = split_of[video] if split_of is not None else ""
        clips += [
            Clip(root, video, first, tuple(pairs[first : first + frames]), split)
            for first in range(0, len(pairs) - frames + 1, frames)
        ]
    if not clips:
        raise DiagnosticsError(
            f"No video of {scheme} has {frames} frames with masks: give a smaller ?frames=.", code="too-few"
        )
    shown = sorted(entry.name for entry in images_at.iterdir() if entry.is_dir())
    return clips, tell(scheme, alone([name for name in shown if not (masks_at / name).is_dir()], "video", "masks"))


def _resolution(folder_of_all: Path, scheme: str) -> Path:
    if not folder_of_all.is_dir():
        raise DiagnosticsError(
            f"{scheme} has no folder {folder_of_all.name}: lay out JPEGImages/480p/VIDEO/*.jpg and "
            f"Annotations/480p/VIDEO/*.png.",
            code="missing-file",
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
            f"{scheme} has no lists ImageSets/{sets}/train.txt and val.txt: correct ?sets= or leave it out.",
            code="missing-file",
        )
    return split_of

"""Folders of images with a mask or a depth map for each: pairs and dense targets, whose maps are read on demand."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diagnostics.plugin import SPLIT_OF, DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.decode.images import depth, extent, mask, picture
from diagnostics_files.errors import Unusable, alone, join_notes, sentence, usable, utf8_name, warn
from diagnostics_files.lazy_dataset import FileDataset
from diagnostics_files.scan import PICTURES, File, find, folder

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

    def extent(self) -> tuple[int, int]:
        """(y, x) of both; raises where they differ."""
        return common_extent((self.image, self.name), (self.map, self.map_name))


def segmentation(path: str, unknown: int | None, seed: int, on_error: str) -> FileDataset:
    """See `plugin.segmentation`."""
    scheme = f"segmentation:{path}"
    root = folder(path, "segmentation")
    pairs, note = pairs_of(root, MASKS, PICTURES, scheme)
    if not (asked := unknown is not None):
        # ADE20k's layout numbers its classes from 1; elsewhere 255 is what annotators leave out.
        ade = any(pair.map_name.startswith("annotations/training/") for pair in pairs)
        unknown = 0 if ade else 255

    def numbers(pair: Pair) -> np.ndarray:
        return mask(pair.map, pair.map_name)

    kept, left_out = _usable(pairs, numbers, on_error, scheme)
    read, present, how = class_numbers(map(numbers, kept), unknown, drawings=not asked)
    if len(present) < 2:
        raise DiagnosticsError(
            f"The masks of {scheme} hold one class only ({', '.join(map(str, present)) or 'none'}; {unknown} is unknown): "
            f"give masks with at least two, or another{' or no' if asked else ''} ?unknown=."
        )
    maps: Any = LazySamples(len(kept), lambda i: read(numbers(kept[i])))
    target = Target("token_label", maps, about=f"class of each pixel; {how}")
    return _dataset(root, kept, target, "segmentation", how, seed, (note, how), left_out, len(pairs))


def depths(path: str, scale: float, seed: int, on_error: str) -> FileDataset:
    """See `plugin.depth`."""
    scheme = f"depth:{path}"
    root = folder(path, "depth")
    if not 0 < scale < np.inf:
        raise DiagnosticsError(
            f"Dataset depth cannot have scale={scale}: give the metres that one step of the PNG means."
        )
    pairs, note = pairs_of(root, DEPTHS, (".png", ".npy"), scheme)

    def metres(pair: Pair) -> np.ndarray:
        return depth(pair.map, pair.map_name, scale)

    kept, left_out = _usable(pairs, metres, on_error, scheme)
    if not any(np.isfinite(metres(pair)).any() for pair in kept):
        raise DiagnosticsError(
            f"The maps of {scheme} hold no depth above 0: give depth in metres, or 16-bit steps of ?scale=."
        )
    maps: Any = LazySamples(len(kept), lambda i: metres(kept[i]))
    target = Target("token_value", maps, units="m", about="distance of each pixel; NaN where unknown")
    return _dataset(root, kept, target, "depth", f"scale={scale}", seed, (note,), left_out, len(pairs))


def pairs_of(root: Path, map_folders: Sequence[str], suffixes: Sequence[str], scheme: str) -> tuple[list[Pair], str]:
    """Images and maps of the same name, ordered; in words, how many images have no map and the first of them.

    Either `root/images/...` beside `root/<maps>/...`, with split folders below each where there are splits, or both below
    each split folder. Raises where no pair is found and where two images would share a map.
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
            f"No image of {scheme} has a map of the same name: name them alike, as images/a.jpg and {map_folders[0]}/a.png."
        )
    if note := alone(single, "image", "a map"):
        warn(f"{scheme}: {note}.")
    return pairs, note


def _stem(file: File) -> PurePosixPath:
    return PurePosixPath(file.name).with_suffix("")


def _by_stem(files: Sequence[File], folder: Path, kind: str) -> dict[PurePosixPath, File]:
    by_stem = {_stem(file): file for file in files}
    if len(by_stem) < len(files):
        twice = next(stem for stem, count in Counter(map(_stem, files)).items() if count > 1)
        raise DiagnosticsError(f"{folder} has two {kind} named {twice}: keep one of them.")
    return by_stem


def class_numbers(
    maps: Iterable[np.ndarray], unknown: int, drawings: bool = True
) -> tuple[Callable[[np.ndarray], np.ndarray], list[int], str]:
    """What makes classes of the numbers as they lie in the files, -1 for what is unknown; which classes there are; in words what was done.

    With `drawings`, masks that hold 0 and 255 alone are drawings of one object: 0 and 1.
    """
    held = {number for numbers in maps for number in np.unique(numbers).tolist()}
    if drawings and held == {0, 255}:
        return lambda numbers: (numbers == 255).astype(np.int16), [0, 1], "masks of 0 and 255 read as 0 and 1"
    present = sorted(number for number in held if number >= 0 and number != unknown)
    return lambda numbers: np.where(numbers == unknown, -1, numbers), present, f"{unknown} is unknown"


def _usable(
    pairs: Sequence[Pair], read: Callable[[Pair], np.ndarray], on_error: str, scheme: str
) -> tuple[list[Pair], dict[str, Unusable]]:
    """The pairs that can be used; raises where a map is not as large as its image."""

    def check(i: int) -> None:
        pairs[i].extent()
        picture(pairs[i].image, pairs[i].name)
        read(pairs[i])

    kept, left_out = usable([pair.name for pair in pairs], check, on_error, scheme)
    for i in kept:
        pairs[i].extent()
    return [pairs[i] for i in kept], left_out


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
    raise DiagnosticsError(f"{base} has no folder {' or '.join(names)}: {scheme} needs images and maps side by side.")


def _dataset(
    root: Path, pairs: Sequence[Pair], target: Target, name: str, options: str, seed: int,
    notes: Sequence[str], left_out: dict[str, Unusable], of: int,
) -> FileDataset:  # fmt: skip
    ids = [pair.name for pair in pairs]
    split, how, exchangeable = complete_splits([pair.split for pair in pairs], ids, seed, name)
    return FileDataset(
        root.resolve().name,
        "image",
        LazySamples(len(pairs), lambda i: picture(pairs[i].image, pairs[i].name)),
        ids,
        split,
        {name: target},
        about=join_notes(f"{len(pairs)} images with {name} of each pixel", how, *notes, sentence(left_out, of)),
        files={n: p for pair in pairs for n, p in ((pair.name, pair.image), (pair.map_name, pair.map))},
        options=options,
        left_out=left_out,
        exchangeable=exchangeable,
    )

"""Images with boxes, and perhaps captions, in COCO's format (cocodataset.org/#format-data)."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import SPLIT_OF, DiagnosticsError, LazySamples, Target, complete_splits, pad_boxes
from diagnostics.plugin import name_error as unknown_name
from diagnostics_files.captions import hashed
from diagnostics_files.decode import check_there, picture_of
from diagnostics_files.folder import (
    FileDataset,
    folder,
    join_notes,
    parsing,
    read_json,
    safe_name,
    sentence,
    tell,
    usable,
)

TARGETS = ("boxes", "caption")
FEATURES = 512
"""Of a caption: hashed counts of its words."""
MOST_PIXELS = 2**20
"""Of a side of an image."""


@dataclass
class Photo:
    """An image, its extent (y, x) by its annotations, and what is said of it; `name` below the root."""

    path: Path
    name: str
    split: str
    extent: tuple[int, int]
    boxes: list[list[float]] = field(default_factory=list[list[float]])
    captions: list[str] = field(default_factory=list[str])

    def read(self) -> np.ndarray:
        """Pixels; raises where they are not of the extent that boxes are given in."""
        return picture_of(self.extent, self.path, self.name, "its annotations say", "boxes")


def coco(path: str, sets: str, targets: str, seed: int, on_error: str) -> FileDataset:
    """See `plugin.coco`."""
    scheme = f"coco:{path}"
    root = folder(path, "coco")
    asked = [name.strip() for name in targets.split(",") if name.strip()]
    for name in asked:
        if name not in TARGETS:
            raise unknown_name("target", name, TARGETS)
    files = _annotations(root, "instances", sets, scheme)
    photos, categories, dropped = list[Photo](), dict[int, str](), 0
    for of, file in files.items():
        found, named, without = _photos(root, of, file)
        if categories and named != categories:
            raise DiagnosticsError(
                f"{file.name} of {scheme} has other categories than {next(iter(files.values())).name}: give both the "
                f"same, or read one of them by ?sets=.",
                code="conflict",
            )
        categories = named
        photos, dropped = photos + found, dropped + without
    if not photos:
        raise DiagnosticsError(
            f"{next(iter(files.values()))} lists no image: name other sets by ?sets=.", code="bad-data"
        )
    if "caption" in asked:
        _add_captions(photos, _annotations(root, "captions", sets, scheme), scheme)
    every = len(photos)
    kept, left_out = usable([photo.name for photo in photos], lambda i: photos[i].read(), on_error, scheme)
    photos = [photos[i] for i in kept]
    for photo in photos:
        check_there(photo.path, photo.name)
    note = tell(scheme, f"{dropped} boxes without area or outside of their images left out" if dropped else "")
    ids = [photo.name for photo in photos]
    split, how, exchangeable = complete_splits([photo.split for photo in photos], ids, seed, scheme)
    made = dict[str, Target]()
    if "boxes" in asked:
        boxes = pad_boxes([photo.boxes for photo in photos], [photo.extent for photo in photos])
        made["boxes"] = Target("boxes", boxes, about="around objects", classes=tuple(categories.values()))
    texts = [photo.captions[0] for photo in photos] if "caption" in asked else []
    if texts:
        about = f"hashed words in {FEATURES} features"
        made["caption"] = Target("caption", hashed(texts, FEATURES), about=about)
    return FileDataset(
        root.resolve().name,
        "image",
        LazySamples(len(photos), lambda i: photos[i].read()),
        ids,
        split,
        made,
        about=join_notes(f"{len(photos)} images with boxes", how, note, sentence(left_out, every)),
        files={
            **{photo.name: photo.path for photo in photos},
            **{f"annotations/{at.name}": at for at in files.values()},
        },
        options=f"targets={','.join(asked)}",
        left_out=left_out,
        texts=texts,
        exchangeable=exchangeable,
    )


def _annotations(root: Path, kind: str, sets: str, scheme: str) -> dict[str, Path]:
    """Of each set of images (`val2017`) the file of its annotations of a kind."""
    found = {at.stem.partition("_")[2]: at for at in sorted((root / "annotations").glob(f"{kind}_*.json"))}
    wanted = [name.strip() for name in sets.split(",") if name.strip()] or list(found)
    if absent := [name for name in wanted if name not in found] or ([""] if not wanted else []):
        raise DiagnosticsError(
            f"{scheme} has no annotations/{kind}_{absent[0] or 'val2017'}.json: lay it out as COCO does, or name the "
            f"sets of images that are there by ?sets=.",
            code="missing-file",
        )
    return {name: found[name] for name in wanted}


def by_number(entries: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Images or categories by their numbers, in the order of these; raises ValueError for a number that comes twice."""
    numbers = [int(each["id"]) for each in entries]
    if twice := [number for number, times in Counter(numbers).items() if times > 1]:
        raise ValueError(f"two entries have the id {twice[0]}")
    return dict(sorted(zip(numbers, entries, strict=True)))


def _photos(root: Path, of: str, file: Path) -> tuple[list[Photo], dict[int, str], int]:
    """The images of a set in the order of their numbers, the categories by number, and how many boxes are none."""
    data, split = read_json(file), SPLIT_OF.get(re.sub(r"\d+$", "", of).lower(), "")
    with parsing(file, "COCO's format"):
        categories = {number: str(each["name"]) for number, each in by_number(data["categories"]).items()}
        photos = {number: photo_of(root, of, split, each) for number, each in by_number(data["images"]).items()}
        dropped = sum(not _add_box(photos, list(categories), each, file) for each in data["annotations"])
    return list(photos.values()), categories, dropped


def photo_of(root: Path, of: str, split: str, entry: Mapping[str, Any]) -> Photo:
    """The image of an entry, of a set of images and a split; raises ValueError for one of no extent."""
    name, extent = _file_name(entry), (int(entry["height"]), int(entry["width"]))
    if not 0 < min(extent) <= max(extent) <= MOST_PIXELS:
        raise ValueError(f"{name} cannot be {extent[0]} x {extent[1]} pixels")
    places = [root / base / name for base in (of, f"images/{of}", "images", ".")]
    path = next((at for at in places if at.is_file()), places[0])
    return Photo(path, f"{of}/{name}", split, extent)


def _file_name(entry: Mapping[str, Any]) -> str:
    return safe_name(str(entry["file_name"]), "An image").as_posix()


def _add_box(photos: Mapping[int, Photo], categories: Sequence[int], entry: Mapping[str, Any], file: Path) -> bool:
    """Add an annotation to its image; False for a box without area or outside of it, as COCO's own files hold some."""
    if (photo := photos.get(int(entry["image_id"]))) is None or entry["category_id"] not in categories:
        lacks = "image" if photo is None else "category"
        raise DiagnosticsError(
            f"Annotation {entry.get('id')} of {file.name} is of {lacks} {entry[f'{lacks}_id']}, which the file does "
            f"not list: correct it.",
            code="bad-data",
        )
    x, y, width, height = map(float, entry["bbox"])
    area = float(entry.get("area", width * height))
    (rows, columns), corners = photo.extent, (x, y, x + width, y + height)
    inside = x < columns and y < rows and x + width > 0 and y + height > 0
    if not (np.isfinite([*corners, area]).all() and width > 0 and height > 0 and area > 0 and inside):
        return False
    photo.boxes.append([*corners, categories.index(entry["category_id"]), int(entry.get("iscrowd", 0)), area])
    return True


def _add_captions(photos: Sequence[Photo], files: Mapping[str, Path], scheme: str) -> None:
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for of, file in files.items():
        data = read_json(file)
        with parsing(file, "COCO's format"):
            names = {number: _file_name(each) for number, each in by_number(data["images"]).items()}
            for each in sorted(data["annotations"], key=lambda each: each["id"]):
                said[of, names[int(each["image_id"])]].append(str(each["caption"]).strip())
    for photo in photos:
        of, _, name = photo.name.partition("/")
        photo.captions = said[of, name]
    if bare := [photo.name for photo in photos if not photo.captions]:
        raise DiagnosticsError(
            f"{len(bare)} images of {scheme} have no caption, {bare[0]} first: leave caption out of ?targets=.",
            code="bad-data",
        )

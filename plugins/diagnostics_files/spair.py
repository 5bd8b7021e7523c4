"""Pairs of images with the same points marked in both, in SPair-71k's layout.

See cvlab.postech.ac.kr/research/SPair-71k.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits, few, pad_matches
from diagnostics_files.decode import picture_of
from diagnostics_files.folder import (
    FileDataset,
    folder,
    join_notes,
    parsing,
    read_json,
    safe_name,
    sentence,
    usable,
)

SETS = {"trn": "train", "val": "val", "test": "test"}
"""Name of a set of pairs -> split."""


@dataclass
class Side:
    """One image of a pair, its extent (y, x) by the annotation, and its points [point, (x, y)]."""

    path: Path
    name: str
    extent: tuple[int, int]
    points: np.ndarray

    @classmethod
    def of(cls, root: Path, entry: Any, category: str, which: str) -> Side:
        width, height = map(int, entry[f"{which}_imsize"][:2])
        name = f"JPEGImages/{category}/{safe_name(str(entry[f'{which}_imname']), 'A pair')}"
        points = np.array(entry[f"{which}_kps"], dtype=np.float64).reshape(-1, 2)
        if not ((points >= 0) & (points <= (width, height))).all():
            raise ValueError(f"a point of {name} lies outside of it")
        return cls(root / name, name, (height, width), points)

    def read(self) -> np.ndarray:
        """Pixels; raises where they are not of the extent that points are given in."""
        return picture_of(self.extent, self.path, self.name, "its pair says", "points")


@dataclass
class Pair:
    """Both images of a pair, its name, split and category, and the longer side of the target's object."""

    name: str
    split: str
    category: str
    source: Side
    target: Side
    length: float

    @property
    def matches(self) -> np.ndarray:
        """[match, 5] as of `pad_matches`."""
        lengths = np.full((len(self.source.points), 1), self.length)
        return np.concatenate([self.source.points, self.target.points, lengths], axis=1)


def spair(path: str, layout: str, seed: int, on_error: str) -> FileDataset:
    """See `plugin.spair`."""
    scheme, root = f"spair:{path}", folder(path, "spair")
    pairs = [pair for name, split in SETS.items() for pair in _pairs(root, layout, name, split)]
    if not pairs:
        shown = ", ".join(f"{name}.txt" for name in SETS)
        raise DiagnosticsError(
            f"{scheme} lists no pair in Layout/{layout} ({shown}): lay it out as SPair-71k, or give another ?layout=.",
            code="missing-file",
        )
    every = len(pairs)
    kept, left_out = usable(
        [pair.name for pair in pairs], lambda i: (pairs[i].source.read(), pairs[i].target.read()), on_error, scheme
    )
    pairs = [pairs[i] for i in kept]
    groups = [f"{pair.category} {pair.split}" for pair in pairs]
    split, how, exchangeable = complete_splits([pair.split for pair in pairs], groups, seed, scheme)
    extents = [(*pair.source.extent, *pair.target.extent) for pair in pairs]
    sides = {side.name: side.path for pair in pairs for side in (pair.source, pair.target)}
    if missing := [name for name, at in sides.items() if not at.is_file()]:
        raise DiagnosticsError(f"{scheme} lacks {few(missing)}: copy what is missing.", code="missing-file")
    matches = pad_matches([pair.matches for pair in pairs], extents)
    return FileDataset(
        root.resolve().name,
        "image",
        LazySamples(len(pairs), lambda i: pairs[i].source.read()),
        [pair.name for pair in pairs],
        split,
        {"matches": Target("matches", matches, about="points marked in both images of a pair")},
        groups=groups,
        views=LazySamples(len(pairs), lambda i: pairs[i].target.read()),
        about=join_notes(f"{len(pairs)} pairs of images", how, sentence(left_out, every)),
        files=sides,
        options=f"layout={layout}",
        left_out=left_out,
        exchangeable=exchangeable,
    )


def _pairs(root: Path, layout: str, name: str, split: str) -> list[Pair]:
    listed = root / "Layout" / safe_name(layout, "?layout=") / f"{name}.txt"
    lines = listed.read_text("utf-8").split() if listed.is_file() else []
    pairs = list[Pair]()
    for line in lines:
        # The makers' names hold a colon before the category.
        safe_name(line.replace(":", ""), listed.name)
        file = root / "PairAnnotation" / name / f"{line}.json"
        entry = read_json(file)
        with parsing(file, "SPair-71k's format"):
            category = safe_name(str(entry["category"]), file.name).as_posix()
            source, target = (Side.of(root, entry, category, which) for which in ("src", "trg"))
            left, top, right, bottom = map(float, entry["trg_bndbox"])
            if len(source.points) != len(target.points) or max(right - left, bottom - top) <= 0:
                raise ValueError("its images have other numbers of points, or its object no extent")
            pairs.append(Pair(line, split, category, source, target, max(right - left, bottom - top)))
    return pairs

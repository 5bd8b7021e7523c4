"""Images with captions: from a table beside the images, or from tar archives in the layout of WebDataset."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.decode.images import picture, plain_array
from diagnostics_files.decode.tables import SUFFIXES, column, read_table, texts_of
from diagnostics_files.errors import Unusable, join_notes, sentence, usable
from diagnostics_files.lazy_dataset import FileDataset
from diagnostics_files.rows import by_id
from diagnostics_files.scan import file, safe_name
from diagnostics_files.webdataset import Archived


@dataclass(frozen=True)
class Pairs:
    """Images with captions, one of each in a row. `read(row)` decodes an image, and captions may be read like it.

    cut: what is wrong with archives that end early. shards: which archive each row lies in; None without archives. scanned: see
    `FileDataset`.
    """

    ids: Sequence[str]
    images: Sequence[str]
    captions: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]
    read: Callable[[int], np.ndarray]
    files: Mapping[str, Path]
    cut: Mapping[str, Unusable]
    shards: np.ndarray | None = None
    scanned: str = ""

    def only(self, rows: Sequence[int]) -> Pairs:
        """These rows."""
        ids, images, captions, groups, splits = (
            # What is read on demand stays so.
            column[rows] if isinstance(column, LazySamples) else [column[row] for row in rows]
            for column in (self.ids, self.images, self.captions, self.groups, self.splits)
        )
        shards = None if self.shards is None else self.shards[rows]
        return replace(
            self, ids=ids, images=images, captions=captions, groups=groups, splits=splits, shards=shards,
            read=lambda i: self.read(rows[i]),
        )  # fmt: skip


def build(
    path: str, image: str, caption: str, images: str | None, embeddings: str | None, features: int,
    seed: int, on_error: str,
) -> FileDataset:  # fmt: skip
    """See `plugin.captions`."""
    scheme = f"captions:{path}"
    source = Path(path).expanduser()
    if features < 2 and features != 0:
        raise DiagnosticsError(f"Dataset captions cannot have features={features}: give 2 or more, or 0 for no target.")
    if not source.exists():
        # Patterns of many archives, as {00000..00099}.tar, are common elsewhere.
        raise DiagnosticsError(
            f"{scheme} does not exist: give a table, a .tar, or a folder, all of whose .tar files are read."
        )
    if source.is_dir():
        archives = sorted(source.glob("*.tar"))
        if not archives:
            raise DiagnosticsError(f"{scheme} is a folder without .tar files: name a table or put archives there.")
        pairs = _from_tars(archives, caption, on_error, {archive.name: archive for archive in archives})
    elif source.suffix.lower() == ".tar" and source.is_file():
        pairs = _from_tars([source], caption, on_error, {"archive.tar": source})
    else:
        source = file(path, "captions", (*SUFFIXES, ".tar"))
        pairs = _from_table(source, image, caption, Path(images).expanduser() if images else source.parent)
    first = {name: row for row, name in zip(range(len(pairs.ids) - 1, -1, -1), reversed(pairs.images), strict=True)}
    names = list(dict.fromkeys(pairs.images))
    vectors = _vectors(pairs.captions, embeddings, features, scheme)
    kept, left_out = usable(names, lambda i: pairs.read(first[names[i]]), on_error, scheme)
    if left_out:
        chosen = [row for row, name in enumerate(pairs.images) if name not in left_out]
        pairs, vectors = pairs.only(chosen), None if vectors is None else vectors[chosen]
    if pairs.shards is None:
        split, how, exchangeable = complete_splits(pairs.splits, pairs.groups, seed, scheme)
    else:
        split, how, exchangeable = by_id(pairs.ids, seed, scheme)
    means = f"embeddings of {Path(embeddings).name}" if embeddings else f"hashed words in {features} features"
    targets = {} if vectors is None else {"caption": Target("caption", vectors, about=means)}
    cut = "; ".join(f"{name} is cut" for name in pairs.cut)
    return FileDataset(
        source.resolve().stem,
        "image",
        LazySamples(len(pairs.ids), pairs.read),
        pairs.ids,
        split,
        targets,
        groups=pairs.groups,
        about=join_notes(
            f"{len(pairs.ids)} captions of {len(kept)} images", means if targets else "", how, cut,
            sentence(left_out, len(names)),
        ),
        files={name: at for name, at in pairs.files.items() if name not in left_out},
        options="" if pairs.shards is None else f"caption={caption}",
        left_out={**left_out, **pairs.cut},
        shards=pairs.shards,
        scanned=pairs.scanned,
        texts=pairs.captions,
        exchangeable=exchangeable,
    )  # fmt: skip


def _from_tars(archives: Sequence[Path], caption: str, on_error: str, files: Mapping[str, Path]) -> Pairs:
    samples = Archived(archives, caption, on_error)
    ids = samples.ids
    return Pairs(
        ids, ids, samples.captions, ids, [""] * len(ids), samples.picture, files, samples.cut, samples.shards, samples.digest
    )  # fmt: skip


def _from_table(path: Path, image: str, caption: str, root: Path) -> Pairs:
    columns = read_table(path)
    names = [str(safe_name(str(entry or ""), str(path))) for entry in column(columns, image, path, "image")]
    texts = column(columns, caption, path, "caption")
    groups = texts_of(columns, "group", names)
    splits = columns.get("split", [None] * len(names))
    files = {name: root / name for name in names}
    if missing := [name for name, at in files.items() if not os.path.lexists(at)]:
        raise DiagnosticsError(
            f"{path} names {len(missing)} image(s) that are not below {root}, {missing[0]} first: add them, or say where "
            "images lie with ?images=FOLDER."
        )
    ids: list[str] = []
    seen: dict[str, int] = {}
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DiagnosticsError(f"{path} has no caption for {name}: fill it in or remove that row.")
        number = seen[name] = seen.get(name, -1) + 1
        ids.append(f"{name}#{number}")

    def read(row: int) -> np.ndarray:
        return picture(files[names[row]], names[row])

    return Pairs(ids, names, [text.strip() for text in texts], groups, splits, read, files, {})


def _vectors(captions: Sequence[str], embeddings: str | None, features: int, scheme: str) -> np.ndarray | None:
    if embeddings is None:
        return hashed(captions, features) if features else None
    path = Path(embeddings).expanduser()
    if not path.is_file():
        raise DiagnosticsError(f"There is no file {path}: give ?embeddings= a .npy of [caption, feature].")
    vectors: Any = np.asarray(plain_array(path, path.name, skip=False), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(captions) or not np.isfinite(vectors).all():
        raise DiagnosticsError(
            f"{path} is {list(vectors.shape)} for {len(captions)} captions of {scheme}: give one row of finite numbers for each "
            "caption, in their order."
        )
    return vectors


_WORD = re.compile(r"\w+")


def hashed(texts: Sequence[str], features: int) -> np.ndarray:
    """Embeddings float32 [text, feature] of length 1; equal words in equal order give equal rows, on every machine.

    Feature hashing (Weinberger et al. 2009, 0902.2206): every word (lower case) and pair of neighbouring words is hashed to
    a feature and a sign, and adds 1 + log(count) there. Two texts are near where they share words; synonyms are strangers.
    A text without any word is a row of zeros.
    """
    rows = np.zeros((len(texts), features))
    for row, text in zip(rows, texts, strict=True):
        words = _WORD.findall(text.lower())
        counts = Counter(words) + Counter(f"{a} {b}" for a, b in pairwise(words))
        for term, count in counts.items():
            number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
            row[(number >> 1) % features] += (1 if number & 1 else -1) * (1 + np.log(count))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0).astype(np.float32)

"""Images with captions, of a table or of WebDataset tars."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.archives import Archives, archives_at
from diagnostics_files.decode import picture, plain_array
from diagnostics_files.folder import FileDataset, Unusable, file, join_notes, safe_name, sentence, usable
from diagnostics_files.tables import SUFFIXES, by_id, column, read_table, texts_of

# Images with captions: from a table beside the images, or from tar archives in the layout of WebDataset.


@dataclass(frozen=True)
class Pairs:
    """Images with captions, one of each in a row.

    `read(row)` decodes an image, and captions may be read like it; `check(row)` raises where that is impossible.

    cut, broken: what is wrong with archives that end early, and with pairs that are no rows. shards: which archive each
    row lies in; None without archives. scanned: see `FileDataset`.
    """

    ids: Sequence[str]
    images: Sequence[str]
    captions: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]
    read: Callable[[int], np.ndarray]
    check: Callable[[int], object]
    files: Mapping[str, Path]
    cut: Mapping[str, Unusable] = field(default_factory=dict)
    broken: Mapping[str, Unusable] = field(default_factory=dict)
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
            self,
            ids=ids,
            images=images,
            captions=captions,
            groups=groups,
            splits=splits,
            shards=shards,
            read=lambda i: self.read(rows[i]),
        )


def build(
    path: str,
    image: str,
    caption: str,
    images: str | None,
    embeddings: str | None,
    features: int,
    seed: int,
    on_error: str,
) -> FileDataset:
    """See `plugin.captions`."""
    scheme = f"captions:{path}"
    source = Path(path).expanduser()
    if features < 2 and features != 0:
        raise DiagnosticsError(
            f"Dataset captions cannot have features={features}: give 2 or more, or 0 for no target.", code="bad-value"
        )
    if archives := archives_at(path):
        named = {archive.name: archive for archive in archives} if source.is_dir() or len(archives) > 1 else {}
        samples = Archives(archives, caption, on_error)
        name = source.resolve().stem if source.exists() else source.parent.resolve().name
        files = named or {"archive.tar": archives[0]}
        if on_error == "replace" and not features:
            return ArchiveDataset(name, samples, seed, files)
        pairs = _from_archives(samples, files)
    else:
        source = file(path, "captions", (*SUFFIXES, ".tar"))
        pairs = _from_table(source, image, caption, Path(images).expanduser() if images else source.parent)
    first = {name: row for row, name in zip(range(len(pairs.ids) - 1, -1, -1), reversed(pairs.images), strict=True)}
    names = list(dict.fromkeys(pairs.images))
    vectors = _vectors(pairs.captions, embeddings, features, scheme)
    kept, left_out = usable(names, lambda i: pairs.check(first[names[i]]), on_error, scheme)
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
            f"{len(pairs.ids)} captions of {len(kept)} images",
            means if targets else "",
            how,
            cut,
            sentence({**left_out, **pairs.broken}, len(names) + len(pairs.broken)),
        ),
        files={name: at for name, at in pairs.files.items() if name not in left_out},
        options="" if pairs.shards is None else f"caption={caption}",
        left_out={**left_out, **pairs.broken, **pairs.cut},
        shards=pairs.shards,
        scanned=pairs.scanned,
        texts=pairs.captions,
        exchangeable=exchangeable,
    )


class ArchiveDataset(FileDataset):
    """Pairs of archives as a training reads them: of each, only its split is held.

    Ids and captions are read when they are asked for, which makes a million of them 50 MB.

    It has no targets, and no groups but the samples themselves.
    """

    def __init__(self, name: str, samples: Archives, seed: int, files: Mapping[str, Path]) -> None:
        count = len(samples)
        split, how, exchangeable = by_id(samples, seed, name)
        super().__init__(
            name,
            "image",
            LazySamples(count, samples.picture),
            (),
            split,
            {},
            about=join_notes(
                f"{count} captions of {count} images", how, sentence(samples.broken, count + len(samples.broken))
            ),
            files=files,
            options=f"caption={samples.caption} seed={seed}",
            left_out={**samples.broken, **samples.cut},
            shards=samples.shards,
            scanned=samples.digest,
            texts=samples.captions,
            exchangeable=exchangeable,
        )
        on_demand: Any = LazySamples(count, samples.id)
        self.ids = self.groups = on_demand

    def _check(self) -> None:
        """Nothing: the indexes give unique ids, and reading them all would be the work that is to be saved."""

    def _of_columns(self) -> Any:
        # Ids are in the digest of the archives, and the split follows from them.
        return hashlib.sha256(f"{self.options}\x1e".encode())


def _from_archives(samples: Archives, files: Mapping[str, Path]) -> Pairs:
    ids = list(samples)
    return Pairs(
        ids,
        ids,
        samples.captions,
        ids,
        splits=[""] * len(ids),
        read=samples.picture,
        check=samples.check,
        files=files,
        cut=samples.cut,
        broken=samples.broken,
        shards=samples.shards,
        scanned=samples.digest,
    )


def _from_table(path: Path, image: str, caption: str, root: Path) -> Pairs:
    columns = read_table(path)
    names = [str(safe_name(str(entry or ""), str(path))) for entry in column(columns, image, path, "image")]
    texts = column(columns, caption, path, "caption")
    groups = texts_of(columns, "group", names)
    splits = columns.get("split", [None] * len(names))
    files = {name: root / name for name in names}
    if missing := [name for name, at in files.items() if not os.path.lexists(at)]:
        raise DiagnosticsError(
            f"{path} names {len(missing)} image(s) that are not below {root}, {missing[0]} first: add them, "
            f"or say where images lie with ?images=FOLDER.",
            code="bad-value",
        )
    ids: list[str] = []
    seen: dict[str, int] = {}
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DiagnosticsError(f"{path} has no caption for {name}: fill it in or remove that row.", code="bad-data")
        number = seen[name] = seen.get(name, -1) + 1
        ids.append(f"{name}#{number}")

    def read(row: int) -> np.ndarray:
        return picture(files[names[row]], names[row])

    return Pairs(ids, names, [text.strip() for text in texts], groups, splits, read=read, check=read, files=files)


def _vectors(captions: Sequence[str], embeddings: str | None, features: int, scheme: str) -> np.ndarray | None:
    if embeddings is None:
        return hashed(captions, features) if features else None
    path = Path(embeddings).expanduser()
    if not path.is_file():
        raise DiagnosticsError(
            f"There is no file {path}: give ?embeddings= a .npy of [caption, feature].", code="missing-file"
        )
    vectors: Any = np.asarray(plain_array(path, path.name, skip=False), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(captions) or not np.isfinite(vectors).all():
        raise DiagnosticsError(
            f"{path} is {list(vectors.shape)} for {len(captions)} captions of {scheme}: give one row of finite numbers "
            f"for each caption, in their order.",
            code="bad-shape",
        )
    return vectors


_WORD = re.compile(r"\w+")


def hashed(texts: Sequence[str], features: int) -> np.ndarray:
    """Embeddings float32 [text, feature] of length 1; equal words in equal order give equal rows, on every machine.

    Feature hashing (Weinberger et al. 2009, 0902.2206): every word (lower case) and pair of neighbouring words is
    hashed to a feature and a sign, and adds 1 + log(count) there. Two texts are near where they share words; synonyms
    are strangers. A text without any word is a row of zeros.
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

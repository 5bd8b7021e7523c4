"""Images with captions: from a table beside the images, or from tar archives in the layout of WebDataset."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diagnostics import DiagnosticsError, LazySamples, Target
from diagnostics_files.decode.images import check_size, picture, plain_array
from diagnostics_files.decode.tables import SUFFIXES, column, read_table, texts_of
from diagnostics_files.errors import check_regular, join_notes, sentence, usable, utf8_name
from diagnostics_files.lazy_dataset import FileDataset
from diagnostics_files.rows import complete, from_column
from diagnostics_files.scan import PICTURES, file, safe_name


@dataclass(frozen=True)
class Captioned:
    """One image with one caption; `read(size)` decodes the image."""

    id: str
    image: str
    caption: str
    group: str
    split: str
    read: Callable[[int | None], np.ndarray]


def build(
    path: str, image: str, caption: str, images: str | None, embeddings: str | None, features: int,
    size: int | None, seed: int, on_error: str,
) -> FileDataset:  # fmt: skip
    """See `plugin.captions`."""
    scheme = f"captions:{path}"
    source = Path(path).expanduser()
    check_size(size, "captions")
    if features < 2:
        raise DiagnosticsError(f"Dataset captions cannot have features={features}: give 2 or more.")
    if source.is_dir():
        archives = sorted(source.glob("*.tar"))
        if not archives:
            raise DiagnosticsError(f"{scheme} is a folder without .tar files: name a table or put archives there.")
        rows, files = _from_tars(archives, caption), {archive.name: archive for archive in archives}
    elif source.suffix.lower() == ".tar" and source.is_file():
        rows, files = _from_tars([source], caption), {"archive.tar": source}
    else:
        source = file(path, "captions", (*SUFFIXES, ".tar"))
        rows, files = _from_table(source, image, caption, Path(images).expanduser() if images else source.parent)
    vectors = _vectors(rows, embeddings, features, scheme)
    names = list(dict.fromkeys(row.image for row in rows))
    first = {row.image: row for row in reversed(rows)}
    kept, left_out = usable(names, lambda i: first[names[i]].read(size), on_error, scheme)
    whole = {names[i] for i in kept}
    chosen = [i for i, row in enumerate(rows) if row.image in whole]
    rows, vectors = [rows[i] for i in chosen], vectors[chosen]
    groups = [row.group for row in rows]
    split, how = complete([row.split for row in rows], groups, seed, scheme)
    means = f"embeddings of {Path(embeddings).name}" if embeddings else f"hashed words in {features} features"
    return FileDataset(
        source.resolve().stem,
        "image",
        LazySamples(len(rows), lambda i: rows[i].read(size)),
        [row.id for row in rows],
        split,
        {"caption": Target("caption", vectors, about=means)},
        groups=groups,
        about=join_notes(f"{len(rows)} captions of {len(whole)} images, {means}", how, sentence(left_out, len(names))),
        files={name: at for name, at in files.items() if name not in left_out},
        options=f"size={size}",
        left_out=left_out,
        texts=[row.caption for row in rows],
    )


def _from_table(path: Path, image: str, caption: str, root: Path) -> tuple[list[Captioned], dict[str, Path]]:
    columns = read_table(path)
    names = [str(safe_name(str(entry or ""), str(path))) for entry in column(columns, image, path, "image")]
    texts = column(columns, caption, path, "caption")
    groups = texts_of(columns, "group", names)
    splits = from_column(columns.get("split", [None] * len(names)), str(path))
    files = {name: root / name for name in names}
    if missing := [name for name, at in files.items() if not os.path.lexists(at)]:
        raise DiagnosticsError(
            f"{path} names {len(missing)} image(s) that are not below {root}, {missing[0]} first: add them, or say where "
            "images lie with ?images=FOLDER."
        )
    pairs: list[Captioned] = []
    seen: dict[str, int] = {}
    for name, text, group, split in zip(names, texts, groups, splits, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DiagnosticsError(f"{path} has no caption for {name}: fill it in or remove that row.")
        number = seen[name] = seen.get(name, -1) + 1
        pairs.append(Captioned(f"{name}#{number}", name, text.strip(), group, split, _reader(files[name], name)))
    return pairs, files


def _from_tars(archives: Sequence[Path], caption: str) -> list[Captioned]:
    """WebDataset: the files of a sample share their name up to the first dot of its last part."""
    pairs: list[Captioned] = []
    for archive in archives:
        samples: dict[str, dict[str, Member]] = {}
        for member in members(archive):
            name = PurePosixPath(member.name)
            stem, _, extension = name.name.partition(".")
            parts = samples.setdefault(str(name.parent / stem), {})
            if extension.lower() in parts:
                raise DiagnosticsError(f"{archive} holds {member.name} twice: write the archive anew.")
            parts[extension.lower()] = member
        for key, parts in samples.items():
            image = next((m for extension, m in parts.items() if f".{extension}" in PICTURES), None)
            text = _caption_of(parts, caption)
            if image is None or not text:
                missing = "image" if image is None else f"caption (.txt, or '{caption}' in .json)"
                raise DiagnosticsError(f"Sample {key} of {archive} has no {missing}: add it, or remove the sample.")
            # The name of a single archive is the user's to change; of several it tells their samples apart.
            name = f"{archive.stem}/{key}" if len(archives) > 1 else key
            pairs.append(Captioned(name, name, text, name, "", _reader(image, image.name)))
    return pairs


def _caption_of(parts: dict[str, Member], caption: str) -> str:
    try:
        if "txt" in parts:
            return parts["txt"].read().decode().strip()
        entry = json.loads(parts["json"].read()) if "json" in parts else None
        text = entry.get(caption) if isinstance(entry, dict) else None
        return text.strip() if isinstance(text, str) else ""
    except (ValueError, RecursionError) as error:
        member = next(iter(parts.values()))
        raise DiagnosticsError(
            f"The caption of {member.name} in {member.archive} is not text ({error}): write it as UTF-8."
        ) from error


def _reader(source: Path | Member, name: str) -> Callable[[int | None], np.ndarray]:
    return lambda size: picture(source if isinstance(source, Path) else io.BytesIO(source.read()), name, size)


def _vectors(rows: Sequence[Captioned], embeddings: str | None, features: int, scheme: str) -> np.ndarray:
    if embeddings is None:
        return hashed([row.caption for row in rows], features)
    path = Path(embeddings).expanduser()
    if not path.is_file():
        raise DiagnosticsError(f"There is no file {path}: give ?embeddings= a .npy of [caption, feature].")
    vectors: Any = np.asarray(plain_array(path, path.name, skip=False), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(rows) or not np.isfinite(vectors).all():
        raise DiagnosticsError(
            f"{path} is {list(vectors.shape)} for {len(rows)} captions of {scheme}: give one row of finite numbers for each "
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


@dataclass(frozen=True, slots=True)
class Member:
    """A file within a tar: its bytes are `size` bytes from `offset` on."""

    archive: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar, in its order; only headers are read.

    Raises for names that climb out of the archive, for links and devices, and for an archive that is cut or compressed.
    """
    check_regular(path, path.name, skip=False)
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isreg() or info.sparse is not None:
                    raise DiagnosticsError(
                        f"{path} holds {utf8_name(info.name)}, a link or device: write an archive of plain files."
                    )
                if info.size < 0:
                    raise tarfile.ReadError(f"{utf8_name(info.name)} has a size below 0")
                yield Member(path, str(safe_name(info.name, str(path))), info.offset_data, info.size)
                if info.offset_data + info.size > path.stat().st_size:
                    raise DiagnosticsError(f"{path} ends within {info.name}: copy the archive again.")
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DiagnosticsError(
            f"{path} cannot be read as an uncompressed tar ({error}): unpack .gz and copy it again."
        ) from error

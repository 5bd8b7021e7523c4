"""Images with captions, of a table or of WebDataset tars."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits, explaining
from diagnostics_files.decode import picture, plain_array
from diagnostics_files.folder import (
    PICTURES,
    FileDataset,
    Unusable,
    check_regular,
    decoding,
    file,
    join_notes,
    safe_name,
    sentence,
    usable,
    utf8_name,
    warn,
)
from diagnostics_files.tables import SUFFIXES, by_id, column, read_table, texts_of

# Images with captions in tars in the layout of WebDataset: the files of a sample share their name up to its first dot.


# Files within uncompressed tars, found by their headers and read at random.

COPY = "copy the archive again"


@dataclass(frozen=True, slots=True)
class Member:
    """A file within a tar: its bytes are `size` bytes from `offset` on."""

    archive: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Raises where the archive is gone or was cut since its headers were read."""
        with decoding(f"{self.name} of {self.archive}"), self.archive.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise _short(self.archive, self.name)
        return data


def members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar, in its order; only headers are read.

    Raises for names that climb out of the archive, and for links and devices; and an `Unusable`, after the last whole
    file, for an archive that is cut, damaged or compressed.
    """
    check_regular(path, path.name, skip=False)
    size, last = path.stat().st_size, ""
    try:
        with tarfile.open(path, "r:") as archive:
            for info in iter(archive.next, None):
                # Or all headers would be kept; the stubs do not know the attribute.
                # pyrefly: ignore[missing-attribute]
                archive.members.clear()
                if info.isdir():
                    continue
                if not info.isreg() or info.sparse is not None:
                    raise DiagnosticsError(
                        f"{path} holds {utf8_name(info.name)}, a link or device: write an archive of plain files.",
                        code="strange-file",
                    )
                if info.size < 0:
                    raise tarfile.ReadError(f"{utf8_name(info.name)} has a size below 0")
                name = str(safe_name(info.name, str(path)))
                if info.offset_data + info.size > size:
                    raise _short(path, name)
                yield Member(path, name, info.offset_data, info.size)
                last = name
            end = archive.offset
        # The library takes whatever is no header for the end, which a block of zeros is.
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise Unusable(str(path), f"ends or is damaged after {last or 'nothing'}", COPY, damage=True)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        why = f"cannot be read as an uncompressed tar ({error})"
        raise Unusable(str(path), why, f"unpack .gz and {COPY}", damage=True) from error


def _short(path: Path, name: str) -> Unusable:
    return Unusable(str(path), f"ends within {name}", COPY, damage=True)


class Archived:
    """Samples of tars. Of each its id and five numbers are held, so that ten million fit into memory; the rest is read
    when it is asked for.

    Parameters
    ----------
    caption: the entry of a `.json` that is the caption, where there is no `.txt`.
    on_error: with `skip`, an archive that is cut gives the samples before the cut, which is said on stderr.

    Raises for a sample without an image or a caption, for files that come twice, and where there is no sample at all.
    """

    def __init__(self, archives: Sequence[Path], caption: str, on_error: str) -> None:
        self.archives, self.caption = archives, caption
        self.ids: list[str] = []
        self.cut: dict[str, Unusable] = {}
        """Name of an archive -> what is wrong with it."""
        numbers, kinds, of_archive = array("q"), bytearray(), list[int]()
        digest = hashlib.sha256()
        for archive in archives:
            first = len(self.ids)
            self._scan(archive, on_error, numbers, kinds, digest)
            of_archive.append(len(self.ids) - first)
            if error := self.cut.get(archive.name):
                warn(f"{error.name} {error.why}: {of_archive[-1]} samples before that are read.")
        if not self.ids:
            raise next(
                iter(self.cut.values()),
                DiagnosticsError(f"{archives[0]} holds no samples: give other archives.", code="too-few"),
            )
        self.digest = digest.hexdigest()
        """Of all samples' ids and captions, and of where they and their images lie."""
        self._places = np.frombuffer(numbers, np.int64).reshape(-1, 4)
        """Of each sample offset and size of its image, offset and size of its caption."""
        self._kinds = np.frombuffer(kinds, np.uint8).reshape(-1, 2)
        """Which of `PICTURES` its image is, and whether its caption is an entry of a .json."""
        self.shards = np.repeat(np.arange(len(archives), dtype=np.int32), of_archive)
        self.captions = LazySamples(len(self.ids), self._read_caption)

    def _scan(self, archive: Path, on_error: str, numbers: array[int], kinds: bytearray, digest: Any) -> None:
        samples: dict[str, dict[str, Member]] = {}
        try:
            for member in members(archive):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                parts = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                if (kind := extension.lower()) in parts:
                    raise DiagnosticsError(
                        f"{archive} holds {member.name} twice: write the archive again.", code="duplicate"
                    )
                parts[kind] = member
        except Unusable as error:
            if on_error != "skip":
                raise
            self.cut[archive.name] = error
        for number, (key, parts) in enumerate(samples.items(), 1):
            image = next((m for extension, m in parts.items() if f".{extension}" in PICTURES), None)
            is_json = "txt" not in parts
            text = parts.get("json" if is_json else "txt")
            data = b"" if text is None else text.read()
            if image is None or text is None or not _caption(text, data, self.caption, is_json):
                if archive.name in self.cut and number == len(samples):
                    continue  # the rest of it was cut off
                missing = "image" if image is None else f"caption (.txt, or '{self.caption}' in .json)"
                raise DiagnosticsError(
                    f"Sample {key} of {archive} has no {missing}: add it, or remove the sample.", code="bad-sample"
                )
            # The name of a single archive is the user's to change; of several it tells their samples apart.
            self.ids.append(f"{archive.stem}/{key}" if len(self.archives) > 1 else key)
            places = (image.offset, image.size, text.offset, text.size)
            numbers.extend(places)
            digest.update(f"{self.ids[-1]}\x1f{places}\x1e".encode() + data)
            kinds.extend((PICTURES.index(f".{image.name.partition('.')[2].lower()}"), is_json))

    def _member(self, i: int, part: int, extension: str) -> Member:
        archive = self.archives[self.shards[i]]
        key = self.ids[i].removeprefix(f"{archive.stem}/") if len(self.archives) > 1 else self.ids[i]
        offset, size = self._places[i, 2 * part : 2 * part + 2].tolist()
        return Member(archive, f"{key}{extension}", offset, size)

    def picture(self, i: int) -> np.ndarray:
        """The image of a sample, decoded; see `decode.picture`."""
        member = self._member(i, 0, PICTURES[self._kinds[i, 0]])
        return picture(io.BytesIO(member.read()), f"{member.name} of {member.archive.name}")

    def _read_caption(self, i: int) -> str:
        is_json = bool(self._kinds[i, 1])
        member = self._member(i, 1, ".json" if is_json else ".txt")
        return _caption(member, member.read(), self.caption, is_json)


def _caption(member: Member, data: bytes, entry: str, is_json: bool) -> str:
    with explaining(
        f"The caption of {member.name} in {member.archive} is not text",
        "write it as UTF-8",
        "unreadable",
        (ValueError, RecursionError),
    ):
        if not is_json:
            return data.decode().strip()
        entries = json.loads(data)
        text = entries.get(entry) if isinstance(entries, dict) else None
        return text.strip() if isinstance(text, str) else ""


# Images with captions: from a table beside the images, or from tar archives in the layout of WebDataset.


@dataclass(frozen=True)
class Pairs:
    """Images with captions, one of each in a row. `read(row)` decodes an image, and captions may be read like it.

    cut: what is wrong with archives that end early. shards: which archive each row lies in; None without archives.
    scanned: see `FileDataset`.
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
    if not source.exists():
        # Patterns of many archives, as {00000..00099}.tar, are common elsewhere.
        raise DiagnosticsError(
            f"{scheme} does not exist: give a table, a .tar, or a folder, all of whose .tar files are read.",
            code="missing-file",
        )
    if source.is_dir():
        archives = sorted(source.glob("*.tar"))
        if not archives:
            raise DiagnosticsError(
                f"{scheme} is a folder without .tar files: name a table or put archives there.", code="missing-file"
            )
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
            f"{len(pairs.ids)} captions of {len(kept)} images",
            means if targets else "",
            how,
            cut,
            sentence(left_out, len(names)),
        ),
        files={name: at for name, at in pairs.files.items() if name not in left_out},
        options="" if pairs.shards is None else f"caption={caption}",
        left_out={**left_out, **pairs.cut},
        shards=pairs.shards,
        scanned=pairs.scanned,
        texts=pairs.captions,
        exchangeable=exchangeable,
    )


def _from_tars(archives: Sequence[Path], caption: str, on_error: str, files: Mapping[str, Path]) -> Pairs:
    samples = Archived(archives, caption, on_error)
    ids = samples.ids
    return Pairs(
        ids,
        ids,
        samples.captions,
        ids,
        splits=[""] * len(ids),
        read=samples.picture,
        files=files,
        cut=samples.cut,
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

    return Pairs(ids, names, [text.strip() for text in texts], groups, splits, read=read, files=files, cut={})


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

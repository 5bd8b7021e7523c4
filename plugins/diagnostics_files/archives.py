"""Images with captions in tars in the layout of WebDataset: the files of a sample share their name up to its first dot.

Each archive has an index beside it, `a.tar.index`: which samples there are and where their files lie. It is written
once, and mapped rather than read: processes share it, and a start reads no header.
"""

import functools
import hashlib
import io
import itertools
import json
import mmap
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from diagnostics.plugin import DiagnosticsError, LazySamples, digest_of_json, explaining, whole_file
from diagnostics_files.decode import picture
from diagnostics_files.folder import (
    PICTURES,
    Unusable,
    check_regular,
    decoding,
    safe_name,
    sentence,
    tell,
    utf8_name,
    warn,
)

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
        """Raise where the archive is gone or was cut since its headers were read."""
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


# Which archives a name stands for.

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def archives_at(path: str) -> list[Path]:
    """The tars of a folder, the one of that name, or all of a pattern such as `{00000..00099}.tar`.

    [] for what is none of these.

    Raises where a folder has none, where one of a pattern is missing, and where two have the same name.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        found = sorted(source.glob("*.tar"))
        if not found:
            raise DiagnosticsError(
                f"captions:{path} is a folder without .tar files: name a table or put archives there.",
                code="missing-file",
            )
        return found
    if source.suffix.lower() != ".tar":
        return []
    # Between two ranges lies what stays: "a{0..1}b" is "a", "0", "1", "b".
    parts = _RANGE.split(str(source))
    ranges = [
        [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3], strict=True)
    ]
    found = [
        Path("".join(map("".join, zip(parts[::3], [*numbers, ""], strict=True))))
        for numbers in itertools.product(*ranges)
    ]
    missing = [each for each in found if not each.is_file()]
    if missing or not found:
        raise DiagnosticsError(
            (
                f"{len(missing)} of {len(found)} archives of captions:{path} are missing, {missing[0]} first"
                if missing
                else f"captions:{path} has a range that ends before it starts, so it names no archive"
            )
            + ": give a .tar, a folder of them, or a pattern of those that are there.",
            code="missing-file",
        )
    if twice := [name for name, count in Counter(each.stem for each in found).items() if count > 1]:
        raise DiagnosticsError(
            f"Two archives of captions:{path} are named {twice[0]}.tar: give each a name of its own.", code="duplicate"
        )
    return found


# An archive's index: a safetensors file of numbers, with what else there is to say in its metadata.

FORMAT = "1"
ARRAYS = {"places": np.int64, "captions": np.uint64, "ends": np.int64, "kinds": np.uint8, "keys": np.uint8}
"""places [sample, 4]: offset and size of image and caption. captions [sample]: a hash of each. ends [sample]: where
each key ends in `keys`, all of them as UTF-8, one after the other. kinds [sample, 2]: which of `PICTURES` the image is,
and whether the caption is an entry of a .json.
"""
READING = (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError)


class Index:
    """The samples of an archive.

    about: `size` and `changed` (ns) of the archive, `caption` (the entry of a .json), `decoded` (whether each image was
    decoded once), `digest` (of the arrays), `cut` (what is wrong with the archive's end, or ""), and what is wrong (a
    name, why, whether bytes are) with pairs that are no samples, `broken` by key, and with samples whose images cannot
    be decoded, `undecodable` by number.
    """

    def __init__(
        self,
        archive: Path,
        about: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        release: Callable[[], object] = bool,
    ) -> None:
        self.archive, self.about, self.arrays, self._release = archive, about, arrays, release
        self.kinds, self.places, self.ends = arrays["kinds"], arrays["places"], arrays["ends"]
        self.broken, self.undecodable = self._faults("broken"), self._faults("undecodable")
        """Faults of pairs that are no samples, by key, and of images that cannot be decoded, by number."""
        self.cut = Unusable(str(archive), about["cut"], COPY, damage=True) if about["cut"] else None
        """The fault of an archive that ends early."""

    def __len__(self) -> int:
        return len(self.ends)

    def list_keys(self) -> list[str]:
        """The names of all samples, without their extensions."""
        keys, ends = self.arrays["keys"].tobytes(), self.ends.tolist()
        self._release()
        return [keys[first:last].decode() for first, last in zip([0, *ends], ends, strict=False)]

    def key(self, i: int) -> str:
        """That of one sample."""
        return self.arrays["keys"][self.ends[i - 1] if i else 0 : self.ends[i]].tobytes().decode()

    def member(self, i: int, part: int) -> Member:
        """A sample's image (0) or caption (1)."""
        of_json = ".json" if self.kinds[i, 1] else ".txt"
        offset, size = self.places[i, 2 * part : 2 * part + 2].tolist()
        return Member(self.archive, f"{self.key(i)}{of_json if part else PICTURES[self.kinds[i, 0]]}", offset, size)

    def _faults(self, kind: str) -> dict[str, Unusable]:
        return {
            key: Unusable(name, why, "repair or remove it", damage=damage)
            for key, (name, why, damage) in self.about[kind].items()
        }


def index_path(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.index")


def index_of(archive: Path, caption: str, decode: bool = False) -> Index:
    """The index beside an archive, written where there is none.

    It is written anew, and a line says so, where it is that of another archive, of this one before it was changed, or
    of another entry as the caption.

    decode: whether pairs whose images cannot be decoded have to be known. An index that cannot be written is held in
    memory. Raises DiagnosticsError for one that is damaged.
    """
    path = index_path(archive)
    check_regular(archive, archive.name, skip=False)
    if path.is_file():
        with explaining(f"Index {path} cannot be read", "remove it to index the archive again", "damaged", READING):
            index = _map_index(archive, path)
        about, now = index.about, archive.stat()
        known = (about["size"], about["changed"], about["caption"]) == (now.st_size, now.st_mtime_ns, caption)
        if known and about["decoded"] >= decode:
            return index
        if not known:
            warn(f"{path} is of another archive, or of another caption than '{caption}': it is written anew")
    index = _scan(archive, caption, decode)
    try:
        with whole_file(path) as written:
            save_file(
                dict(index.arrays),
                written,
                {"about": json.dumps({**index.about, "check": digest_of_json(index.about)})},
            )
    except (OSError, DiagnosticsError, SafetensorError):
        _warn_once(f"no index can be written beside {archive}, so that its headers are read at every start")
        return index
    return _map_index(archive, path)


_warn_once = functools.cache(warn)


def _map_index(archive: Path, path: Path) -> Index:
    """Raise one of `READING` where the bytes are not those of an index."""
    mapped = np.memmap(path, np.uint8, "r")
    begin = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8:begin].tobytes())
    about = json.loads(header["__metadata__"]["about"])
    arrays = {
        name: mapped[begin + header[name]["data_offsets"][0] : begin + header[name]["data_offsets"][1]]
        .view(kind)
        .reshape(header[name]["shape"])
        for name, kind in ARRAYS.items()
    }
    check = about.pop("check")
    if about["format"] != FORMAT or about["digest"] != _digest(arrays) or check != digest_of_json(about):
        raise ValueError("its bytes are not those that were written")
    if (arrays["kinds"][:, 0] >= len(PICTURES)).any():
        raise ValueError("an image is of no known kind")
    # What was read as a whole is not held; the stubs do not know the attribute.
    # pyrefly: ignore[missing-attribute]
    release = functools.partial(mapped._mmap.madvise, mmap.MADV_DONTNEED)
    release()
    return Index(archive, about, arrays, release)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Of keys, places and captions: of all that an archive is known again by."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(f"{name} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _scan(archive: Path, caption: str, decode: bool) -> Index:
    """Read all headers and captions; with `decode`, all images."""
    before, cut = archive.stat(), ""
    parts: dict[str, dict[str, Member]] = {}
    twice: dict[str, str] = {}
    broken: dict[str, tuple[str, str, bool]] = {}
    undecodable: dict[int, tuple[str, str, bool]] = {}
    try:
        for member in members(archive):
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            of_key = parts.setdefault(key := f"{folder}/{stem}" if folder else stem, {})
            if (kind := extension.lower()) in of_key:
                twice[key] = member.name
            of_key[kind] = member
    except Unusable as error:
        cut = error.why
    places, kinds, hashes, keys = [], [], [], []
    with archive.open("rb") as file:
        for number, (key, of_key) in enumerate(parts.items(), 1):
            image = next((m for extension, m in of_key.items() if f".{extension}" in PICTURES and m.size), None)
            is_json = "txt" not in of_key
            text = of_key.get("json" if is_json else "txt")
            file.seek(text.offset if text else 0)
            data = file.read(text.size if text else 0)
            why = ""
            try:
                if key in twice:
                    why = f"has two files {twice[key]}"
                elif image is None:
                    why = "has no image"
                elif text is None or not caption_in(text, data, caption, is_json):
                    why = f"has no caption (.txt, or '{caption}' in .json)"
            except DiagnosticsError:
                why = f"has a caption that is no UTF-8 text{is_json * ' or no JSON'}"
            if why or image is None or text is None:
                # The rest of a last one was cut off.
                if not (cut and number == len(parts)):
                    broken[key] = (f"Sample {key} of {archive}", why, "UTF-8" in why)
                continue
            if decode:
                try:
                    picture(io.BytesIO(image.read()), f"{image.name} of {archive.name}")
                except Unusable as error:
                    undecodable[len(keys)] = (error.name, error.why, error.damage)
            places.append((image.offset, image.size, text.offset, text.size))
            kinds.append((PICTURES.index(f".{image.name.rpartition('/')[2].partition('.')[2].lower()}"), is_json))
            hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
            keys.append(key.encode())
    arrays = {
        "places": np.array(places, np.int64).reshape(-1, 4),
        "captions": np.array(hashes, np.uint64),
        "ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        "kinds": np.array(kinds, np.uint8).reshape(-1, 2),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
    }
    about = {
        "format": FORMAT,
        "size": before.st_size,
        "changed": before.st_mtime_ns,
        "caption": caption,
        "decoded": decode,
        "digest": _digest(arrays),
        "broken": broken,
        "undecodable": undecodable,
        "cut": cut,
    }
    return Index(archive, json.loads(json.dumps(about)), arrays)


def caption_in(member: Member, data: bytes, entry: str, is_json: bool) -> str:
    """A caption of a .txt, or of an entry of a .json; "" where there is none. Raises for what is no text."""
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


LISTED = 20
"""Broken pairs that are shown."""


def describe_index(parts: Sequence[Index]) -> tuple[dict[str, Any], list[str]]:
    """Contents of archives and what is wrong with them: `archives`, `samples`, `broken` (name -> why), `cut`.

    Also lines for people. Raises for archives of nothing at all.
    """
    broken = {
        f"{part.archive.name}: {error.name}": error.why
        for part in parts
        for error in (*part.broken.values(), *part.undecodable.values())
    }
    cut = {part.archive.name: part.cut.why for part in parts if part.cut}
    found = {"archives": len(parts), "samples": sum(map(len, parts)), "broken": broken, "cut": cut}
    if not broken:
        check_parts(parts)
    lines = [f"{len(parts):,} archive{'s' * (len(parts) > 1)}: {found['samples']:,} pairs, {len(broken):,} broken"]
    lines += [f"  {name} {why}" for name, why in [*cut.items(), *broken.items()][:LISTED]]
    if (more := len(cut) + len(broken) - LISTED) > 0:
        lines.append(f"  and {more:,} more (--json lists all)")
    return found, lines


def check_parts(parts: Sequence[Index], stop: bool = False) -> None:
    """Raise where there is no sample at all; with `stop` also for an archive that is cut, or a pair that is no sample.

    Says what is wrong with the first one.
    """
    faults = [fault for part in parts for fault in (part.cut, *part.broken.values()) if fault]
    empty = not any(map(len, parts))
    if faults and (empty or stop):
        raise faults[0]
    if empty:
        raise DiagnosticsError(f"{parts[0].archive} holds no samples: give other archives.", code="too-few")


# Samples of several archives.


class Archives:
    """Samples of tars, through their indexes; whatever they hold is read when it is asked for.

    Parameters
    ----------
    caption: the entry of a `.json` that is the caption, where there is no `.txt`.
    on_error: with `stop`, raises for the first archive that is cut, and for the first pair without an image or a
        caption. `skip` and `replace` leave out what is broken; `skip` knows of images that cannot be decoded too, since
        all were decoded once for the index.

    Raises where there is no sample at all.
    """

    def __init__(self, archives: Sequence[Path], caption: str, on_error: str) -> None:
        self.caption = caption
        new = sum(not index_path(archive).is_file() for archive in archives)
        if new > 1:
            warn(f"indexes {new:,} archives, once")
        self.parts = [index_of(archive, caption, decode=on_error == "skip") for archive in archives]
        check_parts(self.parts, stop=on_error == "stop")
        self.broken = {self._prefix(part) + key: error for part in self.parts for key, error in part.broken.items()}
        self.cut = {part.archive.name: part.cut for part in self.parts if part.cut}
        """Name of an archive -> what is wrong with it."""
        self._starts = np.cumsum([0, *map(len, self.parts)])
        for part in self.parts:
            if part.cut:
                warn(f"{part.cut.name} {part.cut.why}: {len(part)} samples before that are read.")
        tell(f"captions:{archives[0].parent}", sentence(self.broken, len(self) + len(self.broken)))
        self.shards = np.repeat(np.arange(len(archives), dtype=np.int32), [len(part) for part in self.parts])
        """Which archive each sample lies in, int32 [sample]."""
        self.captions = LazySamples(len(self), self._read_caption)
        self.digest = hashlib.sha256("".join(part.about["digest"] for part in self.parts).encode()).hexdigest()
        """Of all samples' captions, and of where they and their images lie."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def check(self, i: int) -> None:
        """Raise where the image of a sample is known not to be decodable."""
        part, at = self._at(i)
        if error := part.undecodable.get(str(at)):
            raise error

    def _prefix(self, part: Index) -> str:
        # The name of a single archive is the user's to change; of several it tells their samples apart.
        return f"{part.archive.stem}/" if len(self.parts) > 1 else ""

    def __iter__(self) -> Iterator[str]:
        """The ids of all samples; those of one archive are held at a time."""
        for part in self.parts:
            prefix = self._prefix(part)
            yield from (prefix + key for key in part.list_keys())

    def _at(self, i: int) -> tuple[Index, int]:
        shard = int(np.searchsorted(self._starts, i, "right")) - 1
        return self.parts[shard], i - int(self._starts[shard])

    def id(self, i: int) -> str:
        """Of one sample."""
        part, at = self._at(i)
        return self._prefix(part) + part.key(at)

    def picture(self, i: int) -> np.ndarray:
        """The image of a sample, decoded; see `decode.picture`."""
        part, at = self._at(i)
        member = part.member(at, 0)
        return picture(io.BytesIO(member.read()), f"{member.name} of {member.archive.name}")

    def _read_caption(self, i: int) -> str:
        part, at = self._at(i)
        member = part.member(at, 1)
        return caption_in(member, member.read(), self.caption, bool(part.kinds[at, 1]))

"""Images with captions in tars in the layout of WebDataset: the files of a sample share their name up to its first dot."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples
from diagnostics_files.decode.images import picture
from diagnostics_files.errors import Unusable, check_regular, damaged, utf8_name, warn
from diagnostics_files.scan import PICTURES, safe_name

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
        try:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise damaged(f"{self.name} of {self.archive}", error) from error
        if len(data) < self.size:
            raise _short(self.archive, self.name)
        return data


def members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar, in its order; only headers are read.

    Raises for names that climb out of the archive, and for links and devices; and an `Unusable`, after the last whole file, for an
    archive that is cut, damaged or compressed.
    """
    check_regular(path, path.name, skip=False)
    size, last = path.stat().st_size, ""
    try:
        with tarfile.open(path, "r:") as archive:
            for info in iter(archive.next, None):
                # Or all headers would be kept; the stubs do not know the attribute.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (tarfile keeps them, its stubs do not)
                if info.isdir():
                    continue
                if not info.isreg() or info.sparse is not None:
                    raise DiagnosticsError(
                        f"{path} holds {utf8_name(info.name)}, a link or device: write an archive of plain files."
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
    """Samples of tars. Of each its id and five numbers are held, so that ten million fit into memory; the rest is read when it is
    asked for.

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
        self._digest = hashlib.sha256()
        for archive in archives:
            first = len(self.ids)
            self._scan(archive, on_error, numbers, kinds)
            of_archive.append(len(self.ids) - first)
            if error := self.cut.get(archive.name):
                warn(f"{error.name} {error.why}: {of_archive[-1]} samples before that are read.")
        if not self.ids:
            raise next(
                iter(self.cut.values()), DiagnosticsError(f"{archives[0]} holds no samples: give other archives.")
            )
        self._places = np.frombuffer(numbers, np.int64).reshape(-1, 4)
        """Of each sample offset and size of its image, offset and size of its caption."""
        self._kinds = np.frombuffer(kinds, np.uint8).reshape(-1, 2)
        """Which of `PICTURES` its image is, and whether its caption is an entry of a .json."""
        self.shards = np.repeat(np.arange(len(archives), dtype=np.int32), of_archive)
        self.captions = LazySamples(len(self.ids), self._read_caption)

    def _scan(self, archive: Path, on_error: str, numbers: array[int], kinds: bytearray) -> None:
        samples: dict[str, dict[str, Member]] = {}
        try:
            for member in members(archive):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                parts = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                if (kind := extension.lower()) in parts:
                    raise DiagnosticsError(f"{archive} holds {member.name} twice: write the archive again.")
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
                raise DiagnosticsError(f"Sample {key} of {archive} has no {missing}: add it, or remove the sample.")
            # The name of a single archive is the user's to change; of several it tells their samples apart.
            self.ids.append(f"{archive.stem}/{key}" if len(self.archives) > 1 else key)
            places = (image.offset, image.size, text.offset, text.size)
            numbers.extend(places)
            self._digest.update(f"{self.ids[-1]}\x1f{places}\x1e".encode() + data)
            kinds.extend((PICTURES.index(f".{image.name.partition('.')[2].lower()}"), is_json))

    @property
    def digest(self) -> str:
        """Of all samples' ids and captions, and of where they and their images lie."""
        return self._digest.hexdigest()

    def _member(self, i: int, part: int, extension: str) -> Member:
        archive = self.archives[self.shards[i]]
        key = self.ids[i].removeprefix(f"{archive.stem}/") if len(self.archives) > 1 else self.ids[i]
        offset, size = self._places[i, 2 * part : 2 * part + 2].tolist()
        return Member(archive, f"{key}{extension}", offset, size)

    def picture(self, i: int) -> np.ndarray:
        """The image of a sample, decoded; see `decode.images.picture`."""
        member = self._member(i, 0, PICTURES[self._kinds[i, 0]])
        return picture(io.BytesIO(member.read()), f"{member.name} of {member.archive.name}")

    def _read_caption(self, i: int) -> str:
        is_json = bool(self._kinds[i, 1])
        member = self._member(i, 1, ".json" if is_json else ".txt")
        return _caption(member, member.read(), self.caption, is_json)


def _caption(member: Member, data: bytes, entry: str, is_json: bool) -> str:
    try:
        if not is_json:
            return data.decode().strip()
        entries = json.loads(data)
        text = entries.get(entry) if isinstance(entries, dict) else None
        return text.strip() if isinstance(text, str) else ""
    except (ValueError, RecursionError) as error:
        raise DiagnosticsError(
            f"The caption of {member.name} in {member.archive} is not text ({error}): write it as UTF-8."
        ) from error

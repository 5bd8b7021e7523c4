"""Files within uncompressed tars, found by their headers and read at random."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diagnostics import DiagnosticsError
from diagnostics_files.errors import Unusable, check_regular, damaged, utf8_name
from diagnostics_files.scan import safe_name

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

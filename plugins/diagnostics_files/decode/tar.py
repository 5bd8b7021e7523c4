"""Reading single members of a tar by their place in it; nothing is ever extracted to disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diagnostics import DiagnosticsError
from diagnostics_files.errors import check_regular, utf8_name
from diagnostics_files.scan import safe_name


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

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.read())


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

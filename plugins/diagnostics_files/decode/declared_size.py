"""Whether a file is as long as its header says: what was cut short decodes without an error and is only shorter then."""

from pathlib import Path

from diagnostics_files.errors import damaged

_SEGMENT = b"\x18\x53\x80\x67"
"""The element of a Matroska file that holds all others but its header."""
_LONGEST_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest page of an Ogg file."""
_UNKNOWN = 0x7FFF0000
"""A program that writes into a pipe cannot go back to the header and leaves about the largest number there."""


def check_declared_size(path: Path, name: str) -> None:
    """Raises where a RIFF (WAV, AVI), AIFF or Matroska (WebM) file ends before its declared end, or an Ogg file without its last page."""
    with path.open("rb") as file:
        head, size = file.read(4096), path.stat().st_size
        file.seek(max(0, size - _LONGEST_PAGE))
        tail = file.read()
    missing = _declared(head) - size
    if missing > 0:
        raise damaged(name, f"it ends {missing:,} bytes early")
    if head[:4] == b"OggS" and not _has_last_page(tail):
        raise damaged(name, "its last page is missing")


def _has_last_page(tail: bytes) -> bool:
    """Whether the last page of an Ogg file is whole and marked as the last one (RFC 3533)."""
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > 26 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _declared(head: bytes) -> int:
    """The size that the header declares, in bytes; 0 where it declares none."""
    if head[:4] in (b"RIFF", b"FORM"):
        size = int.from_bytes(head[4:8], "little" if head[:1] == b"R" else "big")
        return size + 8 if size < _UNKNOWN else 0
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if head[:4] != b"\x1a\x45\xdf\xa3" or at < len(_SEGMENT) or at == len(head):
        return 0
    # The number of leading zero bits is the number of further bytes; all ones mean a size that is not known.
    width = 9 - head[at].bit_length()
    size = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width + size if size < (1 << 7 * width) - 1 else 0

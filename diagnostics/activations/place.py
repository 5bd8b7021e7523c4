"""The place where a run or a file lies: a path of a local disk, or the address of an object store."""

import re
from pathlib import Path, PurePath, PurePosixPath

from diagnostics.errors import DiagnosticsError

STORES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
"""Schemes of addresses, and what obstore calls their stores."""


class Address(PurePosixPath):
    """A prefix in an object store, as `s3://bucket/runs/x`: a path with a scheme, for names and messages alone."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


Location = Path | Address
"""The place of a run or a file."""


def locate(place: str | PurePath) -> Location:
    """The path of a folder or file, or the address that a text tells.

    Raises DiagnosticsError for a scheme that is not known, and for an address that names no prefix alone.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(//?)(.*)", str(place), re.DOTALL)
    if found is None or (found[2] == "/" and found[1] not in STORES):
        return Path(place)
    if found[1] not in STORES:
        raise DiagnosticsError(
            f"Places of the kind {found[1]}:// are not known: give a folder, or {', '.join(f'{s}://' for s in STORES)}"
            f" with a bucket and a prefix.",
            code="bad-value",
        )
    bucket, *prefix = found[3].rstrip("/").split("/")
    if not bucket or "@" in bucket or "?" in found[3] or {"", ".", ".."} & {*prefix}:
        # Not quoted: it may hold a key.
        raise DiagnosticsError(
            f"An address {found[1]}:// has a bucket and names with / between them, and nothing else: give it like "
            f"{found[1]}://bucket/runs/mine, and credentials by variables of the environment.",
            code="bad-value",
        )
    return Address(f"{found[1]}:", bucket, *prefix)

"""Configures the C library's allocator to keep the memory that one batch frees for the next batch."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes on a 64-bit machine; blocks beyond it come from the kernel and go back to it.
_MMAP_THRESHOLD = 32 * 2**20
KEPT = 512 * 2**20
"""Bytes of freed memory that a process may keep."""


def keep_freed_memory() -> None:
    """From here on glibc keeps up to `KEPT` bytes that are freed; nothing happens with another C library.

    By default it hands large blocks back to the kernel, which clears them page by page when the next batch asks for
    them: a tenth of the CPU time of a small encoder's forward pass (benchmarks/cka.py measures it).
    """
    # Not every C library has mallopt, and not every system lets itself be asked for its C library so.
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, KEPT)

"""From any torch module and one batch to its taps: its stack of blocks, what one dry pass shows, the places of its tokens."""

from __future__ import annotations

from diagnostics.discovery.discover import Discovered, discover
from diagnostics.discovery.stacks import find_blocks

__all__ = ["Discovered", "discover", "find_blocks"]

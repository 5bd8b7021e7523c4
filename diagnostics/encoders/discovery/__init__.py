"""From any torch module and one batch to its taps: its stack of blocks, what one dry pass shows, the places of its tokens."""

from __future__ import annotations

from diagnostics.encoders.discovery.discover import Discovered, discover
from diagnostics.encoders.discovery.movement import corner_changed, features_first, noisy, special_tokens
from diagnostics.encoders.discovery.places import Place, Places
from diagnostics.encoders.discovery.stacks import find_blocks

__all__ = [
    "Discovered",
    "Place",
    "Places",
    "corner_changed",
    "discover",
    "features_first",
    "find_blocks",
    "noisy",
    "special_tokens",
]

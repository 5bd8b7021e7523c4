"""Places of tokens.

They are proposed for an unknown torch module from one batch, and verified where a grid is declared.

What stands in `__all__` is for plugins too: `discover` for a torch module, the others for what is run in another way.
"""

from diagnostics.encoders.hooks import FirstBlockInput
from diagnostics.encoders.places.judge import Placement, TapGrid
from diagnostics.encoders.places.propose import Discovered, discover
from diagnostics.encoders.places.trunk import Place, Places, extents_of, find_blocks
from diagnostics.encoders.places.verify import NotVerifiableError, verify_grid, verify_taps

__all__ = [
    "Discovered",
    "FirstBlockInput",
    "NotVerifiableError",
    "Place",
    "Placement",
    "Places",
    "TapGrid",
    "discover",
    "extents_of",
    "find_blocks",
    "verify_grid",
    "verify_taps",
]

"""Discovery of the taps of an unknown torch module from one batch: its stack of blocks, and the grids of its tokens.

What stands in `__all__` is for plugins too: `discover` for a torch module, the others for what is run in another way.
"""

from diagnostics.encoders.discovery.discover import Discovered, discover
from diagnostics.encoders.discovery.first_block_input import FirstBlockInput
from diagnostics.encoders.discovery.places import Place, Places, extents_of
from diagnostics.encoders.discovery.stacks import find_blocks

__all__ = ["Discovered", "FirstBlockInput", "Place", "Places", "discover", "extents_of", "find_blocks"]

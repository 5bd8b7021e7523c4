"""Verification that tokens correspond to the places that their grid declares."""

from diagnostics.encoders.placement.verify import NotVerifiableError, Placement, verify_grid
from diagnostics.encoders.placement.verify_taps import TapGrid, verify_taps

__all__ = ["NotVerifiableError", "Placement", "TapGrid", "verify_grid", "verify_taps"]

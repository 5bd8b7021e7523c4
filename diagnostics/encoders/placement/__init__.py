"""Verifies that tokens stand for the places that a grid declares."""

from __future__ import annotations

from diagnostics.encoders.placement.changes import NotVerifiableError
from diagnostics.encoders.placement.verify import Placement, verify_grid
from diagnostics.encoders.placement.verify_taps import TapGrid, verify_taps

__all__ = ["NotVerifiableError", "Placement", "TapGrid", "verify_grid", "verify_taps"]

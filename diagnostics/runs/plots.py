"""A whole run in one figure of panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from diagnostics.errors import DiagnosticsError
from diagnostics.report.plots import StillFigure, draw, multiples

if TYPE_CHECKING:
    from diagnostics.runs.run import Run


def plot_run(run: Run) -> go.Figure:
    """What `Run.plot` returns."""
    profiles = [p for p in run.profiles() if np.isfinite(p.data["score"].values).any()]
    drawn = [profile for profile in profiles if profile.is_probe] or profiles
    if not drawn:
        raise DiagnosticsError(f"{run.path} has no profile to draw: run again with measures that give one.")
    return StillFigure(multiples([(profile.label, draw(profile.figure())) for profile in drawn]))

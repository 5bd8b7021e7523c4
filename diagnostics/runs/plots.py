"""A whole run, or all that it says of one target, in one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.report.plots import StillFigure, draw, multiples
from diagnostics.runs.answer import score_map
from diagnostics.runs.nonlinear import without_nonlinear
from diagnostics.runs.profile import by_verdict

if TYPE_CHECKING:
    from diagnostics.runs.run import Run


def plot_run(run: Run, target: str | None, measure: str | None) -> go.Figure:
    """What `Run.plot` returns."""
    profiles = [p for p in run.profiles() if np.isfinite(p.data["score"].values).any()]
    read = [p for p in without_nonlinear(profiles) if p.is_probe and p.target]
    if target is not None:
        chosen = [p for p in read if p.target == target]
        if not chosen:
            raise unknown("target", target, list(dict.fromkeys(str(p.target) for p in read)))
        chosen = [run.profile(target, measure)] if measure else chosen
        return StillFigure(multiples([(p.name, draw(p.figure())) for p in chosen]))
    if read:
        return StillFigure(draw(score_map([("", p) for p in by_verdict(read)])))
    drawn = [p for p in profiles if p.is_probe] or profiles
    if not drawn:
        raise DiagnosticsError(f"{run.path} has no profile to draw: run again with measures that give one.")
    return StillFigure(multiples([(p.name, draw(p.figure())) for p in drawn]))

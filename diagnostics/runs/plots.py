"""A whole run, and a whole comparison, in one figure of panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from diagnostics.errors import DiagnosticsError
from diagnostics.report.plots import StillFigure, draw, multiples
from diagnostics.runs.comparison.figures import curves_figure
from diagnostics.runs.comparison.findings import Findings, first_of_each_target
from diagnostics.runs.comparison.words import target_name

if TYPE_CHECKING:
    from diagnostics.runs.run import Run


def plot_run(run: Run) -> go.Figure:
    """What `Run.plot` returns."""
    profiles = [p for p in run.profiles() if np.isfinite(p.data["score"].values).any()]
    drawn = [profile for profile in profiles if profile.is_probe] or profiles
    if not drawn:
        raise DiagnosticsError(f"{run.path} has no profile to draw: run again with measures that give one.")
    return StillFigure(multiples([(profile.label, draw(profile.figure())) for profile in drawn]))


def plot_comparison(findings: Findings) -> go.Figure:
    """What `Comparison.plot` returns."""
    names = [str(name) for name in findings.data["target"].values]
    probes = first_of_each_target([row.profile for row in findings.group_scores])
    drawn = [name for name in names if name in probes] or names
    if not drawn:
        raise DiagnosticsError("The runs share no profile to draw: run them with the same measures.")
    return StillFigure(multiples([(target_name(findings, name), draw(curves_figure(findings, name))) for name in drawn]))

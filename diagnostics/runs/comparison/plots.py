"""A whole comparison in one figure of panels."""

from __future__ import annotations

import plotly.graph_objects as go

from diagnostics.errors import DiagnosticsError
from diagnostics.report.plots import StillFigure, draw, multiples
from diagnostics.runs.comparison.findings import Findings, curves_figure


def plot_comparison(findings: Findings) -> go.Figure:
    """What `Comparison.plot` returns."""
    names = [str(name) for name in findings.data["target"].values]
    probes = {row.profile for row in findings.group_scores}
    drawn = [name for name in names if name in probes] or names
    if not drawn:
        raise DiagnosticsError("The runs share no profile to draw: run them with the same measures.")
    return StillFigure(multiples([(name, draw(curves_figure(findings, name))) for name in drawn]))

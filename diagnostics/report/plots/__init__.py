"""Figures drawn with plotly from their arrays."""

import plotly.graph_objects as go

from diagnostics.report.page import CurvesFigure, Figure, MapFigure, ProfileFigure, ScoreMap, StepsFigure, TasksFigure
from diagnostics.report.plots.curves import draw_curves, draw_map, draw_shares, draw_steps
from diagnostics.report.plots.profile import draw_profile, draw_score_map
from diagnostics.report.plots.still import StillFigure
from diagnostics.report.plots.style import html, multiples
from diagnostics.report.plots.tasks import draw_tasks

__all__ = ["StillFigure", "draw", "html", "multiples"]


def draw(figure: Figure, *, small: bool = False) -> go.Figure:
    """A figure of any kind; `small`: without the legend, which the page has."""
    match figure:
        case ProfileFigure():
            return draw_profile(figure, small=small)
        case ScoreMap():
            return draw_score_map(figure, small=small)
        case MapFigure():
            return draw_map(figure)
        case CurvesFigure():
            return draw_curves(figure)
        case StepsFigure():
            return draw_steps(figure)
        case TasksFigure():
            return draw_tasks(figure)
        case _:
            return draw_shares(figure)

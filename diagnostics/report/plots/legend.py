"""The signs of figures as small drawings beside their names, for a legend that several figures share."""

from __future__ import annotations

from dataclasses import dataclass

from diagnostics.measures.verdict import Verdict
from diagnostics.report.page import Legend, MapLegend
from diagnostics.report.plots.profile import BAND, CONTROL_COLOURS, CONTROL_DASHES
from diagnostics.report.plots.score_map import colours_of
from diagnostics.report.plots.style import BEST, FRAME, INK, LINE, OUTPUT

# As plotly draws them, at a width of 1.5.
DASH_LENGTHS = {
    "dash": "9,9", "dashdot": "9,3,3,3", "dot": "3,3", "longdash": "10,5", "longdashdot": "10,4,3,4",
}  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """One entry: its name, and whether it is a line with these dashes, a band, a star, a diamond, a frame or a square of this colour."""

    name: str
    shape: str
    colour: str
    dashes: str = ""


def signs(legend: Legend | MapLegend) -> list[Sign]:
    """The entries of a legend."""
    if isinstance(legend, MapLegend):
        return [
            *([Sign("layer to use", "star", BEST)] if set(legend.verdicts) - {Verdict.AT_CHANCE} else []),
            Sign("output", "frame", FRAME),
            *(Sign(name, "square", colour) for colour, name in colours_of(legend.verdicts)),
        ]
    controls = [
        Sign(name, "line", CONTROL_COLOURS[style % len(CONTROL_COLOURS)], _dashes(style))
        for name, style in legend.controls
    ]
    return [
        Sign("score or value", "line", INK),
        *([Sign("95 % interval", "band", BAND)] if legend.band else []),
        *([Sign("layer to use", "star", BEST)] if legend.chosen else []),
        Sign("output", "diamond", OUTPUT),
        *controls,
        *([Sign("reference line", "line", LINE, "3,3")] if legend.lines else []),
    ]


def _dashes(style: int) -> str:
    dash = CONTROL_DASHES[style % len(CONTROL_DASHES)]
    return DASH_LENGTHS.get(dash, dash.replace("px", ""))

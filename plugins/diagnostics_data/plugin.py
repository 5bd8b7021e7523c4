"""The entry point: dataset names and their builders. Importing it imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diagnostics import hookimpl
from diagnostics_data import archives, clips, images, series, speech, stills, watch
from diagnostics_data.shapes import shapes


@hookimpl
def datasets() -> Mapping[str, Callable[..., Any]]:
    """Name -> builder; each says in its docstring which options it takes."""
    return {
        "lorenz": series.lorenz,
        "pendulum": series.pendulum,
        "damped_oscillator": series.damped_oscillator,
        "arma": series.arma,
        "changepoint": series.changepoint,
        "digits": images.digits,
        "motorcycle": images.motorcycle,
        "textures": stills.textures,
        "clips": clips.clips,
        "speech": speech.speech,
        "watch": watch.watch,
        "ucr:": archives.ucr,
        "shapes": shapes,
    }

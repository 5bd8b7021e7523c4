"""The entry point: dataset names and their builders. Importing it imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostics import hookimpl
from diagnostics.hookspecs import Entry
from diagnostics_data import archives, clips, images, series, speech, stills, watch
from diagnostics_data.shapes import shapes


@hookimpl
def datasets() -> Mapping[str, Entry]:
    """Name -> builder; each says in its docstring which options it takes."""
    return {
        "lorenz": Entry(series.lorenz, modalities=("series",), kinds=("value", "state", "future")),
        "pendulum": Entry(series.pendulum, modalities=("series",), kinds=("value", "state")),
        "damped_oscillator": Entry(series.damped_oscillator, modalities=("series",), kinds=("value", "state")),
        "arma": Entry(series.arma, modalities=("series",), kinds=("value",)),
        "changepoint": Entry(series.changepoint, modalities=("series",), kinds=("label", "value", "event")),
        "digits": Entry(images.digits, modalities=("image",), kinds=("label",)),
        "motorcycle": Entry(images.motorcycle, modalities=("image",), kinds=("token_value",)),
        "textures": Entry(stills.textures, modalities=("image",), kinds=("label",)),
        "clips": Entry(clips.clips, modalities=("video",), kinds=("label", "value")),
        "speech": Entry(speech.speech, modalities=("audio",), kinds=("label",)),
        "watch": Entry(watch.watch, modalities=("series",), kinds=("label",)),
        "ucr:": Entry(archives.ucr, modalities=("series",), kinds=("label", "value")),
        "shapes": Entry(
            shapes,
            modalities=("image", "video"),
            kinds=("label", "value", "state", "token_label", "token_value", "masks", "caption"),
        ),
    }

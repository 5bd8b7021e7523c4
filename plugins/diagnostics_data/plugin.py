"""The entry point: dataset names and their builders. Importing it imports neither torch nor numpy."""

from collections.abc import Mapping

from diagnostics.plugin import Entry, hookimpl
from diagnostics_data import images, recordings, series


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
        "textures": Entry(images.textures, modalities=("image",), kinds=("label",)),
        "clips": Entry(recordings.clips, modalities=("video",), kinds=("label", "value")),
        "speech": Entry(recordings.speech, modalities=("audio",), kinds=("label",)),
        "watch": Entry(recordings.watch, modalities=("series",), kinds=("label",)),
        "ucr:": Entry(recordings.ucr, modalities=("series",), kinds=("label", "value")),
        "shapes": Entry(
            images.shapes,
            modalities=("image", "video"),
            kinds=("label", "value", "state", "token_label", "token_value", "masks", "caption"),
        ),
    }

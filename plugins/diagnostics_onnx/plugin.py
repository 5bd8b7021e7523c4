"""The encoders of this plugin; importing it imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

from diagnostics.plugin import Entry, hookimpl, importing

PACKAGES = {"onnxruntime": "onnxruntime"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """`onnx:FILE`, with the options of `build`."""
    return {"onnx:": Entry(build, modalities=("image", "series"))}


def build(
    path: str,
    modality: str | None = None,
    taps: str | None = None,
    mean: str = "0.485,0.456,0.406",
    std: str = "0.229,0.224,0.225",
    length: int | None = None,
) -> Any:
    """An ONNX model with one input as an encoder; its blocks are found by the names that its exporter gave.

    Parameters
    ----------
    path: of the .onnx file.
    modality: image or series; by the rank of the input where it is left out.
    taps: names of tensors to read, with commas and in order of execution, instead of what is found.
    mean, std: of the pixels' normalisation, from 0 to 1, one number or one a channel; before that their middle is
        brought to the model's size.
    length: steps of a series where the model leaves it open.
    """
    # Imported here: listing the encoders must not cost the import of torch.
    with importing("ONNX files need", "pip install onnx onnxruntime"):
        from diagnostics_onnx.encoder import build as build_it

    return build_it(path, modality, taps, mean, std, length)

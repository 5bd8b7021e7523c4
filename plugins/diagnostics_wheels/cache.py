"""Weights in a foreign format, converted once into the user's cache, and image encoders of such weights."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diagnostics_timm.pixels import Middle, example
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import DiagnosticsError, TorchEncoder, discover, explaining, misfits, printable
from diagnostics_wheels.wheels import Wheel

# Weights in a foreign format, converted once into the user's cache and loaded from there.


CONVERSION = 1
"""Stands in the names of converted files: to be raised when a conversion here gives other tensors than before."""


def load(module: nn.Module, wheel: Wheel, convert: Callable[[Path], dict[str, Tensor]]) -> None:
    """Fill the module with the wheel's weights, which `convert` makes from its file unless that was done before.

    What does not fit the module, tensor by tensor, is neither loaded nor kept.
    """
    source = wheel.path()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    version = re.sub(r"[^A-Za-z0-9.]+", "_", wheel.installed)
    kept = (
        user_cache_path("encoder-diagnostics", False)
        / f"{wheel.distribution}-{version}-{digest}-{CONVERSION}.safetensors"
    )
    if kept.is_file():
        fill(module, _read(kept), wheel)
        return
    with explaining(f"{source} cannot be read", f"it is damaged, {wheel.again}", "damaged"):
        tensors = convert(source)
    fill(module, tensors, wheel)
    _write(kept, tensors)
    print(printable(f"{wheel.encoder}: {wheel.about}; converted once into {kept}"), file=sys.stderr)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], wheel: Wheel) -> None:
    """Copy the tensors into the module; raises unless they have its names and shapes, all of them and no others."""
    own = module.state_dict()
    if odd := misfits(own, tensors):
        library = type(module).__module__.partition(".")[0]
        release = getattr(sys.modules.get(library), "__version__", "")
        raise DiagnosticsError(
            f"The weights of {wheel.distribution} {wheel.installed} are not those of a {type(module).__name__} of "
            f"{library} {release} ({odd}): {wheel.distribution} {wheel.version} fits {wheel.library}, {wheel.again}",
            code="other-weights",
        )
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})


def _read(kept: Path) -> dict[str, Tensor]:
    with explaining(
        f"{kept} cannot be read", "delete it, and it is converted again", "damaged", (SafetensorError, OSError)
    ):
        return load_file(kept)


def _write(kept: Path, tensors: Mapping[str, Tensor]) -> None:
    """Beside its place first, so that two processes never see half a file."""
    beside = kept.with_name(f".{kept.name}.{os.getpid()}")
    with explaining(
        f"Converted weights cannot be kept in {kept.parent}",
        "set XDG_CACHE_HOME to a folder that can be written",
        "unwritable",
        (SafetensorError, OSError),
    ):
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, beside)
            os.replace(beside, kept)
        finally:
            beside.unlink(missing_ok=True)


def to_tensors(arrays: Mapping[str, object]) -> dict[str, Tensor]:
    """Numpy arrays, read-only ones too, as float32 tensors."""
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


# Image encoders of wheels: the encoder around weights and architecture.


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
    extents: dict[str, int] = dict(zip("yx", middle.size, strict=True))
    discovered = discover(module, default_collate([middle.pixels(example())]), wheel.encoder, extents, **reading)
    return TorchEncoder(
        wheel.encoder,
        "image",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess=middle.pixels,
        example=example(),
        fresh=untrained,
        configuration=wheel.about,
        covers=middle.covers,
    )

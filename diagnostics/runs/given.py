"""What a caller gives as encoder and dataset: names, the objects, or a bare torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.bare_module import Numbers, wrap
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, enumerated
from diagnostics.specs import build


def encoder_of(
    module: nn.Module,
    dataset: str | Dataset,
    *,
    size: int | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> TorchEncoder:
    """A bare torch module as the encoder of a dataset's samples, with discovered taps.

    `run`, `measure`, `LayerProfiles` and `TapFeatures` take the module itself, with the same `size`, `mean` and `std`. It remains
    the caller's, as with any `TorchEncoder`.

    Parameters
    ----------
    module: takes a batch [sample, channel, y, x] of images, or of series [sample, time], [sample, 1, time], [sample, time, 1],
        [sample, time, variate] or [sample, variate, time]: the first of these on which it runs. In the precision of its weights.
    dataset: whose first sample says what it takes; images or series.
    size: side in pixels of the square to which images are brought: their middle, as wide as it is high, resized with antialiasing.
        Dense targets are cut the same way. By default images stay as they are, and `transform` takes no others than of that size.
    mean, std: of each channel, or one for all. Images of bytes go in as (pixel / 255 - mean) / std, which has to be given;
        other numbers as they are, or as (value - mean) / std.

    Raises
    ------
    DiagnosticsError: where the bytes of images have no mean and std, the module does not run, its taps cannot be discovered, or
        samples of a batch change one another's activations.

    Examples:
        >>> from torch import nn
        >>> import diagnostics as dx
        >>> def block(n, m):
        ...     return nn.Sequential(nn.Conv2d(n, m, 3, stride=2, padding=1), nn.ReLU())
        >>> model = nn.Sequential(block(3, 8), block(8, 16), block(16, 32))  # or yours
        >>> data = dx.build("dataset", "shapes?n=24&size=32")
        >>> encoder = dx.encoder_of(model, data, mean=0.5, std=0.25)
        >>> for tap in encoder.taps:
        ...     print(tap.name, tap.features, tap.grid)
        embed 3 32 x 32 (y, x)
        0 8 16 x 16 (y, x)
        1 16 8 x 8 (y, x)
        2 32 4 x 4 (y, x)
    """
    data = build("dataset", dataset) if isinstance(dataset, str) else dataset
    return wrap(module, data.modality, data[0], size=size, mean=mean, std=std)


def given(
    caller: str,
    encoder: str | Encoder | nn.Module,
    dataset: str | Dataset,
    fed: Mapping[str, Any],
    *,
    trust_code: bool = False,
) -> tuple[Encoder, Dataset]:
    """The encoder and the dataset; `fed` are `size`, `mean` and `std` of a bare module.

    Raises DiagnosticsError for what is neither a name, nor one, nor a torch module.
    """
    model = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    data = build("dataset", dataset) if isinstance(dataset, str) else dataset
    kinds = (model, Encoder | nn.Module, "Encoder, or a torch module"), (data, Dataset, "Dataset")
    for value, kind, wanted in kinds:
        if not isinstance(value, kind):
            raise DiagnosticsError(
                f"{caller} was given a {type(value).__name__}: give a name or a diagnostics.{wanted}."
            )
    if isinstance(model, nn.Module):
        return encoder_of(model, data, **fed), data
    refuse_fed(caller, model, fed)
    return model, data


def refuse_fed(caller: str, encoder: Encoder, fed: Mapping[str, Any]) -> None:
    """Raises where `size`, `mean` or `std` are given beside an encoder, which prepares its samples itself."""
    if told := [name for name, value in fed.items() if value is not None]:
        raise DiagnosticsError(
            f"{caller} was given {enumerated(told)} beside {encoder.name}, which prepares its samples itself: leave "
            f"{'it' if len(told) == 1 else 'them'} out, or give the bare torch module."
        )

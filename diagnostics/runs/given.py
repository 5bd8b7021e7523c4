"""What a caller gives as encoder and dataset: names, the objects, or a bare torch module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.bare_module import wrap
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError
from diagnostics.specs import build


def encoder_of(
    module: nn.Module,
    dataset: str | Dataset,
    *,
    size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> TorchEncoder:
    """A bare torch module as the encoder of a dataset's samples, with discovered taps.

    Where nothing has to be said (numbers go in as they are), `run`, `measure` and `LayerProfiles` take the module itself. It
    remains the caller's, as with any `TorchEncoder`.

    Parameters
    ----------
    module: takes a batch [sample, channel, y, x] of images, or of series [sample, time], [sample, 1, time], [sample, time, 1],
        [sample, time, variate] or [sample, variate, time]: the first of these on which it runs. In the precision of its weights.
    dataset: whose first sample says what it takes; images or series.
    size: side in pixels of the square to which images are resized; by default they stay as they are.
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
    caller: str, encoder: str | Encoder | nn.Module, dataset: str | Dataset, *, trust_code: bool = False
) -> tuple[Encoder, Dataset]:
    """The encoder and the dataset; raises DiagnosticsError for what is neither a name, nor one, nor a torch module."""
    model = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    data = build("dataset", dataset) if isinstance(dataset, str) else dataset
    kinds = (model, Encoder | nn.Module, "Encoder, or a torch module"), (data, Dataset, "Dataset")
    for value, kind, wanted in kinds:
        if not isinstance(value, kind):
            raise DiagnosticsError(
                f"{caller} was given a {type(value).__name__}: give a name or a diagnostics.{wanted}."
            )
    return (encoder_of(model, data) if isinstance(model, nn.Module) else model), data

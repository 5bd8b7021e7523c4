"""What a caller gives as encoder and dataset: names, the objects, or a bare torch module."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from types import NoneType
from typing import Any, TypeAlias

from torch import nn
from torch.utils.data import Dataset as TorchDataset

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.bare_module import Numbers, wrap
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, enumerated
from diagnostics.runs.arrays import Given, from_arrays
from diagnostics.specs import build
from diagnostics.vocabulary import Modality

Data: TypeAlias = Sized | TorchDataset[Any]
"""What is taken for a dataset: a name, a `Dataset`, or what `dataset` takes; (X, y), (X, y, groups) or (X, y, groups, splits) too."""


def encoder(name: str, *, trust_code: bool = False) -> Encoder:
    """The encoder of a name, as on the command line; a bare torch module becomes one by `encoder_of`. See `build`.

    Examples:
        >>> import diagnostics as dx
        >>> dx.encoder("objectives:lorenz-forecast")
        <TorchEncoder lorenz-forecast: series, 9 taps, output norm>
    """
    return build("encoder", name, trust_code=trust_code)


def dataset(
    X: Data, y: Any = None, groups: Any = None, splits: Any = None, modality: Modality | None = None
) -> Dataset:
    """The dataset of a name, or of arrays, a table, or a dataset of torch or Hugging Face; what is not said is inferred.

    `run`, `measure` and `LayerProfiles` take `(X, y)`, `(X, y, groups)` and the rest as they are, and then know the modality from
    the encoder.

    Parameters
    ----------
    X: a name; or samples along the first axis: an array or a tensor, a list of arrays (series of unequal length are `padded`), of
        images of Pillow or of strings; a table (pandas), a sample a row, whose columns are the steps of a series, or one column of
        texts; a torch dataset of samples or of pairs (sample, label); a Hugging Face dataset or `DatasetDict`.
    y: the target, one entry for each sample: strings, booleans and whole numbers that count classes are a `label`, fractions a
        `value` (NaN where it is not known). A mapping or a table of several, by name; a `Target` where that is not enough. Of a
        table or a Hugging Face dataset also the name of a column, or a list of names.
    groups: what each sample shares with others (machine, subject, video), or the column's name; by default each is its own, and
        equal texts are one.
    splits: `train`, `val` or `test` of each, or the column's name. Without val it is carved out of train; without any all three are
        drawn over groups, and the dataset is `exchangeable`. For other draws give `split_groups(groups, seed)`.
    modality: where the values do not tell: bytes are images [y, x] or [y, x, channel], or videos [t, y, x, channel], other numbers
        series [time] or [time, variate]. Channels of colour that come first are moved behind.

    Raises
    ------
    DiagnosticsError: where lengths differ, and for what could be read in two ways.

    Examples:
        >>> import numpy as np
        >>> import diagnostics as dx
        >>> rng = np.random.default_rng(0)
        >>> series, sick = rng.standard_normal((40, 64)), rng.choice(["no", "yes"], 40)
        >>> data = dx.dataset(series, {"sick": sick, "level": series.mean(axis=1)})
        >>> data
        <Dataset arrays: 40 series samples, targets sick, level>
        >>> data.counts(), data.targets["sick"].classes
        ({'train': 24, 'val': 8, 'test': 8}, ('no', 'yes'))
    """
    if not isinstance(X, str | Dataset):
        # A tuple alone is what `run` is given.
        parts = (*X, None, None) if isinstance(X, tuple) and y is None and 2 <= len(X) <= 4 else (X, y, groups, splits)
        return from_arrays(Given(*parts[:4]), modality)
    if any(part is not None for part in (y, groups, splits, modality)):
        raise DiagnosticsError("A name, or a diagnostics.Dataset, has targets and splits of its own: give X alone.")
    return build("dataset", X) if isinstance(X, str) else X


def encoder_of(
    module: nn.Module,
    dataset: Data,
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
    dataset: whose first sample says what it takes, images or series: a name, or what `diagnostics.dataset` takes.
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
    data = _data(dataset)
    return wrap(module, data.modality, data[0], size=size, mean=mean, std=std)


def given(
    caller: str,
    encoder: str | Encoder | nn.Module,
    dataset: Data,
    fed: Mapping[str, Any],
    *,
    trust_code: bool = False,
) -> tuple[Encoder, Dataset]:
    """The encoder and the dataset; `fed` are `size`, `mean` and `std` of a bare module.

    Raises DiagnosticsError for what is neither a name, nor one, nor a torch module, nor samples.
    """
    model = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    if not isinstance(model, Encoder | nn.Module):
        raise DiagnosticsError(
            f"{caller} was given a {type(model).__name__}: give a name or a diagnostics.Encoder, or a torch module."
        )
    if isinstance(dataset, nn.Module | int | float | NoneType):
        raise DiagnosticsError(
            f"{caller} was given a {type(dataset).__name__}: give a name or a diagnostics.Dataset, or arrays as (X, y)."
        )
    data = _data(dataset, model.modality if isinstance(model, Encoder) else None)
    if isinstance(model, nn.Module):
        return encoder_of(model, data, **fed), data
    refuse_fed(caller, model, fed)
    return model, data


def _data(given: Data, modality: Modality | None = None) -> Dataset:
    return dataset(given, modality=None if isinstance(given, str | Dataset) else modality)


def refuse_fed(caller: str, encoder: Encoder, fed: Mapping[str, Any]) -> None:
    """Raises where `size`, `mean` or `std` are given beside an encoder, which prepares its samples itself."""
    if told := [name for name, value in fed.items() if value is not None]:
        raise DiagnosticsError(
            f"{caller} was given {enumerated(told)} beside {encoder.name}, which prepares its samples itself: leave "
            f"{'it' if len(told) == 1 else 'them'} out, or give the bare torch module."
        )

"""Encoder and dataset as a caller gives them: names, objects, bare torch modules, arrays, tables, other datasets."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from types import NoneType
from typing import Any, TypeAlias, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset

from diagnostics.datasets.dataset import Dataset, complete_splits
from diagnostics.datasets.target import LazySamples, Target, pad_series
from diagnostics.encoders.bare_module import Numbers, wrap
from diagnostics.encoders.encoder import AXES, Encoder, channels_first
from diagnostics.encoders.pictures import to_pixels
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, check_known, join_names, refuse_values
from diagnostics.specs import build
from diagnostics.vocabulary import Modality

FEWEST = 5
"""Groups of which train, val and test are drawn."""
CLASSES = 20
"""Different whole numbers up to which they may be classes, where they do not count from 0 or 1."""


@dataclass(frozen=True)
class Given:
    """The arguments of `diagnostics.dataset`, and the ids of the samples where something names them."""

    samples: Any
    y: Any = None
    groups: Any = None
    splits: Any = None
    ids: Any = None


def from_arrays(given: Given, modality: Modality | None = None) -> Dataset:
    """The dataset of what is no name; for errors see `diagnostics.dataset`."""
    check_known("modality", modality, get_args(Modality))
    given = _unpack(given)
    samples, kind, ragged = _samples(given.samples, modality)
    n = len(samples)
    ids = [f"sample-{i:06d}" for i in range(n)] if given.ids is None else [str(each) for each in given.ids]
    # The same words in train and test would be a test of memory.
    alone = [str(text) for text in samples] if kind == "text" else ids
    groups = (
        alone if given.groups is None else [str(group) for group in _entries(given.groups, "groups", n)[0].tolist()]
    )
    named = [None] * n if given.splits is None else _entries(given.splits, "splits", n)[0].tolist()
    if given.splits is None and len(set(groups)) < FEWEST:
        raise DiagnosticsError(
            f"X has {n} samples of {len(set(groups))} groups, of which train, val and test cannot be drawn: "
            f"{'equal texts are one group' if kind == 'text' else 'the first axis of X is its samples'}, give {FEWEST} "
            f"groups or more.",
            code="bad-sample",
        )
    targets = _targets(given.y, n)
    split, how, exchangeable = complete_splits(named, groups, 0, "X", targets)
    return Dataset(
        "arrays",
        kind,
        samples,
        ids,
        split,
        targets,
        groups=groups,
        about=f"{n} {kind} samples given in Python, {how}",
        ragged=ragged,
        exchangeable=exchangeable,
    )


def _unpack(given: Given) -> Given:
    """With columns of tables, and what items of datasets hold, in the place of tables and datasets."""
    X = given.samples
    if isinstance(X, Mapping) and X and all(hasattr(part, "column_names") for part in X.values()):
        import datasets

        splits = [name for name, part in X.items() for _ in range(len(part))]
        return _unpack(replace(given, samples=datasets.concatenate_datasets(list(X.values())), splits=splits))
    if isinstance(X, Mapping) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise DiagnosticsError(
            f"X is a {type(X).__name__}, whose samples have no numbers: give an array, a table, or a dataset with a "
            f"length (of a "
            "DataLoader, loader.dataset), and several targets as y={'a': ..., 'b': ...}.",
            code="bad-type",
        )
    if isinstance(X, TorchDataset):
        return _of_torch(given)
    columns, index = _columns(X), getattr(X, "index", None)
    found, rest = _by_name(given, columns)
    if not columns:
        return found
    for name in ("y", "groups", "splits"):
        other = getattr(getattr(given, name), "index", None)
        if isinstance(index, pd.Index) and isinstance(other, pd.Index) and not index.equals(other):
            raise DiagnosticsError(
                f"Rows of X and {name} have other indexes: align them, {name} = {name}.loc[X.index].", code="bad-data"
            )
    steps = {name: columns[name]() for name in rest}
    pictures = {name: step for name, step in steps.items() if isinstance(step, LazySamples)}
    steps = pictures if len(pictures) == 1 else steps
    if odd := [name for name, step in steps.items() if len(steps) > 1 and np.asarray(step[0]).dtype.kind not in "fiub"]:
        raise DiagnosticsError(
            f"Column {odd[0]} of X holds no numbers, which the {len(rest) - 1} other columns may be, the steps of a "
            f"series: name what is no sample as y=, groups= or splits=, or drop it.",
            code="bad-type",
        )
    named = isinstance(index, pd.Index) and not isinstance(index, pd.RangeIndex) and index.is_unique
    return replace(
        found,
        samples=np.array([*steps.values()]).T if len(steps) != 1 else next(iter(steps.values())),
        ids=index if named else None,
    )


def _columns(X: Any) -> dict[str, Callable[[], Any]]:
    """The columns of a table, or of a dataset of Hugging Face, by what reads them; of an array none."""
    if hasattr(X, "column_names") and hasattr(X, "features"):
        return {name: partial(_hub_column, X, name) for name in X.column_names}
    return {str(name): partial(np.asarray, X[name]) for name in getattr(X, "columns", ())}


def _hub_column(X: Any, name: str) -> Any:
    """Images are read on demand, classes go by their names."""
    part, classes = X.select_columns([name]), getattr(X.features[name], "names", None)
    if type(X.features[name]).__name__ == "Image":
        return LazySamples(len(X), lambda i: _array(part[i][name]))
    entries = list(part[name])
    return entries if classes is None else [None if code in (None, -1) else classes[code] for code in entries]


def _by_name(given: Given, columns: Mapping[str, Callable[[], Any]]) -> tuple[Given, list[str]]:
    """Columns that y (one, or a list of some), groups and splits name, in their place.

    Also the names of the others.
    """
    named = {key: name for key in ("y", "groups", "splits") if isinstance(name := getattr(given, key), str)}
    for name in named.values():
        check_known("column of X", name, columns)
    several = isinstance(given.y, list) and all(isinstance(name, str) and name in columns for name in given.y)
    labels = (
        [name for name, kind in getattr(given.samples, "features", {}).items() if hasattr(kind, "names")]
        if columns
        else []
    )
    targets = [named.pop("y")] if "y" in named else given.y if several else labels if given.y is None else []
    y = {name: columns[name]() for name in targets} or given.y
    found = replace(given, **{"y": y} | {key: columns[name]() for key, name in named.items()})
    return found, [name for name in columns if name not in (*named.values(), *targets)]


def _of_torch(given: Given) -> Given:
    """A torch dataset of samples, or of pairs (sample, label).

    Labels are those it lists, else each item is read once for its own.
    """
    X = given.samples
    n, first = len(X), X[0]
    pairs = isinstance(first, tuple | list)
    samples = LazySamples(n, lambda i: _array(X[i][0] if pairs else X[i]))
    if given.y is not None or not pairs or len(first) < 2:
        return replace(given, samples=samples)
    listed = getattr(X, "targets", None) if getattr(X, "target_transform", None) is None else None
    y = _array(listed) if listed is not None and len(listed) == n else np.asarray([_array(X[i][1]) for i in range(n)])
    classes = np.asarray(getattr(X, "classes", ()), dtype=str)
    counts = y.ndim == 1 and y.dtype.kind in "iu" and 0 <= int(y.min()) <= int(y.max()) < len(classes)
    return replace(given, samples=samples, y=classes[y] if counts else y)


def _array(entry: Any) -> np.ndarray:
    """An array of a tensor, of an image of Pillow, or of what numpy takes."""
    if isinstance(entry, torch.Tensor):
        entry = entry.detach().cpu()
        return (entry.float() if entry.dtype == torch.bfloat16 else entry).numpy()
    if hasattr(entry, "getbands"):  # an image; a memmap has a mode too, and texts are no paths here
        entry = to_pixels(entry, grey=entry.mode == "L")
    return np.asarray(entry)


def _samples(given: Any, modality: Modality | None) -> tuple[Any, Modality, bool]:
    """Samples as `Dataset` takes them, their modality, and whether they are of unequal length."""
    lazy = isinstance(given, LazySamples)
    whole = isinstance(given, torch.Tensor) or (isinstance(given, np.ndarray) and given.dtype.kind != "O")
    rows: Any = given if lazy else _array(given) if whole else [_array(each) for each in given]
    if len(rows) == 0:
        raise DiagnosticsError("X is empty: give samples along its first axis.", code="bad-sample")
    known = (row for row in rows if row.ndim or not pd.isna(row.item())) if isinstance(rows, list) else iter(())
    first = np.asarray(next(known, rows[0]))
    bytes_or_colours = first.ndim > 2 or (first.ndim == 2 and first.dtype == np.uint8)
    of_numbers = "series" if not bytes_or_colours else "image" if first.ndim < 4 else "video"
    kind: Modality = modality or ("text" if first.dtype.kind in "UT" else of_numbers)
    ranks = {axes.count(",") + 1 for axes in AXES[kind]} or {0}
    for i, row in enumerate(rows if isinstance(rows, list) else [first]):
        if kind == "text" and row.ndim == 0 and pd.isna(row.item()):
            continue  # refused with its place, as an empty one is
        if row.ndim not in ranks or row.dtype.kind not in ("UT" if kind == "text" else "biuf"):
            raise DiagnosticsError(
                f"Sample {i} of X is {row.dtype} of shape {list(row.shape)}, and {kind} samples are "
                f"{' or '.join(AXES[kind]) or 'strings'}: give such samples along the first axis of X, or another "
                f"modality=.",
                code="bad-shape",
            )
    if kind in ("image", "video"):
        return LazySamples(len(rows), partial(_pixels, rows, first)), kind, False
    if lazy or kind == "text":
        return list(rows) if kind == "text" else rows, kind, False
    ragged = len({len(row) for row in rows}) > 1
    values = pad_series(rows) if ragged else np.asarray(rows)
    return values if values.dtype.kind == "f" else values.astype(np.float32), kind, ragged


def _pixels(rows: Any, first: np.ndarray, i: int) -> np.ndarray:
    """An image or a video with its channels last, whole numbers from 0 to 255 as bytes; `first` is the first of all."""
    sample = np.moveaxis(rows[i], -3, -1) if channels_first(first) else np.asarray(rows[i])
    if first.dtype.kind not in "iu" or first.min() < 0 or first.max() > 255:
        return sample
    if sample.min() < 0 or sample.max() > 255:
        raise DiagnosticsError(
            f"Sample {i} of X holds {sample.min()} to {sample.max()}, and sample 0 bytes, 0 to 255: give all as "
            f"numpy.uint8, or all as fractions.",
            code="bad-sample",
        )
    return sample.astype(np.uint8)


def _entries(entries: Any, name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One entry for each of n samples, and whether it is missing."""
    array = _array(entries)
    array = array[:, 0] if array.shape[1:] == (1,) else array
    if array.shape != (n,):
        raise DiagnosticsError(
            f"X has {n} samples, and {name} has shape {list(array.shape)}: give one entry for each sample, several "
            f"targets by name, "
            "y={'a': ..., 'b': ...}, and maps or rows of numbers as diagnostics.Target.",
            code="bad-shape",
        )
    missing = np.asarray(pd.isna(array))
    if name in ("groups", "splits") and missing.any():
        raise DiagnosticsError(
            f"{name} is not known for sample {int(missing.argmax())}: name it, or leave the sample out.",
            code="bad-sample",
        )
    return array, missing


def _targets(y: Any, n: int) -> dict[str, Target]:
    """The targets of n samples: one, or several by name."""
    if isinstance(y, Mapping) or hasattr(y, "columns"):
        return {str(name): _target(y[name], f"y[{name!r}]", n) for name in y}
    target = None if y is None else _target(y, "y", n)
    return {} if target is None else {str(getattr(y, "name", None) or target.kind): target}


def _target(entries: Any, name: str, n: int) -> Target:
    """Strings, categories, true and false, and whole numbers that count classes as a `label`.

    Fractions as a `value`; what is missing is unknown, as in tables.
    """
    if isinstance(entries, Target):
        return entries
    array, missing = _entries(entries, name, n)
    known = array[~missing].tolist()
    types = {"bool": (bool, np.bool_), "str": str, "number": Real}
    kinds = {next((kind for kind in types if isinstance(each, types[kind])), type(each).__name__) for each in known}
    if len(kinds) != 1 or not kinds <= {"number", "str", "bool"}:
        what = " and ".join(sorted(kinds)) or "nothing that is known"
        raise DiagnosticsError(f"{name} holds {what}: give names, or numbers, of one type.", code="bad-type")
    floats = any(isinstance(each, float) for each in known)
    if kinds == {"number"} and _fractions(np.array(known, dtype=np.float64), floats, int(missing.sum()), name):
        return Target("value", np.where(missing, np.nan, array).astype(np.float64))
    classes, codes = np.unique(np.array(known), return_inverse=True)
    labels = np.full(n, -1)
    labels[~missing] = codes
    return Target("label", labels, classes=tuple(map(str, classes.tolist())))


def _fractions(known: np.ndarray, floats: bool, gaps: int, name: str) -> bool:
    """True if numbers are a quantity, and else count classes; refuses what may be either."""
    if np.isinf(known).any():
        raise DiagnosticsError(f"{name} is infinite for a sample: give NaN where it is not known.", code="not-finite")
    distinct = np.unique(known)
    count, repeated = len(distinct), 2 * len(distinct) <= len(known)
    if not (distinct == distinct.round()).all() or (floats and not (count <= CLASSES and repeated)):
        return True
    counted = distinct[0] in (0, 1) and count == distinct[-1] - distinct[0] + 1
    counted = counted or (count <= CLASSES and distinct[0] >= 0) or (count == 2 and distinct[0] == -1)
    if floats or not (counted and repeated):
        raise DiagnosticsError(
            f"{name} holds {count} different whole "
            f"numbers{' as floats' * floats}{f' and nothing for {gaps} samples' * bool(gaps)}, which may be classes or "
            f"a quantity: give {name}.astype(int).astype(str) of classes, without samples of none, or "
            f"diagnostics.Target('value', {name}) of a quantity.",
            code="bad-target",
        )
    return False


Data: TypeAlias = Sized | TorchDataset[Any]
"""What is taken for a dataset: a name, a `Dataset`, or what `dataset` takes; (X, y), (X, y, groups) or (X, y, groups,
splits) too.
"""


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
    """The dataset of a name, or of arrays, a table, or a dataset of torch or Hugging Face.

    What is not said is inferred.

    `run`, `measure` and `LayerProfiles` take `(X, y)`, `(X, y, groups)` and the rest as they are, and then know the
    modality from the encoder.

    Parameters
    ----------
    X: a name; or samples along the first axis: an array or a tensor, a list of arrays (series of unequal length are
    `pad_series`), of
        images of Pillow or of strings; a table (pandas), a sample a row, whose columns are the steps of a series, or
        one column of texts; a torch dataset of samples or of pairs (sample, label); a Hugging Face dataset or
        `DatasetDict`.
    y: the target, one entry for each sample: strings, booleans and whole numbers that count classes are a `label`,
    fractions a
        `value` (NaN where it is not known). A mapping or a table of several, by name; a `Target` where that is not
        enough. Of a table or a Hugging Face dataset also the name of a column, or a list of names.
    groups: what each sample shares with others (machine, subject, video), or the column's name; by default each is its
    own, and
        equal texts are one.
    splits: `train`, `val` or `test` of each, or the column's name. Without val it is carved out of train; without any
        all three are drawn over groups so that train shows each class, and the dataset is `exchangeable`. For other
        draws give `split_groups(groups, seed)`.
    modality: where the values do not tell: bytes are images [y, x] or [y, x, channel], or videos [t, y, x, channel],
    other numbers
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
        raise DiagnosticsError(
            "A name, or a diagnostics.Dataset, has targets and splits of its own: give X alone.", code="bad-target"
        )
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

    `run`, `measure`, `LayerProfiles` and `TapFeatures` take the module itself, with the same `size`, `mean` and `std`.
    It remains the caller's, as with any `TorchEncoder`.

    Parameters
    ----------
    module: takes a batch [sample, channel, y, x] of images, or of series [sample, time], [sample, 1, time], [sample,
    time, 1],
        [sample, time, variate] or [sample, variate, time]: the first of these on which it runs. In the precision of its
        weights.
    dataset: whose first sample says what it takes, images or series: a name, or what `diagnostics.dataset` takes.
    size: side in pixels of the square to which images are brought: their middle, as wide as it is high, resized with
    antialiasing.
        Dense targets are cut the same way. By default images stay as they are, and `transform` takes no others than of
        that size.
    mean, std: of each channel, or one for all. Images of bytes go in as (pixel / 255 - mean) / std, which has to be
    given;
        other numbers as they are, or as (value - mean) / std.

    Raises
    ------
    DiagnosticsError: where the bytes of images have no mean and std, or 16-bit images those of fractions, the module
        does not run, its taps cannot be discovered, or samples of a batch change one another's activations.

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


def resolve_inputs(
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
    refuse_values(
        (
            not isinstance(model, Encoder | nn.Module),
            f"{caller} was given a {type(model).__name__}: give a name or a diagnostics.Encoder, or a torch module.",
            "bad-type",
        ),
        (
            isinstance(dataset, nn.Module | int | float | NoneType),
            f"{caller} was given a {type(dataset).__name__}: give a name or a diagnostics.Dataset, or arrays as "
            f"(X, y).",
            "bad-type",
        ),
    )
    data = _data(dataset, model.modality if isinstance(model, Encoder) else None)
    if isinstance(model, nn.Module):
        return encoder_of(model, data, **fed), data
    refuse_fed(caller, model, fed)
    return model, data


def _data(given: Data, modality: Modality | None = None) -> Dataset:
    return dataset(given, modality=None if isinstance(given, str | Dataset) else modality)


def refuse_fed(caller: str, encoder: Encoder, fed: Mapping[str, Any]) -> None:
    """Raise where `size`, `mean` or `std` are given beside an encoder, which prepares its samples itself."""
    if told := [name for name, value in fed.items() if value is not None]:
        raise DiagnosticsError(
            f"{caller} was given {join_names(told)} beside {encoder.name}, which prepares its samples itself: leave "
            f"{'it' if len(told) == 1 else 'them'} out, or give the bare torch module.",
            code="no-effect",
        )

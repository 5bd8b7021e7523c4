"""Arrays, tables, and datasets of torch and Hugging Face as a `Dataset`: ids, splits, kinds and class names are inferred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset as TorchDataset

from diagnostics.datasets.dataset import Dataset, complete_splits, padded
from diagnostics.datasets.target import LazySamples, Target
from diagnostics.encoders.encoder import AXES, channels_first
from diagnostics.encoders.pictures import upright
from diagnostics.errors import DiagnosticsError, unknown
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
    if modality is not None and modality not in get_args(Modality):
        raise unknown("modality", str(modality), get_args(Modality))
    given = _unpacked(given)
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
            f"X has {n} samples of {len(set(groups))} groups, of which train, val and test cannot be drawn: the first axis of X is "
            f"its samples, give {FEWEST} groups or more."
        )
    split, how, exchangeable = complete_splits(named, groups, 0, "X")
    about = f"{n} {kind} samples given in Python, {how}"
    return Dataset(
        "arrays", kind, samples, ids, split, _targets(given.y, n), groups=groups, about=about, ragged=ragged, exchangeable=exchangeable,
    )  # fmt: skip


def _unpacked(given: Given) -> Given:
    """With columns of tables, and what items of datasets hold, in the place of tables and datasets."""
    X = given.samples
    if isinstance(X, Mapping) and X and all(hasattr(part, "column_names") for part in X.values()):
        import datasets

        splits = [name for name, part in X.items() for _ in range(len(part))]
        return _unpacked(replace(given, samples=datasets.concatenate_datasets(list(X.values())), splits=splits))
    if isinstance(X, Mapping) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise DiagnosticsError(
            f"X is a {type(X).__name__}, whose samples have no numbers: give an array, a table, or a dataset with a length (of a "
            "DataLoader, loader.dataset), and several targets as y={'a': ..., 'b': ...}."
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
                f"Rows of X and {name} have other indexes: align them, {name} = {name}.loc[X.index]."
            )
    steps = {name: columns[name]() for name in rest}
    pictures = {name: step for name, step in steps.items() if isinstance(step, LazySamples)}
    steps = pictures if len(pictures) == 1 else steps
    if odd := [name for name, step in steps.items() if len(steps) > 1 and np.asarray(step[0]).dtype.kind not in "fiub"]:
        raise DiagnosticsError(
            f"Column {odd[0]} of X holds no numbers, which the {len(rest) - 1} other columns may be, the steps of a series: name what is no "
            "sample as y=, groups= or splits=, or drop it."
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
    """With the columns that y (one, or a list of some), groups and splits name in their place, and the names of the others."""
    named = {key: name for key in ("y", "groups", "splits") if isinstance(name := getattr(given, key), str)}
    for name in named.values():
        if name not in columns:
            raise unknown("column of X", name, columns)
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
    """A torch dataset of samples, or of pairs (sample, label); labels are those it lists, else each item is read once for its own."""
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
    if hasattr(entry, "getbands"):
        entry = upright(entry)
    mode = getattr(entry, "mode", "")
    # Palettes hold numbers of colours.
    return np.asarray(entry.convert("RGB") if isinstance(mode, str) and mode not in ("", "RGB", "L") else entry)


def _samples(given: Any, modality: Modality | None) -> tuple[Any, Modality, bool]:
    """Samples as `Dataset` takes them, their modality, and whether they are of unequal length."""
    lazy = isinstance(given, LazySamples)
    whole = isinstance(given, torch.Tensor) or (isinstance(given, np.ndarray) and given.dtype.kind != "O")
    rows: Any = given if lazy else _array(given) if whole else [_array(each) for each in given]
    if len(rows) == 0:
        raise DiagnosticsError("X is empty: give samples along its first axis.")
    first = np.asarray(rows[0])
    bytes_or_colours = first.ndim > 2 or (first.ndim == 2 and first.dtype == np.uint8)
    of_numbers = "series" if not bytes_or_colours else "image" if first.ndim < 4 else "video"
    kind: Modality = modality or ("text" if first.dtype.kind in "UT" else of_numbers)
    ranks = {axes.count(",") + 1 for axes in AXES[kind]} or {0}
    for i, row in enumerate(rows if isinstance(rows, list) else [first]):
        if row.ndim not in ranks or row.dtype.kind not in ("UT" if kind == "text" else "biuf"):
            raise DiagnosticsError(
                f"Sample {i} of X is {row.dtype} of shape {list(row.shape)}, and {kind} samples are {' or '.join(AXES[kind]) or 'strings'}: "
                "give such samples along the first axis of X, or another modality=."
            )
    if kind in ("image", "video"):
        return LazySamples(len(rows), partial(_pixels, rows, first)), kind, False
    if lazy or kind == "text":
        return rows, kind, False
    ragged = len({len(row) for row in rows}) > 1
    values = padded(rows) if ragged else np.asarray(rows)
    return values if values.dtype.kind == "f" else values.astype(np.float32), kind, ragged


def _pixels(rows: Any, first: np.ndarray, i: int) -> np.ndarray:
    """An image or a video with its channels last, whole numbers from 0 to 255 as bytes; `first` is the first of all."""
    sample = np.moveaxis(rows[i], -3, -1) if channels_first(first) else np.asarray(rows[i])
    if first.dtype.kind not in "iu" or first.min() < 0 or first.max() > 255:
        return sample
    if sample.min() < 0 or sample.max() > 255:
        raise DiagnosticsError(
            f"Sample {i} of X holds {sample.min()} to {sample.max()}, and sample 0 bytes, 0 to 255: give all as numpy.uint8, or all as fractions."
        )
    return sample.astype(np.uint8)


def _entries(entries: Any, name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One entry for each of n samples, and whether it is missing."""
    array = _array(entries)
    array = array[:, 0] if array.shape[1:] == (1,) else array
    if array.shape != (n,):
        raise DiagnosticsError(
            f"X has {n} samples, and {name} has shape {list(array.shape)}: give one entry for each sample, several targets by name, "
            "y={'a': ..., 'b': ...}, and maps or rows of numbers as diagnostics.Target."
        )
    missing = np.asarray(pd.isna(array))
    if name in ("groups", "splits") and missing.any():
        raise DiagnosticsError(
            f"{name} is not known for sample {int(missing.argmax())}: name it, or leave the sample out."
        )
    return array, missing


def _targets(y: Any, n: int) -> dict[str, Target]:
    """The targets of n samples: one, or several by name."""
    if isinstance(y, Mapping) or hasattr(y, "columns"):
        return {str(name): _target(y[name], f"y[{name!r}]", n) for name in y}
    target = None if y is None else _target(y, "y", n)
    return {} if target is None else {str(getattr(y, "name", None) or target.kind): target}


def _target(entries: Any, name: str, n: int) -> Target:
    """Strings, categories, true and false, and whole numbers that count classes as a `label`; fractions as a `value`; what
    is missing is unknown, as in tables."""
    if isinstance(entries, Target):
        return entries
    array, missing = _entries(entries, name, n)
    known = array[~missing].tolist()
    types = {"bool": (bool, np.bool_), "str": str, "number": Real}
    kinds = {next((kind for kind in types if isinstance(each, types[kind])), type(each).__name__) for each in known}
    if len(kinds) != 1 or not kinds <= {"number", "str", "bool"}:
        what = " and ".join(sorted(kinds)) or "nothing that is known"
        raise DiagnosticsError(f"{name} holds {what}: give names, or numbers, of one type.")
    floats = any(isinstance(each, float) for each in known)
    if kinds == {"number"} and _fractions(np.array(known, dtype=np.float64), floats, int(missing.sum()), name):
        return Target("value", np.where(missing, np.nan, array).astype(np.float64))
    classes, codes = np.unique(np.array(known), return_inverse=True)
    labels = np.full(n, -1)
    labels[~missing] = codes
    return Target("label", labels, classes=tuple(map(str, classes.tolist())))


def _fractions(known: np.ndarray, floats: bool, gaps: int, name: str) -> bool:
    """Whether numbers are a quantity, and else count classes; refuses what may be either."""
    if np.isinf(known).any():
        raise DiagnosticsError(f"{name} is infinite for a sample: give NaN where it is not known.")
    distinct = np.unique(known)
    count, repeated = len(distinct), 2 * len(distinct) <= len(known)
    if not (distinct == distinct.round()).all() or (floats and not (count <= CLASSES and repeated)):
        return True
    counted = distinct[0] in (0, 1) and count == distinct[-1] - distinct[0] + 1
    counted = counted or (count <= CLASSES and distinct[0] >= 0) or (count == 2 and distinct[0] == -1)
    if floats or not (counted and repeated):
        raise DiagnosticsError(
            f"{name} holds {count} different whole numbers{' as floats' * floats}{f' and nothing for {gaps} samples' * bool(gaps)}, which may "
            f"be classes or a quantity: give {name}.astype(int).astype(str) of classes, without samples of none, or "
            f"diagnostics.Target('value', {name}) of a quantity."
        )
    return False

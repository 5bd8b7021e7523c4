"""Splits as they are given, completed where only some are there, and drawn over groups where there is none."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from diagnostics.datasets.dataset import split_groups
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import SPLIT_OF, SPLITS

VAL_SHARE = 0.2
"""Of the groups of train, where val is carved out of it."""


def complete_splits(
    given: Sequence[object], groups: Sequence[str], seed: int, name: str
) -> tuple[list[str], str, bool | Literal["fit"]]:
    """The split of each sample of the data called `name`, how it came about in words, and `exchangeable` as `Dataset` takes it.

    `given` holds names like `train`, `val`, `test`, or None or `""` for no split. With three splits they stay. With train and one other, that
    other is test, since what is reported must not have chosen anything, and a fifth of the groups of train becomes val.
    With one or none, all three are drawn over groups. Raises DiagnosticsError where that cannot be done.

    Examples:
        >>> import diagnostics as dx
        >>> series = [f"series-{i}" for i in range(6)]
        >>> given = ["train"] * 4 + ["test"] * 2
        >>> split, how, exchangeable = dx.complete_splits(given, series, 0, "mine")
        >>> split, exchangeable
        (['train', 'train', 'val', 'train', 'test', 'test'], 'fit')
        >>> how
        'test is the given test, val a fifth of train'
    """
    if seed < 0:
        raise DiagnosticsError(f"Dataset {name} cannot have seed={seed}: give 0 or more.")
    parts = [
        SPLIT_OF.get(text, text) for entry in given for text in ["" if entry is None else str(entry).strip().lower()]
    ]
    names = set(parts)
    if odd := names - {*SPLITS, ""}:
        raise DiagnosticsError(f"{name} has a split named {min(odd)}: name splits train, val and test.")
    if "" in names and len(names) > 1:
        raise DiagnosticsError(f"Some samples of {name} have a split and others have none: give one to all or to none.")
    if len(names) == 3:
        return parts, "splits as given", False
    if len(names) == 1:
        return [str(split) for split in split_groups(groups, seed)], "splits drawn over groups", True
    if "train" not in names:
        raise DiagnosticsError(f"{name} has {' and '.join(sorted(names))} and no train samples: add a train split.")
    (other,) = names - {"train"}
    mine = sorted({group for group, split in zip(groups, parts, strict=True) if split == "train"})
    if len(mine) < 2:
        raise DiagnosticsError(
            f"The train split of {name} is one group, so no val can be carved out: add samples to it."
        )
    order = np.random.default_rng(seed).permutation(len(mine))
    count = min(len(mine) - 1, max(1, round(VAL_SHARE * len(mine))))
    val = {mine[i] for i in order[:count]}
    splits = [
        "test" if split == other else "val" if group in val else "train"
        for group, split in zip(groups, parts, strict=True)
    ]
    return splits, f"test is the given {other}, val a fifth of train", "fit"

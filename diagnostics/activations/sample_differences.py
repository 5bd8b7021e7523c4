"""In what two sets of samples differ, in words, as far as what is stored of them tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.vocabulary import DENSE


@dataclass(frozen=True)
class SampleFacts:
    """Of each sample its id, split and group, and its values of those targets that have some of the sample as a whole."""

    ids: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    targets: Mapping[str, np.ndarray | None]

    @classmethod
    def of(cls, data: Dataset | Store) -> Self:
        targets = data.targets() if isinstance(data, Store) else data.targets
        # Dense ones are stored as each encoder's grid sees them.
        whole = {name: None if each.kind in (*DENSE, "masks") else each.values for name, each in targets.items()}
        ids = np.array([str(name) for name in data.ids])
        order = np.argsort(ids, kind="stable")
        return cls(
            ids[order], _texts(data.split)[order], _texts(data.groups)[order],
            {name: None if values is None else np.asarray(values)[order] for name, values in whole.items()},
        )  # fmt: skip


def differences(
    first: SampleFacts, second: SampleFacts, words: tuple[str, str] = ("in one", "in the other")
) -> Iterator[str]:
    """What differs, the most telling first; `words` say where the first's and the second's are."""
    ids = set(first.ids), set(second.ids)
    if missing := ids[0] ^ ids[1]:
        yield f"{len(missing)} of {len(ids[0] | ids[1])} samples are in one only, for example {min(missing)}"
        return
    for name, mine, theirs in (("splits", first.split, second.split), ("groups", first.groups, second.groups)):
        if (rows := np.flatnonzero(mine != theirs)).size:
            row = rows[0]
            yield (
                f"the {name} differ in {rows.size} samples ({first.ids[row]} is {mine[row]} {words[0]}, {theirs[row]} {words[1]})"
            )
    if lacking := sorted(set(first.targets) ^ set(second.targets)):
        yield f"only one of them has the target {lacking[0]}"
    for name in sorted(set(first.targets) & set(second.targets)):
        mine, theirs = first.targets[name], second.targets[name]
        if mine is not None and theirs is not None:
            yield from _other_values(name, first.ids, mine, theirs)


def _other_values(name: str, ids: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    if mine.shape != theirs.shape:
        yield f"the values of the target {name} differ in their shape"
        return
    same = (mine == theirs) | ((mine != mine) & (theirs != theirs))
    rows = np.flatnonzero(~same.reshape(len(ids), -1).all(axis=1))
    if rows.size:
        yield f"the values of the target {name} differ in {rows.size} samples, for example {ids[rows[0]]}"


def _texts(values: Sequence[str] | np.ndarray) -> np.ndarray:
    return np.array([str(value) for value in values])

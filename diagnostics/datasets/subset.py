"""A subset of a dataset in which splits keep their shares, and train shows every class."""

from __future__ import annotations

import dataclasses

import numpy as np

from diagnostics.datasets.dataset import Dataset
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import SPLITS


def subset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """A random subset of a dataset, in the dataset's order; the dataset itself where it holds no more samples than that.

    Splits keep their shares, at least one sample each. Of train, samples that show a class of a `label` target for the first
    time are taken before others, since a class that train lacks cannot be probed. Groups may be taken in part.

    Raises DiagnosticsError for fewer than 3 samples.
    """
    if samples < len(SPLITS):
        raise DiagnosticsError(f"{samples} sample(s) cannot fill train, val and test: give at least 3.")
    if samples >= len(dataset):
        return dataset
    rng = np.random.default_rng([seed, len(dataset), samples])
    chosen: list[np.ndarray] = []
    for split, count in _shares(dataset, samples).items():
        rows = rng.permutation(np.flatnonzero(dataset.split == split))
        chosen.append((_classes_first(dataset, rows) if split == "train" else rows)[:count])
    rows = np.sort(np.concatenate(chosen))
    targets = {
        name: dataclasses.replace(
            target, values=target.values[rows], naive=None if target.naive is None else np.asarray(target.naive)[rows]
        )
        for name, target in dataset.targets.items()
    }
    return Dataset(
        dataset.name, dataset.modality, dataset[rows], [dataset.ids[i] for i in rows], dataset.split[rows].tolist(),
        targets, groups=dataset.groups[rows].tolist(), about=dataset.about, rate=dataset.rate, ragged=dataset.ragged,
        texts=[dataset.texts[i] for i in rows if dataset.texts],
        questions=[dataset.questions[i] for i in rows if dataset.questions],
        extras=dataset.extras, exchangeable=dataset.exchangeable,
    )  # fmt: skip


def _shares(dataset: Dataset, samples: int) -> dict[str, int]:
    """How many samples of each split, by largest remainder."""
    exact = {split: samples * count / len(dataset) for split, count in dataset.counts().items()}
    counts = {split: max(1, int(share)) for split, share in exact.items()}
    while sum(counts.values()) != samples:
        step = 1 if sum(counts.values()) < samples else -1
        able = [split for split, count in counts.items() if count + step > 0]
        most = max(able, key=lambda split: step * (exact[split] - counts[split]))
        counts[most] += step
    return counts


def _classes_first(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """The rows with those in front that show a class first; the order is kept otherwise."""
    first = np.zeros(len(rows), dtype=bool)
    for target in dataset.targets.values():
        if target.kind == "label":
            values = target.values[rows]
            _, places = np.unique(values, return_index=True)
            first[places[values[places] >= 0]] = True
    return np.concatenate([rows[first], rows[~first]])

"""Targets read as their logarithm: the option `log` of every dataset."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.samples import LazySamples
from diagnostics.datasets.target import Target, one_by_one
from diagnostics.errors import DiagnosticsError, unknown

NUMBERS = ("value", "state", "future", "token_value")


def with_logarithms(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with `log_NAME`, the natural logarithm, in place of each named target.

    Raises DiagnosticsError for a target that the dataset lacks, whose values are no plain numbers, or are not all above 0.
    """
    for name in names:
        if name not in dataset.targets:
            raise unknown(f"target of {dataset.name}", name, dataset.targets)
        if f"log_{name}" in dataset.targets:
            raise DiagnosticsError(f"Dataset {dataset.name} has a target log_{name} already: leave out log={name}.")
    logged = copy.copy(dataset)
    logged.targets = {
        f"log_{name}" if name in names else name: _logarithm(name, dataset) if name in names else target
        for name, target in dataset.targets.items()
    }
    if dataset._fingerprint is not None:  # pyright: ignore[reportPrivateUsage]
        digest = hashlib.sha256(f"{dataset.fingerprint} log {sorted(names)}".encode())
        logged._fingerprint = digest.hexdigest()  # pyright: ignore[reportPrivateUsage]
    return logged


def _logarithm(name: str, dataset: Dataset) -> Target:
    target = dataset.targets[name]
    if target.kind not in NUMBERS or target.period is not None:
        what = f"of kind {target.kind}" if target.period is None else f"periodic ({target.period:g})"
        raise DiagnosticsError(f"Target {name} of {dataset.name} is {what}: leave out log={name}, which takes numbers.")

    def log(values: Any) -> np.ndarray:
        array = np.asarray(values)
        if (array <= 0).any():
            raise DiagnosticsError(
                f"Target {name} of {dataset.name} has values down to {np.nanmin(array):g}, but log={name} needs values "
                "above 0: leave it out, or mark those values as unknown."
            )
        return np.log(array)

    maps = LazySamples(len(target.values), lambda i: log(target.values[i]))
    return dataclasses.replace(
        target, values=one_by_one(maps) if target.values.dtype == object else log(target.values),
        naive=None if target.naive is None else log(target.naive),
        units=f"log {target.units}".rstrip(), about=f"natural logarithm of {target.about or name}",
    )  # fmt: skip

"""The permutation null of similarities: whole groups of samples are permuted, and the best pair recorded."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.result import NO_NULL, NULL, PERMUTATIONS, TAU

NULL_DRAWS = 99
"""Permutations of the null where a measure does not ask for another number."""
ALPHA = 0.05
"""The share of permutations whose most alike pair passes `tau`."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Swaps:
    """Which samples may take each other's places: groups (videos, series, subjects) swap as wholes, so only with groups
    of their own size.

    `classes`: for each set of groups that may swap, their rows, int64 [group, member]. `swapped` names them in words, `never`
    says why none may ("": some may).
    """

    classes: tuple[np.ndarray, ...]
    swapped: str = "the samples"
    never: str = ""

    @property
    def rows(self) -> int:
        """All samples."""
        return sum(rows.size for rows in self.classes)

    @property
    def few(self) -> str:
        """Why there are too few permutations for a test ("" where there are enough)."""
        if self.never:
            return self.never
        if math.prod(math.factorial(min(len(rows), 20)) for rows in self.classes) >= round(1 / ALPHA):
            return ""
        count = sum(map(len, self.classes))
        return f"{count} groups of which only those of one size can be swapped leave too few permutations"

    def words(self, count: int) -> str:
        """What is permuted, as results state it."""
        if self.never:
            return f"none: {self.never}"
        fixed = sum(rows.size for rows in self.classes if len(rows) == 1)
        alone = f", {fixed} of {self.rows} samples have no group to swap with" if fixed else ""
        return f"{count} permutations of {self.swapped}{alone}; the most alike of all pairs of taps"


@dataclass(frozen=True)
class Null:
    """The most alike pair's value in each permutation [permutation], what was permuted, and why there is none."""

    extreme: np.ndarray
    words: str
    missing: str


def swaps(groups: np.ndarray) -> Swaps:
    """The samples that may be swapped, from the group of each [sample]."""
    unique, inverse, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    by_group = np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])
    classes = [np.stack([by_group[i] for i in np.flatnonzero(sizes == size)]) for size in np.unique(sizes)]
    return Swaps(tuple(classes), "the samples" if len(unique) == len(groups) else "whole groups of equal size")


def orders(classes: Swaps, count: int, seed: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """`count` random permutations int64 [sample] on a device."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        order = np.arange(classes.rows)
        for rows in classes.classes:
            order[rows] = rows[rng.permutation(len(rows))]
        yield torch.from_numpy(order).to(device)


def against_null(matrix: np.ndarray, null: Null, distance: bool) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """p = (1 + permutations at least as alike) / (1 + permutations) and the calibrated value of each pair [tap, tap_other],
    and the attributes that describe the null; a pair passes `tau` where p is at most .05."""
    stated: dict[str, Any] = {NULL: null.words, PERMUTATIONS: len(null.extreme)}
    nothing = np.full(matrix.shape, np.nan)
    drawn = null.extreme[np.isfinite(null.extreme)]
    if null.missing or not len(drawn):
        return nothing, nothing.copy(), {**stated, NO_NULL: null.missing or "no pair has a value"}
    # Turned so that larger is more alike.
    sign = -1.0 if distance else 1.0
    ordered = np.sort(sign * drawn)
    tau = float(sign * ordered[min(len(drawn), math.ceil((1 - ALPHA) * (len(drawn) + 1))) - 1])
    # Permutations may be drawn in single precision, and one that moves nothing must count.
    slack = _ROUNDING * np.maximum(1.0, np.abs(matrix))
    reached = len(drawn) - np.searchsorted(ordered, sign * matrix - slack, side="left")
    p = np.where(np.isfinite(matrix), (1 + reached) / (1 + len(drawn)), np.nan)
    calibrated = (matrix - tau) / (1 - tau) if tau < 1 else nothing.copy()
    return p, calibrated, {**stated, TAU: tau}

"""Sets of taps: the greedy choice, and how a set is cut to fewer features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.base import rotation

MOST = 4
"""Taps of a set, but for that of all."""
LEAST_WIDTH = 16
"""Components of a tap that a greedy choice reads at least."""
NARROW = "narrow"
"""Ends the name of a set that is cut to as many features as one tap has."""


class TapsTogether(NamedTuple):
    """Taps side by side, and how many features are read of them."""

    taps: Sequence[str]
    width: int


def choose_greedily(names: Sequence[str], first: str, score: Callable[[Sequence[str]], float]) -> list[str]:
    """The first tap and those that add most to it, one after the other, in order; of 2 to `MOST` taps the best."""
    taps, best = [first], (-np.inf, [first])
    while len(taps) < min(MOST, len(names)):
        left = [name for name in names if name not in taps]
        each = [score([*taps, name]) for name in left]
        taps = [*taps, left[int(np.argmax(each))]]
        best = max(best, (max(each), taps))
    return sorted(best[1], key=list(names).index)


def width_of_greedy(features: int) -> int:
    """Components of a tap that a greedy choice reads, so that a set is about as wide as one tap."""
    return max(LEAST_WIDTH, features // MOST)


def leading(values: Tensor, axes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """At most so many of the largest: roots of eigenvalues [k], their axes [feature, k], and a rotation of these.

    Components are turned by it so that all vary alike: probes standardise what they read, which would make as much of
    the last component as of the first.
    """
    kept = values[-count:] > 0
    return values[-count:][kept].sqrt(), axes[:, -count:][:, kept], torch.from_numpy(rotation(int(kept.sum()), 0))

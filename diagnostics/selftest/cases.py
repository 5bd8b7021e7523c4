"""One known answer: what is computed, what must come out, and who says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """A closed form or a published constant.

    `found` computes the value on this machine. `tolerance` is absolute: rounding for closed forms, several standard
    errors where `what` says that the value is a mean over random draws.
    """

    measure: str
    what: str
    expected: float
    source: str
    found: Callable[[], float]
    tolerance: float = 1e-6


def centred_axes(n: int, count: int) -> np.ndarray:
    """[n, count], orthonormal columns of mean 0: cosines of a discrete cosine transform."""
    t = np.arange(n) + 0.5
    return np.stack([np.sqrt(2 / n) * np.cos(np.pi * k * t / n) for k in range(1, count + 1)], axis=1)


def rotation(size: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix [size, size]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def normal(*shape: int, seed: int) -> np.ndarray:
    """Draws from N(0, 1)."""
    return np.random.default_rng(seed).standard_normal(shape)

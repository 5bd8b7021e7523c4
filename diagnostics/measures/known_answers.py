"""Known answers of measures: computation, expected value and source, and inputs shared by many cases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.activations.contract import Activations
from diagnostics.encoders.taps import Grid, Tap


@dataclass(frozen=True)
class Case:
    """A closed form or a published constant, and the computation of it. `tolerance` is absolute: rounding for closed forms,
    several standard errors where `what` says that the value is a mean over random draws. `measure` is that in whose class it stands
    unless it says otherwise."""

    what: str
    expected: float
    source: str
    compute: Callable[[], float]
    tolerance: float = 1e-6
    measure: str = ""


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


def column(*values: float) -> np.ndarray:
    """Samples of one feature, [n, 1]."""
    return np.array(values, dtype=np.float64)[:, None]


def sixty_samples() -> np.ndarray:
    """[60, 8], draws that are compared with a changed copy of themselves."""
    return normal(60, 8, seed=3)


def shared_axes() -> tuple[np.ndarray, np.ndarray]:
    """Two sides [8, 3] whose kernels have the same eigenvectors, with eigenvalues (3, 2, 1) and (1, 2, 3)."""
    axes = centred_axes(8, 3)
    return axes * np.sqrt([3.0, 2.0, 1.0]), axes * np.sqrt([1.0, 2.0, 3.0])


def overlapping_columns() -> tuple[np.ndarray, np.ndarray]:
    """Two sides [24, 6] of orthonormal columns, of which they share 2."""
    axes = centred_axes(24, 10)
    return axes[:, :6], axes[:, 4:10]


def circle(m: int) -> np.ndarray:
    """[m, 2], evenly spaced points of the unit circle, in order."""
    angle = 2 * np.pi * np.arange(m) / m
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Arrays(Activations):
    """Pooled values tap -> [sample, feature], as a run would hold them: no tokens, each sample its own group."""

    poolings = ("mean",)
    token_samples = 0

    def __init__(self, taps: Mapping[str, np.ndarray], split: Sequence[str]) -> None:
        self.values = {name: np.asarray(values, dtype=np.float64) for name, values in taps.items()}
        depths = np.linspace(0, 1, len(taps))
        self.taps = [
            Tap(name, float(depth), "trunk", values.shape[1], Grid((1,), ("t",)))
            for (name, values), depth in zip(self.values.items(), depths, strict=True)
        ]
        self.output_tap = self.taps[-1].name
        self.split = np.array(split, dtype=object)
        self.ids = self.groups = np.array([f"s{i:04}" for i in range(len(self.split))], dtype=object)

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        return self.values[tap]

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        return iter(())

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        return iter(())

    def observed(self, name: str) -> Mapping[str, np.ndarray]:
        return {}

"""What every measure does with arrays before it computes: check, centre, and lay results out over taps."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations import Activations
from diagnostics.errors import DiagnosticsError


@contextmanager
def one_thread() -> Generator[None]:
    """Linear algebra on one thread while this lasts; also a decorator.

    Measures make many small products. There threads gain nothing, and on a busy machine their waiting for one another
    costs up to 50 times the CPU time.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def matrix(x: Any, name: str, least: int = 1) -> np.ndarray:
    """`x` as float64 [sample, feature] with at least `least` samples and only finite values, or a DiagnosticsError."""
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise DiagnosticsError(
            f"{name} has shape {array.shape}: give one row a sample and at least one feature, as [sample, feature]."
        )
    if len(array) < least:
        raise DiagnosticsError(f"{name} has shape {array.shape}: give at least {least} samples.")
    if not np.isfinite(array).all():
        raise DiagnosticsError(f"{name} of shape {array.shape} holds NaN or infinity: leave those samples out.")
    return array


def centred(x: np.ndarray) -> np.ndarray:
    """A copy of float64 [sample, feature] with every column's mean removed.

    The first row goes first: a constant column then is exactly 0 (its mean, summed, need not be its value), and a large
    common offset leaves before anything is added up.
    """
    out = x - x[:1]
    out -= out.mean(axis=0)
    return out


def over_taps(
    activations: Activations,
    variables: Mapping[str, Any],
    attrs: Mapping[str, Any],
    coords: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Results over the taps, with each tap's depth beside its name."""
    return xr.Dataset(
        dict(variables),
        coords={
            "tap": [tap.name for tap in activations.taps],
            "depth": ("tap", [float(tap.depth) for tap in activations.taps]),
            **(coords or {}),
        },
        attrs=dict(attrs),
    )

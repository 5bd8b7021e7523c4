"""The measures that come with the package, one module an idea; nothing is loaded before it is used.

Plain functions on arrays, usable without a run, live in the same modules: `similarity`, `geometry`, `locality`,
`probes`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from diagnostics.hookspecs import hookimpl

if TYPE_CHECKING:
    from diagnostics.measures.base import Measure

_HOME = {
    "linear_probe": ("probes.linear", "LinearProbe"),
    "knn_probe": ("probes.knn", "KnnProbe"),
    "cka": ("similarity.kernels", "Cka"),
    "rankme": ("geometry.spectrum", "RankMe"),
    "participation_ratio": ("geometry.spectrum", "ParticipationRatio"),
    "self_similarity": ("locality.cosines", "SelfSimilarity"),
}


def bundled() -> dict[str, type[Measure]]:
    """Name -> class of every bundled measure, all loaded."""
    return {name: _load(name) for name in _HOME}


@hookimpl
def measures() -> dict[str, Callable[[], Measure]]:
    """Name -> function that makes the measure, loading its module only then."""
    return {name: functools.partial(_make, name) for name in _HOME}


def _load(name: str) -> type[Measure]:
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f"diagnostics.measures.{module}"), attribute)


def _make(name: str) -> Measure:
    return _load(name)()

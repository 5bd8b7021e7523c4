"""Which layer of an encoder holds what, how sure is that, and what does its output hide?

Everything public is on this page; it is loaded when first used, so that importing `diagnostics` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diagnostics.errors import DiagnosticsError

if TYPE_CHECKING:
    from diagnostics.datasets.dataset import Dataset, padded, split_groups
    from diagnostics.datasets.target import Target
    from diagnostics.encoders.discovery import discover
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.encoders.files import save_encoder
    from diagnostics.encoders.frames import frames_of
    from diagnostics.encoders.taps import Grid, Site, Tap, stack_taps
    from diagnostics.encoders.torch_encoder import TorchEncoder
    from diagnostics.hookspecs import hookimpl
    from diagnostics.measures.base import Measure
    from diagnostics.progress import Progress
    from diagnostics.report.escaping import printable
    from diagnostics.report.progress_bars import watcher
    from diagnostics.runs.comparison import Comparison, compare
    from diagnostics.runs.given import encoder_of
    from diagnostics.runs.job import run
    from diagnostics.runs.layer_profiles import LayerProfiles
    from diagnostics.runs.measuring import measure
    from diagnostics.runs.run import Run, open_run
    from diagnostics.specs import build, load_encoder

__version__ = "0.1.0"

_HOME = {
    "Dataset": "datasets.dataset",
    "Target": "datasets.target",
    "padded": "datasets.dataset",
    "split_groups": "datasets.dataset",
    "discover": "encoders.discovery",
    "frames_of": "encoders.frames",
    "Encoder": "encoders.encoder",
    "Grid": "encoders.taps",
    "Site": "encoders.taps",
    "Tap": "encoders.taps",
    "TorchEncoder": "encoders.torch_encoder",
    "stack_taps": "encoders.taps",
    "Comparison": "runs.comparison",
    "compare": "runs.comparison",
    "load_encoder": "specs",
    "save_encoder": "encoders.files",
    "build": "specs",
    "hookimpl": "hookspecs",
    "Progress": "progress",
    "printable": "report.escaping",
    "watcher": "report.progress_bars",
    "Measure": "measures.base",
    "encoder_of": "runs.given",
    "LayerProfiles": "runs.layer_profiles",
    "measure": "runs.measuring",
    "Run": "runs.run",
    "open_run": "runs.run",
    "run": "runs.job",
}

__all__ = [
    "Comparison",
    "Dataset",
    "DiagnosticsError",
    "Encoder",
    "Grid",
    "LayerProfiles",
    "Measure",
    "Progress",
    "Run",
    "Site",
    "Tap",
    "Target",
    "TorchEncoder",
    "__version__",
    "build",
    "compare",
    "discover",
    "encoder_of",
    "frames_of",
    "hookimpl",
    "load_encoder",
    "measure",
    "open_run",
    "padded",
    "printable",
    "run",
    "save_encoder",
    "split_groups",
    "stack_taps",
    "watcher",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'diagnostics' has no attribute {name!r}")
    return getattr(importlib.import_module(f"diagnostics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

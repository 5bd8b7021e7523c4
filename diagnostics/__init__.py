"""Which layer of an encoder should I use for my task, and what does the output hide?

Everything public is on this page; it is loaded when first used, so that importing `diagnostics` stays cheap.
"""

import importlib

# As `typing` has it, which is not imported: `__main__` has to come before all that a current folder could hold.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from diagnostics import sklearn as sklearn
    from diagnostics.datasets.dataset import Dataset, padded, split_groups
    from diagnostics.datasets.question import Question
    from diagnostics.datasets.samples import LazySamples
    from diagnostics.datasets.splits import complete_splits
    from diagnostics.datasets.target import Target
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.encoders.files import save_encoder
    from diagnostics.encoders.frames import frames_of
    from diagnostics.encoders.places import discover
    from diagnostics.encoders.taps import Grid, Site, Tap, stack_taps
    from diagnostics.encoders.torch_encoder import TorchEncoder
    from diagnostics.errors import DiagnosticsError
    from diagnostics.hookspecs import hookimpl
    from diagnostics.measures.base import Measure
    from diagnostics.progress import Progress, silent
    from diagnostics.report.escaping import printable
    from diagnostics.report.progress_bars import watcher
    from diagnostics.runs.comparison import Comparison, compare
    from diagnostics.runs.given import dataset, encoder, encoder_of
    from diagnostics.runs.job import run
    from diagnostics.runs.layer_profiles import LayerProfiles
    from diagnostics.runs.measuring import measure
    from diagnostics.runs.run import Run, open_run
    from diagnostics.specs import build, load_encoder

__version__ = "0.1.0"

_NAMES = {
    "datasets.dataset": ("Dataset", "padded", "split_groups"),
    "datasets.question": ("Question",),
    "datasets.samples": ("LazySamples",),
    "datasets.splits": ("complete_splits",),
    "datasets.target": ("Target",),
    "encoders.places": ("discover",),
    "encoders.encoder": ("Encoder",),
    "encoders.files": ("save_encoder",),
    "encoders.frames": ("frames_of",),
    "encoders.taps": ("Grid", "Site", "Tap", "stack_taps"),
    "encoders.torch_encoder": ("TorchEncoder",),
    "errors": ("DiagnosticsError",),
    "hookspecs": ("hookimpl",),
    "measures.base": ("Measure",),
    "progress": ("Progress", "silent"),
    "report.escaping": ("printable",),
    "report.progress_bars": ("watcher",),
    "runs.comparison": ("Comparison", "compare"),
    "runs.given": ("dataset", "encoder", "encoder_of"),
    "runs.job": ("run",),
    "runs.layer_profiles": ("LayerProfiles",),
    "runs.measuring": ("measure",),
    "runs.run": ("Run", "open_run"),
    "specs": ("load_encoder", "build"),
}
"""Module -> its public names."""
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Comparison",
    "Dataset",
    "DiagnosticsError",
    "Encoder",
    "Grid",
    "LayerProfiles",
    "LazySamples",
    "Measure",
    "Progress",
    "Question",
    "Run",
    "Site",
    "Tap",
    "Target",
    "TorchEncoder",
    "__version__",
    "build",
    "compare",
    "complete_splits",
    "dataset",
    "discover",
    "encoder",
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
    "silent",
    "split_groups",
    "stack_taps",
    "watcher",
]


def __getattr__(name: str) -> "Any":
    # A module, and not among the names of `import *`: it would hide scikit-learn.
    if name == "sklearn":
        return importlib.import_module("diagnostics.sklearn")
    if name not in _HOME:
        raise AttributeError(f"module 'diagnostics' has no attribute {name!r}")
    return getattr(importlib.import_module(f"diagnostics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

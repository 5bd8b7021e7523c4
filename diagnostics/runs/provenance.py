"""What a run says of itself: the encoder and the dataset that were asked for, and each call with its seed and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from typing import Any

import diagnostics
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder

# Distributions, with the module of each, whose code may be an encoder's: named in a run that imported them.
ENCODER_PACKAGES = {
    "timm": "timm", "transformers": "transformers", "fracast": "fracast", "chronos-forecasting": "chronos",
    "tirex-ts": "tirex", "mantis-tsfm": "mantis", "timesfm": "timesfm3", "momentfm": "momentfm", "uni2ts": "uni2ts",
    "granite-tsfm": "tsfm_public", "onnxruntime": "onnxruntime",
}  # fmt: skip


def describe_subject(encoder: str | Encoder, dataset: str | Dataset, model: Encoder, data: Dataset) -> dict[str, Any]:
    """What was measured on what: attributes of the store, written when it is created."""
    return {
        "encoder": {
            "name": model.name,
            "asked": encoder if isinstance(encoder, str) else model.spec,
            "modality": model.modality,
            "output_tap": model.output_tap,
            "lineage": dict(model.lineage),
        },
        "dataset": {
            "name": data.name,
            "asked": dataset if isinstance(dataset, str) else "",
            "about": data.about,
            "fingerprint": data.fingerprint,
            "n": data.counts(),
            "groups": len(set(data.groups)),
        },
    }


def describe_call(seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """One call of `run`: when, with which seed and options, by which versions, on what machine."""
    used = [name for name, module in ENCODER_PACKAGES.items() if module in sys.modules]
    versions = {
        name: _version(name)
        for name in ("encoder-diagnostics", "torch", "numpy", "scikit-learn", "zarr", "xarray", *used)
    }
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "options": dict(options),
        "versions": {name: version for name, version in versions.items() if version},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return diagnostics.__version__ if name == "encoder-diagnostics" else ""

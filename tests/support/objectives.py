"""Training objectives on small samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from diagnostics_training.models.inputs import Views
from diagnostics_training.train import Architecture
from diagnostics_training.trainer.data import Feed
from diagnostics_training.trainer.objective import Objective

SIZES = {"series": (64,), "image": (16, 16), "video": (4, 16, 16)}


def architecture(objective: str, modality: str = "series", **changed: Any) -> Architecture:
    channels = 1 if modality == "series" else 3
    sizes: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "patch": 8 if modality == "series" else 4} | changed
    return Architecture(objective, modality, SIZES[modality], channels, **sizes)


def objective(name: str, modality: str = "series", regulariser: str = "none", **changed: object) -> Objective:
    sizes = architecture(name, modality, **changed)
    built = sizes.build_objective(sizes.initial(0), regulariser, (3,) if name == "supervised" else ())
    assert built is not None
    return built


def samples(modality: str = "series", count: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    if modality == "series":
        phase, rate = rng.uniform(0, 6, (count, 1)), rng.uniform(0.1, 0.4, (count, 1))
        return np.sin(rate * np.arange(96) + phase).astype(np.float32)
    return rng.integers(0, 256, (count, *SIZES[modality], 3)).astype(np.uint8)


def feed(objective: Objective, name: str, modality: str = "series", batch: int = 8) -> Feed:
    views = Views(modality, SIZES[modality], moves=objective.moves, noise=objective.noise)
    beside = {"labels": np.arange(8)[:, None] % 3, "numbers": np.ones((8, 1), np.float32)}
    known = beside if name == "supervised" else {}
    return Feed(samples(modality), views, objective, batch, 0, known)

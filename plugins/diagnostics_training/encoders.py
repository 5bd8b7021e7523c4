"""Untrained encoders of every objective by their sizes, and the trained ones that come with this plugin."""

from __future__ import annotations

from pathlib import Path

from diagnostics import DiagnosticsError, TorchEncoder, load_encoder
from diagnostics_training.architecture import Architecture
from diagnostics_training.models.sizes import TUBE

WEIGHTS = Path(__file__).parent / "weights"


def untrained(architecture: Architecture, seed: int) -> TorchEncoder:
    """The encoder with the weights that training of this seed starts from."""
    made = architecture.encoder(architecture.initial(seed), f"objective-{architecture.objective}")
    made.lineage = {
        "objective": architecture.objective,
        "steps": 0,
        "seed": seed,
        "group": f"{architecture.objective} (untrained)",
    }
    return made


def extent(modality: str, length: int, size: int, frames: int) -> tuple[int, ...]:
    """Of samples of a modality."""
    if frames % TUBE:
        raise DiagnosticsError(
            f"A clip of frames={frames} cannot be cut into patches of {TUBE} frames: give an even number."
        )
    known = {"series": (length,), "image": (size, size), "video": (frames, size, size)}
    if modality not in known:
        raise DiagnosticsError(f"There is no modality '{modality}' here: choose one of {', '.join(known)}.")
    return known[modality]


def bundled(name: str, training_seed: int = 0) -> TorchEncoder:
    """Trained weights that came with this plugin, of the first training seed or another."""
    known = {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}
    wanted = f"{name}-seed{training_seed}" if training_seed else name
    if wanted not in known:
        there = f"there are {', '.join(known)}" if known else "none came with this version"
        raise DiagnosticsError(
            f"There is no trained encoder 'objectives:{wanted}': {there}; make one with `diagnostics train objectives`."
        )
    return load_encoder(known[wanted])  # pyright: ignore[reportReturnType]

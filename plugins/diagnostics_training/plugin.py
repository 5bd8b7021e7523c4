"""What this plugin offers; importing it imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diagnostics.plugin import Entry, hookimpl
from diagnostics_training.commands import align_language, align_spatial, align_tap, needs_timm, train_objectives

if TYPE_CHECKING:
    from diagnostics.plugin import Encoder

PACKAGES = {"timm": "timm"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def objective(
    name: str,
    modality: str = "series",
    length: int = 512,
    variates: int = 1,
    size: int = 64,
    frames: int = 8,
    width: int = 64,
    depth: int = 6,
    heads: int = 4,
    patch: int | None = None,
    likelihood: str | None = None,
    positives: str = "views",
    outputs: int = 1,
    seed: int = 0,
) -> Encoder:
    """An untrained encoder of an objective (`forecast`, `reconstruct`, `contrastive`, `jepa`, `random`, `supervised`).

    Parameters
    ----------
    modality: `series` (of `length` steps and `variates`), `image` (of `size` pixels a side), `video` (and of `frames`).
    patch: steps of a series [16], pixels along a side [8]; of clips two frames deep.
    likelihood: of a forecast, `quantile` (default for series) or `gaussian` (otherwise).
    positives: of contrast, `views` or `temporal`.
    outputs: numbers that the supervised readout gives.
    seed: of the weights: those that training of this seed starts from.
    """
    needs_timm()
    from diagnostics_training.architecture import Architecture, default_likelihood, extent, untrained
    from diagnostics_training.trainer.data import default_patch

    architecture = Architecture(
        objective=name,
        modality=modality,
        extent=extent(modality, length, size, frames),
        channels=variates if modality == "series" else 3,
        width=width,
        depth=depth,
        heads=heads,
        patch=default_patch(modality) if patch is None else patch,
        likelihood=likelihood or default_likelihood(modality),
        positives=positives,
        outputs=outputs,
    )
    return untrained(architecture, seed)


def objectives(name: str, training_seed: int = 0) -> Encoder:
    """A trained encoder that came with this plugin (`lorenz-jepa`); `training_seed` names a further seed of it."""
    needs_timm()
    from diagnostics_training.architecture import bundled

    return bundled(name, training_seed)


def aligned(base: str, layer_scale: float = 1.0) -> Encoder:
    """The encoder `base` (its name, percent-encoded) with LayerScale in its blocks: what alignments start from.

    layer_scale: the factors at the start.
    """
    from diagnostics.plugin import build
    from diagnostics_training.alignment.objective import scaled

    return scaled(build("encoder", base), layer_scale)[0]


def projected(base: str, at: str, width: int, cut: bool = False, pool: int = 1) -> Encoder:
    """The encoder `base` (its name, percent-encoded) with a projector to a decoder behind its output tap `at`.

    width: features of the decoder's tokens. cut: whether it is cut at that tap. pool: 1 or 2, along each side of the grid.
    """
    from diagnostics.plugin import DiagnosticsError, TorchEncoder, build, cut_encoder
    from diagnostics_training.language.decoder import with_projector

    encoder = build("encoder", base)
    encoder = cut_encoder(encoder, at) if cut else encoder
    if not isinstance(encoder, TorchEncoder) or encoder.output_tap != at or width < 1 or pool not in (1, 2):
        raise DiagnosticsError(
            f"{base} has no output {at} of a torch module that a projector of {width} features fits on."
        )
    return with_projector(encoder, width, pool)


def _path_hint(path: str) -> str:
    if not os.path.isfile(os.path.join(path, "checkpoint.safetensors")):
        return ""
    return "its training is not finished: give the command that started it again, which resumes it"


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Name or scheme -> builder."""
    return {
        "objective:": Entry(objective, modalities=("series", "image", "video"), path_hint=_path_hint),
        "objectives:": Entry(objectives, modalities=("series", "image")),
        "aligned": Entry(
            aligned,
            about="An encoder with LayerScale in its blocks: what alignments start from.",
            modalities=("series", "image", "video"),
        ),
        "projected": Entry(
            projected,
            about="An encoder with a projector to a decoder: what language alignment leaves.",
            modalities=("series", "image", "video"),
        ),
    }


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {
        "train objectives": train_objectives,
        "align language": align_language,
        "align spatial": align_spatial,
        "align tap": align_tap,
    }

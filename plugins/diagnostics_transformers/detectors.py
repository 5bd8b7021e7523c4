"""Detectors of two stacks, one trunk: a backbone, then an encoder over the maps that it gives (DETR, RT-DETR and kin)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from diagnostics import DiagnosticsError, Grid, Site, Tap
from diagnostics.encoders.hooks import first_tensor
from diagnostics_transformers.towers import arguments
from diagnostics_transformers.trial import Trial

_BACKBONES = ("backbone", "conv_encoder")
_LISTS = ("layers", "aifi", "fpn_blocks", "pan_blocks")
"""Of an encoder's layers: over one map; or over the coarsest of several, then down and up again through all of them."""
_SHAPES = "spatial_shapes"
"""What layers take whose tokens are those of several maps, one behind the other: their sizes."""


def trunk_of_detector(trial: Trial) -> tuple[list[str], list[str]]:
    """Qualified names of the blocks of a tower's backbone, and of its encoder's layers; nothing where it has not both.

    Those of the backbone are what discovery finds in it alone.
    """
    parts = dict(trial.module.tower.named_children())
    backbone = next((key for key in _BACKBONES if key in parts), None)
    lists = dict(parts["encoder"].named_children()) if "encoder" in parts else {}
    layers = [f"tower.encoder.{key}.{i}" for key in _LISTS if key in lists for i, _ in lists[key].named_children()]
    if backbone is None or not layers:
        return [], []
    backbone = _without_shell(f"tower.{backbone}", parts[backbone])
    try:
        discovered = trial.discover(backbone, trial.prepared.extents)
    except DiagnosticsError:
        return [], []
    trunk = [(tap, tap.site) for tap in discovered.taps if tap.part == "trunk" and tap.site is not None]
    last = next(tap for tap, _ in trunk if tap.depth == 1)
    # The norm behind the last block is none.
    blocks = [site.module for tap, site in trunk if tap.depth < 1 or tap is last]
    return list(dict.fromkeys(f"{backbone}.{block}" for block in blocks)), layers


def _without_shell(name: str, module: nn.Module) -> str:
    """The name of the innermost part that holds all the weights: a backbone as its makers wrote it, whose stages discovery knows."""
    for key, part in module.named_children():
        if sum(p.numel() for p in part.parameters()) == sum(p.numel() for p in module.parameters()):
            return _without_shell(f"{name}.{key}", part)
    return name


def over_levels(trial: Trial, layers: Sequence[str]) -> bool:
    """Whether an encoder's layers take the tokens of several maps at once (Deformable DETR)."""
    return bool(layers) and _SHAPES in arguments(trial.module.get_submodule(layers[0]))


def with_levels(trial: Trial, taps: Sequence[Tap], layers: Sequence[str], blocks: int) -> list[Tap]:
    """The backbone's taps, of so many `blocks`, and behind them one of every map at every layer: `encoder.layers.0.level1`."""
    of_layer = {call.name: call for call in trial.calls(layers)}
    whole = blocks + len(layers)
    levels = [replace(tap, depth=tap.depth * blocks / whole) for tap in taps if tap.part != "head"]
    for i, name in enumerate(layers):
        tokens = first_tensor(of_layer[name].output)
        before = 0
        for level, size in enumerate(of_layer[name].kwargs[_SHAPES].tolist()):
            shape = (int(size[0]), int(size[1]))
            behind = tokens.shape[1] - before - math.prod(shape)
            site = Site(name, padding=before, trailing=behind)
            tap = f"{name.removeprefix('tower.')}.level{level}"
            depth = (blocks + i + 1) / whole
            levels.append(Tap(tap, depth, "trunk", tokens.shape[2], Grid(shape, ("y", "x")), site))
            before += math.prod(shape)
    return levels

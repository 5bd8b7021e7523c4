"""Taps of further stacks: a detector's encoder over the maps of its backbone (DETR, RT-DETR and kin), a head's layers.

A detector's two stacks are one trunk.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, Site, Tap
from diagnostics.encoders.hooks import first_tensor
from diagnostics_transformers.prepared import Prepared
from diagnostics_transformers.stacks import inner_layers
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


def layers_of_head(trial: Trial, head: str, between: tuple[float, float]) -> list[Tap]:
    """Taps of the layers that a head stacks, evenly between two depths; nothing where their tokens fit no grid.

    Tokens of a grid that the configuration names, after at most a few special ones; or two for each place, as a predictor
    has that is given the context and asked for its targets: the targets are the grid then, the context its prefix.
    """
    names = [f"{head}.{name}" for name in inner_layers(trial.module.get_submodule(head))]
    calls = trial.calls(names) if names else []
    low, high = between
    taps: list[Tap] = []
    for i, name in enumerate(names):
        outputs = [first_tensor(call.output) for call in calls if call.name == name]
        outputs = [output for output in outputs if isinstance(output, Tensor)]
        places = _places(outputs[0], trial.prepared) if len(outputs) == 1 else None
        if places is None:
            return []
        grid, order = places
        depth = low + (high - low) * (i + 1) / (len(names) + 1)
        tap = name.removeprefix("tower.")
        taps.append(Tap(tap, depth, "head", outputs[0].shape[-1], grid, Site(name, order=order)))
    return taps


def _places(tokens: Tensor, prepared: Prepared) -> tuple[Grid, tuple[int, ...]] | None:
    """The grid of a layer's tokens and the order in which they lie; None where they fit no grid."""
    axes = tuple(prepared.extents)
    for shape in prepared.places:
        grid = Grid(shape, axes)
        if tokens.ndim != 3 or prepared.packed:
            return None
        more = tokens.shape[1] - grid.tokens
        if 0 <= more <= 1:
            return Grid(shape, axes, more), ()
        if more == grid.tokens:
            # Sorted by place: the context of a place, then its target.
            return Grid(shape, axes, more), (*range(0, 2 * more, 2), *range(1, 2 * more, 2))
    return None

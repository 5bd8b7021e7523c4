"""Taps of the layers that a head stacks: a predictor's, a decoder's."""

from __future__ import annotations

from torch import Tensor

from diagnostics import Grid, Site, Tap
from diagnostics.encoders.hooks import first_tensor
from diagnostics_transformers.prepared import Prepared
from diagnostics_transformers.stacks import inner_layers
from diagnostics_transformers.trial import Trial


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

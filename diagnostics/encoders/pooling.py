"""Pooling of activations over grid tokens, without prefix tokens (class tokens and others without a place)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, unknown


def pool(tap: Tap, tokens: Tensor, poolings: Sequence[str], valid: Tensor | None = None) -> Tensor:
    """Tokens [B, T, F] pooled to float32 [B, pooling, F].

    `mean` averages the grid tokens (never prefix tokens), `last` is the last grid token, `prefix` the first prefix
    token (the class token where a model has one). A tap without prefix tokens gives its mean for `prefix`. Grid tokens
    that are not `valid` (bool [B, grid tokens]) count for neither; a sample without any gives NaN.
    """
    prefix = tap.grid.prefix
    grid = tokens[:, prefix:]
    if valid is None or bool(valid.all()):
        mean, last = grid.mean(dim=1, dtype=torch.float32), grid[:, -1].float()
    else:
        counts = valid.sum(dim=1, keepdim=True)
        mean = torch.where(valid[..., None], grid, 0).sum(dim=1, dtype=torch.float32) / counts
        places = torch.arange(valid.shape[1], device=valid.device)
        ends = torch.where(valid, places, -1).amax(dim=1).clamp_min(0)
        last = grid[torch.arange(len(grid), device=grid.device), ends].float()
        last = torch.where(counts > 0, last, torch.nan)
    parts = {"mean": mean, "last": last, "prefix": tokens[:, 0].float() if prefix else mean}
    return torch.stack([parts[name] for name in poolings], dim=1)


def chosen_poolings(wanted: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The poolings that are wanted, one or several, in the order in which `known` lists them; all where None are named.

    Raises DiagnosticsError for one that is not known, and where an empty list is given.
    """
    if wanted is None:
        return tuple(known)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in known:
            raise unknown("pooling", name, known)
    if not names:
        raise DiagnosticsError(f"No pooling is named: give {', '.join(known)}, or leave it out for all.")
    return tuple(name for name in known if name in names)

"""Statistics of attention that is there as a matrix; of a fused call by the matrix itself, against which the others are held."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from diagnostics.encoders.attention.fused import FusedCall
from diagnostics.encoders.attention.statistics import Statistics, Tokens

BLOCK_BYTES = 32 * 2**20


def of_matrix(weights: Tensor, prefix: int, places: Tensor | None) -> Statistics:
    """Of attention [sample, head, grid query, key], prefix keys first; in blocks of queries, float64.

    `places` [grid token, axis] in the unit of the distance, which is NaN where there are none. There are no logits. A row whose grid keys
    have nothing, masked or rounded to 0, counts for `prefix` and `received` alone.
    """
    samples, heads, queries, keys = weights.shape

    def zeros(*more: int) -> Tensor:
        return torch.zeros(samples, heads, *more, dtype=torch.float64, device=weights.device)

    distance, entropy, peak, to_prefix, on_grid, anywhere = (zeros() for _ in range(6))
    received = zeros(keys - prefix)
    step = max(1, BLOCK_BYTES // (8 * samples * heads * keys))
    for start in range(0, queries, step):
        rows = weights[:, :, start : start + step].to(torch.float64)
        grid = rows[..., prefix:]
        total = rows.sum(-1)
        # Of a sum that is next to nothing, where padding has the rest, the inverse is infinite.
        whole = torch.where(total > 0, total, 1.0)
        to_prefix += (rows[..., :prefix].sum(-1) / whole).sum(-1)
        received += (grid / whole[..., None]).sum(-2)
        anywhere += (total > 0).sum(-1)
        most = grid.amax(-1)
        known = most > 0
        on_grid += known.sum(-1)
        # Relative to its largest: weights next to nothing, beside a prefix that has all, have few digits, and their products none.
        grid = grid / torch.where(known, most, 1.0)[..., None]
        mass = torch.where(known, grid.sum(-1), 1.0)
        # With p = a / mass, -sum(p log p) = log(mass) - sum(a log a) / mass.
        entropy += (mass.log() - torch.special.xlogy(grid, grid).sum(-1) / mass).sum(-1)
        peak += (known / mass).sum(-1)
        if places is not None:
            apart = torch.cdist(places[start : start + step], places, compute_mode="donot_use_mm_for_euclid_dist")
            distance += (torch.einsum("shqk,qk->shq", grid, apart) / mass).sum(-1)
    # 0 / 0 is NaN: a head without any attention has no value.
    return Statistics(
        entropy=(entropy / on_grid).clamp_min(0),
        distance=distance / on_grid if places is not None else torch.full_like(distance, math.nan),
        prefix=to_prefix / anywhere,
        peak=peak / on_grid,
        logit=torch.full_like(peak, math.nan),
        received=received / anywhere[..., None],
    )


def plain(call: FusedCall, out: torch.Tensor, tokens: Tokens) -> Statistics:
    """Of a call whose kernel gave `out` [B, H, Q, D]."""
    mask = call.mask if call.mask is None or call.mask.dtype == torch.bool else call.mask.double()
    call = replace(call, q=call.q.double(), k=call.k.double(), v=call.v.double(), mask=mask)
    every = slice(None)
    weights = call.weights(every)
    padding = tokens.ordered(tokens.ordered(weights, -1), -2)[..., : tokens.own, tokens.own :]
    scores = torch.stack([call.scores(every, head) for head in range(call.shape[1])], 1)
    scores = tokens.ordered(tokens.ordered(scores, -1), -2)[..., tokens.grid, : tokens.own]
    grid = scores[..., tokens.grid]
    logit = grid.amax((-2, -1))
    # Each by itself: next to a prefix token or padding whose logit lies 745 above, a grid key has a share of 0.
    shares = of_matrix(_softmax(scores), tokens.prefix, None)
    return replace(
        of_matrix(_softmax(grid), 0, tokens.places.double()),
        prefix=shares.prefix,
        received=shares.received,
        logit=torch.where(logit == -math.inf, math.nan, logit),
        error=call.error(weights, out, every),
        padding=float(padding.sum(-1).amax()),
    )


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the keys; zeros of a query that may see none."""
    return scores.softmax(-1).masked_fill((scores == -math.inf).all(-1, keepdim=True), 0)

"""Statistics by the matrix itself, in float64: slow, large and simple, so that the others can be held against it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from diagnostics.encoders.attention_statistics.matrix import of_matrix
from diagnostics.encoders.attention_statistics.statistics import Statistics
from diagnostics.encoders.attention_statistics.tokens import Tokens
from diagnostics.encoders.fused_attention import FusedCall


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

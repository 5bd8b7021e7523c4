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
    own = tokens.ordered(tokens.ordered(weights, -1), -2)[..., : tokens.own, :]
    kept = own[..., : tokens.own]
    scores = [tokens.ordered(tokens.ordered(call.scores(every, head), -1), -2) for head in range(call.shape[1])]
    logit = torch.stack([score[..., tokens.grid, tokens.grid].amax((-2, -1)) for score in scores], 1)
    return replace(
        of_matrix(kept[..., tokens.grid, :], tokens.prefix, tokens.places.double()),
        logit=torch.where(logit == -math.inf, math.nan, logit),
        error=call.error(weights, out, every),
        padding=float(own[..., tokens.own :].sum(-1).amax()),
    )

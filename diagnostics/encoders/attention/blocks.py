"""Statistics by blocks of queries, each against all keys: on any device, with any mask, in memory that grows with tokens.

Shape suffixes: B sample, N some heads, M some queries, K key, D width of a head. Tokens are in the tap's order.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from diagnostics.encoders.attention.fused import FusedCall
from diagnostics.encoders.attention.statistics import Rows, Statistics, Tokens

BLOCK = {"cpu": 2**19, "cuda": 2**24}
"""Logits in a block at most, where it has more than one query: what stays in a core's cache, and what fills a GPU."""
LEAST_EXPONENT = -1e4
"""e to it is 0 in every type, and so is 0 times it, which 0 times infinity is not."""


def blocks(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    """Of a call whose kernel gave `out` [B, H, Q, D]."""
    samples, heads, queries, keys = call.shape
    device, dtype = call.q.device, call.working
    most = BLOCK.get(device.type, BLOCK["cuda"])
    step = min(queries, max(1, most // keys))
    together = min(heads, max(1, most // (step * keys)))
    rows = Rows.empty(samples, heads, queries, dtype=dtype, device=device)
    received = torch.zeros(samples, heads, len(tokens.places), dtype=dtype, device=device)
    room = torch.empty(2, together * step * keys, dtype=dtype, device=device)
    for start in range(0, queries, step):
        block = slice(start, min(start + step, queries))
        apart = tokens.cells_apart(block, dtype)
        for sample in range(samples):
            for head in range(0, heads, together):
                some = slice(head, min(head + together, heads))
                _Block(call, tokens, sample, some, block).read(out, apart, room, rows, received)
    return rows.reduced(tokens, received)


class _Block:
    """Some queries of some heads of a sample."""

    def __init__(self, call: FusedCall, tokens: Tokens, sample: int, heads: slice, queries: slice) -> None:
        self.call, self.tokens = call, tokens
        self.sample, self.heads, self.queries = sample, heads, queries

    def read(self, out: Tensor, apart: Tensor, room: Tensor, rows: Rows, received: Tensor) -> None:
        """Fills these rows, and adds what they give to each grid key; `apart` [M, K] in cells."""
        tokens, here = self.tokens, (self.sample, self.heads, self.queries)
        grid, prefix, padding = self._keys(room)
        whole = _base(grid, prefix, padding)
        of_grid, of_prefix, of_padding = (
            kind.sums * (kind.top - whole).exp()[..., None] for kind in (grid, prefix, padding)
        )
        sums = of_grid + of_prefix + of_padding
        size, total = sums[..., -2], sums[..., -1]
        # Padding may lie far above what is the tap's own, whose shares among themselves it must not push to 0.
        base = _base(grid, prefix)
        grid_mass, prefix_mass = (kind.sums[..., -1] * (kind.top - base).exp() for kind in (grid, prefix))
        own = grid_mass + prefix_mass
        mass = torch.where(grid.top > -math.inf, grid.sums[..., -1], math.nan)

        # With w = e^x and x at most 0, the entropy of w / sum w is log sum w - sum w x / sum w: nothing cancels.
        rows.entropy[here] = mass.log() - torch.mul(grid.exponents, grid.weights, out=grid.exponents).sum(-1) / mass
        rows.distance[here] = torch.mul(grid.weights, apart, out=grid.exponents).sum(-1) / mass
        rows.peak[here] = 1 / mass
        rows.logit[here] = grid.top
        rows.prefix[here] = prefix_mass / own
        rows.padding[here] = of_padding[..., -1] / total
        off = torch.linalg.vector_norm(sums[..., :-2] - self._queries(out) * total[..., None], dim=-1)
        # What is NaN is neither 0 nor above it, and must not look like a row that sees nothing.
        rows.error[here] = torch.where(total == 0, 0, torch.where(off == 0, off, off / size))

        first = max(0, tokens.looking.start - self.queries.start)
        of_tap = slice(first, max(first, tokens.looking.stop - self.queries.start))
        share = torch.where(own > 0, (grid.top - base).exp() / own, 0)[:, None, of_tap]
        received[self.sample, self.heads] += (share @ grid.weights[:, of_tap])[:, 0]

    def _keys(self, room: Tensor) -> tuple[_Keys, _Keys, _Keys]:
        """Grid keys, prefix keys and padding."""
        q, k, v = self._queries(self.call.q) * self.call.scale, self._all(self.call.k), self._all(self.call.v)
        # Sums of these beside the values: what the error of a row is a share of, and the row's mass.
        v = torch.cat([v, torch.linalg.vector_norm(v, dim=-1, keepdim=True), torch.ones_like(v[..., :1])], dim=-1)
        shape = (*q.shape[:-1], k.shape[-2])
        logits, weights = (flat[: math.prod(shape)].view(shape) for flat in room)
        torch.bmm(q, k.mT, out=logits)
        masked = self._mask(logits)
        grid, prefix, padding = self.tokens.grid, slice(self.tokens.prefix), slice(self.tokens.own, None)
        return (
            _Keys(logits[..., grid], weights[..., grid], v[:, grid], masked),
            _Keys(logits[..., prefix], weights[..., prefix], v[:, prefix], masked),
            _Keys(logits[..., padding], weights[..., padding], v[:, padding], masked),
        )

    def _mask(self, logits: Tensor) -> bool:
        """Puts the call's mask on logits [N, M, K], and says whether there is one."""
        if self.call.causal:
            rows, keys = (torch.arange(n, device=logits.device) for n in self.call.shape[-2:])
            rows, keys = self.tokens.ordered(rows, 0)[self.queries], self.tokens.ordered(keys, 0)
            logits.masked_fill_(keys > rows[:, None], -math.inf)
            return True
        mask = self.call.whole_mask
        if mask is None:
            return False
        mask = self.tokens.ordered(self._queries(mask), -1)
        if mask.dtype == torch.bool:
            logits.masked_fill_(~mask, -math.inf)
        else:
            logits += mask
        return True

    def _queries(self, x: Tensor) -> Tensor:
        """These rows [N, M, *] of one [B, H, Q, *]; of numbers, in the type to compute in."""
        x = x[self.sample, self.heads]
        x = x[:, self.queries] if self.tokens.order is None else x.index_select(1, self.tokens.order[self.queries])
        return x if x.dtype == torch.bool else x.to(self.call.working)

    def _all(self, x: Tensor) -> Tensor:
        """All keys or values [N, K, D]; where there are fewer heads of them than queries have, several share one."""
        x = x.expand(self.call.shape[0], *x.shape[1:])[self.sample]
        heads = torch.arange(self.heads.start, self.heads.stop, device=x.device)
        x = x[self.heads] if len(x) == self.call.shape[1] else x[heads * len(x) // self.call.shape[1]]
        return self.tokens.ordered(x).to(self.call.working)


class _Keys:
    """Keys of one kind: `top` [N, M], the largest logit; `exponents` at most 0, the logits below it; `weights`, e to these;
    and `sums` [N, M, D + 2] of weighted values, of their norms, and of 1.
    """

    def __init__(self, logits: Tensor, room: Tensor, values: Tensor, masked: bool) -> None:
        self.exponents, self.weights = logits, room
        if not logits.shape[-1]:
            self.top = logits.new_full(logits.shape[:-1], -math.inf)
            self.sums = logits.new_zeros(values.shape[-1])
            return
        self.top = logits.amax(-1)
        logits.sub_(self.top.masked_fill(self.top == -math.inf, 0)[..., None])
        if masked:
            logits.clamp_min_(LEAST_EXPONENT)
        self.sums = torch.exp(logits, out=room) @ values


def _base(*kinds: _Keys) -> Tensor:
    """The largest logit [N, M] of these keys, 0 where none is seen."""
    top = functools.reduce(torch.maximum, (kind.top for kind in kinds))
    return top.masked_fill(top == -math.inf, 0)

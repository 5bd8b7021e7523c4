"""Statistics of the attention of each sample and head, by one of several implementations.

Also which tokens of an attention are a tap's.

They follow from the matrix where it is there (the others are held against that); from blocks of queries, each against
all keys: on any device, with any mask, in memory that grows with tokens; or from two kernels of triton, on a GPU or
under its interpreter.

Shape suffixes: B sample, H head, N some heads, M some queries, K key, D width of a head. Tokens are in the tap's order.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import math
import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.taps import Site, Tap
from diagnostics.errors import DiagnosticsError, check_known, describe


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a call in the tap's order: prefix tokens, grid tokens in raster order, then padding.

    `order` [token] holds their positions in the call, None where they lie in this order already; `places` [grid token,
    axis] the cells of the grid, float32. `queries` is their number where they are other tokens than the keys.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.attention import Tokens
        >>> grid = dx.Grid((2, 2), ("y", "x"), prefix=1)
        >>> tap = dx.Tap("blocks.0", 0.5, "trunk", 8, grid)
        >>> tokens = Tokens.of(tap, dx.Site("blocks.0", padding=3), torch.device("cpu"))
        >>> tokens.order  # three tokens of padding come first in the call
        tensor([3, 4, 5, 6, 7, 0, 1, 2])
        >>> tokens.places.tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """

    prefix: int
    places: Tensor
    order: Tensor | None
    queries: int | None = None

    @classmethod
    def nowhere(cls, queries: int, keys: int, device: torch.device) -> Tokens:
        """Of an attention that is no tap's: all tokens alike, without places."""
        return cls(0, torch.zeros(keys, 1, device=device), None, queries)

    @classmethod
    def of(cls, tap: Tap, site: Site | None, device: torch.device) -> Tokens:
        """Of a tap whose module holds one sample a row, on that device."""
        axes = [torch.arange(extent, device=device, dtype=torch.float32) for extent in tap.grid.shape]
        places = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], dim=1)
        if site is None or not (site.padding or site.order):
            return cls(tap.grid.prefix, places, None)
        every = torch.arange(tap.tokens + site.dropped, device=device)
        own = every[site.kept]
        own = own[torch.tensor(site.order, device=device)] if site.order else own
        padding = torch.cat([every[: site.padding], every[site.padding + tap.tokens :]])
        return cls(tap.grid.prefix, places, torch.cat([own, padding]))

    @property
    def grid(self) -> slice:
        """The grid tokens, in the tap's order."""
        return slice(self.prefix, self.own)

    @property
    def looking(self) -> slice:
        """The queries that are counted, in the tap's order."""
        return self.grid if self.queries is None else slice(0, self.queries)

    @property
    def own(self) -> int:
        """Number of tokens of the tap: all but padding."""
        return self.prefix + len(self.places)

    def reorder(self, x: Tensor, dim: int = -2) -> Tensor:
        """With an axis of the call's tokens in the tap's order."""
        return x if self.order is None else x.index_select(dim, self.order)

    def cells_apart(self, queries: slice, dtype: torch.dtype) -> Tensor:
        """Distance in cells [query, grid key] of some tokens in the tap's order.

        Of one without a place it means nothing.
        """
        rows = torch.arange(queries.start, queries.stop, device=self.places.device) - self.prefix
        rows = rows.clamp(0, len(self.places) - 1)
        squares = torch.zeros((), dtype=dtype, device=self.places.device)
        for axis in self.places.to(dtype).unbind(1):
            squares = (axis[rows, None] - axis).square_().add_(squares)
        return squares.sqrt_()


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each sample and head over the grid queries, float64 [B, H]; NaN for a head without any attention.

    Rows are renormalised over the grid keys, except in `prefix` and `received`.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders import attention
        >>> from diagnostics.encoders.attention.capture import FusedCall
        >>> q = k = v = torch.zeros(1, 1, 10, 8)  # uniform over a token and 3 x 3 places
        >>> grid = dx.Grid((3, 3), ("y", "x"), prefix=1)
        >>> tap = dx.Tap("blocks.0", 0.5, "trunk", 8, grid)
        >>> tokens = attention.Tokens.of(tap, None, q.device)
        >>> seen = attention.attention_statistics(FusedCall.of((q, k, v), {}), v, tokens)
        >>> round(seen.prefix.item(), 3), round(seen.peak.item(), 3)
        (0.1, 0.111)
        >>> round(seen.received_by_most(0.5).item(), 3)
        0.5
    """

    entropy: Tensor
    """Mean of -sum p ln p, in nats."""
    distance: Tensor
    """Mean of sum p |place - place'|, in cells."""
    prefix: Tensor
    """Mean share of prefix keys."""
    peak: Tensor
    """Mean of the largest share."""
    logit: Tensor
    """Largest logit of a grid key, with its mask added, as softmax takes it; NaN where only shares are known."""
    received: Tensor
    """[B, H, K]: mean share of each grid key."""
    error: float = 0.0
    """How far attention times values is from what the model's kernel gave: the worst row's share of its sum of
    |attention| |value|."""
    padding: float = 0.0
    """The largest share of a row of the tap that goes to padding."""

    @property
    def top_key(self) -> Tensor:
        """Mean share of the grid key that receives most."""
        return self.received.amax(-1)

    def received_by_most(self, share: float = 0.01) -> Tensor:
        """The part of all that grid keys receive that this share of them gets, those that receive most [B, H].

        The last key counts in part, so that uniform attention gives `share` for any number of keys.
        """
        keys = self.received.shape[-1]
        count = share * keys
        whole = math.floor(count)
        most = self.received.topk(min(keys, whole + 1), dim=-1).values
        weights = torch.ones(most.shape[-1], dtype=most.dtype, device=most.device)
        if whole < keys:
            weights[-1] = count - whole
        total = self.received.sum(-1)
        return (most * weights).sum(-1) / torch.where(total > 0, total, math.nan)


@dataclass(frozen=True, eq=False)
class Rows:
    """The same of every row in the tap's order, [B, H, Q]; NaN where a row has none, -inf for its logit."""

    entropy: Tensor
    distance: Tensor
    prefix: Tensor
    peak: Tensor
    logit: Tensor
    error: Tensor
    padding: Tensor

    @classmethod
    def empty(cls, *shape: int, dtype: torch.dtype, device: torch.device) -> Rows:
        """To be filled: what is not written is NaN, never what memory held before."""
        return cls(*(torch.full(shape, math.nan, dtype=dtype, device=device) for _ in range(7)))

    def reduce(self, tokens: Tokens, received: Tensor) -> Statistics:
        """Over the grid queries; `received` [B, H, K] is the sum of their shares of each grid key."""
        rows = tokens.looking
        logit = self.logit[..., rows].double().amax(-1)
        return Statistics(
            entropy=_mean(self.entropy[..., rows]).clamp_min(0),
            distance=_mean(self.distance[..., rows]),
            prefix=_mean(self.prefix[..., rows]),
            peak=_mean(self.peak[..., rows]),
            logit=torch.where(logit == -math.inf, math.nan, logit),
            received=received.double() / (~self.prefix[..., rows].isnan()).sum(-1, keepdim=True),
            error=float(self.error.nan_to_num(math.inf).amax()),
            padding=float(self.padding[..., : tokens.own].nan_to_num(0.0).amax()),
        )


def _mean(rows: Tensor) -> Tensor:
    return rows.double().nanmean(-1)


BLOCK_BYTES = 32 * 2**20


def of_matrix(weights: Tensor, prefix: int, places: Tensor | None) -> Statistics:
    """Of attention [sample, head, grid query, key], prefix keys first; in blocks of queries, float64.

    `places` [grid token, axis] in the unit of the distance, which is NaN where there are none. There are no logits. A
    row whose grid keys have nothing, masked or rounded to 0, counts for `prefix` and `received` alone.
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
        # Relative to its largest: weights next to nothing, beside a prefix that has all, have few digits, and their
        # products none.
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
    padding = tokens.reorder(tokens.reorder(weights, -1), -2)[..., : tokens.own, tokens.own :]
    scores = torch.stack([call.scores(every, head) for head in range(call.shape[1])], 1)
    scores = tokens.reorder(tokens.reorder(scores, -1), -2)[..., tokens.grid, : tokens.own]
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
    return rows.reduce(tokens, received)


class _Block:
    """Some queries of some heads of a sample."""

    def __init__(self, call: FusedCall, tokens: Tokens, sample: int, heads: slice, queries: slice) -> None:
        self.call, self.tokens = call, tokens
        self.sample, self.heads, self.queries = sample, heads, queries

    def read(self, out: Tensor, apart: Tensor, room: Tensor, rows: Rows, received: Tensor) -> None:
        """Fill these rows, and add what they give to each grid key; `apart` [M, K] in cells."""
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
        """Put the call's mask on logits [N, M, K], and say whether there is one."""
        if self.call.causal:
            rows, keys = (torch.arange(n, device=logits.device) for n in self.call.shape[-2:])
            rows, keys = self.tokens.reorder(rows, 0)[self.queries], self.tokens.reorder(keys, 0)
            logits.masked_fill_(keys > rows[:, None], -math.inf)
            return True
        mask = self.call.whole_mask
        if mask is None:
            return False
        mask = self.tokens.reorder(self._queries(mask), -1)
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
        return self.tokens.reorder(x).to(self.call.working)


class _Keys:
    """Keys of one kind: `top` [N, M], the largest logit.

    `exponents` at most 0, the logits below it; `weights`, e to these; and `sums` [N, M, D + 2] of weighted values, of
    their norms, and of 1.
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


WIDEST = 256
AXES = 3
INSTALL = "python -m pip install triton"


def refusal(call: FusedCall, tokens: Tokens) -> str:
    """The reason why these kernels do not read a call; "" where they do."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    width, of_values, axes = call.q.shape[-1], call.v.shape[-1], tokens.places.shape[1]
    reasons = {
        f"triton is not installed (`{INSTALL}`)": importlib.util.find_spec("triton") is None,
        f"it runs on a GPU, and the encoder is on {call.q.device.type}": not (call.q.is_cuda or interpreted),
        "queries and keys are not the same tokens": call.q.shape[-2] != call.k.shape[-2],
        "the model gives its kernel a mask": call.mask is not None,
        "it computes in float32, and the model in float64": call.q.dtype == torch.float64,
        f"heads are {width} wide (values {of_values}), and it reads widths of {WIDEST} at most, all alike": (
            width > WIDEST or of_values != width
        ),
        f"the grid has {axes} axes, and it knows {AXES} at most": axes > AXES,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def by_triton(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    """Of a call without a `refusal`, whose kernel gave `out` [B, H, Q, D]."""
    triton_kernels: Any = importlib.import_module("diagnostics.encoders.attention.triton_kernels")
    samples, heads, queries, width = call.q.shape
    q, k, v = (x.expand(samples, *x.shape[1:]) for x in (call.q, call.k, call.v))
    device = q.device
    if device.type == "cpu" and q.dtype == torch.bfloat16:
        # Triton's interpreter holds these as integers, and multiplies them as such.
        q, k, v = q.float(), k.float(), v.float()
    order = torch.arange(queries, device=device) if tokens.order is None else tokens.order
    # By position in the call: so coordinates are permuted, and no token is.
    kind = torch.zeros(queries, dtype=torch.int32, device=device)
    kind[order[: tokens.prefix]], kind[order[tokens.grid]] = 1, 2
    places = torch.zeros(tokens.places.shape[1], queries, device=device)
    places[:, order[tokens.grid]] = tokens.places.T
    rows = Rows.empty(samples, heads, queries, dtype=torch.float32, device=device)
    lse, received = (torch.full((samples, heads, queries), math.nan, device=device) for _ in range(2))
    padded = max(16, 1 << (width - 1).bit_length())
    queries_M, keys_N = triton_kernels.TILES[q.element_size()][padded]
    sizes = (call.scale * math.log2(math.e), heads, k.shape[1], queries, width)
    has_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    common = {
        "causal": call.causal,
        "precision": triton_kernels.PRECISION if has_cores else "ieee",
        "M": queries_M,
        "N": keys_N,
        "D": padded,
        **triton_kernels.OPTIONS,
    }
    # Only the first axis may be longer than 65,535.
    by_rows, by_keys = ((samples * heads, -(-queries // block)) for block in (queries_M, keys_N))
    strides = (*q.stride(), *k.stride())
    with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad():
        triton_kernels.rows_kernel[by_rows](
            q, k, kind, places, rows.entropy, rows.distance, rows.prefix, rows.peak, rows.logit, rows.padding, lse,
            *sizes, *strides, axes=len(places), **common,
        )  # fmt: skip
        triton_kernels.error_kernel[by_rows](
            q, k, v, out, rows.error, *sizes, *strides, *v.stride(), *out.stride(), **common
        )
        triton_kernels.received_kernel[by_keys](q, k, kind, lse, received, *sizes, *strides, **common)
    in_order = Rows(*(tokens.reorder(values, -1) for values in vars(rows).values()))
    return in_order.reduce(tokens, received[..., order[tokens.grid]])


Implementation = Literal["auto", "plain", "blocks", "triton"]
IMPLEMENTATIONS = {"plain": plain, "blocks": blocks, "triton": by_triton}


@torch.no_grad()
def attention_statistics(call: FusedCall, out: Tensor, tokens: Tokens, by: Implementation = "auto") -> Statistics:
    """Of a call of a fused kernel that gave `out` [B, H, Q, D]; without gradients.

    `auto` takes `triton` where it can read the call on a GPU, else `blocks`. Raises DiagnosticsError for one asked for
    by name that cannot read the call, and for a name of none.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders import attention
        >>> from diagnostics.encoders.attention.capture import FusedCall
        >>> q = k = v = torch.zeros(1, 2, 9, 8)  # 2 heads, uniform over 9 tokens
        >>> call, out = FusedCall.of((q, k, v), {}), v
        >>> tokens = attention.Tokens.nowhere(9, 9, q.device)
        >>> statistics = attention.attention_statistics(call, out, tokens)
        >>> statistics.entropy.exp()  # in tokens
        tensor([[9.0000, 9.0000]], dtype=torch.float64)
    """
    if by == "auto":
        return _automatic(call, out, tokens)
    check_known("attention statistics", by, ("auto", *IMPLEMENTATIONS))
    if by == "triton" and (reason := refusal(call, tokens)):
        raise DiagnosticsError(
            f"Attention statistics by triton cannot be had here: {reason}; choose auto or blocks.", code="no-kernel"
        )
    return IMPLEMENTATIONS[by](call, out, tokens)


_FAILED: dict[tuple[torch.dtype, int, torch.device], str] = {}
"""Why triton failed on calls of a type and width on a device, which is not tried again there."""


def _automatic(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    case = (call.q.dtype, call.q.shape[-1], call.q.device)
    reason = (refusal(call, tokens) or _FAILED.get(case, "")) if call.q.is_cuda else "on a CPU"
    if not reason:
        try:
            statistics = by_triton(call, out, tokens)
        except torch.OutOfMemoryError:  # of this call: another may have room
            reason = f"{FAILURE}, as memory ran out in a call"
        except Exception as error:  # compiler, driver and GPU raise many kinds of error
            reason = _FAILED[case] = f"{FAILURE}: {describe(error)}"
        else:
            _log_choice("triton", "")
            return statistics
    _log_choice("blocks", reason)
    return blocks(call, out, tokens)


FAILURE = "triton failed"


@functools.cache
def _log_choice(chosen: str, reason: str) -> None:
    """Log it once a process: a failure on a card as a warning, which is shown without being asked for."""
    level = logging.WARNING if reason.startswith(FAILURE) else logging.INFO
    because = f" ({reason})" if reason else ""
    logging.getLogger("diagnostics").log(level, "attention statistics by %s%s", chosen, because)

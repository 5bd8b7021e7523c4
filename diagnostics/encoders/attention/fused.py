"""Attention weights of a fused kernel, which does not return them: recomputed from the kernel's arguments.

Shape suffixes: B sample, H head, Q query, K key, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from diagnostics.encoders.taps import Site, Tap
from diagnostics.errors import DiagnosticsError

# How far a row may be from the kernel's, as a share of the sum of |attention| |value|: rounding of that type, not more.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


class NotFiniteError(DiagnosticsError):
    """Queries or keys are not finite, first those of `sample`, counted within the batch."""

    def __init__(self, message: str, sample: int) -> None:
        super().__init__(message)
        self.sample = sample


@dataclass(frozen=True)
class FusedCall:
    """The arguments of a fused kernel: q [B, H, Q, D], k [B, H or fewer, K, D], v [B, H or fewer, K, D].

    Examples:
        >>> import torch
        >>> from torch.nn.functional import scaled_dot_product_attention
        >>> from diagnostics.encoders.attention.fused import FusedCall
        >>> q, k, v = torch.randn(3, 2, 4, 10, 8)  # 2 samples, 4 heads, 10 tokens
        >>> out = scaled_dot_product_attention(q, k, v, is_causal=True)
        >>> call = FusedCall.of((q, k, v), {"is_causal": True})
        >>> weights = call.weights(slice(None))
        >>> weights.shape == call.shape, call.error(weights, out, slice(None)) < 1e-5
        (True, True)
        >>> weights[0, 0, 0, :3]  # the first token sees itself alone
        tensor([1., 0., 0.])
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    scale: float

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FusedCall:
        """From the arguments of `scaled_dot_product_attention`."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        q, k, v = given["query"], given["key"], given["value"]
        if q.ndim == 3:
            q, k, v = q[:, None], k[:, None], v[:, None]
        scale = given.get("scale")
        return cls(
            q, k, v, given.get("attn_mask"), given.get("dropout_p", 0.0), given.get("is_causal", False),
            q.shape[-1] ** -0.5 if scale is None else scale,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its attention."""
        return (*self.q.shape[:-1], self.k.shape[-2])

    @property
    def working(self) -> torch.dtype:
        """The type to compute in: on a GPU the one whose products are never shortened to TF32."""
        return torch.float64 if self.q.dtype == torch.float64 or self.q.is_cuda else torch.float32

    def check_finite(self, name: str, kept: slice = slice(None)) -> None:
        """Raises NotFiniteError where queries or keys of some tokens are NaN or infinite, which would spoil a mean; `name` says
        whose attention it is."""
        for what, x in (("queries", self.q), ("keys", self.k)):
            x = x[..., kept, :]
            if not bool(x.sum(dtype=torch.float32).isfinite()) and not bool(x.isfinite().all()):
                sample, head, token, _ = (~x.isfinite()).nonzero()[0].tolist()
                raise NotFiniteError(
                    f"Attention of {name} has {what} that are NaN or infinite, first in sample {sample} of the batch, head {head}, "
                    f"token {token}: look for the first tap whose activations are not finite.",
                    sample,
                )

    def scores(self, rows: slice, head: int) -> Tensor:
        """q k' scale + mask [B, Q, K] of a head of some samples, in the type to compute in; -inf where a key is not seen."""
        scores = self.q[rows, head].to(self.working) @ self._of(self.k, rows, head).mT
        scores *= self.scale
        if self.causal:
            return scores.masked_fill_(~torch.ones_like(scores[0], dtype=torch.bool).tril(), -math.inf)
        mask = self.whole_mask
        if mask is None:
            return scores
        if mask.dtype == torch.bool:
            return scores.masked_fill_(~mask[rows, head], -math.inf)
        return scores.add_(mask[rows, head])

    @property
    def whole_mask(self) -> Tensor | None:
        """The mask [B, H, Q, K], as a view."""
        if self.mask is None:
            return None
        folded = self.mask.ndim == 3 and len(self.shape) == 4 and self.shape[1] == 1
        return (self.mask[:, None] if folded else self.mask).expand(self.shape)

    def weights(self, rows: slice) -> Tensor:
        """softmax(q k' scale + mask) of some samples, head by head; a query that may see nothing has zeros."""
        kept = torch.float64 if self.q.dtype == torch.float64 else torch.float32
        weights = torch.empty((len(self.q[rows]), *self.shape[1:]), dtype=kept, device=self.q.device)
        for head in range(self.shape[1]):
            scores = self.scores(rows, head)
            blind = (scores == -math.inf).all(-1, keepdim=True)
            weights[:, head] = scores.softmax(-1).masked_fill_(blind, 0)
        return weights

    def error(self, weights: Tensor, out: Tensor, rows: slice) -> float:
        """How far these weights times the values are from what the kernel gave, [B, H, Q, D] as `out`: the worst row's
        share of its sum of |attention| |value|.
        """
        worst = 0.0
        for head in range(weights.shape[1]):
            ours, size = self._weighed(weights[:, head], rows, head)
            off = torch.linalg.vector_norm(ours - out[rows, head].to(ours.dtype), dim=-1)
            # NaN is not 0, so it counts.
            seeing = size != 0
            worst = max(worst, float((off[seeing] / size[seeing]).nan_to_num(math.inf).max()) if seeing.any() else 0.0)
        return worst

    def _weighed(self, weights: Tensor, rows: slice, head: int) -> tuple[Tensor, Tensor]:
        """Attention times values of a head [B, Q, D], and the sum of |attention| |value| [B, Q] that its error scales with."""
        values = self._of(self.v, rows, head)
        weights = weights.to(self.working)
        size = (weights @ torch.linalg.vector_norm(values, dim=-1, keepdim=True))[..., 0]
        return weights @ values, size

    def _of(self, x: Tensor, rows: slice, head: int) -> Tensor:
        """A head of k or v; with fewer of them than queries have, several heads share one."""
        x = x.expand(self.q.shape[0], *x.shape[1:])
        return x[rows, head * x.shape[1] // self.q.shape[1]].to(self.working)


class OfCall(NamedTuple):
    """What a reduction makes of a call without its matrix: values [B, ...], the `error` of the worst row as
    `FusedCall.error` gives it, and the largest share of a row of the tap's tokens that goes to `padding`.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.attention.fused import FusedCall
        >>> from diagnostics.measures.locality.heads import ReduceAttention
        >>> q = k = v = torch.zeros(1, 2, 9, 8)  # 2 heads, uniform over 3 x 3 places
        >>> out, call = v, FusedCall.of((q, k, v), {})
        >>> grid, site = dx.Grid((3, 3), ("y", "x")), dx.Site("blocks.0")
        >>> tap = dx.Tap("blocks.0", 0.5, "trunk", 16, grid, site)
        >>> made = ReduceAttention(["peak"]).of_call(tap, tap.site, call, out)
        >>> made.values.shape, made.padding
        (torch.Size([1, 2, 1]), 0.0)
    """

    values: Tensor
    error: float
    padding: float


@runtime_checkable
class ReduceCall(Protocol):
    """A reduction that needs no matrix where a fused kernel computed the attention; else it is called with it as any other."""

    def __call__(self, tap: Tap, attention: Tensor) -> Tensor: ...

    def of_call(self, tap: Tap, site: Site, call: FusedCall, out: Tensor) -> OfCall:
        """From the arguments of the kernel and what it gave, `out` [B, H, Q, D]."""
        ...

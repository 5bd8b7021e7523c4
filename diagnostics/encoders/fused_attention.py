"""Attention weights of a fused kernel, which does not return them: recomputed from the kernel's arguments.

Shape suffixes: B sample, H head, Q query, K key, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# How far a row may be from the kernel's, as a share of the sum of |attention| |value|: rounding of that type, not more.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class FusedCall:
    """The arguments of a fused kernel: q [B, H, Q, D], k [B, H or fewer, K, D], v [B, H or fewer, K, D]."""

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

    def weights(self, rows: slice) -> Tensor:
        """softmax(q k' scale + mask) of some samples, head by head; a query that may see nothing has zeros."""
        allowed = added = None
        if self.causal:
            allowed = torch.ones(self.shape[-2:], dtype=torch.bool, device=self.q.device).tril()
        elif self.mask is not None:
            mask = (
                self.mask[:, None] if self.mask.ndim == 3 and len(self.shape) == 4 and self.shape[1] == 1 else self.mask
            )
            mask = mask.expand(self.shape)[rows]
            allowed, added = (mask, None) if mask.dtype == torch.bool else (None, mask)
        kept = torch.float64 if self.q.dtype == torch.float64 else torch.float32
        weights = torch.empty((len(self.q[rows]), *self.shape[1:]), dtype=kept, device=self.q.device)
        for head in range(self.shape[1]):
            scores = self.q[rows, head].to(self.working) @ self._of(self.k, rows, head).mT
            scores *= self.scale
            if added is not None:
                scores += added[:, head]
            if allowed is not None:
                scores.masked_fill_(~(allowed[:, head] if allowed.ndim == 4 else allowed), -math.inf)
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
            seeing = size > 0
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

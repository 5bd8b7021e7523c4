"""Attention as a model computes it, captured or recomputed, and verified.

Fused kernels do not return it, so that it is recomputed from their arguments. `diagnostics.measures.locality.heads`
observes it for measures.

Shape suffixes: B sample, H head, Q query, K key, T token, D width of a head.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode

from diagnostics.encoders.attention.kernel_choice import multi_head_in_steps
from diagnostics.encoders.encoder import Captured, Reduce
from diagnostics.encoders.hooks import as_tokens, at_taps
from diagnostics.encoders.modules import whole
from diagnostics.encoders.taps import Site, Tap
from diagnostics.errors import DiagnosticsError

# How far a row may be from the kernel's, as a share of the sum of |attention| |value|: rounding of that type, not more.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


class NotFiniteError(DiagnosticsError):
    """Queries or keys are not finite, first those of `sample`, counted within the batch."""

    code = "not-finite"

    def __init__(self, message: str, sample: int) -> None:
        super().__init__(message)
        self.sample = sample


@dataclass(frozen=True)
class FusedCall:
    """The arguments of a fused kernel: q [B, H, Q, D], k [B, H or fewer, K, D], v [B, H or fewer, K, D].

    Examples:
        >>> import torch
        >>> from torch.nn.functional import scaled_dot_product_attention
        >>> from diagnostics.encoders.attention.capture import FusedCall
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
            q,
            k,
            v,
            mask=given.get("attn_mask"),
            dropout=given.get("dropout_p", 0.0),
            causal=given.get("is_causal", False),
            scale=q.shape[-1] ** -0.5 if scale is None else scale,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its attention."""
        return (*self.q.shape[:-1], self.k.shape[-2])

    @property
    def working(self) -> torch.dtype:
        """The type to compute in: on a GPU the one whose products are never shortened to TF32."""
        return torch.float64 if self.q.dtype == torch.float64 or self.q.is_cuda else torch.float32

    def check_finite(self, name: str, kept: slice = slice(None)) -> None:
        """Raise NotFiniteError where queries or keys of some tokens are NaN or infinite, which would spoil a mean.

        `name` says whose attention it is.
        """
        for what, x in (("queries", self.q), ("keys", self.k)):
            x = x[..., kept, :]
            if not bool(x.sum(dtype=torch.float32).isfinite()) and not bool(x.isfinite().all()):
                sample, head, token, _ = (~x.isfinite()).nonzero()[0].tolist()
                raise NotFiniteError(
                    f"Attention of {name} has {what} that are NaN or infinite, first in sample {sample} of the batch, "
                    f"head {head}, token {token}: look for the first tap whose activations are not finite.",
                    sample,
                )

    def scores(self, rows: slice, head: int) -> Tensor:
        """q k' scale + mask [B, Q, K] of a head of some samples, in the type to compute in.

        -inf where a key is not seen.
        """
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
            weights[:, head] = scores.softmax(-1).masked_fill_((scores == -math.inf).all(-1, keepdim=True), 0)
        return weights

    def error(self, weights: Tensor, out: Tensor, rows: slice) -> float:
        """Distance of these weights times the values from what the kernel gave, [B, H, Q, D] as `out`.

        The worst row's share of its sum of |attention| |value|.
        """
        worst = 0.0
        for head in range(weights.shape[1]):
            ours, size = self._weigh(weights[:, head], rows, head)
            off = torch.linalg.vector_norm(ours - out[rows, head].to(ours.dtype), dim=-1)
            # NaN is not 0, so it counts.
            seeing = size != 0
            worst = max(worst, float((off[seeing] / size[seeing]).nan_to_num(math.inf).max()) if seeing.any() else 0.0)
        return worst

    def _weigh(self, weights: Tensor, rows: slice, head: int) -> tuple[Tensor, Tensor]:
        """Attention times values of a head [B, Q, D].

        Beside it the sum of |attention| |value| [B, Q] that its error scales with.
        """
        values = self._of(self.v, rows, head)
        weights = weights.to(self.working)
        size = (weights @ torch.linalg.vector_norm(values, dim=-1, keepdim=True))[..., 0]
        return weights @ values, size

    def _of(self, x: Tensor, rows: slice, head: int) -> Tensor:
        """A head of k or v; with fewer of them than queries have, several heads share one."""
        x = x.expand(self.q.shape[0], *x.shape[1:])
        return x[rows, head * x.shape[1] // self.q.shape[1]].to(self.working)


class OfCall(NamedTuple):
    """Reduction of a call without its matrix: values [B, ...].

    `error` is that of the worst row as `FusedCall.error` gives it; `padding`, the largest share of a row of the tap's
    tokens that goes there.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.attention.capture import FusedCall
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
    """A reduction that needs no matrix where a fused kernel computed the attention.

    Else it is called with it as any other.
    """

    def __call__(self, tap: Tap, attention: Tensor) -> Tensor: ...

    def of_call(self, tap: Tap, site: Site, call: FusedCall, out: Tensor) -> OfCall:
        """From the arguments of the kernel and what it gave, `out` [B, H, Q, D]."""
        ...


MOST_BYTES = 128 * 2**20
"""Attention of more bytes is handed over in several parts, each of whole samples."""

PADDING_MASS = 1e-3

_SOFTMAX = frozenset({"softmax", "special_softmax"})
_PRODUCT = frozenset({"matmul", "__matmul__", "bmm", "einsum"})
# What hands attention on without changing it; views keep the address, so they need no name here.
_SAME = frozenset({"to", "type_as", "type", "float", "half", "bfloat16", "contiguous", "clone", "dropout", "reshape"})
# Whole blocks in one kernel that takes no queries and keys.
_OPAQUE = frozenset({"_transformer_encoder_layer_fwd", "_native_multi_head_attention"})


def read_attention(
    module: nn.Module, taps: Sequence[Tap], encoder: str, reduce: Reduce, forward: Callable[[], Any]
) -> Captured:
    """`{tap: reduce(tap, attention [B, H, T, T])}` of the blocks that the taps stand after, from one call of `forward`.

    All tokens of the tap, prefix tokens first, in float32 (float64 for a float64 model). `reduce` returns a tensor
    [sample, ...] and may be given the batch in parts, which are concatenated; a `ReduceCall` is given the call of a
    fused kernel in place of a matrix. A tap is left out, with the reason, unless its module computes exactly one
    attention, and that over the tap's tokens.

    Raises DiagnosticsError where no tap has one, where attention times values is not what the kernel gave, where
    queries or keys are not finite, and where dropout is active.
    """
    own = [tap for tap in taps if tap.site is not None and tap.site.when == "after"]
    watching = _Watching(encoder, reduce)
    with at_taps(module, own, encoder, watching.begin, watching.end), watching:
        forward()
    reason = "read before a module, so it has no attention of its own"
    left_out = {tap.name: reason for tap in taps if tap not in own} | watching.left_out
    if not watching.seen:
        raise DiagnosticsError(f"{encoder} gives no attention: {_together(left_out)}.", code="no-attention")
    return Captured({tap.name: watching.seen[tap.name] for tap in taps if tap.name in watching.seen}, left_out)


def _together(reasons: Mapping[str, str]) -> str:
    """Reasons with the taps that they are of, each once."""
    taps: dict[str, list[str]] = defaultdict(list)
    for tap, reason in reasons.items():
        taps[reason].append(tap)
    return "; ".join(f"{names[0]}{' and others' if names[1:] else ''}: {reason}" for reason, names in taps.items())


@dataclass
class _Frame:
    """A tap's module while it runs: what attention it computed so far."""

    tap: Tap
    site: Site
    shapes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    parts: list[Tensor] = field(default_factory=list[Tensor])
    reason: str = ""
    idle: int = 0
    """Softmaxes over its tokens that have weighed nothing."""

    @property
    def tokens(self) -> int:
        """Tokens in the module, padding included."""
        return self.tap.tokens + self.site.dropped

    def square(self, shape: tuple[int, ...]) -> bool:
        """True if an attention of that shape is among the tokens in the module."""
        return shape[-2:] == (self.tokens, self.tokens)

    def verdict(self, samples: int) -> str:
        """The reason why this tap has no attention; nothing where it has one."""
        shapes = self.shapes
        if self.site.rows > 1:
            return f"its attention is within each of the {self.site.rows} rows of a sample"
        if not shapes and self.idle:
            return "a softmax over its tokens weighs no values, or is changed before it does"
        if not shapes:
            return self.reason or "no attention inside"
        if len(shapes) > 1 or self.idle:
            return f"{max(2, len(shapes))} attentions inside, and none is that of the tap"
        if not self.square(shapes[0]):
            return (
                f"attention of {shapes[0][-2]} queries to {shapes[0][-1]} keys, not among the tap's "
                f"{self.tokens} tokens"
            )
        if len(shapes[0]) != 4 or shapes[0][0] != samples:
            return f"attention of shape {shapes[0]} for {samples} samples: its heads cannot be identified"
        return self.reason


@dataclass(eq=False)
class _Softmax:
    """A softmax over its last axis that has weighed nothing yet, and its copies.

    Held, which keeps their addresses taken.
    """

    tensors: list[Tensor]

    def held(self, used: Tensor) -> Tensor | None:
        """The one that shares its numbers with the tensor."""
        place = used.data_ptr(), used.numel()
        return next((tensor for tensor in self.tensors if (tensor.data_ptr(), tensor.numel()) == place), None)


class _Watching(TorchFunctionMode):
    """Sees every call of torch's functions: attention is a fused kernel's, or a softmax from when it weighs values."""

    def __init__(self, encoder: str, reduce: Reduce) -> None:
        super().__init__()
        self.encoder, self.reduce = encoder, reduce
        self.seen: dict[str, Tensor] = {}
        self.left_out: dict[str, str] = {}
        self.open: list[_Frame] = []
        """Of the modules that run."""
        self.heads: int | None = None
        self.waiting: list[_Softmax] = []

    def begin(self, tap: Tap, site: Site, _: Any) -> None:
        """A tap's module begins."""
        self.open.append(_Frame(tap, site))

    def end(self, tap: Tap, site: Site, output: Any) -> None:
        """A tap's module ends."""
        frame = next(frame for frame in self.open if frame.tap is tap)
        self.open.remove(frame)
        if reason := frame.verdict(len(as_tokens(tap, site, output))):
            self.left_out[tap.name] = reason
        else:
            self.seen[tap.name] = torch.cat(frame.parts)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.open:
            self.waiting.clear()
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if func is multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        if name in _OPAQUE:
            for frame in self.open:
                frame.reason = "one fused kernel for all of it, without queries and keys"
        if name in _PRODUCT and self.waiting:
            self._product(
                _contractions(args) if name == "einsum" else [(args[0], args[1], -2)] if len(args) > 1 else []
            )
        out = func(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            with whole(out.device):
                self._fused(FusedCall.of(args, kwargs), out if out.ndim > 3 else out[:, None])
        elif name in _SOFTMAX:
            self._softmax(args, kwargs, out)
        elif name in _SAME and self.waiting:
            self._handed_on(name, args, kwargs, out)
        return out

    def _multi_head(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """torch's own multi-head attention, seen through.

        As a function that can be overridden it would hide its calls.
        """
        outer, self.heads = self.heads, kwargs["num_heads"] if "num_heads" in kwargs else args[4]
        try:
            with self:
                return multi_head_in_steps(*args, **kwargs)
        finally:
            self.heads = outer

    def _softmax(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(out, Tensor) and out.ndim >= 3 and dim in (-1, out.ndim - 1):
            self.waiting.append(_Softmax([out]))
            for frame in self.open:
                frame.idle += frame.square(tuple(out.shape))

    def _handed_on(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        softmax = next((s for s in self.waiting if given is not None and s.held(given) is not None), None)
        if softmax is None or not isinstance(out, Tensor):
            return
        if name == "dropout":
            share, active = kwargs.get("p", (*args, 0.5)[1]), kwargs.get("training", (*args, 0.5, True)[2])
            if active and share > 0:
                raise self._dropped(share)
        softmax.tensors.append(out)

    def _product(self, operands: Sequence[tuple[Any, Any, int]]) -> None:
        """Take a softmax that weighs values as attention.

        `operands`: (weights, values, axis of the values summed over).
        """
        for softmax in self.waiting:
            for used, values, axis in operands:
                known = softmax.held(used) if isinstance(used, Tensor) else None
                if known is not None:
                    with whole(used.device):
                        self._weighing(softmax, used, known, _doubtful(values, axis))
                    return

    def _weighing(self, softmax: _Softmax, used: Tensor, known: Tensor, doubt: str) -> None:
        self.waiting.remove(softmax)
        for frame in self.open:
            frame.idle -= frame.square(tuple(known.shape))
        # The same numbers may go in with samples and heads folded into one axis.
        folded = used.ndim == 3 and known.ndim == 4 and used.shape == known.flatten(0, 1).shape
        weights = known if folded and used.is_contiguous() and known.is_contiguous() else used
        if weights.ndim == 3:
            weights = weights.unflatten(0, (-1, self.heads)) if self.heads else weights[:, None]
        most = TOLERANCE.get(weights.dtype, 1e-3)

        def of_rows(rows: slice) -> tuple[Tensor, str]:
            part = weights[rows] if weights.dtype == torch.float64 else weights[rows].float()
            mass = part.sum(-1)
            # The weights of a query without any key are all 0.
            summed = bool((((mass - 1).abs() <= most) | (mass == 0)).all()) and bool((part >= 0).all())
            return part, doubt if summed else "what weighs its values is no longer a softmax"

        self._reduce(self._wanting(weights.shape), weights.shape, of_rows)

    def _fused(self, call: FusedCall, out: Tensor) -> None:
        if call.dropout > 0:
            raise self._dropped(call.dropout)
        doubt = _doubtful(call.v, -2)
        wanting = self._wanting(call.shape)
        for frame in wanting:
            call.check_finite(f"{self.encoder} at tap {frame.tap.name}", frame.site.kept)
        # What is recomputed must not be shortened, whatever the model's own products may be.
        with torch.autocast(call.q.device.type, enabled=False):
            if not isinstance(self.reduce, ReduceCall):
                self._reduce(wanting, call.shape, lambda rows: (self._recompute(call, out, rows), doubt))
                return
            for frame in wanting:
                frame.reason = frame.reason or doubt
                if frame.reason:
                    continue
                values, error, padding = self.reduce.of_call(frame.tap, frame.site, call, out)
                self._agreeing(error, out.dtype)
                frame.reason = _lost(padding)
                if not frame.reason:
                    frame.parts.append(values)

    def _wanting(self, shape: Sequence[int]) -> list[_Frame]:
        """Note an attention of that shape in every open frame, and give those whose only one it is."""
        shape = tuple(shape)
        for frame in self.open:
            frame.shapes.append(shape)
            frame.parts.clear()
        alone = [frame for frame in self.open if frame.site.rows == 1 and frame.shapes == [shape]]
        return [frame for frame in alone if len(shape) == 4 and frame.square(shape)]

    def _reduce(
        self, wanting: list[_Frame], shape: Sequence[int], attention: Callable[[slice], tuple[Tensor, str]]
    ) -> None:
        """Reduces a matrix at once, before anything can be overwritten; in parts of whole samples."""
        step = max(1, MOST_BYTES // (4 * math.prod(shape[1:])))
        for start in range(0, shape[0] if wanting else 0, step):
            weights, lacking = attention(slice(start, start + step))
            for frame in wanting:
                kept = frame.site.kept
                frame.reason = frame.reason or lacking or _lost(_to_padding(weights, frame.site))
                if not frame.reason:
                    own = weights[..., kept, kept]
                    if frame.site.order:
                        order = torch.tensor(frame.site.order, device=own.device)
                        own = own[..., order, :][..., order]
                    frame.parts.append(self.reduce(frame.tap, own))

    def _recompute(self, call: FusedCall, out: Tensor, rows: slice) -> Tensor:
        """Attention [B, H, Q, K] of some samples, checked against what the kernel gave."""
        weights = call.weights(rows)
        self._agreeing(call.error(weights, out, rows), out.dtype)
        return weights

    def _agreeing(self, error: float, dtype: torch.dtype) -> None:
        """Raise DiagnosticsError where attention times values is not what the kernel gave."""
        most = TOLERANCE.get(dtype, 1e-3)
        frame = self.open[-1]
        if error == math.inf:
            raise DiagnosticsError(
                f"Attention of {self.encoder} at tap {frame.tap.name}, or its values, is NaN or infinite though "
                f"queries and keys are finite: look for the first tap whose activations are not finite, or are too "
                f"large to be multiplied.",
                code="not-finite",
            )
        if error > most:
            raise DiagnosticsError(
                f"Attention of {self.encoder} at tap {frame.tap.name}, recomputed from queries and keys, times the "
                f"values is not what '{frame.site.module}' computed (relative error {error:.2g}, at most "
                f"{most:g}): its kernel does something else, so there is no attention to measure.",
                code="irreproducible",
            )

    def _dropped(self, share: float) -> DiagnosticsError:
        return DiagnosticsError(
            f"Attention of {self.encoder} at tap {self.open[-1].tap.name} has a dropout of {share:g} active: "
            "make its module respect eval mode.",
            code="no-attention",
        )


def _to_padding(weights: Tensor, site: Site) -> float:
    own = weights[..., site.kept, :]
    return float((own.sum(-1) - own[..., site.kept].sum(-1)).max()) if site.dropped else 0.0


def _lost(mass: float) -> str:
    return f"its tokens attend to padding, with up to {mass:.2g} of their attention" if mass > PADDING_MASS else ""


def _doubtful(values: Any, axis: int) -> str:
    """The reason why the `axis` of the values that is summed over may not be that of tokens, or samples be heads.

    "" where neither.
    """
    if not isinstance(values, Tensor) or values.ndim < 2:
        return ""
    if values.ndim == 4 and values.shape[0] == values.shape[1] and values.stride(0) < values.stride(1):
        return f"{len(values)} samples and as many heads, and which is which is unclear"
    # Attention among features (XCiT, DaViT) may have this shape too; a linear map puts features innermost in memory.
    other = -2 if axis in (-1, values.ndim - 1) else -1
    if values.shape[axis] != values.shape[other] or values.stride(axis) >= values.stride(other):
        return ""
    return f"{values.shape[axis]} tokens and as many features a head, and it may be these that attend to each other"


def _contractions(args: tuple[Any, ...]) -> list[tuple[Any, Any, int]]:
    """The operands of an einsum that are summed over their last axis, with another that has that axis, and where."""
    if not isinstance(args[0], str):
        return []
    names, _, result = args[0].replace(" ", "").partition("->")
    operands = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
    terms = list(zip(names.split(","), operands, strict=False))
    return [
        (x, values, other.index(term[-1]))
        for term, x in terms
        if term and term[-1] not in result
        for other, values in terms
        if values is not x and term[-1] in other
    ]

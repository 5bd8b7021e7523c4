"""Attention heads.

Distance and entropy of their attention, how much of it goes to global tokens, and how much it gathers.

Attention gathers by how much one key gets of a row, how large logits become, and how much a few keys get of all rows.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, Observation, StoredTarget
from diagnostics.encoders.attention import (
    Implementation,
    Statistics,
    Tokens,
    attention_statistics,
    of_matrix,
)
from diagnostics.encoders.attention.capture import FusedCall, OfCall
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.encoders.taps import Grid, Site, Tap
from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.arrays import ShortRepr, as_tensor, over_taps
from diagnostics.measures.base import Case, Measure, define
from diagnostics.measures.locality.blocks import extents, lengths, places
from diagnostics.measures.result import state_attributes
from diagnostics.measures.statistics import mean_with_interval


@dataclass(frozen=True)
class ReduceAttention:
    """The reduction of attention to some `columns` [sample, head, column], with or without its matrix.

    They are `distance` in cells, `entropy` in nats, `normalised_entropy`, shares (`prefix`, `top_key`, `peak`,
    `received`), `logit`.

    `by` is the implementation where there is no matrix: `auto`, `plain`, `blocks` or `triton`.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.measures.locality.heads import ReduceAttention
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> batch = encoder.preprocess(encoder.example())[None]
        >>> reduce = ReduceAttention(["entropy", "distance"])
        >>> encoder.attention(batch, ["blocks.0"], reduce)["blocks.0"].shape
        torch.Size([1, 4, 2])
    """

    columns: Sequence[str]
    by: Implementation = "auto"

    def __call__(self, tap: Tap, attention: Tensor) -> Tensor:
        grid = tap.grid
        cells = places(grid.shape, attention.device).double()
        return self._kept(tap, of_matrix(attention[..., grid.prefix :, :], grid.prefix, cells))

    def of_call(self, tap: Tap, site: Site, call: FusedCall, out: Tensor) -> OfCall:
        statistics = attention_statistics(call, out, Tokens.of(tap, site, out.device), self.by)
        return OfCall(self._kept(tap, statistics), statistics.error, statistics.padding)

    def _kept(self, tap: Tap, statistics: Statistics) -> Tensor:
        return torch.stack([COLUMNS[name](statistics, tap.grid) for name in self.columns], dim=-1).float()


COLUMNS: Mapping[str, Callable[[Statistics, Grid], Tensor]] = {
    "distance": lambda statistics, grid: statistics.distance,
    "entropy": lambda statistics, grid: statistics.entropy,
    "normalised_entropy": lambda statistics, grid: statistics.entropy / (math.log(grid.tokens) or math.nan),
    "prefix": lambda statistics, grid: statistics.prefix,
    "top_key": lambda statistics, grid: statistics.top_key,
    "peak": lambda statistics, grid: statistics.peak,
    "logit": lambda statistics, grid: statistics.logit,
    "received": lambda statistics, grid: statistics.received_by_most(),
}
"""What can be recorded of each sample and head [sample, head]."""


STATISTICS = ("distance", "entropy", "normalised_entropy", "prefix", "top_key")
"""Last axis of what `Attention` records."""

VIT = "Dosovitskiy et al. 2020 (2010.11929), fig. 7"
DARCET = "Darcet et al. 2024 (2309.16588)"


@dataclass(frozen=True, repr=False)
class GlobalMass(ShortRepr):
    """Shares of the grid queries' attention: to prefix tokens, and to the one grid key that receives most (`top_key`).

    [sample, head], or [head] where the attention had no sample axis.

    Examples:
        >>> from diagnostics.measures.locality import global_token_mass
        >>> head = [[0, 0, 1], [0, 0, 1], [0.5, 0, 0.5]]
        >>> global_token_mass([head], prefix=1).top_key.tolist()  # mean of 1 and 1/2
        [0.75]
    """

    prefix: np.ndarray
    top_key: np.ndarray


def attention_distance(attention: Any, grid: Sequence[int], *, cell: float | Sequence[float] = 1.0) -> np.ndarray:
    """Mean attention distance of each head.

    Sources: Dosovitskiy et al. 2021, 2010.11929, fig. 7; Raghu et al. 2021, 2108.08810.

    The mean over queries of sum_k a_qk |place_q - place_k|, with Euclidean distances between the centres of cells.

    Parameters
    ----------
    attention: [sample, head, query, key] or [head, query, key] over grid tokens only, in raster order. Rows are
        renormalised over the keys that are given, so drop class and register tokens first: attention to them is at no
        distance. A row without any attention is left out.
    grid: extents of one, two or three axes.
    cell: length of a cell, the same along all axes or one each (pixels of a patch, seconds of a step).

    Returns [sample, head] or [head], in the unit of `cell`; NaN for a head whose rows are all empty. The value of
    uniform attention is `uniform_distance(grid, cell)`: compare with it, not across grids.

    Examples:
        >>> from diagnostics.measures.locality import attention_distance
        >>> heads = [[[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]]  # to itself, uniform
        >>> attention_distance(heads, (1, 2), cell=16).tolist()  # pixels: (0 + 16) / 2
        [0.0, 8.0]
    """
    grid = extents(grid)
    weights, single = _check(attention)
    tokens = math.prod(grid)
    if not 1 <= len(grid) <= 3 or weights.shape[-2:] != (tokens, tokens):
        raise DiagnosticsError(
            f"Attention of shape {tuple(weights.shape)[single:]} is not among the {tokens} cells of a grid of {grid}: "
            f"give one query and one key per cell, prefix tokens left out, on a grid of one to three axes.",
            code="bad-shape",
        )
    centres = places(grid, weights.device) * weights.new_tensor(lengths(cell, len(grid)), dtype=torch.float64)
    return _array(of_matrix(weights, 0, centres).distance, single)


def attention_entropy(attention: Any) -> np.ndarray:
    """Entropy of each head's attention in nats, mean over queries: ln(keys) for uniform attention, 0 for a single key.

    `attention` [sample, head, query, key] or [head, query, key]; rows are renormalised over the keys given, and a row
    without any attention is left out. Returns [sample, head] or [head]. It grows with the number of keys: compare
    entropy / ln(keys) across grids.

    Examples:
        >>> from diagnostics.measures.locality import attention_entropy
        >>> heads = [[[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]]
        >>> attention_entropy(heads).round(4).tolist()  # one key, and two: ln 2
        [0.0, 0.6931]
    """
    weights, single = _check(attention)
    return _array(of_matrix(weights, 0, None).entropy, single)


def global_token_mass(attention: Any, prefix: int) -> GlobalMass:
    """Share of the grid tokens' attention that goes to global tokens: prefix tokens, and the grid token looked at most.

    `attention` [sample, head, token, token] or [head, token, token] over **all** tokens, the `prefix` class and
    register tokens first. The share of the top key is that of the mean over queries, so that a token which every query
    looks at (an attention sink) stands out, and one that each query finds in another place does not. Uniform attention
    gives prefix / tokens and 1 / tokens.

    Examples:
        >>> from diagnostics.measures.locality import global_token_mass
        >>> mass = global_token_mass([[[0.25] * 4] * 4], prefix=2)  # uniform over 2 + 2
        >>> mass.prefix.tolist(), mass.top_key.tolist()
        ([0.5], [0.25])
    """
    weights, single = _check(attention)
    if weights.shape[-2] != weights.shape[-1] or not 0 <= prefix < weights.shape[-1]:
        raise DiagnosticsError(
            f"Attention of shape {tuple(weights.shape)[single:]} is not among all tokens, {prefix} prefix tokens and a "
            f"grid: give one query and one key for each of both.",
            code="bad-shape",
        )
    statistics = of_matrix(weights[..., prefix:, :], prefix, None)
    return GlobalMass(_array(statistics.prefix, single), _array(statistics.top_key, single))


def uniform_distance(grid: Sequence[int], cell: float | Sequence[float] = 1.0) -> float:
    """Attention distance of uniform attention: the mean distance of two cells, drawn with replacement.

    A pair's offset of d along an axis of n cells occurs n - |d| times, so offsets are counted, not pairs.

    Examples:
        >>> from diagnostics.measures.locality import uniform_distance
        >>> round(uniform_distance((14, 14), 16), 4)  # 14 x 14 patches of 16 pixels
        116.4922
    """
    grid = extents(grid)
    sizes = lengths(cell, len(grid))
    total = 0.0
    for offsets in itertools.product(*(range(n) for n in grid[:-1])):
        count = math.prod((n - d) * (1 + (d > 0)) for n, d in zip(grid, offsets, strict=False))
        along = np.arange(grid[-1])
        fixed = sum((d * length) ** 2 for d, length in zip(offsets, sizes, strict=False))
        total += count * float(np.sqrt(fixed + (along * sizes[-1]) ** 2) @ ((grid[-1] - along) * (1 + (along > 0))))
    return total / math.prod(grid) ** 2


def _check(attention: Any) -> tuple[Tensor, bool]:
    """As [sample, head, query, key], and whether it came without the sample axis.

    Not yet float64, since it is large.
    """
    weights = attention.detach() if isinstance(attention, Tensor) else as_tensor(attention)
    shape = tuple(weights.shape)
    refuse_values(
        (
            weights.ndim not in (3, 4) or 0 in shape,
            f"Attention has shape {shape}: give [sample, head, query, key] or [head, query, key].",
            "bad-shape",
        ),
        (
            not bool(weights.sum(dtype=torch.float64).isfinite()) or bool((weights < 0).any()),
            f"Attention of shape {shape} holds negative, infinite or NaN weights: apply the softmax.",
        ),
    )
    return (weights, False) if weights.ndim == 4 else (weights[None], True)


def _array(values: Tensor, single: bool) -> np.ndarray:
    return (values[0] if single else values).cpu().numpy()


class Attention(Observation):
    """The `STATISTICS` per sample and head.

    Distance in cells, entropy over the grid in nats and as a share of ln(cells), and the shares that go to prefix
    tokens and to the most attended grid token.
    """

    name = "attention"
    samples = 64
    in_pass = True
    columns: ClassVar[tuple[str, ...]] = STATISTICS

    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        return encoder.attention(batch, taps, ReduceAttention(self.columns))


class HeadMeasure(Measure):
    """One of the columns that its observation records, at every tap that stands after one attention.

    The value is the mean over heads and samples, and that of each head by itself stands beside it.
    """

    family = "spatial"
    higher_is_better = None
    needs = "attention"
    observation = Attention()
    columns: ClassVar[tuple[str, ...]] = STATISTICS
    """What its observation records."""
    statistic: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    functional: ClassVar[str]

    @abstractmethod
    def uniform(self, grid: Grid) -> float:
        """The value of uniform attention."""

    def identity(self, grid: Grid) -> float:
        """The value where every token looks at itself."""
        return 0.0

    def lacks(self, grid: Grid) -> str:
        """The lack of the grid for it, in words; nothing where it has all."""
        return "one cell, so nowhere else to look" if grid.tokens < 2 else ""

    def why_unknown(self, lost: int, values: np.ndarray, n: int) -> str:
        """The reason why so many samples have no value, in words; `values` [sample, head, column] as recorded."""
        return f"{lost} of {n} samples have a head that does not look at the grid"

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        assert self.observation is not None
        observed = activations.observation_arrays(self.observation.name)
        left_out = observed.left_out if isinstance(observed, Captured) else {}
        taps = activations.taps
        n = max((len(values) for values in observed.values()), default=0)
        heads = max((values.shape[1] for values in observed.values()), default=1)
        by_head = np.full((len(taps), heads), np.nan)
        each = np.full((n, len(taps)), np.nan)
        beside = {name: np.full(len(taps), np.nan) for name in self.beside}
        uniform, identity = (np.full(len(taps), np.nan) for _ in range(2))
        reasons: list[tuple[str, str]] = []
        for t, tap in enumerate(taps):
            if tap.name not in observed:
                reasons.append((tap.name, left_out.get(tap.name, "no attention was recorded")))
                continue
            for name in beside:
                beside[name][t] = _mean(observed[tap.name][:, :, self.columns.index(name)].mean(axis=1))
            if lacking := self.lacks(tap.grid):
                reasons.append((tap.name, lacking))
                continue
            values = observed[tap.name][:, :, self.columns.index(self.statistic)].astype(np.float64)
            uniform[t], identity[t] = self.uniform(tap.grid), self.identity(tap.grid)
            by_head[t, : values.shape[1]] = [_mean(values[:, head]) for head in range(values.shape[1])]
            each[:, t] = values.mean(axis=1)
            if lost := int(np.isnan(each[:, t]).sum()):
                reasons.append((tap.name, self.why_unknown(lost, observed[tap.name], n)))
        score = np.array([_mean(column) for column in each.T])
        variables: dict[str, Any] = {
            **mean_with_interval(each, activations.groups[:n], seed),
            "score": score,
            "by_head": (("tap", "head"), by_head),
            "line_uniform": uniform,
            "share_of_uniform": np.divide(score, uniform, out=np.full(len(score), np.nan), where=uniform > 0),
            "line_identity": identity,
            **beside,
        }
        attrs = state_attributes(
            functional=self.functional,
            pooling="none: grid queries, mean over queries, heads and samples",
            centring="none",
            reasons=reasons,
            n=n,
            seed=seed,
        )
        return over_taps(activations, variables, attrs, head=np.arange(heads))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)].astype(np.float64)
    return float(known.mean()) if len(known) else float("nan")


def _uniform(tokens: int) -> np.ndarray:
    return np.full((1, tokens, tokens), 1 / tokens)


def _next_with_wrap(side: int) -> np.ndarray:
    """Attention of every cell to its right neighbour, of the last one of a row to the first."""
    return np.roll(np.eye(side**2).reshape(side**2, side, side), 1, axis=2).reshape(1, side**2, side**2)


def _gaussian(side: int, cell: float, sigma: float) -> np.ndarray:
    at = places((side, side)).numpy() * cell
    return np.exp(-((at[:, None] - at[None]) ** 2).sum(axis=2) / (2 * sigma**2))[None]


def _distance(attention: np.ndarray, grid: Sequence[int], cell: float | Sequence[float] = 1.0) -> float:
    return float(attention_distance(attention, grid, cell=cell)[0])


def _distance_of_one_query(row: int, side: int) -> float:
    """Distance of one uniform query of a square grid of 16 px cells, from attention that stays put elsewhere."""
    attention = np.eye(side**2)[None].copy()
    attention[0, row] = 1 / side**2
    return side**2 * _distance(attention, (side, side), 16)


AttentionDistance = define(
    HeadMeasure, "AttentionDistance",
    name="attention_distance",
    answers="How far across the grid do the heads of each block look?",
    source="Dosovitskiy et al. 2021 (2010.11929), figure 7; Raghu et al. 2021 (2108.08810)",
    statistic="distance",
    functional="mean over queries of sum_k a_qk |place_q - place_k|, rows renormalised over grid keys",
    unit="cells of the tap's grid",
    known_answers=(
        *(
            Case(f"uniform, {n} x {n} cells of {cell} px", value, VIT, lambda n=n, cell=cell: _distance(_uniform(n * n), (n, n), cell))
            for n, cell, value in ((14, 16, 116.492227), (16, 14, 116.565053), (24, 14, 175.041985), (7, 32, 115.502894))
        ),
        Case("uniform query in a corner of 14 x 14 cells of 16 px", 161.030167, VIT, lambda: _distance_of_one_query(0, 14), 1e-5),
        Case("uniform query beside the centre of 14 x 14 cells of 16 px", 86.018933, VIT, lambda: _distance_of_one_query(7 * 14 + 7, 14), 1e-5),
        Case("every query attends to itself", 0, VIT, lambda: _distance(np.eye(49)[None], (7, 7))),
        Case("right neighbour with wrap, 14 columns of 16 px", 29.714286, VIT, lambda: _distance(_next_with_wrap(14), (14, 14), 16)),
        Case("the other of 2 rows of 6 cells, 3 high and 5 wide", 3, VIT, lambda: _distance(np.roll(np.eye(12), 6, axis=1)[None], (2, 6), (3.0, 5.0))),
        Case("Gaussian of 32 px on 14 x 14 cells of 16 px", 36.679733, VIT, lambda: _distance(_gaussian(14, 16, 32), (14, 14), 16)),
        Case("uniform, 512 steps: (T^2 - 1) / 3T", 170.666016, VIT, lambda: _distance(_uniform(512), (512,))),
        Case("uniform, 40 % of the mass on keys outside the grid", 116.492227, VIT, lambda: _distance(0.6 * _uniform(196), (14, 14), 16)),
    ),
    uniform=lambda self, grid: uniform_distance(grid.shape),
)  # fmt: skip


AttentionEntropy = define(
    HeadMeasure,
    "AttentionEntropy",
    name="attention_entropy",
    answers="Do the heads of each block look at few places or at many?",
    source="Shannon entropy of attention rows; per head as in Zhai et al. 2023 (2303.06296)",
    standard=False,
    statistic="entropy",
    beside=("normalised_entropy",),
    functional="mean over queries of -sum_k a_qk ln a_qk, rows renormalised over grid keys",
    unit="nats",
    known_answers=(
        Case("uniform over 197 keys: ln 197", 5.283204, VIT, lambda: float(attention_entropy(_uniform(197))[0])),
        Case("one key", 0, VIT, lambda: float(attention_entropy(np.eye(9)[None])[0])),
    ),
    uniform=lambda self, grid: math.log(grid.tokens),
)


GlobalTokenMass = define(
    HeadMeasure,
    "GlobalTokenMass",
    name="global_token_mass",
    answers="How much attention leaves the grid for class and register tokens, or gathers on one token?",
    source="Darcet et al. 2024 (2309.16588); Sun et al. 2024 (2402.17762)",
    standard=False,
    statistic="prefix",
    beside=("top_key",),
    functional=(
        "mean over grid queries of their attention to prefix tokens; top_key: to the grid token that receives most"
    ),
    unit="share of attention",
    known_answers=(
        Case(
            "uniform over 196 tokens and 1 class token",
            1 / 197,
            DARCET,
            lambda: float(global_token_mass(_uniform(197), 1).prefix[0]),
        ),
    ),
    lacks=lambda self, grid: "" if grid.prefix else "no prefix tokens",
    uniform=lambda self, grid: grid.prefix / (grid.prefix + grid.tokens),
)


FEW = 0.01
"""Share of the grid keys that are called few."""
GATHERED = ("peak", "logit", "received")
"""Last axis of what `Gathering` records."""
CLOSED = "closed form"
BOLYA = "closed form, after the global tokens of Bolya et al. 2025 (2504.13181)"


class Gathering(Attention):
    """Per sample and head: the mean over rows of their largest share, the largest logit, and what few keys receive.

    Beside `Attention`, whose columns in stores that exist it leaves as they are.
    """

    name = "attention_gathering"
    columns = GATHERED


class GatheringMeasure(HeadMeasure):
    """One of the columns of `Gathering`."""

    observation = Gathering()
    columns = GATHERED
    standard = False


def _of_logits(logits: torch.Tensor) -> Statistics:
    """Of one head whose logits [token, token] are these, among tokens in a row."""
    tokens = len(logits)
    each = torch.eye(tokens, dtype=logits.dtype)[None, None]
    out = logits.softmax(-1)[None, None]
    call = FusedCall(logits[None, None], each, each, mask=None, dropout=0.0, causal=False, scale=1.0)
    tap = Tap("known", 1.0, "trunk", 1, Grid((tokens,), ("t",)))
    return attention_statistics(call, out, Tokens.of(tap, None, logits.device), "blocks")


def _uniform_statistics(tokens: int) -> Statistics:
    return _of_logits(torch.zeros(tokens, tokens, dtype=torch.float64))


def _keys(tokens: int, *shares: float) -> Statistics:
    """Every query gives these shares to the first keys."""
    logits = torch.full((tokens, tokens), -1e4, dtype=torch.float64)
    logits[:, : len(shares)] = torch.tensor(shares, dtype=torch.float64).log()
    return _of_logits(logits)


def _stripe_starts() -> float:
    """The block, of 8, before which attention gathers least and from which most.

    From the sixth on, half of each row goes to two columns of 16 x 16 cells; before, each cell gives half to itself.
    """
    columns = torch.arange(256) % 16
    stripe = torch.where(columns < 2, 1.0 / 32, 0.0).double().expand(256, 256)
    itself = torch.eye(256, dtype=torch.float64)
    rest = torch.full((256, 256), 1 / 256, dtype=torch.float64)
    by_block = [(0.5 * (stripe if block >= 5 else itself) + 0.5 * rest).log() for block in range(8)]
    received = [float(_of_logits(logits).received_by_most(FEW)) for logits in by_block]
    return float(np.argmax(np.diff(received))) + 1


AttentionPeak = define(
    GatheringMeasure,
    "AttentionPeak",
    name="attention_peak",
    answers="How much attention does a query give to the token that it attends to most?",
    source="largest share of a row of softmax",
    statistic="peak",
    functional="mean over queries of max_k a_qk, rows renormalised over grid keys",
    unit="share of attention",
    known_answers=(
        Case("uniform over 64 keys: 1 / 64", 1 / 64, CLOSED, lambda: float(_uniform_statistics(64).peak)),
        Case("one key", 1, CLOSED, lambda: float(_keys(16, 1.0).peak)),
        Case("two keys, .7 and .3", 0.7, CLOSED, lambda: float(_keys(16, 0.7, 0.3).peak)),
    ),
    uniform=lambda self, grid: 1 / grid.tokens,
    identity=lambda self, grid: 1.0,
)


def _without_logits(self: HeadMeasure, lost: int, values: np.ndarray, n: int) -> str:
    """`why_unknown` of logits."""
    if np.isfinite(values[..., self.columns.index("peak")]).all():
        return "its softmax is spelled out, which shows shares but no logits"
    return HeadMeasure.why_unknown(self, lost, values, n)


AttentionLogit = define(
    GatheringMeasure,
    "AttentionLogit",
    name="attention_logit",
    answers="How large are the attention logits of each head (large ones saturate softmax, and training fails)?",
    source="Dehghani et al. 2023 (2302.05442), section 3.1; Zhai et al. 2023 (2303.06296)",
    statistic="logit",
    functional="max over grid queries and grid keys of scale q k' + mask",
    unit="logit",
    known_answers=(
        Case("logits of 0", 0, CLOSED, lambda: float(_uniform_statistics(64).logit)),
        Case("two keys, logits ln .7 and ln .3", math.log(0.7), CLOSED, lambda: float(_keys(16, 0.7, 0.3).logit)),
        Case("uniform with logits of 300", 300, CLOSED, lambda: float(_of_logits(torch.full((16, 16), 300.0)).logit)),
    ),
    uniform=lambda self, grid: math.nan,  # whatever logits are alike
    identity=lambda self, grid: math.nan,
    why_unknown=_without_logits,
)


AttentionReceived = define(
    GatheringMeasure,
    "AttentionReceived",
    name="attention_received",
    answers="From which block on does attention concentrate on a few grid tokens, whatever the query?",
    source="Bolya et al. 2025 (2504.13181), global tokens; Sun et al. 2024 (2402.17762)",
    statistic="received",
    functional=(
        f"share of the attention to grid keys that goes to the {FEW:.0%} of them that receive most, of the mean over "
        f"queries; the last key counted in part"
    ),
    unit="share of attention to the grid",
    known_answers=(
        *(
            Case(f"uniform over {n} keys", FEW, CLOSED, lambda n=n: float(_uniform_statistics(n).received_by_most(FEW)))
            for n in (7, 100, 250)
        ),
        Case("one of 100 keys", 1, CLOSED, lambda: float(_keys(100, 1.0).received_by_most(FEW))),
        Case("one of 50 keys, counted by half", 0.5, CLOSED, lambda: float(_keys(50, 1.0).received_by_most(FEW))),
        Case("two of 100 keys, .7 and .3", 0.7, CLOSED, lambda: float(_keys(100, 0.7, 0.3).received_by_most(FEW))),
        Case("two of 200 keys, .7 and .3", 1, CLOSED, lambda: float(_keys(200, 0.7, 0.3).received_by_most(FEW))),
        Case(
            "every query looks at itself",
            FEW,
            CLOSED,
            lambda: float(_of_logits(1e4 * torch.eye(64)).received_by_most(FEW)),
        ),
        Case("a stripe of global tokens from block 5 on", 5, BOLYA, _stripe_starts),
    ),
    uniform=lambda self, grid: FEW,
    identity=lambda self, grid: FEW,
)

"""Likeness of near tokens: Moran's I, nearest tokens that are neighbours, and similarity by distance."""

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError, naming
from diagnostics.measures.arrays import (
    ShortRepr,
    as_tensor,
    first_tokens,
    over_taps,
    quotient,
    token_count,
    token_samples,
)
from diagnostics.measures.base import Case, Measure, define, normal
from diagnostics.measures.locality.blocks import (
    MOST_SAMPLES,
    by_largest,
    cosines,
    deviations,
    directions,
    extents,
    lacks_axes,
    lag_sums,
    places,
    product_type,
    readable_taps,
    rook_pairs,
    sample_blocks,
    scalar,
    unit_tokens,
)
from diagnostics.measures.result import state_attributes
from diagnostics.measures.statistics import bootstrap_mean_interval, mean_of_known, mean_with_interval


def morans_i(tokens: Any, grid: Sequence[int]) -> float | np.ndarray:
    """Moran's I with rook neighbours (Moran 1950; Cliff and Ord 1981), on grids of one to three axes.

    I = (T / number of pairs) * sum of z_i z_j over neighbouring pairs / sum of z_i^2, where z is what deviates from the
    sample's mean. Of many features the mean of their I, each weighted by its variance, which is the ratio of the sums
    over features; so it does not change when features are rotated.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order; [token] for one value each.
    grid: extents of the axes.

    Returns [sample], or a float where there was no sample axis. About -1 / (T - 1) where places mean nothing; NaN where
    all tokens of a sample are equal, or the grid has one token.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import morans_i
        >>> y, x = np.indices((16, 16)).reshape(2, 256)
        >>> round(morans_i((y + x) % 2, (16, 16)), 4)  # a checkerboard
        -1.0
        >>> round(morans_i(x, (16, 16)), 4)  # values that rise along each row
        0.9333
    """
    grid = extents(grid)
    x = as_tensor(tokens)
    x, single = token_samples(x[:, None] if x.ndim == 1 else x, "The array of tokens", grid)
    return scalar(torch.cat([_morans_i(block, grid) for block in sample_blocks(x, pairs=False)]), single)


def null_morans_i(grid: Sequence[int]) -> float:
    """-1 / (T - 1), the mean of Moran's I over all orders of the tokens; NaN for one token.

    Examples:
        >>> from diagnostics.measures.locality import null_morans_i
        >>> null_morans_i((3, 7))
        -0.05
    """
    tokens = int(np.prod(extents(grid)))
    return -1 / (tokens - 1) if tokens > 1 else float("nan")


def _morans_i(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    z = deviations(x)
    together = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    pairs = 0
    for cell, neighbour in rook_pairs(z, grid):
        together += (cell * neighbour).flatten(1).sum(dim=1)
        pairs += cell[0, ..., 0].numel()
    total = z.square().sum(dim=(1, 2))
    nothing = torch.full_like(total, float("nan"))
    return torch.where(total > 0, together / total * (x.shape[1] / pairs), nothing) if pairs else nothing


class SampleMean(Measure):
    """The mean over samples of one number that each sample's tokens give, at every tap, with its value for no order."""

    family = "spatial"
    needs = "tokens"
    standard = False
    higher_is_better = None
    functional: ClassVar[str]
    centring: ClassVar[str]
    line: ClassVar[str]
    """Name of the reference line."""
    without: ClassVar[str]
    """Why a sample may have no value."""

    @staticmethod
    @abstractmethod
    def of_samples(tokens: Tensor, grid: tuple[int, ...]) -> Any:
        """[sample] from [sample, token, feature]."""

    @staticmethod
    @abstractmethod
    def of_no_order(grid: tuple[int, ...]) -> float:
        """The mean for tokens whose places mean nothing."""

    @abstractmethod
    def lacks(self, grid: Grid) -> str:
        """The reason why a grid allows no value; nothing where it does."""

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, MOST_SAMPLES)
        values = np.full((n, len(activations.taps)), np.nan)
        line = np.full(len(activations.taps), np.nan)
        reasons: list[tuple[str, str]] = []
        for t, tap in readable_taps(activations.taps, lambda grid: lacks_axes(grid) or self.lacks(grid), reasons):
            line[t] = self.of_no_order(tap.grid.shape)
            values[:, t] = self.find_at(activations, target, tap, seed)
            if lost := int(np.isnan(values[:, t]).sum()):
                reasons.append((tap.name, f"{lost} of {n} samples {self.without}"))
        variables = mean_with_interval(values, activations.groups[:n], seed)
        attrs = state_attributes(
            functional=self.functional,
            pooling="none: grid tokens",
            centring=self.centring,
            reasons=reasons,
            n=n,
            seed=seed,
        )
        return over_taps(activations, {**variables, f"line_{self.line}": line}, attrs)

    def at_tap(self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int) -> np.ndarray:
        n = token_count(activations, self.name, MOST_SAMPLES)
        with naming(f"{self.name} at tap {tap.name}"):
            blocks = first_tokens(activations, tap.name, n)
            return np.concatenate([self.of_samples(tokens, tap.grid.shape) for _, tokens in blocks])


def _of_places(values: np.ndarray) -> float:
    """Moran's I of values [y, x]."""
    return float(morans_i(values.ravel(), values.shape))


MoransI = define(
    SampleMean, "MoransI",
    name="morans_i",
    answers="Do neighbouring tokens deviate from their sample's mean in the same way?",
    source="Moran 1950 (Biometrika 37); Cliff and Ord 1981",
    invariant_to=("rotation", "scale", "shift"),
    functional="Moran's I with rook neighbours, mean over features weighted by their variance, mean over samples",
    centring="each sample's mean token removed",
    line="null",
    without="have equal tokens everywhere",
    of_samples=staticmethod(morans_i),
    of_no_order=staticmethod(null_morans_i),
    known_answers=(
        Case("checkerboard", -1, "Moran 1950", lambda: _of_places((-1.0) ** np.indices((16, 16)).sum(axis=0))),
        Case("column ramp, 16 x 16", 0.933333, "Moran 1950", lambda: _of_places(np.indices((16, 16))[1].astype(np.float64))),
        Case("noise, -1 / (T - 1) (mean of 2000 features)", -0.003922, "Moran 1950", lambda: float(morans_i(normal(256, 2000, seed=0), (16, 16))), 4e-3),
    ),
    lacks=lambda self, grid: "one token, no neighbours" if grid.tokens < 2 else "",
)  # fmt: skip


NEIGHBOURS = 5
RADIUS = 1

# Cosines this close are equal up to rounding.
_TIE = 1e-12


def neighbour_consistency(
    tokens: Any, grid: Sequence[int], *, k: int = NEIGHBOURS, radius: int = RADIUS
) -> float | np.ndarray:
    """Share of each token's k most similar tokens that lie near it on the grid, averaged over the tokens of a sample.

    Similar by cosine, in the same sample, without the token itself; near where no coordinate differs by more than
    `radius` (Chebyshev distance: with radius 1 up to eight neighbours in an image). Of tokens that tie for the last of
    the k places each counts in part, as it would on average if the tie were broken at random: equal tokens give
    chance, `neighbour_chance`.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order.
    grid: extents of one, two or three axes.

    A token of length zero has no direction and is left out. Returns [sample], or a float where there was no sample
    axis; NaN where fewer than k + 1 tokens have a direction.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import neighbour_consistency
        >>> angle = np.arange(8) / 8  # the direction turns from token to token
        >>> tokens = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> neighbour_consistency(tokens, (8,), k=1)
        1.0
        >>> round(neighbour_consistency(np.ones((8, 2)), (8,), k=1), 4)  # chance: 14 / 56
        0.25
    """
    grid = extents(grid)
    x, single = token_samples(tokens, "The array of tokens", grid)
    if not (1 <= k < x.shape[1] and radius >= 1):
        raise DiagnosticsError(
            f"Tokens of shape {tuple(x.shape[-2:])} have no {k} others within a radius of {radius}: give k from 1 to "
            "the number of tokens less one, and a radius of at least 1.",
            code="bad-value",
        )
    return scalar(torch.cat([_consistency(block, grid, k, radius) for block in sample_blocks(x)]), single)


def neighbour_chance(grid: Sequence[int], radius: int = RADIUS) -> float:
    """Mean over the tokens of a grid of (tokens within the radius) / (T - 1).

    This is the consistency where places mean nothing.

    Tokens at the border have fewer neighbours, so it lies below that of a token inside. NaN for one token.

    Examples:
        >>> from diagnostics.measures.locality import neighbour_chance
        >>> round(neighbour_chance((3,)), 4)  # (1/2 + 2/2 + 1/2) / 3
        0.6667
    """
    grid = extents(grid)
    tokens = int(np.prod(grid))
    if tokens < 2:
        return float("nan")
    within = 1.0
    for extent in grid:
        at = np.arange(extent)
        within *= float((np.minimum(at + radius, extent - 1) - np.maximum(at - radius, 0) + 1).mean())
    return (within - 1) / (tokens - 1)


def _consistency(x: Tensor, grid: tuple[int, ...], k: int, radius: int) -> Tensor:
    unit, directed = directions(x)
    at = places(grid, x.device)
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for rows, cosine in cosines(unit):
        near = (at[rows, None] - at).abs().amax(dim=2) <= radius
        itself = torch.arange(len(at), device=x.device)[rows, None] == torch.arange(len(at), device=x.device)
        cosine = cosine.masked_fill(itself | ~directed[:, None], -torch.inf)
        last = cosine.topk(k, dim=2, sorted=True).values[:, :, -1:]
        above, tied = cosine > last + _TIE, (cosine - last).abs() <= _TIE
        # A quotient of counts would be float32.
        part = (k - above.sum(dim=2)).to(x.dtype) / tied.sum(dim=2)
        share = (above & near).sum(dim=2) + part * (tied & near).sum(dim=2)
        total += torch.where(directed[:, rows], share / k, 0.0).sum(dim=1)
    known = directed.sum(dim=1)
    return torch.where(known > k, total / known, float("nan"))


def _on_a_line() -> np.ndarray:
    """16 directions [token, feature], each a step further."""
    angle = np.arange(16) / 16
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


NeighbourConsistency = define(
    SampleMean, "NeighbourConsistency",
    name="neighbour_consistency",
    answers="Are the most similar tokens of a token its neighbours on the grid?",
    source="share of cosine nearest neighbours within a radius on the grid; chance by counting",
    invariant_to=("rotation", "each token's own scale"),
    functional=(
        f"share of each token's {NEIGHBOURS} nearest tokens of its sample (cosine) within Chebyshev distance {RADIUS}, ties "
        "in parts"
    ),
    centring="none",
    line="chance",
    without=f"have fewer than {NEIGHBOURS + 1} tokens with a direction",
    of_samples=staticmethod(neighbour_consistency),
    of_no_order=staticmethod(neighbour_chance),
    known_answers=(
        Case("equal tokens minus chance", 0, "share of tokens within the radius", lambda: float(neighbour_consistency(np.ones((64, 3)), (8, 8))) - neighbour_chance((8, 8))),
        Case("points on a line, both neighbours, but for the ends", (2 * 0.5 + 14) / 16, "counted", lambda: float(neighbour_consistency(_on_a_line(), (16,), k=2))),
    ),
    # With no more than k others, all are among the nearest, whatever they hold.
    lacks=lambda self, grid: f"{grid.tokens} tokens, fewer than {NEIGHBOURS + 2}" if grid.tokens < NEIGHBOURS + 2 else "",
)  # fmt: skip


FAR = 6
"""Manhattan distance in tokens from which a pair counts as far (iREPA)."""
SLOPE = 8
"""Distances 1..8 over which the decay is fitted (iREPA)."""


@dataclass(frozen=True, repr=False)
class TokenSimilarity(ShortRepr):
    """Cosine similarity of tokens against their distance; [sample], or floats where the tokens had no sample axis.

    `lds` mean cosine of neighbours minus that of pairs at Manhattan distance >= 6; `cds` minus the slope of the mean
    cosine over distances 1..8; `rmsc` root mean square distance of the unit tokens from their mean; `curve`
    [..., distance] mean cosine at distances 1, 2, ... NaN where a grid has no such distance, or no token a direction.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import self_similarity
        >>> checkerboard = np.indices((16, 16)).sum(axis=0).reshape(256, 1) % 2 * 2 - 1
        >>> self_similarity(checkerboard, (16, 16)).curve[:4].tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    lds: Any
    cds: Any
    rmsc: Any
    curve: np.ndarray


def self_similarity(tokens: Any, grid: Sequence[int], *, centred: bool = False) -> TokenSimilarity:
    """Self-similarity of tokens against Manhattan distance on their grid (iREPA, 2512.10794: LDS, CDS, RMSC).

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order.
    grid: extents of one, two or three axes; distances count tokens, so compare grids of one size only.
    centred: each sample's mean token is removed first. Without that a component common to all tokens pushes every
        cosine towards 1.

    A token of length zero has no direction: pairs with it are left out. Raises DiagnosticsError where the tokens do not
    fill the grid or are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import self_similarity
        >>> likeness = self_similarity(np.eye(256), (16, 16))  # at right angles
        >>> likeness.lds, round(likeness.rmsc, 6)  # 0, and sqrt(1 - 1 / 256)
        (0.0, 0.998045)
    """
    return _similarities(tokens, grid, (centred,))[0]


def _similarities(tokens: Any, grid: Sequence[int], which: Sequence[bool]) -> list[TokenSimilarity]:
    """Each `centred` or not, of tokens that are converted and scaled once."""
    grid = extents(grid)
    x, single = token_samples(tokens, "The array of tokens", grid)
    # Elsewhere it may be still less: TF32 of a GPU, or the caller's autocast.
    single_cpu = isinstance(tokens, Tensor) and (tokens.dtype, tokens.device.type) == (torch.float32, "cpu")
    products = product_type(grid, x.shape[2], single_cpu and not torch.is_autocast_enabled("cpu"))
    blocks = [by_largest(block) for block in sample_blocks(x, pairs=products is not None)]
    results: list[TokenSimilarity] = []
    for centred in which:
        of_blocks = [_similarity(block, grid, centred, products) for block in blocks]
        *values, curve = (torch.cat(parts) for parts in zip(*of_blocks, strict=True))
        lds, cds, rmsc = (scalar(each, single) for each in values)
        results.append(TokenSimilarity(lds, cds, rmsc, (curve[0] if single else curve).cpu().numpy()))
    return results


def spatial_relation(tokens: Any, mask: Any, grid: Sequence[int]) -> float | np.ndarray:
    """Likeness within an object against its background (iREPA, 2512.10794: SRSS, as its authors compute it).

    For each token of the foreground: mean cosine with the foreground tokens at Manhattan distance 1, minus that with
    the background tokens at distance >= 6. The mean over the foreground tokens that have both; NaN where none has.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order.
    mask: bool [sample, token] or [token], true on the foreground.
    grid: extents of one, two or three axes.

    Tokens of length zero are left out. Returns [sample], or a float where the tokens had no sample axis.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import spatial_relation
        >>> mask = np.arange(8) < 2  # the first two of eight tokens in a row
        >>> tokens = np.eye(2)[mask.astype(int)]  # one direction inside, another outside
        >>> spatial_relation(tokens, mask, (8,))
        1.0
    """
    grid = extents(grid)
    x, single = token_samples(tokens, "The array of tokens", grid)
    foreground = as_tensor(mask).to(x.device)
    if foreground.shape != (wanted := x.shape[1:2] if single else x.shape[:2]):
        raise DiagnosticsError(
            f"The mask has shape {tuple(foreground.shape)}: give one value per token, {tuple(wanted)}.",
            code="bad-shape",
        )
    if not bool(((foreground == 0) | (foreground == 1)).all()):
        raise DiagnosticsError(
            f"The mask of shape {tuple(foreground.shape)} holds other values than 0 and 1: decide which tokens are "
            f"foreground.",
            code="bad-value",
        )
    parts = zip(
        sample_blocks(x),
        (foreground[None] if single else foreground).split(len(sample_blocks(x)[0])),
        strict=True,
    )
    return scalar(torch.cat([_relation(block, part > 0, grid) for block, part in parts]), single)


@functools.lru_cache(maxsize=2)
def _distances(grid: tuple[int, ...], device: torch.device, start: int, stop: int) -> Tensor:
    """int [R, T], Manhattan, of the tokens from `start` to `stop`; kept, since block follows block on one grid."""
    at = places(grid, device)
    rows = slice(start, stop)
    distance = torch.zeros((stop - start, len(at)), dtype=torch.int64, device=device)
    for axis in range(len(grid)):
        distance += (at[rows, axis][:, None] - at[:, axis]).abs()
    return distance


def _similarity(
    x: Tensor, grid: tuple[int, ...], centred: bool, products: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    unit, directed = unit_tokens(x, centred)
    reach = _farthest(grid)
    both = directed.to(x.dtype)
    # A token with itself is no pair.
    sums = (_by_pair(unit, grid, products) if products else _by_lag(unit, grid))[:, 1:]
    counts = _every_pair(grid, x.device) if bool(directed.all()) else _by_lag(both[:, :, None], grid).round()
    counts = counts[:, 1:]
    curve = quotient(sums, counts)
    nothing = torch.full((len(x),), float("nan"), dtype=x.dtype, device=x.device)
    lds = curve[:, 0] - quotient(sums[:, FAR - 1 :].sum(dim=1), counts[:, FAR - 1 :].sum(dim=1)) if reach else nothing
    cds = nothing
    if reach >= SLOPE:
        distance = torch.arange(1, SLOPE + 1, dtype=x.dtype, device=x.device) - (SLOPE + 1) / 2
        cds = -(curve[:, :SLOPE] @ distance) / (distance @ distance)
    known = both.sum(dim=1)
    mean = unit.sum(dim=1) / known[:, None]
    away = ((unit - mean[:, None]).square().sum(dim=2) * both).sum(dim=1)
    rmsc = torch.where(known > 0, away / known, nothing).sqrt() if reach else nothing
    return lds, cds, rmsc, curve


@functools.lru_cache(maxsize=2)
def _every_pair(grid: tuple[int, ...], device: torch.device) -> Tensor:
    return _by_lag(torch.ones((1, math.prod(grid), 1), dtype=torch.float64, device=device), grid).round()


def _by_pair(field: Tensor, grid: tuple[int, ...], products: torch.dtype) -> Tensor:
    """Sums of the inner products of [sample, token, feature] over ordered pairs [sample, distance from 0]."""
    sums = torch.zeros((len(field), _farthest(grid) + 1), dtype=field.dtype, device=field.device)
    for rows, cosine in cosines(field.to(products)):
        distance = _distances(grid, field.device, rows.start, rows.stop).flatten()
        sums.index_add_(1, distance, cosine.flatten(1).to(sums.dtype))
    return sums


def _by_lag(field: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The same from the lags of the grid."""
    by_lag, distance = lag_sums(field, grid)
    sums = torch.zeros((len(field), _farthest(grid) + 2), dtype=field.dtype, device=field.device)
    return sums.index_add_(1, distance, by_lag)[:, :-1]


def _relation(x: Tensor, foreground: Tensor, grid: tuple[int, ...]) -> Tensor:
    unit, directed = directions(x)
    inside, outside = ((part & directed).to(x.dtype) for part in (foreground, ~foreground))
    total, anchors = (torch.zeros(len(x), dtype=x.dtype, device=x.device) for _ in range(2))
    for rows, cosine in cosines(unit):
        distance = _distances(grid, x.device, rows.start, rows.stop)
        near = (distance == 1) * inside[:, None]
        far = (distance >= FAR) * outside[:, None]
        gap = quotient((cosine * near).sum(dim=2), near.sum(dim=2)) - quotient(
            (cosine * far).sum(dim=2), far.sum(dim=2)
        )
        counted = (inside[:, rows] > 0) & gap.isfinite()
        total += torch.where(counted, gap, 0.0).sum(dim=1)
        anchors += counted.sum(dim=1)
    return quotient(total, anchors)


def _farthest(grid: tuple[int, ...]) -> int:
    return sum(grid) - len(grid)


def _patterns() -> dict[str, np.ndarray]:
    """Tokens [token, feature] on a 16 x 16 grid."""
    y, x = (place.ravel() for place in np.indices((16, 16)))
    angle = np.pi / 32 * x
    return {
        "one-hot tokens": np.eye(256),
        "equal tokens": np.ones((256, 3)),
        "checkerboard of signs": (-1.0) ** (y + x)[:, None],
        "phase ramp of pi / 32 a column": np.stack([np.cos(angle), np.sin(angle)], axis=1),
        "row and column one-hot": np.hstack([np.eye(16)[y], np.eye(16)[x]]),
    }


# LDS, CDS and RMSC.
_OF_PATTERNS = {
    "one-hot tokens": (0, 0, 0.998045),
    "equal tokens": (0, 0, 0),
    "checkerboard of signs": (-1.035797, -0.095238, 1),
    "phase ramp of pi / 32 a column": (0.224453, 0.013934, 0.434487),
    "row and column one-hot": (0.466979, 0.051021, 0.968246),
}


class SelfSimilarity(Measure):
    """LDS with CDS, RMSC and the curve; variables ending in `_centred` are with each sample's mean token removed."""

    name = "self_similarity"
    answers = "Are near tokens more alike than far ones?"
    source = "iREPA (2512.10794): LDS, CDS, RMSC"
    invariant_to = ("rotation", "each token's own scale")
    family = "spatial"
    needs = "tokens"
    higher_is_better = None
    score_name = "LDS"
    known_answers = tuple(
        Case(
            f"{kind.upper()} of {name}, 16 x 16",
            value,
            "iREPA (2512.10794)",
            lambda n=name, k=kind: float(getattr(self_similarity(_patterns()[n], (16, 16)), k)),
        )
        for name, values in _OF_PATTERNS.items()
        for kind, value in zip(("lds", "cds", "rmsc"), values, strict=True)
    )

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, MOST_SAMPLES)
        taps = activations.taps
        reach = max(1, max(_farthest(tap.grid.shape) for tap in taps))
        # [centred or not, kind of number, sample, tap]
        numbers = np.full((2, 3, n, len(taps)), np.nan)
        curves = np.full((2, len(taps), reach), np.nan)
        reasons: list[tuple[str, str]] = []
        for t, tap in enumerate(taps):
            if reason := _lacks(tap):
                reasons.append((tap.name, reason))
            if tap.grid.tokens < 2 or len(tap.grid.shape) > 3:
                continue
            for c, similar in enumerate(self.find_at(activations, target, tap, seed)):
                numbers[c, :, :, t] = similar.lds, similar.cds, similar.rmsc
                curves[c, t, : similar.curve.shape[1]] = mean_of_known(similar.curve)
            for c, which in enumerate(("", " once the mean is removed")):
                if lost := int(np.isnan(numbers[c, 2, :, t]).sum()):
                    reasons.append((tap.name, f"{lost} of {n} samples have only tokens of length zero{which}"))
        # Directions drawn at random are as unlike their neighbours as all others.
        variables: dict[str, Any] = {"line_noise": np.zeros(len(taps))}
        for c, ending in enumerate(("", "_centred")):
            for k, kind in enumerate(("score" if c == 0 else "lds", "cds", "rmsc")):
                variables[kind + ending] = mean_of_known(numbers[c, k])
            variables["curve" + ending] = (("tap", "distance"), curves[c])
            ends = bootstrap_mean_interval(numbers[c, 0], activations.groups[:n], seed)
            variables["low" + ending], variables["high" + ending] = ends
        attrs = state_attributes(
            functional="LDS: mean cosine of neighbouring tokens minus that of tokens at Manhattan distance >= 6",
            pooling="none: grid tokens",
            centring="none; with the sample's mean token removed in variables ending in _centred",
            distance="Manhattan, in tokens of the tap's grid",
            reasons=reasons,
            n=n,
            seed=seed,
        )
        return over_taps(activations, variables, attrs, distance=np.arange(1, reach + 1))

    def at_tap(
        self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int
    ) -> list[TokenSimilarity]:
        """As tokens are and centred."""
        parts: list[list[TokenSimilarity]] = []
        for _, tokens in first_tokens(activations, tap.name, token_count(activations, self.name, MOST_SAMPLES)):
            with naming(f"{self.name} at tap {tap.name}"):
                parts += [_similarities(block, tap.grid.shape, (False, True)) for block in sample_blocks(tokens)]
        return [
            TokenSimilarity(*(np.concatenate([vars(each)[kind] for each in part]) for kind in vars(part[0])))
            for part in zip(*parts, strict=True)
        ]


def _lacks(tap: Tap) -> str:
    """The reason why a tap's grid gives no value, in words; nothing where it gives all."""
    if tap.grid.tokens < 2:
        return "one token, no pairs"
    if reason := lacks_axes(tap.grid):
        return reason
    farthest = _farthest(tap.grid.shape)
    if farthest < FAR:
        return f"no two tokens at distance {FAR} or more, so no LDS and no CDS"
    return f"no two tokens at distance {SLOPE}, so no CDS" if farthest < SLOPE else ""

"""How alike the tokens of a sample are, against their distance on the grid."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import one_thread, over_taps
from diagnostics.measures.base import Measure
from diagnostics.measures.intervals import bootstrap_mean_interval
from diagnostics.taps import Tap

FAR = 6
"""Manhattan distance in tokens from which a pair counts as far (iREPA)."""
SLOPE = 8
"""Distances 1..8 over which the decay is fitted (iREPA)."""
MOST_SAMPLES = 256


@dataclass(frozen=True)
class TokenSimilarity:
    """Cosine similarity of tokens against their distance; [sample], or floats where the tokens had no sample axis.

    `lds` mean cosine of neighbours minus that of pairs at Manhattan distance >= 6; `cds` minus the slope of the mean
    cosine over distances 1..8; `rmsc` root mean square distance of the unit tokens from their mean; `curve`
    [..., distance] mean cosine at distances 1, 2, ... NaN where a grid has no such distance, or no token a direction.
    """

    lds: Any
    cds: Any
    rmsc: Any
    curve: Any


def self_similarity(tokens: Any, grid: tuple[int, ...], *, centred: bool = False) -> TokenSimilarity:
    """Self-similarity of tokens against Manhattan distance on their grid (iREPA, 2512.10794: LDS, CDS, RMSC).

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order.
    grid: extents of one, two or three axes; distances count tokens, so compare grids of one size only.
    centred: each sample's mean token is removed first. Without that a component common to all tokens pushes every
        cosine towards 1.

    A token of length zero has no direction: pairs with it are left out. Float64 throughout. Raises DiagnosticsError
    where the tokens do not fill the grid or are not finite.
    """
    array = np.asarray(tokens)
    if array.ndim not in (2, 3) or array.shape[-2] != math.prod(grid) or not 1 <= len(grid) <= 3:
        raise DiagnosticsError(
            f"Tokens of shape {array.shape} do not fill a grid of {grid}: give [sample, token, feature] with one token "
            "a cell, on a grid of one to three axes."
        )
    samples = [_one(sample, grid, centred) for sample in (array if array.ndim == 3 else array[None])]
    lds, cds, rmsc = (np.array([s[i] for s in samples], dtype=np.float64) for i in range(3))
    curve = np.array([s[3] for s in samples], dtype=np.float64).reshape(len(samples), -1)
    if array.ndim == 2:
        return TokenSimilarity(lds[0], cds[0], rmsc[0], curve[0])
    return TokenSimilarity(lds, cds, rmsc, curve)


@functools.lru_cache(maxsize=32)
def _pairs(grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Places in the flattened [token, token] matrix of all pairs i < j, sorted by distance, and where each of the
    distances 1, 2, ... begins (every one up to the largest occurs on a full grid).
    """
    places = np.indices(grid).reshape(len(grid), -1)
    i, j = np.triu_indices(places.shape[1], k=1)
    distance = np.abs(places[:, i] - places[:, j]).sum(axis=0)
    order = np.argsort(distance, kind="stable")
    starts = np.searchsorted(distance[order], np.arange(1, _farthest(grid) + 1))
    return (i * places.shape[1] + j)[order], starts


def _farthest(grid: tuple[int, ...]) -> int:
    return sum(grid) - len(grid)


def _one(tokens: np.ndarray, grid: tuple[int, ...], centre: bool) -> tuple[float, float, float, np.ndarray]:
    nan = float("nan")
    x = tokens.astype(np.float64)
    if not np.isfinite(x).all():
        raise DiagnosticsError(f"Tokens of shape {x.shape} hold NaN or infinity: leave that sample out.")
    longest = float(np.sqrt(np.einsum("tf,tf->t", x, x).max()))
    if centre:
        x -= x.mean(axis=0)
    norm = np.sqrt(np.einsum("tf,tf->t", x, x))
    # What remains of a token after centring is rounding error below this.
    directed = norm > (1e-13 * longest if centre else 0.0)
    if not directed.any() or len(x) < 2:
        return nan, nan, nan, np.full(_farthest(grid), nan)
    unit = np.divide(x, norm[:, None], out=np.zeros_like(x), where=directed[:, None])
    places, starts = _pairs(grid)
    sums = np.add.reduceat((unit @ unit.T).ravel()[places], starts)
    counts = np.diff(np.append(starts, len(places))).astype(np.float64)
    if not directed.all():
        counts = np.add.reduceat(np.outer(directed, directed).astype(np.float64).ravel()[places], starts)
    curve = np.divide(sums, counts, out=np.full(len(sums), nan), where=counts > 0)
    far = counts[FAR - 1 :].sum()
    lds = curve[0] - sums[FAR - 1 :].sum() / far if far > 0 else nan
    cds = nan
    if len(curve) >= SLOPE:
        distance = np.arange(1, SLOPE + 1) - (SLOPE + 1) / 2
        cds = -float(distance @ curve[:SLOPE] / (distance @ distance))
    spread = unit[directed] - unit[directed].mean(axis=0)
    return float(lds), cds, float(np.sqrt(np.einsum("tf,tf->", spread, spread) / len(spread))), curve


class SelfSimilarity(Measure):
    """Local against distant similarity of tokens (LDS) at every tap, with CDS, RMSC and the curve beside it.

    Variables ending in `_centred` are the same with each sample's mean token removed.
    """

    name = "self_similarity"
    answers = "Are near tokens more alike than far ones?"
    source = "iREPA (2512.10794): LDS, CDS, RMSC"
    family = "spatial"
    needs = "tokens"
    higher_is_better = None

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = min(activations.token_samples, MOST_SAMPLES)
        if n == 0:
            raise DiagnosticsError(
                "self_similarity reads tokens, and none are kept: raise the token budget (--token-budget)."
            )
        taps = activations.taps
        reach = max(1, max(_farthest(tap.grid.shape) for tap in taps))
        # [centred or not, kind of number, sample, tap]
        numbers = np.full((2, 3, n, len(taps)), np.nan)
        curves = np.full((2, len(taps), reach), np.nan)
        reasons: list[str] = []
        for t, tap in enumerate(taps):
            if reason := _lacks(tap):
                reasons.append(f"{tap.name}: {reason}")
            if tap.grid.tokens < 2 or len(tap.grid.shape) > 3:
                continue
            for c, found in enumerate(_of_tap(activations, tap, n)):
                numbers[c, :, :, t] = found.lds, found.cds, found.rmsc
                curves[c, t, : found.curve.shape[1]] = _mean(found.curve)
            for c, which in enumerate(("", " once the mean is removed")):
                if lost := int(np.isnan(numbers[c, 2, :, t]).sum()):
                    reasons.append(f"{tap.name}: {lost} of {n} samples have only tokens of length zero{which}")
        variables: dict[str, Any] = {}
        for c, ending in enumerate(("", "_centred")):
            for k, kind in enumerate(("score" if c == 0 else "lds", "cds", "rmsc")):
                variables[kind + ending] = ("tap", _mean(numbers[c, k]))
            variables["curve" + ending] = (("tap", "distance"), curves[c])
            low, high = bootstrap_mean_interval(numbers[c, 0], activations.groups[:n], seed)
            variables["low" + ending], variables["high" + ending] = ("tap", low), ("tap", high)
        attrs = {
            "functional": "LDS: mean cosine of neighbouring tokens minus that of tokens at Manhattan distance >= 6",
            "pooling": "none: grid tokens",
            "centring": "none; with the sample's mean token removed in variables ending in _centred",
            "interval": "95 % bootstrap over groups",
            "distance": "Manhattan, in tokens of the tap's grid",
            "reason": "; ".join(reasons),
            "n": n,
            "seed": seed,
        }
        return over_taps(activations, variables, attrs, {"distance": np.arange(1, reach + 1)})


def _of_tap(activations: Activations, tap: Tap, n: int) -> tuple[TokenSimilarity, TokenSimilarity]:
    """As they are and centred, over the first n samples."""
    parts: tuple[list[TokenSimilarity], list[TokenSimilarity]] = ([], [])
    for rows, tokens in activations.token_blocks(tap.name):
        wanted = tokens[: max(0, n - rows.start)]
        if len(wanted) == 0:
            break
        try:
            for part, centre in zip(parts, (False, True), strict=True):
                part.append(self_similarity(wanted, tap.grid.shape, centred=centre))
        except DiagnosticsError as error:
            raise DiagnosticsError(f"self_similarity at tap {tap.name}: {error}") from error
    return _joined(parts[0]), _joined(parts[1])


def _joined(parts: list[TokenSimilarity]) -> TokenSimilarity:
    lds, cds, rmsc, curve = (
        np.concatenate([getattr(part, kind) for part in parts]) for kind in ("lds", "cds", "rmsc", "curve")
    )
    return TokenSimilarity(lds, cds, rmsc, curve)


def _lacks(tap: Tap) -> str:
    """What a tap's grid cannot give, in words; nothing where it gives all."""
    if tap.grid.tokens < 2:
        return "one token, no pairs"
    if len(tap.grid.shape) > 3:
        return "a grid of more than three axes"
    farthest = _farthest(tap.grid.shape)
    if farthest < FAR:
        return f"no two tokens at distance {FAR} or more, so no LDS and no CDS"
    return f"no two tokens at distance {SLOPE}, so no CDS" if farthest < SLOPE else ""


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))

"""Outlier tokens: tokens of extreme norm, which a network uses for something other than their content."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import arrays
from diagnostics.measures.base import Measure
from diagnostics.measures.known_answers import Case, normal
from diagnostics.measures.locality.blocks import (
    MOST_SAMPLES,
    directions,
    extents,
    lacks_axes,
    naming_tap,
    rook_pairs,
    sample_blocks,
)
from diagnostics.measures.result import stated
from diagnostics.measures.target_free_intervals import mean_with_interval

BEYOND = 6.0
"""Scaled median deviations above the median from which a norm counts as an outlier: none in a billion of a Gaussian."""

DARCET = "Darcet et al. 2024 (2309.16588)"

# The median deviation of a Gaussian is its standard deviation over this.
_GAUSSIAN = 1.4826
# Norms closer than this share of their median are equal but for rounding, as after a normalisation without weights.
_EQUAL = 1e-6


@dataclass(frozen=True, repr=False)
class OutlierTokens(arrays.ShortRepr):
    """Tokens of extreme norm among all that were given.

    `share` of the tokens and `mask` [..., token] of which; `threshold` and `median_norm`; `largest_over_median` norm;
    `bimodality` of the norms by Sarle's coefficient, (skewness^2 + 1) / kurtosis: 1 for two values, 5/9
    for a uniform and 1/3 for a Gaussian distribution (a long tail raises it too); `gap` from the largest other norm to
    the smallest outlier's, as their ratio; `cosine_outliers` and `cosine_rest`, mean cosine of such tokens with their
    neighbours on the grid. NaN for what there is none of.

    Examples:
        >>> from diagnostics.measures.locality import outlier_tokens
        >>> outliers = outlier_tokens([1.0, 2.0, 3.0, 4.0, 50.0])
        >>> round(outliers.threshold, 4)  # 3 + 6 * 1.4826 * 1
        11.8956
        >>> outliers.mask.tolist()
        [False, False, False, False, True]
    """

    share: float
    mask: np.ndarray
    threshold: float
    median_norm: float
    largest_over_median: float
    bimodality: float
    gap: float
    cosine_outliers: float
    cosine_rest: float


def outlier_tokens(tokens: Any, grid: Sequence[int] | None = None, *, k: float = BEYOND) -> OutlierTokens:
    """Tokens whose norm exceeds median + k * 1.4826 * median absolute deviation, over all tokens given.

    After Darcet et al. 2024 (2309.16588), whose fixed threshold (150) holds for one model only. Measured from the
    median, outliers of up to half the tokens do not hide themselves.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only; [token] for norms that are known already
        (of several samples as [sample, token, 1]).
    grid: for the cosines with rook neighbours, extents of one to three axes.
    k: how far out.

    Norms within a millionth of the median count as equal, so that the rounding of tokens of one length gives share 0. No
    share (NaN) where the median is zero. Norms before and after a final normalisation differ: say which was read.

    Examples:
        >>> from diagnostics.measures.locality import outlier_tokens
        >>> outliers = outlier_tokens([1.0] * 49 + [10.0])  # norms
        >>> outliers.share, outliers.largest_over_median
        (0.02, 10.0)
    """
    grid = None if grid is None else extents(grid)
    x = arrays.as_tensor(tokens)
    flat = x.ndim == 1
    x, single = arrays.token_samples(x[:, None] if flat else x, "The array of tokens", grid)
    if not k > 0:
        raise DiagnosticsError(f"Outliers lie k = {k} median deviations above the median: give a k above 0.")
    blocks = sample_blocks(x, pairs=False)
    scale = arrays.scale_of(float(x.abs().amax()))
    norms = torch.cat([torch.linalg.vector_norm(block * scale, dim=2) / scale for block in blocks])
    likeness = torch.full_like(norms, float("nan"))
    if grid is not None and not flat:
        likeness = torch.cat([_likeness(block, grid) for block in blocks])
    outliers = _judge(norms, likeness, k)
    return dataclasses.replace(outliers, mask=outliers.mask[0]) if single else outliers


def _likeness(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """[sample, token], mean cosine of each token with its rook neighbours; NaN where none has a direction."""
    unit, directed = directions(x)
    there = directed.to(x.dtype)
    total, count = (torch.zeros(x.shape[:2], dtype=x.dtype, device=x.device) for _ in range(2))
    for field, sums in ((unit, total), (there[:, :, None], count)):
        for (cell, neighbour), (left, right) in zip(rook_pairs(field, grid), rook_pairs(sums, grid), strict=True):
            together = (cell * neighbour).sum(dim=-1)
            # Views of `sums`.
            left += together
            right += together
    return torch.where((count > 0) & directed, total / count, float("nan"))


def _judge(norms: Tensor, likeness: Tensor, k: float) -> OutlierTokens:
    nan = float("nan")
    middle = float(arrays.median(norms.flatten()))
    largest = float(norms.max())
    if not middle > 0:
        nothing = np.zeros(tuple(norms.shape), dtype=bool)
        return OutlierTokens(nan, nothing, nan, middle, nan, nan, nan, nan, nan)
    deviation = max(_GAUSSIAN * float(arrays.median((norms - middle).abs().flatten())), _EQUAL * middle)
    threshold = middle + k * deviation
    mask = norms > threshold
    out, rest = norms[mask], norms[~mask]
    bimodality = nan
    if largest - float(norms.min()) > _EQUAL * middle:
        z = norms - norms.mean()
        z = z / z.abs().max()
        second, third, fourth = (float(z.pow(power).mean()) for power in (2, 3, 4))
        bimodality = (third**2 + second**3) / (second * fourth)
    return OutlierTokens(
        share=float(mask.sum()) / mask.numel(),
        mask=mask.cpu().numpy(),
        threshold=threshold,
        median_norm=middle,
        largest_over_median=largest / middle,
        bimodality=bimodality,
        gap=float(out.min() / rest.max()) if len(out) else nan,
        cosine_outliers=float(likeness[mask].nanmean()) if len(out) else nan,
        cosine_rest=float(likeness[~mask].nanmean()),
    )


def _planted_norms() -> np.ndarray:
    norms = np.abs(normal(2000, seed=0)) * 0.1 + 1
    norms[:40] = 10
    return norms


class OutlierTokenShare(Measure):
    """Share of tokens of extreme norm, how far out they are, where, and how like their neighbours."""

    name = "outlier_tokens"
    answers = "Are there tokens of extreme norm, and where?"
    source = "Darcet et al. 2024 (2309.16588), with a threshold from the tap's own norms"
    invariant_to = ("rotation", "scale")
    family = "spatial"
    needs = "tokens"
    higher_is_better = None
    known_answers = (
        Case("2 % planted at ten times the median: share", 0.02, DARCET, lambda: outlier_tokens(_planted_norms()).share),
        Case("recall of the planted", 1, DARCET, lambda: float(outlier_tokens(_planted_norms()).mask[:40].mean())),
        Case("Gaussian norms", 0, DARCET, lambda: outlier_tokens(10 + normal(5000, seed=1)).share),
    )  # fmt: skip

    @arrays.one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = arrays.token_count(activations, self.name, MOST_SAMPLES)
        taps = activations.taps
        shares = np.full((n, len(taps)), np.nan)
        by_place = np.full((len(taps), max(tap.grid.tokens for tap in taps)), np.nan)
        kinds = (
            "median_norm", "threshold", "largest_over_median", "bimodality", "gap", "cosine_outliers", "cosine_rest",
        )  # fmt: skip
        numbers = {name: np.full(len(taps), np.nan) for name in (*kinds, "place", "place_share")}
        reasons: list[tuple[str, str]] = []
        for t, tap in enumerate(taps):
            if reason := "one token" if tap.grid.tokens < 2 else lacks_axes(tap.grid):
                reasons.append((tap.name, reason))
                continue
            outliers = self._of_tap(activations, tap, n)
            for name in kinds:
                numbers[name][t] = getattr(outliers, name)
            if np.isnan(outliers.share):
                reasons.append((tap.name, "at least half of the tokens have length zero"))
                continue
            shares[:, t] = outliers.mask.mean(axis=1)
            held = by_place[t, : tap.grid.tokens] = outliers.mask.mean(axis=0)
            if outliers.mask.any():
                numbers["place"][t], numbers["place_share"][t] = held.argmax(), held.max()
        attrs = stated(
            functional=f"share of tokens whose norm exceeds median + {BEYOND:g} * {_GAUSSIAN} * MAD of the tap's tokens; norms as "
            "the tap hands them over",
            pooling="none: grid tokens", centring="none",
            interval="95 % bootstrap over groups, the threshold held",
            bimodality="Sarle's coefficient of the norms: Gaussian 1/3, uniform 5/9, two values 1",
            place="raster index of the grid token that is an outlier in most samples, and in what share of them",
            reasons=reasons, n=n, seed=seed,
        )  # fmt: skip
        variables = {**mean_with_interval(shares, activations.groups[:n], seed), **numbers}
        return arrays.over_taps(activations, {**variables, "share_by_place": (("tap", "place_index"), by_place)}, attrs)

    def _of_tap(self, activations: Activations, tap: Tap, n: int) -> OutlierTokens:
        norms, likeness = list[Tensor](), list[Tensor]()
        with naming_tap(self.name, tap.name):
            for _, tokens in arrays.first_tokens(activations, tap.name, n):
                x, _ = arrays.token_samples(tokens, f"Tap {tap.name} for {self.name}", tap.grid.shape)
                for block in sample_blocks(x, pairs=False):
                    norms.append(torch.linalg.vector_norm(block, dim=2))
                    likeness.append(_likeness(block, tap.grid.shape))
        return _judge(torch.cat(norms), torch.cat(likeness), BEYOND)

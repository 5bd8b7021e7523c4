"""Single tokens.

Those of extreme norm, which a network uses for something other than their content, and whether they encode their place.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, naming, refuse_values
from diagnostics.measures.arrays import (
    ShortRepr,
    as_tensor,
    first_tokens,
    median,
    over_taps,
    require_finite_tap,
    scale_of,
    token_count,
    token_samples,
)
from diagnostics.measures.base import Case, Measure, normal
from diagnostics.measures.locality.blocks import (
    MOST_SAMPLES,
    directions,
    extents,
    lacks_places,
    places,
    readable_taps,
    rook_pairs,
    sample_blocks,
)
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgeFits, RidgePath, choose
from diagnostics.measures.probes.protocol import KEEP_TOKENS, Rows, probe_result, rows_of, sum_by_unit
from diagnostics.measures.result import state_attributes
from diagnostics.measures.statistics import mean_with_interval
from diagnostics.vocabulary import SPLITS

BEYOND = 6.0
"""Scaled median deviations above the median from which a norm counts as an outlier: none in a billion of a Gaussian."""

DARCET = "Darcet et al. 2024 (2309.16588)"

# The median deviation of a Gaussian is its standard deviation over this.
_GAUSSIAN = 1.4826
# Norms closer than this share of their median are equal but for rounding, as after a normalisation without weights.
_EQUAL = 1e-6


@dataclass(frozen=True, repr=False)
class OutlierTokens(ShortRepr):
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

    Norms within a millionth of the median count as equal, so that the rounding of tokens of one length gives share 0.
    No share (NaN) where the median is zero. Norms before and after a final normalisation differ: say which was read.

    Examples:
        >>> from diagnostics.measures.locality import outlier_tokens
        >>> outliers = outlier_tokens([1.0] * 49 + [10.0])  # norms
        >>> outliers.share, outliers.largest_over_median
        (0.02, 10.0)
    """
    grid = None if grid is None else extents(grid)
    x = as_tensor(tokens)
    flat = x.ndim == 1
    x, single = token_samples(x[:, None] if flat else x, "The array of tokens", grid)
    if not k > 0:
        raise DiagnosticsError(
            f"Outliers lie k = {k} median deviations above the median: give a k above 0.", code="bad-value"
        )
    blocks = sample_blocks(x, pairs=False)
    scale = scale_of(float(x.abs().amax()))
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
    middle = float(median(norms.flatten()))
    largest = float(norms.max())
    if not middle > 0:
        return OutlierTokens(
            nan,
            np.zeros(tuple(norms.shape), dtype=bool),
            nan,
            median_norm=middle,
            largest_over_median=nan,
            bimodality=nan,
            gap=nan,
            cosine_outliers=nan,
            cosine_rest=nan,
        )
    deviation = max(_GAUSSIAN * float(median((norms - middle).abs().flatten())), _EQUAL * middle)
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
        Case(
            "2 % planted at ten times the median: share", 0.02, DARCET, lambda: outlier_tokens(_planted_norms()).share
        ),
        Case("recall of the planted", 1, DARCET, lambda: float(outlier_tokens(_planted_norms()).mask[:40].mean())),
        Case("Gaussian norms", 0, DARCET, lambda: outlier_tokens(10 + normal(5000, seed=1)).share),
    )

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, MOST_SAMPLES)
        taps = activations.taps
        shares = np.full((n, len(taps)), np.nan)
        by_place = np.full((len(taps), max(tap.grid.tokens for tap in taps)), np.nan)
        kinds = (
            "median_norm",
            "threshold",
            "largest_over_median",
            "bimodality",
            "gap",
            "cosine_outliers",
            "cosine_rest",
        )
        numbers = {name: np.full(len(taps), np.nan) for name in (*kinds, "place", "place_share")}
        reasons: list[tuple[str, str]] = []
        for t, tap in readable_taps(taps, lacks_places, reasons):
            outliers = self.find_at(activations, target, tap, seed)
            for name in kinds:
                numbers[name][t] = getattr(outliers, name)
            if np.isnan(outliers.share):
                reasons.append((tap.name, "at least half of the tokens have length zero"))
                continue
            shares[:, t] = outliers.mask.mean(axis=1)
            held = by_place[t, : tap.grid.tokens] = outliers.mask.mean(axis=0)
            if outliers.mask.any():
                numbers["place"][t], numbers["place_share"][t] = held.argmax(), held.max()
        attrs = state_attributes(
            functional=f"share of tokens whose norm exceeds median + {BEYOND:g} * {_GAUSSIAN} * MAD of the tap's "
            f"tokens; norms as the tap hands them over",
            pooling="none: grid tokens",
            centring="none",
            interval="95 % bootstrap over groups, the threshold held",
            bimodality="Sarle's coefficient of the norms: Gaussian 1/3, uniform 5/9, two values 1",
            place="raster index of the grid token that is an outlier in most samples, and in what share of them",
            reasons=reasons,
            n=n,
            seed=seed,
        )
        variables = {**mean_with_interval(shares, activations.groups[:n], seed), **numbers}
        return over_taps(activations, {**variables, "share_by_place": (("tap", "place_index"), by_place)}, attrs)

    def at_tap(self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int) -> OutlierTokens:
        n = token_count(activations, self.name, MOST_SAMPLES)
        norms, likeness = list[Tensor](), list[Tensor]()
        with naming(f"{self.name} at tap {tap.name}"):
            for _, tokens in first_tokens(activations, tap.name, n):
                for block in sample_blocks(tokens, pairs=False):
                    block, _ = token_samples(block, f"Tap {tap.name} for {self.name}", tap.grid.shape)
                    norms.append(torch.linalg.vector_norm(block, dim=2))
                    likeness.append(_likeness(block, tap.grid.shape))
        return _judge(torch.cat(norms), torch.cat(likeness), BEYOND)


MOST_TOKENS = 64
"""Tokens drawn of each sample: other samples say more about a place than other tokens of one do."""


@dataclass(frozen=True, repr=False)
class PositionProbe(ShortRepr):
    """Accuracy with which single tokens tell their place, on samples that the probe has not seen.

    `r2` mean over the axes of more than one cell of `r2_by_axis` [axis], against the mean place of the tokens fitted;
    `error` mean Euclidean distance from the place predicted to the place, in tokens, and `error_of_mean` that of the
    mean place; the `penalty` chosen on val.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import position_probe
        >>> tokens = np.ones((3, 4, 1))  # all alike
        >>> probe = position_probe(tokens, (4,), ["train", "val", "test"])
        >>> probe.r2, probe.error, probe.error_of_mean  # (1.5 + 0.5 + 0.5 + 1.5) / 4
        (0.0, 1.0, 1.0)
    """

    r2: float
    r2_by_axis: np.ndarray
    error: float
    error_of_mean: float
    penalty: float


@dataclass(frozen=True)
class _Read:
    """The losses of one probe (of places, or of shuffled ones) on test: [test row, axis] squared errors, and more."""

    loss: np.ndarray
    reference: np.ndarray
    error: float
    error_of_mean: float
    val_score: float
    penalty: float


def position_probe(
    tokens: Any, grid: Sequence[int], split: Sequence[str] | np.ndarray, *, penalties: Sequence[float] = PENALTIES
) -> PositionProbe:
    """Ridge from each token to its coordinates on the grid, split by sample.

    Features are standardised with the tokens fitted; fitted on train, the penalty chosen on val, fitted again on
    both, read on test. Tokens of one sample never lie on both sides: a split by token would let the probe recognise the
    sample and fill in what lies between.

    Parameters
    ----------
    tokens: [sample, token, feature], grid tokens only, in raster order.
    grid: extents of one, two or three axes.
    split: [sample], `train`, `val` or `test`; with several samples a group (frames of a video), keep a group whole.
    penalties: tried on val, as in `diagnostics.measures.probes.PENALTIES`; with one, val only adds rows to the fit.

    R2 of OLS on d features of noise is about -d / (n - d - 1) for n tokens fitted. NaN where the grid has one token.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import position_probe
        >>> places = np.indices((4, 4)).reshape(2, 16).T  # each token holds its place
        >>> tokens = np.stack([places] * 3)
        >>> probe = position_probe(tokens, (4, 4), ["train", "val", "test"])
        >>> round(probe.r2, 4), round(probe.error, 4)
        (1.0, 0.0)
    """
    grid = extents(grid)
    x, single = token_samples(tokens, "The array of tokens", grid)
    names = np.asarray(split).astype(str)
    if single or names.shape != (len(x),):
        raise DiagnosticsError(
            f"Tokens have shape {tuple(np.shape(tokens))} and the split {names.shape}: give [sample, token, feature] "
            f"and one of {', '.join(SPLITS)} a sample.",
            code="bad-shape",
        )
    by_split = [np.flatnonzero(names == name) for name in SPLITS]
    refuse_values(
        (
            set(names) != set(SPLITS),
            f"The split of {len(names)} samples names {', '.join(sorted(set(names)))}: give some to each of "
            f"{', '.join(SPLITS)}.",
            "bad-splits",
        ),
        (
            not penalties or not min(penalties) > 0,
            f"The penalties are {list(penalties)}: give at least one, all above 0.",
        ),
    )
    if math.prod(grid) == 1:
        nan = float("nan")
        return PositionProbe(nan, np.full(len(grid), nan), nan, nan, nan)
    y = np.broadcast_to(_places(grid), (len(x), *_places(grid).shape))

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        step = max(1, 2**22 // (x.shape[1] * x.shape[2]))
        for start in range(0, len(x), step):
            yield slice(start, start + step), x[start : start + step].cpu().numpy()

    (readout,) = _probe(blocks(), y, Rows(*by_split, *[by_split[2]] * 2, *[by_split[1]] * 2), penalties, 1)
    lost, whole = readout.loss.sum(axis=0), readout.reference.sum(axis=0)
    by_axis = 1 - np.divide(lost, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return PositionProbe(float(np.nanmean(by_axis)), by_axis, readout.error, readout.error_of_mean, readout.penalty)


def _probe(
    blocks: Iterable[tuple[slice, np.ndarray]],
    y: np.ndarray,
    rows: Rows,
    penalties: Sequence[float],
    probes: int,
) -> list[_Read]:
    """One ridge path from blocks (rows, x [row, token, feature]) to y [sample, token, probe and axis]."""
    axes = y.shape[2] // probes
    train = val = None
    test: list[tuple[np.ndarray, np.ndarray]] = []
    for block, x in blocks:
        if train is None or val is None:
            # Any token serves as the origin that both share.
            train, val = (Moments(x[0, 0], y[0, 0]) for _ in range(2))
        for moments, wanted in ((train, rows.train), (val, rows.val)):
            picked = _within(wanted, block)
            if len(picked):
                moments.update(x[picked - block.start].reshape(-1, x.shape[2]), y[picked].reshape(-1, y.shape[2]))
        picked = _within(rows.test, block)
        if len(picked):
            # Kept, since reading the blocks a second time costs more than all the rest.
            test.append((picked, x[picked - block.start]))
    assert train is not None and val is not None
    path = RidgePath.from_moments(train)
    errors = np.stack([val.squared_error(path, penalty) for penalty in penalties])
    spread = val.spread(path.mean_y)
    columns = [slice(i * axes, (i + 1) * axes) for i in range(probes)]
    # Mean over the axes that have more than one cell, [probe][penalty].
    lost = [(errors[:, own][:, spread[own] > 0] / spread[own][spread[own] > 0]).mean(axis=1) for own in columns]
    chosen = [choose(of_probe, penalties) for of_probe in lost]
    final = RidgeFits.from_moments(train + val, chosen)
    error = np.zeros((probes, len(rows.test), y.shape[1], axes))
    reference = np.zeros_like(error)
    for picked, x in test:
        at = np.searchsorted(rows.test, picked)
        predicted = final.predict(x.reshape(-1, x.shape[2]))
        for i, own in enumerate(columns):
            error[i, at] = y[picked][:, :, own] - predicted[i][:, own].reshape(len(picked), -1, axes)
            reference[i, at] = y[picked][:, :, own] - final.mean_y[own]
    return [
        _Read(
            loss=(error[i] ** 2).sum(axis=1),
            reference=(reference[i] ** 2).sum(axis=1),
            error=float(np.sqrt((error[i] ** 2).sum(axis=2)).mean()),
            error_of_mean=float(np.sqrt((reference[i] ** 2).sum(axis=2)).mean()),
            val_score=1 - float(lost[i].min()),
            penalty=chosen[i],
        )
        for i in range(probes)
    ]


def _places(grid: tuple[int, ...]) -> np.ndarray:
    return places(grid).numpy().astype(np.float64)


def _within(rows: np.ndarray, block: slice) -> np.ndarray:
    """Those of the sorted rows that lie in a block."""
    return rows[np.searchsorted(rows, block.start) : np.searchsorted(rows, block.stop)]


def _code_and_places_r2() -> float:
    """R2 from tokens that hold their place, and waves of it, on a grid of 8 x 8."""
    places = _places((8, 8))
    waves = [wave(2 * np.pi * axis / 32 + 0.1) for axis in places.T for wave in (np.sin, np.cos)]
    code = np.hstack([np.stack(waves, axis=1), places])
    return position_probe(np.repeat(code[None], 9, axis=0), (8, 8), [*SPLITS] * 3).r2


def _noise_r2(d: int, n: int) -> float:
    """Mean R2 of OLS from noise to places, n tokens fitted in each of 40 draws."""
    side = 10
    samples = n // side
    split = ["train"] * (samples - 1) + ["val"] + ["test"] * 20
    draws = [normal(samples + 20, side, d, seed=i) for i in range(40)]
    return float(np.mean([position_probe(x, (side,), split, penalties=(1e-9,)).r2 for x in draws]))


class Position(Measure):
    """R2 of the place that single tokens tell, with the error in tokens beside it.

    `line_shuffled` is that of places dealt out anew in every sample.
    """

    name = "position_probe"
    answers = "Do single tokens encode their position?"
    source = "ridge: Hoerl and Kennard 1970; shuffled control after Hewitt and Liang 2019 (1909.03368)"
    invariant_to = ("scale", "shift")
    family = "spatial"
    needs = "tokens"
    losses, score_name, metric, chance = "squares", "R2", "r_squared", 0.0
    instead = (
        "its targets are places: call diagnostics.measures.locality.position_probe on run.features(tap, tokens=True)"
    )
    known_answers = (
        Case("sine and cosine code with the places", 1, "read linearly", _code_and_places_r2, 1e-4),
        Case(
            "noise, OLS, n = 200, d = 100: -d / (n - d - 1) (mean of 40)",
            -1.01,
            "out-of-sample R2 of OLS",
            lambda: _noise_r2(100, 200),
            0.1,
        ),
    )

    @staticmethod
    def _rows(activations: Activations, n: int) -> Rows:
        return rows_of(activations, "place", np.ones(n, dtype=bool), KEEP_TOKENS)

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, MOST_SAMPLES)
        taps = activations.taps
        rows = self._rows(activations, n)
        axes = min(3, max(len(tap.grid.shape) for tap in taps))
        loss = np.full((len(taps), len(rows.units), axes), np.nan)
        reference = np.full_like(loss, np.nan)
        kinds = ("val_score", "penalty", "error", "error_of_mean", "line_shuffled")
        numbers = {name: np.full(len(taps), np.nan) for name in kinds}
        reasons: list[tuple[str, str]] = []
        for t, tap in readable_taps(taps, lacks_places, reasons):
            readout, shuffled = self.find_at(activations, target, tap, seed)
            for whole, part in ((loss, readout.loss), (reference, readout.reference)):
                # Axes that this grid lacks have nothing to predict and nothing lost.
                whole[t] = np.pad(sum_by_unit(part, rows), ((0, 0), (0, axes - part.shape[1])))
            for name in ("val_score", "penalty", "error", "error_of_mean"):
                numbers[name][t] = getattr(readout, name)
            lost, spread = shuffled.loss.sum(axis=0), shuffled.reference.sum(axis=0)
            numbers["line_shuffled"][t] = 1 - (lost[spread > 0] / spread[spread > 0]).mean()
        val_score = numbers.pop("val_score")
        return probe_result(
            activations,
            rows,
            loss,
            reference=reference,
            val=val_score,
            extra=numbers,
            functional="R2 of a token's coordinates against the mean place of the tokens fitted, mean over axes",
            centring="features standardised with the tokens fitted",
            seed=seed,
            pooling="none: grid tokens",
            penalties=list(PENALTIES),
            tokens_of_a_sample=MOST_TOKENS,
            error="mean Euclidean distance between a place and the place predicted, in tokens",
            reasons=reasons,
        )

    def at_tap(self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int) -> tuple[_Read, _Read]:
        if tap.grid.tokens < 2:
            raise DiagnosticsError(f"{self.name} tells places apart, and tap {tap.name} has one.", code="no-grid")
        n, rng = token_count(activations, self.name, MOST_SAMPLES), np.random.default_rng(seed)
        rows = self._rows(activations, n)
        count = min(tap.grid.tokens, MOST_TOKENS)
        deal = np.tile(np.arange(tap.grid.tokens), (n, 1))
        drawn = np.sort(rng.permuted(deal, axis=1)[:, :count], axis=1)
        place = _places(tap.grid.shape)[drawn]
        order = rng.permuted(np.tile(np.arange(count), (n, 1)), axis=1)
        y = np.concatenate([place, np.take_along_axis(place, order[:, :, None], axis=1)], axis=2)

        def blocks() -> Iterator[tuple[slice, np.ndarray]]:
            for block, tokens in first_tokens(activations, tap.name, n):
                x = tokens.cpu().numpy()[np.arange(len(tokens))[:, None], drawn[block]].astype(np.float64)
                require_finite_tap(x, self.name, tap.name)
                yield block, x

        readout, shuffled = _probe(blocks(), y, rows, PENALTIES, 2)
        return readout, shuffled

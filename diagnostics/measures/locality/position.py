"""Whether a token encodes its position: ridge regression from single tokens to their place on the grid."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import arrays
from diagnostics.measures.base import Measure
from diagnostics.measures.known_answers import Case, normal
from diagnostics.measures.locality.blocks import MOST_SAMPLES, extents, lacks_axes, places
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgeFits, RidgePath, choose
from diagnostics.measures.probes.protocol import KEEP_TOKENS, Rows, probe_result, rows_of, sum_by_unit
from diagnostics.vocabulary import SPLITS

MOST_TOKENS = 64
"""Tokens drawn of each sample: other samples say more about a place than other tokens of one do."""


@dataclass(frozen=True, repr=False)
class PositionProbe(arrays.ShortRepr):
    """How well single tokens tell their place, on samples that the probe has not seen.

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
    """What one probe (the places, or the shuffled ones) leaves on test: [test row, axis] squared errors, and more."""

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
    x, single = arrays.token_samples(tokens, "The array of tokens", grid)
    names = np.asarray(split).astype(str)
    if single or names.shape != (len(x),):
        raise DiagnosticsError(
            f"Tokens have shape {tuple(np.shape(tokens))} and the split {names.shape}: give [sample, token, feature] and one of "
            f"{', '.join(SPLITS)} a sample."
        )
    by_split = [np.flatnonzero(names == name) for name in SPLITS]
    if set(names) != set(SPLITS):
        raise DiagnosticsError(
            f"The split of {len(names)} samples names {', '.join(sorted(set(names)))}: give some to each of {', '.join(SPLITS)}."
        )
    if not penalties or not min(penalties) > 0:
        raise DiagnosticsError(f"The penalties are {list(penalties)}: give at least one, all above 0.")
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
    """R2 of the place that single tokens tell, with the error in tokens beside it; `line_shuffled` is that of places dealt
    out anew in every sample."""

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
        Case("noise, OLS, n = 200, d = 100: -d / (n - d - 1) (mean of 40)", -1.01, "out-of-sample R2 of OLS", lambda: _noise_r2(100, 200), 0.1),
    )  # fmt: skip

    @arrays.one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = arrays.token_count(activations, self.name, MOST_SAMPLES)
        taps = activations.taps
        rows = rows_of(activations, "place", np.ones(n, dtype=bool), KEEP_TOKENS)
        axes = min(3, max(len(tap.grid.shape) for tap in taps))
        loss = np.full((len(taps), len(rows.units), axes), np.nan)
        reference = np.full_like(loss, np.nan)
        kinds = ("val_score", "penalty", "error", "error_of_mean", "line_shuffled")
        numbers = {name: np.full(len(taps), np.nan) for name in kinds}
        reasons: list[tuple[str, str]] = []
        for t, tap in enumerate(taps):
            if reason := "one token" if tap.grid.tokens < 2 else lacks_axes(tap.grid):
                reasons.append((tap.name, reason))
                continue
            readout, shuffled = self._of_tap(activations, tap, n, rows, seed)
            for whole, part in ((loss, readout.loss), (reference, readout.reference)):
                # Axes that this grid lacks have nothing to predict and nothing lost.
                whole[t] = np.pad(sum_by_unit(part, rows), ((0, 0), (0, axes - part.shape[1])))
            for name in ("val_score", "penalty", "error", "error_of_mean"):
                numbers[name][t] = getattr(readout, name)
            lost, spread = shuffled.loss.sum(axis=0), shuffled.reference.sum(axis=0)
            numbers["line_shuffled"][t] = 1 - (lost[spread > 0] / spread[spread > 0]).mean()
        val_score = numbers.pop("val_score")
        return probe_result(
            activations, rows, loss, reference, val_score, numbers,
            "R2 of a token's coordinates against the mean place of the tokens fitted, mean over axes",
            "features standardised with the tokens fitted", seed,
            pooling="none: grid tokens", penalties=list(PENALTIES), tokens_of_a_sample=MOST_TOKENS,
            error="mean Euclidean distance between a place and the place predicted, in tokens", reasons=reasons,
        )  # fmt: skip

    def _of_tap(self, activations: Activations, tap: Tap, n: int, rows: Rows, seed: int) -> tuple[_Read, _Read]:
        rng = np.random.default_rng(seed)
        count = min(tap.grid.tokens, MOST_TOKENS)
        deal = np.tile(np.arange(tap.grid.tokens), (n, 1))
        drawn = np.sort(rng.permuted(deal, axis=1)[:, :count], axis=1)
        place = _places(tap.grid.shape)[drawn]
        order = rng.permuted(np.tile(np.arange(count), (n, 1)), axis=1)
        y = np.concatenate([place, np.take_along_axis(place, order[:, :, None], axis=1)], axis=2)

        def blocks() -> Iterator[tuple[slice, np.ndarray]]:
            for block, tokens in arrays.first_tokens(activations, tap.name, n):
                x = tokens.cpu().numpy()[np.arange(len(tokens))[:, None], drawn[block]].astype(np.float64)
                arrays.require_finite_tap(x, self.name, tap.name)
                yield block, x

        readout, shuffled = _probe(blocks(), y, rows, PENALTIES, 2)
        return readout, shuffled

"""Ridge from single tokens to a dense target: two passes over the tokens, of which never more than a block is held."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.cells import resample
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes.protocol import Rows, probe_result, rows_of
from diagnostics.measures.probes.ridge import PENALTIES, Moments, RidgePath, choose
from diagnostics.taps import Grid, Tap


def dense_ridge(activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
    """R2 of ridge from each tap's grid tokens to a `token_value` target; see `LinearProbe`.

    Splits and units are those of the samples, so that the tokens of one sample stay together. All taps are scored on one
    grid, the output tap's (the last with more than one token, where that has one): coarser cells would be easier, and
    taps could not be compared. Taps with one token get NaN, and the attribute `reason` says which.
    """
    grids = {tap.name: tap.grid for tap in activations.taps if tap.grid.tokens > 1 and tap.grid.shape in target.on_grid}
    if not grids:
        raise DiagnosticsError(
            f"Target {target.name} lies on no tap's grid: choose taps that have more than one token (--taps)."
        )
    scored = grids.get(activations.output_tap, list(grids.values())[-1])
    reads = {tap.name: tap.name in grids and len(tap.grid.shape) == len(scored.shape) for tap in activations.taps}
    values = target.tokens(scored)
    known: np.ndarray = np.asarray(np.isfinite(values[: activations.token_samples]).any(axis=1))
    rows = rows_of(activations, target.name, known, " whose tokens are kept: raise the token budget (--token-budget)")
    shape = (len(activations.taps), len(rows.units))
    loss, reference = np.full(shape, np.nan), np.full(shape, np.nan)
    val_score, chosen = np.full(shape[0], np.nan), np.full(shape[0], np.nan)
    tokens = {f"tokens_{split}": np.zeros(shape[0], dtype=np.int64) for split in ("train", "val", "test")}
    for i, tap in enumerate(activations.taps):
        if not reads[tap.name]:
            continue
        train, val = _moments(activations, target, tap, rows, scored)
        path = RidgePath.from_moments(train)
        errors = np.array([val.squared_error(path, penalty)[0] for penalty in PENALTIES])
        chosen[i] = choose(errors)
        around_train = float(val.spread(path.mean_y)[0])
        val_score[i] = 1 - errors.min() / around_train if around_train > 0 else np.nan
        final = RidgePath.from_moments(train + val)
        loss[i], reference[i], count = _test_losses(activations, target, tap, rows, scored, final, chosen[i])
        for split, n in (("train", train.n), ("val", val.n), ("test", count)):
            tokens[f"tokens_{split}"][i] = n
    extra: dict[str, Any] = {"penalty": chosen, **tokens}
    without = ", ".join(name for name, read in reads.items() if not read)
    return probe_result(
        activations, rows, loss, reference, val_score, extra,
        "R2 against the mean of the tokens fitted: 1 - sum (y - prediction)^2 / sum (y - mean)^2",
        "features standardised with the tokens fitted", seed,
        penalties=list(PENALTIES),
        pooling=f"none: tokens on a grid of {' x '.join(map(str, scored.shape))}", reason=f"no grid with this target: {without}" if without else "",
    )  # fmt: skip


def _moments(
    activations: Activations, target: StoredTarget, tap: Tap, rows: Rows, scored: Grid
) -> tuple[Moments, Moments]:
    """Of train and of val tokens, from one pass."""
    values = target.tokens(scored)
    train = val = None
    for block, tokens in activations.token_blocks(tap.name):
        if train is None or val is None:
            # Any token serves as the origin, as long as both share it.
            train, val = (Moments(tokens[0, 0], np.zeros(1)) for _ in range(2))
        for moments, wanted in ((train, rows.train), (val, rows.val)):
            x, y, _ = _known(tap, scored, block, tokens, values, wanted)
            moments.update(x, y[:, None])
    if train is None or val is None or train.n == 0 or val.n == 0:
        raise DiagnosticsError(
            f"Target {target.name} is known for no train or no val token of tap {tap.name}: raise the token budget "
            "(--token-budget)."
        )
    return train, val


def _test_losses(
    activations: Activations,
    target: StoredTarget,
    tap: Tap,
    rows: Rows,
    scored: Grid,
    path: RidgePath,
    penalty: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Loss and reference loss [unit], and the number of test tokens."""
    values = target.tokens(scored)
    loss, reference, count = np.zeros(len(rows.units)), np.zeros(len(rows.units)), 0
    for block, tokens in activations.token_blocks(tap.name):
        x, y, samples = _known(tap, scored, block, tokens, values, rows.test)
        units = rows.unit_of_test[np.searchsorted(rows.test, samples)]
        error = y - path.predict(x, (penalty,))[0, :, 0]
        loss += np.bincount(units, weights=error**2, minlength=len(loss))
        reference += np.bincount(units, weights=(y - path.mean_y[0]) ** 2, minlength=len(loss))
        count += len(y)
    return loss, reference, count


def _known(
    tap: Tap, scored: Grid, block: slice, tokens: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a block holds of the wanted rows (sorted): x [token, feature], y [token] and the row of each token."""
    samples = wanted[np.searchsorted(wanted, block.start) : np.searchsorted(wanted, block.start + len(tokens))]
    known = np.isfinite(values[samples])
    picked = tokens[samples - block.start]
    if tap.grid.shape != scored.shape:
        picked = resample(picked, tap.grid.shape, scored.shape)
    x = picked[known].astype(np.float64)
    if not np.isfinite(x).all():
        raise DiagnosticsError(
            f"linear_probe finds NaN or infinity in the tokens of tap {tap.name}: leave it out (--taps)."
        )
    return x, values[samples][known].astype(np.float64), np.repeat(samples, known.sum(axis=1))

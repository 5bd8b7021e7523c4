"""Helpers of measures that compare tokens with objects' masks without fitting: rows to read, and the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes.protocol import Rows, probe_result


def masks_of(measure: str, target: StoredTarget, axes: Sequence[str]) -> np.ndarray:
    """The target's masks, int [sample, *axes]; raises where it has other axes."""
    masks = np.asarray(target.values)
    if masks.ndim != 1 + len(axes):
        raise DiagnosticsError(
            f"{measure} needs masks [sample, {', '.join(axes)}], and target {target.name} has masks of shape "
            f"{masks.shape}: choose a dataset of {'videos' if 't' in axes else 'still images'} for it."
        )
    return masks


def scored_rows(measure: str, activations: Activations, target: str, known: np.ndarray, most: int) -> Rows:
    """Up to `most` known rows of val and of test; none of train, since nothing is fitted.

    `known` is [row] over the rows whose tokens are kept. Raises where val or test has none.
    """
    split = activations.split[: len(known)]
    val, test = (np.flatnonzero(known & (split == name))[:most] for name in ("val", "test"))
    for name, rows in (("val", val), ("test", test)):
        if len(rows) == 0:
            raise DiagnosticsError(
                f"{measure} finds no object of target {target} in any {name} sample whose tokens are kept: use more "
                "samples or raise the token budget (--token-budget)."
            )
    units, unit_of_test = np.unique(activations.groups[test].astype(str), return_inverse=True)
    return Rows(np.zeros(0, dtype=np.int64), val, test, units, unit_of_test)


def tokens_of(activations: Activations, tap: str, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(row, float32 [grid token, feature]) of the wanted rows, in order."""
    wanted = np.sort(rows)
    for block, tokens in activations.token_blocks(tap):
        first, last = np.searchsorted(wanted, (block.start, block.start + len(tokens)))
        yield from ((int(row), tokens[row - block.start]) for row in wanted[first:last])
        if last == len(wanted):
            return


def unfitted_result(
    activations: Activations,
    rows: Rows,
    loss: np.ndarray,
    reference: np.ndarray,
    extra: Mapping[str, Any],
    functional: str,
    seed: int,
    *,
    score_name: str,
    reasons: Iterable[tuple[str, str]],
    **attrs: Any,
) -> xr.Dataset:
    """A probe's dataset from loss and reference loss [tap, row] of the activations' rows (0 in rows that are not read).

    Nothing was fitted: `units_train` and `units_val` are 0, so that no interval is widened for a training set's share.
    """
    kept = loss.shape[1]
    of_test = np.zeros((kept, len(rows.units)))
    of_test[rows.test, rows.unit_of_test] = 1.0
    val_reference = reference[:, rows.val].sum(axis=1)
    val_loss = loss[:, rows.val].sum(axis=1)
    share = np.divide(val_loss, val_reference, out=np.full(len(loss), np.nan), where=val_reference > 0)
    return probe_result(
        activations, rows, loss @ of_test, reference @ of_test, 1 - share, extra, functional, "none", seed,
        score_name=score_name, reasons=reasons, units_train=0, units_val=0, pooling="none: grid tokens", **attrs,
    )  # fmt: skip

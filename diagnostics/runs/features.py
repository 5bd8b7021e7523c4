"""A tap's stored activations as a labelled array, in the dataset's order: the store's rows are in a random one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from diagnostics.activations.plan import row_order
from diagnostics.activations.store import Store
from diagnostics.encoders.modules import chosen_poolings
from diagnostics.encoders.taps import Grid
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.vocabulary import SPLITS


def features(
    store: Store,
    tap: str,
    split: str | None = None,
    pooling: str | Sequence[str] | None = None,
    tokens: bool = False,
) -> xr.DataArray:
    """What `Run.features` returns, of any store."""
    stored = {stored.name: stored for stored in store.taps}
    if tap not in stored:
        raise unknown("tap", tap, stored, f"These are stored in {store.path}; `--taps` of a run says which.")
    rows = _rows(store, split)
    if tokens:
        if pooling is not None:
            raise DiagnosticsError(f"Tokens are not pooled: leave out either pooling={pooling!r} or tokens=True.")
        values, rows = _tokens(store, tap, rows, split)
        dims, along = ("sample", "token", "feature"), _places(stored[tap].grid)
        read = "tokens"
    else:
        names = chosen_poolings(pooling, store.poolings)
        values = np.concatenate([store.pooled(tap, name)[rows].astype(np.float32) for name in names], axis=1)
        dims, along = ("sample", "feature"), {"pooling": ("feature", np.repeat(names, stored[tap].features))}
        read = " and ".join(names)
    return xr.DataArray(
        values,
        dims=dims,
        coords={
            "sample": store.ids[rows].astype(str),
            "split": ("sample", store.split[rows].astype(str)),
            "group": ("sample", store.groups[rows].astype(str)),
            **along,
        },
        name=tap,
        attrs={"tap": tap, "depth": stored[tap].depth, "read": read},
    )


def _rows(store: Store, split: str | None) -> np.ndarray:
    """The rows of a split in the dataset's order; of all samples where it is None."""
    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    rows = np.argsort(row_order(len(store.ids)))
    return rows if split is None else rows[store.split[rows] == split]


def _tokens(store: Store, tap: str, rows: np.ndarray, split: str | None) -> tuple[np.ndarray, np.ndarray]:
    """float32 [sample, token, feature], and the rows among those given that have tokens."""
    kept = rows[rows < store.token_samples]
    if not len(kept):
        if store.tokens_removed:
            raise DiagnosticsError(
                f"{store.path} stores no tokens (no measure read them, or `diagnostics clean` removed them): leave out tokens=True, or "
                "give the same `diagnostics run` command again with a measure that reads tokens (as cka), which extracts them."
            )
        of = f"{split} samples" if split else "samples"
        raise DiagnosticsError(
            f"{store.path} holds no tokens of {of} at tap {tap}, but pooled activations ({' and '.join(store.poolings)}) of all "
            f"{len(store.ids):,} samples and tokens of {store.token_samples:,}: leave out tokens=True, or run again with "
            "--fresh and a larger --token-budget, as 1GB (samples of unequal length keep none)."
        )
    place = np.full(store.token_samples, -1)
    place[kept] = np.arange(len(kept))
    values: np.ndarray | None = None
    for block, read in store.token_blocks(tap):
        wanted = place[block]
        if values is None:
            values = np.empty((len(kept), *read.shape[1:]), dtype=np.float32)
        values[wanted[wanted >= 0]] = read[wanted >= 0]
    assert values is not None  # as many blocks as rows with tokens ask for
    return values, kept


def _places(grid: Grid) -> dict[str, tuple[str, np.ndarray]]:
    """Where each grid token lies along each of the grid's axes, counted from 0."""
    return {axis: ("token", index.ravel()) for axis, index in zip(grid.axes, np.indices(grid.shape), strict=True)}

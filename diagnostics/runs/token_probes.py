"""The probes that read tokens, fitted again from those that a run stored: the same rows, the same seed, the stored choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import result as attribute
from diagnostics.measures.dynamics.events import class_moments, linear_rules
from diagnostics.measures.probes.cross_attention import EPOCHS, kept_target, kept_tokens, train
from diagnostics.measures.probes.dense import DenseRows, split_moments
from diagnostics.measures.probes.least_squares import PENALTIES, RidgePath
from diagnostics.measures.probes.protocol import label_rows, value_rows
from diagnostics.measures.probes.segmentation import fit_classifier, numbered_classes, reading
from diagnostics.runs.readouts import Above, Attention, EachToken, LargestScore, Linear, Readout

if TYPE_CHECKING:
    from diagnostics.activations.store import Store

Fit = tuple[tuple[int, ...], Readout, Grid | None]
"""Numbers of the classes (none of values), what was fitted, and the grid that its predictions lie on (None: one a sample)."""


def fit_on_tokens(store: Store, target: StoredTarget, tap: Tap, measure: str, at: xr.Dataset) -> Fit:
    """A probe at a tap, from its result `at` that tap; raises where the store has no tokens any more."""
    if store.tokens_removed:
        raise DiagnosticsError(
            f"{measure} of {target.name} is fitted again from tokens, and those of {store.path} were removed (`diagnostics clean`): "
            "give the same `diagnostics run` command again with another measure that reads tokens (as cka), which extracts them again."
        )
    return ON_TOKENS[measure](store, target, tap, at)


def _dense(store: Store, target: StoredTarget, tap: Tap, measure: str) -> DenseRows:
    dense = DenseRows.of(measure, store, target)
    if tap.name not in dense.reads:
        raise DiagnosticsError(
            f"Tap {tap.name} has a grid of {tap.grid}, on which target {target.name} does not lie, so {measure} was not fitted "
            f"there: choose {', '.join(dense.reads)}."
        )
    return dense


def _values(store: Store, target: StoredTarget, tap: Tap, at: xr.Dataset) -> Fit:
    dense = _dense(store, target, tap, "linear_probe")
    fitted, val = split_moments(dense, tap)
    path, penalty = RidgePath.from_moments(fitted + val), float(at["penalty"])
    return (), EachToken(Linear(path.weights(penalty), path.intercept(penalty)), tap.grid, dense.grid), dense.grid


def _events(store: Store, target: StoredTarget, tap: Tap, at: xr.Dataset) -> Fit:
    dense = _dense(store, target, tap, "event_probe")
    (none, event), val = (class_moments(dense, tap, rows) for rows in (dense.rows.train, dense.rows.val))
    weights, threshold = linear_rules(none + val[0], event + val[1])[PENALTIES.index(float(at["penalty"]))]
    return (0, 1), EachToken(Above(weights, threshold), tap.grid, dense.grid), dense.grid


def _segments(store: Store, target: StoredTarget, tap: Tap, at: xr.Dataset) -> Fit:
    """Through all penalties again: each fit starts where the one before it ended."""
    dense = _dense(store, target, tap, "segmentation_probe")
    classes, labels = numbered_classes(dense.values, dense.known)
    of_train, of_val = (dense.mask(rows) for rows in (dense.rows.train, dense.rows.val))
    fit = fit_classifier(
        reading(dense, tap, classes), of_train, of_val, labels, len(classes), f"Target {target.name}",
        int(at.attrs[attribute.SEED]), "cpu",
    )  # fmt: skip
    numbers = tuple(int(number) for number in classes[fit.classes])
    return numbers, EachToken(LargestScore.of(fit.model), tap.grid, dense.grid), dense.grid


def _attended(store: Store, target: StoredTarget, tap: Tap, at: xr.Dataset) -> Fit:
    target, label = kept_target(store, target), target.kind == "label"
    rows, values = (label_rows if label else value_rows)(store, target)
    numbers = np.unique(values[rows.train]) if label else np.zeros(0)
    y = torch.tensor(np.searchsorted(numbers, values) if label else values)
    tokens = kept_tokens(store, tap, len(target.values), "attentive_probe")[rows.fit]
    setting = (float(at["learning_rate"]), float(at["weight_decay"]))
    epochs = train(tokens[None], y[rows.fit], [[setting]], EPOCHS, int(at.attrs[attribute.SEED]))
    fitted = [next(epochs) for _ in range(int(at["epochs"]))][-1]
    return tuple(int(number) for number in numbers), Attention(fitted, label), None


ON_TOKENS: dict[str, Callable[[Store, StoredTarget, Tap, xr.Dataset], Fit]] = {
    "linear_probe": _values, "segmentation_probe": _segments, "event_probe": _events, "attentive_probe": _attended,
}  # fmt: skip
"""How each is; `linear_probe` reads the tokens of a `token_value` alone."""

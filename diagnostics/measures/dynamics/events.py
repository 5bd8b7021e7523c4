"""Decoding events (changes) from single time steps."""

from __future__ import annotations

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import one_thread
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.protocol import Rows, need_target, probe_result, rows_of
from diagnostics.measures.probes.ridge import PENALTIES, Moments, RidgePath
from diagnostics.taps import Tap


class EventProbe(Measure):
    """Balanced accuracy of telling the tokens that hold an event from those that do not, at every tap.

    A linear discriminant: ridge to 0 and 1 with the threshold half way between what the two classes' means give, so that
    rare events count as much as the rest. Samples stay whole in their split; the penalty is chosen on val.
    """

    name = "event_probe"
    answers = "Does a token know that something happens at its time?"
    source = "Hastie, Tibshirani and Friedman 2009, section 4.3"
    needs = "tokens"
    kinds = ("event",)

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        target = need_target(self.name, target)
        grids = [tap.grid for tap in activations.taps if tap.grid.tokens > 1 and tap.grid.shape in target.on_grid]
        if not grids:
            raise DiagnosticsError(
                f"Target {target.name} lies on no tap's grid: choose taps that have more than one token (--taps)."
            )
        output = next(tap.grid for tap in activations.taps if tap.name == activations.output_tap)
        scored = output if output in grids else grids[-1]
        values = target.tokens(scored)[: activations.token_samples]
        known = np.asarray(np.isfinite(values).any(axis=1))
        rows = rows_of(
            activations, target.name, known, " whose tokens are kept: raise the token budget (--token-budget)"
        )
        self._need_both(target.name, values, rows)
        shape = (len(activations.taps), len(rows.units), 2)
        loss, reference = np.full(shape, np.nan), np.full(shape, np.nan)
        val_score, chosen, auc = (np.full(shape[0], np.nan) for _ in range(3))
        reads = [tap.grid.shape == scored.shape for tap in activations.taps]
        for i, tap in enumerate(activations.taps):
            if reads[i]:
                val_score[i], chosen[i], loss[i], reference[i], auc[i] = _decoded(activations, tap, values, rows)
        missed = ", ".join(tap.name for tap, read in zip(activations.taps, reads, strict=True) if not read)
        return probe_result(
            activations, rows, loss, reference, val_score,
            {"penalty": chosen, "auc": auc, "line_chance": np.full(shape[0], 0.5)},
            "balanced accuracy: mean of the shares of event tokens and of other tokens that are told right",
            "features standardised with the tokens fitted", seed,
            penalties=list(PENALTIES), score_name="balanced accuracy",
            pooling=f"none: tokens on a grid of {scored}", reason=f"not on that grid: {missed}" if missed else "",
        )  # fmt: skip

    def _need_both(self, target: str, values: np.ndarray, rows: Rows) -> None:
        for split, chosen in (("train", rows.train), ("val", rows.val), ("test", rows.test)):
            seen = {int(v) for v in np.unique(values[chosen]) if np.isfinite(v)}
            if len(seen) < 2:
                has = "no event" if 1 not in seen else "nothing but events"
                raise DiagnosticsError(
                    f"Target {target} has {has} in {split} tokens: use more samples or leave it out."
                )


def _decoded(
    activations: Activations, tap: Tap, values: np.ndarray, rows: Rows
) -> tuple[float, float, np.ndarray, np.ndarray, float]:
    """val score, penalty, loss and reference [unit, class], and area under the ROC curve on test."""
    parts: dict[tuple[str, int], Moments] = {}
    for block, tokens in activations.token_blocks(tap.name):
        for split, wanted in (("train", rows.train), ("val", rows.val)):
            x, y, _ = _known(block, tokens, values, wanted)
            for label in (0, 1):
                key = (split, label)
                parts.setdefault(
                    key, Moments(next(iter(parts.values())).origin_x if parts else tokens[0, 0], np.zeros(1))
                )
                parts[key].update(x[y == label], y[y == label][:, None])
    fits = {p: fit for p, fit in zip(PENALTIES, _rules(parts[("train", 0)], parts[("train", 1)]), strict=True)}
    right = {p: np.zeros((2, 2)) for p in PENALTIES}
    for block, tokens in activations.token_blocks(tap.name):
        x, y, _ = _known(block, tokens, values, rows.val)
        for penalty, (w, threshold) in fits.items():
            told = (x @ w > threshold).astype(int)
            np.add.at(right[penalty], (y.astype(int), told), 1.0)
    scores = [float((np.diag(m) / m.sum(axis=1)).mean()) for m in right.values()]
    # Of penalties that tie, the strongest.
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))
    penalty = PENALTIES[best]
    rule = _rules(parts[("train", 0)] + parts[("val", 0)], parts[("train", 1)] + parts[("val", 1)])[best]
    loss, reference = np.zeros((len(rows.units), 2)), np.zeros((len(rows.units), 2))
    margins, truths = [], []
    for block, tokens in activations.token_blocks(tap.name):
        x, y, samples = _known(block, tokens, values, rows.test)
        units = rows.unit_of_test[np.searchsorted(rows.test, samples)]
        margin, label = x @ rule[0] - rule[1], y.astype(int)
        np.add.at(loss, (units, label), ((margin > 0) != label).astype(float))
        np.add.at(reference, (units, label), 1.0)
        margins.append(margin)
        truths.append(label)
    return scores[best], penalty, loss, reference, _auc(np.concatenate(margins), np.concatenate(truths))


def _rules(none: Moments, event: Moments) -> list[tuple[np.ndarray, float]]:
    """(weights [feature], threshold) for every penalty, from the moments of the two classes."""
    path = RidgePath.from_moments(none + event)
    means = [part.origin_x + part.x / max(part.n, 1) for part in (none, event)]
    rules = []
    for penalty in PENALTIES:
        w = path.weights(penalty)[:, 0]
        rules.append((w, float((means[0] + means[1]) @ w / 2)))
    return rules


def _known(
    block: slice, tokens: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    samples = wanted[np.searchsorted(wanted, block.start) : np.searchsorted(wanted, block.start + len(tokens))]
    known = np.isfinite(values[samples])
    x = tokens[samples - block.start][known].astype(np.float64)
    return x, values[samples][known], np.repeat(samples, known.sum(axis=1))


def _auc(margin: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs (event, other) in the right order, ties half."""
    from scipy.stats import rankdata

    events = int(label.sum())
    others = len(label) - events
    ranks = rankdata(margin)
    return float((ranks[label == 1].sum() - events * (events + 1) / 2) / (events * others))

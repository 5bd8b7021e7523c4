"""Decoding events (changes) from single time steps."""

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.known_answers import Case
from diagnostics.measures.probes.dense import DenseRows
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgePath
from diagnostics.measures.probes.protocol import Probe, probe_result
from diagnostics.measures.statistics import Losses, scores

BRODERSEN = "Brodersen et al. 2010"


def _balanced(missed: int, false: int) -> float:
    """Balanced accuracy where 4 tokens hold an event and 96 none, in two units, as the losses below are scored."""
    wrong = np.array([[[false, missed], [0, 0]]], dtype=np.float64)
    return float(scores(wrong, np.array([[[48.0, 2.0], [48.0, 2.0]]]))[0])


class EventProbe(Probe):
    """Balanced accuracy of a linear discriminant of the tokens that hold an event from those that do not: ridge to 0 and 1
    with the threshold half way between the values of the two classes' means, so that rare events count as much as the rest.
    Samples stay whole in their split; the penalty is chosen on val."""

    name = "event_probe"
    answers = "Does a token encode whether an event happens at its time?"
    source = "Hastie, Tibshirani and Friedman 2009, section 4.3"
    needs = "tokens"
    kinds = ("event",)
    losses, score_name, metric, chance = "counts", "balanced accuracy", "balanced_accuracy", 0.5
    known_answers = (
        Case("event_probe", "balanced accuracy, 1 of 4 events missed: (1 + 3/4) / 2", 0.875, BRODERSEN, lambda: _balanced(1, 0)),
        Case("event_probe", "balanced accuracy, 2 of 4 events missed, 24 of 96 others taken for one", 0.625, BRODERSEN, lambda: _balanced(2, 24)),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        dense = DenseRows.of(self.name, activations, target)
        rows = dense.rows
        for split, chosen in (("train", rows.train), ("val", rows.val), ("test", rows.test)):
            seen = {int(value) for value in np.unique(dense.values[chosen][dense.known[chosen]])}
            if len(seen) < 2:
                has = "no event" if 1 not in seen else "nothing but events"
                raise DiagnosticsError(f"Target {target.name} has {has} in {split} tokens: use more samples.")
        shape = (len(activations.taps), len(rows.units), 2)
        loss, reference = np.full(shape, np.nan), np.full(shape, np.nan)
        val_loss, val_reference = (np.full((shape[0], len(rows.val_units), 2), np.nan) for _ in range(2))
        penalty, auc = (np.full(shape[0], np.nan) for _ in range(2))
        for i, tap in enumerate(activations.taps):
            if tap.name in dense.reads:
                penalty[i], val_loss[i], val_reference[i], loss[i], reference[i], auc[i] = _decoded(dense, tap)
        extra = {"penalty": penalty, "auc": auc, "line_chance": np.full(shape[0], 0.5), **dense.counts()}
        return probe_result(
            activations, rows, loss, reference, Losses(val_loss, val_reference), extra,
            "balanced accuracy: mean of the shares of event tokens and of other tokens that are told right",
            "features standardised with the tokens fitted", seed,
            penalties=list(PENALTIES), **dense.attrs(),
        )  # fmt: skip


def _decoded(dense: DenseRows, tap: Tap) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Penalty, loss and reference [unit, class] of val and of test, and area under the ROC curve on test."""
    rows = dense.rows
    train, val = (class_moments(dense, tap, chosen) for chosen in (rows.train, rows.val))
    rules = linear_rules(*train)
    val_loss, val_reference = np.zeros((len(PENALTIES), len(rows.val_units), 2)), np.zeros((len(rows.val_units), 2))
    for x, y, samples in dense.blocks(tap, dense.mask(rows.val)):
        units, label = dense.unit_of(samples, "val"), y.astype(int)
        np.add.at(val_reference, (units, label), 1.0)
        for i, (w, threshold) in enumerate(rules):
            np.add.at(val_loss[i], (units, label), ((x @ w > threshold) != label).astype(float))
    scores = [float((1 - wrong.sum(axis=0) / val_reference.sum(axis=0)).mean()) for wrong in val_loss]
    # Of penalties that tie, the strongest.
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))
    w, threshold = linear_rules(train[0] + val[0], train[1] + val[1])[best]
    loss, reference = np.zeros((len(rows.units), 2)), np.zeros((len(rows.units), 2))
    margins: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    for x, y, samples in dense.blocks(tap, dense.mask(rows.test)):
        units, margin, label = dense.unit_of(samples), x @ w - threshold, y.astype(int)
        np.add.at(loss, (units, label), ((margin > 0) != label).astype(float))
        np.add.at(reference, (units, label), 1.0)
        margins.append(margin)
        truths.append(label)
    return (
        PENALTIES[best],
        val_loss[best],
        val_reference,
        loss,
        reference,
        _auc(np.concatenate(margins), np.concatenate(truths)),
    )


def class_moments(dense: DenseRows, tap: Tap, chosen: np.ndarray) -> tuple[Moments, Moments]:
    """Of some rows' tokens without and with an event; all of a tap's share one origin, so that they add up."""
    origin = next(tokens[0, 0] for _, tokens in dense.activations.token_blocks(tap.name))
    none, event = Moments(origin, np.zeros(1)), Moments(origin, np.zeros(1))
    for x, y, _ in dense.blocks(tap, dense.mask(chosen)):
        none.update(x[y == 0], y[y == 0][:, None])
        event.update(x[y == 1], y[y == 1][:, None])
    return none, event


def linear_rules(none: Moments, event: Moments) -> list[tuple[np.ndarray, float]]:
    """(weights [feature], threshold) for every penalty, from the moments of the two classes."""
    path = RidgePath.from_moments(none + event)
    middle = none.origin_x + (none.x / none.n + event.x / event.n) / 2
    weights = [path.weights(penalty)[:, 0] for penalty in PENALTIES]
    return [(w, float(middle @ w)) for w in weights]


def _auc(margin: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs (event, other) in the right order, ties half."""
    from scipy.stats import rankdata

    events = int(label.sum())
    others = len(label) - events
    ranks = rankdata(margin)
    return float((ranks[label == 1].sum() - events * (events + 1) / 2) / (events * others))

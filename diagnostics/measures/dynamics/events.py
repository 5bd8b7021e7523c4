"""Decoding events (changes) from single time steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr
from diagnostics.measures.known_answers import Case
from diagnostics.measures.probes.dense import DenseProbe, DenseRows, TokenChoice, TokenRead
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgePath, choose
from diagnostics.measures.probes.protocol import Readout
from diagnostics.measures.statistics import scores

BRODERSEN = "Brodersen et al. 2010"


def _balanced(missed: int, false: int) -> float:
    """Balanced accuracy where 4 tokens hold an event and 96 none, in two units, as the losses below are scored."""
    wrong = np.array([[[false, missed], [0, 0]]], dtype=np.float64)
    return float(scores(wrong, np.array([[[48.0, 2.0], [48.0, 2.0]]]))[0])


@dataclass(frozen=True, repr=False)
class Threshold(ShortRepr, Readout):
    """1 where x @ `weights` [feature] is above `threshold`, else 0."""

    weights: np.ndarray
    threshold: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        return (x @ self.weights > self.threshold).astype(np.int64)


class EventProbe(DenseProbe):
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
        Case("balanced accuracy, 1 of 4 events missed: (1 + 3/4) / 2", 0.875, BRODERSEN, lambda: _balanced(1, 0)),
        Case("balanced accuracy, 2 of 4 events missed, 24 of 96 others taken for one", 0.625, BRODERSEN, lambda: _balanced(2, 24)),
    )  # fmt: skip

    def rows(self, activations: Activations, target: StoredTarget) -> DenseRows:
        dense = super().rows(activations, target)
        for split, chosen in (("train", dense.rows.train), ("val", dense.rows.val), ("test", dense.rows.test)):
            seen = {int(value) for value in np.unique(dense.values[chosen][dense.known[chosen]])}
            if len(seen) < 2:
                has = "no event" if 1 not in seen else "nothing but events"
                raise DiagnosticsError(f"Target {target.name} has {has} in {split} tokens: use more samples.")
        return dense

    def choose(self, dense: DenseRows, tap: Tap, seed: int) -> TokenChoice:
        train, val = (_class_moments(dense, tap, rows) for rows in (dense.rows.train, dense.rows.val))
        read = self.read(dense, tap, "val", _rules(*train))
        wrong = [-float((1 - each.loss.sum(axis=0) / each.reference.sum(axis=0)).mean()) for each in read]
        penalty = choose(wrong)
        best = read[PENALTIES.index(penalty)]
        both = train[0] + val[0], train[1] + val[1]
        return TokenChoice({"penalty": penalty}, (best.loss, best.reference), both)

    def fits(self, dense: DenseRows, tap: Tap, numbers: Mapping[str, float], start: Any = None) -> Threshold:
        if start is None:
            (none, event), val = (_class_moments(dense, tap, rows) for rows in (dense.rows.train, dense.rows.val))
            start = none + val[0], event + val[1]
        none, event = start
        return _rules(none, event, [numbers["penalty"]])[0]

    def says(self, readout: Threshold, x: np.ndarray) -> np.ndarray:
        return x @ readout.weights - readout.threshold

    def judge(
        self, dense: DenseRows, readout: Threshold, guess: np.ndarray, truth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        whole = np.eye(2)[truth.astype(int)]
        return whole * ((guess > 0) != truth)[:, None], whole

    def beside(self, dense: DenseRows, readout: Threshold, test: TokenRead) -> dict[str, float]:
        return {"auc": _auc(test.guess, test.truth.astype(int))}

    def stated(self, dense: DenseRows, readouts: Mapping[str, Any]) -> dict[str, Any]:
        functional = "balanced accuracy: mean of the shares of event tokens and of other tokens that are told right"
        return {"functional": functional, "penalties": list(PENALTIES), "line_chance": 0.5}


def _class_moments(dense: DenseRows, tap: Tap, chosen: np.ndarray) -> tuple[Moments, Moments]:
    """Of some rows' tokens without and with an event; all of a tap's share one origin, so that they add up."""
    origin = next(tokens[0, 0] for _, tokens in dense.activations.token_blocks(tap.name))
    none, event = Moments(origin, np.zeros(1)), Moments(origin, np.zeros(1))
    for x, y, _ in dense.blocks(tap, dense.mask(chosen)):
        none.update(x[y == 0], y[y == 0][:, None])
        event.update(x[y == 1], y[y == 1][:, None])
    return none, event


def _rules(none: Moments, event: Moments, penalties: Sequence[float] = PENALTIES) -> list[Threshold]:
    """Of each penalty, from the moments of the two classes."""
    path = RidgePath.from_moments(none + event)
    middle = none.origin_x + (none.x / none.n + event.x / event.n) / 2
    weights = [path.weights(penalty)[:, 0] for penalty in penalties]
    return [Threshold(w, float(middle @ w)) for w in weights]


def _auc(margin: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs (event, other) in the right order, ties half."""
    from scipy.stats import rankdata

    events = int(label.sum())
    others = len(label) - events
    ranks = rankdata(margin)
    return float((ranks[label == 1].sum() - events * (events + 1) / 2) / (events * others))

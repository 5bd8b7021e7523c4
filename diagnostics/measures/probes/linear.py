"""The linear probe: ridge regression for values, logistic regression for classes."""

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures.probes import protocol
from diagnostics.measures.probes.dense import dense_ridge
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, choose, refit
from diagnostics.measures.probes.softmax import FINAL, LogisticRows, choose_logistic
from diagnostics.measures.probes.softmax import PENALTIES as LOGISTIC_PENALTIES

R2 = "R2 against the mean of the rows fitted: 1 - sum (y - prediction)^2 / sum (y - mean)^2"
STANDARDISED = "features standardised with the rows fitted"


class LinearProbe(protocol.Probe):
    """What a linear map reads out at every tap: R2 of ridge, or accuracy of multinomial logistic regression.

    Reads pooled activations; for a `token_value` target the tokens that are kept. The score of a target with several
    columns (horizons) is the mean R2 of the columns. A target that goes round is read as its cosine and sine, with one
    R2 over both, and `angular_error` beside it.
    """

    name = "linear_probe"
    answers = "What can be read out linearly, and how well?"
    source = "Alain and Bengio 2016 (1610.01644); ridge: Hoerl and Kennard 1970"
    kinds = ("label", "value", "state", "future", "token_value")

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        if target.kind == "label":
            return self._classes(activations, target, seed)
        if target.kind == "token_value":
            return dense_ridge(activations, target, seed)
        return self._values(activations, target, seed)

    def _values(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        rows, values = protocol.value_rows(activations, target)
        circular = target.period is not None

        def by_part(squares: np.ndarray) -> np.ndarray:
            """Squared errors [..., column] -> [..., part]: cosine and sine are one, horizons each their own."""
            return squares.sum(axis=-1, keepdims=True) if circular else squares

        count, units, parts = len(activations.taps), len(rows.units), 1 if circular else values.shape[1]
        loss, val_score = np.zeros((count, units, parts)), np.zeros(count)
        chosen, error = np.zeros(count), np.zeros(count)
        around_train = by_part((values[rows.val] - values[rows.train].mean(axis=0)) ** 2).sum(axis=0)
        for taps, x in protocol.tap_stacks(activations, self.name):
            y = torch.tensor(values, device=x.device)
            tried = RidgeStack.from_data(x[:, rows.train], y[rows.train]).predict(x[:, rows.val])
            errors = by_part(((tried - y[rows.val]) ** 2).sum(dim=2).cpu().numpy())
            chosen[taps], val_score[taps] = zip(*(_chosen(tap, around_train) for tap in errors), strict=True)
            penalties = torch.as_tensor(chosen[taps], device=x.device)
            predictions = refit(x[:, rows.fit], y[rows.fit], penalties, x[:, rows.test])
            for i, prediction in enumerate(predictions.cpu().numpy(), taps.start):
                loss[i] = protocol.sum_by_unit(by_part((prediction - values[rows.test]) ** 2), rows)
                error[i] = protocol.angular_error(target, prediction, rows.test) if circular else np.nan
        away = by_part((values[rows.test] - values[rows.fit].mean(axis=0)) ** 2)
        reference = np.broadcast_to(protocol.sum_by_unit(away, rows), loss.shape)
        if parts == 1:
            loss, reference = loss[..., 0], reference[..., 0]
        extra = {"penalty": chosen} | ({"angular_error": error} if circular else {})
        mean = ", over the angle's cosine and sine" if circular else ", mean of columns" if parts > 1 else ""
        return protocol.probe_result(
            activations, rows, loss, reference, val_score, extra, R2 + mean, STANDARDISED, seed, penalties=list(PENALTIES),
        )  # fmt: skip

    def _classes(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        rows, labels = protocol.label_rows(activations, target)
        # Numbers that no row has would be classes without a solution.
        codes = np.searchsorted(np.unique(labels[rows.train]), labels)
        count = len(activations.taps)
        loss, val_score, chosen = np.zeros((count, len(rows.units))), np.zeros(count), np.zeros(count)
        for taps, x in protocol.tap_stacks(activations, self.name):
            val = x[:, rows.val]
            chosen[taps], fits = choose_logistic(x[:, rows.train], codes[rows.train], val, codes[rows.val])
            val_score[taps] = (_read(fits.scores(val)) == codes[rows.val]).mean(axis=1)
            again = LogisticRows(x[:, rows.fit], codes[rows.fit], like=fits)
            fits = again.fit(chosen[taps, None], decrease=FINAL, start=fits)
            wrong = _read(fits.scores(x[:, rows.test])) != codes[rows.test]
            loss[taps] = protocol.sum_by_unit(wrong.T, rows).T
        reference = np.broadcast_to(protocol.sum_by_unit(np.ones(len(rows.test)), rows), loss.shape)
        functional = "accuracy of multinomial logistic regression with an L2 penalty"
        return protocol.probe_result(
            activations, rows, loss, reference, val_score, {"penalty": chosen}, functional, STANDARDISED, seed,
            penalties=list(LOGISTIC_PENALTIES),
        )  # fmt: skip


def _chosen(errors: np.ndarray, around: np.ndarray) -> tuple[float, float]:
    """The penalty with the best mean R2 over parts that vary on val, and that R2, from squared errors [penalty, part]."""
    varies = around > 0
    share = (errors[:, varies] / around[varies]).mean(axis=1) if varies.any() else errors.sum(axis=1)
    return choose(share), 1 - float(share.min()) if varies.any() else float("nan")


def _read(scores: torch.Tensor) -> np.ndarray:
    """[tap, row], the class with the highest score, from [tap, 1, class, row]."""
    return scores[:, 0].argmax(dim=1).cpu().numpy()

"""The linear probe: ridge for what has a value, logistic regression for what has a class."""

from __future__ import annotations

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.measures.arrays import matrix, one_thread
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.dense import dense_ridge
from diagnostics.measures.probes.logistic import PENALTIES as LOGISTIC_PENALTIES
from diagnostics.measures.probes.logistic import choose_logistic, logistic_path
from diagnostics.measures.probes.protocol import label_rows, need_target, probe_result, sum_by_unit, value_rows
from diagnostics.measures.probes.ridge import PENALTIES, RidgePath, choose

R2 = "R2 against the mean of the rows fitted: 1 - sum (y - prediction)^2 / sum (y - mean)^2"
STANDARDISED = "features standardised with the rows fitted"


class LinearProbe(Measure):
    """What a linear map reads out at every tap: R2 of ridge, or accuracy of multinomial logistic regression.

    Reads pooled activations; for a `token_value` target the tokens that are kept.
    """

    name = "linear_probe"
    answers = "What can be read out linearly, and how well?"
    source = "Alain and Bengio 2016 (1610.01644); ridge: Hoerl and Kennard 1970"
    kinds = ("label", "value", "state", "future", "token_value")

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        target = need_target(self.name, target)
        if target.kind == "label":
            return self._classes(activations, target, seed)
        if target.kind == "token_value":
            return dense_ridge(activations, target, seed)
        return self._values(activations, target, seed)

    def _values(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        rows, values = value_rows(activations, target)
        y = values[:, None]
        count = len(activations.taps)
        loss, val_score, chosen = np.zeros((count, len(rows.units))), np.zeros(count), np.zeros(count)
        around_train = float(((values[rows.val] - values[rows.train].mean()) ** 2).sum())
        for i, tap in enumerate(activations.taps):
            x = matrix(activations.pooled(tap.name), f"Tap {tap.name} for {self.name}")
            tried = RidgePath.from_data(x[rows.train], y[rows.train]).predict(x[rows.val])
            errors = ((tried - y[rows.val]) ** 2).sum(axis=(1, 2))
            chosen[i] = choose(errors)
            val_score[i] = 1 - errors.min() / around_train if around_train > 0 else np.nan
            prediction = RidgePath.from_data(x[rows.fit], y[rows.fit]).predict(x[rows.test], (chosen[i],))[0]
            loss[i] = sum_by_unit(((prediction - y[rows.test]) ** 2)[:, 0], rows)
        away = (values[rows.test] - values[rows.fit].mean()) ** 2
        reference = np.broadcast_to(sum_by_unit(away, rows), loss.shape)
        return probe_result(
            activations, rows, loss, reference, val_score, {"penalty": chosen}, R2, STANDARDISED, seed,
            penalties=list(PENALTIES),
        )  # fmt: skip

    def _classes(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        rows, labels = label_rows(activations, target)
        count = len(activations.taps)
        loss, val_score, chosen = np.zeros((count, len(rows.units))), np.zeros(count), np.zeros(count)
        for i, tap in enumerate(activations.taps):
            x = matrix(activations.pooled(tap.name), f"Tap {tap.name} for {self.name}")
            best = choose_logistic(x[rows.train], labels[rows.train], x[rows.val], labels[rows.val])
            chosen[i] = best.penalty
            val_score[i] = np.mean(best.predict(x[rows.val]) == labels[rows.val])
            model = logistic_path(x[rows.fit], labels[rows.fit], (chosen[i],))[0]
            loss[i] = sum_by_unit(model.predict(x[rows.test]) != labels[rows.test], rows)
        reference = np.broadcast_to(sum_by_unit(np.ones(len(rows.test)), rows), loss.shape)
        functional = "accuracy of multinomial logistic regression with an L2 penalty"
        return probe_result(
            activations, rows, loss, reference, val_score, {"penalty": chosen}, functional, STANDARDISED, seed,
            penalties=list(LOGISTIC_PENALTIES),
        )  # fmt: skip

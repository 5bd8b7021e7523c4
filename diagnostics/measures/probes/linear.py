"""The linear probe: ridge regression for values, logistic regression for classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.measures.known_answers import Arrays, Case, normal
from diagnostics.measures.probes import protocol
from diagnostics.measures.probes.dense import TokenRidge, depth_metrics
from diagnostics.measures.probes.least_squares import PENALTIES, RidgePath, leave_one_out
from diagnostics.measures.probes.logistic_choice import choose_logistic, choose_out_of_fold, last_fits, start_of_last
from diagnostics.measures.probes.protocol import Readout, TapReadouts
from diagnostics.measures.probes.samples import Choice, RidgeProbe, Task
from diagnostics.measures.probes.softmax import PENALTIES as LOGISTIC_PENALTIES
from diagnostics.measures.probes.softmax import Classifiers, LogisticRows, logistic
from diagnostics.measures.statistics import OUTLYING, Losses, carried_by_few, rank_correlation

R2 = "R2 against the mean of the rows fitted: 1 - sum (y - prediction)^2 / sum (y - mean)^2"
STANDARDISED = "features standardised with the rows fitted"
HOERL = "Hoerl and Kennard 1970"
EIGEN = "Eigen et al. 2014 (1406.2283)"
OWN = "docs/explanation/statistics.md"


def _shrunk(rows: int, copies: int) -> float:
    """What ridge with a penalty of 1/2 predicts where the truth is 1: copies of one feature that is the target, 1 or -1."""
    sign = np.resize([1.0, -1.0], rows)[:, None]
    path = RidgePath.from_data(np.repeat(sign, copies, axis=1), sign)
    return float(path.predict(np.ones((1, copies)), (0.5,))[0, 0, 0])


def _two_slopes() -> xr.Dataset:
    """One feature, 1 or -1, and a target of 1, 3 and 2 times it in train, val and test, as many of each."""
    sign, slope = np.resize([1.0, -1.0], 120), np.repeat([1.0, 3.0, 2.0], 40)
    taps = Arrays({"feature": sign[:, None]}, np.repeat(["train", "val", "test"], 40).tolist())
    return LinearProbe().compute(taps, StoredTarget("slope", "value", slope * sign), 0)


def _refitted() -> float:
    result = _two_slopes()
    return 1 - float(result["loss"].sum() / result["reference_loss"].sum())


def _ridge_r2(shift: float) -> float:
    """R2 on other rows of y = x w, almost without penalty."""
    x = normal(80, 5, seed=0) + shift
    y = x @ np.arange(1.0, 6)[:, None] + 3
    guess = RidgePath.from_data(x[:60], y[:60]).predict(x[60:], (1e-12,))[0]
    return 1 - float(((guess - y[60:]) ** 2).sum() / ((y[60:] - y[:60].mean()) ** 2).sum())


def _left_out() -> float:
    """Largest difference of the predictions with one row left out from those of fits without it."""
    x, y, penalty = normal(12, 3, seed=4), normal(12, 1, seed=5), 0.1
    quick = leave_one_out(x, y, (penalty,))[0]
    slow: list[float] = []
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        # Standardised once with all rows, as the hat matrix is.
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        design = np.hstack([z[rest], np.ones((11, 1))])
        weights = np.linalg.solve(design.T @ design + np.diag([12 * penalty] * 3 + [0.0]), design.T @ y[rest])
        slow.append(float((np.append(z[i], 1.0) @ weights)[0]))
    return float(np.abs(quick[:, 0] - np.array(slow)).max())


def _logistic_gradient() -> float:
    """Largest entry of the gradient of mean cross-entropy + penalty / 2 |W|^2 at the solution, standardised features."""
    x, labels, penalty = normal(120, 4, seed=1), np.arange(120) % 3, 0.01
    x[np.arange(120), labels] += 1
    model = logistic(x, labels, (penalty,))[0]
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    error = np.exp(model.log_probability(x)) - np.eye(3)[labels]
    return float(np.abs(z.T @ error / 120 + penalty * model.weights * scale[:, None]).max())


def _depth() -> np.ndarray:
    """[sample, place], above 1."""
    return 1 + np.random.default_rng(3).random((3, 20))


def _aligned_depth_rmse() -> float:
    """RMSE of depth that is off by one factor and one offset a sample, once both are fitted."""
    truth = 1 + np.random.default_rng(2).random((4, 30))
    factor = np.array([0.5, 1.0, 2.0, 3.0])[:, None]
    offset = np.array([3.0, -0.5, 1.0, 0.0])[:, None]
    return depth_metrics(factor * truth + offset, truth, align="scale_shift").rmse


class LinearProbe(protocol.ClassOrValueProbe, RidgeProbe):
    """What a linear map reads out at every tap: R2 of ridge, or accuracy of multinomial logistic regression.

    Reads pooled activations; for a `token_value` target the tokens that are kept. The score of a target with several
    columns (horizons) is the mean R2 of the columns. A target that goes round is read as its cosine and sine, with one
    R2 over both, and `angular_error` beside it. Where a few units carry most of a target's spread in train and val (see
    `statistics.carried_by_few`), `spearman` stands beside R2, with its interval: they decide R2, and not ranks.
    """

    name = "linear_probe"
    answers = "What can be read out linearly, and how well?"
    source = "Alain and Bengio 2016 (1610.01644); ridge: Hoerl and Kennard 1970"
    kinds = ("label", "value", "state", "future", "token_value")
    known_answers = (
        Case("ridge: one feature of spread 1, penalty 1/2 a row: 1 / (1 + 1/2)", 2 / 3, HOERL, lambda: _shrunk(10, 1)),
        Case("ridge: the same feature 6 times in 4 rows: 6 / (6 + 1/2)", 12 / 13, HOERL, lambda: _shrunk(4, 6)),
        Case("slope 1 in train and 3 in val: fitted on both again, a slope of 2 is right on test", 1, OWN, _refitted, 1e-3),
        Case("the same, best slope on val: the one with the smallest penalty", PENALTIES[0], OWN, lambda: float(_two_slopes()["penalty"][0])),
        Case("ridge: R2 of y = x w, penalty near 0", 1, HOERL, lambda: _ridge_r2(0)),
        Case("ridge: the same, features shifted by 1e4", 1, HOERL, lambda: _ridge_r2(1e4)),
        Case("ridge: leave-one-out from the hat matrix minus fits without the row", 0, "Allen 1974", _left_out),
        Case("logistic: gradient at the solution", 0, "optimality", _logistic_gradient, 1e-6),
        Case("depth: delta 1 of 1.2 times the truth", 1, EIGEN, lambda: depth_metrics(1.2 * _depth(), _depth()).delta1),
        Case("depth: AbsRel of 1.2 times the truth", 0.2, EIGEN, lambda: depth_metrics(1.2 * _depth(), _depth()).abs_rel),
        Case("depth: delta 1 of 1.3 times the truth", 0, EIGEN, lambda: depth_metrics(1.3 * _depth(), _depth()).delta1),
        Case("depth: RMSE after one factor a sample", 0, EIGEN, lambda: depth_metrics(1.7 * _depth(), _depth(), align="scale").rmse),
        Case("depth: RMSE after factor and offset a sample", 0, EIGEN, _aligned_depth_rmse),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        if target.kind == "token_value":
            return _LinearOfTokens().read_out(activations, target, seed)
        return super().read_out(activations, target, seed)

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        if target.kind == "token_value":
            return _LinearOfTokens().fit(activations, target, tap, choice)
        return super().fit(activations, target, tap, choice)

    def choose(self, task: Task, x: Tensor) -> Choice:
        if not task.label:
            return super().choose(task, x)
        rows, codes = task.rows, task.codes
        if task.whole:
            out = choose_out_of_fold(x[:, rows.fit], codes[rows.fit], task.fold)
            wrong = out.wrong[..., None]
            return Choice({"penalty": out.penalty}, wrong[:, task.fold == 0], wrong, out.start)
        val = x[:, rows.val]
        penalty, fits = choose_logistic(x[:, rows.train], codes[rows.train], val, codes[rows.val])
        start = LogisticRows(x[:, rows.fit], codes[rows.fit], like=fits), fits
        return Choice({"penalty": penalty}, task.lost(Classifiers(fits, task.numbers)(val), rows.val), start=start)

    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> TapReadouts:
        if not task.label:
            return super().fits(task, x, numbers, start)
        rows, penalty = task.rows, numbers["penalty"]
        if start is None:
            val = np.arange(len(rows.fit)) >= len(rows.train)
            start = start_of_last(x[:, rows.fit], task.codes[rows.fit], val, penalty, task.whole)
        return Classifiers(last_fits(start, penalty), task.numbers)

    def stated(self, task: Task) -> dict[str, Any]:
        if task.label:
            functional = "accuracy of multinomial logistic regression with an L2 penalty"
            return {"functional": functional, "centring": STANDARDISED, "penalties": list(LOGISTIC_PENALTIES)}
        one, circular = task.values.shape[1] == 1, task.target.period is not None
        mean = ", over the angle's cosine and sine" if circular else "" if one else ", mean of columns"
        return {"functional": R2 + mean, "centring": STANDARDISED, "penalties": list(PENALTIES)}

    def beside(self, task: Task, read: Mapping[int, np.ndarray], losses: Losses) -> dict[str, Any]:
        rows = task.rows
        if task.label or task.values.shape[1] > 1:
            return {}
        around = protocol.sum_by_unit(task.around(rows.fit, rows.fit), rows, "fit")
        if not carried_by_few(around)[1] > OUTLYING:
            return {}
        guess = np.stack([read[i][:, 0] for i in range(len(read))])
        rank = rank_correlation(guess, task.values[rows.test, 0], rows.unit_of_test, task.seed, len(rows.fit_units))
        return dict(zip(("spearman", "spearman_low", "spearman_high"), rank, strict=True))


class _LinearOfTokens(TokenRidge):
    """The linear probe of a value for every place."""

    name = LinearProbe.name

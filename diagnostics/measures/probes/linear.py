"""The linear probe: ridge regression for values, logistic regression for classes."""

from typing import Any

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures.known_answers import Arrays, Case, normal
from diagnostics.measures.probes import protocol
from diagnostics.measures.probes.dense import dense_ridge, depth_metrics
from diagnostics.measures.probes.least_squares import PENALTIES, RidgePath, RidgeStack, leave_one_out, refit
from diagnostics.measures.probes.logistic_choice import choose_logistic, choose_out_of_fold
from diagnostics.measures.probes.out_of_fold import RidgeOutOfFold, choose_index, folds
from diagnostics.measures.probes.softmax import FINAL, LogisticRows, logistic
from diagnostics.measures.probes.softmax import PENALTIES as LOGISTIC_PENALTIES
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


class LinearProbe(protocol.ClassOrValueProbe):
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
        Case("linear_probe", "ridge: one feature of spread 1, penalty 1/2 a row: 1 / (1 + 1/2)", 2 / 3, HOERL, lambda: _shrunk(10, 1)),
        Case("linear_probe", "ridge: the same feature 6 times in 4 rows: 6 / (6 + 1/2)", 12 / 13, HOERL, lambda: _shrunk(4, 6)),
        Case("linear_probe", "slope 1 in train and 3 in val: fitted on both again, a slope of 2 is right on test", 1, OWN, _refitted, 1e-3),
        Case("linear_probe", "the same, best slope on val: the one with the smallest penalty", PENALTIES[0], OWN, lambda: float(_two_slopes()["penalty"][0])),
        Case("linear_probe", "ridge: R2 of y = x w, penalty near 0", 1, HOERL, lambda: _ridge_r2(0)),
        Case("linear_probe", "ridge: the same, features shifted by 1e4", 1, HOERL, lambda: _ridge_r2(1e4)),
        Case("linear_probe", "ridge: leave-one-out from the hat matrix minus fits without the row", 0, "Allen 1974", _left_out),
        Case("linear_probe", "logistic: gradient at the solution", 0, "optimality", _logistic_gradient, 1e-6),
        Case("linear_probe", "depth: delta 1 of 1.2 times the truth", 1, EIGEN, lambda: depth_metrics(1.2 * _depth(), _depth()).delta1),
        Case("linear_probe", "depth: AbsRel of 1.2 times the truth", 0.2, EIGEN, lambda: depth_metrics(1.2 * _depth(), _depth()).abs_rel),
        Case("linear_probe", "depth: delta 1 of 1.3 times the truth", 0, EIGEN, lambda: depth_metrics(1.3 * _depth(), _depth()).delta1),
        Case("linear_probe", "depth: RMSE after one factor a sample", 0, EIGEN, lambda: depth_metrics(1.7 * _depth(), _depth(), align="scale").rmse),
        Case("linear_probe", "depth: RMSE after factor and offset a sample", 0, EIGEN, _aligned_depth_rmse),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        if target.kind == "label":
            return self._classes(activations, target, seed)
        if target.kind == "token_value":
            return dense_ridge(activations, target, seed)
        return self._values(activations, target, seed)

    def _values(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        rows, values = protocol.value_rows(activations, target)
        circular = target.period is not None

        def by_part(squares: Any) -> Any:
            """Squared errors [..., column] -> [..., part]: cosine and sine are one, horizons each their own."""
            return squares.sum(-1, keepdims=True) if circular else squares

        count, units, parts = len(activations.taps), len(rows.units), 1 if circular else values.shape[1]
        loss, val_loss = np.zeros((count, units, parts)), np.zeros((count, len(rows.val_units), parts))
        chosen, error, guess = np.zeros(count), np.zeros(count), np.zeros((count, len(rows.test)))
        around_train = by_part((values[rows.val] - values[rows.train].mean(axis=0)) ** 2)
        out = None
        if activations.choose_on == "fit":
            out = RidgeOutOfFold(rows, values[rows.fit], lambda errors: by_part(errors**2), seed, count)
        for taps, x in protocol.tap_stacks(activations, self.name):
            y = torch.tensor(values, device=x.device)
            if out is None:
                tried = RidgeStack.from_data(x[:, rows.train], y[rows.train]).predict(x[:, rows.val])
                squares = (tried - y[rows.val]) ** 2
                sums = by_part(squares.sum(dim=2).cpu().numpy())
                best = [choose_index(errors, around_train.sum(axis=0)) for errors in sums]
                chosen[taps] = np.array(PENALTIES)[best]
                squares, stack = squares[torch.arange(len(x)), best], None
            else:
                chosen[taps], stack = out.choose(taps, x[:, rows.fit])
                penalties = torch.as_tensor(chosen[taps, None], device=x.device)
                squares = (refit(x[:, rows.train], y[rows.train], penalties, x[:, rows.val])[:, 0] - y[rows.val]) ** 2
            for i, of_tap in enumerate(squares.cpu().numpy(), taps.start):
                val_loss[i] = protocol.sum_by_unit(by_part(of_tap), rows, "val")
            penalties = torch.as_tensor(chosen[taps, None], device=x.device)
            if stack is None:
                predictions = refit(x[:, rows.fit], y[rows.fit], penalties, x[:, rows.test])
            else:
                predictions = stack.predict(x[:, rows.test], penalties)
            for i, prediction in enumerate(predictions[:, 0].cpu().numpy(), taps.start):
                guess[i] = prediction[:, 0]
                loss[i] = protocol.sum_by_unit(by_part((prediction - values[rows.test]) ** 2), rows)
                error[i] = protocol.angular_error(target, prediction, rows.test) if circular else np.nan
        away = by_part((values[rows.test] - values[rows.fit].mean(axis=0)) ** 2)
        reference = np.broadcast_to(protocol.sum_by_unit(away, rows), loss.shape)
        val_reference = np.broadcast_to(protocol.sum_by_unit(around_train, rows, "val"), val_loss.shape)
        val, oof = Losses(val_loss, val_reference), None if out is None else out.losses
        if parts == 1:
            loss, reference = loss[..., 0], reference[..., 0]
            val, oof = (each and Losses(each.loss[..., 0], each.reference[..., 0]) for each in (val, oof))
        assert val is not None
        extra = {"penalty": chosen} | ({"angular_error": error} if circular else {})
        around = protocol.sum_by_unit(by_part((values[rows.fit] - values[rows.fit].mean(axis=0)) ** 2), rows, "fit")
        if parts == 1 and not circular and carried_by_few(around)[1] > OUTLYING:
            rank = rank_correlation(guess, values[rows.test, 0], rows.unit_of_test, seed, len(rows.fit_units))
            extra |= dict(zip(("spearman", "spearman_low", "spearman_high"), rank, strict=True))
        mean = ", over the angle's cosine and sine" if circular else ", mean of columns" if parts > 1 else ""
        return protocol.probe_result(
            activations, rows, loss, reference, val, extra, R2 + mean, STANDARDISED, seed,
            oof=oof, penalties=list(PENALTIES),
        )  # fmt: skip

    def _classes(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        rows, labels = protocol.label_rows(activations, target)
        # Numbers that no row has would be classes without a solution.
        codes = np.searchsorted(np.unique(labels[rows.train]), labels)
        count = len(activations.taps)
        loss, val_loss = np.zeros((count, len(rows.units))), np.zeros((count, len(rows.val_units)))
        chosen = np.zeros(count)
        oof_loss = fold = None
        if activations.choose_on == "fit":
            oof_loss, fold = np.zeros((count, len(rows.fit_units))), folds(rows, codes[rows.fit], seed)
        for taps, x in protocol.tap_stacks(activations, self.name):
            if oof_loss is None or fold is None:
                val = x[:, rows.val]
                chosen[taps], fits = choose_logistic(x[:, rows.train], codes[rows.train], val, codes[rows.val])
                wrong = _read(fits.scores(val)) != codes[rows.val]
                again = LogisticRows(x[:, rows.fit], codes[rows.fit], like=fits)
                fits = again.fit(chosen[taps, None], decrease=FINAL, start=fits)
            else:
                out = choose_out_of_fold(x[:, rows.fit], codes[rows.fit], fold)
                chosen[taps], fits, wrong = out.penalty, out.fits, out.wrong[:, fold == 0]
                oof_loss[taps] = protocol.sum_by_unit(out.wrong.T, rows, "fit").T
            val_loss[taps] = protocol.sum_by_unit(wrong.T, rows, "val").T
            wrong = _read(fits.scores(x[:, rows.test])) != codes[rows.test]
            loss[taps] = protocol.sum_by_unit(wrong.T, rows).T
        reference, val, oof = protocol.answers(rows, loss, val_loss, oof_loss)
        extra = {"penalty": chosen, **protocol.commonest(labels, rows, count)}
        functional = "accuracy of multinomial logistic regression with an L2 penalty"
        return protocol.probe_result(
            activations, rows, loss, reference, val, extra, functional, STANDARDISED, seed,
            oof=oof, penalties=list(LOGISTIC_PENALTIES),
        )  # fmt: skip


def _read(scores: torch.Tensor) -> np.ndarray:
    """[tap, row], the class with the highest score, from [tap, 1, class, row]."""
    return scores[:, 0].argmax(dim=1).cpu().numpy()

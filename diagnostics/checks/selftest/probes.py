"""Known answers of probes."""

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures import probes
from diagnostics.measures.known_answers import Arrays, Case, normal
from diagnostics.measures.probes.cross_attention import HEADS, attend
from diagnostics.measures.probes.least_squares import PENALTIES, RidgePath
from diagnostics.measures.probes.linear import LinearProbe

WU = "Wu et al. 2018 (1805.01978), eq. 7"
VOC = "Everingham et al. 2010"
BARDES = "Bardes et al. 2024 (2404.08471), without perceptron"
EIGEN = "Eigen et al. 2014 (1406.2283)"


def _ridge_r2(shift: float) -> float:
    """R2 on other rows of y = x w, almost without penalty."""
    x = normal(80, 5, seed=0) + shift
    y = x @ np.arange(1.0, 6)[:, None] + 3
    guess = RidgePath.from_data(x[:60], y[:60]).predict(x[60:], (1e-12,))[0]
    return 1 - float(((guess - y[60:]) ** 2).sum() / ((y[60:] - y[:60].mean()) ** 2).sum())


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


def _left_out() -> float:
    """Largest difference of the predictions with one row left out from those of fits without it."""
    x, y, penalty = normal(12, 3, seed=4), normal(12, 1, seed=5), 0.1
    quick = probes.leave_one_out(x, y, (penalty,))[0]
    slow = []
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        # Standardised once with all rows, as the hat matrix is.
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        design = np.hstack([z[rest], np.ones((11, 1))])
        weights = np.linalg.solve(design.T @ design + np.diag([12 * penalty] * 3 + [0.0]), design.T @ y[rest])
        slow.append(float((np.append(z[i], 1.0) @ weights)[0]))
    return float(np.abs(quick[:, 0] - np.array(slow)).max())


def _attention(queries: float, shuffle: bool) -> torch.Tensor:
    """Outputs of the attentive probe with queries of this size, for tokens as they are or in another order."""
    count, features, outputs = 7, 5, 3
    tokens, order = torch.from_numpy(normal(20, count, features, seed=0)), np.random.default_rng(1).permutation(count)
    weights = torch.from_numpy(normal(HEADS * features, outputs, seed=2))
    drawn = queries * torch.from_numpy(normal(HEADS, features, seed=3))
    bias = torch.from_numpy(normal(outputs, seed=4))
    seen = tokens[:, order] if shuffle else tokens
    return attend(seen[None], drawn[None, None], weights[None, None], bias[None, None])[0, 0]


def _without_queries() -> float:
    """Largest difference of the attentive probe with queries of zero from a linear map of mean-pooled tokens."""
    tokens, weights, bias = normal(20, 7, 5, seed=0), normal(HEADS * 5, 3, seed=2), normal(3, seed=4)
    pooled = np.tile(tokens.mean(axis=1), HEADS) @ weights + bias
    return float(np.abs(_attention(0.0, False).numpy() - pooled).max())


def _found_by_attention() -> float:
    """Accuracy on new samples where one token, in any place, holds a class that the mean of the tokens drowns."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    tokens = rng.standard_normal((160, 12, 4))
    # Where the last feature is large, and only there, the first one tells the class.
    tokens[:, :, 0] = 3 * rng.choice([-1.0, 1.0], (160, 12))
    place = rng.integers(0, 12, 160)
    tokens[np.arange(160), place, 3] = 8
    tokens[np.arange(160), place, 0] = np.where(labels == 1, 3, -3)
    guess = probes.attentive(tokens[:120], labels[:120], tokens[120:], setting=(0.03, 0.01))
    return float((guess == labels[120:]).mean())


def _logistic_gradient() -> float:
    """Largest entry of the gradient of mean cross-entropy + penalty / 2 |W|^2 at the solution, standardised features."""
    x, labels, penalty = normal(120, 4, seed=1), np.arange(120) % 3, 0.01
    x[np.arange(120), labels] += 1
    model = probes.logistic(x, labels, (penalty,))[0]
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    error = np.exp(model.log_probability(x)) - np.eye(3)[labels]
    return float(np.abs(z.T @ error / 120 + penalty * model.weights * scale[:, None]).max())


def _constant_step() -> float:
    """Depth off by one factor and one offset a sample: RMSE once both are fitted."""
    truth = 1 + np.random.default_rng(2).random((4, 30))
    factor = np.array([0.5, 1.0, 2.0, 3.0])[:, None]
    offset = np.array([3.0, -0.5, 1.0, 0.0])[:, None]
    return probes.depth_metrics(factor * truth + offset, truth, align="scale_shift").rmse


def cases() -> list[Case]:
    """All of them."""
    truth = 1 + np.random.default_rng(3).random((3, 20))
    leaning = np.array([[0.9, np.sqrt(0.19)], [0.8, 0.6], [0.8, -0.6]])
    bank = np.array([[1.0, 0.0], [0.9, np.sqrt(0.19)], [0.0, 1.0]])
    return [
        *(
            Case("knn_probe", f"weight {i + 1} of similarities (.9, .8, .8), temperature .07", value, WU, lambda i=i: float(probes.knn_weights(np.array([0.9, 0.8, 0.8]))[i]))
            for i, value in enumerate((0.675994, 0.162003, 0.162003))
        ),
        Case("knn_probe", "votes of the nearest alone", 1, WU, lambda: float(probes.knn_votes(bank, np.array([0, 1, 1]), np.array([[5.0, 0.0]]), (1,))[0, 0, 0])),
        Case("knn_probe", "votes of similarities (.9, .8, .8), temperature .07", 0.675994, WU, lambda: float(probes.knn_votes(leaning, np.array([0, 1, 1]), np.array([[2.0, 0.0]]), (3,))[0, 0, 0])),
        Case("knn_probe", "the same, temperature .5", 1 / (1 + 2 * np.exp(-0.2)), WU, lambda: float(probes.knn_votes(leaning, np.array([0, 1, 1]), np.array([[2.0, 0.0]]), (3,), 0.5)[0, 0, 0])),
        Case("knn_probe", "2 neighbours of similarities (.9, .8, .8): the last two share a place", 1 / (1 + np.exp(-0.1 / 0.07)), WU, lambda: float(probes.knn_votes(leaning, np.array([0, 1, 1]), np.array([[2.0, 0.0]]), (2,))[0, 0, 0])),
        Case("linear_probe", "ridge: one feature of spread 1, penalty 1/2 a row: 1 / (1 + 1/2)", 2 / 3, "Hoerl and Kennard 1970", lambda: _shrunk(10, 1)),
        Case("linear_probe", "ridge: the same feature 6 times in 4 rows: 6 / (6 + 1/2)", 12 / 13, "Hoerl and Kennard 1970", lambda: _shrunk(4, 6)),
        Case("linear_probe", "slope 1 in train and 3 in val: fitted on both again, a slope of 2 is right on test", 1, "docs/statistics.md", _refitted, 1e-3),
        Case("linear_probe", "the same, best slope on val: the one with the smallest penalty", PENALTIES[0], "docs/statistics.md", lambda: float(_two_slopes()["penalty"][0])),
        Case("linear_probe", "ridge: R2 of y = x w, penalty near 0", 1, "Hoerl and Kennard 1970", lambda: _ridge_r2(0)),
        Case("linear_probe", "ridge: the same, features shifted by 1e4", 1, "Hoerl and Kennard 1970", lambda: _ridge_r2(1e4)),
        Case("linear_probe", "ridge: leave-one-out from the hat matrix minus fits without the row", 0, "Allen 1974", _left_out),
        Case("linear_probe", "logistic: gradient at the solution", 0, "optimality", _logistic_gradient, 1e-6),
        Case("attentive_probe", "queries of zero minus a linear map of mean-pooled tokens", 0, BARDES, _without_queries),
        Case("attentive_probe", "tokens in another order minus the same in their own", 0, BARDES, lambda: float((_attention(1.0, True) - _attention(1.0, False)).abs().max())),
        Case("attentive_probe", "accuracy where one of 12 tokens, in any place, holds the class", 1, BARDES, _found_by_attention, 0.1),
        Case("segmentation_probe", "mIoU of confusion ((3, 1), (1, 3))", 0.6, VOC, lambda: probes.mean_iou([[3, 1], [1, 3]])),
        Case("segmentation_probe", "off-diagonal count of truth 0 taken for 1", 1, VOC, lambda: float(probes.confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)[0, 1])),
        Case("linear_probe", "depth: delta 1 of 1.2 times the truth", 1, EIGEN, lambda: probes.depth_metrics(1.2 * truth, truth).delta1),
        Case("linear_probe", "depth: AbsRel of 1.2 times the truth", 0.2, EIGEN, lambda: probes.depth_metrics(1.2 * truth, truth).abs_rel),
        Case("linear_probe", "depth: delta 1 of 1.3 times the truth", 0, EIGEN, lambda: probes.depth_metrics(1.3 * truth, truth).delta1),
        Case("linear_probe", "depth: RMSE after one factor a sample", 0, EIGEN, lambda: probes.depth_metrics(1.7 * truth, truth, align="scale").rmse),
        Case("linear_probe", "depth: RMSE after factor and offset a sample", 0, EIGEN, _constant_step),
        Case("caption_probe", "recall at 1 of partners that are alike", 1, "Karpathy and Fei-Fei 2015 (1412.2306)", lambda: probes.retrieval_recall(np.eye(6), np.eye(6)).a_to_b[1]),
        Case("caption_probe", "recall at 1 where all are alike: chance", 1 / 6, "Karpathy and Fei-Fei 2015 (1412.2306)", lambda: probes.retrieval_recall(np.ones((6, 2)), np.ones((6, 2))).a_to_b[1]),
    ]  # fmt: skip

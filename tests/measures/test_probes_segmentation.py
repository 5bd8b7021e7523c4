import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes import segmentation
from diagnostics.measures.probes.segmentation import (
    Classes,
    SegmentationProbe,
    confusion,
    dense_classification,
    iou,
    mean_iou,
)
from diagnostics.measures.statistics import resample_counts, scores
from tests.support.memory import MemoryActivations, thirds
from tests.support.refusals import refusal

SPLIT = thirds(60)
GRID = (3, 4)
CENTRES = np.random.default_rng(9).normal(size=(5, 6)) * 2


def planted(noise=1.0, seed=0, n=60, classes=4, unknown=0.1):
    """Tokens about the centre of their class; labels [sample, token]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size=(n, 12))
    tokens = CENTRES[labels] + noise * rng.normal(size=(n, 12, 6)) + 3
    labels[rng.random(labels.shape) < unknown] = -1
    return tokens, labels


def target(labels, shape=GRID, classes=("sky", "sea", "sand", "stone", "star")):
    values = labels if isinstance(labels, dict) else {shape: labels.astype(np.int16)}
    return StoredTarget("surface", "token_label", np.empty(len(SPLIT)), classes=classes, on_grid=values)


def probe(tokens, labels, grids=None, seed=0, **options):
    arrays = tokens if isinstance(tokens, dict) else {"a": tokens}
    given_ = MemoryActivations(arrays, grids or dict.fromkeys(arrays, GRID), split=SPLIT, **options)
    return SegmentationProbe().compute(given_, target(labels), seed)


def score(result):
    return scores(result.loss.values, result.reference_loss.values)


# The metric


def test_a_class_that_no_token_has_and_none_is_taken_for_has_no_iou_when_streamed():
    counts = {"loss": np.array([[0, 2, 0], [4, 2, 0]]), "reference": np.array([[4, 4, 0], [8, 6, 0]])}
    for _ in range(20):  # memory that nobody wrote may hold anything
        np.full(3, 7.0)
        np.testing.assert_array_equal(Classes().beside(counts)["iou"], [8 / 12, 6 / 10, np.nan])


def test_mean_iou_of_all_nothing_half_and_absent_classes():
    assert mean_iou(np.eye(4, dtype=int) * 5) == 1
    assert mean_iou([[0, 4], [4, 0]]) == 0
    # All said to be the first of two equal classes: 1/2 and 0.
    assert mean_iou([[5, 0], [5, 0]]) == pytest.approx(0.25)
    # A class in neither has no value; one that is only in the prediction has 0.
    assert mean_iou([[3, 1, 0], [1, 3, 0], [0, 0, 0]]) == pytest.approx(0.6)
    assert mean_iou([[3, 1, 0], [1, 2, 1], [0, 0, 0]]) == pytest.approx((3 / 5 + 2 / 5 + 0) / 3)
    assert np.isnan(iou([[3, 0], [0, 0]])[1])
    assert np.isnan(mean_iou(np.zeros((3, 3))))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 50))
def test_confusion_and_iou_equal_scikit_learn(seed, classes, n):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, classes, size=(2, n, 3))
    result = confusion(prediction, truth, classes)
    np.testing.assert_array_equal(
        result, confusion_matrix(truth.ravel(), prediction.ravel(), labels=np.arange(classes))
    )
    seen = np.union1d(truth, prediction)
    expected = jaccard_score(truth.ravel(), prediction.ravel(), labels=seen, average=None, zero_division=0)
    np.testing.assert_allclose(iou(result)[seen], expected)
    assert mean_iou(result) == pytest.approx(expected.mean())
    # Names of classes do not matter, and halves add up; images' own values do not.
    order = rng.permutation(classes)
    assert mean_iou(confusion(order[prediction], order[truth], classes)) == pytest.approx(expected.mean())
    both = sum(confusion(p, t, classes) for p, t in zip(prediction, truth, strict=True))
    np.testing.assert_array_equal(both, result)


def test_the_mean_of_images_is_another_number():
    truth, prediction = np.array([[0, 0, 0, 1], [1, 1, 1, 1]]), np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    whole = mean_iou(confusion(prediction, truth, 2))
    assert whole == pytest.approx((3 / 4 + 4 / 5) / 2)
    by_image = [mean_iou(confusion(p, t, 2)) for p, t in zip(prediction, truth, strict=True)]
    assert np.mean(by_image) == pytest.approx((3 / 8 + 1) / 2)


def test_unknown_truth_is_left_out():
    assert confusion([0, 1, 1, 7], [0, 1, -1, -1], 2).tolist() == [[1, 0], [0, 1]]
    assert confusion(torch.tensor([1, 0]), torch.tensor([-1, -1]), 3).tolist() == [[0] * 3] * 3
    assert confusion(np.array([1, 0], dtype=np.uint8), np.array([1, -1], dtype=np.int16), 2)[1, 1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0, 1, 1], 2), r"\(2,\) and \(3,\)"),
        (([0, 2], [0, 1], 2), r"from 0 to 2.*below classes=2"),
        (([0, 1], [0, 5], 2), "to 5"),
        (([-1, 1], [0, 1], 2), "from -1"),
        (([0.0, 1.0], [0, 1], 2), "integer"),
    ],
)
def test_bad_classes_are_said(arguments, message):
    with pytest.raises(DiagnosticsError, match=message):
        confusion(*arguments)


@pytest.mark.parametrize("matrix", [[1, 2], [[1, 2, 3], [1, 2, 3]], np.zeros((0, 0))])
def test_what_is_no_confusion_matrix_is_said(matrix):
    with refusal("bad-shape", "square"):
        mean_iou(matrix)


# On arrays


def fitted_on(monkeypatch):
    """How many tokens each fit has, as they come."""
    seen = []
    whole = segmentation.LogisticRows
    monkeypatch.setattr(
        segmentation, "LogisticRows", lambda x, *rest, **more: (seen.append(x.shape[1]), whole(x, *rest, **more))[1]
    )
    return seen


def test_dense_classification_is_logistic_regression_on_tokens(monkeypatch):
    tokens, labels = planted(noise=2.5)
    kept, sizes = (tokens.copy(), labels.copy()), fitted_on(monkeypatch)
    result = dense_classification(tokens, labels, SPLIT)
    np.testing.assert_equal((tokens, labels), kept)
    fit, test = (SPLIT != "test")[:, None] & (labels >= 0), (SPLIT == "test")[:, None] & (labels >= 0)
    mean, sd = tokens[fit].mean(axis=0), tokens[fit].std(axis=0)
    assert sizes == [(labels[SPLIT == "train"] >= 0).sum(), fit.sum()]
    oracle = LogisticRegression(C=1 / (fit.sum() * result.penalty), tol=1e-8, max_iter=10_000)
    guess = oracle.fit((tokens[fit] - mean) / sd, labels[fit]).predict((tokens[test] - mean) / sd)
    assert (result.prediction[test] == guess).mean() > 0.99
    assert (result.prediction[~test] == -1).all()
    message = result.prediction[test]
    assert result.mean_iou == pytest.approx(jaccard_score(labels[test], message, average="macro"))
    assert result.accuracy == pytest.approx(accuracy_score(labels[test], message))
    np.testing.assert_array_equal(result.confusion, confusion_matrix(labels[test], message))
    assert 0.3 < result.mean_iou < 0.9


def test_classes_keep_their_numbers():
    tokens, labels = planted()
    named = np.where(labels >= 0, np.array([3, 40, 500, 30_000])[labels], -1)
    result, plain = dense_classification(tokens, named, SPLIT), dense_classification(tokens, labels, SPLIT)
    assert result.classes.tolist() == [3, 40, 500, 30_000]
    assert result.mean_iou == plain.mean_iou
    known = plain.prediction >= 0
    np.testing.assert_array_equal(result.prediction[known], result.classes[plain.prediction[known]])


def test_tokens_are_read_where_they_lie():
    tokens, labels = planted()
    with torch.device("meta"):
        result = dense_classification(torch.from_numpy(tokens), torch.from_numpy(labels), SPLIT)
    assert result.mean_iou == dense_classification(tokens, labels, SPLIT).mean_iou


def test_classes_in_the_middle_are_seen():
    """Classes along one line: least squares on one-hot labels never says those between, a softmax does."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, size=(60, 12))
    tokens = labels[..., None] * np.ones(3) + 0.1 * rng.normal(size=(60, 12, 3))
    assert dense_classification(tokens, labels, SPLIT).mean_iou > 0.95


def test_test_labels_never_reach_the_fit():
    tokens, labels = planted()
    other = labels.copy()
    other[SPLIT == "test"] = np.where(labels[SPLIT == "test"] >= 0, (labels[SPLIT == "test"] + 1) % 4, -1)
    first, second = (dense_classification(tokens, y, SPLIT) for y in (labels, other))
    np.testing.assert_array_equal(first.prediction, second.prediction)
    assert second.mean_iou < 0.1 < first.mean_iou


def test_the_penalty_is_chosen_on_val():
    tokens, labels = planted()
    other = labels.copy()
    other[SPLIT == "val"] = np.where(labels[SPLIT == "val"] >= 0, (labels[SPLIT == "val"] + 1) % 4, -1)
    first, second = (dense_classification(tokens, y, SPLIT) for y in (labels, other))
    assert first.val_mean_iou > 0.8
    assert second.val_mean_iou < 0.15


def test_a_class_that_only_val_shows_is_learnt_there():
    tokens, labels = planted(noise=0.3, unknown=0)
    later = SPLIT != "train"
    labels[later, :3], tokens[later, :3] = 4, -4 * CENTRES.mean(axis=0) + 3
    result = dense_classification(tokens, labels, SPLIT)
    # On val, fitted on train, it is missed whole.
    assert result.val_mean_iou < 0.8
    assert result.mean_iou > 0.95


@pytest.mark.parametrize(
    ("labels", "split", "message"),
    [
        (np.zeros((60, 5), dtype=int), SPLIT, r"\(60, 5\)"),
        (np.zeros((60, 12)), SPLIT, "float64"),
        (np.full((60, 12), -1), SPLIT, "no train token"),
        (np.zeros((60, 12), dtype=int), SPLIT, "only one class in its 432 train"),
        (np.zeros((60, 12), dtype=int), SPLIT[:3], "split"),
    ],
)
def test_bad_labels_are_said(labels, split, message):
    with pytest.raises(DiagnosticsError, match=message):
        dense_classification(planted()[0], labels, split)


# The measure


def test_segmentation_points_at_the_planted_tap():
    tokens, labels = planted(noise=0.7)
    rng = np.random.default_rng(1)
    taps = {
        "noise": rng.normal(size=tokens.shape),
        "seen": tokens,
        "scrambled": np.stack([sample[rng.permutation(12)] for sample in tokens]),
        "pooled": np.broadcast_to(tokens.mean(axis=1, keepdims=True), tokens.shape),
    }
    result = probe(taps, labels)
    by_tap = dict(zip(taps, score(result), strict=True))
    assert by_tap["seen"] > 0.9
    assert max(by_tap[name] for name in ("noise", "scrambled", "pooled")) < 0.3
    assert np.argmax(result.val_score.values) == 1
    # Guessing at random: (1/16) / (1/4 + 1/4 - 1/16) for each of four equal classes.
    assert by_tap["noise"] == pytest.approx(1 / 7, abs=0.06)
    assert result.line_commonest.values == pytest.approx(1 / 16, abs=0.02)


def test_the_score_is_the_mean_iou_of_all_test_tokens():
    tokens, labels = planted(noise=2.5)
    groups = np.array([f"g{i // 5}" for i in range(60)], dtype=object)
    split = np.repeat(np.resize(["train", "val", "test", "train"], 12), 5)
    given_ = MemoryActivations({"a": tokens}, {"a": GRID}, split=split, groups=groups)
    result = SegmentationProbe().compute(given_, target(labels), 0)
    alone = dense_classification(tokens.astype(np.float32), labels, split)
    assert score(result) == pytest.approx(alone.mean_iou, abs=1e-12)
    assert result.token_accuracy.item() == pytest.approx(alone.accuracy)
    assert result.val_score.item() == alone.val_mean_iou
    assert result.penalty.item() == alone.penalty
    np.testing.assert_allclose(result.iou[0], iou(alone.confusion))
    assert result.part.values.tolist() == ["sky", "sea", "sand", "stone"]
    assert result.loss.dims == ("tap", "unit", "part")
    test = split == "test"
    counts = [(labels[test] >= 0).sum(), (labels[split == "train"] >= 0).sum()]
    assert [result.tokens_test.item(), result.tokens_train.item()] == counts
    # Each unit and class, and the resampled value, by scikit-learn.
    for unit in result.unit.values:
        here = (groups == unit)[:, None] & (labels >= 0)
        both = confusion_matrix(labels[here], alone.prediction[here], labels=range(4))
        either = both.sum(0) + both.sum(1) - np.diag(both)
        np.testing.assert_array_equal(result.reference_loss.sel(unit=unit)[0], either)
        np.testing.assert_array_equal(result.loss.sel(unit=unit)[0], either - np.diag(both))
    drawn = resample_counts(len(result.unit), 0, 5)
    for weights, value in zip(drawn, scores(result.loss.values, result.reference_loss.values, drawn), strict=True):
        rows = np.concatenate(
            [
                np.flatnonzero(groups == u).repeat(w)
                for u, w in zip(result.unit.values, weights.astype(int), strict=True)
            ]
        )
        seen = labels[rows] >= 0
        expected = jaccard_score(labels[rows][seen], alone.prediction[rows][seen], average="macro")
        assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("output", ["fine", "coarse"])
def test_taps_of_other_grids_are_scored_on_the_outputs_grid(output):
    rng = np.random.default_rng(2)
    blocks = rng.integers(0, 4, size=(60, 2, 2))
    labels = {(4, 4): blocks.repeat(2, axis=1).repeat(2, axis=2).reshape(60, 16), (2, 2): blocks.reshape(60, 4)}
    coarse = CENTRES[labels[(2, 2)]] + 0.9 * rng.normal(size=(60, 4, 6))
    fine = coarse.reshape(60, 2, 2, 6).repeat(2, axis=1).repeat(2, axis=2).reshape(60, 16, 6)
    arrays = {"coarse": coarse, "fine": fine}
    order = ["coarse", "fine"] if output == "fine" else ["fine", "coarse"]
    result = probe({name: arrays[name] for name in order}, labels, {"fine": (4, 4), "coarse": (2, 2)})
    assert score(result)[0] == pytest.approx(score(result)[1], abs=1e-9)
    assert result.attrs["pooling"].endswith("4 x 4" if output == "fine" else "2 x 2")


def test_a_class_that_train_does_not_show_counts_as_missed():
    tokens, labels = planted(noise=0.3, unknown=0)
    labels[0, 0], tokens[0, 0] = 4, CENTRES[4]
    order = np.array([3, *range(3), *range(4, 60)])  # the sample with class 4 becomes a test one
    tokens, labels = tokens[np.argsort(order)], labels[np.argsort(order)]
    assert SPLIT[np.flatnonzero((labels == 4).any(axis=1))[0]] == "test"
    result = probe(tokens, labels)
    assert result.iou.sel(part="star").item() == 0
    # The others: perfect but for the one token that is said to be one of them.
    assert score(result) == pytest.approx(np.mean([*result.iou[0, :4], 0]))
    assert 0.75 < score(result)[0] < 0.8


def test_a_class_that_test_does_not_show_has_no_value():
    tokens, labels = planted(noise=0.01, unknown=0)
    labels[SPLIT == "train", 0], tokens[SPLIT == "train", 0] = 4, CENTRES[4] + 3
    result = probe(tokens, labels)
    assert np.isnan(result.iou.sel(part="star").item())
    assert score(result) == pytest.approx(1)


def test_one_class_and_nothing_known_are_said():
    tokens, labels = planted()
    with refusal("too-few", "surface"):
        probe(tokens, np.where(labels >= 0, 2, -1))
    with refusal("too-few", "train", "--token-budget"):
        probe(tokens, np.full_like(labels, -1))
    with refusal("too-few", "val", "--token-budget"):
        probe(tokens, labels, token_samples=1)
    with refusal("no-grid"):
        probe(tokens, labels, {"a": (4, 3)})
    tokens[2, 3] = np.nan
    with refusal("not-finite", "segmentation_probe", "tap a"):
        probe(tokens, np.abs(labels))


def test_a_tap_without_a_grid_has_no_value():
    tokens, labels = planted()
    result = probe({"one": tokens[:, :1], "a": tokens}, labels, {"one": (1, 1), "a": GRID})
    assert np.isnan(score(result)[0]) and np.isnan(result.val_score[0])
    assert np.isnan(result.iou[0]).all()
    assert result.attrs["reason"] == "no grid with this target: one"
    assert result.tokens_test.values.tolist()[0] == 0


def test_no_more_tokens_than_the_limit_are_fitted(monkeypatch):
    tokens, labels = planted()
    seen = fitted_on(monkeypatch)
    monkeypatch.setattr(segmentation, "MOST_TOKENS", 50)
    result = probe(tokens, labels)
    assert seen == [50, 50]
    assert result.attrs["tokens_fitted"] == 50
    assert result.tokens_test.item() == (labels[SPLIT == "test"] >= 0).sum()
    assert score(result)[0] > 0.4
    again, other = probe(tokens, labels), probe(tokens, labels, seed=1)
    np.testing.assert_array_equal(result.loss, again.loss)
    assert (result.loss.values != other.loss.values).any()


def heavy_tailed():
    """Tokens that tell little of their labels, by features of which a few tokens hold nearly all variance."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_t(1.0, size=(60, 12, 40))
    result = np.tanh(tokens) @ rng.normal(size=(40, 4)) + 0.3 * rng.gumbel(size=(60, 12, 4))
    return tokens, result.argmax(axis=2)


def test_the_work_of_a_fit_is_bounded_and_the_result_says_where(monkeypatch):
    tokens, labels = heavy_tailed()
    products, product = [], torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *given: (products.append(1), product(*given))[1])
    result = probe(
        {"hard": tokens, "plain": CENTRES[labels] + np.random.default_rng(1).normal(size=(60, 12, 6))}, labels
    )
    steps = dict(zip(result.tap.values, result.steps.values, strict=True))
    assert result.attrs["converged"] == "not in 100 steps: hard"
    assert steps["hard"] == 100 > steps["plain"] > 0
    # Ranking and reading take products too, but a few each.
    assert len(products) < 250
    again = probe({"hard": tokens}, labels)
    np.testing.assert_array_equal(again.loss.values[0], result.loss.values[0])
    assert not dense_classification(tokens, labels, SPLIT).converged
    assert dense_classification(*planted(), SPLIT).converged


@pytest.mark.parametrize("informative", [True, False])
def test_what_reads_next_to_nothing_is_fitted_less_closely_and_says_the_same(monkeypatch, informative):
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=(60, 12), p=[0.7, 0.1, 0.1, 0.1])
    tokens = rng.standard_t(3, size=(60, 12, 8))
    if informative:
        tokens[..., :6] += CENTRES[labels]
    asked, fit = [], segmentation.LogisticRows.fit
    monkeypatch.setattr(
        segmentation.LogisticRows,
        "fit",
        lambda *given, **more: (asked.append(more["decrease"]), fit(*given, **more))[1],
    )
    result = dense_classification(tokens, labels, SPLIT)
    assert asked[-1] == (1e-6 if informative else 3e-5)
    assert result.converged
    train, test = SPLIT != "test", SPLIT == "test"
    x, y = tokens[train].reshape(-1, 8), labels[train].ravel()
    mean, sd = x.mean(axis=0), x.std(axis=0)
    oracle = LogisticRegression(C=1 / (len(y) * result.penalty), tol=1e-10, max_iter=10_000).fit((x - mean) / sd, y)
    guess = oracle.predict((tokens[test].reshape(-1, 8) - mean) / sd)
    assert (result.prediction[test].ravel() == guess).mean() > 0.99

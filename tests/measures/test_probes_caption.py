import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.measures.probes.nearest import CaptionProbe, retrieval_recall
from tests.support.memory import MemoryActivations, thirds
from tests.support.refusals import refusal


def directly(a, b, k, same):
    """Recall at k from one sort a query; without ties."""
    order = np.argsort(-cosine_similarity(a, b), axis=1)[:, :k]
    return np.mean([(same[row] == same[i]).any() for i, row in enumerate(order)])


# Retrieval


def test_recall_known_answers():
    result = retrieval_recall(np.eye(6), np.eye(6))
    assert result.a_to_b == result.b_to_a == {1: 1, 5: 1, 10: 1}
    assert result.gallery == 6
    # Partners are second: each query is nearest to the row after its own.
    turned = np.roll(np.eye(6), -1, axis=1) + 0.5 * np.eye(6)
    assert retrieval_recall(np.eye(6), turned, at=(1, 2)).a_to_b == {1: 0, 2: 1}


def test_the_two_ways_differ():
    # Both a are nearest to the first b; the first b is nearest to the first a, the second b to the first.
    a, b = np.array([[1.0, 0.1], [1.0, 0.2]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    result = retrieval_recall(a, b, at=(1,))
    assert (result.a_to_b[1], result.b_to_a[1]) == (0.5, 1.0)
    back = retrieval_recall(b, a, at=(1,))
    assert (back.a_to_b, back.b_to_a) == (result.b_to_a, result.a_to_b)


@pytest.mark.parametrize("constant", [np.ones((20, 3)), np.zeros((20, 3)), np.full((20, 3), 0.1)])
def test_rows_that_are_all_alike_are_at_chance(constant):
    """Not at 1, as where an equal cosine counts as nearest; both ways, whatever the order of the rows."""
    b = np.random.default_rng(0).normal(size=(20, 3))
    assert retrieval_recall(b, constant, at=(1, 5)).a_to_b == pytest.approx({1: 1 / 20, 5: 5 / 20})
    same = np.arange(20) // 4
    expected = {k: 1 - math.comb(16, k) / math.comb(20, k) for k in (1, 5, 17)} | {40: 1}
    assert retrieval_recall(b, constant, at=(1, 5, 17, 40), same=same).a_to_b == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12))
def test_recall_equals_a_sort(seed, n, k):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 5))
    b = a + rng.normal(size=(n, 5))
    same = rng.integers(0, 5, size=n)
    for names in (np.arange(n), same):
        result = retrieval_recall(a, b, at=(k,), same=names)
        assert result.a_to_b[k] == pytest.approx(directly(a, b, k, names))
        assert result.b_to_a[k] == pytest.approx(directly(b, a, k, names))
    plain = retrieval_recall(a, b, at=(k,))
    assert plain == retrieval_recall(a, b, at=(k,), same=np.arange(n))
    # Cosines know neither length nor rotation, and the order of samples says nothing; a shift is seen.
    q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    order = rng.permutation(n)
    lengths = rng.uniform(0.1, 10, size=(n, 1))
    assert retrieval_recall((lengths * a @ q)[order], (b @ q)[order], at=(k,)) == plain
    assert result.gallery == n


def test_recall_sees_a_common_offset():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 5))
    b = a + 0.5 * rng.normal(size=(50, 5))
    assert retrieval_recall(a + 100, b).a_to_b[1] < 0.1 < 0.5 < retrieval_recall(a, b).a_to_b[1]


def test_equal_captions_all_count_and_tie():
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(4, 6))
    same = np.repeat(np.arange(4), 3)
    images = texts[same] + 0.1 * rng.normal(size=(12, 6))
    assert retrieval_recall(images, texts[same], same=same).a_to_b[1] == 1
    # Without the names, the partner is one of three captions that tie.
    assert retrieval_recall(images, texts[same], at=(1, 2, 3)).a_to_b == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1})
    assert retrieval_recall(images, texts[same], same=np.array(["wxyz"[i] for i in same])).a_to_b[1] == 1


def test_recall_falls_as_the_gallery_grows():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(800, 8))
    b = a + 1.5 * rng.normal(size=a.shape)
    small, large = (retrieval_recall(a[:n], b[:n]) for n in (100, 800))
    assert small.a_to_b[1] > large.a_to_b[1] + 0.05
    # More than one block of queries.
    assert large.a_to_b[10] == pytest.approx(directly(a, b, 10, np.arange(800)))
    assert large.b_to_a[10] == pytest.approx(directly(b, a, 10, np.arange(800)))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.eye(3), np.eye(4)), {}, r"\(3, 3\) and \(4, 4\)"),
        ((np.eye(3), np.ones((3, 4))), {}, "features"),
        ((np.eye(3), np.eye(3)), {"at": (0,)}, "from 1"),
        ((np.eye(3), np.eye(3)), {"at": ()}, "from 1"),
        ((np.eye(3), np.eye(3)), {"same": [0, 1]}, r"\(2,\) for 3"),
        ((np.eye(3) * np.nan, np.eye(3)), {}, "NaN"),
    ],
)
def test_bad_pairs_are_said(arguments, options, message):
    with pytest.raises(DiagnosticsError, match=message):
        retrieval_recall(*arguments, **options)


def test_recall_is_computed_where_the_rows_lie():
    a = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 4)))
    with torch.device("meta"):
        assert retrieval_recall(a, a.numpy(), same=torch.zeros(9, device="cpu")).a_to_b[1] == 1


# The measure

N = 100
SPLIT = thirds(N)


def planted(distinct=None, seed=0, offset=3.0):
    """Samples and the embeddings of their captions, both from one latent; `distinct` captions in all, or one a sample."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(distinct or N, 4))[rng.permutation(np.arange(N) % (distinct or N))]
    texts = latent @ rng.normal(size=(4, 16)) + offset * rng.normal(size=16)
    x = latent @ rng.normal(size=(4, 10)) + 0.1 * rng.normal(size=(N, 10)) + 5
    return x[:, None], texts


def captions(texts, name="caption"):
    return StoredTarget(name, "caption", texts)


def probe(arrays, texts, **options):
    arrays = arrays if isinstance(arrays, dict) else {"a": arrays}
    return CaptionProbe().compute(MemoryActivations(arrays, split=SPLIT, **options), captions(texts), 0)


def score(result):
    return (1 - result.loss.sum("unit") / result.reference_loss.sum("unit")).values


def test_captions_are_found_at_the_planted_tap():
    x, texts = planted()
    rng = np.random.default_rng(1)
    taps = {"noise": rng.normal(size=x.shape), "seen": x, "shuffled": rng.permutation(x), "constant": np.ones_like(x)}
    result = probe(taps, texts)
    assert score(result)[1] > 0.9
    assert score(result)[[0, 2]].max() < 0.2
    assert score(result)[3] == pytest.approx(1 / 20)
    assert result.line_chance.values == pytest.approx(1 / 20)
    assert np.argmax(result.val_score.values) == 1
    assert result.text_to_sample_at_1[1] > 0.9
    assert result.attrs["gallery"] == result.attrs["distinct_captions"] == 20
    assert "20 test captions" in result.attrs["functional"]


def test_shuffled_captions_are_at_chance():
    x, texts = planted()
    result = [score(probe(x, np.random.default_rng(i).permutation(texts)))[0] for i in range(8)]
    assert np.mean(result) == pytest.approx(1 / 20, abs=0.05)


def test_the_numbers_are_those_of_ridge_and_a_sort():
    x, texts = planted()
    x = x + np.random.default_rng(5).normal(size=x.shape)
    groups = np.array([f"g{i // 5}" for i in range(N)], dtype=object)
    split = np.repeat(np.resize(["train", "val", "test", "train"], 20), 5)
    given_ = MemoryActivations({"a": x}, split=split, groups=groups)
    result = CaptionProbe().compute(given_, captions(texts), 0)
    fit, test = split != "test", split == "test"
    z = (x[:, 0] - x[fit, 0].mean(axis=0)) / x[fit, 0].std(axis=0)
    model = Ridge(alpha=fit.sum() * result.penalty.item()).fit(z[fit], texts[fit])
    guess, wanted = model.predict(z[test]) - texts[fit].mean(axis=0), texts[test] - texts[fit].mean(axis=0)
    names = np.arange(test.sum())
    assert 0.2 < score(result)[0] < 0.9
    assert score(result)[0] == pytest.approx(directly(guess, wanted, 1, names))
    for k in (5, 10):
        assert result[f"sample_to_text_at_{k}"].item() == pytest.approx(directly(guess, wanted, k, names))
    for k in (1, 5, 10):
        assert result[f"text_to_sample_at_{k}"].item() == pytest.approx(directly(wanted, guess, k, names))
    nearest = cosine_similarity(guess, wanted).argmax(axis=1)
    for unit in result.unit.values:
        here = groups[test] == unit
        assert result.loss.sel(unit=unit).item() == pytest.approx((nearest != names)[here].sum())
        assert result.reference_loss.sel(unit=unit).item() == here.sum()


def test_the_penalty_has_the_best_cosine_on_val():
    x, texts = planted()
    x = x + 3 * np.random.default_rng(5).normal(size=x.shape)
    result = probe(x, texts)
    train, val = SPLIT == "train", SPLIT == "val"
    z, mean = (x[:, 0] - x[train, 0].mean(axis=0)) / x[train, 0].std(axis=0), texts[train].mean(axis=0)
    cosines = []
    for penalty in PENALTIES:
        guess = Ridge(alpha=train.sum() * penalty).fit(z[train], texts[train]).predict(z[val])
        cosines.append(np.diag(cosine_similarity(guess - mean, texts[val] - mean)).mean())
    assert result.penalty.item() == PENALTIES[int(np.argmax(cosines))]


def test_equal_captions_make_it_classification():
    x, texts = planted(distinct=5)
    result = probe(x, texts)
    test = SPLIT == "test"
    sizes = np.unique(texts[test], axis=0, return_counts=True)[1]
    assert score(result)[0] == 1
    assert result.balanced_accuracy.item() == 1
    assert result.attrs["distinct_captions"] == 5
    assert result.line_chance.item() == pytest.approx((sizes**2).sum() / 20**2)
    # Misses count for their caption by its share.
    x[np.flatnonzero(test)[:6]] = x[np.flatnonzero(test)[0]]
    worse = probe(x, texts)
    assert score(worse)[0] < 1
    assert worse.balanced_accuracy.item() != pytest.approx(score(worse)[0], abs=1e-6)


@pytest.mark.parametrize("shift", [10, 100, 1e4])
def test_common_offsets_change_nothing(shift):
    """Of the texts and of the features: a text encoder's mean would else make the most ordinary caption everyone's."""
    x, texts = planted(offset=0)
    x = x + 2 * np.random.default_rng(5).normal(size=x.shape)
    plain = probe(x, texts)
    for result in (probe(x, texts + shift), probe(x + shift, texts)):
        np.testing.assert_allclose(result.loss, plain.loss, atol=1e-6)
        assert result.penalty.item() == plain.penalty.item()


def test_samples_without_a_caption_are_left_out():
    x, texts = planted()
    texts[SPLIT == "test"] = np.where(np.arange(20)[:, None] < 5, np.nan, texts[SPLIT == "test"])
    result = probe(x, texts)
    assert result.attrs["gallery"] == result.attrs["n_test"] == 15
    assert len(result.unit) == 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: np.full_like(t, np.nan), "known for no train"),
        (lambda t: np.ones_like(t), "caption in all train"),
        (lambda t: np.where((SPLIT == "test")[:, None], 1.0, t), "caption in all test"),
    ],
)
def test_bad_captions_are_said(change, message):
    x, texts = planted()
    with pytest.raises(DiagnosticsError, match=message):
        probe(x, change(texts))


def test_bad_activations_name_the_tap():
    x, texts = planted()
    x[3] = np.nan
    with refusal("not-finite", "Tap a", "caption_probe"):
        probe(x, texts)

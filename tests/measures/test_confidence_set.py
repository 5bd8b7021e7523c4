"""The model confidence set: planted losses, ties, taps without a score, parts, and what it does not depend on."""

import time

import numpy as np

from diagnostics.measures.statistics import Losses
from diagnostics.measures.tap_choice import COVERAGE, confidence_set


def planted(rng: np.random.Generator, worse: list[float], units: int = 200) -> Losses:
    """Taps whose squared errors are larger by so much, on units that are hard for all."""
    shared = rng.standard_normal(units)
    loss = (shared + rng.standard_normal((len(worse), units))) ** 2 * (1 + np.array(worse)[:, None])
    return Losses(loss, np.full(loss.shape, 4.0))


def test_taps_that_are_worse_leave_and_those_that_are_not_stay() -> None:
    losses = planted(np.random.default_rng(0), [1.0, 0.0, 0.0, 2.0, 0.0])
    assert confidence_set(losses, np.arange(5), seed=0) == [1, 2, 4]


def test_it_holds_all_the_best_taps_as_often_as_it_says() -> None:
    draws = 300
    kept = [
        confidence_set(planted(np.random.default_rng(seed), [0.0, 0.0, 0.0, 0.8], 60), np.arange(4), seed=0)
        for seed in range(draws)
    ]
    # Three standard errors of as many draws; and not by keeping everything.
    slack = 3 * np.sqrt(COVERAGE * (1 - COVERAGE) / draws)
    assert COVERAGE - slack <= np.mean([{0, 1, 2} <= set(taps) for taps in kept]) <= 0.99
    assert np.mean([3 in taps for taps in kept]) < 0.5


def test_only_candidates_are_looked_at_and_one_alone_stays() -> None:
    losses = planted(np.random.default_rng(0), [1.0, 0.0, 1.0, 2.0])
    assert confidence_set(losses, np.array([0, 2, 3]), seed=0) == [0, 2]
    assert confidence_set(losses, np.array([3]), seed=0) == [3]


def test_copies_stay_together() -> None:
    losses = planted(np.random.default_rng(0), [0.0, 1.0])
    twice = Losses(np.repeat(losses.loss, 2, axis=0), np.repeat(losses.reference, 2, axis=0))
    assert confidence_set(twice, np.arange(4), seed=0) == [0, 1]
    same = Losses(losses.loss[[0, 0, 0]], losses.reference[[0, 0, 0]])
    assert confidence_set(same, np.arange(3), seed=0) == [0, 1, 2]


def test_a_tap_without_a_score_leaves_and_one_unit_tells_nothing() -> None:
    losses = planted(np.random.default_rng(0), [0.0, 0.0, 0.0])
    losses.loss[1] = np.nan
    assert confidence_set(losses, np.arange(3), seed=0) == [0, 2]
    assert confidence_set(Losses(np.array([[1.0], [5.0]]), np.ones((2, 1))), np.arange(2), seed=0) == [0, 1]


def test_parts_count_alike_however_rare() -> None:
    """Two classes, 380 and 40 units; a tap that is worse in the rare one alone leaves, and by accuracy it would stay."""
    rng = np.random.default_rng(0)
    part = np.repeat(np.eye(2), [380, 40], axis=0)
    wrong = rng.random((2, len(part))) < np.array([[0.2, 0.1], [0.18, 0.6]]) @ part.T
    loss = wrong[..., None] * part
    reference = np.broadcast_to(part, loss.shape)
    assert confidence_set(Losses(loss, reference), np.arange(2), seed=0) == [0]
    assert confidence_set(Losses(loss.sum(axis=2), reference.sum(axis=2)), np.arange(2), seed=0) == [0, 1]


def test_the_unit_of_the_loss_and_the_order_of_taps_do_not_matter() -> None:
    losses = planted(np.random.default_rng(1), [0.0, 0.3, 0.6, 0.0, 1.0])
    kept = confidence_set(losses, np.arange(5), seed=0)
    assert kept == confidence_set(Losses(1e6 * losses.loss, 1e6 * losses.reference), np.arange(5), seed=0)
    back = confidence_set(Losses(losses.loss[::-1], losses.reference[::-1]), np.arange(5), seed=0)
    assert kept == sorted(4 - tap for tap in back)


def test_fifty_taps_of_400_units_take_well_under_a_second() -> None:
    losses = planted(np.random.default_rng(0), np.linspace(0, 3, 50).tolist(), 400)
    start = time.process_time()
    confidence_set(losses, np.arange(50), seed=0)
    assert time.process_time() - start < 1

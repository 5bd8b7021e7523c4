"""Regret of a rule by hand, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from diagnostics.measures.regret import Regrets, mean_over_tasks, mean_over_units, noise_floor
from diagnostics.measures.statistics import Losses

# Wrong answers of three taps on ten units: scores .9, .7 and .4.
WRONG = np.stack([np.repeat([1.0, 0.0], [wrong, 10 - wrong]) for wrong in (1, 3, 6)])
TEST = Losses(WRONG, np.ones((3, 10)), counts=True)


@pytest.mark.parametrize(
    ("shares", "by_hand"),
    [([1, 0, 0], 0.0), ([0, 1, 0], 0.2), ([0, 0, 1], 0.5), ([1 / 3] * 3, 0.7 / 3), ([0, 0.5, 0.5], 0.35)],
)
def test_a_regret_is_the_loss_that_is_known_by_hand(shares: list[float], by_hand: float) -> None:
    draws = Regrets(TEST, 0, 40, seed=0).of(np.array(shares, dtype=float))
    assert draws[0] == pytest.approx(by_hand)
    # The same tap as the one used loses nothing in any resample.
    assert (draws == 0).all() == (by_hand == 0)


def test_a_better_tap_than_the_one_used_has_a_negative_regret() -> None:
    assert Regrets(TEST, 2, 40, seed=0).of(np.array([1.0, 0, 0]))[0] == pytest.approx(-0.5)


def test_an_interval_over_units_is_that_of_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    loss = rng.random((2, 400)) * [[1.0], [1.5]]
    draws = Regrets(Losses(loss, np.ones((2, 400))), 0, 0, seed=0).of(np.array([0.0, 1.0]))
    found = mean_over_units([draws], 400)
    apart = loss[1] - loss[0]
    assert found.value == pytest.approx(apart.mean())
    half = 1.96 * apart.std() / 20
    assert_allclose([found.low, found.high], [apart.mean() - half, apart.mean() + half], atol=0.1 * half)


def test_an_interval_over_tasks_is_students_and_over_both_is_wider_where_encoders_differ() -> None:
    regret = np.array([[0.01, 0.03, 0.02, 0.06]])
    one = mean_over_tasks(regret)
    reach = stats.t.ppf(0.975, 3) * regret.std(ddof=1) / 2
    assert_allclose([one.low, one.high], [0.03 - reach, 0.03 + reach])
    assert vars(mean_over_tasks(np.repeat(regret, 2, axis=0))) == pytest.approx(vars(one))
    # Two encoders are kept as they are; three tell of others.
    two, three = (mean_over_tasks(np.concatenate([regret + 0.1 * i for i in range(n)])) for n in (2, 3))
    assert two.high - two.low == pytest.approx(one.high - one.low) and two.value == pytest.approx(0.08)
    assert three.high - three.low > two.high - two.low
    assert np.isnan(mean_over_tasks(np.array([[0.1]])).low)


def test_the_noise_floor_is_the_standard_error_of_a_difference() -> None:
    rng = np.random.default_rng(1)
    loss = rng.random((3, 200))
    apart = loss[1:] - loss[:1]
    found = noise_floor(Losses(loss, np.ones((3, 200))), 0, [0, 1, 2])
    assert found == pytest.approx((apart.std(axis=1, ddof=1) / np.sqrt(200)).mean(), rel=1e-6)
    assert np.isnan(noise_floor(Losses(loss, np.ones((3, 200))), 0, [0]))

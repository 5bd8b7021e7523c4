"""The answers that selftest holds against this machine are those that the definitions give, computed without the code under test."""

from __future__ import annotations

import pytest

from diagnostics.checks.selftest.answer import ASKED, deviation, known
from tests.support.known_answers_by_hand import BY_HAND, plain


def test_each_answer_is_computed_by_hand() -> None:
    assert list(known()) == list(ASKED) == list(BY_HAND)


@pytest.mark.parametrize("name", ASKED)
def test_answer_by_hand(name: str) -> None:
    assert deviation(known()[name], plain(BY_HAND[name]())) < 1e-9


def test_deviation_is_infinite_where_answers_differ_in_kind() -> None:
    nan = float("nan")
    assert deviation([1.0, [nan, "a", None]], [1.0, [nan, "a", None]]) == 0
    assert deviation([1.0, 30.0], [1.5, 20.0]) == pytest.approx(0.5)
    for found, wanted in ((nan, 1.0), (1.0, nan), (None, 1.0), (1.0, None), ("a", "b"), (True, False)):
        assert deviation(found, wanted) >= 1

from __future__ import annotations

import pytest

from diagnostics.measures.result import (
    HIDDEN_GAP,
    merge_reasons,
    read_interval,
    read_reasons,
    store_interval,
    store_reasons,
    taps_by_reason,
)
from diagnostics.measures.statistics import Interval

TAPS = ["embed", "blocks.0", "blocks.1", "blocks.10", "norm"]


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("embed", "one token"), ("norm", "no gradients were recorded")],
        [("blocks.1", "a: b"), ("blocks.10", "a: b"), ("blocks.1", "2 of 10 samples are zero")],
        [("blocks.1", "none within; the kernel is fused"), ("norm", "one token")],
        [("", "no grid with this target: embed, norm")],
    ],
)
def test_reasons_that_are_stored_are_read_as_they_were(pairs: list[tuple[str, str]]) -> None:
    assert read_reasons(store_reasons(pairs), TAPS) == pairs


def test_a_tap_without_a_reason_is_not_stored() -> None:
    assert store_reasons({"embed": "", "norm": "one token"}.items()) == "norm: one token"


def test_the_longest_name_of_a_tap_begins_a_reason() -> None:
    assert read_reasons("a: b: why", ["a", "a: b"]) == [("a: b", "why")]


def test_a_reason_of_more_than_two_taps_stands_once() -> None:
    pairs = [(tap, "flat") for tap in TAPS[:4]] + [("norm", "one token"), ("embed", "one token")]
    assert merge_reasons(store_reasons(pairs), TAPS) == "embed and 3 others: flat; norm: one token; embed: one token"
    assert taps_by_reason(pairs) == {"flat": TAPS[:4], "one token": ["norm", "embed"]}


def test_an_interval_that_is_stored_is_read_as_it_was() -> None:
    interval = Interval(0.25, 0.125, 0.5)
    assert read_interval(store_interval(HIDDEN_GAP, interval), HIDDEN_GAP) == interval
    assert read_interval({}, HIDDEN_GAP) is None

"""The verdict of a report says what was planted, and parts have the scores of their own losses."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostics.runs.verdict import in_short

from diagnostics.measures.statistics import Interval
from diagnostics.report.figures import State
from diagnostics.report.page import Findings, Sentence
from diagnostics.runs.overview import overview, score_map, state_of
from diagnostics.runs.parts import part_scores, parts_table
from diagnostics.runs.profile import Profile
from diagnostics.runs.recommendation import recommend

from profiles import profile

TAPS = ["blocks.0", "blocks.1", "norm"]
HIDDEN, NONE, UNREAD = Interval(0.5, 0.4, 0.6), Interval(0.2, 0.1, 0.3), Interval(0.0, -0.1, 0.1)


def probe(target: str, value: Interval, **attrs: float) -> Profile:
    made = profile("linear_probe", TAPS, value, {}, probe=True, target=target)
    return Profile(made.measure, made.target, made.data.assign_attrs(attrs, pooling="mean"), {})


def gap(low: float) -> dict[str, float]:
    return {"hidden_gap": low + 0.1, "hidden_gap_low": low, "hidden_gap_high": low + 0.2}


ROWS = [
    ("s0", probe("none", NONE, **gap(-0.1))),
    ("s1", probe("unread", UNREAD, **gap(0.3))),
    ("s2", probe("little", HIDDEN, **gap(0.1))),
    ("s3", probe("much", HIDDEN, **gap(0.2))),
    ("s4", probe("raw", HIDDEN, **gap(0.9), over_raw_input=0.1, over_raw_input_low=-0.1, over_raw_input_high=0.2)),
]
STATES: list[State] = ["none", "unread", "hidden", "hidden", "doubtful"]


def test_states_are_those_planted() -> None:
    assert [state_of(p) for _, p in ROWS] == STATES


def test_the_verdict_counts_and_names_the_widest_gap() -> None:
    profiles = [p for _, p in ROWS]
    assert in_short(profiles, controls=True) == (
        "The output hides 3 of 5 targets, raw most (+1.000 at blocks.0). A control does as well on raw; no hidden gap is shown for none; "
        "no probe is shown to read unread."
    )
    assert in_short(profiles[:1], controls=True).startswith("No hidden gap is shown for none, so use the output, norm.")
    assert in_short(profiles[1:2], controls=False) == (
        "No target is shown to be readable at the tap chosen. There is nothing to recommend."
    )
    assert in_short(profiles[2:3], controls=False) == "The output hides little (+0.200 at blocks.0)."
    assert in_short([], controls=True) == ""


def test_the_overview_links_recommendations_and_sorts_by_gap() -> None:
    how = Sentence("how")
    blocks = overview("verdict", ROWS, [recommend(p) for _, p in ROWS], [how]).blocks
    (findings,) = [block for block in blocks if isinstance(block, Findings)]
    assert [(f.anchor, f.state) for f in findings.findings] == [
        ("s3", "hidden"), ("s2", "hidden"), ("s4", "doubtful"), ("s0", "none"), ("s1", "unread"),
    ]  # fmt: skip
    assert [f.link in f.words for f in findings.findings] == [True] * 5
    assert [f.link for f in findings.findings][3:] == ["use the output, norm", "nothing to recommend"]
    alone = profile("rankme", TAPS, HIDDEN, {}, probe=False, target="")
    assert overview("", [("s0", alone)], [], [how]).blocks == (how,), "without a target there is no finding"


def test_targets_read_at_other_taps_share_one_picture() -> None:
    dense = profile("dense_probe", TAPS[1:], HIDDEN, {}, probe=True, target="depth")
    picture = score_map([ROWS[2], ("s9", dense)])
    assert picture.taps == TAPS
    np.testing.assert_array_equal(np.isnan(picture.score), [[False] * 3, [True, False, False]])


@pytest.mark.parametrize("stored", [True, False])
def test_parts_have_scores_of_their_own(stored: bool) -> None:
    loss = np.array([[[0.0, 1.0, 0.0]] * 4, [[1.0, 1.0, 0.0]] * 4, [[2.0, 1.0, 0.0]] * 4])
    reference = np.broadcast_to([2.0, 4.0, 0.0], loss.shape)
    expected = np.array([[1.0, 0.75, np.nan], [0.5, 0.75, np.nan], [0.0, 0.75, np.nan]])
    one = probe("classes", HIDDEN, **gap(0.1))
    axes = ("tap", "unit", "part")
    data = one.data.drop_vars(("loss", "reference_loss")).assign(
        loss=(axes, loss), reference_loss=(axes, reference.copy())
    )
    if stored:
        data = data.assign(iou=(("tap", "part"), expected)).assign_coords(part=["road", "sky", "none"])
    scores = part_scores(Profile(one.measure, one.target, data, {}))
    assert scores is not None
    assert scores[:2] == (("class", ["road", "sky", "none"]) if stored else ("part", ["1", "2", "3"]))
    np.testing.assert_allclose(scores[2], expected)
    details = parts_table(Profile(one.measure, one.target, data, {}))
    assert details is not None
    assert details.table.rows[0].cells[1:] == ("1", "0", "+1"), "at the best tap, at the output, and the difference"
    assert details.table.rows[2].cells[1:] == ("-", "-", "-")
    assert parts_table(one) is None

"""The verdict of a report says what was planted, and parts have the scores of their own losses."""

from __future__ import annotations

import numpy as np
import pytest

from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.page import Findings, Sentence
from diagnostics.runs.pages.answer_in_words import overview, score_map
from diagnostics.runs.pages.run import part_scores, parts_table
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import recommend
from tests.support.profiles import planted, profile

TAPS = ["blocks.0", "blocks.1", "norm"]
ROWS = [
    ("s0", planted("none", gap=-0.1, bound=0.01)),
    ("s1", planted("noise", score=0.0, gap=0.0, width=0.04)),
    ("s2", planted("little", gap=0.2)),
    ("s3", planted("much", gap=0.3)),
    ("s4", planted("open", gap=0.01, bound=0.2)),
]


def test_the_overview_links_recommendations_in_the_order_of_verdicts_and_gaps() -> None:
    how = Sentence("how")
    blocks = overview(["one", "two"], ROWS, [recommend(p) for _, p in ROWS], [how]).blocks
    assert [block.text for block in blocks if isinstance(block, Sentence)] == ["one", "two", "how"]
    (findings,) = [block for block in blocks if isinstance(block, Findings)]
    assert [(f.anchor, f.verdict) for f in findings.findings] == [
        ("s3", Verdict.SHOWN),
        ("s2", Verdict.SHOWN),
        ("s4", Verdict.UNDECIDED),
        ("s0", Verdict.EXCLUDED),
        ("s1", Verdict.AT_CHANCE),
    ]
    assert [f.link in f.words for f in findings.findings] == [True] * 5
    alone = profile("rankme", TAPS, Interval(0.5, 0.4, 0.6), {}, probe=False, target="")
    assert overview([], [("s0", alone)], [], [how]).blocks == (how,), "without a target there is no finding"


def test_targets_read_at_other_taps_share_one_picture() -> None:
    dense = profile("dense_probe", TAPS[1:], Interval(0.5, 0.4, 0.6), {}, probe=True, target="depth")
    picture = score_map([ROWS[2], ("s9", dense)])
    assert picture.taps == TAPS
    np.testing.assert_array_equal(np.isnan(picture.score), [[False] * 3, [True, False, False]])


@pytest.mark.parametrize("stored", [True, False])
def test_parts_have_scores_of_their_own(stored: bool) -> None:
    loss = np.array([[[0.0, 1.0, 0.0]] * 4, [[1.0, 1.0, 0.0]] * 4, [[2.0, 1.0, 0.0]] * 4])
    reference = np.broadcast_to([2.0, 4.0, 0.0], loss.shape)
    expected = np.array([[1.0, 0.75, np.nan], [0.5, 0.75, np.nan], [0.0, 0.75, np.nan]])
    one = planted("classes", gap=0.2)
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
    assert details.table.rows[0].cells[1:] == ("1", "0", "+1"), "at the tap chosen, at the output, and the difference"
    assert details.table.rows[2].cells[1:] == ("-", "-", "-")
    assert parts_table(one) is None

"""The verdict on a target and how sure the choice of its tap is, from planted numbers."""

from __future__ import annotations

import numpy as np
import pytest

from diagnostics.measures.statistics import Interval, Losses
from diagnostics.measures.verdict import Verdict, paired_differences, units_needed
from diagnostics.runs.pages.answer_in_words import score_map
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import Confidence, recommend
from tests.support.profiles import planted


@pytest.mark.parametrize(
    ("profile", "verdict"),
    [
        (planted("y", gap=0.1), Verdict.SHOWN),
        (planted("y", gap=0.01, width=0.005), Verdict.EXCLUDED),  # shown, and less than the margin of .03
        (planted("y", gap=0.04), Verdict.UNDECIDED),  # its interval reaches below 0
        (planted("y", gap=-0.1, bound=0.029), Verdict.EXCLUDED),  # .05 of .6 or .7 is more
        (planted("y", gap=-0.1, bound=0.036), Verdict.UNDECIDED),  # and this is more than .035
        (planted("y", gap=0.1, score=0.04), Verdict.UNDECIDED),  # the best tap itself is not shown to be above 0
        (planted("y", gap=0.0, score=0.0, width=0.04), Verdict.AT_CHANCE),
        (planted("y", gap=0.0, score=0.0, width=0.06), Verdict.UNDECIDED),
    ],
)
def test_verdicts_are_those_planted(profile: Profile, verdict: Verdict) -> None:
    assert profile.verdict is verdict


def test_nothing_is_at_chance_by_fewer_samples_than_features() -> None:
    for n_features, verdict in ((320, Verdict.AT_CHANCE), (321, Verdict.UNDECIDED)):
        noise = planted("y", gap=0.0, score=0.0, width=0.01, n_features=n_features)
        assert noise.verdict is verdict and noise.readability == str(verdict)
        assert score_map([("", noise)]).unread == [True], "no shades of noise"
    sure = planted("y", gap=0.0, score=0.01, width=0.005, n_features=321)
    assert sure.score is not None and sure.score.low > 0 and not sure.is_readable, "it is next to nothing"


def test_the_gap_of_the_tap_chosen_excludes_nothing() -> None:
    # Its own upper end is below the margin of .03; that of another tap is above.
    one = planted("y", gap=-0.03, bound=0.2)
    assert one.hidden_gap is not None and one.hidden_gap.high < one.margin < one.gap_bound
    assert one.verdict is Verdict.UNDECIDED and "gaps up to 0.200 are possible" in one.reading
    assert planted("y", gap=-0.03, bound=np.nan).verdict is Verdict.UNDECIDED


def test_the_margin_is_the_users_or_a_share_of_what_lies_above_chance() -> None:
    open_ = planted("y", gap=-0.1, bound=0.15)
    assert open_.margin == pytest.approx(0.05 * 0.7), "of the better of chosen tap and output"
    own = Profile(open_.measure, open_.target, open_.data.assign_attrs(margin=0.2), {})
    assert (own.margin, own.verdict) == (0.2, Verdict.EXCLUDED)
    assert own.reading == "gaps above 0.150 are excluded"
    accuracy = planted("y", gap=0.0, score=0.9, losses="counts", chance=None)
    above = Profile("linear_probe", "y", accuracy.data.assign(line_chance=("tap", [0.5] * 3)), {})
    assert above.margin == pytest.approx(0.05 * 0.4)


@pytest.mark.parametrize(
    ("units", "few"), [((320, 9), "9 test units"), ((9, 80), "9 units of train and val"), ((10, 10), "")]
)
def test_few_units_leave_everything_undecided(units: tuple[int, int], few: str) -> None:
    hidden = planted("y", gap=0.2, units=units)
    noise = planted("y", gap=0.0, score=0.0, width=0.01, units=units)
    if few:
        assert hidden.verdict is noise.verdict is Verdict.UNDECIDED
        assert hidden.reading == f"only {few}: they cannot tell"
        assert recommend(hidden).confidence == "undecided"
    else:
        assert (hidden.verdict, noise.verdict) == (Verdict.SHOWN, Verdict.AT_CHANCE)
        assert "linear_probe" in str(recommend(noise)), "another probe may read what this one does not"


def test_what_counts_right_answers_is_readable_above_chance_and_above_shuffled_labels() -> None:
    def accuracy(chance: float, **controls: tuple[float, float]) -> Profile:
        made = planted("y", gap=0.1, controls=controls, losses="counts", chance=None)
        return Profile("linear_probe", "y", made.data.assign(line_chance=("tap", [chance] * 3)), made.controls)

    assert accuracy(0.5).readability == "readable" and accuracy(0.5).verdict is Verdict.SHOWN
    assert accuracy(0.58).readability == "undecided" and accuracy(0.58).verdict is Verdict.UNDECIDED
    assert accuracy(0.5, shuffled_labels=(0.5, -0.01)).readability == "undecided"
    assert accuracy(0.5, shuffled_labels=(0.5, 0.01)).readability == "readable"
    # By the lower end and not by the value, also where scores themselves lie apart.
    assert accuracy(0.5, shuffled_labels=(0.3, -0.001)).readability == "undecided"
    assert accuracy(0.5, shuffled_labels=(0.65, 0.001)).readability == "readable"
    # .61 [.56, .66] excludes .05 of what lies between .65 and 1, and not of what lies between .6 and 1.
    assert accuracy(0.65).readability == "at chance" and accuracy(0.61).readability == "undecided"


def test_a_control_is_a_rival_above_chance_by_a_share_of_what_lies_above_it() -> None:
    for reached, named in ((0.52, None), (0.53, "raw_input"), (0.57, "raw_input")):
        made = planted("y", gap=0.1, controls={"raw_input": (reached, -0.1)}, losses="counts", chance=None)
        data = made.data.assign(line_chance=("tap", [0.5] * 3))  # .05 of .5 above it
        rival = Profile("linear_probe", "y", data, made.controls).rival
        assert (rival and rival[0]) == named


def test_at_chance_is_every_tap_up_to_the_output() -> None:
    noise = planted("y", gap=0.0, score=0.0, width=0.01)
    for tap, verdict in (("blocks.1", Verdict.UNDECIDED), ("norm", Verdict.UNDECIDED)):
        high = noise.data["high"].where(noise.data["tap"] != tap, 0.3)
        assert Profile("linear_probe", "y", noise.data.assign(high=high), {}).verdict is verdict
    behind = noise.data.assign(high=noise.data["high"].where(noise.data["tap"] != "norm", 0.3))
    headed = behind.assign_attrs(output_tap="blocks.1")
    assert Profile("linear_probe", "y", headed, {}).verdict is Verdict.AT_CHANCE, (
        "the output cannot hide what lies behind"
    )


# How sure the choice is


@pytest.mark.parametrize(
    ("profile", "confidence"),
    [
        (planted("y", gap=0.1), "shown"),
        (planted("y", gap=0.1, chosen="norm"), "undecided"),  # the rule did not take the tap whose gap is shown
        (planted("y", gap=-0.1, bound=0.01), "no gap"),
        (planted("y", gap=0.04, chosen_gap_low=0.001), "likely"),
        (planted("y", gap=0.04, chosen_gap_low=0.0), "undecided"),
        (planted("y", gap=0.0, score=0.0, width=0.04), "at chance"),
    ],
)
def test_how_sure_a_recommendation_is(profile: Profile, confidence: Confidence) -> None:
    assert recommend(profile).confidence == confidence


# How many units would tell


def test_units_needed_come_from_the_width_and_not_from_the_gap() -> None:
    assert units_needed(Interval(0.0, -0.1, 0.1), 80, 0.05) == 320, "half the width takes four times as many"
    assert units_needed(Interval(0.3, 0.2, 0.4), 80, 0.05) == 320
    for unknown in (Interval(0.0, np.nan, np.nan), Interval(0.0, -np.inf, 0.1)):
        assert units_needed(unknown, 80, 0.05) is None
    assert units_needed(Interval(0.0, -0.1, 0.1), 80, 0.0) is None


def test_of_as_many_units_the_gaps_interval_is_as_wide_as_the_margin_each_way() -> None:
    rng = np.random.default_rng(0)

    def gap(units: int) -> Interval:
        ours, theirs = (Losses(loss[None], np.full((1, units), 2.0)) for loss in rng.chisquare(1, (2, units)))
        return paired_differences(ours, theirs, 0, 0)[0]

    needed = units_needed(gap(100), 100, 0.05)
    assert needed is not None and needed > 400
    reached = gap(needed)
    assert (reached.high - reached.low) / 2 == pytest.approx(0.05, rel=0.25)


def test_a_probe_that_states_no_chance_is_read_against_0() -> None:
    known = planted("x", gap=0.3)
    data = known.data.assign_attrs()
    del data.attrs["chance"]
    silent = Profile(known.measure, known.target, data, known.controls)
    assert (silent.floor, silent.margin, silent.is_at_chance) == (0.0, known.margin, known.is_at_chance)

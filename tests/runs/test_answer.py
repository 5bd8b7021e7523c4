"""The first screen of a run: a row a target, and sentences that are true of what was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.measures.verdict import Verdict
from diagnostics.report import terminal
from diagnostics.report.page import Notes, Table
from diagnostics.runs.pages.answer_in_words import answer, answer_blocks
from diagnostics.runs.pages.run import run_page
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import by_verdict
from tests.support.profiles import finished_run, planted
from tests.support.tiny import tiny_dataset, tiny_encoder

FLAT = planted(
    "flat", gap=-0.1, bound=0.02, chosen="norm", controls={"raw_input": (0.9, -0.1, 0.02), "fresh_weights": (0.1, 0.2)}
)
PLANTED = [
    planted("hue", gap=0.0, score=0.0, width=0.04),
    FLAT,
    planted("open", gap=0.01, width=0.1, chosen="norm", tap_set=["blocks.0", "blocks.1", "norm"]),
    planted("rare", gap=0.2, units=(12, 4)),
    planted("vague", gap=0.0, score=0.04),
    planted("little", gap=0.1),
    planted("much", gap=0.3),
    planted("kept", gap=0.06, chosen="norm"),
]
# Shown with the largest gap first, undecided likewise, excluded, at chance.
ORDER = ["much", "little", "kept", "rare", "open", "vague", "flat", "hue"]


def page_at(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Any, full: bool = False
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    terminal.print_page(run_page(run), Path("run/report.html"), full=full)
    return capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("measure", "readout", "score", "label"),
    [
        ("linear_probe", "linear", "R2", "much (R2)"),
        ("knn_probe", "", "accuracy", "much (knn_probe accuracy)"),
        ("segmentation_probe", "", "mIoU", "much (mIoU)"),
    ],
)
def test_a_row_names_the_probe_where_a_score_of_the_linear_one_has_that_name(
    measure: str, readout: str, score: str, label: str
) -> None:
    data = planted("much", gap=0.3).data.assign_attrs(readout=readout, score_name=score)
    assert Profile(measure, "much", data, {}).label.replace("\N{NO-BREAK SPACE}", " ") == label


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_first_screen_has_a_row_a_target_in_the_order_of_verdicts(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = page_at(width, capsys, monkeypatch, finished_run(PLANTED, "enc", "data"))
    rows = [line for line in printed.splitlines() if line[:2] in {f"{verdict.mark} " for verdict in Verdict}]
    assert [row.split()[1] for row in rows] == ORDER
    assert "".join(row[0] for row in rows) == "+++???=-"
    assert [" ".join(row.split()) for row in rows[:3]] == [
        "+ much (R2) blocks.0 0.60 [0.55, 0.65] 0.30",
        "+ little (R2) blocks.0 0.60 [0.55, 0.65] 0.50",
        "+ kept (R2) norm, the output 0.54 [0.49, 0.59] 0.54",
    ]
    lines = [line.strip() for line in printed.splitlines()]
    # What a reader of the row must know, under it.
    for row, note in (
        (2, "blocks.0 shows +0.060"),
        (3, "4 test units cannot tell"),
        (4, "also blocks.0 and blocks.1"),
        (6, "no model needed: raw input 0.90"),
    ):
        assert lines[lines.index(rows[row].strip()) + 1] == note
    assert "best tap" not in printed.lower() and "hidden gap" not in printed.lower()
    assert 'features: dx.open_run("run").features(target="much")' in printed, "of the first row"
    words = " ".join(printed.split())
    assert " ".join(answer(PLANTED)).replace("\N{NO-BREAK SPACE}", " ") in words


def test_the_legend_stands_on_the_full_page_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(PLANTED, "enc", "data")
    brief, full = (" ".join(page_at(80, capsys, monkeypatch, run, full).split()) for full in (False, True))
    for verdict in Verdict:
        assert f"{verdict.mark} {verdict.meaning}" in full
        assert verdict.meaning not in brief
    assert "chosen without test (on val)" in full and "chosen without test" not in brief


def test_long_names_are_not_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    target, tap = "mean_wall_shear_stress_at_the_inlet_of_the_third_channel", "encoder.layers.23.attention.output.dense"
    made = planted(target, gap=0.2)
    taps = {"blocks.0": tap, "blocks.1": "b", "norm": "n"}
    data = made.data.assign_coords(tap=[taps[name] for name in made.taps])
    named = data.assign_attrs({"chosen_tap": tap, "best_tap": tap, "tap_set": [tap, "b"], "output_tap": "n"})
    printed = page_at(
        60, capsys, monkeypatch, finished_run([Profile("linear_probe", target, named, {})], "enc", "data")
    )
    assert f"+ {target} (R2)" in printed and tap in printed and "…" not in printed


NO_WORSE, NOT_SHOWN = (0.596, -0.1, 0.02), (0.6, -0.1, 0.04)
"""What a control reaches, of .60, and the ends of what it is beaten by, of which .03 matter."""


@pytest.mark.parametrize(
    ("controls", "units", "note", "sentence"),
    [
        ({"fresh_weights": NO_WORSE}, 80, "no training needed: fresh weights 0.60", "y is read no worse without training: "),
        ({"fresh_weights": NO_WORSE}, 9, "9 test units cannot tell; not shown to beat: fresh weights 0.60", ""),
        ({"fresh_weights": (0.56, -0.1)}, 80, "not shown to beat: fresh weights 0.56", "A control is not beaten for y: "),
        # The one without a model says most where it reaches as much, and else the one that does.
        ({"raw_input": NO_WORSE, "fresh_weights": (0.7, -0.2)}, 80, "no model needed: raw input 0.60", "y is read no worse without a model: "),
        ({"raw_input": (0.7, -0.1), "fresh_weights": NO_WORSE}, 80, "no training needed: fresh weights 0.60", "y is read no worse without training: "),
        ({"raw_input": NOT_SHOWN, "fresh_weights": (0.65, -0.1)}, 80, "not shown to beat: fresh weights 0.65", "A control is not beaten for y: "),
        ({"fresh_weights": NOT_SHOWN, "raw_input": NOT_SHOWN}, 80, "not shown to beat: raw input 0.60", "A control is not beaten for y: "),
        # As high to two decimals, and gains of .03 are possible; or lower by a hair, and they are not.
        ({"raw_input": NOT_SHOWN}, 80, "not shown to beat: raw input 0.60", "A control is not beaten for y: "),
        ({"raw_input": (0.59, -0.01, 0.029)}, 80, "no model needed: raw input 0.59", "y is read no worse without a model: "),
        # Beaten, by less than matters: as a gap that is shown and smaller than the margin is excluded.
        ({"raw_input": (0.58, 0.01, 0.029)}, 80, "no model needed: raw input 0.58", "y is read no worse without a model: "),
        ({"raw_input": (0.58, 0.01, 0.031)}, 80, "", ""),
        ({"raw_input": (0.04, -0.1), "fresh_weights": (0.5, 0.1)}, 80, "", ""),  # at chance itself, and beaten
    ],
)  # fmt: skip
def test_a_control_that_is_not_beaten_is_named_with_what_it_does_without(
    controls: dict[str, tuple[float, float]], units: int, note: str, sentence: str
) -> None:
    probe = planted("y", gap=0.2, controls=controls, units=(320, units))
    assert notes_of(probe) == note
    assert [each for each in answer([probe]) if sentence and each.startswith(sentence)] or not sentence
    assert any("is needed" in each for each in answer([probe])) == bool(note)


def notes_of(probe: Profile) -> str:
    """What stands below the row of a target."""
    table = answer_blocks(finished_run([probe], "enc", "data"))[0]
    assert isinstance(table, Table)
    return table.rows[0].note


def test_a_row_says_what_is_likely_and_how_many_layers_may_be_as_good() -> None:
    assert notes_of(planted("y", gap=0.04, chosen_gap_low=0.001)) == "likely better than the output"
    assert notes_of(planted("y", gap=0.04, chosen_gap_low=0.0)) == ""
    taps = ["blocks.0", "blocks.1", "a", "b", "norm"]
    assert notes_of(planted("y", gap=0.2, tap_set=taps[:4])) == "also blocks.1, a and b"
    assert notes_of(planted("y", gap=0.2, tap_set=taps)) == "4 other layers may be as good"
    assert notes_of(planted("y", gap=0.0, score=0.0, width=0.04, tap_set=taps)) == "", "none is good"


def test_of_what_is_undecided_the_readable_goes_first_and_gives_the_features() -> None:
    vague, open_ = planted("vague", gap=0.03, score=0.04), planted("open", gap=0.01, width=0.1)
    assert [p.target for p in by_verdict([vague, open_])] == ["open", "vague"]
    few, flat = planted("few", gap=0.0, score=0.0, width=0.04, units=(320, 9)), planted("flat", gap=-0.1, bound=0.02)
    assert [p.target for p in by_verdict([flat, few])] == ["few", "flat"]
    (closing,) = run_page(finished_run([few, flat], "enc", "data")).closing
    assert isinstance(closing, Notes) and closing.notes[0].text.endswith('features(target="flat")')


def test_sentences_are_true_of_what_was_planted() -> None:
    assert answer(PLANTED) == [
        "The output hides from a linear readout: much, +0.30 [0.25,\N{NO-BREAK SPACE}0.35] at blocks.0; little, +0.10 "
        "[0.05,\N{NO-BREAK SPACE}0.15] at blocks.0; kept, +0.06 [0.01,\N{NO-BREAK SPACE}0.11] at blocks.0.",
        "flat is read no worse without a model: no score there shows that an encoder is needed.",
        # (.1 / .0295)², of 80.
        "Cannot tell for open (gaps up to 0.110 are possible; about 920 test units would tell, 80 now).",
        "The output is as good as any layer for flat (gaps above 0.020 are excluded).",
        "With only 4 test units the layer is a guess for rare (0.20 to 0.60 over the layers): at least 10 are needed.",
        "Cannot tell whether the layer chosen reads vague (scores up to 0.09 are possible, 0.00 is chance).",
        "A linear probe fitted to 320 samples finds hue at no layer.",
    ]
    noise = [planted(f"noise{i}", gap=0.0, score=0.0, width=0.04) for i in range(8)]
    names = "noise0, noise1, noise2, noise3, noise4, noise5 and 2 more"
    assert answer(noise) == [f"A linear probe fitted to 320 samples finds {names} at no layer."]
    noise = [planted(f"noise{n}", gap=0.0, score=0.0, width=0.04, units=(n, 80), n_features=160) for n in (160, 80, 40)]
    assert answer(noise) == [
        "Too few samples to say that no layer holds noise80 (80 samples for 160 features) and noise40 (40 samples for 160 "
        "features).",
        "A linear probe fitted to 160 samples finds noise160 at no layer.",
    ]
    assert answer([]) == []


def test_what_a_kernel_reads_is_said_of_a_target_at_chance_by_the_linear_probe() -> None:
    noise = planted("y", gap=0.0, score=0.0, width=0.04)
    for score, gap, says in (
        (0.6, 0.1, "reads 0.60 from blocks.0"),
        (0.6, -0.1, "reads 0.70 from the output"),
        (0.04, 0.0, ""),
    ):
        kernel = planted("y", gap=gap, score=score, name="kernel_probe", readout="kernel")
        (sentence,) = answer([noise, kernel])
        assert says in sentence and ("kernel" in sentence) == bool(says)


def test_shuffled_labels_are_named_where_they_alone_make_a_target_unread() -> None:
    drawn = {"controls": {"shuffled_labels": (0.57, -0.1)}, "chance": None}
    lucky, vague = (planted("y", gap=0.2, score=score, **drawn) for score in (0.6, 0.04))
    assert not lucky.is_readable and "0.57" in answer([lucky])[0]
    assert "0.57" not in answer([vague])[0]


def test_units_are_promised_only_where_more_would_tell() -> None:
    # 80 tell a gap as wide as its interval; what is missing is that the gap is small.
    wide = planted("y", gap=0.025, width=0.028)
    assert answer([wide]) == ["Cannot tell for y (gaps up to 0.054 are possible)."]


def test_each_target_with_few_units_has_its_own_number() -> None:
    assert answer([planted("a", gap=0.2, units=(12, 4)), planted("b", gap=0.2, units=(8, 40))]) == [
        "With only 4 test units the layer is a guess for a (0.20 to 0.60 over the layers): at least 10 are needed.",
        "With only 8 units of train and val the layer is a guess for b (0.20 to 0.60 over the layers): at least 10 are needed.",
    ]


def test_what_the_output_is_not_compared_with_is_said() -> None:
    made = planted("y", gap=0.1, bound=np.nan, hidden_gap=np.nan, hidden_gap_low=np.nan, hidden_gap_high=np.nan)

    def with_output(value: float, **attrs: str) -> Profile:
        score = made.data["score"].where(made.data["tap"] != "norm", value)
        data = made.data.assign(score=score).assign_attrs(attrs)
        if attrs:
            del data.attrs["best_tap"], data.attrs["hidden_gap"]
        return Profile("linear_probe", "y", data, {})

    assert answer([with_output(np.nan)]) == ["The output has no score for y, so there is nothing to compare with."]
    assert answer([with_output(0.5, chosen_tap="norm")]) == [
        "Only the output was read for y, so there is nothing to compare with."
    ]
    assert answer([with_output(0.5)]) == ["Cannot tell for y: the gaps have no interval."]


def test_a_run_of_sets_of_layers_alone_names_their_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 20 test units on, single ones are looked at, of which a result of sets has no losses.
    run = dx.run(tiny_encoder(), tiny_dataset(110), out=tmp_path / "run", measures="tap_set", controls=False)
    assert run.profiles() and all(profile.target for profile in run.profiles())
    read = page_at(80, capsys, monkeypatch, run)
    assert all(profile.name in read for profile in run.profiles())
    assert "set of layers" in read or "everal layers" in read

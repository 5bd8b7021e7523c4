"""The first screen of a run: a row a target, and sentences that are true of what was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagnostics.measures.verdict import Verdict
from diagnostics.report import terminal
from diagnostics.runs.answer import answer
from diagnostics.runs.page import run_page
from diagnostics.runs.profile import Profile

from profiles import finished_run, planted

FLAT = planted(
    "flat", gap=-0.1, bound=0.02, chosen="norm", controls={"raw_input": (0.9, -0.1), "fresh_weights": (0.1, 0.2)}
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
        (2, "blocks.0 shows +0.06"), (3, "4 test units cannot tell"), (4, "also blocks.0 and blocks.1"),
        (6, "no model needed: raw input 0.90"),
    ):  # fmt: skip
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
        assert verdict.meaning not in brief.replace("hue is at chance at every layer.", "")
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
        "hue is at chance at every layer.",
    ]
    noise = [planted(f"noise{i}", gap=0.0, score=0.0, width=0.04) for i in range(8)]
    assert answer(noise) == ["noise0, noise1, noise2, noise3, noise4, noise5 and 2 more are at chance at every layer."]
    assert answer([]) == []


def test_units_are_promised_only_where_more_would_tell() -> None:
    # 80 tell a gap as wide as its interval; what is missing is that the gap is small.
    wide = planted("y", gap=0.025, width=0.028)
    assert answer([wide]) == ["Cannot tell for y (gaps up to 0.053 are possible)."]


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

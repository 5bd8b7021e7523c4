"""Several draws of fresh and permuted weights: which one is shown, and that what beats the control beats each draw."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import diagnostics as dx
from diagnostics.cli.main import app
from diagnostics.measures.result import losses_of
from diagnostics.measures.verdict import paired_differences
from diagnostics.report.terminal import print_page
from diagnostics.runs.pages.run import control_heading, run_page
from diagnostics.runs.results.profile import Profile
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

DRAWS = ["fresh_weights", "fresh_weights.2", "fresh_weights.3"]


def result(val: list[float], test: list[float], **over: Any) -> Any:
    """Of a probe at three taps with these values on val, by which the best is chosen, and on test."""
    best = int(np.argmax(val))
    attrs: dict[str, Any] = {
        "chosen_tap": f"t{best}",
        "output_tap": "t2",
        "higher_is_better": "yes",
        "score_name": "R2",
        "losses": "squares",
        "chance": 0.0,
        "family": "semantic",
    }
    for name, (value, low, high) in over.items():
        key = f"over_{name.replace('__', '.')}"
        attrs |= {key: value, f"{key}_low": low, f"{key}_high": high}
    values = {"score": test, "low": np.subtract(test, 0.1), "high": np.add(test, 0.1), "val_score": val}
    losses = (("tap", "unit"), np.ones((3, 40)))
    coords = {"tap": ["t0", "t1", "t2"], "depth": ("tap", [0.0, 0.5, 1.0])}
    return xr.Dataset(
        {name: ("tap", np.asarray(v)) for name, v in values.items()} | {"loss": losses, "reference_loss": losses},
        coords,
        attrs,
    )


CONTROLS = {
    # Best on test and not on val; best on val; with a tap that is best on test and not chosen.
    "fresh_weights": result([0.1, 0.2, 0.1], [0.0, 0.6, 0.0]),
    "fresh_weights.2": result([0.1, 0.1, 0.5], [0.9, 0.0, 0.3]),
    "fresh_weights.3": result([0.4, 0.1, 0.1], [-0.2, 0.8, 0.8]),
}


def test_the_draw_shown_is_chosen_on_val() -> None:
    profile = Profile.of("linear_probe", "a", result([0.9] * 3, [0.95] * 3), CONTROLS)
    shown = profile.control("fresh_weights")
    assert shown is not None and shown.value == 0.3
    assert [reached.value for reached in profile.drawn("fresh_weights")] == [0.6, 0.3, -0.2]
    assert profile.spread("fresh_weights") == (-0.2, 0.6)
    assert profile.to_json()["control_draws"] == {"fresh_weights": [0.6, 0.3, -0.2]}
    single = Profile.of(
        "linear_probe", "a", result([0.9] * 3, [0.95] * 3), {"fresh_weights": CONTROLS["fresh_weights"]}
    )
    assert single.spread("fresh_weights") is None
    assert control_heading("fresh_weights", [profile]) == "fresh weights (best of 3 draws)"
    assert control_heading("fresh_weights", [single]) == "fresh weights (one draw)"
    # Rows of two calls, with one draw and with three.
    assert control_heading("fresh_weights", [profile, single]) == "fresh weights (best of 1 to 3 draws)"


@pytest.mark.parametrize(
    ("lows", "beats"), [((0.2, 0.1, 0.3), True), ((0.2, 0.1, -0.01), False), ((float("nan"), 0.1, 0.3), False)]
)
def test_beating_the_control_is_beating_every_draw(lows: tuple[float, ...], beats: bool) -> None:
    names = [name.replace(".", "__") for name in DRAWS]
    over = {name: (low + 0.1, low, low + 0.2) for name, low in zip(names, lows, strict=True)}
    profile = Profile.of("linear_probe", "a", result([0.9] * 3, [0.95] * 3, **over), CONTROLS)
    margin = profile.over("fresh_weights")
    assert margin is not None
    assert (margin.low > 0) is beats
    assert ("not shown to beat fresh weights" in profile.reading) is not beats
    assert profile.over("permuted_weights") is None


def test_any_draw_may_come_near() -> None:
    over = {name.replace(".", "__"): (0.02, 0.01, 0.03) for name in DRAWS}
    profile = Profile.of("linear_probe", "a", result([0.9] * 3, [0.62] * 3, **over), CONTROLS)
    assert "within 10% of fresh weights" in profile.reading  # the first reaches 0.6, the one shown 0.3


def unexplained(page: Path) -> str:
    """A report without what explains its words."""
    return re.sub("</?abbr[^>]*>", "", page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_draws_are_added_to_the_first_which_stays(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    encoder, data = tiny_encoder(), tiny_dataset(60)
    options: dict[str, Any] = {"out": tmp_path / "run", "measures": ["linear_probe", "rankme"]}
    options["control_measures"] = "all"
    one = dx.run(encoder, data, **options)
    print_page(run_page(one), Path("report.html"), full=True)
    page = unexplained(tmp_path / "run" / "report.html")
    printed = " ".join(capsys.readouterr().out.split())
    for text in (page, printed):
        assert "fresh weights (one draw)" in text and "permuted weights (one draw)" in text
    first = one.profile("linear_probe/level").control("fresh_weights")

    several = dx.run(encoder, data, control_draws=3, **options)
    profile = several.profile("linear_probe/level")
    assert set(DRAWS) <= several.controls.keys() and "permuted_weights.3" in several.controls
    drawn = profile.drawn("fresh_weights")
    assert len(drawn) == 3 and drawn[0] == first and len({reached.value for reached in drawn}) == 3
    # Against each draw by hand: the margin is the smallest of the three by its lower bound.
    lows = []
    ours = profile.data.sel(tap=[profile.chosen_tap]).sortby("unit")
    for name in DRAWS:
        other = several.controls[name]["linear_probe/level"].to_dataset()
        other = other.sel(tap=[other.attrs["chosen_tap"]]).sortby("unit")
        units = int(ours.attrs["units_train"] + ours.attrs["units_val"])
        lows.append(paired_differences(losses_of(ours, "unit"), losses_of(other, "unit"), units, 0)[0].low)
    margin = profile.over("fresh_weights")
    assert margin is not None and margin.low == pytest.approx(min(lows))
    print_page(run_page(several), Path("report.html"), full=True)
    page = unexplained(tmp_path / "run" / "report.html")
    printed = " ".join(capsys.readouterr().out.split())
    low, high = profile.spread("fresh_weights") or (0, 0)
    assert "fresh weights (best of 3 draws)" in page and "fresh weights (best of 3 draws)" in printed
    assert f"({low:.3f} to {high:.3f})" in printed and f"({low:.3f}\u00a0to\u00a0{high:.3f})" in page
    assert "fresh weights (first of 3 draws)" in page  # of effective rank no draw is the best

    again = dx.run(encoder, data, **options)
    assert len(again.profile("linear_probe/level").drawn("fresh_weights")) == 3, "what is not made again stays"
    kept = again.profile("linear_probe/level").over("fresh_weights")
    assert kept == margin


@pytest.mark.slow
def test_the_command_line_takes_draws(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.support.tiny import tiny_dataset, tiny_encoder\ndef data(): return tiny_dataset(40)\n"
    )
    command = [
        "run",
        f"{tmp_path}/mine.py:tiny_encoder",
        "--data",
        f"{tmp_path}/mine.py:data",
        "--out",
        f"{tmp_path}/run",
        "--measures",
        "linear_probe",
        "--control-draws",
        "2",
        "--json",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for profile in json.loads(done.stdout)["profiles"]:
        assert [len(values) for values in profile["control_draws"].values()] == [2, 2]


def test_no_draws_are_refused(tmp_path: Path) -> None:
    with refusal("bad-value", "is 0", "--no-controls"):
        dx.run(tiny_encoder(), tiny_dataset(20), out=tmp_path / "run", control_draws=0)


def test_names_of_controls_are_no_yes_or_no(tmp_path: Path) -> None:
    names: Any = ["fresh_weights"]
    with refusal("bad-value", "controls", "True"):
        dx.run(tiny_encoder(), tiny_dataset(20), out=tmp_path / "run", controls=names)

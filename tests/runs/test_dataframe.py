"""Profiles as a tidy table, of a run and of a comparison, and as a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import diagnostics as dx
from diagnostics import Run
from tests.support.tiny import tiny_dataset, tiny_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"measures": ["linear_probe", "rankme", "cka"], "control_draws": 2, "report": False, "token_budget": 0}
    return dx.run(tiny_encoder(), tiny_dataset(50), out=tmp_path_factory.mktemp("table") / "run", **options)


def test_a_row_is_a_value_at_a_tap(run: Run) -> None:
    table = run.to_dataframe()
    assert list(table.columns) == [
        "measure", "target", "family", "score_name", "control", "tap", "depth", "score", "low", "high", "val_score", "chosen",
        "output",
    ]  # fmt: skip
    assert not table.duplicated(["measure", "target", "control", "tap"]).any()
    own = table[table.control.isna()]
    assert len(own) == 5 * len(run.profiles())
    for profile in run.profiles():
        rows = own[
            own.measure.eq(profile.measure)
            & (own.target.isna() if profile.target is None else own.target.eq(profile.target))
        ]
        assert list(rows.tap) == profile.taps
        for key in ("depth", "score", "low", "high"):
            np.testing.assert_array_equal(rows[key], profile.data[key])
        assert list(rows.tap[rows.chosen]) == ([profile.chosen_tap] if profile.chosen_tap else [])
        assert list(rows.tap[rows.output]) == ["norm"]
        assert rows.val_score.isna().all() != profile.is_probe
        for control, tree in run.controls.items():
            theirs = table[
                table.control.eq(control) & table.measure.eq(profile.measure) & table.target.eq(profile.target)
            ]
            if profile.target:
                np.testing.assert_array_equal(theirs.score, tree[profile.name]["score"])
    assert {"fresh_weights", "fresh_weights.2", "shuffled_labels", "raw_input"} <= set(table.control.dropna())
    assert all(value is None for value in own.control)


def test_a_comparison_says_of_each_row_whose_it_is(run: Run, tmp_path: Path) -> None:
    options = {"measures": ["linear_probe"], "controls": False, "report": False, "token_budget": 0}
    other = dx.run(tiny_encoder(3), tiny_dataset(50), out=tmp_path / "other", **options)
    comparison = dx.compare([f"first={run.path}", f"second={other.path}"], similarity=None)
    table = comparison.to_dataframe()
    assert list(table.columns[:4]) == ["run", "group", "seed", "measure"]
    # Only what both have is compared.
    assert set(table.measure) == {"linear_probe"}
    theirs = table[table.group.eq("second")].drop(columns=["run", "group", "seed"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(theirs, other.to_dataframe())

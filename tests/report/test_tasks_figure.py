"""The figure of all tasks over depth: what is scaled to what, marked, and written at the right edge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr

from diagnostics.report.page import TasksFigure
from diagnostics.report.plots import draw
from diagnostics.runs.pages.answer_in_words import tasks_figure
from diagnostics.runs.results.profile import Profile

TAPS = ["embed", "blocks.0", "norm"]


def profile(name: str, family: str, score: list[float], chance: float = 0.0, better: str = "yes") -> Profile:
    """A probe whose best tap is the second, with the first not shown to be worse; a fourth tap comes after the output."""
    values = np.array([*score, 1.0])
    loss = np.tile((1 - values)[:, None], (1, 4))
    data = xr.Dataset(
        {
            "loss": (("tap", "unit"), loss),
            "reference_loss": (("tap", "unit"), np.ones_like(loss)),
            **{key: ("tap", values + off) for key, off in (("score", 0), ("low", -0.1), ("high", 0.1))},
            "val_score": ("tap", values),
        },
        coords={"tap": [*TAPS, "head"], "depth": ("tap", [0.0, 0.5, 1.0, 2.0]), "unit": list("abcd")},
        attrs={
            "measure": "linear_probe",
            "target": name,
            "family": family,
            "score_name": "R2",
            "losses": "squares",
            "chance": chance,
            "higher_is_better": better,
            "output_tap": "norm",
            "chosen_tap": "blocks.0",
            "best_tap": "blocks.0",
            "tap_set": ["embed", "blocks.0"],
        },
    )
    return Profile.of("linear_probe", name, data, {})


CLASS, DEPTH = profile("kind", "semantic", [0.4, 0.9, 0.65], 0.4), profile("depth", "spatial", [0.1, 0.5, 0.2])


def test_each_task_is_scaled_from_chance_to_its_best_tap() -> None:
    (curves,) = tasks_figure({"": [CLASS, DEPTH]}).encoders.values()
    np.testing.assert_allclose(curves[0].share, [0, 1, 0.5])
    np.testing.assert_allclose(curves[1].share, [0.2, 1, 0.4])
    assert [curve.family for curve in curves] == ["semantic", "spatial"]
    assert curves[0].inside.tolist() == [True, True, False]
    assert (curves[0].chosen, curves[0].output) == (1, 2)


@pytest.mark.parametrize(
    "others",
    [
        [profile("other", "semantic", [0.1, 0.5, 0.2])],
        [profile("error", "spatial", [0.1, 0.5, 0.2], better="no")],
        [profile("nothing", "spatial", [-0.1, -0.2, -0.2])],
        [profile("cannot tell", "spatial", [-0.2, 0.05, -0.1])],
    ],
)
def test_one_family_alone_has_no_such_figure(others: list[Profile]) -> None:
    assert not tasks_figure({"": [CLASS, *others]})


def test_outputs_are_written_at_the_right_edge_of_each_encoder() -> None:
    for encoders in ({"": [CLASS, DEPTH]}, {"a <b>": [CLASS, DEPTH], "c": [DEPTH]}):
        figure = draw(tasks_figure(encoders))
        texts = [note.text for note in figure.layout.annotations]
        assert sum(text.endswith("50 %") for text in texts) == 1
        assert sum(text.endswith("40 %") for text in texts) == len(encoders)
        names = [trace.name for trace in figure.data if trace.showlegend is not False]
        # Each task once, and what the three signs mean.
        assert len(names) == len(set(names)) == 5
    assert "a &lt;b&gt;" in texts
    stars = [trace for trace in figure.data if trace.marker.symbol == "star" and trace.x[0] is not None]
    assert [star.x[0] for star in stars] == [0.5] * 3


def test_equal_shares_at_the_output_do_not_hide_one_another() -> None:
    curve = tasks_figure({"": [CLASS, DEPTH]}).encoders[""][1]
    same = tuple(dataclasses.replace(curve, name=f"{i}", share=np.ones(3)) for i in range(4))
    figure = draw(TasksFigure({"": same}))
    heights = sorted(note.y for note in figure.layout.annotations)
    assert np.diff(heights).min() > 0.02
    assert figure.layout.yaxis.range[1] > heights[-1]

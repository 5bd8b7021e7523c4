"""Comparisons of what is read from tokens, and the odd cases: grids of their own, heads alone, names that clash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import Dataset, Grid, Run, Site, Tap, Target, TorchEncoder
from diagnostics.report.page import TasksFigure
from diagnostics.runs.comparison.page import comparison_page
from tests.support.graded import graded_data, graded_encoder, linear_alone
from tests.support.refusals import refusal

PLACES = 16


class Graded(nn.Module):
    """Tokens [B, PLACES / fold, 2 fold] of a sample [B, PLACES, 4]: `gain` times what is asked plus noise, and noise."""

    gain: Tensor

    def __init__(self, gain: float, noise: int, fold: int) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))
        self.noise, self.fold = noise, fold

    def forward(self, raw: Tensor) -> Tensor:
        features = torch.stack([raw[..., 0] * self.gain + raw[..., self.noise], raw[..., self.noise + 1]], dim=-1)
        return features.reshape(len(raw), PLACES // self.fold, -1)


class Stages(nn.Module):
    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, raw: Tensor) -> None:
        for stage in self.stages:
            stage(raw)


def tokens_of(
    name: str, gains: Sequence[float], noise: int = 1, fold: int = 1, lineage: Mapping[str, Any] | None = None
) -> TorchEncoder:
    grid = Grid((PLACES // fold,), ("t",))
    taps = [
        Tap(f"stage.{i}", i / (len(gains) - 1), "trunk", 2 * fold, grid, Site(f"stages.{i}")) for i in range(len(gains))
    ]
    module = Stages([Graded(gain, noise, fold) for gain in gains])
    encoder = TorchEncoder(name, "series", module, taps, taps[-1].name, example=np.zeros((PLACES, 4), np.float32))
    return encoder.replace(lineage=dict(lineage or {}))


def token_data(n: int = 150) -> Dataset:
    x = np.random.default_rng(0).standard_normal((n, PLACES, 4)).astype(np.float32)
    split = np.resize(["train"] * 6 + ["val"] * 2 + ["test"] * 2, n)
    targets = {
        "which": Target("token_label", (x[..., 0] > 0.5).astype(np.int64) + (x[..., 0] > -0.3)),
        "value": Target("token_value", x[..., 0].astype(np.float64)),
    }
    return Dataset("tokens", "series", x, [f"s{i}" for i in range(n)], list(split), targets)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    folder = tmp_path_factory.mktemp("tokens")

    def make(encoder: TorchEncoder, **options: Any) -> Run:
        settings = {"measures": "segmentation_probe,linear_probe", "controls": False, "report": False} | options
        return dx.run(encoder, token_data(), out=folder / encoder.name, **settings)

    with linear_alone():
        yield make


def test_standings_are_the_runs_own_numbers_whatever_the_score(make_run: Callable[..., Run]) -> None:
    """The reference of an intersection over union is the union, which differs from tap to tap."""
    base = make_run(tokens_of("base", (0.5, 3, 0.5)))
    up = make_run(
        tokens_of("up", (0.5, 3, 3), lineage={"group": "up", "base": base.store.attrs["identity"]["weights"]})
    )
    result = dx.compare([base, up], similarity=None)
    assert not result.left_out
    assert {one.profile for one in result.group_scores} == {"segmentation_probe/which", "linear_probe/value"}
    runs = {"base": base, "up": up}
    for one in result.group_scores:
        own = runs[one.group].profile(one.profile)
        assert (one.chosen.interval, one.output.interval) == (own.score, own.output)
        assert one.hidden_gap.value == pytest.approx(own.hidden_gap.value, abs=1e-12)
        assert one.hidden_gap.interval.low == pytest.approx(own.hidden_gap.low, abs=1e-12)
    for one in result.differences:
        quantity = {"chosen tap": "score", "output": "output", "hidden gap": "hidden_gap"}[one.quantity]
        before, after = (getattr(run.profile(one.profile), quantity).value for run in (base, up))
        assert one.estimate.value == pytest.approx(after - before, abs=1e-12)
    for one in result.shares:
        assert one.recovered.value == pytest.approx(1.0, abs=1e-6)
        assert not one.purpose
    curves = {one.profile: one for one in result.curve_differences}
    assert np.isnan(curves["segmentation_probe/which"].p).all()
    assert list(curves["linear_probe/value"].p < 0.05) == [False, False, True]


def test_probes_on_grids_of_their_own_are_left_out_not_refused(make_run: Callable[..., Run]) -> None:
    fine, coarse = make_run(tokens_of("fine", (0.5, 3, 0.5))), make_run(tokens_of("coarse", (0.5, 3, 0.5), fold=2))
    with refusal("not-comparable", "no measure", "grid of 16", "grid of 8"):
        dx.compare([fine, coarse], similarity=None)
    both = [
        make_run(tokens_of(name, (0.5, 3, 0.5), fold=fold), measures="linear_probe,effective_rank")
        for name, fold in (("fine too", 1), ("coarse too", 2))
    ]
    result = dx.compare(both, similarity=None)
    assert list(result.left_out) == ["linear_probe/value"]
    assert "another pooling" in result.left_out["linear_probe/value"]


def run_of(folder: Path, encoder: TorchEncoder, **options: Any) -> Run:
    settings = {"measures": "linear_probe", "controls": False, "report": False} | options
    return dx.run(encoder, graded_data(200), out=folder, **settings)


def test_an_encoder_of_which_only_the_head_was_measured(tmp_path: Path) -> None:
    def all_head(name: str, gain: float) -> TorchEncoder:
        return graded_encoder(name, (0.5, 2, gain), (1, 1, 1), heads=1).replace(output_tap="stage.2")

    runs = [run_of(tmp_path / name, all_head(name, gain), taps="stage.2") for name, gain in (("x", 1.0), ("y", 2.0))]
    result = dx.compare(runs, similarity=None)
    assert all(one.head_drop is None for one in result.group_scores)
    assert result.to_json()["depth"] == [2.0]


def test_folders_of_one_name_rename_only_themselves(tmp_path: Path) -> None:
    def plain(name: str, noise: int, **lineage: Any) -> TorchEncoder:
        return graded_encoder(name, (0.5, 2, 0.5), (1, 1, 1), noise, lineage=lineage)

    twins = [run_of(tmp_path / part / "run", plain("twin", noise)) for part, noise in (("p", 2), ("q", 4))]
    seeds = [run_of(tmp_path / f"s{i}", plain(f"s{i}", 6 + i, group="seeded", seed=i)) for i in range(2)]
    result = dx.compare([*twins, *seeds], similarity=None)
    assert list(result.groups) == [f"twin ({twins[0].path})", f"twin ({twins[1].path})", "seeded"]


def test_trainings_of_different_length_are_groups_of_their_own(tmp_path: Path) -> None:
    runs = [
        run_of(
            tmp_path / str(steps),
            graded_encoder(
                f"e{steps}", (0.5, gain, 0.5), (1, 1, 1), lineage={"group": "up", "seed": 0, "steps": steps}
            ),
        )
        for steps, gain in ((100, 1.0), (500, 2.0))
    ]
    assert list(dx.compare(runs, similarity=None).groups) == ["up, 100 steps", "up, 500 steps"]


def test_seeds_of_an_alignment_without_their_base_are_named(tmp_path: Path) -> None:
    bases = [
        graded_encoder(f"b{i}", (0.5, 2, 0.5), (1, 1, 1), 2 + 2 * i, lineage={"group": "b", "seed": i})
        for i in range(2)
    ]
    ups = [
        graded_encoder(
            f"u{i}",
            (0.5, 2, 1.5),
            (1, 1, 1),
            2 + 2 * i,
            lineage={"group": "u", "seed": i, "base": base.identity["weights"] if i == 0 else "elsewhere"},
        )
        for i, base in enumerate(bases)
    ]
    result = dx.compare([run_of(tmp_path / e.name, e) for e in (*bases, *ups)], similarity=None)
    assert list(result.left_out) == ["shares of u seed 1"]
    assert {one.group for one in result.shares} == {"u"}


def test_few_units_are_told(tmp_path: Path) -> None:
    from diagnostics.runs.comparison.page import cautions

    data = graded_data(20)
    runs = [
        dx.run(
            graded_encoder(name, (0.5, 2, 0.5), (1, 1, 1), noise),
            data,
            out=tmp_path / name,
            measures="linear_probe",
            controls=False,
            report=False,
        )
        for name, noise in (("x", 2), ("y", 4))
    ]
    (sentence,) = cautions(dx.compare(runs, similarity=None))
    assert sentence.startswith("only 4 test units: they cannot tell")


def test_families_mean_their_targets(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / name, graded_encoder(name, (0.5, 2, 0.5), (1, 2, 1), noise))
        for name, noise in (("x", 2), ("y", 4))
    ]
    result = dx.compare(runs, similarity=None)
    gaps = [one.hidden_gap.value for one in result.group_scores if one.group == "x"]
    (family,) = [one for one in result.family_gaps if one.group == "x"]
    assert family.hidden_gap.value == pytest.approx(np.mean(gaps))
    assert family.hidden_gap.interval.low > 0


def test_all_tasks_are_drawn_of_encoders_with_grids_of_their_own(tmp_path: Path) -> None:
    data = token_data()
    data.targets = data.targets | {"mean": Target("value", np.stack([each[:, 0].mean() for each in data.samples]))}
    asked: Any = {"measures": "linear_probe,segmentation_probe", "controls": False, "report": False}
    runs = [
        dx.run(tokens_of(name, (0.5, 3, 0.5), fold=fold), data, out=tmp_path / name, **asked)
        for name, fold in (("fine", 1), ("coarse", 2))
    ]
    compared = dx.compare(runs, similarity=None)
    assert "linear_probe/value" in compared.left_out
    assert "segmentation_probe/which" in compared.left_out
    (figure,) = next(each for each in comparison_page(compared).sections if each.anchor == "tasks").blocks
    assert isinstance(figure, TasksFigure)
    drawn = {name: {curve.name.partition(" (")[0] for curve in curves} for name, curves in figure.encoders.items()}
    assert drawn == {name: {"mean", "value", "which"} for name in ("fine", "coarse")}

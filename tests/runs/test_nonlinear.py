"""What a kernel reads beside the linear probe: of a target that is only harder to read, of one that is lost, and in results."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import Dataset, Encoder, Run, Target, TorchEncoder
from diagnostics.runs.results.recommendation import NonlinearReading, nonlinear_reading, without_nonlinear

STEPS = 4


class Multiplied(nn.Module):
    """(a, b, c, 0) -> (a, b, a b, c): a product beside its factors."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0], x[..., 1], x[..., 0] * x[..., 1], x[..., 2]], dim=-1)


class Last(nn.Module):
    """Of that (a, b, 0, 0): the product can still be computed, and c is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.Linear(4, 4, bias=False)
        nn.init.zeros_(self.kept.weight)
        with torch.no_grad():
            self.kept.weight[0, 0] = self.kept.weight[1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.kept(x)


def planted(n: int = 300) -> tuple[Encoder, Dataset]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n, 3)).astype(np.float32)
    a, b, c = values.T
    samples = np.repeat(np.pad(values, ((0, 0), (0, 1)))[:, None], STEPS, axis=1)
    targets = {
        "harder": Target("state", a * b),
        "lost": Target("state", c),
        "held": Target("value", a),
        "sign": Target("label", (a * b > 0).astype(np.int64)),
    }
    split = np.resize(["train", "train", "train", "val", "test"], n).tolist()
    data = Dataset("planted", "series", samples, [f"s{i}" for i in range(n)], split, targets)
    module = nn.Sequential(OrderedDict(blocks=nn.Sequential(Multiplied(), nn.Identity(), Last())))
    taps = dx.stack_taps("blocks", 3, 4, dx.Grid((STEPS,), ("t",)))
    encoder = TorchEncoder("multiplier", "series", module, taps, taps[-1].name, torch.from_numpy, samples[0])
    return encoder, data


def measured(out: Path, measures: Any = "linear_probe", n: int = 300, **options: Any) -> Run:
    options = {"controls": False, "report": False} | options
    return dx.run(*planted(n), out=out, measures=measures, pooling="mean", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measured(tmp_path_factory.mktemp("nonlinear") / "run", controls=True)


def read(run: Run, target: str) -> NonlinearReading:
    reading = nonlinear_reading(run.profiles(), target)
    assert reading is not None
    return reading


@pytest.mark.parametrize("target", ["harder", "sign"])
def test_what_is_only_harder_to_read_is_read_from_the_output(run: Run, target: str) -> None:
    reading = read(run, target)
    assert reading.tap == run.profile(f"linear_probe/{target}").best_tap != run.store.output_tap
    assert reading.linear_best.value > 0.95 and reading.best.value > 0.9
    assert reading.linear_output.value < 0.65
    assert reading.output.low > reading.linear_output.high and reading.output.value > 0.85
    assert reading.gap is not None and reading.gap.value < 0.1


def test_what_is_lost_is_not_read_from_the_output(run: Run) -> None:
    reading = read(run, "lost")
    assert reading.best.value > 0.95 and reading.output.value < 0.1
    assert reading.gap is not None and reading.gap.low > 0.5
    assert reading.words == f"a kernel reads {reading.output.value:.2f} of {reading.best.value:.2f} from the output"


@pytest.mark.parametrize("target", ["harder", "sign"])
def test_it_is_handed_over_with_its_kernel(run: Run, target: str) -> None:
    data, profile = planted()[1], run.profile(f"kernel_probe/{target}")
    values, test = data.targets[target].values, data.split == "test"
    for tap in profile.taps:
        predicted = run.probe(target, "kernel_probe", tap).predict(run.features(tap, split="test"))
        wrong = (predicted - values[test]) ** 2
        around = 1 if target == "sign" else (values[test] - values[~test].mean()) ** 2
        score = 1 - wrong.mean() / np.mean(around)
        assert score == pytest.approx(float(profile.data["score"].sel(tap=tap)), abs=1e-6)


def test_it_is_a_result_at_two_taps_without_controls_that_recommends_nothing(run: Run) -> None:
    profile = run.profile("kernel_probe/lost")
    assert profile.taps == [read(run, "lost").tap, run.store.output_tap] and not profile.controls
    assert profile.data.attrs["functional"].endswith("from a Gaussian kernel's features (512 landmarks at most)")
    assert not any("kernel_probe" in key for control in run.index.controls for key in run.index.names(control))
    assert {one.measure for one in run.recommendations()} == {"linear_probe"}
    names = [each.name for each in without_nonlinear(run.profiles())]
    assert names == [name for name in (p.name for p in run.profiles()) if not name.startswith("kernel_probe")]


def test_a_comparison_has_no_row_of_it(run: Run, tmp_path: Path) -> None:
    other = measured(tmp_path / "other")
    comparison = dx.compare([f"a={run.path}", f"b={other.path}"], similarity=None)
    assert comparison.data["target"].values.tolist() == [
        f"linear_probe/{name}" for name in ("harder", "lost", "held", "sign")
    ]
    assert not comparison.left_out


def test_by_name_it_is_measured_at_all_taps_and_by_itself(tmp_path: Path) -> None:
    alone = measured(tmp_path / "run", "kernel_probe")
    assert [profile.name for profile in alone.profiles()] == [
        f"kernel_probe/{name}" for name in ("harder", "lost", "held", "sign")
    ]
    assert alone.profile("kernel_probe/lost").taps == [tap.name for tap in alone.store.taps]
    assert nonlinear_reading(alone.profiles(), "lost") is None
    both = measured(tmp_path / "run", "linear_probe,kernel_probe")
    assert read(both, "lost").output.value < 0.1
    assert len(without_nonlinear(both.profiles())) == 8
    # The next call without its name measures it at two taps again.
    again = measured(tmp_path / "run")
    assert len(again.profile("kernel_probe/lost").taps) == 2


def test_without_the_linear_probe_or_another_tap_there_is_none(tmp_path: Path) -> None:
    assert not any("kernel" in name for name in measured(tmp_path / "run", "rankme").index.names())
    one = measured(tmp_path / "one", taps=[planted()[0].output_tap])
    assert not any("kernel" in name for name in one.index.names()) and not one.skipped


def test_too_few_training_samples_are_said_once(tmp_path: Path) -> None:
    few = measured(tmp_path / "run", n=150)
    assert few.skipped == {
        "kernel_probe": "kernel_probe needs 100 training samples, and there are 90: use a dataset with more."
    }
    assert nonlinear_reading(few.profiles(), "lost") is None

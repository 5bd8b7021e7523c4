"""Profiles of a model in training: measured at multiples, logged, kept, drawn; and a training that does not notice."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import diagnostics as dx
from diagnostics.errors import DiagnosticsError
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, tiny_dataset, tiny_encoder


class Training:
    """Teaches the last block the level of a series, so that its taps change from step to step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = tiny_encoder().module
        self.head = nn.Linear(8, 1)
        self.optimiser = torch.optim.Adam([*self.module.parameters(), *self.head.parameters()], lr=0.01)
        self.losses: list[float] = []

    def step(self) -> None:
        x = torch.randn(16, 1, LENGTH) + torch.randn(16, 1, 1)
        loss = (self.head(self.module(x).mean(1)).squeeze(1) - x.mean((1, 2))).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())


class Scalars:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.seen.append((tag, value, step))


def test_each_multiple_is_measured_once_and_the_training_does_not_notice() -> None:
    watched, twin, data = Training(), Training(), tiny_dataset(40)
    log = Scalars()
    torch.manual_seed(1)
    watch = dx.LayerProfiles(watched.module, data, every=2, log=log, samples=30)
    kept: dict[int, Any] = {}
    for n in range(1, 6):
        watched.step()
        found = watch.step(n)
        assert (found is not None) == (n % 2 == 0)
        assert watch.step(n) is None
        if found is not None:
            kept[n] = found
            again = dx.measure(watched.module, data, samples=30)
            np.testing.assert_array_equal(found["score"], again["score"])
    torch.manual_seed(1)
    for _ in range(5):
        twin.step()
    assert watched.losses == twin.losses
    for name, tensor in twin.module.state_dict().items():
        assert torch.equal(watched.module.state_dict()[name], tensor), name

    profiles = watch.profiles
    assert profiles["score"].dims == ("step", "tap", "measure")
    assert list(profiles["step"].values) == [2, 4]
    assert list(profiles["measure"].values) == ["linear_probe/kind", "linear_probe/level", "rankme"]
    for n, found in kept.items():
        for key in ("score", "low", "high", "chosen_tap"):
            np.testing.assert_array_equal(profiles[key].sel(step=n), found[key])
    assert not np.array_equal(profiles["score"].sel(step=2), profiles["score"].sel(step=4))
    assert profiles["functional"].sel(measure="rankme").item().startswith("RankMe")

    assert len(log.seen) == 2 * 5 * 3
    scores = kept[4]["score"]
    assert (
        "linear_probe/level/blocks.1",
        float(scores.sel(tap="blocks.1", measure="linear_probe/level")),
        4,
    ) in log.seen


def test_a_function_gets_a_dict_with_the_step() -> None:
    logged: list[dict[str, float]] = []
    watch = dx.LayerProfiles(
        tiny_encoder(), tiny_dataset(40), every=5, log=logged.append, measures="rankme", taps="embed"
    )
    watch.step(0), watch.step(5)
    assert [set(each) for each in logged] == [{"rankme/embed", "rankme/norm", "step"}] * 2
    assert [each["step"] for each in logged] == [0, 5]


def test_a_step_that_cannot_be_measured_is_a_warning_and_the_rest_stands() -> None:
    encoder = tiny_encoder()
    watch = dx.LayerProfiles(encoder, tiny_dataset(40), every=1, measures="rankme")
    good = encoder.module.norm.weight.detach().clone()
    with torch.no_grad():
        encoder.module.norm.weight[0] = float("nan")
    with pytest.warns(UserWarning, match="Step 1 is not measured: .* NaN or infinity at tap norm"):
        assert watch.step(1) is None
    with pytest.raises(DiagnosticsError, match=r"No step was measured yet \(1: .*NaN"):
        _ = watch.profiles
    with torch.no_grad():
        encoder.module.norm.weight.copy_(good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.step(2)
    assert list(watch.profiles["step"].values) == [2]
    assert watch.profiles.attrs["failed"].startswith("1: tiny gives NaN or infinity")


def test_a_measure_without_value_at_one_step_is_nan_there() -> None:
    encoder = tiny_encoder()
    watch = dx.LayerProfiles(encoder, tiny_dataset(40), every=1, measures=["rankme", "two_nn", "linear_probe"])
    state = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.zero_()  # all samples are one point, which has no dimension
    watch.step(1)
    encoder.module.load_state_dict(state)
    watch.step(2)
    profiles = watch.profiles
    assert list(profiles["step"].values) == [1, 2]
    column = profiles.sel(measure="two_nn")
    assert np.isnan(column["score"].sel(step=1)).all() and np.isfinite(column["score"].sel(step=2)).all()
    assert column["functional"].item()
    figure = watch.figure("two_nn")
    assert figure.score.shape == (5, 2) and figure.chosen == ["", ""]


def test_the_heat_map_shows_steps_by_depth_with_the_chosen_tap() -> None:
    encoder = tiny_encoder()
    watch = dx.LayerProfiles(encoder, tiny_dataset(40), every=1000)
    for n in (1000, 3000):
        watch.step(n)
        with torch.no_grad():
            encoder.module.blocks[0].inner.weight.mul_(0.5)
    figure = watch.plot("linear_probe/level")
    heat, stars, output = figure.data
    column = watch.profiles.sel(measure="linear_probe/level")
    np.testing.assert_array_equal(np.asarray(heat.z, float), column["score"].values.T)
    assert list(heat.x) == ["1,000", "3,000"] == list(stars.x)
    assert (
        list(heat.y) == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm"] == list(figure.layout.yaxis.categoryarray)
    )
    assert list(stars.y) == list(column["chosen_tap"].values)
    # What is marked is named, and the frame lies around the row of the output.
    assert [trace.name for trace in (stars, output)] == ["layer to use", "output"] and figure.layout.showlegend
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1) == (-0.5, 1.5) and list(heat.y)[int(frame.y0 + 0.5)] == "norm" == list(heat.y)[
        int(frame.y1)
    ]
    assert figure.layout.title.text == "linear_probe/level while training"
    assert "image/svg+xml" in figure._repr_mimebundle_()
    assert [trace.name for trace in watch.plot("rankme").data] == [None, "output"]
    assert watch.figure().name == "linear_probe/kind"
    with refusal("unknown-name", "linear_probe/level"):
        watch.plot("linear_probe/levl")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"every": 0}, "every=0"),
        ({"every": "3"}, "every='3'"),
        ({"log": 3}, "log is a int"),
        ({"measures": "cka"}, "compares pairs of taps"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_the_training(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DiagnosticsError, match=sentence):
        dx.LayerProfiles(tiny_encoder(), tiny_dataset(40), **more)


@pytest.mark.slow
def test_a_trainer_of_transformers_calls_it_after_each_step_of_the_optimiser(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    training = Training()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = training.module

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.trunk(x).square().mean()}

    watch = dx.LayerProfiles(training.module, tiny_dataset(40), every=2, measures="rankme")
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=5,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    data = [{"x": x} for x in torch.randn(64, 1, LENGTH)]
    transformers.Trainer(Model(), arguments, train_dataset=data, callbacks=[watch.for_transformers()]).train()
    assert list(watch.profiles["step"].values) == [2, 4]


def test_the_transformers_callback_measures_in_the_first_process_alone() -> None:
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    watch = dx.LayerProfiles(tiny_encoder(), tiny_dataset(40), every=2, measures="rankme")
    callback = watch.for_transformers()
    for n, zero in ((2, True), (3, True), (4, False), (6, True)):
        callback.on_step_end(None, types.SimpleNamespace(is_world_process_zero=zero, global_step=n), None, model=None)
    assert list(watch.profiles["step"].values) == [2, 6]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_the_lightning_callback_is_called_as_lightning_calls_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in, since Lightning is no part of the test environment; its hook has this signature from 2.0 on."""

    class Callback:
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None: ...

    stand_in = types.ModuleType(package)
    stand_in.Callback = Callback
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package.partition(".")[0], stand_in)
    monkeypatch.setitem(sys.modules, package, stand_in)
    watch = dx.LayerProfiles(tiny_encoder(), tiny_dataset(40), every=2, measures="rankme")
    callback = watch.for_lightning()
    assert isinstance(callback, Callback)
    for batch, (n, zero) in enumerate(((1, True), (2, True), (2, True), (4, False), (6, True))):
        trainer = types.SimpleNamespace(is_global_zero=zero, global_step=n)
        callback.on_train_batch_end(trainer, None, None, None, batch)
    assert list(watch.profiles["step"].values) == [2, 6]


def test_a_missing_trainer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    watch = dx.LayerProfiles(tiny_encoder(), tiny_dataset(40), measures="rankme")
    with refusal("missing-package", "transformers"):
        watch.for_transformers()
    with refusal("missing-package", "Lightning"):
        watch.for_lightning()

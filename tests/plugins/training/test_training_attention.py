"""The kernel of attention while training, and a look at its heads that changes nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

pytest.importorskip("timm")

from diagnostics_training.trainer.objective import Objective
from diagnostics_training.trainer.record import lines, sharp_heads
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit

from diagnostics import DiagnosticsError
from tests.support.objectives import feed, objective
from tests.support.refusals import refusal


class Sharpening(Objective):
    """One attention of two heads, of which the second's logits grow with `scale`; notes which kernels its passes may use."""

    def __init__(self, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.tensor(scale)), dropout
        self.norm = nn.BatchNorm1d(1)
        self.allowed: list[tuple[str, bool, bool]] = []

    def attention(self, x: Tensor) -> Tensor:
        q = x[:, None].expand(-1, 2, -1, -1) * torch.stack([self.scale.new_zeros(()), self.scale])[:, None, None]
        return attend(q, x[:, None].expand_as(q), x[:, None].expand_as(q), dropout_p=self.dropout * self.training)

    def note(self, where: str) -> None:
        flags = torch.backends.cuda
        self.allowed.append((where, flags.flash_sdp_enabled(), flags.math_sdp_enabled()))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.note("forward")
        out = self.attention(batch["x"])
        out.register_hook(lambda _: self.note("backward"))
        return {"loss": self.norm(out.sum((1, 2))[:, :1]).square().mean() + out.square().mean()}

    def output(self, batch: Any) -> Tensor:
        torch.rand(())  # a draw that later ones must not feel
        out = self.attention(batch["x"]).mean((1, 2))
        self.norm(out[:, :1])  # nor what it would write down in training
        return out


def batches(step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    return {"x": 3 * torch.eye(8, 4).expand(6, 8, 4) * (1 + torch.arange(6)[:, None, None] / 6)}


def trained(out: Path, built: Objective, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    told: list[str] = []
    fit(
        built,
        batches if isinstance(built, Sharpening) else feed(built, "jepa"),
        settings,
        out,
        name="mine",
        tell=told.append,
    )
    return lines(out), told


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_a_watched_run_has_the_losses_of_an_unwatched_one(tmp_path: Path, options: dict[str, Any]) -> None:
    """To the bit, with random draws in the pass that is looked at and with running statistics."""
    for name, build in (("jepa", lambda: objective("jepa")), ("sharpening", lambda: Sharpening(dropout=0.2))):
        runs = []
        for every in (None, 2):
            built = build()
            settings = Settings(steps=6, log_every=1, watch_attention=every, **options)
            logged, _ = trained(tmp_path / f"{name}-{every}", built, settings)
            runs.append(([line["loss"] for line in logged], built.state_dict()))
        assert runs[0][0] == runs[1][0]
        assert all(torch.equal(values, runs[1][1][key]) for key, values in runs[0][1].items())


def test_heads_are_logged_where_they_are_looked_at(tmp_path: Path) -> None:
    logged, _ = trained(tmp_path, objective("jepa"), Settings(steps=5, log_every=1, watch_attention=2))
    keys = {
        f"attention/{block}/{what}"
        for block in (0, 1)
        for what in ("keys", "entropy/0", "entropy/1", "logit/0", "logit/1")
    }
    for line in logged:
        here = {key for key in line if key.startswith("attention/")}
        assert here == (keys if line["step"] in (2, 4, 5) else set())
    assert 0 < logged[1]["attention/1/entropy/0"] <= math.log(logged[1]["attention/1/keys"])
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(tmp_path / "tensorboard")
    )
    assert keys <= set(board.Reload().Tags()["scalars"])


def sharpening(told: list[str]) -> list[str]:
    return [line for line in told if "attention sharpens" in line]


def test_a_head_that_sharpens_is_told_once_and_not_again_after_a_resume(tmp_path: Path) -> None:
    settings = Settings(steps=9, lr=1e-6, log_every=1, watch_attention=3, checkpoint_every=4)
    _, told = trained(tmp_path, Sharpening(30.0), settings)
    assert sharpening(told) == ["mine: attention sharpens at step 3: head 1 of block 0 has a logit of 454"]
    stopped = tmp_path / "stopped"

    def until(step: int, rank: int, world: int) -> dict[str, Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        fit(Sharpening(30.0), until, settings, stopped, tell=told.append)
    _, later = trained(stopped, Sharpening(30.0), settings)
    assert not sharpening(later)
    _, calm = trained(tmp_path / "calm", Sharpening(0.1), settings)
    assert not sharpening(calm)


def test_what_is_sharp() -> None:
    line = {
        "step": 1.0,
        "loss": 0.0,
        "attention/0/keys": 100,
        "attention/0/entropy/0": 0.46,
        "attention/0/entropy/1": 0.47,
        "attention/0/logit/0": 50.0,
        "attention/0/logit/1": 50.1,
        "attention/1/keys": 1,
        "attention/1/entropy/0": 0.0,
    }
    assert sharp_heads(line) == {
        "attention/0/entropy/0": "head 0 of block 0 has an entropy of 0.46, of at most 4.6",
        "attention/0/logit/1": "head 1 of block 0 has a logit of 50.1",
    }


def test_the_pass_that_tries_a_kernel_writes_nothing_down(tmp_path: Path) -> None:
    built = Sharpening()
    trained(tmp_path, built, Settings(steps=3, watch_attention=1))
    assert int(built.norm.num_batches_tracked or 0) == 3


@pytest.mark.parametrize("recompute", [False, True])
def test_a_named_kernel_is_alone_in_forward_and_backward_passes(tmp_path: Path, recompute: bool) -> None:
    built = Sharpening()
    if recompute:
        built.blocks = lambda: [built.norm]  # type: ignore[method-assign]  (replaced for the test)
    trained(tmp_path, built, Settings(steps=3, attention="flash", recompute=recompute))
    # After the pass that tries it, in which torch may choose.
    assert built.allowed == [("forward", True, True), *[("forward", True, False), ("backward", True, False)] * 3]
    assert torch.backends.cuda.math_sdp_enabled()


def test_what_a_kernel_refuses_is_said_before_the_first_step(tmp_path: Path) -> None:
    with refusal("no-kernel", "flash", "mine", "Both fused", "non-zero dropout"):
        trained(tmp_path / "a", Sharpening(dropout=0.1), Settings(steps=3, attention="flash"))
    assert lines(tmp_path / "a") == []
    _, told = trained(tmp_path / "b", Sharpening(dropout=0.1), Settings(steps=3))
    assert [line for line in told if line.startswith("mine: attention in math (1 call), since flash: Both fused")]


class Flat(Sharpening):
    def attention(self, x: Tensor) -> Tensor:
        return x[:, None] * self.scale


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "math"}, r"never calls torch's scaled_dot_product_attention.*leave --attention math out"),
        ({"watch_attention": 2}, r"so no head can be watched: leave --watch-attention out"),
    ],
)
def test_without_attention_there_is_nothing_to_choose_or_watch(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        trained(tmp_path, Flat(), Settings(steps=3, **options))


def test_the_command_takes_both(tmp_path: Path) -> None:
    from diagnostics_training.jobs import TrainJob, command_of
    from diagnostics_training.train import train

    job = TrainJob(
        data="lorenz?n=40&length=64",
        objective="jepa",
        out=tmp_path,
        width=16,
        depth=2,
        heads=2,
        steps=3,
        batch=8,
        attention="flash",
        watch_attention=3,
    )
    (row,) = train(job)
    assert "attention/1/logit/1" in (tmp_path / "jepa" / "metrics.jsonl").read_text()
    assert json.loads((tmp_path / "jepa" / "training.json").read_text())
    assert "attention" not in command_of("train objectives", job)
    # Neither is part of what a training is known by.
    assert train(replace(job, attention="auto", watch_attention=None)) == [row]

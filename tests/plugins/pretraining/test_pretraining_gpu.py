"""On a GPU: `train pe` with each of its options of speed and memory, its resume, and the losses over nccl."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("open_clip")

from diagnostics_pretraining.losses import contrast, divergences
from diagnostics_pretraining.recipe import PretrainJob
from diagnostics_pretraining.train import plan_of
from diagnostics_training.trainer.objective import World
from diagnostics_training.trainer.record import lines
from diagnostics_training.trainer.trainer import fit

DEVICE, BACKEND = "cuda", "nccl"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="needs a GPU with CUDA; benchmarks/on_a_gpu.py runs this where there is one",
    ),
]
OWN = """
batch = 16
lr = 1e-3
optimiser = "lamb"
stages = [{ size = 8, samples = 48 }, { size = 16, samples = 48 }]
rope = true
pool = "attention"
mask = 0.125

[augment]
brightness = 0.3
saturation = 0.3
"""


def losses(out: Path, device: str, stops_at: int | None = None, **more: Any) -> list[float]:
    """Of each step; of a training that is stopped, of those before."""
    (out / "own.toml").write_text(OWN)
    asked: dict[str, Any] = {"log_every": 1, "look_every": 2, "checkpoint_every": 2}
    plan = plan_of(
        PretrainJob(
            data="shapes?n=60&size=32&objects=1&seed=3",
            out=out,
            size="micro",
            config=out / "own.toml",
            device=device,
            **more,
        )
    )

    def batches(step: int, rank: int, world: int) -> Any:
        if step == stops_at:
            raise KeyboardInterrupt
        return plan.batches(step, rank, world)

    settings = type(plan.settings)(**vars(plan.settings) | asked)
    try:
        fit(
            plan.objective(plan.towers(), device),
            batches,
            settings,
            out / device,
            identity=plan.identity,
            world=World(device=device),
        )
    except KeyboardInterrupt:
        assert stops_at is not None
    return [line["loss"] for line in lines(out / device)]


@pytest.mark.parametrize(
    ("options", "off"),
    [
        ({}, 1e-3),
        ({"workers": 2}, 1e-3),
        ({"recompute": True}, 1e-3),
        ({"compile": True}, 1e-3),
        ({"precision": "bf16"}, 0.1),
        ({"precision": "bf16", "attention": "flash"}, 0.1),
    ],
)
def test_a_training_on_a_card_has_the_losses_of_one_on_a_cpu(
    tmp_path: Path, options: dict[str, Any], off: float
) -> None:
    ours, theirs = losses(tmp_path, DEVICE, **options), losses(tmp_path, "cpu")
    assert len(ours) == 6 and ours == pytest.approx(theirs, abs=off)


def test_a_training_on_a_card_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = losses(tmp_path / "whole", DEVICE)
    assert losses(tmp_path / "stopped", DEVICE, stops_at=5) == pytest.approx(whole[:5], abs=1e-4)
    assert losses(tmp_path / "stopped", DEVICE) == pytest.approx(whole, abs=1e-4)


def test_losses_over_one_process_of_nccl_are_those_without() -> None:
    torch.manual_seed(0)
    drawn = [*torch.randn(4, 12, 7, device=DEVICE), torch.tensor(2.0, device=DEVICE)]

    def found() -> list[torch.Tensor]:
        inputs = [one.clone().requires_grad_() for one in drawn]
        images, texts, taught_images, taught_texts, scale = inputs
        loss = contrast(images, texts, scale) + sum(divergences(images, texts, scale, taught_images, taught_texts))
        return [loss.detach(), *torch.autograd.grad(loss, (images, texts, scale))]

    alone = found()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group(BACKEND, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        gathered = found()
    finally:
        dist.destroy_process_group()
    for one, other in zip(alone, gathered, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

"""Training steps through the trainer against a bare loop over the same modules and batches, and what recomputing saves.

The bare loop is what one would write by hand: draw a batch, forward, backward, clip, optimiser, nothing else. The trainer adds the
schedule, seeds of every step, metrics, TensorBoard, the collapse detector, and a checkpoint at the end and every 200 steps.
Both run in turns, so both see the same state of the machine; the ratio is of CPU time. The time of a step is that of a wall
clock on an idle machine; 0.2 s is what a laptop should keep to.

Perception Encoders (`python training.py pe`: these alone): the same of row 9 of its recipes at nano, 48 pixels; and, of the same
towers, batches and optimiser without masks, against a loop over open_clip's ClipLoss.

Recomputing: what a step of ViT-S (12 blocks, 16 images of 224 pixels, AdamW, float32) adds to a process at its peak, weights and
optimiser included, each in a process of its own; and the largest difference of a gradient. The same of the contrast by blocks, beside
that of whole matrices.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import _step_memory
import numpy as np
import torch
from _attention_cases import extra_memory
from diagnostics_pretraining import losses as pair_losses
from diagnostics_pretraining.objective import Pretraining, flattened
from diagnostics_pretraining.recipe import PretrainJob as PeJob
from diagnostics_pretraining.recipe import Stage, named_recipe
from diagnostics_pretraining.towers import Towers
from diagnostics_pretraining.train import plan_of
from diagnostics_training.jobs import TrainJob
from diagnostics_training.models.inputs import Views
from diagnostics_training.objectives import OBJECTIVES, objective_class
from diagnostics_training.train import architecture_of
from diagnostics_training.trainer.data import Feed, TrainingData, load
from diagnostics_training.trainer.objective import Objective
from diagnostics_training.trainer.settings import CHOICES, Settings
from diagnostics_training.trainer.trainer import fit, recomputed
from open_clip.loss import ClipLoss
from timm.optim.lamb import Lamb
from torch import nn

from _common import ARGUMENTS, SMALLEST, apart, cpu, finish, verdict

STEPS, ROUNDS, BATCH, SERIES = (2, 1, 4, 20) if SMALLEST else (60, 3, 64, 2000)
SHARE, SECONDS = 0.9, 0.2
# More steps and rounds than above: what a training does once, as its check of the kernel of attention, is 1 % of 60 steps.
PE_STEPS, PE_ROUNDS, PE_BATCH, SCENES = (1, 1, 16, 40) if SMALLEST else (120, 5, 64, 400)
PE_SHARE = 0.95
MEMORY, APART, DEPTH = 0.5, 1e-6, 2 if SMALLEST else 12
PAIRS = 16 if SMALLEST else 8192


def made(name: str, data: TrainingData) -> tuple[Objective, object]:
    """A new objective with its batches, at the sizes that the command has by default."""
    known = objective_class(name).answers(data.targets, data.rows, data.name)
    architecture = architecture_of(TrainJob(data="lorenz"), name, data, known.outputs)
    objective = architecture.build_objective(architecture.initial(0), classes=known.classes)
    assert objective is not None
    views = Views(data.modality, data.extent, objective.moves, objective.noise)
    return objective, Feed(data.samples, views, objective, BATCH, 0, known.arrays)


def bare(name: str, data: TrainingData, optimiser_name: str) -> float:
    """CPU seconds of the loop written by hand."""
    objective, feed = made(name, data)
    return by_hand(objective, feed, optimiser_name, STEPS, objective)


def by_hand(objective: Objective, feed: Any, optimiser_name: str, steps: int, losses: Callable[[Any], Any]) -> float:
    """CPU seconds of the loop with `losses` of a batch."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimiser: torch.optim.Optimizer
    if optimiser_name == "lamb":
        optimiser = Lamb(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, max_grad_norm=None)
    else:
        optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    objective.train()
    start = cpu()
    for step in range(steps):
        loss = losses(feed(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        objective.after_step(step + 1, steps)
    return cpu() - start


def trained(name: str, data: TrainingData, optimiser: str) -> tuple[float, float]:
    """CPU seconds of the trainer, and wall seconds."""
    objective, feed = made(name, data)
    with tempfile.TemporaryDirectory() as folder:
        start, begun = cpu(), time.perf_counter()
        fit(objective, feed, Settings(steps=STEPS, optimiser=optimiser), Path(folder), tell=lambda line: None)  # type: ignore[arg-type]  (a word of the table)
        return cpu() - start, time.perf_counter() - begun


def perception() -> list[bool]:
    """Of pretraining: the trainer against both loops, in turns."""
    recipe = replace(named_recipe("9"), batch=PE_BATCH, stages=(Stage(336, PE_BATCH * PE_STEPS),))
    held: list[bool] = []
    for what, mask in (("a bare loop's", recipe.mask), ("a loop's over open_clip's ClipLoss", 0.0)):
        job = PeJob(data=f"shapes?n={SCENES}&objects=1&seed=1000", out=Path("unused"), size="nano", recipe="9", lr=1e-3)
        with mock.patch.object(PeJob, "asked", replace(recipe, mask=mask, lr=1e-3)):
            plan = plan_of(job)
        ratios: list[float] = []
        for _ in range(PE_ROUNDS):
            objective = Pretraining(plan.towers())
            losses = objective if mask else ClipLossLoop(objective.towers)
            loop = by_hand(objective, plan.batches, "lamb", PE_STEPS, losses)
            with tempfile.TemporaryDirectory() as folder:
                start = cpu()
                fit(Pretraining(plan.towers()), plan.batches, plan.settings, Path(folder), tell=lambda line: None)
                ratios.append(loop / (cpu() - start))
        share = SHARE if mask else PE_SHARE
        held.append(
            verdict(f"pe, throughput of the trainer to {what}", statistics.median(ratios), share, at_least=True)
        )
    return held


class ClipLossLoop:
    """What one would write with open_clip."""

    def __init__(self, towers: Towers) -> None:
        self.towers, self.loss = towers, ClipLoss()

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images, texts = self.towers.embed_images(flattened(batch)), self.towers.embed_texts(batch["tokens"])
        normed = [nn.functional.normalize(part, dim=-1) for part in (images, texts)]
        return {"loss": self.loss(*normed, self.towers.log_scale.exp())}


def gradients(objective: _step_memory.Small, blocks: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Of a pass in which these blocks are computed twice."""
    objective.zero_grad()
    with recomputed(blocks):
        objective(_step_memory.batch(1 if SMALLEST else _step_memory.BATCH))["loss"].backward()
    return [p.grad.clone() for p in objective.parameters() if p.grad is not None]


def memory_of(how: str) -> int:
    """Bytes of a step in a process of its own, one that has not imported `_common`."""
    if SMALLEST:
        return apart(_step_memory.grown, how == "recomputed", 1, DEPTH)
    command = [sys.executable, _step_memory.__file__, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def recomputing() -> list[bool]:
    """What it saves, and that it changes nothing."""
    plain, saved = (memory_of(how) for how in ("plain", "recomputed"))
    shown = f"{saved / 2**20:.0f} MiB to {plain / 2**20:.0f} MiB"
    objective = _step_memory.Small(DEPTH)
    pairs = zip(gradients(objective, ()), gradients(objective, objective.blocks()), strict=True)
    apart = max(float((one - two).abs().max()) for one, two in pairs)
    return [
        verdict(
            f"--recompute, peak memory of a step of ViT-S to that of the plain one ({shown})", saved / plain, MEMORY
        ),
        verdict("--recompute, largest difference of a gradient", apart, APART),
    ]


def contrast_of(pairs: int, block: int) -> tuple[int, list[np.ndarray]]:
    """Bytes that the loss and its gradients hold at once, and their values.

    As torch counts them: what the process keeps of freed memory depends on how it happens to lie.
    """
    torch.manual_seed(0)
    inputs, found = [*torch.randn(2, pairs, 64), torch.tensor(2.7)], list[torch.Tensor]()
    for one in inputs:
        one.requires_grad_()

    def run() -> None:
        loss = pair_losses.contrast(*inputs)
        found.extend([loss, *torch.autograd.grad(loss, inputs)])

    with mock.patch.object(pair_losses, "BLOCK", block):
        held = extra_memory(run, "cpu")
    return held, [one.detach().numpy() for one in found]


def by_blocks() -> list[bool]:
    """The contrast by blocks beside that of whole matrices, as it was."""
    (some, ours), (whole, theirs) = (contrast_of(PAIRS, block) for block in (pair_losses.BLOCK, 2**62))
    off = max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True))
    shown = f"{some / 2**20:.0f} MiB to {whole / 2**20:.0f} MiB"
    return [
        verdict(f"contrast of {PAIRS:,} pairs, memory to that of whole matrices ({shown})", some / max(1, whole), 0.1),
        verdict("contrast by blocks, largest difference of loss and gradients", off, APART),
    ]


def main() -> None:
    if ARGUMENTS == ["pe"]:
        finish(*perception(), *by_blocks())
        return
    held: list[bool] = []
    series = {True: load(f"lorenz?n={SERIES}&seed=1000"), False: load(f"lorenz?n={SERIES}&seed=1000", windows=False)}
    trained("forecast", series[True], "adamw")  # warms up
    # Every objective with one optimiser, and every optimiser with the objective of the shortest step.
    trainable = [name for name in OBJECTIVES if objective_class(name).trained]
    for name, optimiser in (
        *((name, "adamw") for name in trainable),
        *(("forecast", o) for o in CHOICES["optimiser"][1:]),
    ):
        data = series[objective_class(name).moves]
        pairs = [(bare(name, data, optimiser), trained(name, data, optimiser)) for _ in range(ROUNDS)]
        ratio = statistics.median(loop / own for loop, (own, _) in pairs)
        what = f"{name} with {optimiser}"
        held.append(verdict(f"{what}, throughput of the trainer to the bare loop's", ratio, SHARE, at_least=True))
        seconds = min(wall for _, (_, wall) in pairs) / STEPS
        held.append(verdict(f"{what}, seconds a step of {BATCH} series of 512 steps", seconds, SECONDS))
    finish(*held, *perception(), *recomputing(), *by_blocks())


if __name__ == "__main__":
    main()

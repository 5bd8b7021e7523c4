"""Training steps through the trainer against a bare loop over the same modules and batches.

The bare loop is what one would write by hand: draw a batch, forward, backward, clip, AdamW, nothing else. The trainer adds the
schedule, seeds of every step, metrics, TensorBoard, the collapse detector, and a checkpoint at the end and every 200 steps.
Both run in turns, so both see the same state of the machine; the ratio is of CPU time. The time of a step is that of a wall
clock on an idle machine; 0.2 s is what a laptop should keep to.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from diagnostics_training.models.inputs import Views
from diagnostics_training.objectives import OBJECTIVES, objective_class
from diagnostics_training.train import Job
from diagnostics_training.trainer.data import Feed, TrainingData, load
from diagnostics_training.trainer.objective import Objective
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit
from torch import nn

from _common import cpu, finish, verdict

STEPS, ROUNDS, BATCH = 60, 3, 64
SHARE, SECONDS = 0.9, 0.2


def made(name: str, data: TrainingData) -> tuple[Objective, object]:
    """A new objective with its batches, at the sizes that the command has by default."""
    known = objective_class(name).answers(data.targets, data.rows, data.name)
    architecture = Job("lorenz").architecture(name, data, known.outputs)
    objective = architecture.build_objective(architecture.initial(0), classes=known.classes)
    assert objective is not None
    views = Views(data.modality, data.extent, objective.moves, objective.noise)
    return objective, Feed(data.samples, views, objective, BATCH, 0, known.arrays)


def bare(name: str, data: TrainingData) -> float:
    """CPU seconds of the loop written by hand."""
    objective, feed = made(name, data)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    objective.train()
    start = cpu()
    for step in range(STEPS):
        loss = objective(feed(step))["loss"]  # type: ignore[operator]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        objective.after_step(step + 1, STEPS)
    return cpu() - start


def trained(name: str, data: TrainingData) -> tuple[float, float]:
    """CPU seconds of the trainer, and wall seconds."""
    objective, feed = made(name, data)
    with tempfile.TemporaryDirectory() as folder:
        start, begun = cpu(), time.perf_counter()
        fit(objective, feed, Settings(STEPS), Path(folder), tell=lambda line: None)  # type: ignore[arg-type]
        return cpu() - start, time.perf_counter() - begun


def main() -> None:
    held: list[bool] = []
    series = {True: load("lorenz?n=2000&seed=1000"), False: load("lorenz?n=2000&seed=1000", windows=False)}
    trained("forecast", series[True])  # warms up
    for name in OBJECTIVES:
        kind = objective_class(name)
        if not kind.trained:
            continue
        data = series[kind.moves]
        pairs = [(bare(name, data), trained(name, data)) for _ in range(ROUNDS)]
        ratio = statistics.median(loop / own for loop, (own, _) in pairs)
        held.append(verdict(f"{name}, throughput of the trainer to the bare loop's", ratio, SHARE, at_least=True))
        seconds = min(wall for _, (_, wall) in pairs) / STEPS
        held.append(verdict(f"{name}, seconds a step of {BATCH} series of 512 steps", seconds, SECONDS))
    finish(*held)


if __name__ == "__main__":
    main()

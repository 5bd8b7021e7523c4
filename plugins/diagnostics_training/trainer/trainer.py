"""The trainer: loop, precision, logs, checkpoints, exact resume, data parallelism. It knows no objective.

Every step begins with torch's generators seeded from (seed, step, process), and batches are a function of the step; so a run
that was killed goes on from its weights, optimiser state and step alone, and on the CPU its losses are bit for bit those of
a run that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from diagnostics import DiagnosticsError
from diagnostics_training.trainer import checkpoints, collapse
from diagnostics_training.trainer.distributed import World, barrier
from diagnostics_training.trainer.monitor import (
    ESTIMATE_AFTER,
    Monitor,
    Watch,
    check_finite,
    describe_work,
    format_duration,
    look_at_output,
    say,
    silent,
    to_numbers,
)
from diagnostics_training.trainer.objective import Batch, Objective
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.step import adamw, to_device, train_step, wrap

Batches = Callable[[int, int, int], Batch]
"""(step from 0, process, processes) -> that process's part of the step's batch, on the CPU; a pure function."""

LOCK = "training.lock"


@dataclass(frozen=True)
class Fitted:
    """What a training came to. `seconds` are those of this process, `looks` the outputs seen for the collapse detector; loss
    and looks are known to the first process only."""

    steps: int
    resumed_from: int
    loss: float
    seconds: float
    looks: tuple[collapse.Look, ...] = field(default=())

    @property
    def collapse(self) -> collapse.Look | None:
        """The first collapsed look of those up to the end, where the output is still collapsed there."""
        if not self.looks or not self.looks[-1].collapsed:
            return None
        healthy = [i for i, look in enumerate(self.looks) if not look.collapsed]
        return self.looks[healthy[-1] + 1 if healthy else 0]


def fit(
    objective: Objective,
    batches: Batches,
    settings: Settings,
    out: Path,
    watch: Watch = silent,
    *,
    name: str = "training",
    identity: Mapping[str, Any] | None = None,
    world: World | None = None,
    tell: Callable[[str], None] = say,
) -> Fitted:
    """Trains an objective in place, and goes on from the checkpoint in `out` where there is one.

    Parameters
    ----------
    batches: see `Batches`; tensors are moved to the device.
    out: folder for `metrics.jsonl`, `tensorboard/` and `checkpoint.safetensors`, made where it is missing.
    watch: is given `Progress` as steps are logged, in the first process.
    name: what is trained, for progress and messages.
    identity: what objective and data are, as plain JSON values: a checkpoint that differs in one of them, or in the
        settings, is refused.
    world: which process this is (see `distributed.world`); the first one writes.
    tell: is given single lines: the expected time, and an output that collapses.
    """
    world = world or World()
    identity = dict(identity or {}) | settings.identity
    objective.to(world.device).train()
    optimiser = adamw(objective, settings)
    checkpoints.make_folder(out)
    with _only(out, name) if world.first else contextlib.nullcontext():
        barrier()
        return _fit(objective, optimiser, batches, settings, out, watch, name, identity, world, tell)


@contextlib.contextmanager
def _only(out: Path, name: str) -> Generator[None]:
    """One training at a time writes to a folder."""
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DiagnosticsError(
            f"Another process trains {name} in {out}: wait for it, or give another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()
        (out / LOCK).unlink(missing_ok=True)


def _fit(
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    settings: Settings,
    out: Path,
    watch: Watch,
    name: str,
    identity: Mapping[str, Any],
    world: World,
    tell: Callable[[str], None],
) -> Fitted:
    first = checkpoints.load(out, objective, optimiser, identity)
    barrier()
    monitor = Monitor(out, name, settings, first, watch, tell) if world.first else None
    if world.first and first < settings.steps:
        tell(describe_work(objective, name, settings, world, out))
    module = wrap(objective, settings, world)
    started, measured = time.perf_counter(), 0.0
    with ThreadPoolExecutor(1) as pool, contextlib.closing(monitor) if monitor else contextlib.nullcontext():
        coming = pool.submit(batches, first, world.rank, world.size) if first < settings.steps else None
        for step in range(first, settings.steps):
            assert coming is not None
            batch = to_device(coming.result(), world.device)
            if step + 1 < settings.steps:
                coming = pool.submit(batches, step + 1, world.rank, world.size)
            values = train_step(objective, module, batch, optimiser, settings, step, world)
            done = step + 1
            objective.after_step(done, settings.steps)
            logs, looks, saves = (
                done == settings.steps or not done % every
                for every in (settings.log_every, settings.look_every, settings.checkpoint_every)
            )
            if logs or looks or saves:
                scalars = to_numbers(values)
                check_finite(scalars, done, out, name)
                if monitor:
                    monitor.note(done, scalars, look_at_output(objective, batch, done, settings) if looks else None)
            if saves and world.first:
                checkpoints.save(out, done, objective, optimiser, identity)
            if done == first + 1:
                measured = time.perf_counter()
            if done == first + ESTIMATE_AFTER and done < settings.steps and world.first:
                each = (time.perf_counter() - measured) / (ESTIMATE_AFTER - 1)
                tell(f"{name}: about {format_duration(each * (settings.steps - done))} more")
    objective.eval()
    barrier()
    seconds = time.perf_counter() - started
    return Fitted(
        settings.steps, first, monitor.loss if monitor else math.nan, seconds, tuple(monitor.looks) if monitor else ()
    )

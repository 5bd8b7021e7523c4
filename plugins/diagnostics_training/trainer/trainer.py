"""The trainer: loop, precision, logs, checkpoints, exact resume, data parallelism. It knows no objective.

Every step begins with torch's generators seeded from (seed, step, process), and batches are a function of the step; so a run
that was killed goes on from its weights, optimiser state and step alone, and on the CPU its losses are bit for bit those of
a run that was not.
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

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

    @property
    def outcome(self) -> dict[str, Any]:
        """`steps`, `loss`, `collapse` (None, or what was seen) and `seconds`, as commands report them."""
        collapse = str(self.collapse) if self.collapse else None
        return {"steps": self.steps, "loss": self.loss, "collapse": collapse, "seconds": self.seconds}


UNTRAINED: dict[str, Any] = {"steps": 0, "loss": None, "collapse": None, "seconds": 0.0}
"""The `outcome` where nothing is trained."""


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
    begin: int = 0,
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
    begin: the first step, where those before it teach nothing.
    tell: is given single lines: the expected time, and an output that collapses.
    """
    world = world or World()
    identity = dict(identity or {}) | settings.identity
    objective.to(world.device).train()
    optimiser = adamw(objective, settings)
    checkpoints.make_folder(out)
    with contextlib.ExitStack() as stack:
        if world.first:
            stack.enter_context(_only(out, name))
        barrier()
        first = checkpoints.load(out, objective, optimiser, identity) or begin
        barrier()
        monitor = None
        if world.first:
            monitor = stack.enter_context(contextlib.closing(Monitor(out, name, settings, first, watch, tell)))
            if first < settings.steps:
                tell(describe_work(objective, name, settings, world, out))
        module = wrap(objective, settings, world)
        started, measured = time.perf_counter(), 0.0
        pool = stack.enter_context(ThreadPoolExecutor(1))
        coming = pool.submit(batches, first, world.rank, world.size) if first < settings.steps else None
        for step in range(first, settings.steps):
            assert coming is not None
            batch = {key: value.to(world.device, non_blocking=True) for key, value in coming.result().items()}
            if step + 1 < settings.steps:
                coming = pool.submit(batches, step + 1, world.rank, world.size)
            objective.before_step(step)
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
    loss, seen = (monitor.loss, tuple(monitor.looks)) if monitor else (math.nan, ())
    return Fitted(settings.steps, first, loss, seconds, seen)


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


def adamw(objective: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW over all parameters that require gradients; no decay where a parameter has fewer than two axes."""
    trained = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
    if not trained:
        raise DiagnosticsError("There is nothing to train: no parameter of the objective requires a gradient.")
    # A mask token and the like are vectors, with leading axes of one.
    decayed = [p for _, p in trained if sum(n > 1 for n in p.shape) > 1]
    others = [p for _, p in trained if sum(n > 1 for n in p.shape) <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True)


def wrap(objective: Objective, settings: Settings, world: World) -> nn.Module:
    """The objective as it is called in a step: compiled, and with gradients averaged over processes."""
    if settings.compile:
        objective.compile()
    if world.size == 1:
        return objective
    from torch.nn.parallel import DistributedDataParallel

    devices = [world.device] if world.device != "cpu" else None
    return DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=objective.phases)


def train_step(
    objective: nn.Module,
    module: nn.Module,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    step: int,
    world: World,
) -> dict[str, Tensor]:
    torch.manual_seed(number(settings.seed, step, world.rank))
    for group in optimiser.param_groups:
        group["lr"] = settings.rate(step)
    with torch.autocast(torch.device(world.device).type, torch.bfloat16, enabled=settings.precision == "bf16"):
        values: dict[str, Tensor] = module(batch)
    optimiser.zero_grad(set_to_none=True)
    values["loss"].backward()
    parameters = [p for p in objective.parameters() if p.grad is not None]
    length = nn.utils.clip_grad_norm_(parameters, settings.clip)
    optimiser.step()
    return {key: value.detach() for key, value in values.items()} | {"gradient": length}


def number(*parts: int) -> int:
    """One seed from several numbers, without the collisions of a sum."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))

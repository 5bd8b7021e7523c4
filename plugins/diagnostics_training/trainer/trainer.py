"""The trainer: loop, precision, logs, checkpoints, exact resume, data parallelism. It knows no objective.

Every step begins with torch's generators seeded from (seed, step, process), and batches are a function of the step; so a run
that was killed goes on from its weights, optimiser state and step alone, and on the CPU its losses are bit for bit those of
a run that was not.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Progress, printable
from diagnostics_training.summary import made_folder
from diagnostics_training.trainer import checkpoints, collapse
from diagnostics_training.trainer.distributed import World, barrier, mean
from diagnostics_training.trainer.logs import Log, lines
from diagnostics_training.trainer.objective import Batch, Objective

Batches = Callable[[int, int, int], Batch]
"""(step from 0, process, processes) -> that process's part of the step's batch, on the CPU; a pure function."""
Watch = Callable[[Progress], None]

LOCK = "training.lock"
ESTIMATE_AFTER = 10
"""Steps after which the remaining time is said; the first is left out of the estimate."""


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the objective.

    lr: peak of the learning rate; it rises in the first share `warmup` of the steps and falls along a cosine to 0.
    weight_decay: of AdamW, on matrices only, never on biases, norms and single vectors.
    clip: longest gradient (Euclidean, over all parameters).
    precision: `bf16` computes the forward pass under autocast.
    compile: whether torch compiles the objective.
    """

    steps: int
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    log_every: int = 10
    look_every: int = 100
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "look_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise DiagnosticsError(f"Training cannot have {name} {getattr(self, name)}: give at least 1.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise DiagnosticsError(f"Training cannot have a learning rate of {self.lr}: give a number above 0.")
        if self.precision not in ("float32", "bf16"):
            raise DiagnosticsError(f"Training knows no precision {self.precision}: choose float32 or bf16.")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers: a checkpoint of another one is refused."""
        apart = ("log_every", "look_every", "checkpoint_every", "compile")
        return {key: value for key, value in asdict(self).items() if key not in apart}


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


def silent(event: Progress) -> None:
    """Watches without a word."""


def say(line: str) -> None:
    """One line to whoever sits at the terminal."""
    print(printable(line), file=sys.stderr, flush=True)


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
    made_folder(out)
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
    diary = _Diary(out, name, settings, first, watch, tell) if world.first else None
    if world.first and first < settings.steps:
        tell(_work(objective, name, settings, world, out))
    module = _prepared(objective, settings, world)
    started, measured = time.perf_counter(), 0.0
    with ThreadPoolExecutor(1) as pool, contextlib.closing(diary) if diary else contextlib.nullcontext():
        coming = pool.submit(batches, first, world.rank, world.size) if first < settings.steps else None
        for step in range(first, settings.steps):
            assert coming is not None
            batch = _moved(coming.result(), world.device)
            if step + 1 < settings.steps:
                coming = pool.submit(batches, step + 1, world.rank, world.size)
            values = _step(objective, module, batch, optimiser, settings, step, world)
            done = step + 1
            objective.after_step(done, settings.steps)
            logs, looks, saves = (
                done == settings.steps or not done % every
                for every in (settings.log_every, settings.look_every, settings.checkpoint_every)
            )
            if logs or looks or saves:
                told = _numbers(values)
                _check_finite(told, done, out, name)
                if diary:
                    diary.note(done, told, _look(objective, batch, done, settings) if looks else None)
            if saves and world.first:
                checkpoints.save(out, done, objective, optimiser, identity)
            if done == first + 1:
                measured = time.perf_counter()
            if done == first + ESTIMATE_AFTER and done < settings.steps and world.first:
                each = (time.perf_counter() - measured) / (ESTIMATE_AFTER - 1)
                tell(f"{name}: about {_shown(each * (settings.steps - done))} more")
    objective.eval()
    barrier()
    seconds = time.perf_counter() - started
    return Fitted(
        settings.steps, first, diary.loss if diary else math.nan, seconds, tuple(diary.looks) if diary else ()
    )


class _Diary:
    """What the first process writes and says while it trains."""

    def __init__(
        self, out: Path, name: str, settings: Settings, first: int, watch: Watch, tell: Callable[[str], None]
    ) -> None:
        self.name, self.settings, self.watch, self.tell = name, settings, watch, tell
        self.log = Log(out, first)
        before = lines(out)
        self.loss: float = before[-1]["loss"] if before else math.nan
        self.looks = [collapse.Look(line["step"], line["rank"], line["spread"]) for line in before if "rank" in line]
        if first:
            tell(f"{name}: goes on from step {first:,} of {settings.steps:,}")

    def note(self, done: int, values: Mapping[str, float], seen: collapse.Look | None) -> None:
        """After step `done`, with what was seen of the output where it was looked at."""
        self.loss = values["loss"]
        line: dict[str, float] = {"step": done, **values}
        if seen is not None:
            if seen.collapsed and not any(look.collapsed for look in self.looks):
                self.tell(f"{self.name}: the output collapses: {seen} (see docs/training.md)")
            self.looks.append(seen)
            line |= {"rank": seen.rank, "spread": seen.spread}
        self.log.write(line | {"lr": self.settings.rate(done - 1)})
        self.watch(Progress(self.name, done, self.settings.steps, f"loss {self.loss:.4g}"))

    def close(self) -> None:
        """Lets the files go."""
        self.log.close()


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


def _prepared(objective: Objective, settings: Settings, world: World) -> nn.Module:
    """The objective as it is called in a step: compiled, and with gradients averaged over processes."""
    if settings.compile:
        objective.compile()
    if world.size == 1:
        return objective
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(objective, device_ids=[world.device] if world.device != "cpu" else None)


def _step(
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


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, averaged over processes; one transfer from the device."""
    stacked = mean(torch.stack([value.float().reshape(()) for value in values.values()]))
    return dict(zip(values, stacked.tolist(), strict=True))


def _check_finite(values: Mapping[str, float], step: int, out: Path, name: str) -> None:
    for key in ("loss", "gradient"):
        if not math.isfinite(values[key]):
            raise DiagnosticsError(
                f"The {key} of {name} is {values[key]} at step {step}: train with a smaller --lr, into another folder than "
                f"{out}."
            )


def _look(objective: Objective, batch: Batch, step: int, settings: Settings) -> collapse.Look | None:
    objective.eval()
    device = next(objective.parameters()).device.type
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16"):
        output = objective.output(batch)
    objective.train()
    return None if output is None or len(output) < collapse.FEWEST else collapse.look(step, output)


def _work(objective: nn.Module, name: str, settings: Settings, world: World, out: Path) -> str:
    count = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    each = f", {world.size} processes" if world.size > 1 else ""
    return f"{name}: trains {count:,} parameters for {settings.steps:,} steps on {world.device}{each}; writes to {out}"


def _shown(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _moved(batch: Batch, device: str) -> Batch:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}

"""The trainer: loop, precision, logs, checkpoints, exact resume, data parallelism. It knows no objective.

Every step begins with torch's generators seeded from (seed, step, process), and batches are a function of the step; so
a run that was killed goes on from its weights, optimiser state and step alone, and on the CPU its losses are bit for
bit those of a run that was not.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from diagnostics.plugin import (
    DiagnosticsError,
    Encoder,
    attention_in,
    duration,
    explain_attention,
    importing,
    lock,
    refuse_values,
    save_encoder,
    silent,
    watch_heads,
)
from diagnostics_training.trainer.checkpoint import FILE, Saver, load_checkpoint
from diagnostics_training.trainer.data import Batches, batches_ahead
from diagnostics_training.trainer.objective import Batch, Objective, World, barrier
from diagnostics_training.trainer.record import (
    ESTIMATE_AFTER,
    FEWEST,
    STEPS,
    TIMES,
    Finite,
    Look,
    Monitor,
    Watch,
    look,
    looking,
    make_folder,
    resumable,
    say,
    to_numbers,
)
from diagnostics_training.trainer.settings import Settings

# Memory against time: what a block computes is not kept for the backward pass, but computed once more in it.
#
# Chen et al., Training deep nets with sublinear memory cost (arXiv 1604.06174); torch calls it activation
# checkpointing.


@contextlib.contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Generator[None]:
    """A context in which passes keep only what each block is given, and draw the same random numbers the second time.

    Gradients are those of a pass that keeps everything. Hooks on a block fire once a pass; hooks on its parts fire
    again in the backward pass if they are still there then. Modules, names and parameters stay as they are.
    """
    with contextlib.ExitStack() as undone:
        # On the instance, since hooks and names belong to the module itself.
        for block in dict.fromkeys(blocks):
            own = {"forward": block.forward} if "forward" in vars(block) else {}
            undone.callback(vars(block).update, own)
            undone.callback(vars(block).pop, "forward")
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        yield


# The optimisers by name, over all parameters of an objective that require gradients.


def build_optimiser(objective: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser of the settings; no decay where a parameter has fewer than two axes.

    LAMB (You et al., arXiv 1904.00962) is timm's: the trainer alone clips gradients, and what has no decay has no trust
    ratio. Raises DiagnosticsError where nothing requires a gradient, and for LAMB without timm.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not trained:
        raise DiagnosticsError(
            "There is nothing to train: no parameter of the objective requires a gradient.", code="unsupported"
        )
    # A mask token and the like are vectors, with leading axes of one.
    decayed = [p for p in trained if sum(n > 1 for n in p.shape) > 1]
    others = [p for p in trained if sum(n > 1 for n in p.shape) <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    with importing("The optimiser lamb needs", "pip install timm, or leave --optimiser out"):
        from timm.optim.lamb import Lamb

    return Lamb(groups, lr=settings.lr, betas=settings.betas, max_grad_norm=None)


# Attention while training: the kernel that computes it, told once, and how sharp each head's is, every so many steps.
#
# A head whose entropy falls to nothing, or whose logits grow without end, comes before many a loss that diverges (Zhai
# et al., Stabilizing transformer training by preventing attention entropy collapse, arXiv 2303.06296; Dehghani et al.,
# arXiv 2302.05442).


def check_attention(
    objective: Objective, batch: Batch, settings: Settings, name: str, tell: Callable[[str], None]
) -> None:
    """The forward pass of the first step, once before it: tells which kernel `auto` comes to.

    Raises where the named one cannot compute the pass, and where attention is to be watched that cannot be seen.
    Buffers and random states are afterwards as before.
    """
    device = next(objective.parameters()).device.type
    before = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    try:
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16"):
            # Not as a call, which would be the compiled one.
            ran = explain_attention(settings.attention, lambda: objective.forward(batch), name, "--precision bf16")
    finally:
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)
    if ran:
        tell(f"{name}: attention in {ran}")
    with looking(objective, settings):
        unseen = settings.watch_attention and not see_heads(objective, batch)
    if unseen:
        raise DiagnosticsError(
            f"The output of {name} comes from no call of torch's scaled_dot_product_attention, so no head can be "
            f"watched: leave --watch-attention out.",
            code="no-attention",
        )


def see_heads(objective: Objective, batch: Batch) -> dict[str, float]:
    """Scalars to log of the pass to the objective's output.

    `attention/BLOCK/entropy/HEAD`, `.../logit/HEAD`, `.../keys`.

    Blocks are attentions in the order in which they are computed.
    """
    scalars: dict[str, float] = {}
    for i, seen in enumerate(watch_heads(lambda: objective.output(batch))):
        scalars[f"attention/{i}/keys"] = seen.keys
        for kind, values in (("entropy", seen.entropy), ("logit", seen.logit)):
            scalars |= {f"attention/{i}/{kind}/{head}": value for head, value in enumerate(values.tolist())}
    return scalars


@dataclass(frozen=True)
class Fitted:
    """Outcome of a training.

    `seconds` are those of this process, `looks` the outputs seen for the collapse detector; loss and looks are known to
    the first process only.
    """

    steps: int
    loss: float
    seconds: float
    looks: tuple[Look, ...] = field(default=())

    @property
    def collapse(self) -> Look | None:
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
    encoder_at: Callable[[int], Encoder] | None = None,
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
    world: which process this is (see `objective.world`); the first one writes.
    begin: the first step, where those before it teach nothing.
    encoder_at: makes the encoder as it is after a step, of weights of its own, where `settings.encoder_every` asks.
    tell: is given single lines: the kernel of attention, the expected time, an output that collapses, a head that
    sharpens.
    """
    world = world or World()
    # Exact resume is of as many processes: each draws for itself.
    identity = dict(identity or {}) | settings.identity | {"processes": world.size}
    check_fits(objective, settings, name)
    objective.to(world.device).train()
    optimiser = build_optimiser(objective, settings)
    make_folder(out)
    with contextlib.ExitStack() as stack:
        stack.enter_context(resumable(out))
        if world.first:
            stack.enter_context(lock(out, "wait for it, or give another --out", f"trains {name} in"))
        barrier()
        kept = load_checkpoint(out, objective, optimiser, identity)
        first = kept or begin
        barrier()
        monitor = None
        if world.first:
            monitor = stack.enter_context(contextlib.closing(Monitor(out, name, settings, first, watch, tell)))
            if kept:
                tell(f"{name}: resumes from step {kept:,} of {settings.steps:,}")
            if first < settings.steps:
                count = sum(p.numel() for p in objective.parameters() if p.requires_grad)
                on = f"{world.device}, {world.size} processes" if world.size > 1 else world.device
                tell(f"{name}: trains {count:,} parameters for {settings.steps:,} steps on {on}; writes to {out}")
        if settings.recompute:
            stack.enter_context(recomputed(objective.blocks()))
        module = wrap(objective, settings, world)
        started, measured = time.perf_counter(), 0.0
        steps, finite = range(first, settings.steps), Finite(world.device)
        coming = stack.enter_context(batches_ahead(batches, steps, world, settings.workers))
        saver = stack.enter_context(contextlib.closing(Saver(out, identity)))
        logged, since, waited = first, started, 0.0
        for step in steps:
            begun = time.perf_counter()
            prepared = next(coming)
            waited += time.perf_counter() - begun
            batch = {key: value.to(world.device, non_blocking=True) for key, value in prepared.items()}
            objective.before_step(step)
            if step == first:
                seed_step(settings, step, world)
                part = split(batch, settings.accumulate)[0][1]
                check_attention(objective, part, settings, name, tell if world.first else lambda _: None)
            values = train_step(module, batch, optimiser, settings, step, world)
            done = step + 1
            finite.note(values, done)
            objective.after_step(done, settings.steps)
            logs, looks, evaluates, watches, saves, keeps, exports = (
                every is not None and (done == settings.steps or not done % every)
                for every in (
                    settings.log_every,
                    settings.look_every,
                    settings.evaluate_every,
                    settings.watch_attention,
                    settings.checkpoint_every,
                    settings.keep_every,
                    settings.encoder_every,
                )
            )
            if logs or looks or evaluates or watches or saves or keeps:
                finite.check(done, name, saver, getattr(batches, "ids", None))
                scalars, took, made = to_numbers(values), time.perf_counter() - since, done - logged
                scalars |= {f"{TIMES}data": waited / made, f"{TIMES}samples": settings.batch * made / took}
                logged, since, waited = done, time.perf_counter(), 0.0
                if monitor:
                    with looking(objective, settings) if looks or watches or evaluates else nullcontext():
                        output = objective.output(batch) if looks else None
                        seen = (
                            None
                            if output is None or len(output) < FEWEST
                            else look(done, output, objective.tokens(batch))
                        )
                        heads = see_heads(objective, batch) if watches else {}
                        evaluation = objective.evaluate(done) if evaluates else {}
                    monitor.note(done, scalars, seen, evaluation, heads)
            # Before the checkpoint: a training that goes on from it would not come by here again.
            if exports and world.first and encoder_at and done < settings.steps:
                save_encoder(out / STEPS / str(done), encoder_at(done))
            if (saves or keeps) and world.first:
                saver.save(done, objective, optimiser, out / STEPS / f"{done}-{FILE}" if keeps else None)
            if done == first + 1:
                measured = time.perf_counter()
            if done == first + ESTIMATE_AFTER and done < settings.steps and world.first:
                each = (time.perf_counter() - measured) / (ESTIMATE_AFTER - 1)
                tell(f"{name}: about {duration(each * (settings.steps - done))} more")
        objective.eval()
        barrier()
        seconds = time.perf_counter() - started
    loss, seen = (monitor.loss, tuple(monitor.looks)) if monitor else (math.nan, ())
    return Fitted(settings.steps, loss, seconds, seen)


def check_fits(objective: Objective, settings: Settings, name: str) -> None:
    """Raise where an objective cannot be trained as the settings say."""
    refuse_values(
        (
            settings.accumulate > 1 and objective.compares_samples,
            f"The loss of {name} compares the samples of a batch, which therefore cannot be computed in parts: leave "
            f"--accumulate out.",
            "conflict",
        ),
        (
            settings.recompute and not objective.blocks(),
            f"There are no blocks of {name} whose activations could be recomputed: leave --recompute out.",
            "unsupported",
        ),
    )


def wrap(objective: Objective, settings: Settings, world: World) -> nn.Module:
    """The objective as it is called in a step: compiled, and with gradients averaged over processes."""
    module: nn.Module = objective
    if world.size > 1:
        devices = [world.device] if world.device != "cpu" else None
        module = DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=objective.phases)
    if settings.compile:
        # With data parallelism inside, gradients of one part are averaged while those of the next are computed; what is
        # recomputed cannot be compiled so.
        (objective if settings.recompute else module).compile()
    return module


def train_step(
    module: nn.Module,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    step: int,
    world: World,
) -> dict[str, Tensor]:
    """One step of the optimiser's own parameters.

    What the module gave, averaged over parts, and the length of their gradient.
    """
    seed_step(settings, step, world)
    for group in optimiser.param_groups:
        group["lr"] = settings.rate(step)
    optimiser.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    parts = split(batch, settings.accumulate)
    for i, (share, part) in enumerate(parts):
        # Gradients are averaged over processes once, with those of the last part.
        last = i + 1 == len(parts)
        waiting = module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()
        with waiting, attention_in(settings.attention):
            with torch.autocast(torch.device(world.device).type, torch.bfloat16, enabled=settings.precision == "bf16"):
                values: dict[str, Tensor] = module(part)
            (values["loss"] * share).backward()
        for key, value in values.items():
            totals[key] = totals.get(key, 0) + value.detach() * share
    trained = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    length = nn.utils.clip_grad_norm_(trained, settings.clip)
    optimiser.step()
    return totals | {"gradient": length}


def split(batch: Batch, count: int) -> list[tuple[float, Batch]]:
    """A batch as `count` parts of nearly the same size, each with its share of the samples."""
    if count == 1:
        return [(1.0, batch)]
    samples = len(next(iter(batch.values())))
    if count > samples:
        raise DiagnosticsError(
            f"A batch of {samples} samples in a process cannot be computed in {count} parts: give --accumulate at most "
            f"as many.",
            code="bad-value",
        )
    parts = zip(*(tensor.tensor_split(count) for tensor in batch.values()), strict=True)
    return [(len(part[0]) / samples, dict(zip(batch, part, strict=True))) for part in parts]


def seed_step(settings: Settings, step: int, world: World) -> None:
    """Seeds torch's generators for a step.

    On a CPU not by `torch.manual_seed`, which writes down a stack for each kind of device that is not in use: 1 % of a
    small step.
    """
    seeded = number(settings.seed or 0, step, world.rank)
    if world.device == "cpu":
        torch.default_generator.manual_seed(seeded)
    else:
        torch.manual_seed(seeded)


def number(*parts: int) -> int:
    """One seed from several numbers, without the collisions of a sum."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))

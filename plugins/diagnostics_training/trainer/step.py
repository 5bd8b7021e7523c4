"""One step: a batch forward, its gradient, the optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.objective import Batch, Objective
from diagnostics_training.trainer.settings import Settings


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

    return DistributedDataParallel(objective, device_ids=[world.device] if world.device != "cpu" else None)


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


def to_device(batch: Batch, device: str) -> Batch:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}

"""The processes of one training under `torchrun`, or the only one."""

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diagnostics.plugin import DiagnosticsError


@dataclass(frozen=True)
class World:
    """Which of how many processes this is, and on which device it computes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0


@contextlib.contextmanager
def world(device: str | None = None) -> Generator[World]:
    """Joins the processes that `torchrun` started (nccl on GPUs, gloo elsewhere); alone where it started none.

    `device` is `cpu`, `cuda`, ... or None for a GPU where there is one; of several GPUs each process takes its own.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise DiagnosticsError(f"There is no GPU for device {kind}: leave --device out, or give cpu.")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        yield World(device=kind) if size == 1 else World(dist.get_rank(), dist.get_world_size(), kind)
        return
    if kind == "cuda":
        kind = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(kind)
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), kind)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Waits for all processes."""
    if dist.is_initialized():
        dist.barrier()


def mean(values: Tensor) -> Tensor:
    """The mean over processes, without a gradient."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def least(values: Tensor) -> Tensor:
    """The least over processes, without a gradient."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MIN)
    return values


class _Gather(torch.autograd.Function):
    """All processes' rows. Each process gets the gradients that all of them have for its rows, summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(rows: Tensor) -> Tensor:
    """Rows [n, ...] of all processes, in the order of their ranks, [n x processes, ...], with gradients to all of them.

    Where each process's loss is the mean over its own rows, the gradients that data parallelism averages are those of the
    loss over the whole batch.
    """
    return _Gather.apply(rows) if dist.is_initialized() else rows  # pyright: ignore[reportReturnType]


def own(count: int) -> slice:
    """Where this process's `count` rows lie among the gathered ones."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return slice(rank * count, (rank + 1) * count)

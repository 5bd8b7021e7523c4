"""The contract of an objective, and the processes that both run in."""

import contextlib
import datetime
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError

# The processes of one training under `torchrun`, or the only one.


@dataclass(frozen=True)
class World:
    """This process among all, and the device on which it computes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """True if this process is the one that writes and speaks."""
        return self.rank == 0


def check_dealt(batch: int, processes: int) -> None:
    """Raise where a batch has no equal part for each process."""
    if batch % processes:
        raise DiagnosticsError(
            f"A batch of {batch} cannot be dealt out to {processes} processes: give a multiple.", code="bad-value"
        )


@contextlib.contextmanager
def world(device: str | None = None, batch: int = 0) -> Generator[World]:
    """Join the processes that `torchrun` started (nccl on GPUs, gloo elsewhere); alone where it started none.

    `device` is `cpu`, `cuda`, ... or None for a GPU where there is one; of several GPUs each process takes its own.
    Raises for a `batch` that the processes cannot share.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise DiagnosticsError(f"There is no GPU for device {kind}: leave --device out, or give cpu.", code="bad-value")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    check_dealt(batch, size)
    if size == 1 or dist.is_initialized():
        yield World(device=kind) if size == 1 else World(dist.get_rank(), dist.get_world_size(), kind)
        return
    if kind == "cuda":
        kind = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(kind)
    # By default all processes end where the first one works alone for ten minutes, as it does while it indexes data.
    forever = datetime.timedelta(days=30)
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo", timeout=forever)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), kind)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes; raises where another one ended, as the first one does for data that it refuses."""
    if dist.is_initialized():
        try:
            dist.barrier()
        except RuntimeError as error:  # gloo's and nccl's words are about connections
            raise DiagnosticsError(
                "Another process of this training ended: read what it says.", code="process-ended"
            ) from error


def over_processes(values: Tensor, least: bool = False) -> Tensor:
    """The mean over processes, or the least, without a gradient."""
    if not dist.is_initialized():
        return values
    values = values.clone()
    dist.all_reduce(values, dist.ReduceOp.MIN if least else dist.ReduceOp.SUM)
    return values if least else values / dist.get_world_size()


class _Gather(torch.autograd.Function):
    """All processes' rows. Each process gets the gradients that all of them have for its rows, summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        parts = list(gradients[0].contiguous().chunk(dist.get_world_size()))
        gradient = torch.empty_like(parts[0])
        dist.reduce_scatter(gradient, parts)
        return gradient


def gathered(rows: Tensor) -> Tensor:
    """Rows [n, ...] of all processes, in the order of their ranks, [n x processes, ...], with gradients to all of them.

    Where each process's loss is the mean over its own rows, the gradients that data parallelism averages are those of
    the loss over the whole batch.
    """
    return _Gather.apply(rows) if dist.is_initialized() else rows


def own(count: int) -> slice:
    """The place of this process's `count` rows among the gathered ones."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return slice(rank * count, (rank + 1) * count)


# What the trainer asks of an objective.


Batch = Mapping[str, Tensor]


class Objective(nn.Module):
    """A loss with everything that it trains; subclasses implement `forward`, and whatever else they need of these.

    What is not to be trained (a teacher) has `requires_grad` False: the trainer optimises all other parameters, and
    saves the whole `state_dict`.

    pairs, moves, noise: which views of a sample it is given: two (`x` and `y`) rather than one; windows and crops drawn
    at
        random; noise on a series.
    compares_samples: whether the loss compares samples of a batch with each other, so that it is no mean of what the
    loss is
        of parts of the batch.
    phases: whether `before_step` decides which parameters learn, so that some have no gradient in some steps.
    """

    pairs: bool = False
    moves: bool = True
    noise: bool = True
    compares_samples: bool = False
    phases: bool = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, a scalar that is a mean over the batch's samples, and any further scalars to log."""
        raise NotImplementedError

    def output(self, batch: Batch) -> Tensor | None:
        """The output that the encoder would hand to users, pooled: float [sample, feature]; watched for collapse.

        Called without gradients, in eval mode, and by the first process only (so it must not wait for others); None
        where there is nothing to watch.
        """
        return None

    def tokens(self, batch: Batch) -> Tensor | None:
        """The output's grid tokens for this batch, float [sample, token, feature]; watched for tokens that all agree.

        Called as `output` is.
        """
        return None

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Scalars after so many steps, which are logged as `evaluation/NAME`; how often is a setting.

        Called without gradients, in eval mode, and by the first process only (so it must not wait for others). What it
        draws from torch's generators changes nothing that is drawn later.
        """
        return {}

    def blocks(self) -> Sequence[nn.Module]:
        """The modules of which each one's memory can be saved by computing it once more in the backward pass."""
        return ()

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        """Draws for each of `count` samples (masks): arrays [sample, ...], which join the batch.

        Drawn for the batch over all processes and then dealt out, so that how many there are changes nothing.
        """
        return {}

    def before_step(self, step: int) -> None:
        """Before each step, `step` counted from 0: where it decides what learns.

        A parameter without a gradient stays as it is.
        """

    def after_step(self, done: int, total: int) -> None:
        """After each optimiser step, `done` counted from 1: where a teacher follows."""

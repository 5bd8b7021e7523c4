"""Batches as a function of the step: the samples of an epoch in an order of its own, dealt out to processes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diagnostics import DiagnosticsError
from diagnostics_training.models.inputs import Views
from diagnostics_training.trainer.objective import Objective


def check_batch(batch: int, samples: int) -> None:
    """Raises where that many samples cannot be drawn."""
    if not 2 <= batch <= samples:
        raise DiagnosticsError(f"A batch of {batch} cannot be drawn from {samples} train samples: give 2 to as many.")


class EpochOrder:
    """Which of the samples `rows` are in a step's batch.

    Each epoch has an order of its own, and its last samples that fill no batch are left out.
    """

    def __init__(self, rows: np.ndarray, batch: int, seed: int) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self._order = functools.lru_cache(2)(self._drawn_order)

    def _drawn_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(self.rows)

    def part(self, step: int, rank: int, world: int) -> tuple[np.ndarray, slice, int]:
        """One process's samples of a step, where they lie in the batch, and where the batch begins in the epoch."""
        if self.batch % world:
            raise DiagnosticsError(
                f"A batch of {self.batch} cannot be dealt out to {world} processes: give a multiple."
            )
        epoch, at = divmod(step, len(self.rows) // self.batch)
        size, first = self.batch // world, at * self.batch
        own = slice(rank * size, (rank + 1) * size)
        return self._order(epoch)[first : first + self.batch][own], own, first


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch, with `beside`, what else is known of each sample.

    Everything is drawn for the batch over all processes and then dealt out, so that how many there are changes nothing.
    """

    def __init__(
        self,
        samples: np.ndarray,
        views: Views,
        objective: Objective,
        batch: int,
        seed: int,
        beside: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        check_batch(batch, len(samples))
        self.samples, self.views, self.objective = samples, views, objective
        self.batch, self.seed, self.beside = batch, seed, dict(beside or {})
        self.order = EpochOrder(np.arange(len(samples)), batch, seed)

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, _ = self.order.part(step, rank, world)
        rng = np.random.default_rng([self.seed, 1, step])
        raw = self.samples[rows]
        batch: dict[str, Tensor] = {}
        for name in ("x", "y") if self.objective.pairs else ("x",):
            drawn = self.views.draw(rng, self.batch, self.samples)
            batch[name] = self.views.make(raw, {key: value[own] for key, value in drawn.items()})
        drawn = self.objective.draws(rng, self.batch)
        batch |= {key: torch.from_numpy(np.ascontiguousarray(value[own])) for key, value in drawn.items()}
        return batch | {key: torch.from_numpy(value[rows]) for key, value in self.beside.items()}

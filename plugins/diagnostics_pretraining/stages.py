"""Stages of a training: images of one size for so many samples, then of the next; counted to the last sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics import DiagnosticsError


@dataclass(frozen=True)
class Stage:
    """`samples` images (or clips) of `size` pixels a side."""

    size: int
    samples: int


def steps_of(stages: Sequence[Stage], batch: int) -> int:
    """How many steps of `batch` samples these stages have; raises where a stage is no whole number of batches."""
    for stage in stages:
        if stage.samples < 1 or stage.samples % batch:
            near = max(1, round(stage.samples / batch)) * batch
            raise DiagnosticsError(
                f"The stage of {stage.size} pixels has {stage.samples:,} samples, which is no multiple of the batch of {batch:,}: "
                f"give {near:,}."
            )
    return sum(stage.samples for stage in stages) // batch


def stage_at(stages: Sequence[Stage], batch: int, step: int) -> Stage:
    """The stage of a step, counted from 0; the last one for all steps behind the end."""
    before = step * batch
    for stage in stages:
        if before < stage.samples:
            return stage
        before -= stage.samples
    return stages[-1]


def scaled(stages: Sequence[Stage], samples: int, batch: int) -> tuple[Stage, ...]:
    """The stages with `samples` in all, in their proportions as nearly as whole batches allow, each of at least one batch.

    Raises where that many samples are no multiple of the batch, or fewer than a batch for each stage.
    """
    if samples < 1 or samples % batch:
        near = max(len(stages), round(samples / batch)) * batch
        raise DiagnosticsError(
            f"Training on {samples:,} samples is no whole number of batches of {batch:,}: give --samples {near}."
        )
    steps = samples // batch
    if steps < len(stages):
        raise DiagnosticsError(
            f"There are {steps} batches of {batch:,} in {samples:,} samples and {len(stages)} stages: give at least --samples "
            f"{len(stages) * batch}."
        )
    whole = sum(stage.samples for stage in stages)
    shares = [steps * stage.samples / whole for stage in stages]
    counts = [max(1, int(share)) for share in shares]
    while (missing := steps - sum(counts)) != 0:
        # The largest rest gets one more; where minimal stages took too much, the stage that has most above its share gives.
        by_rest = sorted(range(len(counts)), key=lambda i: shares[i] - counts[i], reverse=missing > 0)
        place = next(i for i in by_rest if missing > 0 or counts[i] > 1)
        counts[place] += 1 if missing > 0 else -1
    return tuple(Stage(stage.size, count * batch) for stage, count in zip(stages, counts, strict=True))

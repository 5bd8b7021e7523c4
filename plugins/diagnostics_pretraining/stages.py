"""Stages of a training: images of one size each, for so many samples; which stage a step belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from diagnostics import DiagnosticsError


@dataclass(frozen=True)
class Stage:
    """`samples` samples, their images `size` pixels a side."""

    size: int
    samples: int


def last_steps(stages: Sequence[Stage], batch: int) -> list[int]:
    """After how many steps each stage ends; the last of them is the number of all steps.

    Raises where a stage has no samples, or none that fill whole batches: they are counted to the last one.
    """
    for number, stage in enumerate(stages, 1):
        if stage.samples < batch or stage.samples % batch:
            near = max(batch, round(stage.samples / batch) * batch)
            raise DiagnosticsError(
                f"Stage {number} has {stage.samples:,} samples, which are no multiple of the batch of {batch:,}: give {near:,}."
            )
    return list(accumulate(stage.samples // batch for stage in stages))

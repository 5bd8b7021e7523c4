"""Measuring with several processes: two against one on two cores, and what more would give.

A ViT-S with random weights on `shapes` of 224 pixels, the standard suite and all controls, dense targets from stored tokens, measured
again from what a first call extracted. The tasks of all phases (the encoder, each control) are timed in one process; a model deals them in order to N processes
and adds what one process does alone. `--model`: that alone, in CPU seconds, for a busy machine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import diagnostics as dx
from diagnostics.runs.workers import Workers

from _common import ARGUMENTS, SMALLEST, cpu, finish, verdict

ENCODER = "objectives:lorenz-forecast" if SMALLEST else "timm:vit_small_patch16_224?pretrained=false"
DATA = "lorenz?n=60" if SMALLEST else "shapes?n=300&size=224"
MEASURES = "linear_probe,cka" if SMALLEST else "standard"
PROCESSES = (2, 4, 8, 16)


class Timed(Workers):
    """One process that does all tasks, and keeps the seconds of each, by phase."""

    phases: ClassVar[list[list[float]]] = []

    def __init__(self, jobs: int, watch: Any) -> None:
        super().__init__(1, watch)
        self.processes = [mock.Mock()]

    def _share(self, source: Any, tasks: Any, here: Any, what: str) -> dict[tuple[str, str], Any]:
        found, seconds = dict[tuple[str, str], Any](), list[float]()
        for task in tasks:
            start = cpu()
            found.update(here(task))
            seconds.append(cpu() - start)
        self.phases.append(seconds)
        return found


def longest(tasks: Sequence[float], processes: int) -> float:
    """Until the last process is done, where whoever is free takes the next task."""
    ends = [0.0] * processes
    for seconds in tasks:
        first = ends.index(min(ends))
        ends[first] += seconds
    return max(ends)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:

        def call(jobs: int) -> tuple[float, float]:
            start = time.perf_counter(), cpu()
            dx.run(
                encoder,
                data,
                out=Path(folder) / "run",
                jobs=jobs,
                measures=MEASURES,
                dense="stored",
                report=False,
                watch=dx.silent,
            )
            return time.perf_counter() - start[0], cpu() - start[1]

        encoder, data = dx.build("encoder", ENCODER), dx.build("dataset", DATA)
        call(1)
        with mock.patch("diagnostics.runs.job.Workers", Timed):
            _, whole = call(2)
        alone = whole - sum(map(sum, Timed.phases))
        print(
            f"measuring: {whole:.1f} CPU-s, {alone:.1f} of them by one process alone; {sum(map(len, Timed.phases))} tasks, ",
            end="",
        )
        print(f"the longest {max(map(max, Timed.phases)):.1f}", flush=True)
        for processes in PROCESSES:
            modelled = alone + sum(longest(phase, processes) for phase in Timed.phases)
            print(f"     {processes} processes, by the model: {whole / modelled:.2f} times as fast", flush=True)
        if "--model" in ARGUMENTS:
            return
        one, two = (call(jobs)[0] for jobs in (1, 2))
        print(f"measuring, seconds: {one:.1f} by one process, {two:.1f} by two, their start included", flush=True)
        finish(verdict("two processes on two cores, times as fast as one", one / two, 1.7, at_least=True))


if __name__ == "__main__":
    main()

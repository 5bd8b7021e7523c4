"""Measuring with several processes: two against one on two cores, and what more would give.

A ViT-S with random weights on `shapes` of 96 pixels, the standard suite and all kinds of controls, dense targets from stored tokens,
at its blocks. A first call extracts by two processes; then one process measures again what is stored, and times the tasks of all phases (the
encoder, each control); then two do. A model deals the tasks in order to N processes and adds what one process does alone. Last, extractions: by
one process of two threads, and by two of one. About 3 minutes of two quiet cores. `--model`: without the two processes, in CPU seconds, for a busy machine.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch

import diagnostics as dx
from diagnostics.runs.processes.workers import Workers

from _common import ARGUMENTS, SMALLEST, cpu, finish, verdict

ENCODER = "objectives:lorenz-forecast" if SMALLEST else "timm:vit_small_patch16_224?pretrained=false&img_size=96"
DATA = "lorenz?n=60" if SMALLEST else "shapes?n=300&size=96"
PASSED = "lorenz?n=60" if SMALLEST else "shapes?n=900&size=96"
"""Of the extractions: 300 scenes are passed in the time that a process takes to start."""
TAPS = None if SMALLEST else [f"blocks.{i}" for i in range(12)]
MEASURES = "linear_probe,cka" if SMALLEST else "standard"
PROCESSES = (2, 4, 8, 16)


class Timed(Workers):
    """One process that does all tasks, and keeps the CPU seconds of each, by phase."""

    phases: ClassVar[list[list[float]]] = []

    def share(self, sets: Any, step: str) -> list[dict[tuple[str, str], Any]]:
        found, seconds = [dict[tuple[str, str], Any]() for _ in sets], list[float]()
        for of, each in zip(found, sets, strict=True):
            for task in each.tasks:
                start = cpu()
                of.update(task.find(each.activations, each.targets))
                seconds.append(cpu() - start)
        self.phases.append(seconds)
        return found


def used() -> float:
    """CPU seconds so far, those of processes that ended too."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cpu() + others.ru_utime + others.ru_stime


def longest(tasks: Sequence[float], processes: int) -> float:
    """Until the last process is done, where whoever is free takes the next task."""
    ends = [0.0] * processes
    for seconds in tasks:
        first = ends.index(min(ends))
        ends[first] += seconds
    return max(ends)


def passes() -> bool:
    """Extractions of the encoder by one process of two threads, and by two of one."""
    spent = dict[int, tuple[float, float]]()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(2)
        for jobs in (1, 2):
            start, before = time.perf_counter(), used()
            out = Path(folder, str(jobs))
            dx.run(
                ENCODER, PASSED, out=out, jobs=jobs, measures="rankme", controls=False, report=False, watch=dx.silent
            )
            spent[jobs] = time.perf_counter() - start, used() - before
        torch.set_num_threads(1)
    (one, its), (two, theirs) = spent[1], spent[2]
    print(
        f"extracting by one process of two threads: {one:.1f} s, {its:.1f} CPU-s; by two of one: {two:.1f} s, {theirs:.1f} CPU-s"
    )
    return verdict(
        "extracting by two processes of one thread, times as fast as by one of two", one / two, 1.2, at_least=True
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:

        def call(jobs: int) -> tuple[float, float]:
            """Wall and CPU seconds, the latter of all processes."""
            start, before = time.perf_counter(), used()
            dx.run(
                encoder,
                data,
                out=Path(folder) / "run",
                jobs=jobs,
                taps=TAPS,
                measures=MEASURES,
                dense="stored",
                report=False,
                watch=dx.silent,
            )
            return time.perf_counter() - start, used() - before

        encoder, data = dx.build("encoder", ENCODER), dx.build("dataset", DATA)
        with mock.patch("diagnostics.runs.job.Workers", Timed):
            print(f"extracted and measured in {call(2)[1]:.1f} CPU-s", flush=True)
        one, whole = call(1)
        alone = whole - sum(map(sum, Timed.phases))
        tasks = f"{sum(map(len, Timed.phases))} tasks, the longest {max(map(max, Timed.phases)):.1f}"
        print(f"measuring: {whole:.1f} CPU-s, {alone:.1f} of them by one process alone; {tasks}", flush=True)
        for processes in PROCESSES:
            modelled = alone + sum(longest(phase, processes) for phase in Timed.phases)
            print(f"     {processes} processes, by the model: {whole / modelled:.2f} times as fast", flush=True)
        if "--model" in ARGUMENTS:
            return
        two, both = call(2)
        print(
            f"measuring by one process: {one:.1f} s, {whole:.1f} CPU-s; by two: {two:.1f} s, {both:.1f} CPU-s, their start included"
        )
        held = verdict(
            "measuring by two processes on two cores, times as fast as by one", one / two, 1.7, at_least=True
        )
    finish(held, passes())


if __name__ == "__main__":
    main()

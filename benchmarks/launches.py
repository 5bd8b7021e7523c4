"""Launches of one run (`--part`): beside a bare loop, two beside one, killed at random moments, and ended by SIGTERM.

`overhead`: a ViT-Ti with random weights on noise images; each batch that a launch finishes is prepared, passed, and pooled once more by a
loop of three lines, so that both see the same state of the machine; from the first batch on. `two`: the command with 1/1, then 1/2 and
2/2 at once, one thread each, from start to end; beside it the same in CPU seconds, for a busy machine. `kills`: four launches with streamed
targets, of which one is killed in its first or second pass, and given again or left to the command that measures; its `--json` must be that of one process.
`stop`: seconds from SIGTERM to the end of a launch, and that it goes on. About 20 minutes of two quiet cores; one is named alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import Progress
from diagnostics.activations.parts import Launch
from diagnostics.activations.plan import Plan
from diagnostics.activations.store import Store
from diagnostics.encoders.modules import pool
from diagnostics.runs.extraction import extract_parts
from diagnostics.runs.options import Request

from _common import ARGUMENTS, SMALLEST, cpu, finish, images, verdict, vit_tiny

COUNT, MANY, KILLS = (24, 40, 1) if SMALLEST else (1200, 4000, 30)
DENSE: dict[str, Any] = {
    "encoder": "timm:vit_tiny_patch16_224?pretrained=false&img_size=32",
    "dataset": f"shapes?n={40 if SMALLEST else 264}&size=32",
    "measures": "linear_probe,segmentation_probe",
    "taps": "blocks.3,blocks.7",
    "dense": "streamed",
    "token_budget": 0,
    "controls": False,
    "report": False,
}
FILE = f"""
import sys
sys.argv = sys.argv[:1]
sys.path.insert(0, {str(Path(__file__).parent)!r})
from _common import images, vit_tiny
def data():
    return images({MANY})
"""


class Bare:
    """For the watch of a launch: the loop that one would write, over the rows of each batch that is finished."""

    def __init__(self, encoder: dx.Encoder, dataset: dx.Dataset) -> None:
        self.encoder, self.dataset, self.seen, self.loop = encoder, dataset, 0, 0.0
        self.began = 0.0
        self.plan: Plan | None = None
        self.out = Path()

    def __call__(self, event: object) -> None:
        if not isinstance(event, Progress):
            return
        start, encoder = cpu(), self.encoder
        if self.plan is None:
            self.plan = Store(self.out).plan
        rows = np.arange(len(self.dataset))[self.seen : event.done]
        batch = default_collate([encoder.preprocess(self.dataset[int(row)]) for row in rows])
        poolings = self.plan.poolings
        encoder.capture(
            batch, [tap.name for tap in encoder.taps], lambda tap, tokens: pool(tap, tokens, poolings).cpu()
        )
        if self.seen:
            self.loop += cpu() - start
        else:
            self.began = cpu()
        self.seen = event.done


def overhead() -> bool:
    encoder, dataset = vit_tiny(), images(COUNT)
    bare = Bare(encoder, dataset)
    with tempfile.TemporaryDirectory() as folder:
        bare.out = Path(folder) / "run"
        options: dict[str, Any] = {"out": bare.out, "measures": "linear_probe", "controls": False, "batch_size": 16}
        extract_parts(Request(encoder=encoder, dataset=dataset, **options), Launch(), bare)
    launch = cpu() - bare.began - bare.loop
    print(f"{COUNT} images: {launch:.2f} CPU-s of a launch from its first batch on, {bare.loop:.2f} of the bare loop")
    return verdict("a launch beside a bare loop, in CPU-s", launch / bare.loop, 1.05)


def command(line: Sequence[str], folder: str) -> int:
    """The process of a command with one thread; at the smallest size this one's copy, which imports nothing again."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": folder}
    if process := os.fork():
        return process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if not SMALLEST:
        os.execve(sys.executable, [sys.executable, "-m", "diagnostics", *line], environment)
    status = 1
    sys.argv, tempfile.tempdir = ["diagnostics", *line], folder
    try:
        runpy.run_module("diagnostics", run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)


def two() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_text(FILE)
        encoder = DENSE["encoder"] if SMALLEST else "timm:vit_tiny_patch16_224?pretrained=false"

        def timed(*parts: str) -> tuple[float, list[float]]:
            """Seconds until all launches ended, and CPU seconds of each."""
            line = ["run", encoder, "--data", f"shapes?n={MANY}&size=32" if SMALLEST else f"{file}:data"]
            line += ["--measures", "rankme", "--no-controls", "--token-budget", "0", "--quiet"]
            line += ["--out", str(Path(folder) / f"run{len(parts)}"), "--part"]
            start, spent = time.perf_counter(), list[float]()
            for process in [command([*line, part], folder) for part in parts]:
                _, status, used = os.wait4(process, 0)
                assert status == 0
                spent.append(used.ru_utime + used.ru_stime)
            return time.perf_counter() - start, spent

        one, each = timed("1/1"), timed("1/2", "2/2")
    print(
        f"{MANY} images: one launch {one[0]:.1f} s, two {each[0]:.1f} s; in CPU-s {one[1][0]:.1f} and "
        f"{' and '.join(f'{seconds:.1f}' for seconds in each[1])}, {one[1][0] / max(each[1]):.2f} times as fast"
    )
    return verdict("two launches beside one, by the clock", one[0] / each[0], 1.8, at_least=True)


def found(out: Path) -> str:
    """What the command that measures prints with --json, but for what is of a call or a place."""
    values = dx.run(**DENSE, out=out, watch=dx.silent).to_json()
    apart = ("path", "run", "calls", "created", "bytes", "report")
    return json.dumps({key: value for key, value in values.items() if key not in apart}, default=str)


def started(work: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def launch(out: Path, part: str) -> None:
    # Where the first pass is not whole, as after a kill, it waits: status 3.
    try:
        extract_parts(Request(**DENSE, out=out), Launch.of(part), dx.silent)
    except dx.DiagnosticsError as error:
        os._exit(error.status)


def kills() -> bool:
    """Each trial: four launches of each pass, one of them killed; then what is missing is done, and measured."""
    drawn, equal, killed = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        plain = Path(folder) / "plain"
        start = time.perf_counter()
        wanted = found(plain)
        lasts = time.perf_counter() - start
        for trial in range(KILLS):
            out, stage, victim = Path(folder) / f"run{trial}", trial % 2, drawn.randrange(4)
            for now in range(2):
                launches = [started(launch, out, f"{i + 1}/4") for i in range(4)]
                if now == stage:
                    # About as long as a launch takes where all four share what the plain run had.
                    time.sleep(drawn.uniform(0, lasts / (3 if now == 0 else 6)))
                    launches[victim].kill()
                statuses = [(process.join(), process.exitcode)[1] for process in launches]
                killed += statuses[victim] == -signal.SIGKILL
                assert {*statuses} <= {0, 3, -signal.SIGKILL}, statuses
                if now == stage and drawn.random() < 0.5:
                    launch(out, f"{victim + 1}/4")
            equal += found(out) == wanted
        tempfile.tempdir = None
    print(f"{KILLS} trials, in {killed} of which the launch still worked when it was killed")
    return verdict("trials with the --json of one process", equal / KILLS, 1.0, at_least=True)


def stop() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        line = [
            "run",
            DENSE["encoder"],
            "--data",
            f"shapes?n={264 if SMALLEST else 2000}&size=32",
            "--measures",
            "rankme",
        ]
        line += ["--no-controls", "--out", f"{folder}/run", "--part", "1/2"]
        process = command(line, folder)
        while os.waitpid(process, os.WNOHANG) == (0, 0) and not Path(folder, "run", "parts").exists():
            time.sleep(0.01)
        os.kill(process, signal.SIGTERM)
        start = time.perf_counter()
        status, seconds = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), time.perf_counter() - start
        before = len(Store(Path(folder) / "run").missing_parts)
        again = os.waitpid(command(line, folder), 0)[1]
        after = len(Store(Path(folder) / "run").missing_parts)
    print(f"status {status} after SIGTERM with {before} parts missing; given again status {again}, with {after}")
    return verdict("seconds from SIGTERM to the end", seconds, 10) & (status == 143 and not again)


PARTS = {"overhead": overhead, "two": two, "kills": kills, "stop": stop}

if __name__ == "__main__":
    finish(*[PARTS[name]() for name in ARGUMENTS or PARTS])

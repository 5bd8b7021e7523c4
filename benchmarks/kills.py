"""Kills of trainings, alignments and indexing at random moments: whether what the same command then makes is the same bit for bit.

Each of `KILLS` times: a process does the work, is killed (SIGKILL) somewhere between its start and its end, and another does the
rest. Compared are encoders, logged numbers without times, and indexes with those of a work that nobody killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diagnostics_files.archives import archives_at, index_of
from diagnostics_pretraining.recipe import PretrainJob
from diagnostics_pretraining.train import train as pretrain
from diagnostics_training.alignment.student import align_tap
from diagnostics_training.jobs import TapJob
from diagnostics_training.trainer.record import lines
from feed import pack

from _common import SMALLEST, finish, verdict

KILLS = 1 if SMALLEST else 20
STEPS = 2 if SMALLEST else 30
SHORT = {"checkpoint_every": 1 if SMALLEST else 3, "device": "cpu"}


def training(folder: Path) -> None:
    """Of tars that are indexed on the way, one of whose pictures is broken."""
    job = PretrainJob(
        data=f"captions:{folder}/data",
        out=folder / "pe",
        size="micro",
        recipe="1",
        samples=8 * STEPS,
        batch=8,
        split="all",
        **SHORT,
    )
    pretrain(job)


def alignment(folder: Path) -> None:
    align_tap(
        TapJob(
            encoder="objectives:lorenz-forecast",
            to="blocks.1",
            data="lorenz?n=20",
            out=folder / "al",
            steps=STEPS,
            batch=4,
            **SHORT,
        )
    )


def indexing(folder: Path) -> None:
    for path in archives_at(str(folder / "data")):
        index_of(path, "caption", decode=True)


def quietly(work: Callable[[Path], None], folder: Path) -> None:
    """In a copy of this process."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    work(folder)


def made(folder: Path) -> dict[str, str]:
    """File -> digest of what must not differ."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*.safetensors", "*.index")
        for path in sorted(folder.rglob(pattern))
    }
    for path in folder.rglob("metrics.jsonl"):
        found[str(path.relative_to(folder))] = json.dumps(lines(path.parent))
    return found


def same_after_kills(work: Callable[[Path], None], data: Path) -> int:
    """After how many kills of `KILLS` the outcome is that of a work that was never killed."""
    context = multiprocessing.get_context("fork")
    draws, same = random.Random(0), 0

    def begin(folder: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=quietly, args=(work, folder))
        process.start()
        return process

    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "w"
        shutil.copytree(data, whole / "data")
        begun = time.perf_counter()
        begin(whole).join()
        seconds, expected = time.perf_counter() - begun, made(whole)
        assert expected
        for kill in range(KILLS):
            # The same path: it is in what an encoder says of how it was made.
            shutil.rmtree(whole)
            shutil.copytree(data, whole / "data")
            process = begin(whole)
            time.sleep(draws.uniform(0, seconds))
            process.kill()
            process.join()
            begin(whole).join()
            same += made(whole) == expected
            with contextlib.suppress(OSError):
                print(f"     {work.__name__}: {same} of {kill + 1}", flush=True)
    return same


def main() -> None:
    held: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        pack(Path(folder), 40, 4)
        path = next(iter(sorted(Path(folder).glob("*.tar"))))
        whole = bytearray(path.read_bytes())
        whole[512 + 40 : 512 + 200] = bytes(160)
        path.write_bytes(whole)
        for work in (training, alignment, indexing):
            same = same_after_kills(work, Path(folder))
            held.append(
                verdict(
                    f"{work.__name__}: outcomes after a kill that are the same, of {KILLS}", same, KILLS, at_least=True
                )
            )
    finish(*held)


if __name__ == "__main__":
    main()

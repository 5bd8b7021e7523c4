"""Attention and its statistics, checked and timed in one call, on a GPU or the CPU: `python benchmarks/attention.py`.

Needs torch, and timm for parts d and e; `triton` is tried on a GPU where it is installed, and on a CPU under its interpreter
(`TRITON_INTERPRET=1`). Opens no store. In a checkout that is not installed: `PYTHONPATH=. python benchmarks/attention.py`.

(a) what the card can do: a product and a copy; (b) equality with float64, forward and backward; (c) time and memory; (d) RoPE
beside attention; (e) a training step, and extraction with statistics beside without. Ratios are of one process, both sides in
turn: CPU time of one thread on a CPU, events on a GPU. The table with all figures comes last.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version

import torch
from _attention_cases import ON_CPU, SHAPES, SMALL, Table, is_gpu
from _attention_equality import kernels_equal, statistics_equal
from _attention_models import GIANT, LARGE, LONGER, SMALLEST, TINY, time_extraction, time_training
from _attention_speed import ceilings, interpreted, time_attention, time_rope

Part = tuple[str, Callable[[], None]]
"""Its letter, and what does it."""


def on_gpu(device: str, rounds: int, table: Table) -> Iterator[Part]:
    """All parts, in order."""
    methods = ["blocks", *(["triton"] if importlib.util.find_spec("triton") else [])]
    yield "a", lambda: ceilings(device, table)
    yield "b", lambda: kernels_equal(device, SHAPES, table)
    yield "b", lambda: statistics_equal(device, SHAPES, methods, table)
    for shape in SHAPES:
        yield "c", lambda shape=shape: time_attention(device, shape, methods, rounds, table)
    yield "d", lambda: time_rope(device, SHAPES, rounds, table)
    yield "e", lambda: time_training(device, LARGE, max(1, rounds // 5), table)
    yield "e", lambda: time_extraction(device, GIANT, 64, 8, max(1, rounds // 10), table, 2.0)


def on_cpu(device: str, rounds: int, table: Table) -> Iterator[Part]:
    """The same at small shapes, without the goals of a GPU."""
    yield "a", lambda: ceilings(device, table, side=512, copied=2 * 10**8)
    yield "b", lambda: kernels_equal(device, (*SMALL, SHAPES[0]), table)
    yield "b", lambda: statistics_equal(device, (*SMALL, *ON_CPU[:2]), ["blocks"], table)
    if importlib.util.find_spec("triton") and interpreted():
        yield "b", lambda: statistics_equal(device, SMALL, ["triton"], table)
    for shape in ON_CPU:
        yield "c", lambda shape=shape: time_attention(device, shape, ["blocks"], rounds, table)
    yield "d", lambda: time_rope(device, ON_CPU[:2], rounds, table)
    yield "e", lambda: time_training(device, TINY, max(1, rounds // 3), table, batch=4)
    yield "e", lambda: time_extraction(device, LONGER, 4, 4, max(1, rounds // 3), table, None)


def smallest(device: str, rounds: int, table: Table) -> Iterator[Part]:
    """Each part once, at shapes of no interest."""
    yield "a", lambda: ceilings(device, table, side=64, copied=10**6)
    yield "b", lambda: kernels_equal(device, SMALL, table)
    yield "b", lambda: statistics_equal(device, SMALL, ["blocks"], table)
    yield "c", lambda: time_attention(device, SMALL[0], ["blocks"], rounds, table)
    yield "d", lambda: time_rope(device, SMALL[:1], rounds, table, compiles=False)
    yield "e", lambda: time_training(device, SMALLEST, rounds, table, batch=1, compiles=False)
    yield "e", lambda: time_extraction(device, SMALLEST, 1, 1, rounds, table, None)


def seen(device: str) -> str:
    """Versions and machine, in one line."""
    versions = [f"{name} {version(name)}" for name in ("torch", "triton", "timm") if importlib.util.find_spec(name)]
    if not is_gpu(device):
        return ", ".join([*versions, f"{platform.machine()} CPU, one thread"])
    driver = "unknown"
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        lines = subprocess.run(asked, capture_output=True, text=True).stdout.split()
        driver = lines[0] if lines else driver
    return ", ".join([*versions, f"CUDA {torch.version.cuda}, driver {driver}, {torch.cuda.get_device_name(device)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--smallest", action="store_true", help="only show that each part ends, on the CPU, nothing compiled"
    )
    parser.add_argument("--rounds", type=int, default=0, help="of timing; by default 50 on a GPU, 10 on a CPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table()
    rounds = given.rounds or (1 if given.smallest else 50 if is_gpu(given.device) else 10)
    parts = smallest if given.smallest else on_gpu if is_gpu(given.device) else on_cpu
    for name, part in parts("cpu" if given.smallest else given.device, rounds, table):
        try:
            part()
        except Exception as error:  # such as memory that is too small: the other parts say what they can
            traceback.print_exc()
            table.fail(name, error)
        gc.collect()
        torch.cuda.empty_cache()
    print(f"\n{table}\n{seen(given.device)}")
    # At the smallest size no limit is meant, but every part has to end.
    sys.exit(1 if table.failed or (table.missed and not given.smallest) else 0)


if __name__ == "__main__":
    main()

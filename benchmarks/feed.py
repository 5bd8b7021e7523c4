"""What feeding a Perception Encoder costs: pictures with texts per CPU second, against Pillow alone.

Also the time and memory that a process takes to start on a million pairs of tars.

JPEGs of 256 pixels are smooth noise, decoded and squashed to 224; `shapes` are 64 pixels in memory, squashed to 48.
"""

from __future__ import annotations

import gc
import io
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from diagnostics_files.archives import index_of
from diagnostics_pretraining.objective import Feed
from diagnostics_pretraining.order import ShardOrder
from diagnostics_pretraining.recipe import Stage, named_recipe
from diagnostics_pretraining.text_encoder import vocabulary_of
from diagnostics_pretraining.train import changes_of, survivable
from PIL import Image

from diagnostics import Dataset, build

from _common import SMALLEST, apart, cpu, finish, verdict

BATCH, STEPS, ROUNDS = (4, 1, 1) if SMALLEST else (128, 4, 15)
SHARDS, EACH = (1, 16) if SMALLEST else (4, 256)
MILLION, ARCHIVES = (40, 2) if SMALLEST else (1_000_000, 100)
SCENES = 20 if SMALLEST else 1000
SHARE = 0.8
WORDS = ("a", "red", "striped", "star", "at", "the", "left", "of", "blue", "plain", "disc", "in", "room", "wall")


def archive(path: Path, pictures: list[bytes], first: int) -> None:
    """A tar of pictures, each with twelve words."""
    rng = np.random.default_rng(first)
    with tarfile.open(path, "w") as tar:
        for number, picture in enumerate(pictures, first):
            for name, data in (
                (f"{number:09d}.jpg", picture),
                (f"{number:09d}.txt", " ".join(rng.choice(WORDS, 12)).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def jpeg(number: int, size: int) -> bytes:
    small = np.random.default_rng(number).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    return data.getvalue()


def fed(feed: Feed) -> float:
    """CPU seconds of some steps."""
    start = cpu()
    for step in range(STEPS):
        feed(step)
    return cpu() - start


def bare(feed: Feed, size: int) -> float:
    """CPU seconds of reading and squashing the same pictures, and of nothing else."""
    start = cpu()
    for step in range(STEPS):
        for row in feed.order.part(step, 0, 1)[0]:
            np.asarray(Image.fromarray(feed.dataset[int(row)]).resize((size, size), Image.Resampling.BILINEAR))
    return cpu() - start


def timed(what: str, data: Dataset, size: int) -> list[bool]:
    rows = np.arange(len(data))
    vocabulary = vocabulary_of(data.texts, 72)
    changes, _ = survivable(changes_of(named_recipe("8").augment), data)  # type: ignore[arg-type]  (row 8 has changes)
    whole, changed = (Feed(data, rows, vocabulary, [Stage(size, BATCH * STEPS)], BATCH, 0, c) for c in (None, changes))
    fed(changed), bare(whole, size)  # warms up
    rounds = [(fed(whole), fed(changed), bare(whole, size)) for _ in range(ROUNDS)]
    pictures = BATCH * STEPS
    for name, place in (("whole", 0), ("changed as in row 8", 1)):
        print(
            f"     {what}, {name}: {pictures / statistics.median(r[place] for r in rounds):,.0f} pictures a CPU second",
            flush=True,
        )
    ratio = statistics.median(r[2] / r[0] for r in rounds)
    return [verdict(f"{what}, throughput to that of reading and squashing alone", ratio, SHARE, at_least=True)]


def pack(folder: Path, count: int, archives: int) -> None:
    """Tars of tiny pairs, written by hand: a library takes longer for a million of them than the index does."""
    picture = jpeg(0, 8)

    def member(name: str, data: bytes) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)

    for first in range(0, count, count // archives):
        with (folder / f"{first:09d}.tar").open("wb") as tar:
            for number in range(first, first + count // archives):
                tar.write(member(f"{number:09d}.jpg", picture) + member(f"{number:09d}.txt", b"number %d" % number))
            tar.write(bytes(2 * tarfile.BLOCKSIZE))


def start(folder: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and bytes of this process, that it takes until the first and a later batch are known."""
    rows = 4 if SMALLEST else 4096
    build("dataset", f"captions:{folder}/{0:09d}.tar?features=0&on_error=replace")
    before, begun, used = resident(), time.perf_counter(), cpu()
    data = build("dataset", f"captions:{folder}?features=0&on_error=replace")
    order = ShardOrder(np.flatnonzero(data.split == "train"), rows, 0, data.shards)
    for step in (0, 1000):
        order.part(step, 0, 1)
    return time.perf_counter() - begun, cpu() - used, resident() - before


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def million() -> list[bool]:
    """Pairs that are indexed once, and what a process that starts or resumes then takes."""
    with tempfile.TemporaryDirectory() as folder:
        pack(Path(folder), MILLION, ARCHIVES)
        begun = cpu()
        for path in sorted(Path(folder).glob("*.tar")):
            index_of(path, "caption")
        print(f"     indexing: {1e6 * (cpu() - begun) / MILLION:.0f} CPU microseconds a pair", flush=True)
        seconds, used, size = apart(start, folder)
    return [
        verdict(f"{MILLION:,} pairs: seconds until a process knows its batches ({used:.2f} CPU-s)", seconds, 5),
        verdict(f"{MILLION:,} pairs: MB that this takes", size / 1e6, 100),
    ]


def main() -> None:
    held = timed("shapes, 48 pixels", build("dataset", f"shapes?n={SCENES}&size=64"), 48)
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(SHARDS):
            first = shard * EACH
            archive(Path(folder) / f"{shard}.tar", [jpeg(first + i, 256) for i in range(EACH)], first)
        held += timed("JPEGs of tars, 224 pixels", build("dataset", f"captions:{folder}?features=0"), 224)
    finish(*held, *million())


if __name__ == "__main__":
    main()

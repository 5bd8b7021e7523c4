"""What the standard suite costs beyond extraction: 12 taps, 1,000 images, three targets of which one is dense, and all controls.

By measure, for the encoder and for its controls together; with --all every measure. One thread, so CPU time is what a quiet
machine takes at least.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

import diagnostics as dx
from diagnostics.progress import Cost, Progress

from _common import ARGUMENTS, SMALLEST, cpu, finish, verdict, vit_tiny

SAMPLES, CLASSES = (10, 2) if SMALLEST else (1000, 10)
SIZE = 160 if SMALLEST else 224
REST = "reading, observing, writing"


class Stripes:
    """Images of stripes whose spacing tells the class, another in each half, under noise; made on demand."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        at = np.arange(SIZE) / SIZE
        halves = [np.sin(2 * np.pi * (spacing + 2) * at + rng.uniform(0, 2 * np.pi)) for spacing in spacings(index)]
        wave = np.repeat(halves, SIZE // 2, axis=0)
        noisy = 128 + 60 * wave[:, :, None] + rng.normal(0, 40, (SIZE, SIZE, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)


def spacings(index: int) -> tuple[int, int]:
    """The class of the upper and of the lower half of an image."""
    return index % CLASSES, index // CLASSES % CLASSES


def data() -> dx.Dataset:
    split = np.resize(np.array(["train", "train", "train", "val", "test"], dtype=object), SAMPLES)
    order = np.random.default_rng(0).permutation(SAMPLES)
    upper, lower = np.array([spacings(i) for i in range(SAMPLES)]).T
    halves = np.repeat(np.stack([upper, lower], axis=1).astype(np.int8), SIZE // 2, axis=1)
    targets = {
        "kind": dx.Target("label", upper),
        "spacing": dx.Target("value", 1.0 / (upper + 2)),
        "place": dx.Target("token_label", np.repeat(halves[:, :, None], SIZE, axis=2)),
    }
    ids = [f"stripes-{i}" for i in range(SAMPLES)]
    return dx.Dataset("stripes", "image", Stripes(), ids, split[order], targets, fingerprint="halves")  # type: ignore[arg-type]


class Clock:
    """CPU seconds between the events of a run, by measure and by whether it is the encoder's."""

    def __init__(self, encoder: str) -> None:
        self.encoder, self.since, self.now = encoder, cpu(), (True, REST)
        self.spent: dict[tuple[bool, str], float] = defaultdict(float)

    def __call__(self, event: Cost | Progress) -> None:
        self.spent[self.now] += cpu() - self.since
        self.since = cpu()
        what = event.step.removeprefix("measuring ") if isinstance(event, Progress) else ""
        self.now = (True, REST)
        if isinstance(event, Progress) and what != event.step and event.now:
            self.now = what == self.encoder, event.now.partition("/")[0]


def main() -> None:
    suite = "all" if "--all" in ARGUMENTS else "standard"
    encoder = dx.build("encoder", "timm:test_vit?pretrained=false") if SMALLEST else vit_tiny()
    # 12 taps: all blocks but two, embed and norm.
    taps = ["embed", *(f"blocks.{i}" for i in range(1, 2 if SMALLEST else 11)), "norm"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        start = cpu()
        dx.run(encoder, data(), out=out, taps=taps, measures=["knn_probe"], report=False)
        print(f"extraction with controls, and the kNN probe: {cpu() - start:.1f} CPU-s", flush=True)
        clock, start = Clock(encoder.name), cpu()
        run = dx.run(
            encoder,
            data(),
            out=out,
            taps=taps,
            measures=["linear_probe", "rankme"] if SMALLEST else [suite],
            report=False,
            watch=clock,
        )
        clock(Progress("", 0, 0))
        whole = cpu() - start
    for what, why in run.skipped.items():
        print(f"left out: {what}: {why}")
    print(f"{'CPU seconds':28} encoder controls")
    for name in sorted({name for _, name in clock.spent}):
        print(f"{name:28} {clock.spent[True, name]:7.2f} {clock.spent[False, name]:8.2f}", flush=True)
    if suite == "standard":
        finish(verdict("standard suite with controls beyond extraction, CPU seconds", whole, 60))
    print(f"suite {suite}: {whole:.1f} CPU-s")


if __name__ == "__main__":
    main()

"""Measuring a ViT-S while it trains: a measurement's share of the CPU time of the 1,000 steps until the next.

`LayerProfiles` measures `linear_probe` and `rankme` at all taps on 256 samples. A step is what one would write by hand: a
batch of 64 images that is there already, forward, backward, AdamW. Steps cost the same, so 1,000 are reckoned from 50, or
from 4 with --quick. The first measurement counts, with all that is loaded for it; a second says what later ones cost.

50 steps take a quarter of an hour of one core. With a file named, the CPU time of each step is added to it as soon as it is
known, and a call that was ended goes on after the steps in it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn.functional import cross_entropy

import diagnostics as dx

from _common import ARGUMENTS, SMALLEST, cpu, finish, images, verdict

STEPS, BATCH, IMAGES, SIZE = (1, 2, 20, "tiny") if SMALLEST else (50, 64, 512, "small")
QUICK, EVERY, CLASSES = 4, 1000, 10
SHARE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--log", type=Path, help="file with the CPU seconds of each step, one a line")
    args = parser.parse_args(ARGUMENTS)
    steps = QUICK if args.quick else STEPS
    torch.manual_seed(0)
    model = timm.create_model(f"vit_{SIZE}_patch16_224", num_classes=CLASSES)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels, labels = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH) % CLASSES
    data = images(IMAGES)
    data.targets["label"] = dx.Target("label", np.arange(len(data)) % CLASSES)

    start = cpu()
    watch = dx.LayerProfiles(dx.encoder_of(model, data, mean=0.5, std=0.5), data, every=EVERY)
    print(f"setting up: {cpu() - start:.1f} CPU-s, once", flush=True)
    each = [float(line) for line in args.log.read_text().split()] if args.log and args.log.exists() else []
    while len(each) < steps:
        start = cpu()
        loss = cross_entropy(model(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        each.append(cpu() - start)
        if args.log:
            with args.log.open("a") as log:
                print(each[-1], file=log)
    measured: list[float] = []
    for n in (EVERY, 2 * EVERY):
        start = cpu()
        watch.step(n)
        measured.append(cpu() - start)
    step = statistics.median(each)
    taps = watch.profiles.sizes["tap"]
    print(
        f"a step: {step:.2f} CPU-s (median of {len(each)}); measuring {taps} taps: {measured[0]:.1f} CPU-s, then {measured[1]:.1f}"
    )
    finish(verdict(f"a measurement to {EVERY:,} steps of batch {BATCH}, CPU", measured[0] / (EVERY * step), SHARE))


if __name__ == "__main__":
    main()

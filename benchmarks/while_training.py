"""Measuring a ViT-S while it trains: a measurement's share of the CPU time of the 1,000 steps until the next.

`LayerProfiles` measures `linear_probe` and `rankme` at all taps on 256 samples. A step is what one would write by hand: a
batch of 64 images that is there already, forward, backward, AdamW. Steps cost the same, so 1,000 are reckoned from 50, or
from 4 with --quick. The first measurement counts, with all that is loaded for it; a second says what later ones cost.
"""

from __future__ import annotations

import statistics
import sys

import numpy as np
import timm
import torch
from torch.nn.functional import cross_entropy

import diagnostics as dx

from _common import cpu, finish, images, verdict

STEPS, QUICK, EVERY, BATCH, CLASSES = 50, 4, 1000, 64, 10
SHARE = 0.02


def main() -> None:
    steps = QUICK if "--quick" in sys.argv else STEPS
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=CLASSES)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels, labels = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH) % CLASSES
    data = images(512)
    data.targets["label"] = dx.Target("label", np.arange(len(data)) % CLASSES)

    start = cpu()
    watch = dx.LayerProfiles(dx.encoder_of(model, data, mean=0.5, std=0.5), data, every=EVERY)
    print(f"setting up: {cpu() - start:.1f} CPU-s, once", flush=True)
    each: list[float] = []
    for _ in range(steps):
        start = cpu()
        loss = cross_entropy(model(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        each.append(cpu() - start)
    measured: list[float] = []
    for n in (EVERY, 2 * EVERY):
        start = cpu()
        watch.step(n)
        measured.append(cpu() - start)
    step = statistics.median(each)
    taps = watch.profiles.sizes["tap"]
    print(
        f"a step: {step:.2f} CPU-s (median of {steps}); measuring {taps} taps: {measured[0]:.1f} CPU-s, then {measured[1]:.1f}"
    )
    finish(verdict(f"a measurement to {EVERY:,} steps of batch {BATCH}, CPU", measured[0] / (EVERY * step), SHARE))


if __name__ == "__main__":
    main()

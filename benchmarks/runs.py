"""Whole runs against bare forward passes in the same process: the README's main job, and a ViT-S on scenes with dense targets.

A bare pass prepares all samples and computes the output, and keeps nothing. A run with controls passes the encoder and two copies
with other weights, so the main job is held against three. The goals were set when layers were chosen on val: the ViT-S is run so as well.
One thread, so CPU time is what a quiet machine takes at least. `main`: the main job alone; `vit`: the ViT-S alone.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics.encoders.encoder import Encoder
from diagnostics.vocabulary import ChooseOn

from _common import ARGUMENTS, SMALLEST, cpu, finish, verdict

BATCH = 16
SERIES = "lorenz?n=40" if SMALLEST else "lorenz"
VIT = "timm:test_vit?pretrained=false" if SMALLEST else "timm:vit_small_patch16_224?pretrained=false"
SCENES = "shapes?n=20&size=160" if SMALLEST else "shapes?n=200&size=224"
MEASURES = "rankme" if SMALLEST else "standard"


def bare(encoder: Encoder, data: dx.Dataset) -> float:
    """CPU seconds of a pass over all samples."""
    encoder, start = encoder.sized_for(data[0]), cpu()
    with torch.inference_mode():
        for first in range(0, len(data), BATCH):
            batch = default_collate([encoder.preprocess(data[i]) for i in range(first, min(first + BATCH, len(data)))])
            encoder.capture(batch, [encoder.output_tap], lambda *_: None)
    return cpu() - start


def whole(encoder: str, data: str, controls: bool, choose_on: ChooseOn | None) -> float:
    """CPU seconds of a run with its report, the making of its data with it."""
    with tempfile.TemporaryDirectory() as folder:
        start = cpu()
        options: dict[str, Any] = {
            "measures": MEASURES,
            "controls": controls,
            "choose_on": choose_on,
            "watch": dx.silent,
        }
        dx.run(encoder, data, out=Path(folder, "run"), **options)
        return cpu() - start


def main() -> None:
    verdicts = []
    jobs = {
        "main": ("main job", "fracast", SERIES, ((True, None, 3, 1.3),)),
        "vit": ("ViT-S", VIT, SCENES, ((False, None, 1, 2.5), (False, "val", 1, 2.5), (True, None, 1, 5.5))),
    }
    for name, encoder, data, cases in [jobs[key] for key in ARGUMENTS or jobs]:
        built, samples = dx.build("encoder", encoder), dx.build("dataset", data)
        for controls, choose_on, passes, goal in cases:
            before, run, after = bare(built, samples), whole(encoder, data, controls, choose_on), bare(built, samples)
            one = (before + after) / 2
            what = f"{name}, {'with' if controls else 'no'} controls{', chosen on val' if choose_on else ''}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{what}: {run:.1f} CPU-s; a bare pass {before:.1f} and {after:.1f}; up to {peak:.0f} MB", flush=True)
            passed = f"{passes} bare pass{'es' if passes > 1 else ''}"
            verdicts.append(verdict(f"{what}, to {passed}", run / (passes * one), goal))
    finish(*verdicts)


if __name__ == "__main__":
    main()

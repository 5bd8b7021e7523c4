"""The tasks of Perception Encoder that are read from sums, all together: their time beside the passes, and their memory.

Detection, grounding, segmentation and depth of a ViT-S (12 taps of 384, 196 tokens, weights at random): CPU time of each further
image beside that of its passes and of the sums' own products, which are counted alone in the same process; `perception.py 2000` takes as
many images, some 6 minutes. And the stub of `streamed.py` in the shape of PE-L: the peak of memory, and whether it grows with the number of
images. Each run is a process of its own.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from streamed import SHAPES, TINY, stub

import diagnostics as dx
from diagnostics import Dataset, Target
from diagnostics.plugin import pad_boxes, pad_phrases

from _common import ARGUMENTS, SMALLEST, apart, cpu, finish, verdict

FEW, MORE = (10, 12) if SMALLEST else (40, int([*ARGUMENTS, 100][0]))
IMAGES = (10, 12) if SMALLEST else (10, 30, 60)
"""Of the stub: of 30 a gigabyte of tokens is held until they are judged, of 60 none are."""
CLASSES = ("cup", "hat", "key", "pen", "box")


def data(count: int, side: int) -> Dataset:
    """Images with a class and a value for each pixel, and three boxes with a class and a phrase each."""
    rng = np.random.default_rng(0)
    boxes, phrases, extents = list[Any](), list[Any](), [(side, side)] * count
    for _ in range(count):
        corners, sides = rng.uniform(0, side / 2, (3, 2)), rng.uniform(side / 4, side / 2, (3, 2))
        of = rng.permutation(len(CLASSES))[:3]
        boxes.append(np.concatenate([corners, corners + sides, of[:, None]], axis=1))
        phrases.append([(f"the {CLASSES[c]}", row[:4].tolist()) for c, row in zip(of, boxes[-1], strict=True)])
    values, texts = pad_phrases(phrases, extents)
    targets = {
        "scene": Target("token_label", rng.integers(0, len(CLASSES), (count, side, side)), classes=CLASSES),
        "depth": Target("token_value", rng.uniform(1, 2, (count, side, side))),
        "boxes": Target("boxes", pad_boxes(boxes, extents), classes=CLASSES),
        "phrases": Target("phrases", values, classes=texts),
    }
    split = [("train", "train", "train", "val", "test")[i % 5] for i in range(count)]
    samples = rng.integers(0, 255, (count, side, side, 3)).astype(np.uint8)
    return Dataset("noise", "image", samples, [f"s{i}" for i in range(count)], split, targets)


def measured(encoder: Any, samples: Dataset) -> dict[str, float]:
    """CPU seconds of a run, and its peak in GB."""
    measures = ["linear_probe", "segmentation_probe", "detection_probe", "grounding_probe"]
    started = cpu()
    with tempfile.TemporaryDirectory() as folder:
        # Other processes would work uncounted.
        options: dict[str, Any] = {"controls": False, "report": False, "batch_size": 4, "watch": dx.silent, "jobs": 1}
        dx.run(encoder, samples, out=Path(folder) / "run", dense="streamed", measures=measures, **options)
    return {"CPU": cpu() - started, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def vit() -> dict[str, float]:
    """CPU seconds of the tasks of a ViT-S for each further image, and of what a pass does.

    They stand beside those of a pass of one, and of the products of its tokens at all taps.
    """
    name, side = ("vit_tiny_patch16_224?img_size=64&", 64) if SMALLEST else ("vit_small_patch16_224?", 224)
    encoder = dx.build("encoder", f"timm:{name}pretrained=false")
    samples, taps = data(MORE, side), [tap.name for tap in encoder.taps]
    batch = torch.stack([encoder.preprocess(samples[i]) for i in range(4)])
    of_pass, of_run = list[float](), list[float]()
    if not SMALLEST:
        measured(encoder, data(10, side))  # what is imported once counts for none
    # Passes before and after each run, since what else the machine does changes what a pass takes.
    for count in (FEW, MORE, 0):
        started = cpu()
        for _ in range(3):
            encoder.capture(batch, taps, lambda tap, tokens: None)
        of_pass.append((cpu() - started) / 12)
        of_run += [measured(encoder, data(count, side))["CPU"]] if count else []
    few, more = of_run
    each = sum(of_pass) / len(of_pass)
    x = torch.randn(196, 384)
    started = cpu()
    for _ in range(20):
        (x.T @ x).double()
    # Of all tokens, and twice of those in boxes.
    products = (cpu() - started) / 20 * len(taps) * 3 * 0.8
    return {"all": more, "each": (more - few) / (MORE - FEW), "pass": each, "products": products}


def pe_large() -> list[float]:
    """The peaks in GB of the tasks of the stub of PE-L, for few images and after that for more."""
    _, run, side, features, _ = TINY if SMALLEST else SHAPES["PE-L"]
    encoder = stub(run[-1], side, features)
    return [measured(encoder, gray(data(count, 16)))["peak"] for count in IMAGES]


def gray(samples: Dataset) -> Dataset:
    """As the stub reads them, float32 [y, x]."""
    flat = np.stack([samples[i].mean(axis=2) for i in range(len(samples))]).astype(np.float32)
    return Dataset(samples.name, "image", flat, samples.ids, samples.split.tolist(), samples.targets)


def main() -> None:
    found = apart(vit)
    passes = 2.0 * found["pass"]
    print(
        f"ViT-S: {found['each']:.3f} CPU-s for each further image, of which 2 passes are {passes:.3f} and the sums' own products "
        f"{found['products']:.3f}; 2,000 images: {(found['all'] + found['each'] * (2000 - MORE)) / 60:.0f} minutes of a core"
    )
    *few, most = apart(pe_large)
    print(
        f"PE-L: peaks of {', '.join(f'{peak:.2f}' for peak in (*few, most))} GB with {', '.join(map(str, IMAGES))} images"
    )
    finish(
        verdict(
            "ViT-S: time beside the sums, to that of the passes", (found["each"] - found["products"]) / passes, 1.5
        ),
        verdict("PE-L: peak memory in GB", max(*few, most), 4.0),
        verdict("PE-L: peak of most images to that of fewer", most / max(few), 1.1),
    )


if __name__ == "__main__":
    main()

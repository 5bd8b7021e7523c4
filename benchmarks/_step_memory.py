"""Prints the bytes that one training step of a ViT-S adds to this process at its peak: `plain`, or its blocks `recomputed`.

In a process of its own, since a peak never falls again, and without `_common`, which has freed memory kept.
"""

from __future__ import annotations

import resource
import sys

import timm
import torch
from diagnostics_training.trainer.objective import Batch, Objective, World
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import build_optimiser, recomputed, train_step

BATCH = 16


class Small(Objective):
    """A ViT-S at 224 pixels, with any loss."""

    def __init__(self, depth: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = timm.create_model("vit_small_patch16_224", num_classes=10, depth=depth)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.cross_entropy(self.model(batch["x"]), batch["y"])}

    def blocks(self) -> list[torch.nn.Module]:
        return list(self.model.blocks)


def batch(samples: int = BATCH) -> Batch:
    """Noise, the same each time."""
    rng = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(samples, 3, 224, 224, generator=rng),
        "y": torch.randint(10, (samples,), generator=rng),
    }


def most() -> int:
    """Largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def grown(recompute: bool, samples: int = BATCH, depth: int = 12) -> int:
    """What two steps add to this process."""
    torch.set_num_threads(1)
    before = most()
    objective, settings = Small(depth), Settings(steps=10)
    optimiser = build_optimiser(objective, settings)
    with recomputed(objective.blocks() if recompute else ()):
        # The first one makes the optimiser's state.
        for step in range(2):
            train_step(objective, batch(samples), optimiser, settings, step, World())
    return most() - before


if __name__ == "__main__":
    print(grown(sys.argv[1] == "recomputed"))

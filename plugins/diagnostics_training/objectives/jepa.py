"""Joint-embedding prediction: I-JEPA (Assran et al., arXiv 2301.08243) and V-JEPA (Bardes et al., arXiv 2404.08471).

A context encoder sees the patches outside the targets, a predictor, given where the targets are, predicts what a
teacher makes of them from the whole sample. The teacher follows the context encoder as a moving average whose momentum
rises linearly from 0.996 (of trainings of fewer than 2,000 steps from less, so that no more of the initial weights
stays) to 1, and its outputs are layer-normed; the loss is L1, as V-JEPA has it. The teacher is the encoder that is
kept, as in both papers.

`regulariser` adds, on the pooled outputs of the context encoder: `variance`, the hinge of VICReg (Bardes et al., arXiv
2105.04906, equation 1) with weight 1, or `sigreg`, the statistic of LeJEPA (Balestriero and LeCun, arXiv 2511.08544) as
0.05 of the loss.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics_training.models.encoder import EncoderObjective, Filler, Head, Model, Sizes, pick
from diagnostics_training.models.inputs import block_masks
from diagnostics_training.trainer.objective import Batch, gathered

REGULARISERS = ("none", "variance", "sigreg")
MOMENTUM = 0.996
FORGOTTEN = 8.0
"""Over steps: 1 minus the momentum that shorter trainings start with, by which exp(-FORGOTTEN / 2), 2 %, of the initial
weights stay in the teacher; with 0.996 it would be 13 % after 1,000 steps and 82 % after 100."""
SLICES, REACH, KNOTS, SHARE = 256, 5.0, 17, 0.05
"""Of sigreg: directions, from -REACH to REACH in KNOTS points, share of the loss."""


class Jepa(EncoderObjective):
    """`model` holds the teacher and the predictor; `context` is the encoder that is trained."""

    training_options = ("regulariser",)

    def __init__(self, model: Model, *options: Any) -> None:
        super().__init__(model, *options)
        # Spread and distribution are those of a batch.
        self.compares_samples = self.regulariser != "none"
        self.context = copy.deepcopy(model.backbone)
        model.backbone.requires_grad_(False)

    @classmethod
    def head(cls, sizes: Sizes) -> Head:
        return Filler(sizes, sizes.width)

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        seen, targets = block_masks(rng, count, self.sizes.grid)
        return {"seen": seen, "targets": targets}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x, seen, targets = batch["x"], batch["seen"], batch["targets"]
        predictor, blocks = self.model.head, targets.shape[1]
        assert isinstance(predictor, Filler)
        context = self.context(x, seen)
        # Each block by itself, as in I-JEPA.
        wanted = targets.flatten(0, 1)
        tokens, places = (part.repeat_interleave(blocks, 0) for part in (context, seen))
        predicted = predictor.fill(tokens, self.sizes.grid, places, wanted)
        with torch.no_grad():
            taught = self.model.backbone(x)
            taught = nn.functional.layer_norm(taught.float(), taught.shape[-1:])
            true = pick(taught, targets.flatten(1)).reshape(predicted.shape)
        prediction = (predicted.float() - true).abs().mean()
        if self.regulariser == "none":
            return {"loss": prediction}
        pooled = gathered(context.float().mean(1))
        if self.regulariser == "variance":
            extra = variance(pooled)
            loss = prediction + extra
        else:
            extra = sigreg(pooled)
            loss = (1 - SHARE) * prediction + SHARE * extra
        return {"loss": loss, "prediction": prediction, self.regulariser: extra}

    @torch.no_grad()
    def after_step(self, done: int, total: int) -> None:
        """teacher = m teacher + (1 - m) context."""
        follow(list(self.model.backbone.parameters()), list(self.context.parameters()), momentum(done, total))


def momentum(done: int, total: int) -> float:
    """Of the update after step `done` of `total`, counted from 1."""
    start = max(0.0, min(MOMENTUM, 1 - FORGOTTEN / total))
    return start + (1 - start) * (done - 1) / total


def follow(teacher: list[Tensor], student: list[Tensor], momentum: float) -> None:
    """The teacher's tensors moved towards the student's, in place."""
    for mine, theirs in zip(teacher, student, strict=True):
        mine.lerp_(theirs, 1 - momentum)


def variance(rows: Tensor) -> Tensor:
    """Mean over features of max(0, 1 - standard deviation over rows [n, F])."""
    return torch.relu(1 - (rows.var(0) + 1e-4).sqrt()).mean()


def sigreg(rows: Tensor) -> Tensor:
    """Distance of rows [n, F] from a standard Gaussian.

    n times the integral of |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2) over t, phi the empirical characteristic function along
    a random direction, mean over directions (Epps and Pulley, 1983).

    Directions are drawn from torch's generator of the CPU, afresh each step.
    """
    directions = torch.randn(rows.shape[1], SLICES).to(rows)
    with torch.autocast(rows.device.type, enabled=False):
        along = rows @ (directions / directions.norm(dim=0))
    t = torch.linspace(-REACH, REACH, KNOTS, device=rows.device, dtype=rows.dtype)
    angle = along[..., None] * t
    gauss = torch.exp(-t.square() / 2)
    apart = (angle.cos().mean(0) - gauss).square() + angle.sin().mean(0).square()
    return len(rows) * torch.trapezoid(apart * gauss, t, dim=-1).mean()

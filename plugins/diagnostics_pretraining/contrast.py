"""The contrast of images and texts (Radford et al., CLIP, arXiv 2103.00020): softmax InfoNCE both ways, over all processes."""

from __future__ import annotations

import math

import torch
from diagnostics_training.trainer.distributed import gathered, own
from torch import Tensor, nn

MOST_SCALE = 100.0
"""The learned scale of the cosines never exceeds it."""


def contrast(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Half the mean of -log softmax of an image's own text among all texts, and half that of a text's own image, a scalar.

    images, texts: embeddings [pair, feature] of this process's pairs, of any length; the cosines are multiplied by
    exp(log_scale). The others are those of all processes, with gradients to them: where data parallelism averages the gradients
    of the processes, they are those of the whole batch's loss.
    """
    # Logits of up to 100 lose too much in bfloat16, to which autocast would take their products.
    with torch.autocast(images.device.type, enabled=False):
        images = nn.functional.normalize(images.float(), dim=-1)
        texts = nn.functional.normalize(texts.float(), dim=-1)
        places = own(len(images))
        positives = torch.arange(places.start, places.stop, device=images.device)
        scale = log_scale.float().exp()
        losses = [
            nn.functional.cross_entropy(scale * anchors @ others.T, positives)
            for anchors, others in ((images, gathered(texts)), (texts, gathered(images)))
        ]
        return (losses[0] + losses[1]) / 2


@torch.no_grad()
def clamp_scale(log_scale: Tensor) -> None:
    """Holds the scale at 100 or below, in place, after each step of the optimiser: in the loss it would lose its gradient."""
    log_scale.clamp_(max=math.log(MOST_SCALE))


def equal_texts(tokens: Tensor) -> int:
    """How many texts of a batch [pair, context] are equal to another one of it: each is a false negative of that one."""
    counts = tokens.unique(dim=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())

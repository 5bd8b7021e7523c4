"""The losses of pretraining and alignment, as functions of embeddings or tokens alone: for any training loop."""

import math
from collections.abc import Callable, Sequence

import torch
from diagnostics_training.alignment.spatial import relation_loss
from diagnostics_training.trainer.objective import gathered, own
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["clamp_scale", "contrast", "divergences", "regularisation", "relation_loss"]

# Losses over all pairs of a batch, some rows at a time.

BLOCK = 2**22
"""Similarities that are held at a time, and computed once more for the gradient: all those of 16,384 pairs would take 2
GiB a matrix, and more than one is needed.
"""


def _by_blocks(loss: Callable[..., Tensor], others: int, *sides: Tensor) -> Tensor:
    """The mean over rows of a loss that gives the sum over some rows, each of which has so many similarities."""
    rows = max(1, BLOCK // others)
    if len(sides[0]) <= rows:
        return loss(*sides) / len(sides[0])
    blocks = zip(*(side.split(rows) for side in sides), strict=True)
    return torch.stack([checkpoint(loss, *block, use_reentrant=False) for block in blocks]).sum() / len(sides[0])


def contrast(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Softmax InfoNCE both ways, over all processes, a scalar (Radford et al., CLIP, arXiv 2103.00020).

    Half the mean of -log softmax of an image's own text among all texts, and half that of a text's own image.

    images, texts: embeddings [pair, feature] of this process's pairs, of any length; the cosines are multiplied by
    exp(log_scale). The others are those of all processes, with gradients to them: where data parallelism averages the
    gradients of the processes, they are those of the whole batch's loss.
    """
    # Logits of up to 100 lose too much in bfloat16, to which autocast would take their products.
    with torch.autocast(images.device.type, enabled=False):
        images = nn.functional.normalize(images.float(), dim=-1)
        texts = nn.functional.normalize(texts.float(), dim=-1)
        places = own(len(images))
        positives = torch.arange(places.start, places.stop, device=images.device)
        scale = log_scale.float().exp()

        def one_way(anchors: Tensor, others: Tensor) -> Tensor:
            def loss(rows: Tensor, positive: Tensor) -> Tensor:
                return nn.functional.cross_entropy(scale * rows @ others.T, positive, reduction="sum")

            return _by_blocks(loss, len(others), anchors, positives)

        return (one_way(images, gathered(texts)) + one_way(texts, gathered(images))) / 2


MOST_SCALE = 100.0
"""The learned scale of the cosines never exceeds it."""


@torch.no_grad()
def clamp_scale(log_scale: Tensor) -> None:
    """Hold the scale at 100 or below, in place, after each step of the optimiser.

    In the loss it would lose its gradient.
    """
    log_scale.clamp_(max=math.log(MOST_SCALE))


def regularisation(masked: Tensor, whole: Tensor, hidden: Tensor) -> Tensor:
    """Minus the cosine of tokens [image, patch, feature] with those of the whole image, their mean.

    They are those at hidden patches, and the same ones of the whole image.

    The whole image's tokens are the target and get no gradient. hidden: bool [image, patch].
    """
    with torch.autocast(masked.device.type, enabled=False):
        cosines = nn.functional.cosine_similarity(masked.float(), whole.detach().float(), dim=-1)
        return -(cosines * hidden).sum() / hidden.sum()


# The similarities that a frozen pair of encoders finds between the images and texts of a batch.
#
# Bolya et al., Perception Encoder (arXiv 2504.13181), section 2.4 and appendix C.2: both Kullback-Leibler divergences,
# of the softmax over texts and of that over images, from a teacher whose scale is fixed to a student whose scale is
# learned.


TEACHER_SCALE = 200.0
"""What multiplies the teacher's cosines, whatever it was trained with: half the temperature that a student can
reach.
"""


def divergences(
    images: Tensor, texts: Tensor, log_scale: Tensor, taught_images: Tensor, taught_texts: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of the softmax over all texts, and of that over all images.

    Means over this process's images, and over its texts; two scalars, in nats.

    images, texts: the student's embeddings [pair, feature], of any length; its cosines are multiplied by
    exp(log_scale). taught_images, taught_texts: the teacher's [pair, its feature], whose cosines are multiplied by
    `TEACHER_SCALE`. The others of a softmax are those of all processes, with gradients to the student's.
    """
    with torch.autocast(images.device.type, enabled=False):
        student = [nn.functional.normalize(side.double(), dim=-1) for side in (images, texts)]
        teacher = [nn.functional.normalize(side.detach().double(), dim=-1) for side in (taught_images, taught_texts)]
        return _divergence(student, teacher, log_scale), _divergence(student[::-1], teacher[::-1], log_scale)


def _divergence(student: Sequence[Tensor], teacher: Sequence[Tensor], log_scale: Tensor) -> Tensor:
    """KL(teacher || student), mean over the first side's rows, of unit vectors in float64.

    A cosine's rounding in float32 is multiplied by 200 and more, and the two logarithms are nearly alike.
    """
    given, wanted = gathered(student[1]), gathered(teacher[1])

    def loss(anchors: Tensor, taught: Tensor) -> Tensor:
        expected = (TEACHER_SCALE * taught @ wanted.T).log_softmax(-1)
        reached = (log_scale.double().exp() * anchors @ given.T).log_softmax(-1)
        return (expected.exp() * (expected - reached)).sum()

    return _by_blocks(loss, len(given), student[0], teacher[0])

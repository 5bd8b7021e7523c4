"""The objective of spatial alignment: an output taught by an earlier tap, and by a teacher of which places belong together.

Perception Encoder (Bolya et al., arXiv 2504.13181, section 5). Equation 2 is printed with the wrong sign, as its authors confirmed:
the cosine to the tap is raised. Equation 3 compares the cosines of all pairs of the student's tokens with those of the teacher,
which alone are sharpened.

Shape suffixes: B sample, T token, F feature, M what a teacher of relations tells of a token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diagnostics import TorchEncoder
from diagnostics_training.alignment.objective import Alignment
from diagnostics_training.alignment.relations.base import Relations
from diagnostics_training.alignment.teachers import OWN, Teacher
from diagnostics_training.trainer.objective import Batch

SHARPNESS = 20.0
"""Of the teacher's cosines: one of 0.95 counts as 0.37, one of 0.5 as nothing."""
BLOCK_BYTES = 2**28
"""What the pairs of a block of samples may take in one matrix."""


class SpatialAlignment(Alignment):
    """Minus the mean cosine to each teacher's tokens, plus how far the cosines of all pairs of grid tokens are from the relations
    that a further teacher tells; each with weight 1, over all tokens, hidden or not.

    Nothing is trained but the student, and maps where a teacher has another width.

    teachers: none, where relations alone teach.
    relations: a teacher of relations, which is no part of this module.
    """

    def __init__(
        self, student: TorchEncoder, teachers: Sequence[Teacher], relations: Relations, section: str = OWN
    ) -> None:
        super().__init__(student, teachers, section)
        self.relations = relations

    def values(self, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
        values = super().values(tokens, batch)
        grid = tokens[:, self.tap.grid.prefix :]
        off = relation_loss(grid, self.relations.relations(batch), self.valid(batch))
        return {**values, "loss": values["loss"] + off, "relations": off}


def sharpened(cosine: Tensor) -> Tensor:
    """A teacher's cosines, brought nearer to 0 the further they are from 1: exp(20 (cosine - 1))."""
    return torch.exp(SHARPNESS * (cosine - 1))


def relation_loss(tokens_BTF: Tensor, relations_BTM: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over samples of the mean over pairs of tokens of (cos(S_i, S_j) - g(cos(M_i, M_j)))^2, g `sharpened`; in float32.

    Pairs of a token with itself count too. A token that is not `valid` (bool [B, T]), or of which the teacher knows nothing (all
    its numbers are 0), is in no pair. One float32 matrix [T, T] of each sample is kept for the gradient, and two more for each
    sample of a block while it is computed. It is 0 only where groups are clear: a student that is its own teacher pays for
    every cosine between 0 and 1.
    """
    with torch.autocast(tokens_BTF.device.type, enabled=False):
        relations = relations_BTM.detach().float()
        known = (relations != 0).any(-1)
        if valid is not None:
            known = known & valid
        student, teacher = (
            nn.functional.normalize(tokens_BTF.float(), dim=-1),
            nn.functional.normalize(relations, dim=-1),
        )
        size = max(1, BLOCK_BYTES // (4 * student.shape[1] ** 2))
        blocks = zip(student.split(size), teacher.split(size), known.split(size), strict=True)
        return torch.cat([_of_block(*block) for block in blocks]).mean()


def _of_block(student_BTF: Tensor, teacher_BTM: Tensor, known_BT: Tensor) -> Tensor:
    """The mean over pairs of each sample, [B]."""
    with torch.no_grad():
        wanted = teacher_BTM @ teacher_BTM.mT
        wanted = wanted.sub_(1).mul_(SHARPNESS).exp_()
    off = (student_BTF @ student_BTF.mT).sub_(wanted)
    weight = known_BT.to(off.dtype)
    # Weights of pairs are products, so that no matrix of them is needed.
    total = (weight[:, None] @ off.square() @ weight[..., None]).flatten()
    return total / weight.sum(1).square().clamp(min=1)

"""The objective of alignment: an encoder's tokens taught by those of frozen encoders.

Spatial alignment of Perception Encoder (Bolya et al., arXiv 2504.13181, section 5): the student begins as a copy of the frozen
teacher, and the mean over tokens of the cosine between its output and the teacher's tokens at the tap is raised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, TorchEncoder
from diagnostics_training.alignment.layer_scale import DropPath
from diagnostics_training.alignment.teachers import OWN, Teacher, agreement, check_grids, section_of, taught
from diagnostics_training.trainer.objective import Batch, Objective


class Alignment(Objective):
    """Minus the mean over tokens and samples of the cosine to each teacher, times the teacher's weight, summed.

    Only DropPath behaves as in training: dropout is off and batch norm keeps its statistics, so that the student is the encoder
    that will be used. Teachers are no parts of this module: nothing can train them, and checkpoints hold none.

    student: its module is trained in place, all parameters of it that its output tap depends on.
    section: under which name the batch holds what it reads.
    parts: its residual blocks, which can be computed once more for the gradient.
    """

    def __init__(self, student: TorchEncoder, teachers: Sequence[Teacher], section: str = OWN) -> None:
        super().__init__()
        self.student, self.teachers, self.section = student, tuple(teachers), section
        self.tap = student.tap(student.output_tap)
        self.module = student.module
        self.parts: Sequence[nn.Module] = ()
        for teacher in teachers:
            check_grids(self.tap, student.name, teacher)
        self.maps = nn.ModuleList(
            nn.Linear(self.tap.features, teacher.tap.features, bias=False) if teacher.mapped else nn.Identity()
            for teacher in teachers
        )

    def tokens(self, batch: Batch) -> Tensor:
        """The student's [B, T, F], with gradients."""
        read = section_of(batch, self.section)
        return self.student.capture(read, [self.tap.name], gradient=True)[self.tap.name]

    def valid(self, batch: Batch) -> Tensor | None:
        """Which of the student's grid tokens stand for data, bool [B, T]; None where all do."""
        return self.student.valid(section_of(batch, self.section), self.tap)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.values(self.tokens(batch), batch)

    def values(self, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and each teacher's cosine, of the student's tokens."""
        valid = self.valid(batch)
        cosines = [
            agreement(change(tokens), self.tap, taught(teacher, batch), teacher.tap, valid)
            for teacher, change in zip(self.teachers, self.maps, strict=True)
        ]
        loss = tokens.new_zeros((), dtype=torch.float32)
        for teacher, cosine in zip(self.teachers, cosines, strict=True):
            loss = loss - teacher.weight * cosine
        return {"loss": loss, **{"cosine" if i == 0 else f"cosine_{i + 1}": cosine for i, cosine in enumerate(cosines)}}

    def output(self, batch: Batch) -> Tensor:
        tokens = self.student.capture(section_of(batch, self.section), [self.tap.name])[self.tap.name]
        return tokens[:, self.tap.grid.prefix :].float().mean(1)

    def blocks(self) -> Sequence[nn.Module]:
        return self.parts

    def train(self, mode: bool = True) -> Alignment:
        super().train(mode)
        self.module.eval()
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.train(mode)
        return self

    def free(self, batch: Batch) -> None:
        """Has gradients required of what the output depends on; raises where that is nothing."""
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        try:
            self(batch)["loss"].backward()
        except RuntimeError as error:
            raise DiagnosticsError(
                f"No gradient can be followed through {self.student.name} ({' '.join(str(error).split())[:200]}): it cannot be "
                "aligned."
            ) from error
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.maps.zero_grad()

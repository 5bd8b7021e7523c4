"""Language alignment: a decoder answers questions from an encoder's tokens, and the encoder learns what that asks of it.

Bolya et al., Perception Encoder (arXiv 2504.13181), section 4: tokens of a tap go through a projector into a decoder, in front of
the text. First the projector learns alone, then the encoder with it, with LayerScale and DropPath.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import TorchEncoder
from diagnostics_training.alignment.layer_scale import DropPath
from diagnostics_training.alignment.objective import Alignment
from diagnostics_training.alignment.teachers import section_of
from diagnostics_training.language.decoder import Decoder
from diagnostics_training.language.pairs import IGNORED
from diagnostics_training.language.projector import TAP, projector_of
from diagnostics_training.trainer.objective import Batch


class Language(Alignment):
    """Cross entropy of an answer's tokens, its end among them, given the sample's tokens and the question; the mean over an answer,
    then over the batch.

    What the decoder reads: its start, the projected grid tokens that stand for data, the question, the answer. No encoder teaches,
    and only DropPath behaves as in training. A decoder that is not trained is no part of this module: nothing can train it, and
    checkpoints hold none of it.

    student: its output is the tap that learns, and it has a projector as a head (`projector.with_projector`); trained in place.
    alone: for how many steps the encoder does not learn, but the projector alone, and a decoder that begins with random weights.
    held_out: a batch of questions that `evaluate` asks; None for none.
    """

    phases = True

    def __init__(
        self,
        student: TorchEncoder,
        decoder: Decoder,
        train_decoder: bool = False,
        alone: int = 0,
        held_out: Batch | None = None,
    ) -> None:
        super().__init__(student, ())
        self.decoder, self.alone, self.held_out = decoder, alone, held_out
        self.trained_decoder = decoder.module if train_decoder else None
        decoder.module.requires_grad_(train_decoder)
        self.later: list[nn.Parameter] = []
        self.all_learn = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.scored(batch, gradient=True)

    def evaluate(self, step: int) -> dict[str, float]:
        """`loss` and `right` of the questions that are held out."""
        if self.held_out is None:
            return {}
        device = next(self.parameters()).device
        held_out = {key: value.to(device) for key, value in self.held_out.items()}
        return {key: float(value) for key, value in self.scored(held_out).items()}

    def scored(self, batch: Batch, gradient: bool = False) -> dict[str, Tensor]:
        """`loss`, and the share of answers that are `right`."""
        shown = self.shown(section_of(batch, self.section), gradient)
        lost, right = self.answered(shown, batch["ids"], batch["labels"])
        return {"loss": lost.mean(), "right": right.float().mean()}

    def shown(self, read: Any, gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """What the decoder is shown of samples, [B, K, width], and which of it stands for data (None: all)."""
        tokens = self.student.capture(read, [TAP], gradient=gradient)[TAP]
        return tokens, self.student.valid(read, self.student.tap(TAP))

    def answered(
        self, shown: tuple[Tensor, Tensor | None] | None, ids: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of each question [B, L] with its labels: the loss of its answer, in nats a token, and whether the decoder would give this
        answer and no more, always taking the likeliest token. Nothing of a sample is shown where `shown` is None.

        An answer is right where each of its tokens is the likeliest after those before it, so one pass tells.
        """
        decoder = self.decoder
        start = torch.full((len(ids), 1), decoder.start, device=ids.device)
        text = decoder.embedded(torch.cat([start, ids], dim=1))
        parts, labels = [text], nn.functional.pad(labels, (1, 0), value=IGNORED)
        valid = None
        if shown is not None:
            tokens, valid = shown
            parts = [text[:, :1], tokens.to(text.dtype), text[:, 1:]]
            unlabelled = torch.full(tokens.shape[:2], IGNORED, device=ids.device)
            labels = torch.cat([labels[:, :1], unlabelled, labels[:, 1:]], dim=1)
        sequence, last = torch.cat(parts, dim=1), ids.shape[1] + 1
        if valid is not None:
            sequence, labels, last = _without_gaps(sequence, labels, valid)
        logits = decoder.logits(sequence, last)[:, :-1].float()
        wanted = labels[:, labels.shape[1] - last + 1 :]
        lost = nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=IGNORED
        )
        asked = wanted != IGNORED
        # Answers have one token at least: their end.
        lost = (lost.reshape(wanted.shape) * asked).sum(1) / asked.sum(1)
        return lost, ((logits.argmax(-1) == wanted) | ~asked).all(1)

    def blocks(self) -> Sequence[nn.Module]:
        return [*super().blocks(), *self.decoder.blocks]

    def to(self, *args: Any, **kwargs: Any) -> Language:
        """As of any module; a decoder that is no part of this one comes along."""
        self.decoder.module.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> Language:
        super().train(mode)
        if self.trained_decoder is not None:
            self.trained_decoder.eval()
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.train(mode and self.all_learn)
        return self

    def before_step(self, step: int) -> None:
        """In the first `alone` steps what stands before the encoder's turn learns, then everything that is trained."""
        self.all_learn = step >= self.alone
        for parameter in self.later:
            parameter.requires_grad_(self.all_learn)
        self.train(self.training)

    def free(self, batch: Batch) -> None:
        """Has gradients required of what the answers depend on; raises where that is nothing."""
        super().free(batch)
        for parameter in () if self.trained_decoder is None else self.trained_decoder.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        first: list[nn.Module] = [projector_of(self.module)]
        if self.decoder.random and self.trained_decoder is not None:
            first.append(self.trained_decoder)
        alone = {id(parameter) for part in first for parameter in part.parameters()}
        self.later = [p for p in self.parameters() if p.requires_grad and id(p) not in alone]


def _without_gaps(sequence: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, int]:
    """Sequences whose tokens that stand for no data have gone to the end, where a causal decoder does not see them, their labels,
    and from which token on labels may be found, counted from the end."""
    kept = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    kept[:, 1 : 1 + valid.shape[1]] = valid
    order = (~kept).byte().argsort(dim=1, stable=True)
    sequence = sequence.gather(1, order[..., None].expand_as(sequence))
    return sequence, labels.gather(1, order), sequence.shape[1]

"""Towers that learn the similarities which a frozen pair of encoders finds between the images and texts of a batch.

Bolya et al., Perception Encoder (arXiv 2504.13181), section 2.4 and appendix C.2: both Kullback-Leibler divergences, of the softmax
over texts and of that over images, from a teacher whose scale is fixed to a student whose scale is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from diagnostics_training.alignment.objective import put_section, section_of
from diagnostics_training.trainer.objective import Batch, Objective, gathered
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import default_collate

from diagnostics.plugin import DiagnosticsError, TorchEncoder
from diagnostics_pretraining.objective import clamp_scale, cut_padding
from diagnostics_pretraining.towers import Towers

if TYPE_CHECKING:
    from diagnostics_pretraining.feed import Feed
    from diagnostics_pretraining.towers import Pair

TEACHER_SCALE = 200.0
"""What multiplies the teacher's cosines, whatever it was trained with: half the temperature that a student can reach."""
BLOCK = 2**22
"""Similarities that are held at a time, and computed once more for the gradient: all those of 16,384 pairs would take 2 GiB a matrix."""
IMAGES, TEXTS = "teacher_images", "teacher_texts"
"""The sections of a batch that hold what the teacher reads."""


def divergences(
    images: Tensor, texts: Tensor, log_scale: Tensor, taught_images: Tensor, taught_texts: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of the softmax over all texts, mean over this process's images, and of that over all images, mean over
    its texts; two scalars, in nats.

    images, texts: the student's embeddings [pair, feature], of any length; its cosines are multiplied by exp(log_scale).
    taught_images, taught_texts: the teacher's [pair, its feature], whose cosines are multiplied by `TEACHER_SCALE`. The others of a
    softmax are those of all processes, with gradients to the student's.
    """
    with torch.autocast(images.device.type, enabled=False):
        student = [nn.functional.normalize(side.double(), dim=-1) for side in (images, texts)]
        teacher = [nn.functional.normalize(side.detach().double(), dim=-1) for side in (taught_images, taught_texts)]
        losses: list[Tensor] = []
        for one, other in ((0, 1), (1, 0)):
            given, wanted = gathered(student[other]), gathered(teacher[other])
            rows = max(1, BLOCK // len(given))
            blocks = [
                checkpoint(_divergence, anchors, given, log_scale, taught, wanted, use_reentrant=False)
                for anchors, taught in zip(student[one].split(rows), teacher[one].split(rows), strict=True)
            ]
            losses.append(torch.stack(blocks).sum() / len(student[one]))
        return losses[0], losses[1]


def _divergence(anchors: Tensor, given: Tensor, log_scale: Tensor, taught: Tensor, wanted: Tensor) -> Tensor:
    """The sum over some anchors of KL(teacher || student), of unit vectors in float64: a cosine's rounding in float32 is multiplied by
    200 and more, and the two logarithms are nearly alike."""
    teacher = (TEACHER_SCALE * taught @ wanted.T).log_softmax(-1)
    student = (log_scale.double().exp() * anchors @ given.T).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum()


class Teacher:
    """A frozen pair of encoders: images and texts as they read them, and their embeddings. Any two encoders whose embeddings have
    the same width; read at their `head` where they have one, else at their output, as the mean of its grid tokens.

    Raises DiagnosticsError for encoders of other samples than images and texts, and for embeddings of two widths.
    """

    def __init__(self, pair: Pair) -> None:
        self.image, self.text = pair.image, pair.text
        for encoder, wanted in ((self.image, "image"), (self.text, "text")):
            if encoder.modality != wanted:
                raise DiagnosticsError(
                    f"Teacher {encoder.name} reads {encoder.modality} samples where {wanted} samples are taught: name a folder that "
                    "`diagnostics train pe` wrote."
                )
        widths = [encoder.tap(_read_at(encoder)).features for encoder in (self.image, self.text)]
        if widths[0] != widths[1]:
            raise DiagnosticsError(
                f"Teacher {self.image.name} embeds images in {widths[0]} features and texts in {widths[1]}, so they have no cosine: name "
                "a pair that was trained together."
            )

    def prepared(self, samples: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, Tensor]:
        """Raw images and texts as parts of a batch."""
        images = default_collate([self.image.preprocess(sample) for sample in samples])
        read = default_collate([self.text.preprocess(np.asarray(text)) for text in texts])
        return put_section(IMAGES, images) | put_section(TEXTS, read)

    def embeddings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of the images and of the texts of a batch, [pair, feature] each, without gradients."""
        return _embeddings(self.image, section_of(batch, IMAGES)), _embeddings(self.text, section_of(batch, TEXTS))

    @property
    def weights(self) -> str:
        """Digests of both encoders' weights."""
        return f"{self.image.identity['weights']} {self.text.identity['weights']}"

    def to(self, device: str | torch.device) -> Teacher:
        """On a device, for good."""
        self.image.module.to(device)
        self.text.module.to(device)
        return self


def _read_at(encoder: TorchEncoder) -> str:
    return next((tap.name for tap in encoder.taps if tap.name == "head"), encoder.output_tap)


def _embeddings(encoder: TorchEncoder, read: object) -> Tensor:
    tap = encoder.tap(_read_at(encoder))
    return encoder.capture(read, [tap.name])[tap.name][:, tap.grid.prefix :].mean(1)


class Distillation(Objective):
    """The mean of both divergences. The teacher is no part of this module: nothing can train it, and checkpoints hold none."""

    compares_samples = True

    def __init__(self, towers: Towers, teacher: Teacher) -> None:
        super().__init__()
        self.towers, self.teacher = towers, teacher

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        towers = self.towers
        texts, images = divergences(
            towers.embed_images(batch["pixels"]),
            towers.embed_texts(batch["tokens"]),
            towers.log_scale,
            *self.teacher.embeddings(batch),
        )
        return {
            "loss": (texts + images) / 2,
            "over_texts": texts.detach(),
            "over_images": images.detach(),
            "scale": towers.log_scale.detach().exp(),
        }

    def output(self, batch: Batch) -> Tensor:
        return nn.functional.normalize(self.towers.embed_images(batch["pixels"]).float(), dim=-1)

    def blocks(self) -> Sequence[nn.Module]:
        return [*self.towers.image.blocks, *self.towers.text.transformer.resblocks]

    def after_step(self, done: int, total: int) -> None:
        clamp_scale(self.towers.log_scale)


class TaughtBatches:
    """A feed's batches, with the same images (of data that are clips, first frames) and texts as the teacher reads them: no clips, and
    nothing changed or hidden in the images, of which the teacher's would know nothing."""

    def __init__(self, feed: Feed, teacher: Teacher) -> None:
        self.feed, self.teacher = feed, teacher
        self.ids = feed.ids

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        # Read once for both: decoding an image may take longer than all that follows.
        samples = self.feed.samples(step, rank, world)
        batch = self.feed.collate(samples, step)
        batch["tokens"] = cut_padding(batch["tokens"])
        clips = self.feed.dataset.modality == "video"
        images = [clip[0] for clip in samples.raw] if clips else samples.raw
        return batch | self.teacher.prepared(images, samples.texts)

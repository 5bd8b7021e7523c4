"""An alignment's batches: a section for each teacher's input, and one for the student's, which may see less.

Cells are hidden at random in raw samples, whatever the encoder. Series and audio: windows of a sixteenth of the length take
the mean of the series (of each variate). Images: of 8 x 8 cells, hidden ones are grey (128). Clips: the same cells in all
frames. What an encoder norms by a sample's own mean and deviation it then norms by those of what is left.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics import Dataset, DiagnosticsError, Encoder
from diagnostics_training.alignment.teachers import OWN, Teacher, put_section
from diagnostics_training.trainer.data import EpochOrder

WINDOWS, CELLS, GREY = 16, 8, 128
MASKED = "masked"
"""The section of a batch that holds samples of which something is hidden."""
MODALITIES = ("series", "audio", "image", "video")


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch, with a section for whoever reads another input."""

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        student: Encoder,
        teachers: Sequence[Teacher],
        batch: int,
        mask: float,
        seed: int,
    ) -> None:
        self.dataset, self.student, self.mask, self.seed = dataset, student, mask, seed
        self.order = EpochOrder(rows, batch, seed)
        self.readers = _readers(student, teachers, mask)

    def read_by(self, teachers: Sequence[Teacher]) -> Feed:
        """The same batches for other teachers."""
        feed = copy.copy(self)
        feed.readers = _readers(self.student, teachers, self.mask)
        return feed

    @property
    def section(self) -> str:
        """What the student reads."""
        return MASKED if self.mask else OWN

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, first = self.order.part(step, rank, world)
        samples = [self.dataset[int(row)] for row in rows]
        batch: dict[str, Tensor] = {}
        for section, encoder in self.readers.items():
            batch |= self._section(section, encoder, samples)
        if self.mask:
            rngs = [np.random.default_rng([self.seed, 1, step, first + i]) for i in range(own.start, own.stop)]
            less = [hidden(self.dataset.modality, s, self.mask, rng) for s, rng in zip(samples, rngs, strict=True)]
            batch |= self._section(MASKED, self.student, less)
        return batch

    def _section(self, name: str, encoder: Encoder, samples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        return put_section(name, default_collate([encoder.preprocess(sample) for sample in samples]))


def _readers(student: Encoder, teachers: Sequence[Teacher], mask: float) -> dict[str, Encoder]:
    """Who preprocesses for each section: one where several teachers read the same, and the student's own where nothing is
    hidden from it."""
    readers: dict[str, Encoder] = {teacher.section: teacher.encoder for teacher in teachers}
    return readers if mask else {OWN: student, **readers}


def hidden(modality: str, sample: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A copy of a raw sample with this share of its cells hidden: at least one, and not all."""
    if modality in ("series", "audio"):
        which = _chosen((min(WINDOWS, len(sample)),), (len(sample),), share, rng)
        values = np.array(sample, np.result_type(sample.dtype, np.float32))
        known = np.isfinite(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, values, 0).sum(0) / known.sum(0)
        # What was never observed stays so.
        values[which] = np.where(known[which], mean, values[which])
        return values
    y = {"image": 0, "video": 1}.get(modality)
    if y is None:
        raise DiagnosticsError(f"Nothing stands for a hidden piece of {modality}: leave --mask out.")
    extent = sample.shape[y : y + 2]
    which = _chosen((min(CELLS, extent[0]), min(CELLS, extent[1])), extent, share, rng)
    pixels = np.array(sample)
    pixels[(slice(None),) * y + (which,)] = GREY
    return pixels


def _chosen(cells: tuple[int, ...], extent: tuple[int, ...], share: float, rng: np.random.Generator) -> np.ndarray:
    """Which places [*extent] lie in hidden cells, bool."""
    count = int(np.prod(cells))
    drawn = np.zeros(count, bool)
    drawn[rng.permutation(count)[: min(max(1, round(share * count)), max(1, count - 1))]] = True
    drawn = drawn.reshape(cells)
    for axis, (n, size) in enumerate(zip(cells, extent, strict=True)):
        drawn = np.take(drawn, np.arange(size) * n // size, axis)
    return drawn

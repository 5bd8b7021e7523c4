"""Batches of an alignment: what is changed at random in its pictures, and samples as student and teachers see them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.plugin import Dataset, DiagnosticsError, Encoder, Tap, refuse_values
from diagnostics_training.alignment.objective import OWN, Teacher, put_section
from diagnostics_training.models.inputs import LUMA
from diagnostics_training.trainer.data import EpochOrder

# The augmentation of spatial alignment: one view of an image, seen by the student and by every teacher.
#
# As in Perception Encoder (Bolya et al., arXiv 2504.13181, appendix B.3.1): aspect, brightness and saturation, mirror,
# and no random crop. The aspect is changed by the largest centred box of another one, brought to the image's size. What
# stands in a view and where is known, so that masks, or maps that were computed of the whole image, are taken from the
# same places.


ASPECT, COLOUR = 4 / 3, 0.32

Part = tuple[tuple[float, float], tuple[float, float]]
"""(start, stop) of the rows and of the columns of an image, in pixels; a start beyond its stop is a part in mirror
writing.
"""


@dataclass(frozen=True)
class View:
    """A part of an image, from `start` to `stop` as shares of (rows, columns), in other colours.

    Columns that begin beyond their stop are mirrored.
    """

    start: tuple[float, float] = (0.0, 0.0)
    stop: tuple[float, float] = (1.0, 1.0)
    brightness: float = 1.0
    saturation: float = 1.0

    def image(self, sample: np.ndarray) -> np.ndarray:
        """The view of a raw image [y, x] or [y, x, channel], in its own size and type."""
        extent = sample.shape[:2]
        pixels = torch.from_numpy(np.atleast_3d(sample)).float().permute(2, 0, 1)
        part = self.part(((0.0, extent[0]), (0.0, extent[1])), extent)
        seen = (sampled(pixels[None], [part], extent)[0] * self.brightness).clamp(0, 255)
        if len(seen) == 3:
            grey = torch.tensordot(torch.tensor(LUMA), seen, 1)
            seen = grey + self.saturation * (seen - grey)
        return seen.round().clamp(0, 255).permute(1, 2, 0).numpy().reshape(sample.shape).astype(sample.dtype)

    def part(self, seen: Sequence[tuple[float, float]], extent: Sequence[int]) -> Part:
        """The part of an image of that extent that lies where `seen` is in the view of it; both in pixels."""
        rows, columns = (
            (n * start + low * (stop - start), n * start + high * (stop - start))
            for (low, high), n, start, stop in zip(seen, extent, self.start, self.stop, strict=True)
        )
        return rows, columns


def draw_view(rng: np.random.Generator) -> View:
    """An aspect from 3/4 to 4/3 of the image's own, each as likely as its inverse.

    Mirrored or not; brightness and saturation within a third.
    """
    aspect = float(np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT))))
    margin = ((1 - 1 / max(1.0, aspect)) / 2, (1 - min(1.0, aspect)) / 2)
    start, stop = margin, (1 - margin[0], 1 - margin[1])
    if rng.random() < 0.5:
        start, stop = (start[0], stop[1]), (stop[0], start[1])
    brightness, saturation = rng.uniform(1 - COLOUR, 1 + COLOUR, 2)
    return View(start, stop, float(brightness), float(saturation))


def sampled(maps: Tensor, parts: Sequence[Part] | Tensor, shape: Sequence[int]) -> Tensor:
    """Maps float [B, M, y, x] at the centres of the cells that cut a part of each into a grid.

    The part is in places of the map, `shape` is the grid's: bilinear, float32 [B, M, *shape]. What lies beyond a map
    has the value of its edge.
    """
    ends = torch.as_tensor(parts, dtype=torch.float32, device=maps.device)
    places: list[Tensor] = []
    for axis, (cells, extent) in enumerate(zip(shape, maps.shape[2:], strict=True)):
        centre = (torch.arange(cells, device=maps.device) + 0.5) / cells
        start, stop = ends[:, axis, :1], ends[:, axis, 1:]
        # `grid_sample` counts from -1 to 1, from the edge of the first place to that of the last.
        places.append(2 * (start + centre * (stop - start)) / extent - 1)
    y, x = places
    where = torch.stack([x[:, None].expand(-1, shape[0], -1), y[:, :, None].expand(-1, -1, shape[1])], -1)
    return torch.nn.functional.grid_sample(
        maps.float(), where, mode="bilinear", padding_mode="border", align_corners=False
    )


@dataclass(frozen=True)
class Places:
    """Places of a tap's grid tokens in a raw image.

    The grid's shape (rows, columns), and what of an image it covers.
    """

    shape: tuple[int, int]
    covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]]

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.shape[0] * self.shape[1]


def places_of(encoder: Encoder, tap: Tap) -> Places:
    """Those of an encoder of images. Raises for other samples, and for tokens that do not lie on rows and columns."""
    refuse_values(
        (
            encoder.modality != "image",
            f"{encoder.name} reads {encoder.modality} samples, and spatial alignment takes images: give an encoder of "
            f"images.",
            "bad-sample",
        ),
        (
            tap.grid.axes != ("y", "x"),
            f"Tap {tap.name} of {encoder.name} has {tap.grid}, and spatial alignment takes tokens on rows and "
            f"columns: give another tap.",
            "no-grid",
        ),
    )
    return Places((tap.grid.shape[0], tap.grid.shape[1]), encoder.covers)


# An alignment's batches: a section for each teacher's input, and one for the student's, which may see less.
#
# Cells are hidden at random in raw samples, whatever the encoder. Series and audio: windows of a sixteenth of the
# length take the mean of the series (of each variate). Images: of 8 x 8 cells, or of blocks of so many tokens each way,
# hidden ones are grey (128). Clips: the same cells in all frames. What an encoder norms by a sample's own mean and
# deviation it then norms by those of what is left.


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

    def read_by(self, teachers: Sequence[Teacher]) -> Self:
        """The same batches for other teachers."""
        feed = copy.copy(self)
        feed.readers = _readers(self.student, teachers, self.mask)
        return feed

    @property
    def section(self) -> str:
        """The section that the student reads."""
        return MASKED if self.mask else OWN

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, first = self.order.part(step, rank, world)
        return self.read(rows, step, range(first + own.start, first + own.stop))

    def ids(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        """Of the samples of that part of the batch."""
        return [self.dataset.ids[int(row)] for row in self.order.part(step, rank, world)[0]]

    def read(self, rows: np.ndarray, step: int, places: Sequence[int]) -> dict[str, Tensor]:
        """These samples, each with its place in the epoch, from which follows what is hidden of it."""
        return self.sections([self.dataset[int(row)] for row in rows], step, places)

    def sections(self, samples: Sequence[np.ndarray], step: int, places: Sequence[int]) -> dict[str, Tensor]:
        """Sections that each reader makes of raw samples, and the student of what is left of them."""
        batch: dict[str, Tensor] = {}
        for section, encoder in self.readers.items():
            batch |= _section(section, encoder, samples)
        if self.mask:
            rngs = [np.random.default_rng([self.seed, 1, step, place]) for place in places]
            batch |= _section(MASKED, self.student, [self.less(*pair) for pair in zip(samples, rngs, strict=True)])
        return batch

    def less(self, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The rest of a raw sample that the student sees."""
        return hidden(self.dataset.modality, sample, self.mask, rng)


def _section(name: str, encoder: Encoder, samples: Sequence[np.ndarray]) -> dict[str, Tensor]:
    return put_section(name, default_collate([encoder.preprocess(sample) for sample in samples]))


def _readers(student: Encoder, teachers: Sequence[Teacher], mask: float) -> dict[str, Encoder]:
    """The preprocessors of the sections.

    One serves where several teachers read the same, and the student's own where nothing is hidden from it.
    """
    readers: dict[str, Encoder] = {teacher.section: teacher.encoder for teacher in teachers}
    return readers if mask else {OWN: student, **readers}


def hidden(
    modality: str, sample: np.ndarray, share: float, rng: np.random.Generator, cells: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """A copy of a raw sample with this share of its cells hidden: at least one, and not all.

    cells: of an image, which cell each row and each column lies in, int [y] and [x] (see `token_blocks`); else 8 x 8
    cells.
    """
    if modality in ("series", "audio"):
        which = _chosen([equal_cells(len(sample), WINDOWS)], share, rng)
        values = np.array(sample, np.result_type(sample.dtype, np.float32))
        known = np.isfinite(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, values, 0).sum(0) / known.sum(0)
        # What was never observed stays so.
        values[which] = np.where(known[which], mean, values[which])
        return values
    y = {"image": 0, "video": 1}.get(modality)
    if y is None:
        raise DiagnosticsError(f"There is no way to mask patches of {modality}: leave --mask out.", code="unsupported")
    which = _chosen(cells or [equal_cells(n, CELLS) for n in sample.shape[y : y + 2]], share, rng)
    pixels = np.array(sample)
    pixels[(slice(None),) * y + (which,)] = GREY
    return pixels


def equal_cells(extent: int, cells: int) -> np.ndarray:
    """The cell, of so many equal ones, of each place of an axis, int [place]; no more cells than places."""
    return np.arange(extent) * min(cells, extent) // extent


def token_blocks(places: Places, extent: Sequence[int], side: int) -> list[np.ndarray]:
    """The block of `side` tokens of each row and each column of an image, int [y] and [x].

    What lies beyond the grid belongs to the block at its edge.
    """
    axes: list[np.ndarray] = []
    for n, (start, stop), tokens in zip(extent, places.covers(tuple(extent)), places.shape, strict=True):
        token = np.floor((np.arange(n) + 0.5 - start) / (stop - start) * tokens).astype(int)
        axes.append(token.clip(0, tokens - 1) // side)
    return axes


def _chosen(cells: Sequence[np.ndarray], share: float, rng: np.random.Generator) -> np.ndarray:
    """Mask of the places [*extent] in hidden cells, bool; `cells` says for each axis which cell a place lies in."""
    shape = [int(axis.max()) + 1 for axis in cells]
    count = math.prod(shape)
    drawn = np.zeros(count, bool)
    drawn[rng.permutation(count)[: min(max(1, round(share * count)), max(1, count - 1))]] = True
    return drawn.reshape(shape)[np.ix_(*cells)]

"""The augmentation of spatial alignment: one view of an image, seen by the student and by every teacher.

As in Perception Encoder (Bolya et al., arXiv 2504.13181, appendix B.3.1): aspect, brightness and saturation, mirror, and no
random crop. The aspect is changed by the largest centred box of another one, brought to the image's size. What stands in a
view and where is known, so that masks, or maps that were computed of the whole image, are taken from the same places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diagnostics.plugin import DiagnosticsError, Encoder, Tap

ASPECT, COLOUR = 4 / 3, 0.32
GREY_OF = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""

Part = tuple[tuple[float, float], tuple[float, float]]
"""(start, stop) of the rows and of the columns of an image, in pixels; a start beyond its stop is a part in mirror writing."""


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
            grey = torch.tensordot(torch.tensor(GREY_OF), seen, 1)
            seen = grey + self.saturation * (seen - grey)
        whole = seen.round().clamp(0, 255).permute(1, 2, 0).numpy()
        return whole.reshape(sample.shape).astype(sample.dtype)

    def part(self, seen: Sequence[tuple[float, float]], extent: Sequence[int]) -> Part:
        """Which part of an image of that extent lies where `seen` is in the view of it; both in pixels."""
        rows, columns = (
            (n * start + low * (stop - start), n * start + high * (stop - start))
            for (low, high), n, start, stop in zip(seen, extent, self.start, self.stop, strict=True)
        )
        return rows, columns


def draw_view(rng: np.random.Generator) -> View:
    """An aspect from 3/4 to 4/3 of the image's own, each as likely as its inverse; mirrored or not; brightness and saturation
    within a third."""
    aspect = float(np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT))))
    margin = ((1 - 1 / max(1.0, aspect)) / 2, (1 - min(1.0, aspect)) / 2)
    start, stop = margin, (1 - margin[0], 1 - margin[1])
    if rng.random() < 0.5:
        start, stop = (start[0], stop[1]), (stop[0], start[1])
    brightness, saturation = rng.uniform(1 - COLOUR, 1 + COLOUR, 2)
    return View(start, stop, float(brightness), float(saturation))


def sampled(maps: Tensor, parts: Sequence[Part] | Tensor, shape: Sequence[int]) -> Tensor:
    """Maps float [B, M, y, x] at the centres of the cells that cut a part of each, in places of the map, into a grid of this
    shape: bilinear, float32 [B, M, *shape]. What lies beyond a map has the value of its edge."""
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
    """Where a tap's grid tokens lie in a raw image: the grid's shape (rows, columns), and what of an image it covers."""

    shape: tuple[int, int]
    covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]]

    @property
    def tokens(self) -> int:
        """How many."""
        return self.shape[0] * self.shape[1]


def places_of(encoder: Encoder, tap: Tap) -> Places:
    """Those of an encoder of images. Raises for other samples, and for tokens that do not lie on rows and columns."""
    if encoder.modality != "image":
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, and spatial alignment takes images: give an encoder of images."
        )
    if tap.grid.axes != ("y", "x"):
        raise DiagnosticsError(
            f"Tap {tap.name} of {encoder.name} has {tap.grid}, and spatial alignment takes tokens on rows and columns: give "
            "another tap."
        )
    return Places((tap.grid.shape[0], tap.grid.shape[1]), encoder.covers)

"""Batches of pictures and tokens as a function of the step: which samples, at which size, and what is changed in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diagnostics_timm.pixels import image_of
from diagnostics_training.models.inputs import PictureChanges, recoloured
from diagnostics_training.trainer.data import EpochOrder, check_batch, parse_spec, spec_of
from diagnostics_training.trainer.objective import Batch
from PIL import Image
from torch import Tensor

from diagnostics.plugin import Dataset, DiagnosticsError, sampled_frames
from diagnostics_pretraining.recipe import Stage, stage_at, steps_of

# Data as they are read for training alone.


def without_target(spec: str) -> str:
    """The specification of the same data, captions without the embeddings that `diagnostics run` probes: 2 kB a sample, which are
    held in memory and that nothing here reads."""
    name, options = parse_spec(spec)
    if not name.startswith("captions:") or "embeddings" in options:
        return spec
    return spec_of(name, {**options, "features": 0})


def outline_of(dataset: Dataset) -> str:
    """A digest by which data are known again: of files by names, sizes and texts (`FileDataset.outline`), since their bytes take hours
    to read; of other data the fingerprint."""
    outline: str | None = getattr(dataset, "outline", None)
    return dataset.fingerprint if outline is None else outline


def shards_of(dataset: Dataset) -> np.ndarray | None:
    """Which of several archives each sample lies in, int [sample]; None where no order of reading is better than another."""
    return getattr(dataset, "shards", None)


# Clips among a batch's images: their frames join the images, and a clip's embedding is the mean of its frames'.
#
# As in Perception Encoder (arXiv 2504.13181, section 2.2). Neither the towers nor this mean know of time: the order of frames
# changes nothing, so what is learned tells what is in a clip and never in which direction it moves.

FRAMES = "frames"
"""Of a batch's clips, float32 [clip, frame, 3, size, size]; its `pixels` are those of its images, which come first."""


def clip_places(batch: int, share: float) -> np.ndarray:
    """Which samples of a batch are clips, bool [sample]: the share as nearly as whole samples allow, spread evenly, so that
    processes have as many each as they can.

    Raises for a share that is none.
    """
    if not 0 <= share <= 1:
        raise DiagnosticsError(f"A batch cannot have a share of {share} clips: give 0 to 1.")
    return np.diff(np.arange(batch + 1) * round(share * batch) // batch) > 0


def frames_seen(clip: np.ndarray, count: int) -> list[np.ndarray]:
    """The first frame of each of `count` equal parts of a clip [t, y, x, channel]; a single one is its first frame."""
    return [clip[frame] for frame in sampled_frames(len(clip), count, "floor")]


def flattened(batch: Batch) -> Tensor:
    """All images of a batch, float32 [image, 3, size, size]: its own, then the frames of its clips."""
    pixels = batch["pixels"]
    return torch.cat([pixels, batch[FRAMES].flatten(0, 1)]) if FRAMES in batch else pixels


def pooled(embeddings: Tensor, batch: Batch) -> Tensor:
    """Embeddings [image, feature] of `flattened` images as those of the batch's samples [sample, feature]: images, then clips."""
    if FRAMES not in batch:
        return embeddings
    images, (clips, frames) = len(batch["pixels"]), batch[FRAMES].shape[:2]
    return torch.cat([embeddings[:images], embeddings[images:].unflatten(0, (clips, frames)).mean(1)])


# Raw images as what the image tower reads, whole or changed at random.

CACHED = 2**18
"""Numbers that are worked on at a time."""


def pictures(
    samples: Sequence[np.ndarray], size: int, reader: str, drawn: Mapping[str, np.ndarray] | None = None
) -> Tensor:
    """Images uint8 [y, x] or [y, x, channel] as float32 [image, 3, size, size] from -1 to 1.

    Whole images are squashed, as the encoder reads them in use: bilinear, with Pillow's antialiasing. `drawn`
    (`PictureChanges.draw`) says which box of each is seen instead, mirrored or not, and in which colours. `reader` is who
    refuses other arrays.
    """
    pixels = torch.empty(len(samples), 3, size, size)
    # Some at a time, whose numbers stay in the processor's cache.
    for first in range(0, len(samples), some := max(1, CACHED // (3 * size * size))):
        part = pixels[first : first + some]
        squashed = np.empty((len(part), size, size, 3), np.uint8)
        for i, sample in enumerate(samples[first : first + some], first):
            image = image_of(sample, reader)
            box = None if drawn is None else _box(image, drawn["half"][i], drawn["centre"][i])
            seen = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
            squashed[i - first] = seen[:, ::-1] if drawn is not None and drawn["mirror"][i] < 0 else seen
        part.copy_(torch.from_numpy(squashed).permute(0, 3, 1, 2)).div_(255)
        if drawn is not None:
            part.copy_(recoloured(part, torch.from_numpy(drawn["colour"][first : first + some]).float()))
        part.sub_(0.5).div_(0.5)
    return pixels


def _box(image: Image.Image, half: np.ndarray, centre: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom in pixels; half and centre are (y, x)."""
    places: list[tuple[float, float]] = []
    for extent, reach, middle in zip((image.height, image.width), half.tolist(), centre.tolist(), strict=True):
        first, last = ((1 + middle + side * reach) / 2 * extent for side in (-1, 1))
        # Rounding may lead out of the image, which Pillow refuses.
        places.append((max(0.0, first), min(float(extent), last)))
    (top, bottom), (left, right) = places
    return left, top, right, bottom


class Encodes(Protocol):
    """What turns texts into tokens."""

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """int64 [text, context], and how many texts are longer than that."""
        ...


@dataclass(frozen=True)
class Samples:
    """What a dataset holds of a process's part of a step's batch: images or clips, their texts, and the place of each in the batch."""

    raw: list[np.ndarray]
    texts: list[str]
    places: np.ndarray


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch, `pixels` float32 [image, 3, size, size] from -1 to 1 and
    `tokens` int64 [sample, context]; with clips also `frames` float32 [clip, frame, 3, size, size], and samples are the images,
    then the clips.

    Parameters
    ----------
    dataset: images with texts, or clips with texts, of which a batch's images are the first frames.
    rows: the samples of the dataset that are trained on; each epoch has an order of its own. A dataset of archives is read
        one archive after the other.
    stages: one after the other; a batch has the size of its stage.
    batch: samples of a step over all processes. Everything is drawn for all of them and then dealt out, so that how many
        processes there are changes nothing but the order of images and clips.
    changes: what is changed at random in the pictures, alike in all frames of a clip; None for nothing.
    clips, frames: which share of a batch is clips, and how many frames of each are seen.

    Raises DiagnosticsError where stages are no whole batches, a batch is larger than the samples, or the dataset holds no
    images, or none but images where clips are asked for.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        vocabulary: Encodes,
        stages: Sequence[Stage],
        batch: int,
        seed: int,
        changes: PictureChanges | None = None,
        clips: float = 0.0,
        frames: int = 8,
    ) -> None:
        check_batch(batch, len(rows))
        if dataset.modality not in ("image", "video"):
            raise DiagnosticsError(
                f"{dataset.name} holds {dataset.modality}, and Perception Encoders are trained on images and clips: give other "
                "--data."
            )
        if clips and dataset.modality != "video":
            raise DiagnosticsError(
                f"{dataset.name} holds images, so that no share of a batch can be clips: give clips, as 'shapes?frames=8'."
            )
        if frames < 1:
            raise DiagnosticsError(f"Nothing is seen of clips in {frames} frames: give 1 or more.")
        self.dataset, self.vocabulary, self.changes = dataset, vocabulary, changes
        self.stages, self.batch, self.seed = tuple(stages), batch, seed
        self.steps = steps_of(stages, batch)
        self.clips, self.frames = clip_places(batch, clips), frames
        self.order = EpochOrder(rows, batch, seed, shards_of(dataset))

    def stage(self, step: int) -> Stage:
        """That of a step, counted from 0."""
        return stage_at(self.stages, self.batch, step)

    def ids(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        """Of the samples of that part of the batch, in its order."""
        return [self.dataset.ids[row] for row in self._part(step, rank, world)[0]]

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        return self.collate(self.samples(step, rank, world), step)

    def samples(self, step: int, rank: int = 0, world: int = 1) -> Samples:
        """That part of the batch as the dataset holds it, images first."""
        rows, places = self._part(step, rank, world)
        of_rows = list(map(int, rows))
        return Samples([self.dataset[row] for row in of_rows], [self.dataset.texts[row] for row in of_rows], places)

    def collate(self, samples: Samples, step: int) -> dict[str, Tensor]:
        """Tensors of these samples, as the part of the step's batch that they are."""
        raw, places = samples.raw, samples.places
        if self.dataset.modality == "video":
            seen = [frames_seen(s, self.frames if self.clips[at] else 1) for s, at in zip(raw, places, strict=True)]
        else:
            seen = [[sample] for sample in raw]
        size, images = self.stage(step).size, int((~self.clips[places]).sum())
        of_image = np.repeat(places, [len(frames) for frames in seen])
        pixels = pictures(
            [image for frames in seen for image in frames], size, self.dataset.name, self._drawn(step, of_image)
        )
        batch = {"pixels": pixels[:images]}
        if self.clips.any():
            batch[FRAMES] = pixels[images:].unflatten(0, (len(raw) - images, self.frames))
        return batch | {"tokens": self.vocabulary.encode(samples.texts)[0]}

    def _part(self, step: int, rank: int, world: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples of a process's part of the batch, and the place of each in the whole batch: images first."""
        rows, own, _ = self.order.part(step, rank, world)
        images_first = np.argsort(self.clips[own], kind="stable")
        return rows[images_first], own.start + images_first

    def _drawn(self, step: int, places: np.ndarray) -> dict[str, np.ndarray] | None:
        if self.changes is None:
            return None
        drawn = self.changes.draw(np.random.default_rng([self.seed, 1, step]), self.batch)
        return {key: value[places] for key, value in drawn.items()}

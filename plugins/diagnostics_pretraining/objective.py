"""Reading and teaching in a step of pretraining: batches, contrast of images and texts, distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diagnostics_timm.pixels import image_of
from diagnostics_training.alignment.objective import put_section, section_of
from diagnostics_training.models.inputs import PictureChanges, random_masks, recoloured
from diagnostics_training.trainer.data import EpochOrder, check_batch, parse_spec, spec_of
from diagnostics_training.trainer.objective import Batch, Objective
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import Dataset, DiagnosticsError, TorchEncoder, refuse_values, sample_frames
from diagnostics_pretraining.losses import clamp_scale, contrast, divergences, regularisation
from diagnostics_pretraining.order import Broken, ShardOrder
from diagnostics_pretraining.recipe import Recipe, Stage, stage_at, steps_of
from diagnostics_pretraining.text_encoder import Vocabulary
from diagnostics_pretraining.towers import Pair, Towers

# Batches of pictures and tokens as a function of the step: which samples, at which size, and what is changed in them.


# Data as they are read for training alone.


def to_train(spec: str) -> str:
    """The specification of the same data as they are trained on.

    Captions without the embeddings that `diagnostics run` probes, 2 kB a sample, and unless it says what to do
    `on_error`, without the pairs that are broken.
    """
    name, options = parse_spec(spec)
    if not name.startswith("captions:"):
        return spec
    more = {} if "embeddings" in options else {"features": 0}
    return spec_of(name, {"on_error": "replace", **options, **more})


def outline_of(dataset: Dataset) -> str:
    """A digest by which data are known again.

    Of files by names, sizes and texts (`FileDataset.outline`), since their bytes take hours to read; of other data the
    fingerprint.
    """
    outline: str | None = getattr(dataset, "outline", None)
    return dataset.fingerprint if outline is None else outline


def shards_of(dataset: Dataset) -> np.ndarray | None:
    """The archive that each sample lies in, of several, int [sample].

    None where no order of reading is better than another.
    """
    return getattr(dataset, "shards", None)


# Clips among a batch's images: their frames join the images, and a clip's embedding is the mean of its frames'.
#
# As in Perception Encoder (arXiv 2504.13181, section 2.2). Neither the towers nor this mean know of time: the order of
# frames changes nothing, so what is learned tells what is in a clip and never in which direction it moves.

FRAMES = "frames"
"""Of a batch's clips, uint8 [clip, frame, 3, size, size]; its `pixels` are those of its images, which come first."""
COLOUR = "colour"
"""Of a batch whose colours are changed, the factors of each image as `flattened` has them, float32 [image, 3]."""


def clip_places(batch: int, share: float) -> np.ndarray:
    """Mask of the samples of a batch that are clips, bool [sample].

    The share is met as nearly as whole samples allow, spread evenly, so that processes have as many each as they can.

    Raises for a share that is none.
    """
    if not 0 <= share <= 1:
        raise DiagnosticsError(f"A batch cannot have a share of {share} clips: give 0 to 1.", code="bad-value")
    return np.diff(np.arange(batch + 1) * round(share * batch) // batch) > 0


def flattened(batch: Batch) -> Tensor:
    """All images of a batch as the image tower reads them, float32 [image, 3, size, size] from -1 to 1.

    Its own come first, then the frames of its clips.

    Batches hold bytes, a quarter of that, and colours are changed here, where the batch is. What holds floats is taken
    as it is.
    """
    pixels = batch["pixels"]
    pixels = torch.cat([pixels, batch[FRAMES].flatten(0, 1)]) if FRAMES in batch else pixels
    if pixels.is_floating_point():
        return pixels
    pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if COLOUR in batch:
        pixels = recoloured(pixels, batch[COLOUR])
    return pixels.sub_(0.5).div_(0.5)


def pooled(embeddings: Tensor, batch: Batch) -> Tensor:
    """Embeddings [image, feature] of `flattened` images as those of the batch's samples.

    [sample, feature]: images, then clips.
    """
    if FRAMES not in batch:
        return embeddings
    images, (clips, frames) = len(batch["pixels"]), batch[FRAMES].shape[:2]
    return torch.cat([embeddings[:images], embeddings[images:].unflatten(0, (clips, frames)).mean(1)])


# Raw images as what the image tower reads, whole or changed at random.


def pictures(
    samples: Sequence[np.ndarray], size: int, reader: str, drawn: Mapping[str, np.ndarray] | None = None
) -> Tensor:
    """Images uint8 [y, x] or [y, x, channel] as uint8 [image, 3, size, size].

    Whole images are squashed, as the encoder reads them in use: bilinear, with Pillow's antialiasing. `drawn`
    (`PictureChanges.draw`) says which box of each is seen instead, and whether mirrored. `reader` is who refuses other
    arrays.
    """
    pixels = np.empty((len(samples), size, size, 3), np.uint8)
    for i, sample in enumerate(samples):
        image = image_of(sample, reader)
        box = None if drawn is None else _box(image, drawn["half"][i], drawn["centre"][i])
        seen = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
        pixels[i] = seen[:, ::-1] if drawn is not None and drawn["mirror"][i] < 0 else seen
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _box(image: Image.Image, half: np.ndarray, centre: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom in pixels; half and centre are (y, x)."""
    places: list[tuple[float, float]] = []
    for extent, reach, middle in zip((image.height, image.width), half.tolist(), centre.tolist(), strict=True):
        first, last = ((1 + middle + side * reach) / 2 * extent for side in (-1, 1))
        # Rounding may lead out of the image, which Pillow refuses.
        places.append((max(0.0, first), min(float(extent), last)))
    (top, bottom), (left, right) = places
    return left, top, right, bottom


@dataclass(frozen=True)
class Samples:
    """A process's part of a step's batch, as a dataset holds it.

    Images or clips, their texts, and the place of each in the batch.
    """

    raw: Sequence[np.ndarray]
    texts: Sequence[str]
    places: np.ndarray


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch.

    `pixels` uint8 [image, 3, size, size] and `tokens` int64 [sample, token], cut behind the longest text; with clips
    also `frames` uint8 [clip, frame, 3, size, size], and samples are the images, then the clips; with changes `colour`.

    Parameters
    ----------
    dataset: images with texts, or clips with texts, of which a batch's images are the first frames.
    rows: the samples of the dataset that are trained on; each epoch has an order of its own. A dataset of archives is
    read
        one archive after the other.
    stages: one after the other; a batch has the size of its stage.
    batch: samples of a step over all processes. Everything is drawn for all of them and then dealt out, so that how
    many
        processes there are changes nothing but the order of images and clips.
    changes: what is changed at random in the pictures, alike in all frames of a clip; None for nothing.
    clips, frames: which share of a batch is clips, and how many frames of each are seen.
    broken: where pairs that cannot be read are listed, each of which the pair a batch later in the epoch's order
        replaces; without it the first one ends the training. Which one that is depends on the data alone, so that a
        batch stays a function of the step.

    Raises DiagnosticsError where stages are no whole batches, a batch is larger than the samples, or the dataset holds
    no images, or none but images where clips are asked for.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        vocabulary: Vocabulary,
        stages: Sequence[Stage],
        batch: int,
        seed: int,
        changes: PictureChanges | None = None,
        clips: float = 0.0,
        frames: int = 8,
        broken: Broken | None = None,
    ) -> None:
        check_batch(batch, len(rows))
        refuse_values(
            (
                dataset.modality not in ("image", "video"),
                f"{dataset.name} holds {dataset.modality}, and Perception Encoders are trained on images and clips: "
                f"give other --data.",
                "other-modality",
            ),
            (
                clips and dataset.modality != "video",
                f"{dataset.name} holds images, so that no share of a batch can be clips: give clips, as "
                f"'shapes?frames=8'.",
                "other-modality",
            ),
            (frames < 1, f"Nothing is seen of clips in {frames} frames: give 1 or more."),
        )
        self.dataset, self.vocabulary, self.changes = dataset, vocabulary, changes
        self.stages, self.batch, self.seed = tuple(stages), batch, seed
        self.steps = steps_of(stages, batch)
        self.clips, self.frames, self.broken = clip_places(batch, clips), frames, broken
        shards = shards_of(dataset)
        self.order = EpochOrder(rows, batch, seed) if shards is None else ShardOrder(rows, batch, seed, shards)

    def stage(self, step: int) -> Stage:
        """That of a step, counted from 0."""
        return stage_at(self.stages, self.batch, step)

    def ids(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        """Of the samples of that part of the batch, in its order."""
        if self.broken is not None:
            self.broken.read()
        part = self._part(step, rank, world)
        return [self.dataset.ids[next(self._candidates(step, row, at), row)] for row, at in part]

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        return self.collate(self.samples(step, rank, world), step)

    def samples(self, step: int, rank: int = 0, world: int = 1) -> Samples:
        """That part of the batch as the dataset holds it, images first."""
        part = self._part(step, rank, world)
        raw, texts = zip(*(self._read(step, row, at) for row, at in part), strict=True)
        return Samples(raw, texts, np.array([at for _, at in part]))

    def _read(self, step: int, row: int, at: int) -> tuple[np.ndarray, str]:
        """Image and text of a sample, or of what replaces it."""
        wrong: DiagnosticsError | None = None
        for each in self._candidates(step, row, at):
            try:
                return self.dataset[each], self.dataset.texts[each]
            except DiagnosticsError as error:
                if self.broken is None:
                    raise
                self.broken.note(each, wrong := error)
        raise wrong or DiagnosticsError(f"No pair of {self.dataset.name} can be read.", code="bad-data")

    def _candidates(self, step: int, row: int, at: int) -> Iterator[int]:
        """A sample of the batch, those at its place of the epoch's following batches, then all, the last of it first.

        None that is known to be broken.
        """
        steps, count = len(self.order.rows) // self.batch, len(self.order.rows)
        epoch, first = divmod(step, steps)
        for later in range(steps + count):
            if later:
                place = (first + later) % steps * self.batch + at if later < steps else steps + count - 1 - later
                row = int(self.order.rows_at(epoch, np.array([place]))[0])
            if self.broken is None or row not in self.broken.rows:
                yield row

    def collate(self, samples: Samples, step: int) -> dict[str, Tensor]:
        """Tensors of these samples, as the part of the step's batch that they are."""
        raw, places = samples.raw, samples.places
        counts = np.where(self.clips[places], self.frames, 1)
        seen = list(raw)
        if self.dataset.modality == "video":
            # The first frame of each equal part of a clip; of a single part its first one.
            each = zip(raw, counts.tolist(), strict=True)
            seen = [frame for clip, n in each for frame in clip[sample_frames(len(clip), n, "floor")]]
        size, images = self.stage(step).size, int((~self.clips[places]).sum())
        drawn = self._drawn(step, np.repeat(places, counts))
        pixels = pictures(seen, size, self.dataset.name, drawn)
        batch = {"pixels": pixels[:images]}
        if drawn is not None:
            batch[COLOUR] = torch.from_numpy(drawn["colour"]).float()
        if self.clips.any():
            batch[FRAMES] = pixels[images:].unflatten(0, (len(raw) - images, self.frames))
        return batch | {"tokens": cut_padding(self.vocabulary.encode(samples.texts)[0])}

    def _part(self, step: int, rank: int, world: int) -> list[tuple[int, int]]:
        """Samples of a process's part of the batch, and the place of each in the whole batch: images first."""
        rows, own, _ = self.order.part(step, rank, world)
        images_first = np.argsort(self.clips[own], kind="stable")
        return list(zip(rows[images_first].tolist(), (own.start + images_first).tolist(), strict=True))

    def _drawn(self, step: int, places: np.ndarray) -> dict[str, np.ndarray] | None:
        if self.changes is None:
            return None
        drawn = self.changes.draw(np.random.default_rng([self.seed, 1, step]), self.batch)
        return {key: value[places] for key, value in drawn.items()}


# Objectives of pretraining: contrast of images and texts, and distillation of a teacher's similarities.


# The objective of pretraining: the contrast of images and texts, and mask regularisation beside it.
#
# Bolya et al., Perception Encoder (arXiv 2504.13181), section 2.1.


# What a feed's batches get for the objective: texts no longer than they need to be, and patches that are hidden.

HIDDEN = "hidden"
"""The batch's part that says which patches are hidden: bool [image seen again, patch]."""


def check_masks(batch: int, processes: int, share: float) -> None:
    """Raise where the images that are seen again are not as many in each process."""
    every = round(1 / share)
    if batch % (every * processes):
        raise DiagnosticsError(
            f"Every {every}-th image of a batch is used again with patches hidden, and a batch of {batch} in "
            f"{processes} process{'es' if processes > 1 else ''} is no multiple of {every * processes}: give one.",
            code="bad-value",
        )


class Batches:
    """Batches of a feed, which hold `hidden` where a share of the images is seen again.

    Those are the images 0, n, 2 n, ... of a batch for a share of 1/n, from step `first` on. Their patches are drawn for
    the batch over all processes and then dealt out, so that how many there are changes nothing.
    """

    def __init__(self, feed: Feed, patch: int, share: float = 0.0, hidden: float = 0.4, first: int = 0) -> None:
        self.feed, self.patch, self.share, self.share_hidden, self.first = feed, patch, share, hidden, first
        self.ids = feed.ids

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        batch = self.feed(step, rank, world)
        if self.share and step >= self.first:
            batch[HIDDEN] = torch.from_numpy(self._hidden(step).reshape(world, -1, self._patches(step))[rank])
        return batch

    def _patches(self, step: int) -> int:
        return (self.feed.stage(step).size // self.patch) ** 2

    def _hidden(self, step: int) -> np.ndarray:
        """Of the whole batch, bool [image seen again, patch]."""
        patches, rng = self._patches(step), np.random.default_rng([self.feed.seed, 2, step])
        hidden = np.zeros((self.feed.batch // round(1 / self.share), patches), bool)
        np.put_along_axis(hidden, random_masks(rng, len(hidden), patches, self.share_hidden)[1], True, 1)
        return hidden


def cut_padding(tokens: Tensor) -> Tensor:
    """Texts [text, context] without what is behind the end of all of them.

    Their length is a multiple of 8 or the whole one.

    A causal tower gives them the same embeddings, faster; few lengths mean few compilations.
    """
    # The end of a text is its largest token.
    longest = int(tokens.argmax(1).max()) + 1
    return tokens[:, : -(-longest // 8) * 8]


def equal_texts(tokens: Tensor) -> int:
    """The number of texts of a batch [pair, context] equal to another one of it.

    Each is a false negative of that one.
    """
    counts = tokens.unique(dim=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


Scores = Callable[[Towers], Mapping[str, float]]
"""What towers reach on other data, by name."""


class Pretraining(Objective):
    """Contrast of `pixels` [b, 3, y, x] and `tokens` [b, context], plus mask regularisation where a batch has `hidden`.

    Samples may be clips too (see `clip_places`).

    Of a batch of b images with `hidden` [m, patch], the images 0, b/m, 2 b/m, ... are seen again, with these patches
    replaced by the learned token. The contrast never sees those, and the two have no gradient in common but in the
    image tower.

    recipe: of whose masks there is a weight and a beginning. scored: what is logged with each checkpoint.
    """

    compares_samples = True

    def __init__(self, towers: Towers, recipe: Recipe | None = None, scored: Scores | None = None) -> None:
        super().__init__()
        self.towers, self.weight, self.scored = towers, 1.0 if recipe is None else recipe.mask_weight, scored
        # Until patches are hidden, their token has no gradient.
        self.phases = recipe is not None and recipe.mask_from > 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        towers, pixels = self.towers, flattened(batch)
        tokens, images = towers.tokens_and_embeddings(pixels)
        loss = contrast(pooled(images, batch), towers.embed_texts(batch["tokens"]), towers.log_scale)
        values = {"loss": loss, "contrast": loss, "scale": towers.log_scale.detach().exp()}
        if HIDDEN in batch:
            hidden = batch[HIDDEN]
            every = len(pixels) // len(hidden)
            values["masked"] = regularisation(towers.image_tokens(pixels[::every], hidden), tokens[::every], hidden)
            values["loss"] = loss + self.weight * values["masked"]
        return values

    def output(self, batch: Batch) -> Tensor:
        return nn.functional.normalize(pooled(self.towers.embed_images(flattened(batch)), batch).float(), dim=-1)

    def tokens(self, batch: Batch) -> Tensor:
        return self.towers.image_tokens(flattened(batch))

    def evaluate(self, step: int) -> Mapping[str, float]:
        return {} if self.scored is None else self.scored(self.towers)

    def blocks(self) -> Sequence[nn.Module]:
        return [*self.towers.image.blocks, *self.towers.text.transformer.resblocks]

    def after_step(self, done: int, total: int) -> None:
        clamp_scale(self.towers.log_scale)


# Towers that learn the similarities which a frozen pair of encoders finds between a batch's images and texts.

IMAGES, TEXTS = "teacher_images", "teacher_texts"
"""The sections of a batch that hold what the teacher reads."""


class Teacher:
    """A frozen pair of encoders: images and texts as they read them, and their embeddings.

    Any two encoders whose embeddings have the same width; read at their `head` where they have one, else at their
    output, as the mean of its grid tokens.

    Raises DiagnosticsError for encoders of other samples than images and texts, and for embeddings of two widths.
    """

    def __init__(self, pair: Pair) -> None:
        self.image, self.text = pair.image, pair.text
        for encoder, wanted in ((self.image, "image"), (self.text, "text")):
            if encoder.modality != wanted:
                raise DiagnosticsError(
                    f"Teacher {encoder.name} reads {encoder.modality} samples where {wanted} samples are taught: name "
                    f"a folder that `diagnostics train pe` wrote.",
                    code="other-modality",
                )
        widths = [encoder.tap(_read_at(encoder)).features for encoder in (self.image, self.text)]
        if widths[0] != widths[1]:
            raise DiagnosticsError(
                f"Teacher {self.image.name} embeds images in {widths[0]} features and texts in {widths[1]}, so they "
                f"have no cosine: name a pair that was trained together.",
                code="other-weights",
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


class Distillation(Pretraining):
    """The mean of both divergences.

    The teacher is no part of this module: nothing can train it, and checkpoints hold none.
    """

    def __init__(self, towers: Towers, teacher: Teacher, scored: Scores | None = None) -> None:
        super().__init__(towers, scored=scored)
        self.teacher = teacher

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        towers = self.towers
        texts, images = divergences(
            towers.embed_images(flattened(batch)),
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


class TaughtBatches:
    """A feed's batches, with the same images and texts as the teacher reads them.

    Of data that are clips the images are first frames: no clips, and nothing changed or hidden in the images, of which
    the teacher's would know nothing.
    """

    def __init__(self, feed: Feed, teacher: Teacher) -> None:
        self.feed, self.teacher = feed, teacher
        self.ids = feed.ids

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        # Read once for both: decoding an image may take longer than all that follows.
        samples = self.feed.samples(step, rank, world)
        batch = self.feed.collate(samples, step)
        images = [clip[0] for clip in samples.raw] if self.feed.dataset.modality == "video" else samples.raw
        return batch | self.teacher.prepared(images, samples.texts)

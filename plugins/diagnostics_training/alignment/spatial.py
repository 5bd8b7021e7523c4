"""Alignment of tokens' places: relations between tokens, SAM 2 as their teacher, and `align spatial`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from diagnostics_timm.weights import quiet
from platformdirs import user_cache_path
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Encoder,
    Grid,
    Progress,
    TorchEncoder,
    UntrustedCodeError,
    explaining,
    importing,
    silent,
)
from diagnostics.plugin import on_grid as averaged_over_cells
from diagnostics_training.alignment.feed import Feed, Places, View, draw_view, hidden, places_of, sampled, token_blocks
from diagnostics_training.alignment.objective import OWN, Alignment, Teacher, on_grid, put_section, taught
from diagnostics_training.alignment.student import (
    Course,
    Row,
    Start,
    check_tap,
    check_width,
    chosen_tap,
    named_teacher,
    start_of,
    with_control,
)
from diagnostics_training.jobs import SpatialJob
from diagnostics_training.trainer.checkpoint import digest_of_tensors
from diagnostics_training.trainer.objective import Batch, World, barrier
from diagnostics_training.trainer.record import Watch, say

# What a teacher of relations is.
#
# Shape suffixes: B sample, T token (the student's grid tokens, in raster order), M whatever a teacher tells of a token.


SECTION = "relations"
"""With what the names begin under which a batch holds what a teacher of relations reads."""


class Relations(ABC):
    """A frozen teacher of relations: of each of the student's grid tokens some numbers, of which only cosines count.

    `inputs` is called where batches are made, on the CPU and perhaps in another process, and `relations` where the loss
    is computed. A token whose numbers are all 0 is one of which nothing is known.
    """

    name: str
    """As it was asked for."""
    about: str
    """What it is, for the lineage."""

    @abstractmethod
    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        """Make it ready on the process's device: computes what is computed once, for these samples of the dataset."""

    @abstractmethod
    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        """A sample's entries of a batch, under names that begin with `relations`.

        They are made of the sample's row in the dataset, its augmented image, and the view that this is of the sample.
        """

    def relations(self, batch: Batch) -> Tensor:
        """Of a batch, float [B, T, M], without a gradient; what `inputs` gave, unless a teacher computes more."""
        return batch[SECTION]


# Exact masks of the data as a teacher: in each cell, the share of each object and of the background.


class MaskRelations(Relations):
    """Shares [T, M] of what the maps of a dataset show.

    Objects of a target of kind `masks`, or else classes of a `token_label`.

    M is the largest number of objects (or classes) of any sample, background included. A cell of which less than half
    is known is unknown. Raises DiagnosticsError for a dataset that has neither.
    """

    def __init__(self, dataset: Dataset, places: Places) -> None:
        self.name, self.places = "masks", places
        kinds = {target.kind: name for name, target in reversed(dataset.targets.items())}
        target = kinds.get("masks") or kinds.get("token_label")
        if target is None:
            raise DiagnosticsError(
                f"{dataset.name} has no masks: give data with a target of kind masks or token_label (shapes, "
                f"segmentation:FOLDER), or another teacher to --relations.",
                code="bad-target",
            )
        self.target, self.maps = target, dataset.targets[target].values
        self.about = f"exact masks, target {target} of {dataset.name}"
        self.most = max(len(present(np.asarray(labels))) for labels in self.maps)

    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        """Nothing: shares are counted as they are asked for."""

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        return {SECTION: torch.from_numpy(self.shares(np.asarray(self.maps[row]), view)).float()}

    def shares(self, labels: np.ndarray, view: View) -> np.ndarray:
        """Float64 [T, M] of a map int [y, x] (-1 unknown), in a view of it."""
        extent = labels.shape
        rows, columns = view.part(self.places.covers(extent), extent)
        mirrored = columns[0] > columns[1]
        known = present(labels)
        one_hot = np.where(labels < 0, np.nan, labels == known[:, None, None])
        shares = averaged_over_cells(one_hot, (rows, (min(columns), max(columns))), self.places.shape)
        cells = shares.reshape(-1, *self.places.shape)
        cells = np.nan_to_num(cells[:, :, ::-1] if mirrored else cells).reshape(len(known), -1).T
        return np.pad(cells, ((0, 0), (0, self.most - len(known))))


def present(labels: np.ndarray) -> np.ndarray:
    """The numbers that a map holds, in order, without the unknown."""
    return np.flatnonzero(np.bincount(labels[labels >= 0]))


# A teacher of relations by its name: `masks`, `sam2:FOLDER`, or an encoder as `NAME` or `NAME:TAP`.

# Any encoder as a teacher of relations: the cosines of its tokens.

PART = f"{SECTION}_part"
"""Of a batch: which part of what the teacher's grid covers the student's does, in cells of a grid of the student's
shape.
"""


class EncoderRelations(Relations):
    """The grid tokens of a frozen encoder at a tap, brought to the places of the student's."""

    def __init__(self, name: str, teacher: Teacher, places: Places) -> None:
        self.name, self.places = name, places
        self.teacher = Teacher(teacher.encoder, teacher.tap, SECTION)
        self.covers = places_of(teacher.encoder, teacher.tap).covers
        weights = teacher.encoder.identity["weights"]
        self.about = f"tap {teacher.tap.name} of {teacher.encoder.name} (weights {weights[:12]})"

    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        self.teacher.encoder.to(world.device)

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        extent = image.shape[:2]
        ends = zip(self.places.covers(extent), self.covers(extent), self.places.shape, strict=True)
        part = [[(end - low) / (high - low) * cells for end in own] for own, (low, high), cells in ends]
        return {PART: torch.tensor(part)} | put_section(SECTION, self.teacher.encoder.preprocess(image))

    def relations(self, batch: Batch) -> Tensor:
        grid = self.teacher.tap.grid
        tokens = on_grid(taught(self.teacher, batch).float(), grid, Grid(self.places.shape, grid.axes))
        maps = tokens[:, grid.prefix :].transpose(1, 2).unflatten(2, self.places.shape)
        return sampled(maps, batch[PART], self.places.shape).flatten(2).transpose(1, 2)


# SAM 2.1 as a teacher: how each place answers to a point at each of 32 x 32 places.
#
# Perception Encoder (arXiv 2504.13181, section 5 and appendix B.3.1): the logits of the mask that SAM gives for each
# point, none left out and none cut at a threshold, brought to the student's grid.


SIDE = 32
"""Points along each side of an image."""
BLOCK = 64
"""Points whose masks, of 256 x 256 logits, are held at once."""
TYPES = ("sam2", "sam2_video")
"""Configurations that `Sam2Model` reads; Meta's own folders are of the second."""


class Sam2Relations(Relations):
    """The logits [T, 1024] of transformers' `Sam2Model`, computed once for each sample and kept on disk as float16.

    They are of the whole image as it is, on as many cells as the student's grid has; a view of an image takes them from
    where it lies (bilinear). Raises DiagnosticsError for a folder of another model or without one, and where
    transformers is missing.

    folder: a local folder as `save_pretrained` writes it, with its image processor.
    cache: where the logits go; by default `encoder-diagnostics/relations` in the user's cache.
    """

    def __init__(self, folder: str, dataset: Dataset, places: Places, cache: Path | None = None) -> None:
        self.name, self.folder, self.dataset, self.places = f"sam2:{folder}", Path(folder), dataset, places
        # Only what is missing on disk needs the model: it is not kept.
        self.weights = digest_of_tensors(load_sam2(self.folder)[0].state_dict())
        self.about = f"SAM 2 (weights {self.weights[:12]}) at {SIDE} x {SIDE} points"
        self.cache = cache or user_cache_path("encoder-diagnostics", False) / "relations"
        self.files: dict[int, Path] = {}

    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        """Compute what is not on disk yet, each process its part."""
        self.files = {row: self.file(row) for row in rows}
        # Dealt out before looking, since the others write meanwhile.
        missing = [row for row in list(self.files)[world.rank :: world.size] if not self.files[row].is_file()]
        if missing:
            each = 2 * SIDE**2 * self.places.tokens
            say(
                f"{self.name}: relations of {len(missing):,} samples, {each * len(missing) / 1e9:.2g} GB in "
                f"{self.cache}"
            )
            model, processor = load_sam2(self.folder)
            model.to(world.device)
            for done, row in enumerate(missing):
                watch(Progress("relations by SAM 2", done, len(missing), str(self.dataset.ids[row])))
                pixels = processor(images=as_colours(self.dataset[row]), return_tensors="pt")["pixel_values"]
                logits = mask_logits(model, pixels.to(world.device), self.places.shape, SIDE)
                self._write(self.files[row], logits.half().cpu().numpy())
            watch(Progress("relations by SAM 2", len(missing), len(missing), ""))
        barrier()

    def file(self, row: int) -> Path:
        """File of the logits of a sample: by its id, its pixels, the weights, the points and the grid."""
        image = np.ascontiguousarray(self.dataset[row])
        facts = [self.dataset.ids[row], self.weights, SIDE, *self.places.shape, image.dtype.str, *image.shape]
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(image.data)
        return self.cache / f"{digest.hexdigest()}.npy"

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        maps = torch.from_numpy(self._read(self.files[row])).float()
        extent = image.shape[:2]
        part = view.part(self.places.covers(extent), extent)
        in_cells = [
            [end / n * cells for end in ends] for ends, n, cells in zip(part, extent, maps.shape[1:], strict=True)
        ]
        return {SECTION: sampled(maps[None], torch.tensor([in_cells]), self.places.shape)[0].flatten(1).T.half()}

    def _read(self, file: Path) -> np.ndarray:
        with contextlib.suppress(OSError, ValueError, EOFError):
            maps = np.load(file, allow_pickle=False)
            if maps.dtype == np.float16 and maps.shape == (SIDE * SIDE, *self.places.shape):
                return maps
        raise DiagnosticsError(
            f"{file} cannot be read as the relations of a sample: remove it, and it is computed again.", code="damaged"
        )

    def _write(self, file: Path, maps: np.ndarray) -> None:
        """Beside its place and renamed, so that no process sees half a file."""
        with explaining(
            f"Relations cannot be kept in {file.parent}",
            "set XDG_CACHE_HOME to a folder that can be written, with 2 MB for each sample of 32 x 32 tokens",
            "unwritable",
            OSError,
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".partial-") as folder:
                np.save(Path(folder, file.name), maps, allow_pickle=False)
                Path(folder, file.name).replace(file)


@torch.no_grad()
def mask_logits(model: Any, pixels: Tensor, shape: tuple[int, int], side: int, block: int = BLOCK) -> Tensor:
    """Logits float32 [side * side, *shape] of the single mask for each point of a grid, row by row, in the whole image.

    model: a `Sam2Model`; pixels: what it reads of one image, [1, 3, y, x]. Embeddings of the image are computed once
    and handed back for each `block` of points. Masks become smaller with antialiasing.
    """
    embeddings = model.get_image_embeddings(pixels)
    x, y = ((torch.arange(side, device=pixels.device) + 0.5) / side * n for n in reversed(pixels.shape[2:]))
    points = torch.stack([x.expand(side, side), y[:, None].expand(side, side)], -1).reshape(1, -1, 1, 2)
    maps: list[Tensor] = []
    for some in points.split(block, 1):
        masks = model(input_points=some, image_embeddings=list(embeddings), multimask_output=False).pred_masks[:, :, 0]
        maps.append(nn.functional.interpolate(masks.float(), shape, mode="bilinear", antialias=True)[0])
    return torch.cat(maps)


def load_sam2(folder: Path) -> tuple[Any, Any]:
    """`Sam2Model` and its image processor from a local folder, in float32.

    Nothing is fetched, and no code in it is run.

    Raises DiagnosticsError for what is no such folder, and where weights are missing.
    """
    with importing("SAM 2 needs", "pip install -e '.[transformers]'"):
        from transformers import Sam2ImageProcessor, Sam2Model
    folder = folder.expanduser()
    remedy = "give one with a config.json that has a model_type, as transformers' save_pretrained writes it"
    with explaining(f"{folder} is no folder of SAM 2", remedy, "missing-file"):
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    if kind not in TYPES:
        raise DiagnosticsError(
            f"{folder} holds a model of type {kind!r:.80}, and relations by masks need SAM 2: give its folder, or the "
            f"encoder's own name to take its tokens.",
            code="other-weights",
        )
    with (
        explaining(
            f"SAM 2 cannot be loaded from {folder}",
            "it needs config.json, preprocessor_config.json and model.safetensors",
            "unreadable",
        ),
        quiet(),
    ):
        model, about = cast(
            "tuple[Any, Any]",
            Sam2Model.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            ),
        )
        processor = Sam2ImageProcessor.from_pretrained(folder, local_files_only=True)
    if missing := sorted(about["missing_keys"]):
        raise DiagnosticsError(
            f"{folder} lacks {len(missing)} weights of SAM 2, {missing[0]} first: give a complete one.",
            code="no-weights",
        )
    # Else masks that seem unstable are replaced: that is a threshold.
    model.mask_decoder.dynamic_multimask_via_stability = False
    return model.eval().requires_grad_(False), processor


def as_colours(image: np.ndarray) -> np.ndarray:
    """A raw image as [y, x, 3]."""
    image = np.atleast_3d(image)
    return image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, 2)


# `diagnostics align spatial`: an encoder of images whose tokens were taught by a tap, and by what belongs together.


# The objective of spatial alignment: an output taught by an earlier tap, and by a teacher of which places belong
# together.
#
# Perception Encoder (Bolya et al., arXiv 2504.13181, section 5). Equation 2 is printed with the wrong sign, as its
# authors confirmed: the cosine to the tap is raised. Equation 3 compares the cosines of all pairs of the student's
# tokens with those of the teacher, which alone are sharpened.
#
# Shape suffixes: B sample, T token, F feature, M what a teacher of relations tells of a token.

SHARPNESS = 20.0
"""Of the teacher's cosines: one of 0.95 counts as 0.37, one of 0.5 as nothing."""
BLOCK_BYTES = 2**28
"""What the pairs of a block of samples may take in one matrix."""


class SpatialAlignment(Alignment):
    """Minus the mean cosine to each teacher's tokens, plus how far relations are from a further teacher's.

    Relations are the cosines of all pairs of grid tokens; each with weight 1, over all tokens, hidden or not.

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
        off = relation_loss(tokens[:, self.tap.grid.prefix :], self.relations.relations(batch), self.valid(batch))
        return {**values, "loss": values["loss"] + off, "relations": off}


def sharpened(cosine: Tensor) -> Tensor:
    """A teacher's cosines, brought nearer to 0 the further they are from 1: exp(20 (cosine - 1)); in place."""
    return cosine.sub_(1).mul_(SHARPNESS).exp_()


def relation_loss(tokens_BTF: Tensor, relations_BTM: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over samples of the mean over pairs of tokens of (cos(S_i, S_j) - g(cos(M_i, M_j)))^2, g `sharpened`.

    In float32.

    Pairs of a token with itself count too. A token that is not `valid` (bool [B, T]), or of which the teacher knows
    nothing (all its numbers are 0), is in no pair. One float32 matrix [T, T] of each sample is kept for the gradient,
    and two more for each sample of a block while it is computed. It is 0 only where groups are clear: a student that is
    its own teacher pays for every cosine between 0 and 1.
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
        wanted = sharpened(teacher_BTM @ teacher_BTM.mT)
    off = (student_BTF @ student_BTF.mT).sub_(wanted)
    weight = known_BT.to(off.dtype)
    # Weights of pairs are products, so that no matrix of them is needed.
    return (weight[:, None] @ off.square() @ weight[..., None]).flatten() / weight.sum(1).square().clamp(min=1)


# The batches of spatial alignment: images in one view each, which all teachers see whole and the student in part.


class SpatialFeed(Feed):
    """A `Feed` of images that are augmented, and of which blocks of `cell` x `cell` tokens are hidden.

    It also holds what a teacher of relations reads. A sample's view and its hidden blocks follow from seed, step and
    its place alone.

    places: of the student's tokens.
    augmented: whether views are drawn, or each image is seen as it is.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        student: Encoder,
        teachers: Sequence[Teacher],
        relations: Relations | None,
        places: Places,
        batch: int,
        mask: float,
        cell: int,
        seed: int,
        augmented: bool = True,
    ) -> None:
        super().__init__(
            dataset=dataset, rows=rows, student=student, teachers=teachers, batch=batch, mask=mask, seed=seed
        )
        self.relations, self.places, self.cell, self.augmented = relations, places, cell, augmented

    def read_by(self, teachers: Sequence[Teacher]) -> Self:
        feed = super().read_by(teachers)
        feed.relations = None
        return feed

    def read(self, rows: np.ndarray, step: int, places: Sequence[int]) -> dict[str, Tensor]:
        views = [self.view(step, place) for place in places]
        images = [view.image(self.dataset[int(row)]) for row, view in zip(rows, views, strict=True)]
        batch = self.sections(images, step, places)
        if self.relations is not None:
            seen = zip(rows, images, views, strict=True)
            batch |= default_collate([self.relations.inputs(int(row), image, view) for row, image, view in seen])
        return batch

    def view(self, step: int, place: int) -> View:
        """The one in which a sample is seen."""
        return draw_view(np.random.default_rng([self.seed, 2, step, place])) if self.augmented else View()

    def less(self, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return hidden("image", sample, self.mask, rng, token_blocks(self.places, sample.shape[:2], self.cell))


def align_spatial(job: SpatialJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `student.with_control`).

    `for` and `probed` are as `align_tap` has them, and `relations` is what teaches them, or None.
    """
    start = start_of(job)
    places = places_of(start.own, start.tap)
    # Options are refused before a folder's content is.
    if job.to is not None:
        check_tap(start, job.to, job.target)
    relations = None if job.relations is None else relations_of(job.relations, start, job.trust_code)
    asked = start.identity(job) | {"other teacher of relations": relations.about if relations else None}

    def plan(where: World, watch: Watch, done: Row | None) -> Course:
        tap, probed = (None, None) if job.to is None else chosen_tap(start, job.to, job.target, where, watch, done)
        teachers = [] if tap is None else [Teacher(start.own, start.own.tap(tap))]
        for teacher in teachers:
            check_width(start, teacher)

        def make(student: TorchEncoder) -> tuple[Alignment, SpatialFeed]:
            feed = SpatialFeed(
                dataset=start.dataset,
                rows=start.rows,
                student=start.own,
                teachers=teachers,
                relations=relations,
                places=places,
                batch=job.batch,
                mask=job.mask,
                cell=job.mask_cell,
                seed=start.seed,
            )
            if relations is None:
                return Alignment(student, teachers, feed.section), feed
            relations.prepare(rows_of(feed, job.steps), where, watch)
            return SpatialAlignment(student, teachers, relations, feed.section), feed

        by = [*([tap] if tap else []), *([f"relations of {job.relations}"] if relations else [])]
        return Course(
            folder=job.folder,
            asked=asked,
            to=" and ".join(by),
            teacher=teachers[0] if teachers else None,
            make=make,
            lineage={
                "group": group_of(start, job),
                "to": tap or "",
                "for": job.target or "",
                "relations": relations.about if relations else "",
            },
            row={"for": job.target, "probed": probed, "relations": relations.about if relations else None},
            itself=teachers == [start.itself] and relations is None,
        )

    return with_control(job, start, asked, plan)


def relations_of(name: str, start: Start, trust_code: bool = False) -> Relations:
    """The teacher of that name, for the samples of an alignment and the tokens of the tap that learns.

    Raises DiagnosticsError for an unknown name, and where the teacher cannot teach these data or this grid.
    """
    places = places_of(start.own, start.tap)
    if name == "masks":
        return MaskRelations(start.dataset, places)
    if name.startswith("sam2:"):
        return Sam2Relations(name.removeprefix("sam2:"), start.dataset, places)
    try:
        teacher = named_teacher(name, start, SECTION, trust_code)
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        raise DiagnosticsError(
            f"'{name}' is no teacher of relations: give masks, sam2:FOLDER, or an encoder. As an encoder: {error}",
            code="unknown-name",
        ) from error
    if teacher.weight != 1:
        raise DiagnosticsError(
            f"Relations have no weight but 1: give --relations {name.rpartition('@')[0]}.", code="bad-value"
        )
    return EncoderRelations(name, teacher, places)


def rows_of(feed: SpatialFeed, steps: int) -> list[int]:
    """The samples of the dataset that so many steps read, at least those of one."""
    if steps > len(feed.order.rows) // feed.order.batch:
        return sorted(int(row) for row in feed.order.rows)
    return sorted(int(row) for step in range(max(1, steps)) for row in feed.order.part(step, 0, 1)[0])


def group_of(start: Start, job: SpatialJob) -> str:
    """One group for the seeds of a base and what taught it."""
    by = [f"for {job.target}" if job.target else f"to {job.to}"] if job.to else []
    by += [f"to relations of {job.relations}"] if job.relations else []
    return f"{start.own.lineage.get('group') or start.own.name} spatially aligned {' and '.join(by)}"

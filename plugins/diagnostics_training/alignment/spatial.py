"""`diagnostics align spatial`: an encoder of images whose tokens were taught by a tap, and by what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import Dataset, DiagnosticsError, Encoder, TorchEncoder, UntrustedCodeError
from diagnostics_training.alignment.augmentation import Places, View, draw_view, places_of
from diagnostics_training.alignment.feed import Feed, hidden, token_blocks
from diagnostics_training.alignment.objective import OWN, Alignment, Teacher
from diagnostics_training.alignment.relations import SECTION, EncoderRelations, MaskRelations, Relations
from diagnostics_training.alignment.sam2 import Sam2Relations
from diagnostics_training.alignment.student import Course, Row, Start, named_teacher, start_of, with_control
from diagnostics_training.alignment.tap import check_tap, check_width, chosen_tap, uncontrolled
from diagnostics_training.jobs import SpatialJob
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch
from diagnostics_training.trainer.objective import Batch

# The objective of spatial alignment: an output taught by an earlier tap, and by a teacher of which places belong together.
#
# Perception Encoder (Bolya et al., arXiv 2504.13181, section 5). Equation 2 is printed with the wrong sign, as its authors confirmed:
# the cosine to the tap is raised. Equation 3 compares the cosines of all pairs of the student's tokens with those of the teacher,
# which alone are sharpened.
#
# Shape suffixes: B sample, T token, F feature, M what a teacher of relations tells of a token.

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


# The batches of spatial alignment: images in one view each, which all teachers see whole and the student in part.


class SpatialFeed(Feed):
    """A `Feed` of images that are augmented, and of which blocks of `cell` x `cell` tokens are hidden, with what a teacher of
    relations reads. A sample's view and its hidden blocks follow from seed, step and its place alone.

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

    def read_by(self, teachers: Sequence[Teacher]) -> SpatialFeed:
        feed = super().read_by(teachers)
        assert isinstance(feed, SpatialFeed)
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
    """Aligns and saves an encoder and its control (see `student.with_control`), with `for` and `probed` as `align_tap` has them,
    and `relations`: what teaches them, or None."""
    start = start_of(job)
    places = places_of(start.own, start.tap)
    # What cannot be, before what is there.
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
                **uncontrolled(job),
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
            f"'{name}' is no teacher of relations: give masks, sam2:FOLDER, or an encoder. As an encoder: {error}"
        ) from error
    if teacher.weight != 1:
        raise DiagnosticsError(f"Relations have no weight but 1: give --relations {name.rpartition('@')[0]}.")
    return EncoderRelations(name, teacher, places)


def rows_of(feed: SpatialFeed, steps: int) -> list[int]:
    """Which samples of the dataset that many steps read, at least those of one."""
    epoch = len(feed.order.rows) // feed.order.batch
    if steps > epoch:
        return sorted(int(row) for row in feed.order.rows)
    return sorted(int(row) for step in range(max(1, steps)) for row in feed.order.part(step, 0, 1)[0])


def group_of(start: Start, job: SpatialJob) -> str:
    """One group for the seeds of a base and what taught it."""
    by = [f"for {job.target}" if job.target else f"to {job.to}"] if job.to else []
    by += [f"to relations of {job.relations}"] if job.relations else []
    return f"{start.own.lineage.get('group') or start.own.name} spatially aligned {' and '.join(by)}"

"""`diagnostics align spatial`: an encoder of images whose tokens were taught by a tap, and by what belongs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diagnostics import DiagnosticsError, TorchEncoder
from diagnostics_training.alignment.augmentation import places_of
from diagnostics_training.alignment.course import Course, Row, with_control
from diagnostics_training.alignment.job import AlignmentJob
from diagnostics_training.alignment.objective import Alignment
from diagnostics_training.alignment.relations.named import relations_of
from diagnostics_training.alignment.spatial_feed import SpatialFeed
from diagnostics_training.alignment.spatial_objective import SpatialAlignment
from diagnostics_training.alignment.start import Start, start_of
from diagnostics_training.alignment.tap import check_choice, check_tap, check_width, chosen_tap, uncontrolled
from diagnostics_training.alignment.teachers import Teacher
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch


@dataclass(frozen=True, kw_only=True)
class SpatialJob(AlignmentJob):
    """What `diagnostics align spatial` was asked for; see its options."""

    command: ClassVar[str] = "align spatial"

    to: str | None = None
    target: str | None = None
    relations: str | None = None
    optimiser: str = "lamb"
    warmup: float = 0.0
    mask: float = 0.75
    mask_cell: int = 2
    layer_scale: float = 0.1
    drop_path: float = 0.4

    def __post_init__(self) -> None:
        check_choice(self.to, self.target)
        if self.to is None and self.relations is None:
            raise DiagnosticsError("There is no teacher: give --to TAP, --relations TEACHER, or both.")
        if self.mask_cell < 1:
            raise DiagnosticsError(f"--mask-cell {self.mask_cell} is no number of tokens: give 1 or more.")
        super().__post_init__()


def align_spatial(job: SpatialJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `course.with_control`), with `for` and `probed` as `align_tap` has them,
    and `relations`: what teaches them, or None."""
    start = start_of(job)
    places = places_of(start.own, start.tap)
    # What cannot be, before what is there.
    if job.to is not None:
        check_tap(start, job.to, job.target)
    relations = None if job.relations is None else relations_of(job.relations, start, job.trust_code)
    asked = job.identity(start) | {"relations_by": relations.about if relations else None}

    def plan(where: World, watch: Watch, done: Row | None) -> Course:
        tap, probed = (None, None) if job.to is None else chosen_tap(start, job.to, job.target, where, watch, done)
        teachers = [] if tap is None else [Teacher(start.own, start.own.tap(tap))]
        for teacher in teachers:
            check_width(start, teacher)

        def make(student: TorchEncoder) -> tuple[Alignment, SpatialFeed]:
            feed = SpatialFeed(
                start.dataset, start.rows, start.own, teachers, relations, places, job.batch, job.mask, job.mask_cell,
                start.seed,
            )  # fmt: skip
            if relations is None:
                return Alignment(student, teachers, feed.section), feed
            relations.prepare(rows_of(feed, job.steps), where, watch)
            return SpatialAlignment(student, teachers, relations, feed.section), feed

        by = [*([tap] if tap else []), *([f"relations of {job.relations}"] if relations else [])]
        return Course(
            job.folder, asked, " and ".join(by), teachers[0] if teachers else None, make,
            {
                "group": group_of(start, job), "to": tap or "", "for": job.target or "",
                "relations": relations.about if relations else "", **uncontrolled(job),
            },
            {"for": job.target, "probed": probed, "relations": relations.about if relations else None},
            itself=teachers == [start.itself] and relations is None,
        )  # fmt: skip

    return with_control(job, start, asked, plan)


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

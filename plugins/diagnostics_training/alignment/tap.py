"""`diagnostics align tap`: an encoder whose output was taught by one of its own taps, and by other encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from diagnostics.plugin import DiagnosticsError, TorchEncoder
from diagnostics_training.alignment.course import Course, Row, with_control
from diagnostics_training.alignment.data import LEAST, best_tap, check_target
from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.job import AlignmentJob
from diagnostics_training.alignment.objective import Alignment
from diagnostics_training.alignment.start import Start, start_of
from diagnostics_training.alignment.teachers import Teacher, check_grids, check_weight, comparable, named_teacher
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch, say

BEST = "best-tap"


@dataclass(frozen=True, kw_only=True)
class TapJob(AlignmentJob):
    """What `diagnostics align tap` was asked for; see its options."""

    command: ClassVar[str] = "align tap"

    to: str
    target: str | None = None
    teacher: tuple[str, ...] = ()
    keep: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self.to, self.target)
        check_weight("--keep", self.keep, self.keep)
        super().__post_init__()


def align_tap(job: TapJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `course.with_control`), with `for` and `probed`: data, and score of
    each tap on val, where the best one was chosen."""
    start = start_of(job)
    # What cannot be, before what is there.
    check_tap(start, job.to, job.target)
    others = [named_teacher(text, start, f"teacher {i}", job.trust_code) for i, text in enumerate(job.teacher)]
    if job.keep:
        others.append(kept(start, job.keep))
    for teacher in others:
        check_grids(start.tap, start.own.name, teacher)

    def plan(where: World, watch: Watch, done: Row | None) -> Course:
        tap, probed = chosen_tap(start, job.to, job.target, where, watch, done)
        teachers = [Teacher(start.own, start.own.tap(tap)), *(one for one in others if one.weight)]
        check_width(start, teachers[0])
        return Course(
            job.folder, job.identity(start), tap, teachers[0], batches_for(start, job, teachers),
            {"group": group_of(start, job.to, job.target), "to": tap, "for": job.target or "", **uncontrolled(job)},
            {"for": job.target, "probed": probed}, itself=teachers == [start.itself],
        )  # fmt: skip

    return with_control(job, start, job.identity(start), plan)


def batches_for(
    start: Start, job: AlignmentJob, teachers: list[Teacher]
) -> Callable[[TorchEncoder], tuple[Alignment, Feed]]:
    """What a `Course` makes of a student, where teachers' tokens are all that it learns."""

    def make(student: TorchEncoder) -> tuple[Alignment, Feed]:
        feed = Feed(start.dataset, start.rows, start.own, teachers, job.batch, job.mask, start.seed)
        return Alignment(student, teachers, feed.section), feed

    return make


def check_choice(to: str | None, target: str | None) -> None:
    """Raises unless a target is named where the best tap is asked for, and nowhere else."""
    if to == BEST and target is None:
        raise DiagnosticsError(f"--to {BEST} is the best tap for a target: name that with --for.")
    if to != BEST and target is not None:
        raise DiagnosticsError(
            f"--for names the target of --to {BEST}, and --to names the tap {to}: leave one of them out."
        )


def check_tap(start: Start, to: str, target: str | None) -> None:
    """Raises where there is no such tap or target, or a tap whose tokens cannot be compared with the student's."""
    if target is not None:
        check_target(start.dataset, target)
    else:
        check_grids(start.tap, start.own.name, Teacher(start.own, start.own.tap(to)))


def check_width(start: Start, teacher: Teacher) -> None:
    """Raises where a tap of the base has other features than the one that it is to teach."""
    if teacher.tap.features != start.tap.features:
        raise DiagnosticsError(
            f"Tap {teacher.tap.name} of {start.own.name} has {teacher.tap.features} features and {start.tap.name}, which it is to "
            f"teach, {start.tap.features}: name a tap of as many, or let it teach through a linear map "
            f"(--to {start.tap.name} --teacher {start.own.name}:{teacher.tap.name})."
        )


def chosen_tap(
    start: Start, to: str, target: str | None, where: World, watch: Watch, done: Row | None
) -> tuple[str, dict[str, Any] | None]:
    """The tap that teaches, and what was seen where it is the best for a target; of an alignment that is done, as it was seen
    then."""
    if target is None:
        return to, None
    if done is not None:
        return done["probed"]["tap"], done["probed"]
    tap, probed = best_tap(start.base, target, start.spec, where.device, watch)
    if where.first and probed["gain"] < LEAST:
        say(
            f"BEWARE: the tap {tap} exceeds {start.tap.name} by only {probed['gain']:.4f} of {probed['score']} for "
            f"{target}: nothing worth lifting is shown"
        )
    return tap, probed


def kept(start: Start, weight: float) -> Teacher:
    """The base's own output, met through a linear map: what it takes to give it again is kept."""
    output = start.own.tap(start.own.output_tap)
    if not comparable(start.tap, output):
        raise DiagnosticsError(
            f"The output {output.name} of {start.own.name} has no tokens in the places of {start.tap.name}, so they cannot be kept: leave --keep out."
        )
    return Teacher(start.own, output, weight=weight, mapped=True)


def group_of(start: Start, to: str, target: str | None) -> str:
    """One group for the seeds of a base, whose best taps may differ."""
    group = start.own.lineage.get("group") or start.own.name
    return f"{group} aligned for {target}" if target is not None else f"{group} aligned to {to}"


def uncontrolled(job: AlignmentJob) -> dict[str, str]:
    """For the lineage: that there is no control to hold it against."""
    return {} if job.control else {"control": "none"}

"""One student's training, from a start to the encoder in its folder; and beside it the control, taught by the base itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.plugin import TorchEncoder, watcher
from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.job import AlignmentJob
from diagnostics_training.alignment.objective import Alignment
from diagnostics_training.alignment.start import Start, make_student
from diagnostics_training.alignment.teachers import OWN, Teacher, agreement, section_of, taught, with_module
from diagnostics_training.options import settings_of
from diagnostics_training.summary import finish, finished
from diagnostics_training.trainer.checkpoints import digest_of_json, make_folder, resumable
from diagnostics_training.trainer.data import describe_data, plain
from diagnostics_training.trainer.distributed import World, barrier, world
from diagnostics_training.trainer.monitor import Watch, say, silent
from diagnostics_training.trainer.trainer import UNTRAINED, fit

FINISHED = "alignment.json"

Row = dict[str, Any]
"""What a training came to."""
Plan = Callable[[World, Watch, Row | None], "Course"]
"""The course of an alignment, and what it came to where it is finished and its control alone is left."""
Make = Callable[[TorchEncoder], tuple[Alignment, Feed]]
"""A student, sized for the samples -> its objective and its batches."""


def _nothing(objective: Alignment, where: World) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Course:
    """A training of one student.

    asked: its identity; another one in the folder is refused.
    to: for people, what teaches it.
    teacher: whose cosine to the student is given before and after; None for none.
    itself: whether nothing but the base's own tokens at that tap teaches it: it is its own control.
    make: its objective and batches.
    lineage: what is recorded beside the shared parts.
    row: what the command gives beside the shared parts.
    head: gives the student a head, which learns with it and is saved in it.
    alone: how many steps at the beginning teach the encoder nothing, since its head learns alone.
    begin: the first step; the control leaves those out in which the encoder does not learn.
    conclude: what follows in the first process when everything has learned, before the encoder is saved; gives more of the row.
    """

    folder: Path
    asked: Mapping[str, Any]
    to: str
    teacher: Teacher | None
    make: Make
    lineage: Mapping[str, Any]
    row: Mapping[str, Any]
    itself: bool = False
    head: Callable[[TorchEncoder], TorchEncoder] | None = None
    alone: int = 0
    begin: int = 0
    conclude: Callable[[Alignment, World], dict[str, Any]] = _nothing


def _done(folder: Path, asked: Mapping[str, Any], where: World) -> dict[str, Any] | None:
    """What a course of the same identity came to, where it is finished."""
    done = finished(folder / FINISHED, asked)
    if done is not None and where.first:
        say(f"{folder} is finished")
    return done


def with_control(job: AlignmentJob, start: Start, asked: Mapping[str, Any], plan: Plan) -> Row:
    """Carries out the course that `plan` makes, and that of its control, each where it is not finished yet.

    Gives, in the first process: `path`, `name`, `to`, `output` (the tap where the student learns), `steps`, `loss`, `cosine` of
    the student and what teaches it on a batch of whole train samples (`before`, `after`), `collapse`, `seconds`, `data`,
    `blocks` (of how many the branches are scaled), `base`, `run_data` (to probe both on), `trust_code` (which of both that
    asks for), what the course adds, and `control`, the control's row or None.
    """
    own = dict(asked) | {"control_of": job.folder.name}
    with world(job.device) as where, watcher() as shown:
        watch = shown if where.first else silent
        # Both are looked at before either is worked on: the second's folder may be another's.
        row, control = _done(job.folder, asked, where), None
        if with_it := job.control and job.steps > 0:
            control = _done(job.control_folder, own, where)
        barrier()
        course = functools.cache(functools.partial(plan, where, watch, row))
        if row is None:
            row = carry_out(course(), job, start, where, watch)
        if with_it and control is None and not course().itself:
            control = carry_out(control_of(job, start, own, course()), job, start, where, watch)
        return row | {"control": control} if where.first else {}


def control_of(job: AlignmentJob, start: Start, asked: Mapping[str, Any], course: Course) -> Course:
    """The same course, but for its teachers: the base's own tokens at the tap where the student learns, alone.

    What it shows is what training on these samples with these settings does by itself.
    """

    def make(student: TorchEncoder) -> tuple[Alignment, Feed]:
        _, feed = course.make(student)
        return Alignment(student, [start.itself], feed.section), feed.read_by([start.itself])

    group = str(course.lineage["group"])
    # What else is recorded of the course tells what teaches it.
    lineage = {
        **dict.fromkeys(course.lineage, ""),
        "group": f"control of {group}",
        "control_of": digest_of_json(course.asked),
        "to": start.tap.name,
    }
    return replace(
        course, folder=job.control_folder, asked=asked, to=start.tap.name, teacher=start.itself, make=make, lineage=lineage,
        row=dict.fromkeys(course.row), head=None, begin=course.alone, conclude=_nothing,
    )  # fmt: skip


def carry_out(course: Course, job: AlignmentJob, start: Start, where: World, watch: Watch) -> dict[str, Any]:
    """Trains the student and saves it."""
    student = make_student(start, job, course.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start.seed)
        objective, feed = course.make(with_module(student.encoder.sized_for(start.sample)))
    for encoder in (objective.student, start.own, *(teacher.encoder for teacher in objective.teachers)):
        encoder.to(where.device)
    first = {key: value.to(where.device) for key, value in feed(0).items()}
    objective.to(where.device).eval()
    objective.free(first)
    objective.parts = [student.encoder.module.get_submodule(block.name) for block in student.blocks]
    trusting = [*([job.encoder] if job.trust_code else []), *([str(course.folder)] if student.trusts else [])]
    row: dict[str, Any] = {
        "path": str(course.folder), "name": student.encoder.name, "to": course.to, "output": start.tap.name,
        "blocks": len(student.blocks), "data": describe_data(start.spec, len(start.rows)), "seed": start.seed,
        "base": job.encoder, "run_data": plain(job.data or start.spec), "trust_code": trusting, **course.row,
    }  # fmt: skip
    before = cosine(start.own, start.tap.name, course.teacher, first)
    outcome = UNTRAINED
    if job.steps:
        with resumable(course.folder):
            outcome = fit(
                objective, feed, settings_of(job, start.seed), course.folder, watch, name=course.folder.name,
                identity=dict(course.asked) | {"tap": course.to}, world=where, begin=course.begin,
            ).outcome  # fmt: skip
    after = cosine(objective.student, objective.tap.name, course.teacher, first)
    row |= outcome | {"cosine": {"before": before, "after": after}}
    if where.first:
        row |= course.conclude(objective, where)
        student.encoder.to("cpu")
        make_folder(course.folder)
        lineage = {
            "base": course.asked["base"],
            "data": row["data"],
            "steps": job.steps,
            "training": digest_of_json(course.asked),
            "seed": start.seed,
            "how": job.typed,
        }
        finish(course.folder / FINISHED, student.encoder, lineage | dict(course.lineage), row, course.asked)
    barrier()
    return row


def cosine(encoder: TorchEncoder, tap_name: str, teacher: Teacher | None, batch: Mapping[str, Tensor]) -> float | None:
    """Of an encoder's tokens at a tap and the teacher's, on whole samples; None where their widths differ."""
    if teacher is None:
        return None
    tap, read = encoder.tap(tap_name), section_of(batch, OWN)
    if tap.features != teacher.tap.features:
        return None
    tokens = encoder.capture(read, [tap.name])[tap.name]
    with torch.no_grad():
        return float(agreement(tokens, tap, taught(teacher, batch), teacher.tap, encoder.valid(read, tap)))

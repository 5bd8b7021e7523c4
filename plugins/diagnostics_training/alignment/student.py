"""A student of an alignment, from a base and its data to the encoder in its folder.

Also its control, and `diagnostics align tap`.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.weights import seeding
from torch import Tensor

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Encoder,
    Tap,
    TorchEncoder,
    UntrustedCodeError,
    build,
    cut_encoder,
    digest_of_json,
    load_encoder,
    refuse_values,
    run,
    save_encoder,
    silent,
    watcher,
)
from diagnostics_training.alignment.feed import MODALITIES, Feed
from diagnostics_training.alignment.objective import (
    OWN,
    Alignment,
    Block,
    Teacher,
    agreement,
    check_drops,
    check_grids,
    comparable,
    put_drops,
    scaled,
    section_of,
    taught,
    with_module,
)
from diagnostics_training.jobs import AlignmentJob, TapJob, check_weight, command_of
from diagnostics_training.trainer.data import SIMULATED, data_for, describe_data, parse_spec, plain, spec_of
from diagnostics_training.trainer.objective import World, barrier, world
from diagnostics_training.trainer.record import Watch, earlier_result, finish, say
from diagnostics_training.trainer.settings import identity_of
from diagnostics_training.trainer.trainer import UNTRAINED, fit

FINISHED = "alignment.json"

Row = dict[str, Any]
"""What a training came to."""
Plan = Callable[[World, Watch, Row | None], "Course"]
"""The course of an alignment, and what it came to where it is finished and its control alone is left."""
Make = Callable[[TorchEncoder], tuple[Alignment, Feed]]
"""A student, sized for the samples -> its objective and its batches."""


def check_modality(encoder: Encoder, dataset: Dataset) -> None:
    """Raise where an encoder cannot read a dataset."""
    if encoder.modality != dataset.modality:
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, but {dataset.name} holds {dataset.modality} samples: "
            f"give other --data.",
            code="bad-sample",
        )


@dataclass(frozen=True)
class Start:
    """The base and the data of an alignment.

    base: as it was named, cut at the tap where the student learns if that is not its output.
    own: the whole base, frozen, sized for the samples.
    tap: where the student learns, as `own` has it.
    rows: the train samples.
    """

    base: TorchEncoder
    own: TorchEncoder
    tap: Tap
    dataset: Dataset
    spec: str
    rows: np.ndarray
    sample: np.ndarray
    seed: int

    def identity(self, job: AlignmentJob) -> dict[str, Any]:
        """All that decides the numbers, as plain values: what was made otherwise is refused."""
        asked = {key: value for key, value in identity_of(job).items() if key not in ("--encoder", "--control")}
        return asked | {
            "--data": self.spec,
            "--seed": self.seed,
            "other weights of the base encoder": self.own.identity["weights"],
            "other samples of these data": self.dataset.fingerprint,
        }

    @property
    def itself(self) -> Teacher:
        """The base as its own teacher, at the tap where the student learns."""
        return Teacher(self.own, self.tap)


def start_of(job: AlignmentJob) -> Start:
    """Build the base and open the data; raises where they do not fit."""
    whole = with_module(build("encoder", job.encoder, trust_code=job.trust_code))
    spec = data_for(job.data, whole)
    # Data that the encoder's file names are trusted as little as what else it names.
    recorded = "" if job.data is not None else job.encoder
    dataset: Dataset = build("dataset", spec, trust_code=job.trust_code, named_by=recorded)
    check_modality(whole, dataset)
    rows = np.flatnonzero(dataset.split == "train")
    refuse_values(
        (
            job.batch > len(rows),
            f"A batch of {job.batch} cannot be drawn from the {len(rows)} train samples of {dataset.name}: give a "
            f"smaller --batch.",
        ),
        (
            job.mask and dataset.modality not in MODALITIES,
            f"There is no way to mask patches of {dataset.modality}: leave --mask out.",
            "unsupported",
        ),
    )
    sample = dataset[int(rows[0])]
    own = with_module(whole.sized_for(sample))
    tap = own.tap(job.at or own.output_tap)
    base = whole if tap.name == whole.output_tap else cut_encoder(whole, tap.name)
    seed = int(whole.lineage.get("seed", 0)) if job.seed is None else job.seed
    return Start(base=base, own=own, tap=tap, dataset=dataset, spec=spec, rows=rows, sample=sample, seed=seed)


def make_student(
    start: Start, job: AlignmentJob, head: Callable[[TorchEncoder], TorchEncoder] | None = None
) -> tuple[TorchEncoder, list[Block], bool]:
    """An encoder that begins as the base, with LayerScale and DropPath in its blocks, and a `head` if one is put on it.

    Also these blocks, and whether it can be loaded again only by a Python file that it names. Raises where it could not
    be saved and built again, or has no place for what was asked for.
    """
    encoder, blocks = scaled(start.base, job.layer_scale)
    encoder = head(encoder) if head else encoder
    trusts = False
    with tempfile.TemporaryDirectory(prefix="diagnostics-") as folder:
        file = save_encoder(folder, encoder)
        try:
            load_encoder(file)
        except UntrustedCodeError:
            load_encoder(file, trust_code=True)
            trusts = True
    if job.drop_path:
        check_drops(encoder, blocks)
        put_drops(encoder.module, blocks, job.drop_path)
    return encoder, blocks, trusts


def named_teacher(text: str, start: Start, section: str, trust_code: bool = False) -> Teacher:
    """The teacher that `NAME[:TAP][@WEIGHT]` names: an encoder, its output or that tap, and a weight of 1 or that.

    Another tap of the student's own base, and an encoder of another width, are met through a linear map.
    """
    name, weight = text, 1.0
    before, at, number = text.rpartition("@")
    if at:
        try:
            name, weight = before, float(number)
        except ValueError:
            name = text
    check_weight("--teacher", text, weight)
    encoder, tap_name = _built(name, trust_code)
    check_modality(encoder, start.dataset)
    sized = with_module(with_module(encoder).sized_for(start.sample))
    own = sized.identity == start.own.identity
    if own:
        sized, section = start.own, OWN
    tap = sized.tap(tap_name or sized.output_tap)
    return Teacher(sized, tap, section, weight, mapped=own or tap.features != start.tap.features)


def _built(name: str, trust_code: bool) -> tuple[Encoder, str]:
    """The encoder of `NAME` or `NAME:TAP`, and the tap ("" where none is named)."""
    try:
        return build("encoder", name, trust_code=trust_code), ""
    except DiagnosticsError as error:
        whole, colon, tap = name.rpartition(":")
        if not colon or isinstance(error, UntrustedCodeError):
            raise
        try:
            return build("encoder", whole, trust_code=trust_code), tap
        except UntrustedCodeError:
            raise
        except DiagnosticsError:
            raise error from None


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
    conclude: what follows in the first process when everything has learned, before the encoder is saved; gives more of
    the row.
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


def with_control(job: AlignmentJob, start: Start, asked: Mapping[str, Any], plan: Plan) -> Row:
    """Carries out the course that `plan` makes, and that of its control, each where it is not finished yet.

    Gives, in the first process: `path`, `name`, `to`, `output` (the tap where the student learns), `steps`, `loss`,
    `cosine` of the student and what teaches it on a batch of whole train samples (`before`, `after`), `collapse`,
    `seconds`, `data`, `blocks` (of how many the branches are scaled), `base`, `run_data` (to probe both on),
    `trust_code` (which of both that asks for), what the course adds, and `control`, the control's row or None.
    """
    own = dict(asked) | {"control_of": job.folder.name}
    with world(job.device, job.batch) as where, watcher() as shown:
        watch = shown if where.first else silent
        # Both folders are checked before either training begins, since the second may hold another training.
        row, control = earlier_result(job.folder / FINISHED, asked, where), None
        if with_it := job.control and job.steps > 0:
            control = earlier_result(job.control_folder / FINISHED, own, where)
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
        course,
        folder=job.control_folder,
        asked=asked,
        to=start.tap.name,
        teacher=start.itself,
        make=make,
        lineage=lineage,
        row=dict.fromkeys(course.row),
        head=None,
        begin=course.alone,
        conclude=_nothing,
    )


def carry_out(course: Course, job: AlignmentJob, start: Start, where: World, watch: Watch) -> dict[str, Any]:
    """Trains the student and saves it."""
    student, blocks, trusts = make_student(start, job, course.head)
    with seeding(start.seed):
        objective, feed = course.make(with_module(student.sized_for(start.sample)))
    for encoder in (objective.student, start.own, *(teacher.encoder for teacher in objective.teachers)):
        encoder.to(where.device)
    first = {key: value.to(where.device) for key, value in feed(0).items()}
    objective.to(where.device).eval()
    epoch = range(len(start.rows) // job.batch)
    objective.begin_maps({key: value.to(where.device) for key, value in feed(step).items()} for step in epoch)
    objective.free(first)
    objective.parts = [student.module.get_submodule(block.name) for block in blocks]
    trusting = [*([job.encoder] if job.trust_code else []), *([str(course.folder)] if trusts else [])]
    row: dict[str, Any] = {
        "path": str(course.folder),
        "name": student.name,
        "to": course.to,
        "output": start.tap.name,
        "blocks": len(blocks),
        "data": describe_data(start.spec, len(start.rows)),
        "seed": start.seed,
        "base": job.encoder,
        "run_data": plain(job.data or start.spec),
        "trust_code": trusting,
        **course.row,
    }
    lineage = {
        "base": start.own.identity["weights"],
        "data": row["data"],
        "steps": job.steps,
        "training": digest_of_json(course.asked),
        "seed": start.seed,
        "how": command_of(job.command, job),
        **course.lineage,
        **({} if job.control else {"control": "none"}),
    }

    def encoder_at(step: int) -> TorchEncoder:
        encoder = student.with_module(copy.deepcopy(student.module).cpu(), f"{student.name}-{step}")
        return encoder.replace(lineage=lineage | {"steps": step})

    before = cosine(start.own, start.tap.name, course.teacher, first)
    outcome = UNTRAINED
    if job.steps:
        outcome = fit(
            objective,
            feed,
            replace(job, seed=start.seed),
            course.folder,
            watch,
            name=course.folder.name,
            identity=dict(course.asked) | {"other tap that teaches": course.to},
            world=where,
            begin=course.begin,
            encoder_at=encoder_at,
        ).outcome
    after = cosine(objective.student, objective.tap.name, course.teacher, first)
    row |= outcome | {"cosine": {"before": before, "after": after}}
    if where.first:
        row |= course.conclude(objective, where)
        student.to("cpu")
        finish(course.folder / FINISHED, student, lineage, row, course.asked)
    barrier()
    return row


def cosine(encoder: TorchEncoder, tap_name: str, teacher: Teacher | None, batch: Mapping[str, Tensor]) -> float | None:
    """Of an encoder's tokens at a tap and the teacher's, on whole samples; None where their widths differ."""
    tap, read = encoder.tap(tap_name), section_of(batch, OWN)
    if teacher is None or tap.features != teacher.tap.features:
        return None
    tokens = encoder.capture(read, [tap.name])[tap.name]
    with torch.no_grad():
        return float(agreement(tokens, tap, taught(teacher, batch), teacher.tap, encoder.valid(read, tap)))


# `diagnostics align tap`: an encoder whose output was taught by one of its own taps, and by other encoders.


PROBED = 2_000
"""Samples of simulated data that are probed for the best tap."""
PROBES = {"token_label": "segmentation_probe", "event": "event_probe", "caption": "caption_probe"}
"""Kind of target -> the probe that reads it, where that is not the linear one."""
PLACES = ("token_label", "token_value", "event")
"""Kinds of target with a value for every place, which are read from tokens."""
LEAST = 0.01
"""Of a score on val: what lies closer together than this shows nothing that is worth lifting."""


def align_tap(job: TapJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `student.with_control`).

    With `for` and `probed`: data, and score of each tap on val, where the best one was chosen.
    """
    start = start_of(job)
    # Options are refused before a folder's content is.
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
            folder=job.folder,
            asked=start.identity(job),
            to=tap,
            teacher=teachers[0],
            make=functools.partial(batches_for, start, job, teachers),
            lineage={
                "group": group_of(start, job.to, job.target),
                "to": tap,
                "for": job.target or "",
            },
            row={"for": job.target, "probed": probed},
            itself=teachers == [start.itself],
        )

    return with_control(job, start, start.identity(job), plan)


def batches_for(
    start: Start, job: AlignmentJob, teachers: list[Teacher], student: TorchEncoder
) -> tuple[Alignment, Feed]:
    """The alignment and feed that a `Course` makes of a student, where teachers' tokens are all that it learns."""
    feed = Feed(
        dataset=start.dataset,
        rows=start.rows,
        student=start.own,
        teachers=teachers,
        batch=job.batch,
        mask=job.mask,
        seed=start.seed,
    )
    return Alignment(student, teachers, feed.section), feed


def check_tap(start: Start, to: str, target: str | None) -> None:
    """Raise where there is no such tap or target, or a tap whose tokens cannot be compared with the student's."""
    if target is not None:
        check_target(start.dataset, target)
    else:
        check_grids(start.tap, start.own.name, Teacher(start.own, start.own.tap(to)))


def check_width(start: Start, teacher: Teacher) -> None:
    """Raise where a tap of the base has other features than the one that it is to teach."""
    if teacher.tap.features != start.tap.features:
        raise DiagnosticsError(
            f"Tap {teacher.tap.name} of {start.own.name} has {teacher.tap.features} features and {start.tap.name}, "
            f"which it is to teach, {start.tap.features}: name a tap of as many, or let it teach through a linear map "
            f"(--to {start.tap.name} --teacher {start.own.name}:{teacher.tap.name}).",
            code="bad-shape",
        )


def chosen_tap(
    start: Start, to: str, target: str | None, where: World, watch: Watch, done: Row | None
) -> tuple[str, dict[str, Any] | None]:
    """The tap that teaches, and what was seen where it is the best for a target.

    Of an alignment that is done, what was seen then.
    """
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
            f"The output {output.name} of {start.own.name} has no tokens in the places of {start.tap.name}, so they "
            f"cannot be kept: leave --keep out.",
            code="no-grid",
        )
    return Teacher(start.own, output, weight=weight, mapped=True)


def group_of(start: Start, to: str, target: str | None) -> str:
    """One group for the seeds of a base, whose best taps may differ."""
    group = start.own.lineage.get("group") or start.own.name
    return f"{group} aligned for {target}" if target is not None else f"{group} aligned to {to}"


def check_target(dataset: Dataset, target: str) -> None:
    """Raise where a dataset lacks a target."""
    if target not in dataset.targets:
        raise DiagnosticsError(
            f"{dataset.name} has no target '{target}': choose one of {', '.join(dataset.targets)} for --for.",
            code="no-target",
        )


def best_tap(
    base: TorchEncoder, target: str, spec: str, device: str, watch: Callable[[Any], None]
) -> tuple[str, dict[str, Any]]:
    """The tap of an encoder, up to its output, from which the target's own probe reads it best.

    It is fitted on train and chosen on val; and what was seen: `tap`, `data`, `probe`, `n` of each split, `chosen_on`,
    `scores` (on test), `score` (what they are: R2, accuracy, mean IoU), `gain` (the best one's minus the output's).

    Of simulated data of more samples than `PROBED`, as many of the next seed are probed. Of targets with a value for
    every place, the tokens of all samples are kept, of others none. Taps of other axes or features than the output's
    cannot teach it and are no candidates. Raises where the best one is the output itself: then nothing is hidden.
    """
    name, options = parse_spec(spec)
    if name in SIMULATED and int(options["n"]) > PROBED:
        # Fewer of the same seed would be the same samples split in another way, those of training among val's.
        spec = spec_of(name, options | {"n": PROBED, "seed": int(options["seed"]) + 1})
    dataset: Dataset = build("dataset", spec)
    check_target(dataset, target)
    sized, output = base.sized_for(dataset[0]), base.output_tap
    last = sized.tap(output)
    upto = sized.taps[: sized.taps.index(last) + 1]
    able = [tap.name for tap in upto if (tap.grid.axes, tap.features) == (last.grid.axes, last.features)]
    kind = dataset.targets[target].kind
    probe = PROBES.get(kind, "linear_probe")
    key = f"{probe}/{target}"
    # The others would be probed too.
    alone = copy.copy(dataset)
    alone.targets = {target: dataset.targets[target]}
    # What is read pooled needs no tokens.
    budget = f"{sum(tap.tokens * tap.features for tap in upto) * 4 * (len(dataset) + 1)} B" if kind in PLACES else 0
    with tempfile.TemporaryDirectory(prefix="diagnostics-") as folder:
        try:
            probed = run(
                base,
                alone,
                out=Path(folder, "run"),
                taps=able,
                measures=probe,
                controls=False,
                report=False,
                device=device,
                token_budget=budget,
                watch=watch,
            )
        except KeyboardInterrupt:
            # The run's own message names its folder, which is temporary and removed with it.
            raise KeyboardInterrupt(
                "Interrupted while searching for the best tap: the same command starts again."
            ) from None
        if key not in {profile.name for profile in probed.profiles()}:
            why = "; ".join(why for name, why in probed.skipped.items() if name.startswith(probe))
            raise DiagnosticsError(
                f"{probe} cannot read {target} of {dataset.name}, so no tap is its best: "
                f"{why or 'name the tap itself'}.",
                code="no-target",
            )
        profile = probed.profile(key)
        best, chosen_on = profile.chosen_tap, profile.chosen_on
        scores = dict(zip(profile.taps, map(float, profile.data["score"].values), strict=True))
        score = str(profile.data.attrs["score_name"])
    assert best is not None
    if best == output:
        raise DiagnosticsError(
            f"The tap to use for {target} is {best} of {base.name} itself, the tap to be aligned: by {chosen_on} no "
            f"other is better by one standard error, so there is nothing to align. Name a tap with --to if "
            f"you know one.",
            code="no-effect",
        )
    return best, {
        "tap": best,
        "data": spec,
        "probe": probe,
        "n": dataset.counts(),
        "chosen_on": chosen_on,
        "scores": scores,
        "score": score,
        "gain": scores[best] - scores[output],
    }

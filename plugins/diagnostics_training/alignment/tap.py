"""`diagnostics align tap`: an encoder whose output was taught by one of its own taps, and by other encoders."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostics.plugin import Dataset, DiagnosticsError, TorchEncoder, build, run
from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.objective import Alignment, Teacher, check_grids, comparable
from diagnostics_training.alignment.student import Course, Row, Start, named_teacher, start_of, with_control
from diagnostics_training.jobs import AlignmentJob, TapJob
from diagnostics_training.trainer.data import SIMULATED, parse_spec, spec_of
from diagnostics_training.trainer.monitor import Watch, say
from diagnostics_training.trainer.objective import World

PROBED = 2_000
"""Samples of simulated data that are probed for the best tap."""
PROBES = {"token_label": "segmentation_probe", "event": "event_probe", "caption": "caption_probe"}
"""Kind of target -> the probe that reads it, where that is not the linear one."""
PLACES = ("token_label", "token_value", "event")
"""Kinds of target with a value for every place, which are read from tokens."""
LEAST = 0.01
"""Of a score on val: what lies closer together than this shows nothing that is worth lifting."""


def align_tap(job: TapJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `student.with_control`), with `for` and `probed`: data, and score of
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
            folder=job.folder,
            asked=start.identity(job),
            to=tap,
            teacher=teachers[0],
            make=batches_for(start, job, teachers),
            lineage={
                "group": group_of(start, job.to, job.target),
                "to": tap,
                "for": job.target or "",
                **uncontrolled(job),
            },
            row={"for": job.target, "probed": probed},
            itself=teachers == [start.itself],
        )

    return with_control(job, start, start.identity(job), plan)


def batches_for(
    start: Start, job: AlignmentJob, teachers: list[Teacher]
) -> Callable[[TorchEncoder], tuple[Alignment, Feed]]:
    """What a `Course` makes of a student, where teachers' tokens are all that it learns."""

    def make(student: TorchEncoder) -> tuple[Alignment, Feed]:
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

    return make


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


def check_target(dataset: Dataset, target: str) -> None:
    """Raises where a dataset lacks a target."""
    if target not in dataset.targets:
        raise DiagnosticsError(
            f"{dataset.name} has no target '{target}': choose one of {', '.join(dataset.targets)} for --for."
        )


def best_tap(
    base: TorchEncoder, target: str, spec: str, device: str, watch: Callable[[Any], None]
) -> tuple[str, dict[str, Any]]:
    """The tap of an encoder, up to its output, from which the target's own probe reads it best, fitted on train and chosen on val; and what was
    seen: `tap`, `data`, `probe`, `n` of each split, `chosen_on`, `scores` (on test), `score` (what they are: R2, accuracy, mean IoU), `gain` (the best
    one's minus the output's).

    Of simulated data of more samples than `PROBED`, as many of the next seed are probed. Of targets with a value for every
    place, the tokens of all samples are kept, of others none. Taps of other axes or features than the output's cannot teach it and
    are no candidates. Raises where the best one is the output itself: then nothing is hidden.
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
            # The run's own words name a folder that goes with it.
            raise KeyboardInterrupt(
                "Interrupted while searching for the best tap: the same command starts again."
            ) from None
        if key not in {profile.name for profile in probed.profiles()}:
            why = "; ".join(why for name, why in probed.skipped.items() if name.startswith(probe))
            raise DiagnosticsError(
                f"{probe} cannot read {target} of {dataset.name}, so no tap is its best: {why or 'name the tap itself'}."
            )
        profile = probed.profile(key)
        best, chosen_on = profile.chosen_tap, profile.chosen_on
        scores = dict(zip(profile.taps, map(float, profile.data["score"].values), strict=True))
        score = str(profile.data.attrs["score_name"])
    assert best is not None
    if best == output:
        raise DiagnosticsError(
            f"The tap to use for {target} is {best} of {base.name} itself, the tap to be aligned: by {chosen_on} no other is better by "
            "one standard error, so there is nothing to align. Name a tap with --to if you know one."
        )
    gain = scores[best] - scores[output]
    return best, {
        "tap": best,
        "data": spec,
        "probe": probe,
        "n": dataset.counts(),
        "chosen_on": chosen_on,
        "scores": scores,
        "score": score,
        "gain": gain,
    }

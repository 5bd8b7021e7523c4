"""Trainings of `diagnostics train objectives`: from a job to trained encoders in their folders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diagnostics.plugin import DiagnosticsError, options, watcher
from diagnostics_training.architecture import Architecture, default_likelihood
from diagnostics_training.jobs import ObjectiveOptions, TrainJob, command_of
from diagnostics_training.models.encoder import Answers, check_choices, check_sizes
from diagnostics_training.models.inputs import Views
from diagnostics_training.objectives import objective_class
from diagnostics_training.objectives.jepa import REGULARISERS
from diagnostics_training.trainer.checkpoints import finish, finished, make_folder, resumable
from diagnostics_training.trainer.data import Feed, TrainingData, check_batch, default_patch, load, rendering_notice
from diagnostics_training.trainer.monitor import Watch, say
from diagnostics_training.trainer.objective import World, barrier, world
from diagnostics_training.trainer.settings import identity_of
from diagnostics_training.trainer.trainer import UNTRAINED, check_fits, fit

FINISHED = "training.json"


def check_job(job: TrainJob) -> None:
    """Raises for values that cannot be, whether or not one of the objectives reads them, and before samples are made."""
    if job.regulariser not in REGULARISERS:
        raise DiagnosticsError(f"There is no regulariser '{job.regulariser}': choose one of {', '.join(REGULARISERS)}.")
    if job.seeds < 1:
        raise DiagnosticsError(f"There is nothing to train with {job.seeds} seeds: give at least 1.")
    check_choices(positives=job.positives, **({} if job.likelihood is None else {"likelihood": job.likelihood}))
    check_sizes(job.width, job.depth, job.heads)


def architecture_of(job: TrainJob, name: str, data: TrainingData, outputs: int) -> Architecture:
    """Encoder of an objective for these data."""
    return Architecture(
        objective=name,
        modality=data.modality,
        extent=data.extent,
        channels=data.channels,
        width=job.width,
        depth=job.depth,
        heads=job.heads,
        patch=default_patch(data.modality) if job.patch is None else job.patch,
        likelihood=job.likelihood or default_likelihood(data.modality),
        positives=job.positives if "positives" in objective_class(name).options else "views",
        outputs=outputs,
    )


def train(job: TrainJob) -> list[dict[str, Any]]:
    """Trains and saves everything that was asked for; what is finished already is left as it is.

    Gives a row for each encoder: `path`, `name`, `objective`, `seed`, `steps`, `loss`, `collapse` (None or what was seen),
    `seconds`, `data`, `run_data`; nothing in other processes than the first.
    """
    wanted = job.objectives
    check_job(job)
    with world(job.device) as where, watcher() as watch:
        everything: dict[bool, TrainingData] = {}
        rows: list[dict[str, Any]] = []
        for name in wanted:
            windows = objective_class(name).moves
            if windows not in everything:
                if where.first and (notice := rendering_notice(job.data)):
                    say(notice)
                everything[windows] = load(job.data, job.patch, windows=windows)
            data = everything[windows]
            _check(job, wanted, data)
            plans = [_plan(job, name, seed, data) for seed in range(job.seeds)]
            # All have looked at what is there before one of them writes.
            barrier()
            if where.first and not rows:
                count = len(wanted) * job.seeds
                say(f"{count} encoder{'s' if count > 1 else ''} on {data.description}; writes to {job.out}")
            rows += [_one(job, plan, data, where, watch) for plan in plans]
        return rows if where.first else []


def _check(job: TrainJob, wanted: Sequence[str], data: TrainingData) -> None:
    """Raises where these data cannot be trained on as was asked for."""
    if job.modality not in (None, data.modality):
        raise DiagnosticsError(f"{data.name} holds {data.modality}, not {job.modality}: leave --modality out.")
    for name in wanted:
        architecture = architecture_of(job, name, data, 1)
        # Without memory or random draws.
        with torch.device("meta"):
            objective = architecture.build_objective(architecture.model(), job.regulariser)
        if objective is not None:
            check_fits(objective, job, name)
            check_batch(job.batch, len(data.samples), job.accumulate)


@dataclass(frozen=True)
class _Plan:
    """One encoder to be: a `job` of its own, of one objective and seed; `done` is its row where it is finished."""

    job: TrainJob
    folder: Path
    architecture: Architecture
    answers: Answers
    identity: dict[str, Any]
    done: dict[str, Any] | None


def _plan(job: TrainJob, name: str, seed: int, data: TrainingData) -> _Plan:
    folder = job.out / (f"{name}-seed{seed}" if seed else name)
    kind = objective_class(name)
    answers = kind.answers(data.targets, data.rows, data.name)
    architecture = architecture_of(job, name, data, answers.outputs)
    own = replace(
        job,
        data=data.spec,
        objective=name,
        seeds=1,
        seed=seed,
        patch=architecture.patch,
        likelihood=architecture.likelihood,
    )
    read = {*kind.options, *kind.training_options}
    unread = {option.typed for field, option in options(ObjectiveOptions).items() if field not in read}
    identity = {key: value for key, value in identity_of(own).items() if key not in unread}
    identity |= {"other architecture": architecture.spec, "other samples of these data": data.fingerprint}
    done = finished(folder / FINISHED, identity)
    if done is None:
        make_folder(folder)
    return _Plan(own, folder, architecture, answers, identity, done)


def _one(job: TrainJob, plan: _Plan, data: TrainingData, where: World, watch: Watch) -> dict[str, Any]:
    label, own = plan.folder.name, plan.job
    if plan.done is not None:
        if where.first:
            say(f"{label}: is finished in {plan.folder}")
        return plan.done
    seed = own.seed or 0
    model = plan.architecture.initial(seed)
    objective = plan.architecture.build_objective(model, own.regulariser, plan.answers.classes)
    outcome = UNTRAINED
    if objective is not None:
        views = Views(data.modality, data.extent, objective.moves, objective.noise)
        feed = Feed(
            samples=data.samples,
            views=views,
            objective=objective,
            batch=own.batch,
            seed=seed,
            beside=plan.answers.arrays,
            ids=data.ids,
        )
        with resumable(plan.folder):
            outcome = fit(
                objective, feed, own, plan.folder, watch, name=label, identity=plan.identity, world=where
            ).outcome
    row: dict[str, Any] = {
        "path": str(plan.folder),
        "name": f"{data.name}-{label}",
        "objective": own.objective,
        "seed": seed,
        **outcome,
        "data": data.description,
        "run_data": job.data,
    }
    if where.first:
        encoder = plan.architecture.encoder(model.cpu(), row["name"])
        lineage = {"group": own.objective} | {key: row[key] for key in ("seed", "objective", "data", "steps")}
        lineage |= {"how": command_of("train objectives", job)}
        lineage |= {"collapse": row["collapse"]} if row["collapse"] else {}
        finish(plan.folder / FINISHED, encoder, lineage, row, plan.identity)
    barrier()
    return row

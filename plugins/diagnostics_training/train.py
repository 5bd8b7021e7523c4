"""From what was asked for to trained encoders in their folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagnostics.plugin import DiagnosticsError, watcher
from diagnostics_training.architecture import Architecture
from diagnostics_training.models.inputs import Views
from diagnostics_training.models.sizes import check_choices, check_sizes
from diagnostics_training.next_steps import command_of
from diagnostics_training.objectives import OBJECTIVES, objective_class
from diagnostics_training.objectives.base import Answers
from diagnostics_training.objectives.jepa import REGULARISERS
from diagnostics_training.options import APART, settings_of
from diagnostics_training.summary import finish, finished
from diagnostics_training.trainer.checkpoints import make_folder, resumable
from diagnostics_training.trainer.data import Feed, TrainingData, check_batch, default_patch, load, rendering_notice
from diagnostics_training.trainer.distributed import World, barrier, world
from diagnostics_training.trainer.monitor import Watch, say
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import UNTRAINED, check_fits, fit

FINISHED = "training.json"


@dataclass(frozen=True)
class Job:
    """What `diagnostics train objectives` was asked for; see its options."""

    data: str
    objective: str = "all"
    modality: str | None = None
    seeds: int = 1
    out: Path = Path("models")
    steps: int = 2000
    batch: int = 64
    lr: float = 1e-3
    optimiser: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.1
    cooldown: float = 0.0
    clip: float = 1.0
    width: int = 64
    depth: int = 6
    heads: int = 4
    patch: int | None = None
    likelihood: str | None = None
    positives: str = "views"
    regulariser: str = "none"
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False
    recompute: bool = False
    workers: int = 0
    device: str | None = None
    attention: str = "auto"
    watch_attention: int | None = None

    @property
    def wanted(self) -> list[str]:
        """The objectives by name; raises for unknown ones and what else cannot be."""
        names = list(OBJECTIVES) if self.objective == "all" else [n.strip() for n in self.objective.split(",")]
        if odd := [name for name in names if name not in OBJECTIVES]:
            raise DiagnosticsError(f"There is no objective '{odd[0]}': choose from {', '.join(OBJECTIVES)}, or all.")
        if self.regulariser not in REGULARISERS:
            raise DiagnosticsError(
                f"There is no regulariser '{self.regulariser}': choose one of {', '.join(REGULARISERS)}."
            )
        if self.seeds < 1:
            raise DiagnosticsError(f"There is nothing to train with {self.seeds} seeds: give at least 1.")
        # Whether or not one of the objectives asks for them, and before samples are made.
        check_choices(positives=self.positives, **({} if self.likelihood is None else {"likelihood": self.likelihood}))
        check_sizes(self.width, self.depth, self.heads)
        self.settings(0)
        return list(dict.fromkeys(names))

    @property
    def command(self) -> str:
        """What to type for the same."""
        return command_of("train objectives", self, ("out", "device", "modality", *APART))

    def settings(self, seed: int) -> Settings:
        """For the trainer."""
        return settings_of(self, seed)

    def architecture(self, name: str, data: TrainingData, outputs: int) -> Architecture:
        """The encoder of an objective for these data."""
        return Architecture(
            name,
            data.modality,
            data.extent,
            data.channels,
            self.width,
            self.depth,
            self.heads,
            default_patch(data.modality) if self.patch is None else self.patch,
            self.likelihood or ("quantile" if data.modality == "series" else "gaussian"),
            self.positives if "positives" in objective_class(name).options else "views",
            outputs,
        )


def train(job: Job) -> list[dict[str, Any]]:
    """Trains and saves everything that was asked for; what is finished already is left as it is.

    Gives a row for each encoder: `path`, `name`, `objective`, `seed`, `steps`, `loss`, `collapse` (None or what was seen),
    `seconds`, `data`, `run_data`; nothing in other processes than the first.
    """
    wanted = job.wanted
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
            planned = [_planned(job, name, seed, data) for seed in range(job.seeds)]
            # All have looked at what is there before one of them writes.
            barrier()
            if where.first and not rows:
                count = len(wanted) * job.seeds
                say(f"{count} encoder{'s' if count > 1 else ''} on {data.description}; writes to {job.out}")
            rows += [_one(job, plan, data, where, watch) for plan in planned]
        return rows if where.first else []


def _check(job: Job, wanted: Sequence[str], data: TrainingData) -> None:
    """Raises where these data cannot be trained on as was asked for."""
    if job.modality not in (None, data.modality):
        raise DiagnosticsError(f"{data.name} holds {data.modality}, not {job.modality}: leave --modality out.")
    for name in wanted:
        architecture = job.architecture(name, data, 1)
        # Without memory or random draws.
        with torch.device("meta"):
            objective = architecture.build_objective(architecture.model(), job.regulariser)
        if objective is not None:
            check_fits(objective, job.settings(0), name)
            check_batch(job.batch, len(data.samples), job.accumulate)


@dataclass(frozen=True)
class _Plan:
    """One encoder to be: `done` is its row where it is finished."""

    seed: int
    folder: Path
    architecture: Architecture
    answers: Answers
    identity: dict[str, Any]
    done: dict[str, Any] | None


def _planned(job: Job, name: str, seed: int, data: TrainingData) -> _Plan:
    folder = job.out / (f"{name}-seed{seed}" if seed else name)
    kind = objective_class(name)
    answers = kind.answers(data.targets, data.rows, data.name)
    architecture = job.architecture(name, data, answers.outputs)
    options = {option: getattr(job, option) for option in ("batch", *kind.training_options)}
    identity = {"architecture": architecture.spec, "data": data.spec, "fingerprint": data.fingerprint, **options}
    done = finished(folder / FINISHED, identity | job.settings(seed).identity)
    if done is None:
        make_folder(folder)
    return _Plan(seed, folder, architecture, answers, identity, done)


def _one(job: Job, plan: _Plan, data: TrainingData, where: World, watch: Watch) -> dict[str, Any]:
    label, objective_name = plan.folder.name, plan.architecture.objective
    if plan.done is not None:
        if where.first:
            say(f"{label}: is finished in {plan.folder}")
        return plan.done
    settings, model = job.settings(plan.seed), plan.architecture.initial(plan.seed)
    objective = plan.architecture.build_objective(model, job.regulariser, plan.answers.classes)
    outcome = UNTRAINED
    if objective is not None:
        views = Views(data.modality, data.extent, objective.moves, objective.noise)
        feed = Feed(data.samples, views, objective, job.batch, plan.seed, plan.answers.arrays, data.ids)
        with resumable(plan.folder):
            outcome = fit(
                objective, feed, settings, plan.folder, watch, name=label, identity=plan.identity, world=where
            ).outcome
    row: dict[str, Any] = {
        "path": str(plan.folder),
        "name": f"{data.name}-{label}",
        "objective": objective_name,
        "seed": plan.seed,
        **outcome,
        "data": data.description,
        "run_data": job.data,
    }
    if where.first:
        encoder = plan.architecture.encoder(model.cpu(), row["name"])
        lineage = {"group": objective_name} | {key: row[key] for key in ("seed", "objective", "data", "steps")}
        lineage |= {"how": job.command} | ({"collapse": row["collapse"]} if row["collapse"] else {})
        finish(plan.folder / FINISHED, encoder, lineage, row, plan.identity | settings.identity)
    barrier()
    return row

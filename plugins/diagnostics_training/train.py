"""Encoders of objectives, and `diagnostics train objectives`: from a job to trained encoders in their folders."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.weights import seeding
from torch import Tensor

from diagnostics.plugin import (
    DiagnosticsError,
    Grid,
    TorchEncoder,
    central_part,
    check_known,
    load_encoder,
    options,
    refuse_values,
    stack_taps,
    watcher,
)
from diagnostics_training.jobs import ObjectiveOptions, TrainJob, command_of
from diagnostics_training.models.encoder import (
    AXES,
    TUBE,
    Answers,
    Backbone,
    EncoderObjective,
    Model,
    Sizes,
    check_choices,
    check_sizes,
)
from diagnostics_training.models.inputs import Views, channels_of, extent_of, prepare, resized
from diagnostics_training.objectives import OBJECTIVES, objective_class
from diagnostics_training.objectives.jepa import REGULARISERS
from diagnostics_training.trainer.data import (
    Feed,
    TrainingData,
    check_batch,
    default_patch,
    describe_data,
    load,
    rendering_notice,
)
from diagnostics_training.trainer.objective import World, barrier, world
from diagnostics_training.trainer.record import Watch, earlier_result, finish, make_folder, say
from diagnostics_training.trainer.settings import identity_of
from diagnostics_training.trainer.trainer import UNTRAINED, check_fits, fit

# The encoder of each objective: backbone and head from a few numbers, which are also its name.


WEIGHTS = Path(__file__).parent / "weights"
INITIAL = 7919
"""Apart from the seeds of controls: `fresh(0)` must not draw the initial weights of training seed 0."""
UNNAMED = {"positives": "views"}
"""Options that an encoder's name leaves out where they have this value."""


@dataclass(frozen=True)
class Architecture(Sizes):
    """Everything that decides an encoder except its weights."""

    def __post_init__(self) -> None:
        check_known("objective", self.objective, OBJECTIVES)
        super().__post_init__()

    @property
    def kind(self) -> type[EncoderObjective]:
        """The class of objective that trains it."""
        return objective_class(self.objective)

    @property
    def spec(self) -> str:
        """The name under which the plugin builds this architecture."""
        if self.modality == "series":
            size = f"length={self.extent[0]}" + (f"&variates={self.channels}" if self.channels > 1 else "")
        else:
            size = f"size={self.extent[-1]}" + (f"&frames={self.extent[0]}" if self.modality == "video" else "")
        options = {option: getattr(self, option) for option in self.kind.options}
        more = "".join(f"&{option}={value}" for option, value in options.items() if UNNAMED.get(option) != value)
        sizes = f"width={self.width}&depth={self.depth}&heads={self.heads}&patch={self.patch}"
        return f"objective:{self.objective}?modality={self.modality}&{size}&{sizes}{more}"

    def model(self) -> Model:
        """Backbone and head with weights from torch's generator."""
        backbone = Backbone(self.patches, self.width, self.depth, self.heads, self.kind.causal)
        return Model(backbone, self.kind.head(self))

    def initial(self, seed: int) -> Model:
        """The weights that training of this seed starts from; backbones of one seed are equal for all objectives."""
        with seeding(int(np.random.SeedSequence([INITIAL, seed]).generate_state(1)[0])):
            return self.model()

    def build_objective(
        self, model: Model, regulariser: str = "none", classes: tuple[int, ...] = ()
    ) -> EncoderObjective | None:
        """The objective that trains a model of this architecture; None where nothing does."""
        return self.kind(model, self, regulariser, classes) if self.kind.trained else None

    def encoder(self, model: Model, name: str) -> TorchEncoder:
        """A model of this architecture as an encoder.

        It is sized for samples of any size that patches fit; pictures of another size are brought to its own.
        """
        grid = Grid(self.grid, AXES[self.modality])
        taps = stack_taps("backbone.blocks", self.depth, self.width, grid, norm="backbone.norm")
        if model.head is not None:
            taps += model.head.taps(self.depth, grid)
        encoder = TorchEncoder(
            name=name,
            # pyrefly: ignore[bad-argument-type]
            modality=self.modality,
            module=model.eval(),
            taps=taps,
            output_tap="norm",
            preprocess=self.preprocess,
            example=self._example(),
            fresh=self.model,
            configuration=self.spec,
            sized_for=lambda sample: self._at_size(sample, model, name),
            covers=None if self.modality == "series" else self._covers,
        )
        return encoder.replace(skeleton=self.spec)

    def preprocess(self, sample: np.ndarray) -> Tensor:
        """One raw sample as [C, *extent]."""
        sample = np.asarray(sample)
        if self.modality != "series" and extent_of(self.modality, sample)[-2:] != self.extent[-2:]:
            sample = resized(self.modality, sample, self.extent[-2:])
        self.patches.grid(extent_of(self.modality, sample))
        if channels_of(self.modality, sample) != self.channels:
            raise DiagnosticsError(
                f"This encoder reads series of {self.channels} variate(s), not of "
                f"{channels_of(self.modality, sample)}.",
                code="bad-sample",
            )
        return prepare(self.modality, sample[None])[0]

    def _covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return tuple((float(start), float(stop)) for start, stop in central_part(shape, self.extent[-2:]))

    def _at_size(self, sample: np.ndarray, model: Model, name: str) -> TorchEncoder | None:
        extent = extent_of(self.modality, np.asarray(sample))
        if extent == self.extent or (self.modality != "series" and any(n % self.patch for n in extent[-2:])):
            return None
        return replace(self, extent=extent).encoder(model, name).replace(configuration=self.spec)

    def _example(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        if self.modality == "series":
            shape = self.extent if self.channels == 1 else (*self.extent, self.channels)
            return rng.standard_normal(shape).cumsum(0).astype(np.float32)
        return rng.integers(0, 256, (*self.extent, 3)).astype(np.uint8)


def untrained(architecture: Architecture, seed: int) -> TorchEncoder:
    """The encoder with the weights that training of this seed starts from."""
    encoder = architecture.encoder(architecture.initial(seed), f"objective-{architecture.objective}")
    group = f"{architecture.objective} (untrained)"
    return encoder.replace(lineage={"objective": architecture.objective, "steps": 0, "seed": seed, "group": group})


def extent(modality: str, length: int, size: int, frames: int) -> tuple[int, ...]:
    """Of samples of a modality."""
    if frames % TUBE:
        raise DiagnosticsError(
            f"A clip of frames={frames} cannot be cut into patches of {TUBE} frames: give an even number.",
            code="bad-value",
        )
    known = {"series": (length,), "image": (size, size), "video": (frames, size, size)}
    check_known("modality", modality, known)
    return known[modality]


def default_likelihood(modality: str) -> str:
    """Likelihood of a forecast: quantiles of a series, moments of pixels."""
    return "quantile" if modality == "series" else "gaussian"


def bundled(name: str, training_seed: int = 0) -> TorchEncoder:
    """Trained weights that came with this plugin, of the first training seed or another."""
    known = {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}
    wanted = f"{name}-seed{training_seed}" if training_seed else name
    if wanted not in known:
        there = f"there are {', '.join(known)}" if known else "none came with this version"
        raise DiagnosticsError(
            f"There is no trained encoder 'objectives:{wanted}': {there}; make one with `diagnostics train "
            f"objectives`.",
            code="missing-file",
        )
    return load_encoder(known[wanted])


# Trainings of `diagnostics train objectives`: from a job to trained encoders in their folders.


FINISHED = "training.json"


def check_job(job: TrainJob) -> None:
    """Raise for values that cannot be, whether or not one of the objectives reads them.

    It is called before samples are made.
    """
    refuse_values(
        (
            job.regulariser not in REGULARISERS,
            f"There is no regulariser '{job.regulariser}': choose one of {', '.join(REGULARISERS)}.",
            "unknown-name",
        ),
        (job.seeds < 1, f"There is nothing to train with {job.seeds} seeds: give at least 1."),
    )
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

    Gives a row for each encoder: `path`, `name`, `objective`, `seed`, `steps`, `loss`, `collapse` (None or what was
    seen), `seconds`, `data`, `run_data`; nothing in other processes than the first.
    """
    wanted = job.objectives
    check_job(job)
    with world(job.device, job.batch) as where, watcher() as watch:
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
            plans = [_plan(job, name, seed, data, where) for seed in range(job.seeds)]
            # All processes check the folder before the first one writes into it.
            barrier()
            if where.first and not rows:
                count, trained = len(wanted) * job.seeds, describe_data(data.spec, len(data.samples))
                say(f"{count} encoder{'s' if count > 1 else ''} on {trained}; writes to {job.out}")
            rows += [_one(job, plan, data, where, watch) for plan in plans]
        return rows if where.first else []


def _check(job: TrainJob, wanted: Sequence[str], data: TrainingData) -> None:
    """Raise where these data cannot be trained on as was asked for."""
    if job.modality not in (None, data.modality):
        raise DiagnosticsError(
            f"{data.name} holds {data.modality}, not {job.modality}: leave --modality out.", code="conflict"
        )
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


def _plan(job: TrainJob, name: str, seed: int, data: TrainingData, where: World) -> _Plan:
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
    unread = {option.flag for field, option in options(ObjectiveOptions).items() if field not in read}
    identity = {key: value for key, value in identity_of(own).items() if key not in unread}
    identity |= {"other architecture": architecture.spec, "other samples of these data": data.fingerprint}
    done = earlier_result(folder / FINISHED, identity, where)
    make_folder(folder)
    return _Plan(own, folder, architecture, answers, identity, done)


def _one(job: TrainJob, plan: _Plan, data: TrainingData, where: World, watch: Watch) -> dict[str, Any]:
    label, own = plan.folder.name, plan.job
    if plan.done is not None:
        return plan.done
    seed = own.seed or 0
    model = plan.architecture.initial(seed)
    objective = plan.architecture.build_objective(model, own.regulariser, plan.answers.classes)
    name, source, outcome = f"{data.name}-{label}", describe_data(data.spec, len(data.samples)), UNTRAINED
    lineage: dict[str, Any] = {
        "group": own.objective,
        "seed": seed,
        "objective": own.objective,
        "data": source,
        "how": command_of("train objectives", job),
    }
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

        def encoder_at(step: int) -> TorchEncoder:
            encoder = plan.architecture.encoder(copy.deepcopy(model).cpu(), f"{name}-{step}")
            return encoder.replace(lineage=lineage | {"steps": step})

        outcome = fit(
            objective,
            feed,
            own,
            plan.folder,
            watch,
            name=label,
            identity=plan.identity,
            world=where,
            encoder_at=encoder_at,
        ).outcome
    row: dict[str, Any] = {
        "path": str(plan.folder),
        "name": name,
        "objective": own.objective,
        "seed": seed,
        **outcome,
        "data": source,
        "run_data": job.data,
    }
    if where.first:
        encoder = plan.architecture.encoder(model.cpu(), name)
        lineage |= {"steps": row["steps"]} | ({"collapse": row["collapse"]} if row["collapse"] else {})
        finish(plan.folder / FINISHED, encoder, lineage, row, plan.identity)
    barrier()
    return row

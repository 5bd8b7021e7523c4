"""`diagnostics train pe`: from what was asked for to a pair of trained encoders in their folder."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from diagnostics_perception.models import ARCHITECTURES
from diagnostics_training.jobs import command_of
from diagnostics_training.models.inputs import PictureChanges
from diagnostics_training.trainer.data import describe_data, parse_spec, plain, rendering_notice, training_spec
from diagnostics_training.trainer.objective import Batch, World, barrier, world
from diagnostics_training.trainer.record import Watch, earlier_result, finish, say
from diagnostics_training.trainer.settings import Computation, Optimisation, Settings, part_of
from diagnostics_training.trainer.trainer import fit

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Encoder,
    LazySamples,
    build,
    digest_of_json,
    join_names,
    name_error,
    save_encoder,
    watcher,
)
from diagnostics_pretraining.objective import (
    Batches,
    Distillation,
    Feed,
    Pretraining,
    Scores,
    TaughtBatches,
    Teacher,
    check_masks,
    equal_texts,
    outline_of,
    to_train,
)
from diagnostics_pretraining.order import BROKEN, Broken
from diagnostics_pretraining.recipe import Augmentation, PretrainJob, Recipe, steps_of
from diagnostics_pretraining.text_encoder import WHOLE, Vocabulary, context_of, known_size, vocabulary_of
from diagnostics_pretraining.towers import TEXT, Pair, Towers, build_towers, encoders_of, load_pair, towers_of
from diagnostics_pretraining.zeroshot import scores_on

# Everything that is decided before a training begins: recipe, data, texts, starting weights, batches.

# What can be wrong with the texts that are trained on, and what people are told of them.

LOOKED_AT = 2_000
"""Texts whose length is counted at most; of more, as many at equal distances. Of texts that are read on demand no
others are read.
"""


def check_texts(dataset: Dataset, rows: np.ndarray) -> None:
    """Raise where there are no texts, some are empty, or all are equal."""
    if not dataset.texts:
        raise DiagnosticsError(
            f"{dataset.name} has no texts to train with: give data with captions, as captions:FILE or shapes.",
            code="no-target",
        )
    looked_at = _some(rows) if isinstance(dataset.texts, LazySamples) else rows
    empty = [str(dataset.ids[row]) for row in looked_at if not dataset.texts[row].strip()]
    if empty:
        shown = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise DiagnosticsError(
            f"{len(empty):,} of the {len(looked_at):,} train texts of {dataset.name} are empty ({shown}): fill them, "
            f"or leave those samples out.",
            code="bad-sample",
        )
    first = dataset.texts[rows[0]]
    if all(dataset.texts[row] == first for row in looked_at):
        raise DiagnosticsError(
            f"All {len(looked_at):,} train texts of {dataset.name} are equal, so there is nothing to tell apart: give "
            f"other texts.",
            code="bad-target",
        )


def _some(rows: np.ndarray) -> np.ndarray:
    """Of many samples some at equal distances."""
    return rows[:: -(-len(rows) // LOOKED_AT)]


def describe_texts(
    dataset: Dataset, rows: np.ndarray, batch: Sequence[int] | np.ndarray, vocabulary: Vocabulary
) -> list[str]:
    """Lines for people about texts.

    A vocabulary that is not whole, or lacks words, texts that are cut, and equal ones in the first batch.
    """
    lines: list[str] = []
    seen = _some(rows)
    tokens, cut = vocabulary.encode([dataset.texts[row] for row in seen])
    if vocabulary.kept is not None:
        # pyrefly: ignore[missing-attribute]
        strange = int((tokens == vocabulary.unknown).any(1).sum())
        of_rows = f"{vocabulary.size - 1:,} rows of {WHOLE:,} of CLIP's vocabulary"
        lines.append(
            f"has {of_rows}, which lack words of {strange:,} of {len(seen):,} texts: all these are one word to it"
            if strange
            else f"keeps the {of_rows} that the texts use, and one for all others"
        )
    if cut:
        lines.append(f"cuts {cut:,} of {len(seen):,} texts, which are longer than {vocabulary.context} tokens")
    if equal := equal_texts(vocabulary.encode([dataset.texts[row] for row in batch])[0]):
        lines.append(
            f"has {equal:,} texts in its first batch of {len(batch):,} that are equal to another one there: each is a "
            f"false negative of it"
        )
    return lines


# Which changes of its images a dataset's texts survive, and what is left of an augmentation.
#
# A caption that says left and right is false of a mirrored scene, and one that says red of a scene in another hue.

UNCHANGED: Mapping[str, Mapping[str, Any]] = {
    "crop": {"area": (1.0, 1.0), "aspect": (1.0, 1.0)},
    "mirror": {"mirror": 0.0},
    "brightness": {"brightness": 0.0},
    "contrast": {"contrast": 0.0},
    "saturation": {"saturation": 0.0},
    "hue": {"grey": 0.0},
}
"""Each change of an image -> the ranges in which nothing of the kind is drawn."""


def harmless_changes(dataset: Dataset) -> frozenset[str]:
    """The changes of an image under which a dataset's texts stay true: its extra `text_survives`, by default all."""
    names = frozenset(dataset.extras.get("text_survives", UNCHANGED))
    if odd := sorted(names - UNCHANGED.keys()):
        raise name_error(f"change of an image in text_survives of dataset {dataset.name}", odd[0], UNCHANGED)
    return names


def changes_in(changes: PictureChanges) -> frozenset[str]:
    """The names of what these ranges change."""
    return frozenset(
        name for name, kept in UNCHANGED.items() if any(getattr(changes, key) != value for key, value in kept.items())
    )


def survivable(
    changes: PictureChanges, dataset: Dataset, asked: bool = False
) -> tuple[PictureChanges | None, tuple[str, ...]]:
    """The rest of an augmentation without changes that the dataset's texts do not survive.

    None for nothing; and the names of those changes. Raises for any where changes are asked for by name.
    """
    harmless = harmless_changes(dataset)
    left_out = tuple(sorted(changes_in(changes) - harmless))
    if asked and left_out:
        raise DiagnosticsError(
            f"Texts of {dataset.name} would be false under a change of {join_names(left_out)}: "
            f"{f'augment by {join_names(sorted(harmless))}, or not at all' if harmless else 'leave augmentation out'}.",
            code="conflict",
        )
    kept = replace(changes, **{key: value for name in left_out for key, value in UNCHANGED[name].items()})
    return (kept if changes_in(kept) else None), left_out


SMALL = ("nano", "micro")
"""Sizes whose text tower keeps the rows of the vocabulary that its texts use, since the whole table would be most of
it.
"""


@dataclass(frozen=True)
class Plan:
    """A training that can begin.

    base: the towers that it starts from, and their pair's weights; None for new ones. teacher: whose similarities are
    learned; None for contrast. notes: what people are told of the data. left_out: the changes of images that its texts
    do not survive.
    """

    size: str
    recipe: Recipe
    settings: Settings
    data: str
    dataset: Dataset
    rows: np.ndarray
    vocabulary: Vocabulary
    base: Pair | None
    teacher: Teacher | None
    batches: Callable[[int, int, int], Batch]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    broken: Broken | None
    split: str
    scored: Scores | None

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the numbers: another one in the folder is refused."""
        return (
            self.recipe.identity
            | self.settings.identity
            | {
                "--data": self.data,
                "--split": self.split,
                "towers": self.size,
                "other samples of these data": outline_of(self.dataset),
                "other vocabulary of texts": digest_of_json(asdict(self.vocabulary)),
                "other weights of the base encoder": None if self.base is None else self.base.image.identity["weights"],
                "other teacher": None if self.teacher is None else self.teacher.weights,
            }
        )

    def towers(self) -> Towers:
        """New towers, or the base's."""
        masked, seed = self.recipe.mask > 0, self.settings.seed or 0
        if self.base is not None:
            return towers_of(self.base, masked=masked, seed=seed, vocabulary=self.vocabulary)
        return build_towers(
            self.size,
            rope=self.recipe.rope,
            pool=self.recipe.pool,
            vocabulary=self.vocabulary,
            seed=seed,
            masked=masked,
            image=self.recipe.largest,
        )

    def objective(self, towers: Towers, device: str) -> Pretraining:
        """The objective that is trained; a teacher is on the device then."""
        if self.teacher is not None:
            return Distillation(towers, self.teacher.to(device), self.scored)
        return Pretraining(towers, self.recipe, self.scored)


def plan_of(job: PretrainJob, processes: int = 1) -> Plan:
    """Read recipe, data and starting weights; raises for what does not fit, before anything is written."""
    base = None if job.start is None else load_pair(job.start)
    begun = None if base is None else towers_of(base)
    size = known_size(job.size or "") if begun is None else begun.size
    one = ARCHITECTURES[size]
    recipe = job.asked.for_model(one.image, one.patch, job.samples)
    if begun is not None:
        check_start(job.start or "", begun, recipe)
    seed = job.seed if job.seed is not None else 0 if base is None else int(base.image.lineage.get("seed", 0))
    settings = Settings(
        steps=steps_of(recipe.stages, recipe.batch),
        **part_of(recipe, Optimisation),
        **part_of(job, Computation),
        evaluate_every=None if job.evaluation is None else job.checkpoint_every,
        seed=seed,
    )
    teacher = _teacher(job, recipe)
    if recipe.mask:
        check_masks(recipe.batch, processes, recipe.mask)
    spec, _ = training_spec(job.data)
    read = to_train(spec)
    dataset: Dataset = build("dataset", read)
    rows = np.arange(len(dataset)) if job.split == "all" else np.flatnonzero(dataset.split == "train")
    check_texts(dataset, rows)
    # Of data that say what a broken file does, the first one does that.
    replaces = parse_spec(spec)[1].get("on_error", "replace") == "replace"
    broken = Broken(dataset, outline_of(dataset), job.out / BROKEN) if replaces else None
    if begun is not None:
        vocabulary = begun.vocabulary
        if vocabulary.kept is not None:
            of_texts = vocabulary_of((dataset.texts[row] for row in rows), vocabulary.context).kept or ()
            vocabulary = replace(vocabulary, kept=tuple(sorted({*vocabulary.kept, *of_texts})))
    elif size in SMALL:
        vocabulary = vocabulary_of((dataset.texts[row] for row in rows), context_of(size))
    else:
        vocabulary = Vocabulary(context_of(size))
    changes, left_out = _changes(job, recipe, dataset)
    feed = Feed(
        dataset=dataset,
        rows=rows,
        vocabulary=vocabulary,
        stages=recipe.stages,
        batch=recipe.batch,
        seed=seed,
        changes=changes,
        clips=recipe.clips,
        frames=recipe.frames,
        broken=broken,
    )
    first = round(recipe.mask_from * settings.steps)
    notes = [
        f"sees {settings.steps * settings.batch:,} pairs ({settings.steps * settings.batch / len(rows):.2g} epochs) in "
        f"batches of {settings.batch:,} at a rate of {settings.lr:g}, which scale with neither size nor data: set "
        f"--samples, --batch and --lr yourself",
        f"hides patches at the weight that large towers have, beside which {size} hardly learns the contrast: begin "
        f"with --recipe 1, or weaken it by mask_weight and mask_from in a recipe of your own (--config)"
        if size in SMALL and recipe.mask and recipe.mask_weight == 1 and not first
        else "",
        f"trains on {len(rows):,} of {len(dataset):,} samples, {'the train split' if job.split == 'train' else 'all'}",
        f"leaves {join_names(left_out)} of the augmentation out, under which texts of {dataset.name} would be false"
        if left_out
        else "",
        *describe_texts(dataset, rows, feed.order.part(0, 0, processes)[0], vocabulary),
    ]
    batches = TaughtBatches(feed, teacher) if teacher else Batches(feed, one.patch, recipe.mask, recipe.hidden, first)
    return Plan(
        size=size,
        recipe=recipe,
        settings=settings,
        data=spec,
        dataset=dataset,
        rows=rows,
        vocabulary=vocabulary,
        base=base,
        teacher=teacher,
        batches=batches,
        notes=tuple(note for note in notes if note),
        left_out=left_out,
        broken=broken,
        split=job.split,
        scored=None if job.evaluation is None else scores_on(job.evaluation, job.device),
    )


def _teacher(job: PretrainJob, recipe: Recipe) -> Teacher | None:
    """Raise where a recipe that distils has none, and where another one has."""
    if (recipe.objective == "distil") != (job.teacher is not None):
        raise DiagnosticsError(
            "A recipe that distils learns from a teacher, and no other has one: give both --recipe distil and "
            "--teacher FOLDER, or neither.",
            code="conflict",
        )
    return None if job.teacher is None else Teacher(load_pair(job.teacher))


def check_start(folder: str, towers: Towers, recipe: Recipe) -> None:
    """Raise where towers are of another make than the recipe's, with all differences."""
    one = towers.architecture
    different = [
        f"{name} {kept}, not {wanted}".lower()
        for name, kept, wanted in (
            ("rope", one.rope, recipe.rope),
            ("pool", one.pool, recipe.pool),
            ("images of", f"{one.image} pixels", f"{recipe.largest} pixels"),
        )
        if kept != wanted
    ]
    if different:
        raise DiagnosticsError(
            f"{folder} cannot be trained further by this recipe, since it has {join_names(different)}: name another "
            f"--from, or a recipe of your own (--config) that says so.",
            code="other-weights",
        )


def _changes(job: PretrainJob, recipe: Recipe, dataset: Dataset) -> tuple[PictureChanges | None, tuple[str, ...]]:
    """The random changes of images, and those that are left out.

    A recipe that is here asks for all, a file by name.
    """
    if recipe.augment is None:
        return None, ()
    return survivable(changes_of(recipe.augment), dataset, asked=job.config is not None)


def changes_of(augment: Augmentation) -> PictureChanges:
    """The ranges of a recipe's augmentation; what it does not name stays as it is."""
    return PictureChanges(
        area=augment.crop or (1.0, 1.0),
        aspect=augment.aspect or (1.0, 1.0),
        mirror=augment.mirror,
        brightness=augment.brightness,
        contrast=augment.contrast,
        saturation=augment.saturation,
        grey=0.0,
    )


FINISHED = "training.json"


def train(job: PretrainJob) -> dict[str, Any]:
    """Trains and saves the pair of encoders, and goes on with what was interrupted; what is finished is left as it is.

    Gives, in the first process: `path`, `name`, `size`, `recipe`, `seed`, `steps`, `samples`, `loss`, `collapse` (None
    or what was seen), `seconds`, `left_out` (changes of images that the texts do not survive), `broken` (how many pairs
    were replaced), `data`, `run_data`, `target` (what `zeroshot` can ask of these data, None for retrieval alone).
    """
    with world(job.device, job.asked.batch) as where, watcher() as watch:
        if where.first and (notice := rendering_notice(job.data)):
            say(notice)
        # The first one reads alone what is read once, as archives for their index.
        if not where.first:
            barrier()
        plan = plan_of(job, where.size)
        if where.first:
            barrier()
        row = earlier_result(job.out / FINISHED, plan.identity, where)
        # All processes check the folder before the first one writes into it.
        barrier()
        if row is None:
            row = _carry_out(job, plan, where, watch)
        return row if where.first else {}


def _carry_out(job: PretrainJob, plan: Plan, where: World, watch: Watch) -> dict[str, Any]:
    label = job.out.name
    if where.first:
        for note in plan.notes:
            say(f"{label}: {note}")
    towers, name = plan.towers(), f"{plan.dataset.name}-{label}"
    data = describe_data(plan.data, len(plan.rows), "all splits" if plan.split == "all" else "its train split")
    recipe, samples = job.recipe or str(job.config), sum(stage.samples for stage in plan.recipe.stages)
    lineage: dict[str, Any] = {
        "group": f"{plan.size} recipe {recipe}",
        "seed": plan.settings.seed,
        "recipe": recipe,
        "data": data,
        "samples": samples,
        "how": command_of("train pe", job),
        "left_out": " ".join(plan.left_out),
    }

    def encoder_at(step: int) -> Encoder:
        about = lineage | {"steps": step, "samples": step * plan.recipe.batch}
        return encoders_of(copy.deepcopy(towers).to("cpu"), f"{name}-{step}", about).image

    outcome = fit(
        plan.objective(towers, where.device),
        plan.batches,
        plan.settings,
        job.out,
        watch,
        name=label,
        identity=plan.identity,
        world=where,
        encoder_at=encoder_at,
    ).outcome
    row: dict[str, Any] = {
        "path": str(job.out),
        "name": name,
        "size": plan.size,
        "recipe": recipe,
        "seed": plan.settings.seed,
        **outcome,
        "samples": samples,
        "left_out": list(plan.left_out),
        "broken": 0 if plan.broken is None else len(plan.broken.read()),
        "data": data,
        "run_data": plain(job.data),
        "target": _target(plan.dataset),
    }
    if where.first:
        lineage |= {"steps": row["steps"]} | ({"collapse": row["collapse"]} if row["collapse"] else {})
        pair = encoders_of(towers.to("cpu"), name, lineage)
        # The text encoder first: without the image encoder, there is none, and the same command does both again.
        save_encoder(job.out / TEXT, pair.text)
        finish(job.out / FINISHED, pair.image, pair.image.lineage, row, plan.identity)
    barrier()
    return row


def _target(dataset: Dataset) -> str | None:
    """The first label, or else the first question of the first sample."""
    labels = [name for name, target in dataset.targets.items() if target.kind == "label"]
    questions = [question.name for question in dataset.questions[0] if question.name != "caption"]
    return next(iter([*labels, *questions]), None)

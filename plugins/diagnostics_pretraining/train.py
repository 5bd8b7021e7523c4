"""`diagnostics train pe`: from what was asked for to a pair of trained encoders in their folder."""

from __future__ import annotations

from typing import Any

import torch
from diagnostics_training.summary import finish, finished
from diagnostics_training.trainer.checkpoints import make_folder, resumable
from diagnostics_training.trainer.data import describe_data, plain, rendering_notice
from diagnostics_training.trainer.distributed import World, barrier, world
from diagnostics_training.trainer.monitor import Watch, say
from diagnostics_training.trainer.trainer import fit

from diagnostics.plugin import Dataset, save_encoder, watcher
from diagnostics_pretraining.job import Job
from diagnostics_pretraining.plan import Plan, plan_of
from diagnostics_pretraining.towers import TEXT, encoders_of

FINISHED = "training.json"


def train(job: Job) -> dict[str, Any]:
    """Trains and saves the pair of encoders, and goes on with what was interrupted; what is finished is left as it is.

    Gives, in the first process: `path`, `name`, `size`, `recipe`, `seed`, `steps`, `samples`, `loss`, `collapse` (None or what
    was seen), `seconds`, `left_out` (changes of images that the texts do not survive), `data`, `run_data`, `target` (what `zeroshot` can
    ask of these data, None for retrieval alone).
    """
    with world(job.device) as where, watcher() as watch:
        if where.first and (notice := rendering_notice(job.data)):
            say(notice)
        plan = plan_of(job, where.size)
        done = finished(job.out / FINISHED, plan.identity | plan.settings.identity)
        # All have looked at what is there before one of them writes.
        barrier()
        if done is not None:
            if where.first:
                say(f"{job.out} is finished")
            return done if where.first else {}
        row = _carried_out(job, plan, where, watch)
        return row if where.first else {}


def _carried_out(job: Job, plan: Plan, where: World, watch: Watch) -> dict[str, Any]:
    label = job.out.name
    make_folder(job.out)
    if where.first:
        for note in plan.notes:
            say(f"{label}: {note}")
    towers = plan.towers()
    with resumable(job.out):
        outcome = fit(
            plan.objective(towers, where.device),
            plan.batches,
            plan.settings,
            job.out,
            watch,
            name=label,
            identity=plan.identity,
            world=where,
        ).outcome
    row: dict[str, Any] = {
        "path": str(job.out),
        "name": f"{plan.dataset.name}-{label}",
        "size": plan.size,
        "recipe": job.recipe or str(job.config),
        "seed": plan.settings.seed,
        **outcome,
        "samples": sum(stage.samples for stage in plan.recipe.stages),
        "left_out": list(plan.left_out),
        "data": describe_data(plan.data, len(plan.rows)),
        "run_data": plain(job.data),
        "target": _target(plan.dataset),
    }
    if where.first:
        lineage = {"group": f"{plan.size} recipe {row['recipe']}"}
        lineage |= {key: row[key] for key in ("seed", "recipe", "data", "steps", "samples")}
        lineage |= {"how": job.typed, "left_out": " ".join(plan.left_out)} | (
            {"collapse": row["collapse"]} if row["collapse"] else {}
        )
        pair = encoders_of(towers.to(torch.device("cpu")), row["name"], lineage)
        # The text encoder first: without the image encoder, there is none, and the same command does both again.
        save_encoder(job.out / TEXT, pair.text)
        finish(job.out / FINISHED, pair.image, pair.image.lineage, row, plan.identity | plan.settings.identity)
    barrier()
    return row


def _target(dataset: Dataset) -> str | None:
    """The first label, or else the first question of the first sample."""
    labels = [name for name, target in dataset.targets.items() if target.kind == "label"]
    questions = [question.name for question in dataset.questions[0] if question.name != "caption"]
    return next(iter([*labels, *questions]), None)

"""From an encoder and a tap to the encoder whose output was taught by that tap, in its folder."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics import Dataset, DiagnosticsError, TorchEncoder, build, load_encoder, save_encoder, watcher
from diagnostics.encoders.trust import UntrustedCodeError
from diagnostics_training.alignment.data import LEAST, best_tap, check_modality, check_target, data_for
from diagnostics_training.alignment.feed import MODALITIES, Feed
from diagnostics_training.alignment.layer_scale import Block, check_start, put_drops, scaled
from diagnostics_training.alignment.objective import (
    Alignment,
    Teacher,
    agreement,
    second_teacher,
    section_of,
    taught,
    with_module,
)
from diagnostics_training.next_steps import command_of
from diagnostics_training.summary import finish, finished
from diagnostics_training.trainer.checkpoints import make_folder, resumable
from diagnostics_training.trainer.data import describe_data, plain
from diagnostics_training.trainer.distributed import barrier, world
from diagnostics_training.trainer.monitor import say, silent
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import UNTRAINED, fit

FINISHED = "alignment.json"
BEST = "best-tap"


@dataclass(frozen=True)
class Job:
    """What `diagnostics align` was asked for; see its options."""

    encoder: str
    to: str
    target: str | None = None
    data: str | None = None
    out: Path | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 5e-4
    mask: float = 0.0
    layer_scale: float = 1.0
    drop_path: float = 0.0
    second_teacher: str | None = None
    seed: int | None = None
    device: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        if (self.to == BEST) != (self.target is not None):
            raise DiagnosticsError(
                f"--to {BEST} is the best tap for a target: name that with --for."
                if self.to == BEST
                else f"--for names the target of --to {BEST}, and --to names the tap {self.to}: leave one of them out."
            )
        for name in ("mask", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise DiagnosticsError(
                    f"--{name.replace('_', '-')} is a share, from 0 to below 1, not {getattr(self, name)}."
                )
        check_start(self.layer_scale)
        if self.seed is not None and self.seed < 0:
            raise DiagnosticsError(f"Seed {self.seed} is below 0: give 0 or more.")
        # What the trainer refuses, before the best tap is looked for.
        Settings(max(1, self.steps), self.lr)
        if self.steps < 0 or self.batch < 2:
            raise DiagnosticsError(f"Aligning takes batches of 2 or more, not {self.steps} steps of {self.batch}.")

    @property
    def folder(self) -> Path:
        """Where the encoder goes: beside its base where that is a file or folder."""
        if self.out is not None:
            return self.out
        own = Path(self.encoder).expanduser()
        if own.exists():
            return own.with_name(f"{own.name.removesuffix('.safetensors')}-aligned")
        return Path("models") / "-".join([*re.findall(r"[\w.]+", self.encoder), "aligned"])

    @property
    def command(self) -> str:
        """What to type for the same."""
        return command_of("align", self, ("out", "device", "trust_code"))


def align(job: Job) -> dict[str, Any]:
    """Aligns and saves; what is finished already is left as it is.

    Gives `path`, `name`, `to` (the tap), `output`, `for`, `steps`, `loss`, `cosine` of output and tap on a batch of train
    samples (`before`, `after`), `collapse`, `seconds`, `data`, `blocks` (of how many the branches are scaled), `probed` (data, and
    score of each tap on val, where the best was chosen), `base`, `run_data` (to probe both on), `trust_code` (which of both that asks
    for); nothing in other processes than the first.
    """
    base = with_module(build("encoder", job.encoder, trust_code=job.trust_code))
    spec = data_for(job.data, base)
    # Data that the encoder's file names are trusted as little as what else it names.
    recorded = "" if job.data is not None else job.encoder
    dataset: Dataset = build("dataset", spec, trust_code=job.trust_code, named_by=recorded)
    check_modality(base, dataset)
    rows = np.flatnonzero(dataset.split == "train")
    if job.batch > len(rows):
        raise DiagnosticsError(
            f"A batch of {job.batch} cannot be drawn from the {len(rows)} train samples of {dataset.name}: give a smaller --batch."
        )
    if job.mask and dataset.modality not in MODALITIES:
        raise DiagnosticsError(f"Nothing stands for a hidden piece of {dataset.modality}: leave --mask out.")
    sample = dataset[int(rows[0])]
    teacher = with_module(base.sized_for(sample))
    seed = int(base.lineage.get("seed", 0)) if job.seed is None else job.seed
    asked = {
        "base": teacher.identity["weights"], "data": spec, "fingerprint": dataset.fingerprint, "to": job.to, "for": job.target,
        "batch": job.batch, "mask": job.mask, "layer_scale": job.layer_scale, "drop_path": job.drop_path,
        "second_teacher": job.second_teacher, "steps": job.steps, "lr": job.lr, "seed": seed,
    }  # fmt: skip
    # What cannot be, before what is there.
    if job.target is None:
        teacher.tap(job.to)
    else:
        check_target(dataset, job.target)
    second = [] if job.second_teacher is None else [second_teacher(job.second_teacher, sample, dataset, job.trust_code)]
    with world(job.device) as where, watcher() as shown:
        watch = shown if where.first else silent
        if (done := finished(job.folder / FINISHED, asked)) is not None:
            if where.first:
                say(f"{job.folder} is finished")
            return done if where.first else {}
        barrier()
        tap, probed = job.to, None
        if job.target is not None:
            tap, probed = best_tap(base, teacher, job.target, spec, where.device, watch)
            if where.first and probed["gain"] < LEAST:
                say(
                    f"BEWARE: on val the best tap {tap} exceeds the output {teacher.output_tap} by a mere {probed['gain']:.4f} of "
                    f"{probed['score']} for {job.target}: nothing worth lifting is shown"
                )
        teachers = [Teacher(teacher, teacher.tap(tap), "clean"), *second]
        student, blocks = scaled(base, job.layer_scale)
        # Before all the work: whether what will be saved can be built again.
        with tempfile.TemporaryDirectory(prefix="diagnostics-") as folder:
            named = _names_code(save_encoder(folder, student))
        if job.drop_path:
            _check_drops(student, blocks)
            put_drops(student.module, blocks, job.drop_path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            objective = Alignment(with_module(student.sized_for(sample)), teachers, "masked" if job.mask else "clean")
        for encoder in (objective.student, *(teacher.encoder for teacher in teachers)):
            encoder.to(where.device)
        feed = Feed(dataset, rows, teachers, job.batch, job.mask, seed)
        first = {key: value.to(where.device) for key, value in feed(0).items()}
        objective.to(where.device).eval()
        objective.free(first)
        row: dict[str, Any] = {
            "path": str(job.folder), "name": student.name, "to": tap, "output": teacher.output_tap, "for": job.target,
            "blocks": len(blocks), "probed": probed, "data": describe_data(spec, len(rows)), "seed": seed,
            "base": job.encoder, "run_data": plain(job.data or spec),
            "trust_code": [*([job.encoder] if job.trust_code else []), *([str(job.folder)] if named else [])],
        }  # fmt: skip
        before = cosine(teacher, teachers[0], first)
        outcome = UNTRAINED
        if job.steps:
            with resumable(job.folder):
                outcome = fit(
                    objective, feed, Settings(job.steps, job.lr, seed=seed), job.folder, watch, name=student.name,
                    identity=asked | {"tap": tap}, world=where,
                ).outcome  # fmt: skip
        row |= outcome | {"cosine": {"before": before, "after": cosine(objective.student, teachers[0], first)}}
        if where.first:
            student.to("cpu")
            make_folder(job.folder)
            finish(job.folder / FINISHED, student, _lineage(job, base, row, asked), row, asked)
        barrier()
        return row if where.first else {}


def _lineage(job: Job, base: TorchEncoder, row: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    group = base.lineage.get("group") or base.name
    return {
        # One group for the seeds of a base, whose best taps may differ.
        "group": f"{group} aligned for {job.target}" if job.to == BEST else f"{group} aligned to {job.to}",
        "seed": row["seed"],
        "base": asked["base"],
        "to": row["to"],
        "for": job.target or "",
        "how": job.command,
        "data": row["data"],
        "steps": job.steps,
    }


def _names_code(file: Path) -> bool:
    """Whether an encoder can be loaded again only by a Python file that it names: one that has built it here."""
    try:
        load_encoder(file)
    except UntrustedCodeError:
        load_encoder(file, trust_code=True)
        return True
    return False


def _check_drops(student: TorchEncoder, blocks: Sequence[Block]) -> None:
    if odd := [block.name for block in blocks if not block.drops]:
        raise DiagnosticsError(
            f"Block {odd[0]} of {student.name} takes the tokens of all samples in one row, so DropPath cannot leave it out for "
            "some of them: leave --drop-path out."
        )
    if not blocks:
        raise DiagnosticsError(
            f"{student.name} has no blocks that keep the shape of what they take, so DropPath has no place: leave --drop-path out."
        )


def cosine(student: TorchEncoder, teacher: Teacher, batch: Mapping[str, Tensor]) -> float | None:
    """Of an encoder's output and the teacher's tokens, on whole samples; None where their widths differ."""
    tap, read = student.tap(student.output_tap), section_of(batch, "clean")
    if tap.features != teacher.tap.features:
        return None
    tokens = student.capture(read, [tap.name])[tap.name]
    with torch.no_grad():
        return float(agreement(tokens, tap, taught(teacher, batch), teacher.tap, student.valid(read, tap)))

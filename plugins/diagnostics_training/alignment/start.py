"""What every alignment starts from: a base, its data, and a student that begins as the base does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Tap,
    TorchEncoder,
    UntrustedCodeError,
    build,
    cut_encoder,
    load_encoder,
    save_encoder,
)
from diagnostics_training.alignment.data import check_modality, data_for
from diagnostics_training.alignment.feed import MODALITIES
from diagnostics_training.alignment.job import AlignmentJob
from diagnostics_training.alignment.layer_scale import Block, put_drops, scaled
from diagnostics_training.alignment.teachers import Teacher, with_module


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

    @property
    def itself(self) -> Teacher:
        """The base as its own teacher, at the tap where the student learns."""
        return Teacher(self.own, self.tap)


def start_of(job: AlignmentJob) -> Start:
    """Builds the base and opens the data; raises where they do not fit."""
    whole = with_module(build("encoder", job.encoder, trust_code=job.trust_code))
    spec = data_for(job.data, whole)
    # Data that the encoder's file names are trusted as little as what else it names.
    recorded = "" if job.data is not None else job.encoder
    dataset: Dataset = build("dataset", spec, trust_code=job.trust_code, named_by=recorded)
    check_modality(whole, dataset)
    rows = np.flatnonzero(dataset.split == "train")
    if job.batch > len(rows):
        raise DiagnosticsError(
            f"A batch of {job.batch} cannot be drawn from the {len(rows)} train samples of {dataset.name}: give a smaller --batch."
        )
    if job.mask and dataset.modality not in MODALITIES:
        raise DiagnosticsError(f"There is no way to mask patches of {dataset.modality}: leave --mask out.")
    sample = dataset[int(rows[0])]
    own = with_module(whole.sized_for(sample))
    tap = own.tap(job.at or own.output_tap)
    base = whole if tap.name == whole.output_tap else cut_encoder(whole, tap.name)
    seed = int(whole.lineage.get("seed", 0)) if job.seed is None else job.seed
    return Start(base, own, tap, dataset, spec, rows, sample, seed)


@dataclass(frozen=True)
class Student:
    """An encoder that begins as the base, with LayerScale and DropPath in its blocks.

    trusts: whether it can be loaded again only by a Python file that it names.
    """

    encoder: TorchEncoder
    blocks: Sequence[Block]
    trusts: bool


def make_student(
    start: Start, job: AlignmentJob, head: Callable[[TorchEncoder], TorchEncoder] | None = None
) -> Student:
    """A student, with a `head` where one is put on it; raises where it could not be saved and built again, or has no place for
    what was asked for."""
    encoder, blocks = scaled(start.base, job.layer_scale)
    encoder = head(encoder) if head else encoder
    with tempfile.TemporaryDirectory(prefix="diagnostics-") as folder:
        trusts = _names_code(save_encoder(folder, encoder))
    if job.drop_path:
        _check_drops(encoder, blocks)
        put_drops(encoder.module, blocks, job.drop_path)
    return Student(encoder, blocks, trusts)


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

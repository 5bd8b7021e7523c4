"""The data that an alignment is made with."""

from __future__ import annotations

from diagnostics import Dataset, DiagnosticsError, Encoder
from diagnostics_training.trainer.data import SIMULATED, parse_spec, spec_of, training_spec


def data_for(asked: str | None, base: Encoder) -> str:
    """The specification of the data to align on: as asked for, or those that the encoder was trained on, in its own length.

    Simulated data named without number and seed are many fresh samples, as in `diagnostics train`.
    """
    if asked is not None:
        return training_spec(asked)[0]
    recorded = str(base.lineage.get("data", "")).partition(", the ")[0]
    if not recorded:
        raise DiagnosticsError(f"{base.name} does not tell what it was trained on: name a dataset with --data.")
    name, options = parse_spec(recorded)
    if name not in SIMULATED or base.modality != "series":
        return recorded
    # Training draws windows from longer series than the encoder reads.
    return spec_of(name, options | {"length": len(base.example())})


def describe_data(spec: str, count: int) -> str:
    """For people and for the lineage, from which `data_for` reads it again."""
    return f"{spec}, the {count:,} samples of its train split"


def check_modality(encoder: Encoder, dataset: Dataset) -> None:
    """Raises where an encoder cannot read a dataset."""
    if encoder.modality != dataset.modality:
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, but {dataset.name} holds {dataset.modality} samples: give other "
            "--data."
        )


def check_target(dataset: Dataset, target: str) -> None:
    """Raises where a dataset lacks a target."""
    if target not in dataset.targets:
        raise DiagnosticsError(
            f"{dataset.name} has no target '{target}': choose one of {', '.join(dataset.targets)} for --for."
        )

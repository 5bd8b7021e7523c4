"""`.ts` files of the UCR and UEA archives, read through aeon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import Dataset, DiagnosticsError
from diagnostics_files.decode.tables import Columns
from diagnostics_files.errors import need
from diagnostics_files.scan import file
from diagnostics_files.series import dataset


def build(path: str, *, seed: int) -> Dataset:
    """See `plugin.ts`."""
    source = file(path, "ts", (".ts",))
    stem, _, part = source.stem.rpartition("_")
    if part not in ("TRAIN", "TEST"):
        return archive(source.stem, {"": source}, seed)
    both = {split: source.with_name(f"{stem}_{split.upper()}.ts") for split in ("train", "test")}
    for other in both.values():
        if not other.is_file():
            raise DiagnosticsError(
                f"{source} has no {other.name} beside it: add that, or rename the file to {stem}.ts."
            )
    return archive(stem, both, seed)


def archive(name: str, files: dict[str, Path], seed: int) -> Dataset:
    """The series of `.ts` files, split -> file (`""` for no split), as one dataset with the target `label` or `value`."""
    samples: list[np.ndarray] = []
    columns: Columns = {"id": [], "split": []}
    for split, path in files.items():
        series, answers, kind = _read(path)
        samples += series
        columns["id"] += [f"{split or 'series'}-{i:05d}" for i in range(len(series))]
        columns["split"] += [split or None] * len(series)
        columns.setdefault(kind, []).extend(answers)
    if len(columns) > 3 or any(len(entries) != len(samples) for entries in columns.values()):
        raise DiagnosticsError(f"{name} has classes in one file and numbers in the other: give two files of one kind.")
    return dataset(name, samples, columns, "", seed, name)


def _read(path: Path) -> tuple[list[np.ndarray], list[Any], str]:
    loaders = need("aeon.datasets", "aeon", f"Reading {path.name}")
    try:
        series, answers, facts = loaders.load_from_ts_file(str(path), return_meta_data=True)
    except Exception as error:
        raise DiagnosticsError(
            f"{path} cannot be read as .ts ({type(error).__name__}: {error}): compare it with the format of the archives."
        ) from error
    if len(series) == 0:
        raise DiagnosticsError(f"{path} holds no series: they follow a line @data.")
    if not (facts["classlabel"] or facts["targetlabel"]):
        raise DiagnosticsError(f"{path} has neither classes nor target values: its header must say which.")
    known = [None if answer != answer or answer == "?" else answer for answer in np.asarray(answers).tolist()]
    return [sample.T for sample in series], known, "label" if facts["classlabel"] else "value"

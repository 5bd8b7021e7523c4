"""Features of one layer for any number of samples, in Parquet files that hold a range of rows each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.activations.bucket import Place, open_place, put_same
from diagnostics.activations.folder import lock, writing
from diagnostics.activations.parts import Launch
from diagnostics.activations.place import Location, locate
from diagnostics.errors import DiagnosticsError, StorageError, importing, refuse_values
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import BY_PLACE, Compute

if TYPE_CHECKING:
    import pyarrow as pa

    from diagnostics.activations.contract import StoredTarget
    from diagnostics.datasets.dataset import Dataset
    from diagnostics.datasets.target import Target
    from diagnostics.encoders.encoder import Encoder

    Targets = Mapping[str, tuple[Target | StoredTarget, np.ndarray]]
    """By name, with the values of the samples that are written."""

ABOUT = "_features.json"
"""Beside the files; readers of a folder of Parquet files pass over names that begin so."""
FILE_BYTES = 2**26
"""Features in a file: what a kill costs."""
MOST_ABOUT = 2**16


def table_of(
    columns: Mapping[str, np.ndarray],
    targets: Targets,
    features: np.ndarray,
) -> pa.Table:
    """`columns` (id, split, group) [sample], `target_NAME` for each target with a value or a list of them, `features`.

    A class is its name, where it has one. Targets with a value for every place are left out.
    """
    with importing("Parquet files need", "pip install -e '.[files]'"):
        import pyarrow as pa

    arrays: dict[str, Any] = {name: pa.array(values.astype(str)) for name, values in columns.items()}
    for name, (target, values) in targets.items():
        if target.kind in BY_PLACE:
            continue
        if target.kind == "label" and target.classes:
            names = np.array([*target.classes, None], dtype=object)
            arrays[f"target_{name}"] = pa.array(names[values])
        elif values.ndim == 1:
            arrays[f"target_{name}"] = pa.array(values)
        else:
            arrays[f"target_{name}"] = _lists(pa, values.reshape(len(values), -1))
    return pa.table({**arrays, "features": _lists(pa, features)})


def _lists(pa: Any, values: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    from pyarrow import parquet

    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


def write_features(
    encoder: Encoder,
    dataset: Dataset,
    out: str | PurePath,
    tap: str | None = None,
    pooling: Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    device: str | None = None,
    compute: Compute = "float32",
    launch: Launch | None = None,
    watch: Watch = silent,
) -> dict[str, Any]:
    """Write the pooled features of a tap (the output tap where None) of all samples below a folder, and go on there.

    A file `features-START-STOP.parquet` holds a range of rows in the dataset's order, about 64 MB of features: id,
    split, group, targets, and `features` (float32, the poolings side by side). It is there whole or not at all. A
    `launch` writes its share of the files, beside others and without a lock.

    Returns what `_features.json` beside them says. Raises DiagnosticsError where a sample does not fit, and
    StorageError where the folder holds other features or the disk is full.
    """
    from diagnostics.activations.batches import ShardBuffers, capture_rows
    from diagnostics.activations.extract import LONGEST_SEAL
    from diagnostics.activations.plan import plan, row_order
    from diagnostics.activations.prepare import fit, prepare_batches
    from diagnostics.encoders.modules import BATCH, check_compute, computing, select_poolings, usable_device

    place, where = locate(out), usable_device(device)
    check_compute(compute, where)
    refuse_values(
        (batch_size is not None and batch_size < 1, f"Batch size {batch_size} is below 1."),
        (workers < 0, f"{workers} workers are below 0."),
    )
    sized = fit(encoder, dataset)
    read = sized.tap(sized.output_tap if tap is None else tap)
    planned = plan(sized, [read], len(dataset), 0, "float32", select_poolings(pooling, sized.poolings))
    width = len(planned.poolings) * read.features
    rows = max(1, FILE_BYTES // (4 * width))
    about = {
        "encoder": sized.name,
        "dataset": dataset.name,
        "samples": len(dataset),
        "tap": read.name,
        "pooling": [*planned.poolings],
        "compute": compute,
        "features": width,
        "rows_of_a_file": rows,
        "weights": _digest(*map(str, sorted(sized.identity.items()))),
        "ids": _digest(*map(str, (*dataset.ids, *dataset.split, *dataset.groups))),
    }
    size = batch_size or BATCH.get(where.partition(":")[0], BATCH["cpu"])
    position = np.argsort(row_order(len(dataset)))
    kept = ShardBuffers(planned, min(rows, len(dataset)))
    alone = lock(place) if launch is None and isinstance(place, Path) else None
    launch = launch or (None if alone else Launch())  # nobody has a bucket alone
    starts = [*range(0, len(dataset), rows)]
    with alone or contextlib.nullcontext(), sized.on(where), computing(compute, where):
        folder = open_place(place)
        _open(folder, about)
        if launch is None:
            folder.tidy(age=LONGEST_SEAL)  # a launch may be writing
        there = {*folder.list()}
        for start in starts if launch is None else starts[launch.index :: launch.count]:
            stop = min(start + rows, len(dataset))
            if (name := f"features-{start:09}-{stop:09}.parquet") in there:
                continue
            kept.rows = 0
            batches = [position[first : min(first + size, stop)] for first in range(start, stop, size)]
            with contextlib.closing(prepare_batches(sized, dataset, batches, workers)) as prepared:
                for positions, batch in zip(batches, prepared, strict=True):
                    capture_rows(sized, batch, positions, planned, dataset, kept)
                    watch(Progress(f"features of {sized.name}", start + kept.rows, len(dataset)))
            part = slice(start, stop)
            columns = {"id": np.asarray(dataset.ids, dtype=object), "split": dataset.split, "group": dataset.groups}
            targets = {key: (each, each.values[part]) for key, each in dataset.targets.items() if not each.dense}
            columns = {key: of[part] for key, of in columns.items()}
            table = table_of(columns, targets, kept.pooled[read.name].reshape(stop - start, width))
            with writing(place, f"after {start:,} of {len(dataset):,} samples; "):
                if launch is None:
                    folder.put(name, parquet(table))
                elif not put_same(folder, name, parquet(table)):
                    raise StorageError(
                        f"{place / name} was written by another launch, with other features: give all launches one "
                        f"batch size and kind of device, or choose another --out.",
                        code="other-run",
                    )
    return about


def _digest(*texts: str) -> str:
    """Another model, or other data, of the same name has another."""
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _open(folder: Place, about: Mapping[str, Any]) -> None:
    """Write what the folder is to hold; raises StorageError where it holds something else."""
    if folder.head(ABOUT) is None:
        # Another launch may be writing it.
        begun = (ABOUT, f".{ABOUT}.")
        if folder.has_folder("") and not all(name.startswith(begun) for name in folder.list()):
            raise StorageError(
                f"{folder.path} is not empty, and holds no features: choose another --out.", code="occupied"
            )
        with writing(folder.path):
            if isinstance(folder.path, Path):
                folder.path.mkdir(parents=True, exist_ok=True)
            put_same(folder, ABOUT, json.dumps(about, indent=2).encode())
    try:
        there = dict(json.loads(folder.get(ABOUT, MOST_ABOUT)))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StorageError(f"{folder.path}/{ABOUT} is damaged: choose another --out.", code="damaged") from error
    if odd := [key for key in about if there.get(key) != about[key]]:
        raise StorageError(
            f"{folder.path} holds other features ({', '.join(odd)}): choose another --out, or remove that folder.",
            code="other-run",
        )


def export(
    path: Location,
    columns: Mapping[str, np.ndarray],
    targets: Targets,
    features: np.ndarray,
) -> Location:
    """One Parquet file of features that are there; raises DiagnosticsError for another kind of file."""
    if path.suffix != ".parquet":
        raise DiagnosticsError(f"{path} is not called .parquet: name a Parquet file.", code="bad-value")
    with writing(path.parent):
        open_place(path.parent).put(path.name, parquet(table_of(columns, targets, features)))
    return path

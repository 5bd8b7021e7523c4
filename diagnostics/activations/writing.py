"""A new store with its samples and targets, and the buffers through which its activations are written."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec, ZstdCodec

from diagnostics.activations.contents import Contents, TargetFacts
from diagnostics.activations.folder import Folder, writing
from diagnostics.activations.observations import WHOLE
from diagnostics.activations.plan import Plan, row_order
from diagnostics.activations.sealed import Sealing
from diagnostics.activations.shards import ShardBuffer
from diagnostics.activations.store import FORMAT, Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.target import Target
from diagnostics.encoders.taps import Tap


class ShardBuffers:
    """The activations of one step in memory, filled batch by batch; the same memory serves every step.

    `batch` is the largest number of rows of a step that keeps no tokens.
    """

    def __init__(self, plan: Plan, batch: int) -> None:
        self.rows = 0
        most = max(batch, plan.shard) if plan.token_samples else batch
        self.tokens = {
            tap.name: {kind: ShardBuffer(layout) for kind, layout in plan.layouts(tap).items() if kind != "pooled"}
            for tap in plan.taps
        }
        self._pooled = {tap.name: torch.empty(most, len(plan.poolings), tap.features) for tap in plan.taps}

    @property
    def pooled(self) -> dict[str, np.ndarray]:
        """The pooled values of each tap [row, pooling, feature]."""
        return {tap: values[: self.rows].numpy() for tap, values in self._pooled.items()}

    def put_tokens(self, tap: Tap, tokens: Tensor) -> None:
        """A batch's tokens [row, prefix + token, feature] behind the rows that are there."""
        self.tokens[tap.name]["tokens"].put(self.rows, tokens[:, tap.grid.prefix :])
        if tap.grid.prefix:
            self.tokens[tap.name]["prefix"].put(self.rows, tokens[:, : tap.grid.prefix])

    def recent(self, tap: Tap, count: int) -> np.ndarray:
        """The tokens of the last `count` rows put, as they will be stored, [row, token, feature]."""
        buffers = self.tokens[tap.name].values()
        return np.concatenate([buffer.rows(self.rows + count)[self.rows :] for buffer in buffers], axis=1)

    def put_pooled(self, tap: Tap, pooled: Tensor) -> None:
        """A batch's pooled values [row, pooling, feature] behind the rows that are there."""
        self._pooled[tap.name][self.rows : self.rows + len(pooled)].copy_(pooled)


def create(
    folder: Folder,
    plan: Plan,
    identity: Mapping[str, str],
    reference_statistics: Mapping[str, tuple[float, float]],
    dataset: Dataset,
    dense: Mapping[str, Mapping[str, np.ndarray]],
    about: Mapping[str, Any],
) -> Store:
    """An empty store, written beside its place and renamed, so that its creation is atomic.

    `dense` holds the targets that are stored on grids: name -> grid key -> [sample, token] in the dataset's order.
    """
    around, name = folder.around()
    around.root.mkdir(parents=True, exist_ok=True)
    with writing(folder.path), around.making(name) as unfinished:
        new = Sealing(around.inside(unfinished))
        _write_samples(new, plan, dataset, dense)
        taps = new.root.create_group("taps")
        for tap in plan.taps:
            facts = {"depth": tap.depth, "part": tap.part, "pooling": list(plan.poolings), "grid": str(tap.grid)}
            _create_arrays(taps.create_group(tap.name, attributes=facts), tap, plan)
        new.put(metadata=True)
        targets = {name: _target_facts(target, dense.get(name, {})) for name, target in dataset.targets.items()}
        contents = Contents(identity, plan, reference_statistics, targets, new.files, complete=False)
        new.seal({"diagnostics_format": FORMAT, **contents.to_attrs(), **about})
        around.move(unfinished, name)
    return Store(folder)


def _create_arrays(group: zarr.Group, tap: Tap, plan: Plan) -> None:
    axes = {"pooled": ("sample", "pooling"), "tokens": ("token_sample", "token"), "prefix": ("token_sample", "prefix")}
    for kind, layout in plan.layouts(tap).items():
        group.create_array(
            kind, shape=(layout.samples, layout.tokens, layout.features),
            chunks=(layout.rows, layout.block, layout.features),
            shards=(layout.rows, layout.chunks * layout.block, layout.features), dtype=layout.dtype,
            dimension_names=(*axes[kind], "feature"), compressors=Crc32cCodec(), fill_value=np.nan,
            chunk_key_encoding={"name": "default", "separator": "."},
        )  # fmt: skip


def _write_samples(new: Sealing, plan: Plan, dataset: Dataset, dense: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    group, order = new.root.create_group("samples"), row_order(plan.samples)
    columns = {"id": np.asarray(dataset.ids, dtype=object), "split": dataset.split, "group": dataset.groups}
    for name, values in columns.items():
        array = group.create_array(
            name, shape=(plan.samples,), chunks=(plan.samples,), dtype=str, dimension_names=("sample",),
            compressors=Crc32cCodec(), config=WHOLE,
        )  # fmt: skip
        array[:] = values[order]
    group.create_group("targets")
    for name, target in dataset.targets.items():
        arrays = {f"targets/{name}/{key}": values for key, values in dense.get(name, {}).items()}
        if not arrays and not target.dense:
            arrays[f"targets/{name}"] = target.values
        if target.naive is not None:
            arrays[f"naive/{name}"] = np.asarray(target.naive, dtype=np.float64)
        for path, values in arrays.items():
            # Maps of objects and classes are mostly alike: they shrink to little.
            squeezed = (ZstdCodec(level=1),) if values.dtype.kind in "iu" and values.ndim > 1 else ()
            group.create_array(
                path, data=np.ascontiguousarray(values[order]), chunks=values.shape,
                compressors=(*squeezed, Crc32cCodec()), fill_value=np.nan if values.dtype.kind == "f" else -1, config=WHOLE,
                dimension_names=("sample", *(f"{name}_{i}" for i in range(1, values.ndim))),
            )  # fmt: skip
            new.put()  # one at a time is in memory


def _target_facts(target: Target, grids: Mapping[str, np.ndarray]) -> TargetFacts:
    return TargetFacts(
        target.kind, target.units, target.about, tuple(target.classes), target.family, tuple(grids), target.period,
        target.naive is not None,
    )  # fmt: skip

"""Activations that stay in memory, for measures alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from diagnostics.activations.batches import capture_rows
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.activations.extract import step_batches
from diagnostics.activations.metadata import COVERED
from diagnostics.activations.plan import Plan, plan, row_order
from diagnostics.activations.prepare import dense_targets
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import BATCH, computing
from diagnostics.encoders.taps import Tap


class InMemory(Activations):
    """Contents of a store in memory, row by row in the same order, filled batch by batch; `rows` are there so far."""

    def __init__(self, plan: Plan, dataset: Dataset, device: str) -> None:
        self.plan, self.device, self.rows = plan, device, 0
        self.taps, self.output_tap, self.poolings = plan.taps, plan.output_tap, plan.poolings
        self.token_samples = plan.token_samples
        self.choose_on = "fit" if dataset.exchangeable else "val"
        order = row_order(plan.samples)
        self.ids = np.asarray(dataset.ids, dtype=object)[order]
        self.split, self.groups = dataset.split[order], dataset.groups[order]
        self._prefix = {tap.name: tap.grid.prefix for tap in plan.taps}
        self._pooled = {
            tap.name: np.empty((plan.samples, len(plan.poolings), tap.features), np.float32) for tap in plan.taps
        }
        self._tokens = {
            tap.name: np.empty((plan.token_samples, tap.tokens, tap.features), np.float32) for tap in plan.taps
        }

    def put_tokens(self, tap: Tap, tokens: Tensor) -> None:
        """A batch's tokens [row, prefix + token, feature] behind the rows that are there."""
        self._tokens[tap.name][self.rows : self.rows + len(tokens)] = tokens.float().cpu()

    def put_pooled(self, tap: Tap, pooled: Tensor) -> None:
        """A batch's pooled values [row, pooling, feature] behind the rows that are there."""
        self._pooled[tap.name][self.rows : self.rows + len(pooled)] = pooled.cpu()

    def recent(self, tap: Tap, count: int) -> np.ndarray:
        """The tokens of the `count` rows put last, [row, token, feature]."""
        return self._tokens[tap.name][self.rows : self.rows + count]

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        values = self._pooled[tap]
        if pooling is not None:
            values = values[:, self.poolings.index(pooling)]
        return values.reshape(len(values), -1).astype(np.float64)

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        prefix = self._prefix[tap]
        for start in range(0, self.token_samples, self.plan.shard):
            rows = slice(start, min(start + self.plan.shard, self.token_samples))
            yield rows, self._tokens[tap][rows, prefix:]

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        prefix, tokens = self._prefix[tap], self._tokens[tap]
        for block in (tokens[:, prefix:], tokens[:, :prefix]):
            if block.size:
                yield block.reshape(len(block), -1)


def read_into_memory(
    encoder: Encoder, dataset: Dataset, taps: Sequence[Tap], device: str, *, tokens: bool, probes: bool
) -> tuple[InMemory, dict[str, StoredTarget]]:
    """Activations at some taps of an encoder, wherever it is, and the dataset's targets by name.

    `device` is where measures compute, in batches of a size for it. `tokens` says whether tokens are kept, of as many
    samples as a run keeps by default; `probes` whether probes read them.

    Raises DiagnosticsError where a sample does not fit, a tap does not fire, or a value is not finite.
    """
    size = BATCH.get(device.partition(":")[0], BATCH["cpu"])
    planned = plan(encoder, taps, len(dataset), None if tokens else 0, "float32", probes=probes)
    # In one part, whose rows lie by position.
    planned = replace(planned, pooled_shard=planned.samples)
    read = InMemory(planned, dataset, device)
    with computing("float32", device):  # also within the autocast of a training
        for _, positions, batch in step_batches(encoder, dataset, planned, list(planned.steps(size)), size, 0):
            capture_rows(encoder, batch, positions, planned, dataset, read)
    return read, _targets(encoder, dataset, taps)


def _targets(encoder: Encoder, dataset: Dataset, taps: Sequence[Tap]) -> dict[str, StoredTarget]:
    order, by_cell = row_order(len(dataset)), dense_targets(encoder, dataset, taps)
    targets: dict[str, StoredTarget] = {}
    for name, target in dataset.targets.items():
        arrays = {key: values[order] for key, values in by_cell.get(name, {}).items()}
        values = arrays.pop(COVERED) if COVERED in arrays else np.empty(0) if target.dense else target.values[order]
        on_grid = {tuple(int(n) for n in key.split("x")): array for key, array in arrays.items()}
        targets[name] = StoredTarget(
            name,
            target.kind,
            values,
            units=target.units,
            about=target.about,
            classes=tuple(target.classes),
            family_override=target.family,
            on_grid=on_grid,
            period=target.period,
            naive=None if target.naive is None else np.asarray(target.naive, dtype=np.float64)[order],
        )
    return targets

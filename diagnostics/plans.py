"""What a store will hold: rows, shards, arrays and their bytes, and what the activations depend on; pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diagnostics.budget import samples_with_tokens
from diagnostics.dataset import Dataset
from diagnostics.taps import Encoder, Grid, Tap

Precision = Literal["float32", "float16"]
MAX_SHARD = 64
SHARD_BYTES = 128 * 2**20
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Plan:
    """What a store will hold: decided before the first byte, the same for the same encoder, dataset and options."""

    samples: int
    token_samples: int
    shard: int
    precision: Precision
    poolings: tuple[str, ...]
    taps: tuple[Tap, ...]
    output_tap: str

    @property
    def shards(self) -> int:
        """Number of steps of an extraction."""
        return math.ceil(self.samples / self.shard)

    def rows(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * self.shard, min((shard + 1) * self.shard, self.samples))

    @property
    def pooled_bytes(self) -> int:
        """Size of the pooled activations."""
        return self.samples * len(self.poolings) * 4 * sum(tap.features for tap in self.taps)

    @property
    def token_bytes(self) -> int:
        """Size of the kept tokens."""
        return self.token_samples * self.token_bytes_per_sample

    @property
    def token_bytes_per_sample(self) -> int:
        """Size of one sample's tokens."""
        return _token_bytes(self.taps, self.precision)

    def arrays(self, shard: int) -> list[str]:
        """Names below `taps/` of the arrays that have rows in a shard."""
        kinds = ["pooled"]
        if self.rows(shard).start < self.token_samples:
            kinds.append("tokens")
        return [f"{tap.name}/{kind}" for tap in self.taps for kind in kinds] + [
            f"{tap.name}/prefix" for tap in self.taps if tap.grid.prefix and "tokens" in kinds
        ]


def plan(
    encoder: Encoder,
    taps: Sequence[Tap],
    samples: int,
    token_budget: int | None,
    precision: Precision,
    poolings: Sequence[str] | None = None,
) -> Plan:
    """Shard rows so that one shard of all taps fits in memory, and as many token rows as `token_budget` allows.

    `poolings`: all that the encoder has when None.
    """
    each = _token_bytes(taps, precision)
    shard = 2 ** int(math.log2(max(1, min(MAX_SHARD, SHARD_BYTES // each))))
    token_samples = samples_with_tokens(samples, each, token_budget)
    return Plan(
        samples, token_samples, shard, precision, tuple(poolings or encoder.poolings), tuple(taps), encoder.output_tap
    )


def _token_bytes(taps: Sequence[Tap], precision: Precision) -> int:
    return np.dtype(precision).itemsize * sum(tap.tokens * tap.features for tap in taps)


def row_order(samples: int) -> np.ndarray:
    """The dataset index behind each row of a store."""
    # A stream of its own: one that also drew the splits would sort the rows by split.
    return np.random.default_rng([samples, 0x726F7773]).permutation(samples)


def identity(encoder: Encoder, dataset: Dataset, plan: Plan) -> dict[str, str]:
    """What the activations depend on: never device, batch size or number of workers."""
    return {
        **encoder.identity,
        "dataset": f"{dataset.name} {dataset.fingerprint}",
        "taps": "; ".join(
            f"{tap.name} {tap.site} {tap.grid} {tap.features} {tap.depth:.6f} {tap.part}" for tap in plan.taps
        ),
        "output tap": plan.output_tap,
        "seen of dense targets": "; ".join(
            f"{name} {encoder.covers(target.values.shape[1:])}"
            for name, target in sorted(dataset.targets.items())
            if target.dense or target.kind == "masks"
        ),
        "pooling": " and ".join(plan.poolings),
        "precision": plan.precision,
        "tokens": f"{plan.token_samples} samples in shards of {plan.shard}",
    }


def plan_from_attrs(attrs: Mapping[str, Any]) -> Plan:
    """The plan of a store, from the attributes that it was written with."""
    taps = tuple(
        Tap(
            tap["name"], tap["depth"], tap["part"], tap["features"],
            Grid(tuple(tap["grid"]["shape"]), tuple(tap["grid"]["axes"]), tap["grid"]["prefix"]),
        )
        for tap in attrs["taps"]
    )  # fmt: skip
    rest = {key: attrs[key] for key in ("samples", "token_samples", "shard", "precision", "output_tap")}
    return Plan(taps=taps, poolings=tuple(attrs["poolings"]), **rest)


def arrays_of(tap: Tap, plan: Plan) -> list[tuple[str, int, int, str]]:
    """A tap's arrays: name, extent of the middle axis, how much of it an inner chunk holds, and type on disk.

    An inner chunk holds all rows of some tokens, so that a block of features of all samples is read without waste.
    """
    found = [("pooled", len(plan.poolings), len(plan.poolings), "float32")]
    if plan.token_samples:
        each = plan.shard * tap.features * np.dtype(plan.precision).itemsize
        for kind, count in (("tokens", tap.grid.tokens), ("prefix", tap.grid.prefix)):
            if count:
                found.append((kind, count, max(1, min(count, CHUNK_BYTES // each)), plan.precision))
    return found

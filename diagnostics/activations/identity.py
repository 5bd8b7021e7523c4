"""What stored activations depend on, and the error where a store belongs to another encoder, dataset or plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.activations.plan import Plan
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.taps import Tap
from diagnostics.errors import StorageError, explaining
from diagnostics.vocabulary import BY_PLACE, Compute

# In what two sets of samples differ, in words, as far as what is stored of them tells.


@dataclass(frozen=True)
class SampleFacts:
    """Of each sample its id, split and group, and its values of those targets that have some of the sample as a whole."""

    ids: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    targets: Mapping[str, np.ndarray | None]

    @classmethod
    def of(cls, data: Dataset | Store) -> Self:
        targets = data.targets() if isinstance(data, Store) else data.targets
        # Dense ones are stored as each encoder's grid sees them.
        whole = {name: None if each.kind in BY_PLACE else each.values for name, each in targets.items()}
        ids = np.array([str(name) for name in data.ids])
        order = np.argsort(ids, kind="stable")
        return cls(
            ids[order], _texts(data.split)[order], _texts(data.groups)[order],
            {name: None if values is None else np.asarray(values)[order] for name, values in whole.items()},
        )  # fmt: skip


def differences(
    first: SampleFacts, second: SampleFacts, words: tuple[str, str] = ("in one", "in the other")
) -> Iterator[str]:
    """What differs, the most telling first; `words` say where the first's and the second's are."""
    ids = set(first.ids), set(second.ids)
    if missing := ids[0] ^ ids[1]:
        yield f"{len(missing)} of {len(ids[0] | ids[1])} samples are in one only, for example {min(missing)}"
        return
    for name, mine, theirs in (("splits", first.split, second.split), ("groups", first.groups, second.groups)):
        if (rows := np.flatnonzero(mine != theirs)).size:
            row = rows[0]
            yield (
                f"the {name} differ in {rows.size} samples ({first.ids[row]} is {mine[row]} {words[0]}, {theirs[row]} {words[1]})"
            )
    if lacking := sorted(set(first.targets) ^ set(second.targets)):
        yield f"only one of them has the target {lacking[0]}"
    for name in sorted(set(first.targets) & set(second.targets)):
        mine, theirs = first.targets[name], second.targets[name]
        if mine is not None and theirs is not None:
            yield from _other_values(name, first.ids, mine, theirs)


def _other_values(name: str, ids: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    if mine.shape != theirs.shape:
        yield f"the values of the target {name} differ in their shape"
        return
    same = (mine == theirs) | ((mine != mine) & (theirs != theirs))
    rows = np.flatnonzero(~same.reshape(len(ids), -1).all(axis=1))
    if rows.size:
        yield f"the values of the target {name} differ in {rows.size} samples, for example {ids[rows[0]]}"


def _texts(values: Sequence[str] | np.ndarray) -> np.ndarray:
    return np.array([str(value) for value in values])


def identity(encoder: Encoder, dataset: Dataset, plan: Plan, compute: Compute) -> dict[str, str]:
    """What the activations depend on: never device, batch size or number of workers."""
    return {
        **encoder.identity,
        "dataset": f"{dataset.name} {dataset.fingerprint}",
        "taps": "; ".join(
            f"{tap.name} {tap.site} {tap.grid} {tap.features} {tap.depth:.6f} {tap.part}" for tap in plan.taps
        ),
        "output tap": plan.output_tap,
        "seen of dense targets": "; ".join(
            f"{name} {encoder.covers(np.shape(target.values[0]))}"
            for name, target in sorted(dataset.targets.items())
            if target.kind in BY_PLACE
        ),
        "pooling": " and ".join(plan.poolings),
        "precision": plan.precision,
        "compute": compute,
        "tokens": f"{plan.token_samples} samples in shards of {plan.shard}, pooled values in shards of {plan.pooled_shard}",
    }


DIGESTS = {
    "weights": "the numbers in the model have changed",
    "preprocessing": "the encoder's example is prepared differently now",
    "masks": "other tokens count as data (not padding) now",
}
"""What it means when a digest differs, which itself says nothing."""
MASKS_SEEN = 8
"""Samples whose masks are part of the identity of what is stored."""


def refuse_other_identity(store: Store, wanted: Mapping[str, str], dataset: Dataset) -> None:
    """Raises when a store holds other activations than the ones wanted, and says in what they differ."""
    for key in {**store.identity, **wanted}:
        old, new = (identity.get(key, "nothing") for identity in (store.identity, wanted))
        if old != new:
            shown = _other_data(store, dataset) if key == "dataset" else DIGESTS.get(key) or _there_and_now(old, new)
            raise StorageError(
                f"{store.path} holds other activations, its {key} differ{'' if key.endswith('s') else 's'}, {shown}: choose "
                "another --out, or --fresh, which drops them."
            )


def _there_and_now(old: str, new: str) -> str:
    olds, news = (value.split("; ") for value in (old, new))
    there = next((x for x in olds if x not in news), "fewer")
    now = next((x for x in news if x not in olds), "fewer")
    return f"{there[:60]} there, {now[:60]} now"


def _other_data(store: Store, dataset: Dataset) -> str:
    name, _, _ = store.identity["dataset"].rpartition(" ")
    if name != dataset.name:
        return f"{name} there, {dataset.name} now"
    facts = SampleFacts.of(store), SampleFacts.of(dataset)
    known = next(differences(*facts, ("there", "now")), "")
    return known or "under the same ids, what the samples themselves or their dense targets hold has changed"


def reference_statistics(encoder: Encoder, plan: Plan) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each tap's activations on the encoder's own example.

    They show a change of code that computes something else from the same weights, which no digest covers.
    """

    def reduce(tap: Tap, tokens: Tensor) -> tuple[float, float]:
        return float(tokens.mean(dtype=torch.float64)), float(tokens.double().std(correction=0))

    with explaining(f"{encoder.name} fails on its own example"):
        batch = default_collate([encoder.preprocess(encoder.example())])
        return encoder.capture(batch, [tap.name for tap in plan.taps], reduce)


def masks_digest(encoder: Encoder, dataset: Dataset, plan: Plan) -> str:
    """A digest of which tokens stand for data in the first few samples: what pooling skips decides what it gives."""
    digest = hashlib.sha256()
    masked = False
    for i in range(min(MASKS_SEEN, len(dataset))):
        try:
            batch = default_collate([encoder.preprocess(dataset[i])])
        except Exception:
            continue  # reported, with the name of the sample, when its turn comes
        for tap in plan.taps:
            valid = encoder.valid(batch, tap)
            masked |= valid is not None
            digest.update(f"{i} {tap.name} {None if valid is None else valid.cpu().int().tolist()};".encode())
    return digest.hexdigest() if masked else "none"


def refuse_other_behaviour(store: Store, statistics: Mapping[str, tuple[float, float]]) -> None:
    """Raises where the same weights now give other activations, beyond what another device or batch size changes."""
    for tap, now in statistics.items():
        then = store.contents.reference_statistics[tap]
        if not np.allclose(then, now, rtol=0.02, atol=0.02 * abs(then[1]) + 1e-6, equal_nan=True):
            raise StorageError(
                f"{store.path} holds other activations, the same weights gave different ones at tap {tap}: "
                "choose another --out, or --fresh, which drops them."
            )

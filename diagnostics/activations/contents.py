"""The attributes of a store's root group: written and read with every value validated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnostics.activations.plan import Plan
from diagnostics.options import decode
from diagnostics.vocabulary import SAFE_NAME, Family, Kind

COVERED = "covered"
"""Key of masks: not on a grid, but the part of the sample that the grid covers."""
_GRID = re.compile(rf"{COVERED}|\d{{1,9}}(x\d{{1,9}})*")
_POOLINGS = {"mean", "last", "prefix"}


@dataclass(frozen=True)
class TargetFacts:
    """What is stored of a target beside its arrays; `grids` are the keys of those that lie on a sample's own axes."""

    kind: Kind
    units: str
    about: str
    classes: tuple[str, ...]
    family: Family | None
    grids: tuple[str, ...]
    period: float | None
    naive: bool


@dataclass(frozen=True)
class Contents:
    """What a store holds, fixed when it is created except for `complete`.

    `reference_statistics` holds the mean and standard deviation of each tap on the encoder's example (stored as `witness`),
    `files` a digest of each file that was written with the store (metadata, samples and targets), by its path.
    """

    identity: Mapping[str, str]
    plan: Plan
    reference_statistics: Mapping[str, tuple[float, float]]
    targets: Mapping[str, TargetFacts]
    files: Mapping[str, str]
    complete: bool

    @property
    def run(self) -> bytes:
        """The key that the marks of its shards are made with: the same for the same activations, never for others."""
        return hashlib.blake2b(json.dumps(dict(self.identity), sort_keys=True).encode(), digest_size=32).digest()

    def to_attrs(self) -> dict[str, Any]:
        """The attributes as plain JSON values."""
        attrs = dataclasses.asdict(self)
        return {"witness" if key == "reference_statistics" else key: value for key, value in attrs.items()}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Contents:
        """Read from the attributes of a root, which may have others too.

        Raises ValueError, TypeError, KeyError or DiagnosticsError where one of these is missing or invalid.
        """
        contents: Contents = decode(cls, {**attrs, "reference_statistics": attrs["witness"]})
        # Where a tap is read is for its encoder to say.
        taps = tuple(dataclasses.replace(tap, site=None) for tap in contents.plan.taps)
        plan = dataclasses.replace(contents.plan, taps=taps)
        names = [tap.name for tap in plan.taps]
        if plan.output_tap not in names or len(set(names)) < len(names):
            raise ValueError("taps")
        if not plan.poolings or not set(plan.poolings) <= _POOLINGS:
            raise ValueError("poolings")
        if min(plan.samples, plan.shard, plan.pooled_shard, *(tap.features for tap in plan.taps)) < 1:
            raise ValueError("counts")
        if plan.pooled_shard != plan.samples and plan.pooled_shard % plan.shard:
            raise ValueError("shards")
        if not 0 <= plan.token_samples <= plan.samples:
            raise ValueError("rows with tokens")
        if set(contents.reference_statistics) != set(names):
            raise ValueError("reference statistics for each tap")
        if not all(SAFE_NAME.fullmatch(name) for name in contents.targets):
            raise ValueError("a name that no folder has")
        if not all(_GRID.fullmatch(key) for facts in contents.targets.values() for key in facts.grids):
            raise ValueError("the key of a grid")
        return dataclasses.replace(contents, plan=plan)

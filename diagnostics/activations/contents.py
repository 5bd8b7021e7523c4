"""The attributes of a store's root group: written and read with every value validated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from diagnostics.activations.plan import Plan, Precision
from diagnostics.encoders.taps import Grid, Part, Tap
from diagnostics.vocabulary import SAFE_NAME, Family, Kind

COVERED = "covered"
"""Key of masks: not on a grid, but the part of the sample that the grid covers."""
_GRID = re.compile(rf"{COVERED}|\d{{1,9}}(x\d{{1,9}})*")
_POOLINGS = ("mean", "last", "prefix")


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
        return {
            "identity": dict(self.identity),
            "plan": dataclasses.asdict(self.plan),
            "witness": {name: list(pair) for name, pair in self.reference_statistics.items()},
            "targets": {name: dataclasses.asdict(facts) for name, facts in self.targets.items()},
            "files": dict(self.files),
            "complete": self.complete,
        }

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Contents:
        """Of the attributes of a root, among which others may stand.

        Raises ValueError, TypeError, KeyError or DiagnosticsError where one of these is missing or cannot be.
        """
        plan = _plan(attrs["plan"])
        statistics = {
            name: (_number(pair[0]), _number(pair[1]))
            for name, pair in _mapping(attrs["witness"]).items()
            if len(pair) == 2
        }
        if statistics.keys() != {tap.name for tap in plan.taps}:
            raise ValueError("reference statistics for each tap")
        targets = {_name(name): _target(_mapping(facts)) for name, facts in _mapping(attrs["targets"]).items()}
        return cls(
            _texts(attrs["identity"]), plan, statistics, targets, _texts(attrs["files"]), _truth(attrs["complete"])
        )


def _plan(attrs: Any) -> Plan:
    plan = Plan(
        samples=_count(attrs["samples"]),
        token_samples=_count(attrs["token_samples"], 0),
        shard=_count(attrs["shard"]),
        pooled_shard=_count(attrs["pooled_shard"]),
        precision=_one_of(get_args(Precision), attrs["precision"]),
        poolings=tuple(_one_of(_POOLINGS, name) for name in _list(attrs["poolings"])),
        taps=tuple(_tap(_mapping(tap)) for tap in _list(attrs["taps"])),
        output_tap=_text(attrs["output_tap"]),
    )
    names = [tap.name for tap in plan.taps]
    if plan.output_tap not in names or len(set(names)) < len(names) or not plan.poolings:
        raise ValueError("taps and poolings")
    if plan.token_samples > plan.samples or plan.pooled_shard % plan.shard:
        raise ValueError("rows and shards")
    return plan


def _tap(attrs: Mapping[str, Any]) -> Tap:
    grid = _mapping(attrs["grid"])
    return Tap(
        _name(attrs["name"]), _number(attrs["depth"]), _one_of(get_args(Part), attrs["part"]), _count(attrs["features"]),
        Grid(
            tuple(_count(n) for n in _list(grid["shape"])), tuple(_text(axis) for axis in _list(grid["axes"])),
            _count(grid["prefix"], 0),
        ),
    )  # fmt: skip


def _target(attrs: Mapping[str, Any]) -> TargetFacts:
    grids = tuple(_text(key) for key in _list(attrs["grids"]))
    if not all(_GRID.fullmatch(key) for key in grids):
        raise ValueError("the key of a grid")
    return TargetFacts(
        _one_of(get_args(Kind), attrs["kind"]), _text(attrs["units"]), _text(attrs["about"]),
        tuple(_text(name) for name in _list(attrs["classes"])),
        None if attrs["family"] is None else _one_of(get_args(Family), attrs["family"]),
        grids, None if attrs["period"] is None else _number(attrs["period"]), _truth(attrs["naive"]),
    )  # fmt: skip


def _text(value: Any) -> str:
    return _of(str, value)


def _truth(value: Any) -> bool:
    return _of(bool, value)


def _list(value: Any) -> list[Any]:
    return _of(list, value)


def _mapping(value: Any) -> dict[str, Any]:
    return _of(dict, value)


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(text) for key, text in _mapping(value).items()}


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.60}")
    return value


def _name(value: Any) -> str:
    if not SAFE_NAME.fullmatch(_text(value)):
        raise ValueError("a name that no folder has")
    return value


def _one_of(known: tuple[Any, ...], value: Any) -> Any:
    if value not in known:
        raise ValueError(f"{value!r:.60}")
    return value


def _count(value: Any, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r:.60}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.60}")
    return float(value)

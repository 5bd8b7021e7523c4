"""Whether runs can be held against each other: the same samples, targets, splits, pooling and protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diagnostics.comparison.readouts import readout
from diagnostics.comparison.sides import Side
from diagnostics.errors import DiagnosticsError

BY_SAMPLE = ("label", "value", "state", "future", "caption")
"""Kinds of target with values of the sample as a whole."""
PROTOCOL = ("functional", "pooling", "centring", "penalties", "seed")
"""Attributes of a result that say how a number was computed."""


def check_agreement(sides: Sequence[Side]) -> dict[str, str]:
    """Raises where two runs differ in samples, targets, splits, pooling or protocol, naming the difference.

    Returns the profiles that are left out, and why: those that some run lacks, and those of tokens that two encoders lay
    on grids of their own.
    """
    first, *others = sides
    for other in others:
        _same_data(first, other)
        _same_pooling(first, other)
    left_out: dict[str, str] = {}
    names = list(dict.fromkeys(name for side in sides for name in side.profiles))
    for name in names:
        lacking = [side.name for side in sides if name not in side.profiles]
        if lacking:
            left_out[name] = f"not measured in {', '.join(lacking)}"
            continue
        for other in others:
            if why := _same_protocol(name, first, other):
                left_out[name] = why
                break
    if len(left_out) == len(names):
        raise DiagnosticsError(
            "The runs have no measure in common that can be compared: "
            + "; ".join(f"{name} is {why}" for name, why in list(left_out.items())[:3])
            + ". Give both the same --measures."
        )
    return left_out


def _refused(first: Side, other: Side, what: str, remedy: str) -> DiagnosticsError:
    return DiagnosticsError(f"{first.run.path} and {other.run.path} cannot be compared: {what}. {remedy}")


def _same_data(first: Side, other: Side) -> None:
    one, two = first.run.store, other.run.store
    facts = one.attrs["dataset"], two.attrs["dataset"]
    again = "Run both encoders on one dataset."
    ids = _texts(one.ids), _texts(two.ids)
    missing = set(ids[0]) ^ set(ids[1])
    if missing:
        raise _refused(
            first, other,
            f"they hold other samples ({facts[0]['name']} and {facts[1]['name']}; {len(missing)} of {len(set(ids[0]) | set(ids[1]))} "
            f"are in one only, {min(missing)} say)",
            again,
        )  # fmt: skip
    order = [np.argsort(found, kind="stable") for found in ids]
    split = [_texts(store.split)[rows] for store, rows in zip((one, two), order, strict=True)]
    if moved := int((split[0] != split[1]).sum()):
        at = int(np.flatnonzero(split[0] != split[1])[0])
        raise _refused(
            first, other,
            f"their splits differ in {moved} samples ({ids[0][order[0]][at]} is {split[0][at]} in one, {split[1][at]} in the "
            "other)",
            again,
        )  # fmt: skip
    targets = one.targets(), two.targets()
    if lacking := sorted(set(targets[0]) ^ set(targets[1])):
        raise _refused(first, other, f"only one of them has the target {lacking[0]}", again)
    for name in sorted(targets[0]):
        values = [np.asarray(found[name].values) for found in targets]
        # Maps are cropped as each encoder crops its input.
        if targets[0][name].kind in BY_SAMPLE and not _equal(*(x[rows] for x, rows in zip(values, order, strict=True))):
            raise _refused(first, other, f"their values of the target {name} differ", again)
    if facts[0]["fingerprint"] != facts[1]["fingerprint"]:
        raise _refused(
            first, other, "they hold other data under the same sample ids (the datasets' fingerprints differ)", again
        )


def _texts(values: Sequence[str] | np.ndarray) -> np.ndarray:
    return np.array([str(value) for value in values])


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _same_pooling(first: Side, other: Side) -> None:
    one, two = first.run.store, other.run.store
    if tuple(one.poolings) != tuple(two.poolings):
        both = [name for name in one.poolings if name in two.poolings] or ["mean"]
        raise _refused(
            first, other,
            f"one pools tokens by {one.pooling}, the other by {two.pooling}",
            f"Run both with --pooling {','.join(both)}.",
        )  # fmt: skip


def _same_protocol(name: str, first: Side, other: Side) -> str:
    """Why a profile is left out ("" where it is not); raises where the two were computed in different ways."""
    one, two = (side.profiles[name].data for side in (first, other))
    for key in PROTOCOL:
        mine, theirs = one.attrs.get(key), two.attrs.get(key)
        if mine != theirs:
            raise _refused(
                first, other,
                f"{name} was computed with another {key} ({mine} and {theirs})",
                "Run both with one version of diagnostics and the same options.",
            )  # fmt: skip
    if not first.profiles[name].is_probe:
        return ""
    units = [sorted(_texts(data["unit"].values)) for data in (one, two)]
    if units[0] != units[1]:
        return f"read on other test units in {first.name} and {other.name}"
    reference = [readout(side.profiles[name]).reference for side in (first, other)]
    if reference[0].shape != reference[1].shape or not np.allclose(*reference, rtol=1e-9, atol=0, equal_nan=True):
        return f"{first.name} and {other.name} read it on grids of their own"
    return ""

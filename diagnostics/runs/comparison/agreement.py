"""Whether runs are comparable: the same samples, targets, splits, pooling and protocol."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from diagnostics.activations.prepare import SampleFacts, differences
from diagnostics.errors import DiagnosticsError
from diagnostics.runs.comparison.members import Member
from diagnostics.runs.comparison.probe_losses import near

PROTOCOL = ("functional", "centring", "pooling")
"""Attributes of a result that say how a number was computed."""
COUNTS = ("n", "n_train", "n_val", "n_test", "units_train", "units_val")
"""Attributes that say how much it rests on."""


def check_agreement(members: Sequence[Member]) -> dict[str, str]:
    """Raises where two runs differ in samples, targets, splits, pooling or protocol, naming the difference.

    Returns the profiles that are left out, and why: those that some run lacks, and those of tokens that two encoders lay
    on grids of their own.
    """
    first, *others = members
    for other in others:
        for reason, remedy in chain(_other_data(first, other), _other_storage(first, other), _other_taps(first, other)):
            raise _refused(first, other, reason, remedy)
    left_out: dict[str, str] = {}
    names = list(dict.fromkeys(name for member in members for name in member.profiles))
    for name in names:
        lacking = [member.name for member in members if name not in member.profiles]
        if lacking:
            left_out[name] = f"not measured in {', '.join(lacking)}"
            continue
        for other in others:
            if why := _same_protocol(name, first, other):
                left_out[name] = why
                break
    if not names:
        raise DiagnosticsError(f"{first.run.path} holds no measure by depth: run all with --measures standard.")
    if len(left_out) == len(names):
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        unmeasured = all(why.startswith("not measured") for why in left_out.values())
        remedy = "Give all the same --measures." if unmeasured else "Run all with the same data and options."
        raise DiagnosticsError(f"The runs have no measure in common that can be compared ({reasons}). {remedy}")
    return left_out


def _refused(first: Member, other: Member, reason: str, remedy: str) -> DiagnosticsError:
    return DiagnosticsError(f"{first.run.path} and {other.run.path} cannot be compared: {reason}. {remedy}")


Problems = Iterator[tuple[str, str]]
"""Why two runs cannot be compared, each reason with its remedy."""


def _other_data(first: Member, other: Member) -> Problems:
    data = first.run.record.dataset, other.run.record.dataset
    names = f" ({data[0].name} and {data[1].name})" if data[0].name != data[1].name else ""
    for reason in differences(SampleFacts.of(first.run.store), SampleFacts.of(other.run.store)):
        yield f"they hold other data{names}, {reason}", "Run both encoders on one dataset."
    if data[0].fingerprint != data[1].fingerprint:
        yield (
            "they hold other data under the same sample ids (the datasets' fingerprints differ)",
            "Run both encoders on one dataset.",
        )


def _texts(values: Sequence[str] | np.ndarray) -> np.ndarray:
    return np.array([str(value) for value in values])


def _other_storage(first: Member, other: Member) -> Problems:
    """Another pooling, precision (of what is stored, or of the pass) or version."""
    mine, theirs = first.run.store, other.run.store
    if tuple(mine.poolings) != tuple(theirs.poolings):
        both = [name for name in mine.poolings if name in theirs.poolings] or ["mean"]
        remedy = f"Run both with --pooling {','.join(both)}."
        yield f"one pools tokens by {mine.pooling}, the other by {theirs.pooling}", remedy
    precisions = mine.plan.precision, theirs.plan.precision
    if precisions[0] != precisions[1]:
        yield "one keeps tokens in {}, the other in {}".format(*precisions), "Run both with one --precision."
    computed = [store.identity.get("compute", "float32") for store in (mine, theirs)]
    if computed[0] != computed[1]:
        yield "one was computed in {}, the other in {}".format(*computed), "Run both with one --compute."
    if len(versions := first.run.versions | other.run.versions) > 1:
        reason = f"they were measured by versions {' and '.join(sorted(versions))} of diagnostics"
        yield reason, "Give the `diagnostics run` command of the older one again."


def _other_taps(first: Member, other: Member) -> Problems:
    """Of one encoder other taps: its curve would differ from itself between them."""
    mine, theirs = ({tap.name for tap in member.run.store.taps} for member in (first, other))
    if first.weights == other.weights and mine != theirs:
        reason = f"both are of one encoder, and only one of them has its tap {min(mine ^ theirs)}"
        yield reason, "Run both with the same --taps."


def _same_protocol(name: str, first: Member, other: Member) -> str:
    """Why a profile is left out ("" where it is not); raises where pooled activations were measured in different ways."""
    results, other_results = (member.profiles[name].data for member in (first, other))
    for key in ("seed", "penalties"):
        mine, theirs = results.attrs.get(key), other_results.attrs.get(key)
        if not np.array_equal(np.asarray(mine), np.asarray(theirs)):
            reason = f"{name} was computed with another {key} ({mine} and {theirs})"
            raise _refused(first, other, reason, "Give both the same options.")
    pooled = all(data.attrs.get("pooling") == first.run.store.pooling for data in (results, other_results))
    for key in PROTOCOL:
        mine, theirs = results.attrs.get(key), other_results.attrs.get(key)
        if mine != theirs and pooled:
            reason = f"{name} was computed with another {key} ({mine} and {theirs})"
            raise _refused(first, other, reason, "Run both again.")
        if mine != theirs:
            # Each encoder has tokens of its own.
            return f"{first.name} and {other.name} were read with another {key} ({mine}; {theirs})"
    for key in COUNTS:
        mine, theirs = results.attrs.get(key), other_results.attrs.get(key)
        if mine != theirs:
            return f"{key} is {mine} in {first.name} and {theirs} in {other.name}"
    if not first.profiles[name].is_probe:
        return ""
    if name not in first.losses:
        return "its score is no sum of losses, by which runs are compared"
    units = [sorted(_texts(data["unit"].values)) for data in (results, other_results)]
    if units[0] != units[1]:
        return f"read on other test units in {first.name} and {other.name}"
    reference = [member.losses[name].common_reference for member in (first, other)]
    if reference[0] is not None and reference[1] is not None and not near(reference[0], reference[1]):
        return f"{first.name} and {other.name} are scored against other references"
    return ""

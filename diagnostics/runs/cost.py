"""What a run will write, reckoned before its first byte."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from diagnostics.activations.plan import ARRAY_BYTES, WANTED, Plan, plan
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.measures.base import Measure
from diagnostics.progress import Cost
from diagnostics.report.html import PAGE_BYTES
from diagnostics.runs.controls import kinds as control
from diagnostics.runs.setup import Setup

# As measured: files of the result of a probe, beside what it has of every unit and tap, and of another measure.
PROBE_BYTES, RESULT_BYTES = 16_000, 8_000
UNIT_BYTES = 12
"""Losses and what they are relative to, of a unit at a tap."""
ID_BYTES = 25
"""Id, group and split of a sample, about."""


def cost_of(setup: Setup, planned: Plan, controls: Mapping[str, bool], *, seconds: float, again: int) -> Cost:
    """The cost of extracting the encoder, planned so, and its controls, and of measuring them.

    `controls` says of each whether it keeps tokens, `seconds` is what a sample takes, `again` how many samples' tokens were removed and are extracted anew: nothing else is
    then written. Results and what shrinks on disk (maps of classes) are estimated; the rest is known to the byte.
    """
    encoder, dataset = setup.encoder, setup.dataset
    controls = {name: tokens for name, tokens in controls.items() if tokens or not again}
    weights = [name for name in controls if _has_weights(name, encoder)]
    inputs = {name: _planned(name, setup, planned) for name in controls if name in control.INPUTS}
    plans = {name: other for name, other in (inputs | dict.fromkeys(weights, planned)).items() if other is not None}
    stores = [planned, *(other if controls[name] else other.without_tokens for name, other in plans.items())]
    token_bytes, alike = sum(each.token_bytes for each in stores), 1 + len(weights)
    written = sum(each.bytes + _sample_bytes(dataset, planned) for each in stores)
    written += _result_bytes(setup, controls) + PAGE_BYTES * setup.request.report
    enough = planned.token_samples >= min(WANTED, planned.samples)
    return Cost(
        encoder=encoder.name,
        dataset=dataset.name,
        samples=planned.samples,
        taps=len(planned.taps),
        bytes=token_bytes if again else written,
        token_bytes=token_bytes,
        token_samples=planned.token_samples,
        seconds=alike * seconds * (again or planned.samples),
        encoders=alike,
        path=str(setup.out),
        token_bytes_of_64=0 if enough else WANTED * planned.token_bytes_per_sample,
        again=again,
        unprobeable=tuple(setup.unprobeable.values()),
    )


def _has_weights(name: str, encoder: Encoder) -> bool:
    """Whether a control is the encoder with other weights; not every encoder can be drawn anew."""
    method = {"fresh_weights": "fresh", "permuted_weights": "permuted"}.get(control.control_of(name), "")
    return bool(method) and getattr(type(encoder), method) is not getattr(Encoder, method)


def _planned(name: str, setup: Setup, planned: Plan) -> Plan | None:
    """The plan of a control without the encoder; None for one that cannot be made."""
    try:
        like, taps = control.planned_taps(name, setup.encoder, setup.dataset)
    except Exception:  # then it is left out with the reason when its turn comes
        return None
    return plan(
        like, taps, planned.samples, setup.token_budget, setup.request.precision, with_tokens=planned.token_samples
    )


def _sample_bytes(dataset: Dataset, planned: Plan) -> int:
    """Samples and targets as each store has them; whole numbers on grids shrink to little."""
    grids = {tap.grid.shape for tap in planned.taps if tap.grid.tokens > 1}
    targets = 0
    for target in dataset.targets.values():
        first = np.asarray(target.values[0])
        if not target.dense:
            targets += len(dataset) * first.nbytes + (0 if target.naive is None else target.naive.nbytes)
        elif first.dtype.kind == "f":
            of_each = sum(math.prod(grid) for grid in grids if len(grid) == first.ndim)
            targets += len(dataset) * of_each * first.itemsize
    return targets + ID_BYTES * len(dataset) + ARRAY_BYTES * (3 + len(dataset.targets))


def _result_bytes(setup: Setup, controls: Collection[str]) -> int:
    """Of the results of all measures on the encoder and on its controls."""
    units = sum((setup.dataset.split == part).sum() for part in ("val", "test"))
    probes = sum(_targets_read(measure, setup.dataset) for measure in setup.measures)
    others = [measure for measure in setup.measures if not measure.kinds]
    weights = sum(_has_weights(name, setup.encoder) for name in controls)
    weights *= setup.request.control_measures == "all"
    measured = len(others) + weights * sum(not measure.pairwise for measure in others)
    shuffled = bool(setup.draws)
    of_probe = PROBE_BYTES + UNIT_BYTES * len(setup.taps) * int(units)
    return probes * (1 + len(controls) + shuffled) * of_probe + measured * RESULT_BYTES


def _targets_read(measure: Measure, dataset: Dataset) -> int:
    return sum(target.kind in measure.kinds for target in dataset.targets.values())

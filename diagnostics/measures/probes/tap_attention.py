"""Attention over taps: the attentive probe, whose tokens are the pooled features of every tap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import pad

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.measures.base import Arrays, Case, normal
from diagnostics.measures.probes.cross_attention import AttentiveProbe
from diagnostics.measures.probes.linear import OWN
from diagnostics.measures.probes.samples import SampleProbe, Task
from diagnostics.measures.probes.several_taps import TapSet, TapSets
from diagnostics.measures.probes.tap_sets import TapsTogether
from diagnostics.measures.result import choosing_losses
from diagnostics.measures.statistics import Losses

NAME = "attention"
"""The one set: all taps."""


def _tap_that_tells() -> xr.Dataset:
    """Two taps of three features, of which each sample says which holds its class; the other holds another sample's."""
    x, labels = normal(400, 2, 3, seed=0) / 8, np.arange(400) % 2
    told = np.random.default_rng(1).integers(0, 2, 400)
    x[np.arange(400), told, 0] += 2 * labels - 1
    x[np.arange(400), 1 - told, 0] += np.random.default_rng(2).choice([-1.0, 1.0], 400)
    x[np.arange(400), told, 2] += 3
    taps = Arrays({"a": x[:, 0], "b": x[:, 1]}, np.resize(["train", "train", "train", "val", "test"], 400).tolist())
    return TapAttention().compute(taps, StoredTarget("y", "label", labels), 0)


class _OverTaps(AttentiveProbe):
    """The attentive probe of `features` [sample, tap, feature] in place of tokens, of all samples."""

    name = "tap_attention"

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def task(self, activations: Activations, target: StoredTarget, seed: int) -> Task:
        return SampleProbe.task(self, activations, target, seed)

    def stacks(self, activations: Activations, task: Task) -> Iterator[tuple[Sequence[int], Tensor]]:
        yield [0], self.features[None].clone()


class TapAttention(TapSet):
    """Attention over taps beside the tap that is used alone: four learned queries weigh the taps of each sample.

    As `TapSet`, with the one set `attention` of all taps up to the output. Features are standardised tap by tap, filled
    up with zeros to the widest, and marked with their tap, so that a query may prefer a tap whatever it holds. Its
    numbers are chosen on val, and `chosen_set` by the losses on val.
    """

    name = "tap_attention"
    kinds, streams = ("label", "value", "state", "future"), ()
    answers = "Does a head that attends to all taps hold more than the one that is used alone?"
    source = "attention over layers: 2601.09322; Bardes et al. 2024 (2404.08471), without perceptron"
    known_answers = (
        Case("accuracy where each sample says which of two taps holds its class", 1, OWN, lambda: float(_tap_that_tells()["set_score"][0]), 0.05),
    )  # fmt: skip

    def read_sets(
        self, activations: Activations, target: StoredTarget, features: Mapping[str, Tensor], single: str, seed: int
    ) -> tuple[xr.Dataset, Mapping[str, TapsTogether], Sequence[tuple[str, str]]]:
        taps = list(TapSets(features, self.reader.task(activations, target, seed)).taps.values())
        width, marks = max(x.shape[1] for x in taps), torch.eye(len(taps), dtype=taps[0].dtype)
        tokens = [
            torch.cat([pad(x, (0, width - x.shape[1])), mark.expand(len(x), -1)], dim=1)
            for x, mark in zip(taps, marks, strict=True)
        ]
        grid = Grid((len(taps),), ("t",))
        probe, tap = _OverTaps(torch.stack(tokens, dim=1).float()), Tap(NAME, 1.0, "trunk", tokens[0].shape[1], grid)
        there = activations.with_other(taps=[tap], output_tap=NAME, ready={})
        read = probe.read_out(there, target, seed).assign_attrs(probe.declaration(target))
        return read, {NAME: TapsTogether(list(features), width)}, []

    def choosing(self, alone: xr.Dataset, read: xr.Dataset) -> tuple[Losses | None, Losses | None]:
        kept = alone.drop_dims("fit_unit", errors="ignore")
        return choosing_losses(kept), choosing_losses(read)

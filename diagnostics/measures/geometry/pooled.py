"""The loop over taps shared by measures of geometry on pooled activations."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import one_thread, over_taps, samples
from diagnostics.measures.base import Measure
from diagnostics.measures.result import CENTRING, FUNCTIONAL, INTERVAL, POOLING, REASON, SEED, N, store_reasons

MOST_ROWS = 4096


@dataclass(frozen=True)
class TapNumbers:
    """Numbers of one tap by variable name (`score`, `low`, `high`, `line_...`, others), and why one has no value."""

    numbers: Mapping[str, float]
    reason: str = ""


class GeometryMeasure(Measure):
    """A number a tap, without a target; neither way is better by itself."""

    family = "geometry"
    higher_is_better = None
    functional: ClassVar[str]
    centring: ClassVar[str]
    interval: ClassVar[str]
    about: ClassVar[Mapping[str, str]] = {}
    """Variable -> what it is, for those beside `score`, `low` and `high`."""

    def laid_out(
        self, activations: Activations, by_tap: Mapping[str, TapNumbers], attrs: Mapping[str, str | int]
    ) -> xr.Dataset:
        """The results of all taps: `score`, `low`, `high` and those of `about`, NaN where a tap has none."""
        names = dict.fromkeys(["score", "low", "high", *self.about])
        variables = {name: [row.numbers.get(name, float("nan")) for row in by_tap.values()] for name in names}
        reason = store_reasons((tap, row.reason) for tap, row in by_tap.items())
        stated = {FUNCTIONAL: self.functional, CENTRING: self.centring, INTERVAL: self.interval}
        return over_taps(activations, variables, {**stated, **self.about, REASON: reason, **attrs})


class PooledMeasure(GeometryMeasure):
    """A function of one pooling of the samples, [sample, feature]."""

    least: ClassVar[int] = 2
    most_rows: ClassVar[int] = MOST_ROWS

    @abstractmethod
    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        """The numbers of one tap from x [sample, feature], float64 and finite."""

    def rows(self, activations: Activations) -> np.ndarray:
        """Which rows are read."""
        return np.arange(min(len(activations.ids), self.most_rows))

    def beside(self, n: int) -> str:
        """What n counts, in words."""
        return f"{n} samples"

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        pooling = activations.poolings[0]
        rows = self.rows(activations)
        by_tap: dict[str, TapNumbers] = {}
        for tap in activations.taps:
            label = f"Tap {tap.name} for {self.name}"
            pooled = activations.pooled(tap.name, pooling)[rows]
            x = samples(torch.as_tensor(pooled, device=activations.device), label, self.least)
            try:
                by_tap[tap.name] = self.of_tap(x, activations.groups[rows], seed)
            except DiagnosticsError as error:
                raise DiagnosticsError(f"{label}: {error}") from error
        attrs: dict[str, str | int] = {POOLING: pooling, N: len(rows), "rows": self.beside(len(rows)), SEED: seed}
        return self.laid_out(activations, by_tap, attrs)


def no_interval(groups: np.ndarray) -> str:
    """Why there is no interval over these groups, in words; nothing where there is one."""
    return "" if len(set(groups.astype(str))) > 1 else "all samples are of one group, so no interval"

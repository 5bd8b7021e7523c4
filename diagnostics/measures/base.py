"""The measure contract: what a measure needs, what it returns, and how it says which way is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import xarray as xr

from diagnostics.dataset import Family, Kind

if TYPE_CHECKING:
    from diagnostics.activations import Activations, StoredTarget


class Measure(ABC):
    """A function of stored activations (and a target), computed at every tap or for every pair of taps.

    `compute` returns an `xarray.Dataset` over `tap` (or `tap` x `tap_other`) whose attributes state `functional`,
    `pooling`, `centring` and `seed`:

    - a probe (`kinds` not empty) gives `loss` [tap, unit] and `reference_loss` [tap, unit] over independent test units,
      and `val_score` [tap]; its score is 1 - sum(loss) / sum(reference_loss), so that selection, intervals and hidden
      gap are the same code for accuracy (reference 1 a sample) and R2 (reference: squared error of the train mean);
    - a measure without target gives `score` [tap] with `low` and `high`;
    - a similarity gives `matrix` [tap, tap_other].
    """

    name: ClassVar[str]
    answers: ClassVar[str]
    """The question that it answers, in a line."""
    source: ClassVar[str]
    """Where it is defined."""
    family: ClassVar[Family | None] = None
    """None: the target's family."""
    needs: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Target kinds that it reads; none: it needs no target."""
    higher_is_better: ClassVar[bool | None] = True
    """None: neither way is better by itself."""
    pairwise: ClassVar[bool] = False

    @abstractmethod
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        """The measure at every tap of the activations."""

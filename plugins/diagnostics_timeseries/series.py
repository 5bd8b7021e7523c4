"""What all models here share: how samples are read, and one encoder for each length and number of variates.

Shape suffixes: B sample, V variate, L step, T token, F feature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Encoder, Grid, Tap, TorchEncoder, stack_taps

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class SeriesModel:
    """A model of series, before it is known how long they are.

    Parameters
    ----------
    name: as the encoder is called.
    module: the part of it that runs.
    taps: (steps, variates) -> taps.
    prepare: series [V, L] float32 with NaN where nothing was observed -> tensors without the batch axis.
    forward: one pass over a batch.
    output_tap: what its makers hand to users.
    longest, fewest: steps that it takes.
    several: whether it takes several variates.
    fresh: the module with untrained weights.
    valid: (batch) -> which grid tokens hold anything observed, bool [B, grid token]; None where all always do.
    covered: steps -> (start, stop) of the steps that the grid spans; below 0 where the model pads to a whole patch.
    example: steps of the example.
    maker_names: tap -> what its makers call what stands there.
    configuration: what else decides the activations, in words.
    """

    name: str
    module: nn.Module
    taps: Callable[[int, int], list[Tap]]
    prepare: Callable[[Tensor], Batch]
    forward: Callable[[nn.Module, Any], Any]
    output_tap: str
    longest: int | None
    fresh: Callable[[], nn.Module]
    valid: Callable[[Batch], Tensor] | None = None
    fewest: int = 1
    several: bool = False
    covered: Callable[[int], tuple[float, float]] | None = None
    example: int = 512
    configuration: str = ""
    maker_names: Mapping[str, str] = field(default_factory=dict[str, str])

    def encoder(self, steps: int | None = None, variates: int = 1) -> TorchEncoder:
        """The encoder of series of that many steps and variates; `sized_for` gives that of another size."""
        length = min(self.example, self.longest or self.example) if steps is None else steps
        shape = (length,) if variates == 1 else (length, variates)
        noise = np.random.default_rng(0).standard_normal(shape).cumsum(axis=0).astype(np.float32)

        def sized_for(sample: np.ndarray) -> Encoder:
            series = self.series(sample)
            return self.encoder(series.shape[1], series.shape[0])

        def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
            series = self.series(sample)
            if series.shape != (variates, length):
                raise DiagnosticsError(
                    f"it has {series.shape[1]} steps of {series.shape[0]} variate(s) among series of {length} of {variates}: "
                    "cut all to one length, or pad them with diagnostics.padded."
                )
            return dict(self.prepare(torch.from_numpy(series)))

        def valid(batch: Batch, tap: Tap) -> Tensor | None:
            observed = self.valid(batch) if self.valid else None
            # A tap of another grid (pooled, a head) has none of the padding in it.
            if observed is None or observed.shape[1] != tap.grid.tokens or bool(observed.all()):
                return None
            return observed

        def covers(extents: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
            time = self.covered(length) if self.covered else (0.0, float(length))
            scale = extents[-1] / length
            return (*((0.0, float(n)) for n in extents[:-1]), (time[0] * scale, time[1] * scale))

        return TorchEncoder(
            self.name, "series", self.module.eval(), self.taps(length, variates), self.output_tap, preprocess, noise,
            forward=self.forward, fresh=self.fresh, sized_for=sized_for, covers=covers, valid=valid,
            configuration=f"{self.configuration} series of {length} steps of {variates} variate(s)".strip(),
        ).replace(maker_names=self.maker_names)  # fmt: skip

    def series(self, sample: np.ndarray) -> np.ndarray:
        """A raw sample [L] or [L, V] as float32 [V, L]; raises where the model cannot read it."""
        series = np.asarray(sample)
        if series.ndim not in (1, 2) or series.dtype.kind not in "fiub" or 0 in series.shape:
            raise DiagnosticsError(
                f"{self.name} reads numbers [time] or [time, variate], not {series.dtype} of shape {list(series.shape)}."
            )
        series = np.ascontiguousarray(series.reshape(len(series), -1).T, dtype=np.float32)
        variates, steps = series.shape
        if variates > 1 and not self.several:
            raise DiagnosticsError(f"{self.name} reads one variate, not {variates}: choose one, or average them.")
        if self.longest is not None and steps > self.longest:
            raise DiagnosticsError(
                f"A series of {steps} steps exceeds the {self.longest} that {self.name} reads: cut it first."
            )
        if np.isinf(series).any():
            raise DiagnosticsError(f"{self.name} was given an infinite value: mark what is not known with NaN.")
        observed = int(np.isfinite(series).any(axis=0).sum())
        if observed < self.fewest:
            raise DiagnosticsError(
                f"{self.name} needs at least {self.fewest} observed step(s), a series has {observed}."
            )
        return series


def places(tokens: int, variates: int, prefix: int = 0) -> Grid:
    """`tokens` in time, for each variate where there are several."""
    if variates == 1:
        return Grid((tokens,), ("t",), prefix)
    return Grid((variates, tokens), ("v", "t"), prefix)


def stack(name: str, count: int, features: int, grid: Grid, norm: str | None = None, **site: Any) -> list[Tap]:
    """The taps of `diagnostics.stack_taps`, with these further fields of `Site` at all of them."""
    taps = stack_taps(name, count, features, grid, norm=norm)
    return [replace(tap, site=replace(tap.site, **site)) for tap in taps if tap.site]


def special_last(tokens: int, special: int) -> tuple[int, ...]:
    """The order that hands over `special` tokens, which lie behind `tokens` others, first."""
    return (*range(tokens, tokens + special), *range(tokens))


def by_variate(variates: int, tokens: int, before: int = 0, after: int = 0) -> tuple[int, ...]:
    """The order for [B, V, before + tokens + after, F]: the special tokens of all variates first, then the others."""
    whole = before + tokens + after
    special = (*range(before), *range(before + tokens, whole))
    firsts = range(0, variates * whole, whole)
    return (
        *(first + i for first in firsts for i in special),
        *(first + before + i for first in firsts for i in range(tokens)),
    )


def patches(steps: int, size: int) -> int:
    """Patches of `size` steps that it takes to hold so many, the first of them padded on its left."""
    return -(-steps // size)


def whole_patches(size: int) -> Callable[[int], tuple[float, float]]:
    """What patches of that size cover that end with the series and reach beyond its start."""
    return lambda steps: (float(steps - patches(steps, size) * size), float(steps))


def any_observed(series: Tensor, size: int) -> Tensor:
    """Which patches hold an observed step: [..., L] with NaN -> bool [..., patch]; patches end with the series."""
    observed = ~series.isnan()
    lacking = -series.shape[-1] % size
    return nn.functional.pad(observed, (lacking, 0)).unflatten(-1, (-1, size)).any(-1)

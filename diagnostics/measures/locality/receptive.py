"""Effective receptive field of a token: which part of the input it depends on, by gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, Observation, StoredTarget
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, as_tensor, over_taps
from diagnostics.measures.base import Case, Measure
from diagnostics.measures.locality.blocks import lengths
from diagnostics.measures.result import state_attributes
from diagnostics.measures.statistics import mean_of_known, mean_with_interval

STATISTICS = ("radius50", "radius95", "global50", "global95", "sd")
"""Last axis of what `Gradients` records; `sd` once for each axis."""


@dataclass(frozen=True, repr=False)
class ReceptiveField(ShortRepr):
    """Place and extent of the gradient's mass; [sample], or floats where the gradient had no sample axis.

    `radius50` and `radius95`: Euclidean distance from the centre within which half and 95 % of the mass lie. `sd` [...,
    axis] its standard deviation about its own mean. `support` [..., axis] places from the first to the last one along
    an axis that counts at all. NaN, and a support of 0, where the gradient is zero.

    Examples:
        >>> from diagnostics.measures.locality import receptive_field
        >>> field = receptive_field([0.0, 1.0, 8.0, 1.0, 0.0], centre=2.0)
        >>> field.radius50, field.radius95
        (0.0, 1.0)
    """

    radius50: Any
    radius95: Any
    sd: np.ndarray
    support: np.ndarray


def receptive_field(
    gradient: Any, centre: float | Sequence[float], *, cell: float | Sequence[float] = 1.0
) -> ReceptiveField:
    """Effective receptive field (Luo et al. 2016, 1701.04128): how |d token / d input| spreads over the input.

    Parameters
    ----------
    gradient: [*places] or [sample, *places], one axis of places for each number of `centre`; its absolute value counts.
        Signs of channels or samples cancel, so take absolute values before summing those.
    centre: of the token on the input, in places, counted from the centre of the first place: (n - 1) / 2 for the
    middle.
    cell: length of a place, the same along all axes or one each; radii and sd are in its unit.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import receptive_field
        >>> gradient = np.convolve(np.ones(3), np.ones(3))  # of two layers of width 3
        >>> field = receptive_field(gradient, centre=2.0)
        >>> field.support.tolist(), field.sd.round(4).tolist()  # 5, and sqrt(4 / 3)
        ([5], [1.1547])
    """
    size = as_tensor(gradient).abs()
    centre = np.asarray(as_tensor(centre).cpu()).ravel().tolist()
    shape, axes = tuple(size.shape), len(centre)
    if axes == 0 or size.ndim not in (axes, axes + 1) or 0 in shape:
        raise DiagnosticsError(
            f"A gradient of shape {shape} has no centre ({', '.join(f'{x:g}' for x in centre)}): give one number for "
            f"each axis of places, which may stand behind one axis of samples.",
            code="bad-shape",
        )
    sizes = list(lengths(cell, axes))
    if not bool(size.isfinite().all()):
        raise DiagnosticsError(
            f"A gradient of shape {shape} holds NaN or infinity: leave those samples out.", code="not-finite"
        )
    single = size.ndim == axes
    statistics = _of_samples(size[None] if single else size, centre, sizes)
    radius50, radius95, sd, support = (values.cpu().numpy() for values in statistics)
    if single:
        return ReceptiveField(float(radius50[0]), float(radius95[0]), sd[0], support[0])
    return ReceptiveField(radius50, radius95, sd, support)


def _of_samples(size: Tensor, centre: list[float], lengths: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """radius50, radius95 [sample], sd and support [sample, axis]."""
    samples, axes = len(size), size.ndim - 1
    apart = torch.zeros(size.shape[1:], dtype=torch.float64, device=size.device)
    total = size.flatten(1).sum(1)
    spreads: list[Tensor] = []
    supports: list[Tensor] = []
    for axis, (middle, length) in enumerate(zip(centre, lengths, strict=True)):
        places = torch.arange(size.shape[1 + axis], dtype=torch.float64, device=size.device)
        apart += ((places - middle) * length).square().reshape([-1 if a == axis else 1 for a in range(axes)])
        along = size.movedim(1 + axis, 1).reshape(samples, len(places), -1).sum(-1)
        share = along / total[:, None]
        mean = share @ places
        spreads.append((share * (places - mean[:, None]).square()).sum(1).sqrt() * length)
        counts = along > 0
        first, last = counts.int().argmax(1), len(places) - 1 - counts.flip(1).int().argmax(1)
        supports.append(torch.where(counts.any(1), last - first + 1, 0))
    distance, order = apart.sqrt().flatten().sort()
    within = size.flatten(1)[:, order].cumsum(1)
    radii: list[Tensor] = []
    for share in (0.5, 0.95):
        # Rounding of the sums must not push the radius one place out.
        enough = within >= (share * (1 - 1e-12)) * total[:, None]
        radii.append(torch.where(total > 0, distance[enough.int().argmax(1)], torch.nan))
    return radii[0], radii[1], torch.stack(spreads, 1), torch.stack(supports, 1)


class Gradients(Observation):
    """Per sample, the `STATISTICS` of the central token's receptive field, as shares of the input's extents.

    `global50` and `global95` are the radii for a token that sees every place alike.
    """

    name = "gradients"
    samples = 8

    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        gradients = encoder.input_gradient(batch, taps)
        recorded = {tap: _recorded(encoder.tap(tap).grid.shape, size) for tap, size in gradients.items()}
        return Captured(recorded, gradients.left_out)


def _recorded(grid: tuple[int, ...], size: Tensor) -> Tensor:
    extents = size.shape[1:]
    # The central token's own place: the middle of its cell.
    centre = [(n // 2 + 0.5) * extent / n - 0.5 for n, extent in zip(grid, extents, strict=True)]
    cell = [1 / extent for extent in extents]
    field = receptive_field(size, centre, cell=cell)
    everywhere = receptive_field(torch.ones(extents, device=size.device), centre, cell=cell)
    limits = (np.full(len(size), radius) for radius in (everywhere.radius50, everywhere.radius95))
    return torch.from_numpy(np.column_stack([field.radius50, field.radius95, *limits, field.sd])).float()


def _spread_of_stacked_ones(k: int) -> float:
    """Standard deviation along an axis of the response of k convolutions of 3 x 3 ones to one place."""
    line = np.ones(1)
    for _ in range(k):
        line = np.convolve(line, np.ones(3))
    return float(receptive_field(np.pad(np.outer(line, line), 3), (k + 3, k + 3)).sd[0])


class ReceptiveFieldOfTaps(Measure):
    name = "receptive_field"
    answers = "How much of the input affects the central token of each tap?"
    source = "Luo et al. 2016 (1701.04128)"
    family = "spatial"
    higher_is_better = None
    unit = "share of the input's extent along each axis"
    needs = "gradients"
    standard = False
    observation = Gradients()
    known_answers = tuple(
        Case(
            f"{k} convolutions of 3 x 3 ones, spread on an axis: sqrt(2 k / 3)",
            math.sqrt(2 * k / 3),
            "Luo et al. 2016 (1701.04128)",
            lambda k=k: _spread_of_stacked_ones(k),
        )
        for k in (1, 2, 3, 5)
    )

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        observed = activations.observation_arrays("gradients")
        left_out = observed.left_out if isinstance(observed, Captured) else {}
        n = max((len(values) for values in observed.values()), default=0)
        taps = activations.taps
        # [sample, statistic, tap]
        numbers = np.full((n, len(STATISTICS), len(taps)), np.nan)
        reasons: list[tuple[str, str]] = []
        for t, tap in enumerate(taps):
            if tap.name not in observed:
                reasons.append((tap.name, left_out.get(tap.name, "no gradients were recorded")))
                continue
            values = observed[tap.name].astype(np.float64)
            numbers[:, :4, t] = values[:, :4]
            numbers[:, 4, t] = values[:, 4:].mean(axis=1)
            if lost := int(np.isnan(values[:, 0]).sum()):
                reasons.append((tap.name, f"the gradient of {lost} of {n} samples is zero"))
        _, radius95, line, global95, sd = mean_of_known(numbers)
        variables = {
            **mean_with_interval(numbers[:, 0], activations.groups[:n], seed),
            "radius95": radius95,
            "sd": sd,
            "line_global": line,
            "global95": global95,
        }
        attrs = state_attributes(
            functional="radius about the central grid token of half of |d token / d input|, summed over channels; the token "
            "by one projection of its features on random signs",
            pooling="none: the central grid token",
            centring="none",
            reasons=reasons,
            n=n,
            seed=seed,
        )
        return over_taps(activations, variables, attrs)

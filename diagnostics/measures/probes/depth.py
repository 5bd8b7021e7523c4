"""Standard scores for dense regression of positive quantities such as depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor

Align = Literal["scale", "scale_shift"]
THRESHOLD = 1.25


@dataclass(frozen=True)
class DepthMetrics:
    """Means over samples of what each sample's known places give; NaN where no place is known.

    `rmse`: root of the mean squared error, in the target's units; `abs_rel`: mean |prediction - truth| / truth;
    `delta1`, `delta2`, `delta3`: shares of places whose larger ratio of prediction and truth is below 1.25, its square
    and its cube; a prediction that is not above 0 is outside.
    """

    rmse: float
    abs_rel: float
    delta1: float
    delta2: float
    delta3: float


def depth_metrics(prediction: Any, truth: Any, *, align: Align | None = None) -> DepthMetrics:
    """RMSE, AbsRel and delta of predicted depth (Eigen et al. 2014, 1406.2283), averaged over samples.

    Parameters
    ----------
    prediction, truth: [sample, *place]; a truth of NaN is unknown and left out, known ones must be above 0.
    align: first brings each sample's prediction to its truth by least squares over the known places, by a factor or by
        a factor and an offset (Ranftl et al. 2020, 1907.01341, there for inverse depth; here in the units given).

    Depth toolboxes differ in averaging over all places or over images: this one gives each image the same weight.
    """
    t = as_tensor(truth)
    p = as_tensor(prediction).to(t.device)
    if p.shape != t.shape or t.ndim < 2:
        raise DiagnosticsError(
            f"Prediction and truth have shapes {tuple(p.shape)} and {tuple(t.shape)}: give both as [sample, *place]."
        )
    p, t = p.flatten(1), t.flatten(1)
    known = ~t.isnan()
    if not bool(((t > 0) & t.isfinite())[known].all()):
        raise DiagnosticsError(
            f"Truth of shape {tuple(t.shape)} has values that are infinite or not above 0: mark them unknown (NaN)."
        )
    if not bool(p[known].isfinite().all()):
        raise DiagnosticsError(f"Prediction of shape {tuple(p.shape)} holds NaN or infinity at known places.")
    there = known.any(dim=1)
    p, t, known = p[there], t[there], known[there]
    if len(t) == 0:
        return DepthMetrics(*[float("nan")] * 5)
    weight = known.to(t.dtype) / known.sum(dim=1, keepdim=True)
    # Unknown places get a harmless pair of values, and no weight.
    p, t = p.where(known, 1.0), t.where(known, 1.0)
    if align is not None:
        p = _aligned(p, t, weight, shift=align == "scale_shift")
    ratio = torch.maximum(p / t, t / p).where(p > 0, torch.inf)
    by_sample = [
        (weight * (p - t) ** 2).sum(dim=1).sqrt(),
        (weight * (p - t).abs() / t).sum(dim=1),
        *((weight * (ratio < THRESHOLD**power)).sum(dim=1) for power in (1, 2, 3)),
    ]
    return DepthMetrics(*(float(values.mean()) for values in by_sample))


def _aligned(p: Tensor, t: Tensor, weight: Tensor, *, shift: bool) -> Tensor:
    """Predictions after the least-squares factor (and offset) of each sample; a constant one becomes the mean truth."""
    mean_p, mean_t = ((weight * x).sum(dim=1, keepdim=True) * shift for x in (p, t))
    around_p, around_t = p - mean_p, t - mean_t
    spread = (weight * around_p**2).sum(dim=1, keepdim=True)
    shared = (weight * around_p * around_t).sum(dim=1, keepdim=True)
    factor = torch.where(spread > 0, shared / spread, 0.0)
    return mean_t + factor * around_p

"""Scores of predicted depth (Eigen et al. 2014, 1406.2283), and their known answers."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.arrays import as_tensor
from diagnostics.measures.base import Case

Align = Literal["scale", "scale_shift"]
THRESHOLD = 1.25


@dataclass(frozen=True)
class DepthMetrics:
    """Means over samples of what each sample's known places give; NaN where no place is known.

    `rmse`: root of the mean squared error, in the target's units; `abs_rel`: mean |prediction - truth| / truth;
    `delta1`, `delta2`, `delta3`: shares of places whose larger ratio of prediction and truth is below 1.25, its square
    and its cube; a prediction that is not above 0 is outside.

    Examples:
        >>> from diagnostics.measures.probes import depth_metrics
        >>> metrics = depth_metrics([[1.0, 3.0]], [[1.0, 2.0]])  # ratios 1 and 1.5
        >>> metrics.delta1, metrics.delta2
        (0.5, 1.0)
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

    Examples:
        >>> from diagnostics.measures.probes import depth_metrics
        >>> truth, prediction = [[1.0, 2.0, 4.0]], [[1.2, 2.4, 4.8]]  # a fifth too far
        >>> metrics = depth_metrics(prediction, truth)
        >>> round(metrics.abs_rel, 4), metrics.delta1
        (0.2, 1.0)
        >>> round(depth_metrics(prediction, truth, align="scale").rmse, 4)
        0.0
    """
    return DepthMetrics(**{name: float(of.mean()) for name, of in depth_by_sample(prediction, truth, align).items()})


def depth_by_sample(prediction: Any, truth: Any, align: Align | None) -> dict[str, Tensor]:
    """The numbers that `depth_metrics` averages, by name, of each sample with a known place."""
    t = as_tensor(truth)
    p = as_tensor(prediction).to(t.device)
    if p.shape != t.shape or t.ndim < 2:
        shapes = f"{tuple(p.shape)} and {tuple(t.shape)}"
        raise DiagnosticsError(
            f"Prediction and truth have shapes {shapes}: give both as [sample, *place].", code="bad-shape"
        )
    p, t = p.flatten(1), t.flatten(1)
    known = ~t.isnan()
    refuse_values(
        (
            not bool(((t > 0) & t.isfinite())[known].all()),
            f"Truth of shape {tuple(t.shape)} holds values infinite or not above 0: mark them NaN.",
            "bad-target",
        ),
        (
            not bool(p[known].isfinite().all()),
            f"Prediction of shape {tuple(p.shape)} holds NaN or infinity at known places.",
            "not-finite",
        ),
    )
    there = known.any(dim=1)
    p, t, known = p[there], t[there], known[there]
    weight = known.to(t.dtype) / known.sum(dim=1, keepdim=True)
    # Unknown places get a harmless pair of values, and no weight.
    p, t = p.where(known, 1.0), t.where(known, 1.0)
    if align is not None:
        p = _aligned(p, t, weight, shift=align == "scale_shift")
    ratio = torch.maximum(p / t, t / p).where(p > 0, torch.inf)
    means = {"rmse": (p - t) ** 2, "abs_rel": (p - t).abs() / t}
    means |= {f"delta{power}": ratio < THRESHOLD**power for power in (1, 2, 3)}
    by_sample = {name: (weight * of).sum(dim=1) for name, of in means.items()}
    return by_sample | {"rmse": by_sample["rmse"].sqrt()}


def _aligned(p: Tensor, t: Tensor, weight: Tensor, *, shift: bool) -> Tensor:
    """Predictions after the least-squares factor (and offset) of each sample; a constant one becomes the mean truth."""
    mean_p, mean_t = ((weight * x).sum(dim=1, keepdim=True) * shift for x in (p, t))
    around_p, around_t = p - mean_p, t - mean_t
    spread = (weight * around_p**2).sum(dim=1, keepdim=True)
    shared = (weight * around_p * around_t).sum(dim=1, keepdim=True)
    factor = torch.where(spread > 0, shared / spread, 0.0)
    return mean_t + factor * around_p


def _depth_off_by(factor: float, align: Align | None = None) -> DepthMetrics:
    truth = 1 + np.random.default_rng(3).random((3, 20))
    return depth_metrics(factor * truth, truth, align=align)


def _aligned_depth_rmse() -> float:
    """RMSE of depth that is off by one factor and one offset a sample, once both are fitted."""
    truth = 1 + np.random.default_rng(2).random((4, 30))
    factor = np.array([0.5, 1.0, 2.0, 3.0])[:, None]
    offset = np.array([3.0, -0.5, 1.0, 0.0])[:, None]
    return depth_metrics(factor * truth + offset, truth, align="scale_shift").rmse


EIGEN = "Eigen et al. 2014 (1406.2283)"
DEPTH_ANSWERS = (
    Case("depth: delta 1 of 1.2 times the truth", 1, EIGEN, lambda: _depth_off_by(1.2).delta1),
    Case("depth: AbsRel of 1.2 times the truth", 0.2, EIGEN, lambda: _depth_off_by(1.2).abs_rel),
    Case("depth: delta 1 of 1.3 times the truth", 0, EIGEN, lambda: _depth_off_by(1.3).delta1),
    Case("depth: RMSE after one factor a sample", 0, EIGEN, lambda: _depth_off_by(1.7, "scale").rmse),
    Case("depth: RMSE after factor and offset a sample", 0, EIGEN, _aligned_depth_rmse),
)
"""Known answers of `depth_metrics`."""

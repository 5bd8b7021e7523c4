"""LogME: how probable a linear model of a target is, without a split that judges."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures.arrays import over_taps, samples, svd
from diagnostics.measures.base import Case
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.protocol import Probe
from diagnostics.measures.result import CENTRING, FUNCTIONAL, POOLING, REASON, SEED, N, store_reasons

YOU = "You et al. 2021 (2102.11005)"
ROUNDS, CLOSE = 100, 1e-6
"""Of the fixed point, and the relative change at which it ends."""
STARTS = (1e-4, 1e-2, 1.0, 1e2)
"""Of alpha / beta, in mean squared singular values: the evidence may have several maxima, and the way to one may be long."""


def log_evidence(x: Tensor, y: Tensor) -> float:
    """LogME of x [row, feature] and y [row, column].

    The largest log evidence of y = x w + noise for a row, in nats, w and noise Gaussian with variances 1 / alpha and 1
    / beta; the mean over columns.

    As published there is no intercept. alpha / beta by the fixed point of MacKay (1992) from several starts, with one decomposition.
    """
    n, d = x.shape
    u, singular, _ = svd(x)
    s = singular.square()[:, None]
    along = (u.mT @ y).square()
    beyond = (y.square().sum(0) - along.sum(0)).clamp_min(0)
    tiny = torch.finfo(x.dtype).tiny

    def fit(ratio: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = (s / (s + ratio)).sum(0)
        squares = (s * along / (s + ratio).square()).sum(0)
        errors = (along * (ratio / (s + ratio)).square()).sum(0) + beyond
        return count / squares.clamp_min(tiny), (n - count) / errors.clamp_min(tiny), squares, errors

    best = torch.full((y.shape[1],), -torch.inf, dtype=x.dtype)
    for start in STARTS:
        ratio = torch.full_like(best, start) * s.mean()
        for _ in range(ROUNDS):
            alpha, beta, *_ = fit(ratio)
            before, ratio = ratio, alpha / beta
            if bool(((ratio - before).abs() <= CLOSE * before).all()):
                break
        alpha, beta, squares, errors = fit(ratio)
        spread = (alpha + beta * s).log().sum(0) + (d - len(s)) * alpha.log()
        logs = d * alpha.log() + n * beta.log() - spread - beta * errors - alpha * squares - n * np.log(2 * np.pi)
        best = torch.maximum(best, logs / (2 * n))
    return float(best.mean())


class LogMe(Probe):
    """The log evidence of a linear model of train and val at every tap, in nats a sample.

    Of classes the mean over their columns of 0 and 1, as published. Values are less their mean. Test is not read.
    """

    name = "logme"
    answers = "How probable is a linear model of the target, before any is judged?"
    source = YOU
    kinds = ("label", "value", "state", "future")
    losses, score_name = "squares", "LogME"
    standard = of_controls = False
    unit = "nats"
    invariant_to = ("rotation", "scale")
    instead = "it fits no readout: take that of linear_probe"
    known_answers = (
        # A Gaussian of variance 4 along 6 axes and 1 along 18: -(1 + log(2 pi) + log(4) / 4) / 2.
        Case("24 rows along 24 axes, 6 of them features, of size 2 there and 1 elsewhere", -1.5922253, YOU, lambda: log_evidence(torch.eye(24)[:, :6].double(), torch.ones(24, 1).double() + (torch.arange(24) < 6)[:, None])),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        task = LinearProbe().task(activations, target, seed)
        fit = task.rows.fit
        y = (
            np.eye(len(task.numbers))[task.codes[fit]]
            if task.label
            else task.values[fit] - task.values[fit].mean(axis=0)
        )
        each = (
            samples(activations.pooled(tap.name)[fit], f"Tap {tap.name} for {self.name}") for tap in activations.taps
        )
        score = np.array([log_evidence(x, torch.from_numpy(y)) for x in each])
        none = np.full(len(score), np.nan)
        empty = (tap.name for tap, value in zip(activations.taps, score, strict=True) if np.isnan(value))
        reasons = ((name, "all of its values are 0") for name in empty)
        stated = {FUNCTIONAL: "log evidence of a linear model, a sample, in nats", POOLING: activations.pooling}
        return over_taps(
            activations,
            {"score": score, "low": none, "high": none},
            {**stated, CENTRING: "none", N: len(fit), SEED: seed, REASON: store_reasons(reasons)},
        )

"""A second nonlinear reader beside the kernel: networks with one hidden layer, stopped early, over several seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diagnostics.measures.arrays import ShortRepr
from diagnostics.measures.base import Case
from diagnostics.measures.probes.linear import OWN, product_of_features, r2_of
from diagnostics.measures.probes.protocol import ClassOrValueProbe, TapReadouts
from diagnostics.measures.probes.samples import Choice, SampleProbe, Task
from diagnostics.measures.result import FITTED_ON

SEEDS = 5
"""Networks of a tap, that differ in their first weights and in the order of samples."""
HIDDEN = 64
EPOCHS, PATIENCE = 200, 20
BATCH = 64
RATE, DECAY = 2e-3, 1e-2


@dataclass(frozen=True, repr=False)
class Networks(ShortRepr):
    """The networks of a tap.

    x is standardised by `mean` and `scale` [feature]; then one hidden layer of rectified units, and `outputs`, of
    values about `offset` in units of `spread` [column].
    """

    mean: Tensor
    scale: Tensor
    weights: tuple[Tensor, ...]
    offset: Tensor
    spread: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Scores of classes, or values, [seed, row, column] in float64, of x [row, feature]."""
        return _outputs((x - self.mean).float() * self.scale, self.weights).double() * self.spread + self.offset


def _outputs(x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    first, bias, second, last = weights
    return torch.relu(x @ first + bias) @ second + last


def fit_networks(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, classes: int, seed: int) -> Networks:
    """Networks fitted on rows x [row, feature] with AdamW, each with the weights of the epoch of its least loss on val.

    y: classes int [row], of which there are so many, or values [row, column] where `classes` is 0.
    """
    rng = torch.Generator(device="cpu").manual_seed(seed)
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-6 * mean.abs(), 1 / deviation, 0.0).float()
    offset, spread = torch.zeros(1, device=x.device), torch.ones(1, device=x.device)
    if not classes:
        offset, spread = y.mean(dim=0), y.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        y, val_y = (((of - offset) / spread).float() for of in (y, val_y))
    x, val_x = (((of - mean).float() * scale) for of in (x, val_x))
    columns, features = classes or y.shape[1], x.shape[1]
    shapes = (SEEDS, features, HIDDEN), (SEEDS, 1, HIDDEN), (SEEDS, HIDDEN, columns), (SEEDS, 1, columns)
    sizes = (2 / features) ** 0.5, 0.0, HIDDEN**-0.5, 0.0
    drawn = (torch.randn(shape, generator=rng) * size for shape, size in zip(shapes, sizes, strict=True))
    weights = tuple(each.to(x.device).requires_grad_() for each in drawn)
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    best = [each.detach().clone() for each in weights]
    least, since = torch.full((SEEDS,), torch.inf, device=x.device), 0
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(len(x), generator=rng) for _ in range(SEEDS)]).to(x.device)
        for rows in order.split(BATCH, dim=1):
            optimiser.zero_grad()
            # Elementwise steps: networks side by side are as they would be alone.
            _loss(_outputs(x[rows], weights), y[rows], classes).sum().backward()
            optimiser.step()
        with torch.no_grad():
            lost = _loss(_outputs(val_x, weights), val_y.expand(SEEDS, *val_y.shape), classes)
            better = lost < least
            least = torch.where(better, lost, least)
            for kept, each in zip(best, weights, strict=True):
                kept[better] = each[better]
        since = 0 if bool(better.any()) else since + 1
        if since == PATIENCE:
            break
    return Networks(mean, scale, tuple(best), offset.double(), spread.double())


def _loss(said: Tensor, y: Tensor, classes: int) -> Tensor:
    """Of each network [seed], of what it says [seed, row, column]."""
    if classes:
        return cross_entropy(said.mT, y, reduction="none").mean(dim=1)
    return (said - y).square().mean(dim=(1, 2))


@dataclass(frozen=True, repr=False)
class MlpReadouts(ShortRepr, TapReadouts):
    """The mean of what a tap's networks say: of the shares of classes with these `numbers`, or of values."""

    taps: tuple[Networks, ...]
    numbers: np.ndarray | None = None

    def __call__(self, x: Tensor) -> np.ndarray:
        return np.stack([self.read(networks(of)).cpu().numpy() for networks, of in zip(self.taps, x, strict=True)])

    def read(self, said: Tensor) -> Any:
        """[row] or [row, column], of what networks say [seed, row, column]."""
        if self.numbers is None:
            return said.mean(dim=0)
        return torch.as_tensor(self.numbers)[said.softmax(dim=2).mean(dim=0).argmax(dim=1).cpu()]


def _absolute_value() -> float:
    activations, target = product_of_features()
    value = replace(target, values=np.abs(activations.pooled("features")[:, 0]))
    return r2_of(MlpProbe().compute(activations, value, 0))


class MlpProbe(ClassOrValueProbe, SampleProbe):
    """Score of networks with one hidden layer at every tap: R2, or accuracy, of the mean of what `SEEDS` of them say.

    They are fitted on train and stopped on val, by which the tap is chosen too. `single` [tap] is the mean score of one
    network on test, and `spread` its standard deviation over seeds.
    """

    name = "mlp_probe"
    answers = "What does a trained network read, and how much does its seed matter?"
    source = "a perceptron with one hidden layer, AdamW (Loshchilov and Hutter 2019, 1711.05101), early stopping"
    kinds = ("label", "value", "state", "future")
    readout = ""
    standard = False
    known_answers = (
        Case("R2 of a feature's absolute value, which two hidden units are, and a linear map reads nothing of", 1, OWN, _absolute_value, 0.01),
    )  # fmt: skip

    def choose(self, task: Task, x: Tensor) -> Choice:
        readouts = self.fits(task, x, {})
        val = task.lost(readouts(x[:, task.rows.val]), task.rows.val)
        numbers = {name: np.zeros(len(x)) for name in ("single", "spread")}
        around = task.reference_of(task.rows.fit, task.rows.test).sum(axis=0)
        for i, networks in enumerate(readouts.taps):
            said = networks(x[i, task.rows.test])
            each = [task.lost(readouts.read(one[None]).cpu().numpy(), task.rows.test).sum(axis=0) for one in said]
            scores = np.nanmean(1 - np.array(each) / np.where(around > 0, around, np.nan), axis=1)
            numbers["single"][i], numbers["spread"][i] = scores.mean(), scores.std(ddof=1)
        return Choice(numbers, val, start=readouts)

    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> MlpReadouts:
        if start is not None:
            return start
        classes = len(task.numbers) if task.label else 0
        y = torch.tensor(task.codes if task.label else task.values, device=x.device)
        train, val = task.rows.train, task.rows.val
        fitted = [fit_networks(of[train], y[train], of[val], y[val], classes, task.seed) for of in x]
        return MlpReadouts(tuple(fitted), task.numbers if task.label else None)

    def attributes(self, task: Task) -> dict[str, Any]:
        what = "accuracy" if task.label else "R2"
        return {
            "functional": f"{what} of the mean of {SEEDS} networks with {HIDDEN} hidden units, stopped on val",
            "centring": "features standardised with train",
            "networks": SEEDS,
            FITTED_ON: "train",
        }

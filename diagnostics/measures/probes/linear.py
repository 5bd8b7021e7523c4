"""Probes of each sample by linear maps.

The linear probe is ridge regression for values and logistic regression for classes. The kernel probe is the linear
probe of features whose dot products are a Gaussian kernel's. Their scales, and the rows that others are held against
(the landmarks), come from rows that are handed over; draws come from a seed.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.cache import Kept
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, eigh, samples
from diagnostics.measures.base import Arrays, Case, normal
from diagnostics.measures.probes.dense import TokenRidge
from diagnostics.measures.probes.depth import DEPTH_ANSWERS
from diagnostics.measures.probes.least_squares import (
    PENALTIES,
    LinearMaps,
    RidgePath,
    RidgeStack,
    leave_one_out,
    refit,
)
from diagnostics.measures.probes.out_of_fold import choose_index
from diagnostics.measures.probes.protocol import (
    ClassOrValueProbe,
    Readout,
    TapReadouts,
    label_rows,
    sum_by_unit,
    value_rows,
    widest,
)
from diagnostics.measures.probes.samples import Choice, SampleProbe, Task
from diagnostics.measures.probes.softmax import (
    LOGISTIC_PENALTIES,
    Classifiers,
    LogisticFits,
    LogisticRows,
    choose_logistic,
    choose_out_of_fold,
    last_fits,
    logistic,
    start_of_last,
)
from diagnostics.measures.result import CENTRING, FEATURES, FUNCTIONAL
from diagnostics.measures.statistics import OUTLYING, Losses, heaviest_units, rank_correlation


class RidgeProbe(SampleProbe):
    """A sample probe by ridge regression; its penalty is that of least loss."""

    exact: ClassVar[bool] = False
    """Whether a fit at one penalty too comes from an eigendecomposition, and not from a Cholesky factor."""

    def choose(self, task: Task, x: Tensor) -> Choice:
        rows, y = task.rows, torch.tensor(task.values, device=x.device)
        if task.whole:
            penalty, lost, stack = task.ridge.choose(x[:, rows.fit])
            maps = self._maps(x[:, rows.train], y[rows.train], penalty)
            return Choice({"penalty": penalty}, task.lost(maps(x[:, rows.val]), rows.val), lost, stack)
        tried = RidgeStack.from_data(x[:, rows.train], y[rows.train]).predict(x[:, rows.val])
        losses, around = task.by_part(tried - y[rows.val]), task.reference_of(rows.train, rows.val).sum(axis=0)
        best = [choose_index(of_tap, around) for of_tap in losses.sum(dim=2).cpu().numpy()]
        return Choice({"penalty": np.array(PENALTIES)[best]}, losses[torch.arange(len(x)), best].cpu().numpy())

    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> TapReadouts:
        fitted = task.rows.fit
        x, y = x[:, fitted], torch.tensor(task.values[fitted], device=x.device)
        if task.whole and task.ridge.by_unit:
            return (start or RidgeStack.from_data(x, y)).at(numbers["penalty"])
        return self._maps(x, y, numbers["penalty"])

    def _maps(self, x: Tensor, y: Tensor, penalty: np.ndarray) -> LinearMaps:
        if self.exact:
            return RidgeStack.from_data(x, y).at(penalty)
        return refit(x, y, torch.as_tensor(penalty[:, None], device=x.device))[0]


R2 = "R2 against the mean of the rows fitted: 1 - sum (y - prediction)^2 / sum (y - mean)^2"
STANDARDISED = "features standardised with the rows fitted"
HOERL = "Hoerl and Kennard 1970"
OWN = "docs/explanation/statistics.md"


def _shrunk(rows: int, copies: int) -> float:
    """Prediction of ridge with a penalty of 1/2 where the truth is 1.

    The features are copies of one that is the target, 1 or -1.
    """
    sign = np.resize([1.0, -1.0], rows)[:, None]
    path = RidgePath.from_data(np.repeat(sign, copies, axis=1), sign)
    return float(path.predict(np.ones((1, copies)), (0.5,))[0, 0, 0])


def _two_slopes() -> xr.Dataset:
    """One feature, 1 or -1, and a target of 1, 3 and 2 times it in train, val and test, as many of each."""
    sign, slope = np.resize([1.0, -1.0], 120), np.repeat([1.0, 3.0, 2.0], 40)
    taps = Arrays({"feature": sign[:, None]}, np.repeat(["train", "val", "test"], 40).tolist())
    return LinearProbe().compute(taps, StoredTarget("slope", "value", slope * sign), 0)


def _ridge_r2(shift: float) -> float:
    """R2 on other rows of y = x w, almost without penalty."""
    x = normal(80, 5, seed=0) + shift
    y = x @ np.arange(1.0, 6)[:, None] + 3
    guess = RidgePath.from_data(x[:60], y[:60]).predict(x[60:], (1e-12,))[0]
    return 1 - float(((guess - y[60:]) ** 2).sum() / ((y[60:] - y[:60].mean()) ** 2).sum())


def _left_out() -> float:
    """Largest difference of the predictions with one row left out from those of fits without it."""
    x, y, penalty = normal(12, 3, seed=4), normal(12, 1, seed=5), 0.1
    quick = leave_one_out(x, y, (penalty,))[0]
    slow: list[float] = []
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        # Standardised once with all rows, as the hat matrix is.
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        design = np.hstack([z[rest], np.ones((11, 1))])
        weights = np.linalg.solve(design.T @ design + np.diag([12 * penalty] * 3 + [0.0]), design.T @ y[rest])
        slow.append(float((np.append(z[i], 1.0) @ weights)[0]))
    return float(np.abs(quick[:, 0] - np.array(slow)).max())


def _logistic_gradient() -> float:
    """Largest entry of the gradient of mean cross-entropy + penalty / 2 |W|^2 at the solution.

    Features are standardised.
    """
    x, labels, penalty = normal(120, 4, seed=1), np.arange(120) % 3, 0.01
    x[np.arange(120), labels] += 1
    model = logistic(x, labels, (penalty,))[0]
    scale = x.std(axis=0)
    z = (x - x.mean(axis=0)) / scale
    error = np.exp(model.log_probability(x)) - np.eye(3)[labels]
    return float(np.abs(z.T @ error / 120 + penalty * model.weights * scale[:, None]).max())


BESIDE = 2**23
"""Values of the taps that are fitted side by side on a CPU: 64 MiB."""


class LinearProbe(ClassOrValueProbe, RidgeProbe):
    """Score of a linear map at every tap: R2 of ridge, or accuracy of multinomial logistic regression.

    Reads pooled activations; for a `token_value` target the tokens that are kept. The score of a target with several
    columns (horizons) is the mean R2 of the columns. A target that goes round is read as its cosine and sine, with one
    R2 over both, and `angular_error` beside it. Where a few units carry most of a target's spread in train and val (see
    `statistics.heaviest_units`), `spearman` stands beside R2, with its interval: they decide R2, and not ranks.
    """

    name = "linear_probe"
    answers = "What can be read out linearly, and how well?"
    source = "Alain and Bengio 2016 (1610.01644); ridge: Hoerl and Kennard 1970"
    kinds = ("label", "value", "state", "future", "token_value")
    readout = "linear"
    streams = ("token_value",)
    known_answers = (
        Case("ridge: one feature of spread 1, penalty 1/2 a row: 1 / (1 + 1/2)", 2 / 3, HOERL, lambda: _shrunk(10, 1)),
        Case("ridge: the same feature 6 times in 4 rows: 6 / (6 + 1/2)", 12 / 13, HOERL, lambda: _shrunk(4, 6)),
        Case("slope 1 in train and 3 in val: fitted on both again, a slope of 2 is right on test", 1, OWN, lambda: r2_of(_two_slopes()), 1e-3),
        Case("the same, best slope on val: the one with the smallest penalty", PENALTIES[0], OWN, lambda: float(_two_slopes()["penalty"][0])),
        Case("ridge: R2 of y = x w, penalty near 0", 1, HOERL, lambda: _ridge_r2(0)),
        Case("ridge: the same, features shifted by 1e4", 1, HOERL, lambda: _ridge_r2(1e4)),
        Case("ridge: leave-one-out from the hat matrix minus fits without the row", 0, "Allen 1974", _left_out),
        Case("logistic: gradient at the solution", 0, "optimality", _logistic_gradient, 1e-6),
        *DEPTH_ANSWERS,
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        if target.kind == "token_value":
            return _LinearOfTokens().read_out(activations, target, seed)
        return super().read_out(activations, target, seed)

    def at_tap(self, activations: Activations, target: StoredTarget, tap: Tap, seed: int) -> Any:
        of = _LinearOfTokens() if target.kind == "token_value" else super()
        return of.at_tap(activations, target, tap, seed)

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        if target.kind == "token_value":
            return _LinearOfTokens().fit(activations, target, tap, choice)
        return super().fit(activations, target, tap, choice)

    def sums(self, target: StoredTarget) -> Any:
        return _LinearOfTokens().sums(target)

    def choose(self, task: Task, x: Tensor) -> Choice:
        if not task.label:
            return super().choose(task, x)
        if task.whole:
            return self.out_of_fold(task, x)
        rows, codes = task.rows, task.codes
        val = x[:, rows.val]
        penalty, fits = choose_logistic(x[:, rows.train], codes[rows.train], val, codes[rows.val])
        start = LogisticRows(x[:, rows.fit], codes[rows.fit], like=fits), fits
        return Choice({"penalty": penalty}, task.lost(Classifiers(fits, task.numbers)(val), rows.val), start=start)

    def out_of_fold(
        self, task: Task, x: Tensor, given: np.ndarray | None = None, like: LogisticFits | None = None
    ) -> Choice:
        """The choice by losses out of fold, without a fit on train.

        Of penalties `given` [tap] only the losses; `like`: see `LogisticRows`.
        """
        fit = task.rows.fit
        if task.label:
            out = choose_out_of_fold(x[:, fit], task.codes[fit], task.fold, given=given, like=like)
            penalty, lost, start = out.penalty, out.wrong[..., None], out.start
        else:
            penalty, lost, start = task.ridge.choose(x[:, fit], given)
        return Choice({"penalty": penalty}, lost[:, len(task.rows.train) :], lost, start)

    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> TapReadouts:
        if not task.label:
            return super().fits(task, x, numbers, start)
        rows, penalty = task.rows, numbers["penalty"]
        if start is None:
            val = np.arange(len(rows.fit)) >= len(rows.train)
            start = start_of_last(x[:, rows.fit], task.codes[rows.fit], val, penalty, task.whole)
        return Classifiers(last_fits(start, penalty), task.numbers)

    def attributes(self, task: Task) -> dict[str, Any]:
        if task.label:
            functional = "accuracy of multinomial logistic regression with an L2 penalty"
            return {"functional": functional, "centring": STANDARDISED, "penalties": list(LOGISTIC_PENALTIES)}
        one, circular = task.values.shape[1] == 1, task.target.period is not None
        mean = ", over the angle's cosine and sine" if circular else "" if one else ", mean of columns"
        return {"functional": R2 + mean, "centring": STANDARDISED, "penalties": list(PENALTIES)}

    def beside(self, task: Task, read: Mapping[int, np.ndarray], losses: Losses) -> dict[str, Any]:
        rows = task.rows
        if task.label or task.values.shape[1] > 1:
            return {}
        around = sum_by_unit(task.reference_of(rows.fit, rows.fit), rows, "fit")
        if not heaviest_units(around)[1] > OUTLYING:
            return {}
        guess = np.stack([read[i][:, 0] for i in range(len(read))])
        rank = rank_correlation(guess, task.values[rows.test, 0], rows.unit_of_test, task.seed, len(rows.fit_units))
        return dict(zip(("spearman", "spearman_low", "spearman_high"), rank, strict=True))


class OutOfFoldProbe(LinearProbe):
    """The linear probe for a measure that fits many, several narrow taps at a time.

    Where losses out of fold choose there is no fit on train; the losses on val are then of these.
    """

    def stacks(self, activations: Activations, task: Task) -> Iterator[tuple[Sequence[int], Tensor]]:
        kept: list[int] = []
        some: list[Tensor] = []
        for taps, x in super().stacks(activations, task):
            if some and (some[0].shape[1:] != x.shape[1:] or (len(some) + 1) * x.numel() > BESIDE):
                yield kept, torch.cat(some)
                kept, some = [], []
            kept, some = [*kept, *taps], [*some, x]
        yield kept, torch.cat(some)

    def choose(
        self, task: Task, x: Tensor, given: np.ndarray | None = None, like: LogisticFits | None = None
    ) -> Choice:
        return self.out_of_fold(task, x, given, like) if task.whole else super().choose(task, x)


class _LinearOfTokens(TokenRidge):
    """The linear probe of a value for every place."""

    name = LinearProbe.name


LANDMARKS = 512
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the Gaussian kernel, as shares of the median distance between landmarks."""
LEAST_TRAIN = 100
"""Training samples below which no kernel is fitted: one learnt from fewer says little either way."""
# Directions in which landmarks differ by less than this share of the largest are noise.
SMALLEST = 1e-8


class KernelFeatures:
    """Features of standardised rows whose distances are those of a Gaussian kernel, averaged over a sample's rows.

    Those of Nystrom (Williams and Seeger 2001, NeurIPS): kernel principal components from landmarks among `rows`
    [row, value], all of them where they are few. A linear readout is then kernel ridge regression; of the average over
    windows, with the kernel between their distributions. Centre, scale and median distance are those of the landmarks;
    `weights` [value] says how much each value counts after that.

    The components are turned by a Hadamard matrix, after which all features vary alike over the landmarks: probes
    standardise what they read, which would otherwise make as much of the least component as of the first.
    """

    def __init__(self, rows: np.ndarray, seed: int, weights: np.ndarray | float = 1.0) -> None:
        chosen = np.random.default_rng(seed).permutation(len(rows))[:LANDMARKS]
        marks = torch.from_numpy(rows[np.sort(chosen)].astype(np.float64))
        self.centre, spread = marks.mean(dim=0), marks.std(dim=0, correction=0)
        self.scale = torch.where(spread > 1e-6 * self.centre.abs(), 1 / spread, torch.zeros_like(spread))
        self.scale *= torch.as_tensor(weights)
        self.marks = (marks - self.centre) * self.scale
        apart = torch.pdist(self.marks)
        apart = apart[apart > 0]
        self.median = float(apart.median()) if len(apart) else 1.0
        squares = _squared_distances(self.marks, self.marks)
        self.components = {share: _components(self._kernel(squares, share)) for share in BANDWIDTHS}

    def _kernel(self, squares: Tensor, share: float) -> Tensor:
        return (squares * (-0.5 / (share * self.median) ** 2)).exp()

    def __call__(self, x: Tensor) -> dict[float, Tensor]:
        """Share of the median distance -> float32 [sample, 1, feature], from x [sample, row, value]."""
        squares = _squared_distances((x.double() - self.centre) * self.scale, self.marks)
        return {
            share: (self._kernel(squares, share).mean(dim=1, keepdim=True) @ components).float()
            for share, components in self.components.items()
        }


def _squared_distances(x: Tensor, marks: Tensor) -> Tensor:
    """[..., row, landmark]."""
    return (x.square().sum(-1, keepdim=True) + marks.square().sum(-1) - 2 * x @ marks.T).clamp_(min=0)


def _components(kernel: Tensor) -> Tensor:
    """[landmark, feature]: from kernel values to turned principal components; a constant is left out."""
    from scipy.linalg import hadamard

    centred = kernel - kernel.mean(dim=0)
    values, axes = eigh(centred - centred.mean(dim=1, keepdim=True))
    kept = values > SMALLEST * max(1.0, float(values[-1]))
    axes, size = axes[:, kept] / values[kept].sqrt(), 1 << max(0, int(kept.sum()) - 1).bit_length()
    turn = torch.from_numpy(hadamard(size).astype(np.float64))[: axes.shape[1]] / math.sqrt(size)
    return (axes - axes.mean(dim=0)) @ turn


NYSTROM = "Williams and Seeger 2001 (NeurIPS)"
# Features in bytes: of five thousand samples at six taps. The next target is read from the same ones.
_KEPT = Kept(2**28)


def product_of_features() -> tuple[Arrays, StoredTarget]:
    """Two features and their product, which no linear map of them says anything of."""
    x = normal(500, 2, seed=0)
    split = np.resize(["train", "train", "train", "val", "test"], len(x)).tolist()
    return Arrays({"features": x}, split), StoredTarget("product", "value", x[:, 0] * x[:, 1])


def r2_of(result: xr.Dataset) -> float:
    return 1 - float(result["loss"].sum() / result["reference_loss"].sum())


def _landmark_distance() -> float:
    """Between the features of the two landmarks 1 and -1 at a bandwidth of their distance, 2."""
    marks = np.array([[1.0], [-1.0]])
    first, second = KernelFeatures(marks, 0)(torch.from_numpy(marks)[:, None])[1.0][:, 0].double()
    return float(((first - second) ** 2).sum())


@dataclass(frozen=True, repr=False)
class KernelReadout(ShortRepr, Readout):
    """A `readout` of a Gaussian kernel's features at one bandwidth.

    That is a `share` of the median distance, and features are filled up to a `width`.
    """

    features: KernelFeatures
    share: float
    width: int
    readout: Readout

    def predict(self, x: np.ndarray) -> np.ndarray:
        features = self.features(torch.from_numpy(x)[:, None])[self.share][:, 0].double().numpy()
        return self.readout.predict(np.pad(features, ((0, 0), (0, self.width - features.shape[1]))))


class KernelProbe(ClassOrValueProbe):
    """Score of kernel ridge regression, or of kernel logistic regression, at every tap: R2, or accuracy.

    The linear probe, of `KernelFeatures` of the pooled activations in place of these; the bandwidth is chosen as the
    linear probe's penalty is, for each tap and target: `bandwidth` [tap], as a share of the median distance between
    landmarks.
    """

    name = "kernel_probe"
    answers = "What can a nonlinear readout read, and how well?"
    source = f"Nystrom features of a Gaussian kernel: {NYSTROM}; read by the linear probe"
    kinds = ("label", "value", "state", "future")
    readout = "kernel"
    standard = False
    known_answers = (
        Case("squared distance of the features of two landmarks, at a bandwidth of their distance: 2 - 2 / sqrt(e)", 2 - 2 * np.exp(-0.5), NYSTROM, _landmark_distance),
        Case("R2 of a product of two features, which a linear map reads nothing of", 1, NYSTROM, lambda: r2_of(KernelProbe().compute(*product_of_features(), 0)), 0.02),
        Case("the same by the linear probe", 0, NYSTROM, lambda: r2_of(LinearProbe().compute(*product_of_features(), 0)), 0.05),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        known = label_rows if target.kind == "label" else value_rows
        if why := too_few(len(known(activations, target)[0].train)):
            raise DiagnosticsError(why, code="too-few")
        results = [self.find_at(activations, target, tap, seed) for tap in activations.taps]
        functional = (
            f"{results[0].attrs[FUNCTIONAL]}, from a Gaussian kernel's features ({LANDMARKS} landmarks at most)"
        )
        stated = {
            FUNCTIONAL: functional,
            CENTRING: "features standardised with the landmarks",
            "bandwidths": [*BANDWIDTHS],
            FEATURES: widest(activations),
        }
        return xr.concat(results, "tap", combine_attrs="override").assign_attrs(stated)

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        there, share = self._there(tap, activations, int(choice["seed"])), choice["bandwidth"]
        (read,) = (each for each in there.taps if each.name == str(share))
        x = activations.pooled(tap.name)[activations.split == "train"]
        return KernelReadout(
            KernelFeatures(x, int(choice["seed"])), share, read.features, LinearProbe().fit(there, target, read, choice)
        )

    def _there(self, tap: Tap, activations: Activations, seed: int) -> Activations:
        """The features of a tap's pooled activations as taps, one for each bandwidth, the widest first."""
        x = samples(activations.pooled(tap.name), f"Tap {tap.name} for {self.name}").numpy()
        features = _features(x, x[activations.split == "train"], seed)
        by_name = dict(zip(map(str, BANDWIDTHS[::-1]), features[::-1], strict=True))
        taps = [Tap(name, tap.depth, tap.part, features.shape[2], Grid((1,), ("t",))) for name in by_name]
        return activations.with_other(taps=taps, ready={}, pooled=lambda name: by_name[name].astype(np.float64))

    def at_tap(self, activations: Activations, target: StoredTarget, tap: Tap, seed: int) -> xr.Dataset:
        """The probe of one tap, at the bandwidth with the best score where penalties are chosen.

        The widest of equals.
        """
        read = LinearProbe().read_out(self._there(tap, activations, seed), target, seed)
        kind = "oof" if "oof_loss" in read else "val"
        scores = Losses(read[f"{kind}_loss"].values, read[f"{kind}_reference"].values).scores
        best = int(np.nan_to_num(scores, nan=-np.inf).argmax())
        at = {"tap": [tap.name], "bandwidth": ("tap", [BANDWIDTHS[::-1][best]])}
        return read.isel(tap=[best]).assign_coords(at).reset_coords("bandwidth")


def too_few(train: int) -> str:
    """The reason why no kernel is fitted on so many training samples; "" where one is."""
    if train >= LEAST_TRAIN:
        return ""
    return f"{KernelProbe.name} needs {LEAST_TRAIN} training samples, and there are {train}: use a dataset with more."


def _features(x: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """Features [bandwidth, sample, feature] float32 of x [sample, feature].

    Narrower ones are filled up with zeros, which probes drop.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16)
    digest.update(np.ascontiguousarray(train).data)

    def make() -> np.ndarray:
        made = [values[:, 0].numpy() for values in KernelFeatures(train, seed)(torch.from_numpy(x)[:, None]).values()]
        widest = max(values.shape[1] for values in made)
        return np.stack([np.pad(values, ((0, 0), (0, widest - values.shape[1]))) for values in made])

    return _KEPT.get(seed, f"{x.shape} {digest.hexdigest()}", make)

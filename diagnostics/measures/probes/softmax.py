"""Multinomial logistic regression with an L2 penalty, and its penalty.

Many taps and penalties are fitted at once or one after the other.

Solver: L-BFGS in principal axes, where the Hessian is close to diagonal. The curvature in axis a and class c is about
lambda_a * mean(p_c (1 - p_c)) + penalty, with lambda_a the variance along the axis; this scales every step, so that
correlated features cost no more steps than independent ones. A step takes two products with the features, one for its
direction's scores and one for the next gradient; the line search needs none, as scores are linear in the weights.

Shapes: z [tap, row, feature], weights [tap, penalty, class, axis + 1] (the last axis is the intercept), scores
[tap, penalty, class, row]. Penalties lie beside classes, so that all share one matrix product, and rows lie last, which
makes products and softmax up to four times as fast on a CPU as classes last.

The penalty is chosen by val, or by losses out of fold on train and val.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, as_tensor, class_labels, eigh_as_given, samples
from diagnostics.measures.probes.least_squares import principal_axes, products, several, standardise
from diagnostics.measures.probes.protocol import TapReadouts
from diagnostics.measures.threads import one_thread

LOGISTIC_PENALTIES: tuple[float, ...] = tuple(10.0**k for k in range(-5, 2))
"""The grid for every tap: decades from 1e-5 to 10, beside the mean loss and for features of variance 1."""

RANKING = 3e-3
"""Nats that the last step may promise where penalties are only ranked: what is left after it is a tenth of that."""

FINAL = 1e-6
"""The same for a probe that is read on test."""

# Rows for a feature that the principal axes are taken from.
_AXIS_ROWS = 4
# Spread along an axis beside the largest that squares in float64 cannot tell from none.
_ROUNDING = 1e-7
_MEMORY = 8
_MOST_STEPS = 5000
_MOST_SINGLE = 500
_MOST_SEARCH = 12
# The slope that a line search leaves, beside the slope that it starts from.
_SLOPE = 0.3
# float32 takes gradients this far; float64 goes on from there.
_SINGLE = 1e-5


@dataclass(frozen=True, repr=False)
class Logistic(ShortRepr):
    """A fitted model: class scores (x - `mean`) @ `weights` [feature, class] + `bias` [class], through a softmax.

    With z the standardised features and W their weights, it minimises mean cross-entropy + penalty / 2 * ||W||^2,
    intercepts free; so scikit-learn's C is 1 / (n * penalty).

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import logistic
        >>> x, labels = [[-1.0], [1.0], [2.0]], [0, 1, 1]
        >>> logistic(x, labels, 1e-3)[0].predict(x).tolist()
        [0, 1, 1]
        >>> (model,) = logistic(x, labels, 1e6)  # nearly no weight
        >>> np.exp(model.log_probability([[0.0]])).round(4).tolist()  # shares of classes
        [[0.3333, 0.6667]]
    """

    penalty: float
    classes: np.ndarray
    mean: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def log_probability(self, x: Any) -> np.ndarray:
        """[row, class] for x [row, feature], numpy or torch."""
        new = np.asarray(as_tensor(x).cpu())
        if new.ndim != 2 or new.shape[1] != len(self.mean):
            raise DiagnosticsError(
                f"x has shape {new.shape}: give rows with the {len(self.mean)} features fitted.", code="bad-shape"
            )
        scores = (new - self.mean) @ self.weights + self.bias
        scores -= scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def predict(self, x: Any) -> np.ndarray:
        """[row], the most probable class of each row."""
        return self.classes[self.log_probability(x).argmax(axis=1)]


@one_thread()
def logistic(
    x: Any, labels: Any, penalties: float | Sequence[float] = LOGISTIC_PENALTIES, tolerance: float = 1e-6
) -> list[Logistic]:
    """Multinomial logistic regression for all penalties, in their order.

    Parameters
    ----------
    x: [row, feature], finite, numpy or torch. On a GPU all penalties are fitted together; on a CPU each is started from
        the next stronger one's solution.
    labels: int from 0 or bool [row], at least two different ones.
    tolerance: largest norm of the objective's gradient by the weights of one class, so no entry exceeds it.

    Raises DiagnosticsError for labels that are no integers, and for negative ones, which are unknown.

    Examples:
        >>> from diagnostics.measures.probes import logistic
        >>> models = logistic([[-1.0], [-2.0], [1.0], [2.0]], [0, 0, 1, 1], (1e-3, 1.0))
        >>> [model.predict([[-3.0], [0.5]]).tolist() for model in models]
        [[0, 1], [0, 1]]
    """
    features, penalties = samples(x, "x"), several(penalties)
    classes, codes = np.unique(class_labels(labels, len(features)), return_inverse=True)
    if len(classes) < 2:
        raise DiagnosticsError(
            "A logistic probe needs rows of at least two classes: give more rows, or leave it out.", code="too-few"
        )
    rows = LogisticRows(features[None], codes, exact=True)
    order = sorted(penalties, reverse=True)
    models: dict[float, Logistic] = {}
    fits = None
    for group in [order] if features.is_cuda else [[penalty] for penalty in order]:
        fits = rows.fit([group], tolerance=tolerance, start=fits)
        mean, weights, bias = (part[0].cpu().numpy() for part in (fits.mean, fits.weights, fits.bias))
        for penalty, w, b in zip(group, weights, bias, strict=True):
            models[penalty] = Logistic(penalty, classes, mean, w.T, b)
    return [models[penalty] for penalty in penalties]


@dataclass(frozen=True)
class LogisticFits:
    """Fitted models, float64.

    Class scores are `weights` [tap, penalty, class, feature] @ (x - `mean` [tap, feature]) + `bias` [tap, penalty,
    class]. Beside them: the solver's principal axes, None where it had fewer rows than features; its steps, and whether
    all fits converged.
    """

    mean: Tensor
    weights: Tensor
    bias: Tensor
    principal: tuple[Tensor, Tensor] | None
    steps: int
    converged: bool

    @classmethod
    def beside(cls, fits: Sequence[LogisticFits]) -> LogisticFits:
        """Fits of several penalties on the same rows as one; steps and convergence as of the last."""
        weights, bias = (torch.cat(parts, dim=1) for parts in zip(*((f.weights, f.bias) for f in fits), strict=True))
        return replace(fits[-1], weights=weights, bias=bias)

    def at(self, index: Tensor) -> LogisticFits:
        """One penalty [tap] of each tap."""
        taps = torch.arange(len(index), device=index.device)
        weights, bias = (part[taps, index][:, None] for part in (self.weights, self.bias))
        return replace(self, weights=weights, bias=bias)

    def scores(self, x: Tensor) -> Tensor:
        """[tap, penalty, class, row] for x [tap, row, feature]."""
        flat = self.weights.flatten(1, 2)
        bias = self.bias.flatten(1)[..., None] - flat @ self.mean[..., None]
        return torch.baddbmm(bias, flat, x.mT).unflatten(1, self.weights.shape[1:3])

    def judge(self, x: Tensor, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Right answers of the most probable class, and the cross-entropy in nats, [tap, penalty, row]."""
        scores = self.scores(x)
        truth = torch.as_tensor(labels, device=x.device)
        own = scores.gather(2, truth.expand(*scores.shape[:2], 1, -1))[:, :, 0]
        return scores.argmax(dim=2) == truth, scores.logsumexp(dim=2) - own


@dataclass(frozen=True, repr=False)
class Classifiers(ShortRepr, TapReadouts):
    """The class, one of `numbers` [class], whose score is largest by fits [tap, 1]."""

    fits: LogisticFits
    numbers: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """[feature, class] of the first tap."""
        return self.fits.weights[0, 0].cpu().numpy().T

    @property
    def bias(self) -> np.ndarray:
        """[class] of the first tap: the scores for features of zero."""
        return self.fits.bias[0, 0].cpu().numpy() - self.fits.mean[0].cpu().numpy() @ self.weights

    def __call__(self, x: Tensor) -> np.ndarray:
        return self.numbers[self.fits.scores(x.to(self.fits.mean.device))[:, 0].argmax(dim=1).cpu().numpy()]


class LogisticRows:
    """Rows to fit on: standardised features of several taps with their principal axes, and the classes in one-hot form.

    With fewer rows than features, coordinates in the principal axes of their span take the features' place: the
    solution lies there, and penalty and loss do not change under rotation.

    Parameters
    ----------
    x: float64 [tap, row, feature].
    labels: codes [row] from 0; every class up to the largest one occurs.
    exact: whether fits will be asked to go further than float32 can.
    like: fits on rows of the same distribution, whose principal axes, which bear on speed alone, serve here too; not
        where exact, as they are float32.
    """

    def __init__(self, x: Tensor, labels: np.ndarray, *, exact: bool = False, like: LogisticFits | None = None) -> None:
        wide = x.shape[1] < x.shape[2]
        self.mean, self.scale, z = standardise(x, None if wide or exact else torch.float32)
        self.axes: Tensor | None = None
        onehot, self.shares = _onehot(labels, x.device)
        dtypes = (torch.float32, torch.float64) if exact else (torch.float32,)
        if wide:
            squares, vectors = principal_axes(z.mT)
            size = squares.clamp(min=0).sqrt()
            # What varies less is rounding, and no penalty lets it count.
            inverse = torch.where(size > _ROUNDING * size.amax(dim=1, keepdim=True), 1 / size, 0.0)
            # Those of the coordinates among the standardised features, [tap, feature, axis].
            self.directions, self.variance = z.mT @ (vectors * inverse[:, None]), squares.clamp(min=0) / x.shape[1]
            z = vectors * (size * (inverse > 0))[:, None]
        elif like is not None and like.principal is not None and not exact:
            self.variance, self.axes = like.principal
        else:
            # Axes of a part of the rows scale the steps well enough.
            some = z[:, : _AXIS_ROWS * z.shape[2]].to(dtypes[-1])
            variance, self.axes = eigh_as_given(products(some) / some.shape[1])
            self.variance = variance.clamp(min=0)
        if self.axes is not None:
            self.directions = self.axes.double()
        axes = self.axes
        self.problems = [
            _Problem(z.to(t), onehot.to(t), self.variance.to(t), None if axes is None else axes.to(t)) for t in dtypes
        ]

    def only(self, rows: Tensor, labels: np.ndarray) -> LogisticRows:
        """Some of the rows, bool [row], with their labels [those rows].

        Labels are coded as in `LogisticRows`, and the features' mean, scale and axes are those of all rows.
        """
        part = copy.copy(self)
        onehot, part.shares = _onehot(labels, rows.device)
        part.problems = [each.only(rows, onehot) for each in self.problems]
        return part

    def fit(
        self,
        penalties: Any,
        *,
        tolerance: float = 0.0,
        decrease: float = 0.0,
        start: LogisticFits | None = None,
        most: int = _MOST_STEPS,
    ) -> LogisticFits:
        """Fits for penalties [tap, penalty], in at most `most` steps.

        They end where the gradient (see `logistic`) is within the tolerance or a further step promises to lower the
        objective by no more than `decrease`.
        """
        given = torch.as_tensor(penalties, dtype=torch.float64, device=self.mean.device)
        w, steps, converged = self._start(given, start), 0, False
        for problem in self.problems:
            w, taken, converged = problem.minimise(given, w, tolerance, decrease, most)
            steps += taken
        w = w.double()
        weights = w[..., :-1].flatten(1, 2) @ self.directions.mT
        weights = (weights * self.scale[:, None]).unflatten(1, w.shape[1:3])
        principal = None if self.axes is None else (self.variance, self.axes)
        return LogisticFits(self.mean, weights, w[..., -1], principal, steps, converged)

    def _start(self, penalties: Tensor, start: LogisticFits | None) -> Tensor:
        """Weights in principal axes: another fit's, or none with the classes' shares as intercepts."""
        shape = (*penalties.shape, len(self.shares), self.variance.shape[1] + 1)
        w = torch.zeros(shape, dtype=torch.float64, device=self.mean.device)
        if start is None:
            w[..., -1] = self.shares.log()
            return w
        weights = start.weights.flatten(1, 2) * torch.where(self.scale > 0, 1 / self.scale, 0.0)[:, None]
        w[..., :-1] = (weights @ self.directions).unflatten(1, w.shape[1:3])
        w[..., -1] = start.bias + (start.weights * (self.mean - start.mean)[:, None, None]).sum(dim=3)
        return w


def _onehot(labels: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """[class, row], and the share of each class."""
    codes = torch.as_tensor(labels, device=device)
    onehot = torch.nn.functional.one_hot(codes, int(codes.max()) + 1).T
    return onehot, onehot.to(torch.float64).mean(dim=1)


class _Problem:
    """The objective in one precision, and its minimiser."""

    def __init__(self, z: Tensor, onehot: Tensor, variance: Tensor, axes: Tensor | None) -> None:
        self.z, self.onehot, self.axes, self.n = z, onehot, axes, z.shape[1]
        # The intercept's "feature" is 1 everywhere.
        self.variance = torch.cat([variance, torch.ones_like(variance[:, :1])], dim=1)[:, None, None]

    def only(self, rows: Tensor, onehot: Tensor) -> _Problem:
        part = copy.copy(self)
        part.z, part.onehot, part.n = self.z[:, rows], onehot.to(self.z.dtype), int(rows.sum())
        return part

    def minimise(
        self, penalties: Tensor, w: Tensor, tolerance: float, decrease: float, most: int
    ) -> tuple[Tensor, int, bool]:
        """The weights in principal axes, from a start w; the steps taken, and whether they led there."""
        w = w.to(self.z.dtype)
        if self.z.dtype == torch.float32:
            tolerance, most = max(tolerance, _SINGLE), min(most, _MOST_SINGLE)
        taken = 0
        penalty = penalties.to(w.dtype)[..., None, None] * torch.ones_like(w[0, 0, 0])
        penalty[..., -1] = 0  # the intercept's
        running = torch.ones_like(penalties, dtype=torch.bool)
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        last = step = None
        scores = self._scores(w)
        p = scores.softmax(dim=2)
        if bool((w[..., :-1] != 0).any()):
            # A stronger penalty's solution is mostly too small, and its size can be fitted without a product.
            w, scores, p = self._resize(w, scores, p, penalty)
        while taken < most:
            taken += 1
            gradient = self._gradient(p) + penalty * w
            if last is not None and step is not None:
                change = gradient - last
                along = _inner(step, change)
                pairs = [*pairs[1 - _MEMORY :], (step, change, torch.where(along > 0, 1 / along, 0.0))]
            last = gradient
            running = running & (gradient.square().sum(dim=3).amax(dim=2) > tolerance**2)
            curvature = self.variance * (p.mean(dim=3) - p.square().mean(dim=3)).clamp(min=1e-6)[..., None] + penalty
            direction = -_two_loop(gradient, pairs, curvature)
            slope = _inner(gradient, direction)
            ending = running & (-slope <= decrease)
            running = running & ~ending
            # The step that promised too little to go on costs nothing, as no scores are needed after it.
            w = w + direction * _each(ending)
            if not bool(running.any()):
                break
            direction = direction * _each(running)
            moved = self._scores(direction)
            size, p = self._search(
                scores, moved, w, direction=direction, penalty=penalty, slope=slope * running, share=_SLOPE
            )
            step = _each(size) * direction
            w, scores = w + step, torch.addcmul(scores, _each(size), moved)
        return w, taken, not bool(running.any())

    def _resize(self, w: Tensor, scores: Tensor, p: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = _inner(p - self.onehot, scores) / self.n + _inner(penalty * w, w)
        grows = slope < 0
        each = _each(grows)
        size, p = self._search(
            scores, scores * each, w, direction=w * each, penalty=penalty, slope=slope * grows, share=_SLOPE / 3
        )
        factor = _each(1 + size * grows)
        return w * factor, scores * factor, p

    def _search(
        self, scores: Tensor, moved: Tensor, w: Tensor, direction: Tensor, penalty: Tensor, slope: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """Step size [tap, penalty] that leaves no more than a share of the slope, and probabilities.

        By Newton's method, bracketed.
        """
        wanted = _inner(moved, self.onehot) / self.n - _inner(penalty * w, direction)
        bend = _inner(penalty * direction, direction)
        size, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
        p = scores
        for trial in range(_MOST_SEARCH):
            p = torch.addcmul(scores, _each(size), moved).softmax(dim=2)
            weighted = p * moved
            mean = weighted.sum(dim=2)
            here = mean.sum(dim=2) / self.n - wanted + size * bend
            far = here.abs() > share * slope.abs()
            if trial == _MOST_SEARCH - 1 or not bool(far.any()):
                break
            low, high = torch.where(here < 0, size, low), torch.where(here < 0, high, size)
            newton = size - here / ((_inner(weighted, moved) - mean.square().sum(dim=2)) / self.n + bend)
            middle = torch.where(high.isinf(), 2 * size, (low + high) / 2)
            size = torch.where(far, torch.where((newton > low) & (newton < high), newton, middle), size)
        return size, p

    def _scores(self, w: Tensor) -> Tensor:
        flat = w.flatten(1, 2)
        turned = flat[..., :-1] if self.axes is None else flat[..., :-1] @ self.axes.mT
        return torch.baddbmm(flat[..., -1:], turned, self.z.mT).unflatten(1, w.shape[1:3])

    def _gradient(self, p: Tensor) -> Tensor:
        """Of the mean cross-entropy."""
        residual = (p - self.onehot).flatten(1, 2) / self.n
        slopes = residual @ self.z
        slopes = slopes if self.axes is None else slopes @ self.axes
        slopes = torch.cat([slopes, residual.sum(dim=2, keepdim=True)], dim=2)
        return slopes.unflatten(1, p.shape[1:3])


def _each(values: Tensor) -> Tensor:
    """[tap, penalty] beside [tap, penalty, class, axis or row]."""
    return values[..., None, None]


def _two_loop(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], curvature: Tensor) -> Tensor:
    """The inverse Hessian times a gradient, by pairs of steps.

    Source: Nocedal and Wright 2006, algorithm 7.4, equation 7.20.
    """
    shares: list[Tensor] = []
    q = gradient
    for step, change, inverse in reversed(pairs):
        shares.append(inverse * _inner(step, q))
        q = q - shares[-1][..., None, None] * change
    q = q / curvature
    if pairs:
        step, change, inverse = pairs[-1]
        scale = inverse * _inner(change, change / curvature)
        q = q / torch.where(scale > 0, scale, 1.0)[..., None, None]
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        q = q + (share - inverse * _inner(change, q))[..., None, None] * step
    return q


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each tap's and penalty's problem, [tap, penalty]."""
    return (a * b).sum(dim=(2, 3))


Judge = Callable[[LogisticFits], tuple[Tensor, Tensor]]
"""Fits [tap, penalty] -> whether they are right, and losses, [tap, penalty, row], of rows that they were not fitted on."""
Start = tuple[LogisticRows, LogisticFits]
"""Rows to fit on, and fits [tap, 1] to start from."""


def choose_logistic(
    x: Tensor, labels: np.ndarray, val: Tensor, val_labels: np.ndarray, penalties: Sequence[float] = LOGISTIC_PENALTIES
) -> tuple[np.ndarray, LogisticFits]:
    """The penalty [tap] that val chooses (see `_best`) and its fits [tap, 1] on x; labels are codes from 0.

    x [tap, row, feature] and val [tap, val row, feature]. On a GPU all are fitted together. On a CPU the path runs from
    strong to weak (the slowest to fit) and ends for a tap where neither accuracy nor loss gets better twice in a row, or
    once where the loss is worse by more than two standard errors of the paired difference.
    """
    order = sorted(penalties, reverse=True)
    fits, right, losses = _path(
        LogisticRows(x, labels), np.tile(order, (len(x), 1)), lambda fits: fits.judge(val, val_labels)
    )
    best = _best(right, losses)
    return np.array(order)[best.cpu().numpy()], fits.at(best)


@dataclass(frozen=True)
class OutOfFold:
    """The penalty [tap] that losses out of fold choose.

    `wrong` [tap, row] are the rows left out about which its fits are wrong; `start` is what its fits on all rows start
    from.
    """

    penalty: np.ndarray
    wrong: np.ndarray
    start: Start


def choose_out_of_fold(
    x: Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    penalties: Sequence[float] = LOGISTIC_PENALTIES,
    given: np.ndarray | None = None,
    like: LogisticFits | None = None,
) -> OutOfFold:
    """The penalty by rows left out, `fold` [row] after fold; x [tap, row, feature], labels codes from 0.

    Of penalties that are `given` [tap] only what is wrong; `like`: see `LogisticRows`. The whole path as of `choose_logistic` without the first
    fold, and without the others the penalty that is best there and its neighbours. These never start from fits that have seen the fold: weak penalties would not forget it. A row
    whose class only its own fold shows is wrong at every penalty.
    """
    order = sorted(penalties, reverse=True)
    rows = LogisticRows(x, labels, like=like)

    def without(number: int) -> tuple[LogisticRows, Judge]:
        out = fold == number
        present = np.unique(labels[~out])
        codes = np.minimum(np.searchsorted(present, labels), len(present) - 1)
        known = torch.as_tensor((present[codes] == labels)[out], device=x.device)

        def judge(fits: LogisticFits) -> tuple[Tensor, Tensor]:
            right, losses = fits.judge(x[:, out], codes[out])
            return right & known, losses * known

        return rows.only(torch.as_tensor(~out, device=x.device), codes[~out]), judge

    taps, first = torch.arange(len(x), device=x.device), fold == 0
    part, judge = without(0)
    path = np.tile(order, (len(x), 1)) if given is None else given[:, None]
    fits, of_first, losses_of_first = _path(part, path, judge)
    best = _best(of_first, losses_of_first)
    near = torch.stack([best - 1, best, best + 1], dim=1).clamp(0, of_first.shape[1] - 1).unique(dim=1)
    right = torch.zeros((*near.shape, len(labels)), dtype=torch.bool, device=x.device)
    losses = x.new_zeros(right.shape)
    right[:, :, first], losses[:, :, first] = (each[taps[:, None], near] for each in (of_first, losses_of_first))
    grid = path[taps[:, None].cpu().numpy(), near.cpu().numpy()]
    _, *others = np.unique(fold)
    for number in others:
        part, judge = without(number)
        _, right[:, :, fold == number], losses[:, :, fold == number] = _path(part, grid, judge, whole=True)
    best = _best(right, losses)
    penalty = grid[np.arange(len(x)), best.cpu().numpy()]
    return OutOfFold(penalty, ~right[taps, best].cpu().numpy(), (rows, fits.at(near[taps, best])))


def start_of_last(x: Tensor, labels: np.ndarray, val: np.ndarray, penalty: np.ndarray, whole: bool) -> Start:
    """The start of the last fits of train and val once penalties [tap] are chosen.

    These are the fits on train, through stronger penalties.

    x [tap, fit row, feature], labels [fit row], `val` bool [fit row]. `whole`: features are standardised with val
    throughout, as where losses out of fold choose.
    """
    rows = LogisticRows(x, labels) if whole else None
    train = torch.as_tensor(~val, device=x.device)
    part = rows.only(train, labels[~val]) if rows else LogisticRows(x[:, ~val], labels[~val])
    fits = None
    for stronger in sorted(LOGISTIC_PENALTIES, reverse=True):
        if stronger >= penalty.max():
            fits = part.fit(np.full((len(x), 1), stronger), decrease=RANKING, start=fits)
    assert fits is not None
    return rows or LogisticRows(x, labels, like=fits), fits


def last_fits(start: Start, penalty: np.ndarray, decrease: float = FINAL) -> LogisticFits:
    """Fits [tap, 1] at a penalty [tap], as far as what is read on test goes."""
    rows, fits = start
    return rows.fit(penalty[:, None], decrease=decrease, start=fits)


def _path(
    rows: LogisticRows, grid: np.ndarray, judge: Judge, whole: bool = False
) -> tuple[LogisticFits, Tensor, Tensor]:
    """Fits of penalties [tap, penalty], strong to weak, and what `judge` says of them.

    They are made together on a GPU, and on a CPU one by one until (unless `whole`) they get no better at any tap: what a
    tap alone would not have tried is wrong.
    """
    if rows.mean.is_cuda:
        fits = rows.fit(grid, decrease=RANKING)
        return fits, *judge(fits)
    tried, judged = list[LogisticFits](), list[tuple[Tensor, Tensor]]()
    taps = torch.arange(len(grid), device=rows.mean.device)
    worse, ended = torch.zeros_like(taps), torch.zeros_like(taps, dtype=torch.bool)
    for penalty in grid.T:
        tried.append(rows.fit(penalty[:, None], decrease=RANKING, start=tried[-1] if tried else None))
        right, losses = judge(tried[-1])
        over = ended
        if judged:
            before, lost_before = (torch.cat(parts, dim=1) for parts in zip(*judged, strict=True))
            lost = losses[:, 0] - lost_before[taps, lost_before.mean(dim=2).argmin(dim=1)]
            better = (lost.mean(dim=1) < 0) | (right.sum(dim=2)[:, 0] > before.sum(dim=2).amax(dim=1))
            worse = torch.where(better, 0, worse + 1)
            # Of one row it is not known, and nothing is larger than that.
            error = (lost.var(dim=1, correction=0) / (lost.shape[1] - 1)).sqrt()
            ended = over | (worse == 2) | (worse > 0) & (lost.mean(dim=1) > 2 * error)
        judged.append((right & ~over[:, None, None], losses.masked_fill(over[:, None, None], torch.inf)))
        if not whole and bool(ended.all()):
            break
        ended = ended & (not whole)
    right, losses = (torch.cat(parts, dim=1) for parts in zip(*judged, strict=True))
    return LogisticFits.beside(tried), right, losses


def _best(right: Tensor, losses: Tensor) -> Tensor:
    """Index [tap] of the penalty of least loss, among those within half a standard error of the best.

    `losses` are [tap, penalty, row].
    """
    right = right.double()
    top = right.mean(dim=2).argmax(dim=1)
    short = right[torch.arange(len(right), device=right.device), top][:, None] - right
    error = short.std(dim=2, correction=0) / right.shape[2] ** 0.5
    near = short.mean(dim=2) <= error / 2
    return losses.mean(dim=2).masked_fill(~near, torch.inf).argmin(dim=1)

"""Agreement of several views of the same samples, and the matrix-based entropies that one of its measures is made of.

In a run, samples of one group are views of one thing (frames of a video).
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.contract import Activations
from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.arrays import (
    as_tensor,
    centre,
    eigvalsh,
    median,
    pair,
    samples,
    scale_of,
    svdvals,
    token_samples,
    triangle,
)
from diagnostics.measures.base import Case, column, cosine_axes, define, normal
from diagnostics.measures.geometry.pooled import PooledMeasure, TapNumbers
from diagnostics.measures.statistics import bootstrap_mean_interval, group_blocks, jackknife_interval

MOST_DIME_SAMPLES = 4096
"""A kernel matrix of so many samples is decomposed once for each permutation."""
EXACT = 5
"""Samples up to which `dime` takes all permutations."""


def matrix_entropy(tokens: Any, *, order: float = 1.0, normalised: bool = False) -> Any:
    """Matrix (prompt) entropy of each sample over its tokens, in nats (Skean et al. 2025, 2502.02013).

    S(K / tr K) of the Gram matrix K of a sample's tokens, **uncentred**: -sum p log p of its eigenvalues at order 1,
    log(sum p^order) / (1 - order) otherwise. From the smaller of the token and the feature Gram matrix, whose other
    eigenvalues are 0; negative entries of K stay as they are (set to 0, the two would disagree).

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature].
    order: of the Renyi entropy, above 0.
    normalised: divided by its largest value, log min(token, feature), for comparing other numbers of tokens.

    Returns [sample] as an array, or a float for one sample: from 0 (tokens on one line) to log min(token, feature). NaN
    where all tokens are 0, and where the largest value is 0.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import matrix_entropy
        >>> round(matrix_entropy(np.eye(16)), 4)  # 16 orthonormal tokens: ln 16
        2.7726
        >>> matrix_entropy([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0]])  # tokens on one line
        0.0
    """
    if not 0 < order < math.inf:
        raise DiagnosticsError(f"order is {order}: give a number above 0.", code="bad-value")
    x, single = token_samples(tokens, "tokens")
    most = math.log(min(x.shape[1:]))
    # The scale leaves first: squares of large or small numbers must neither overflow nor vanish.
    x = x / x.abs().amax(dim=(1, 2), keepdim=True)
    entropy = x.new_full((len(x),), torch.nan)
    known = x.isfinite().all(dim=2).all(dim=1)
    if bool(known.any()):
        kernels = x[known] @ x[known].mT if x.shape[1] <= x.shape[2] else x[known].mT @ x[known]
        entropy[known] = _entropies(kernels, order)
    if normalised:
        entropy = entropy / most if most > 0 else torch.full_like(entropy, torch.nan)
    return float(entropy[0]) if single else entropy.cpu().numpy()


def dime(
    x: Any, y: Any, *, bandwidth: float | None = None, order: float = 1.0, permutations: int = 20, seed: int = 0
) -> float:
    """DiME (Skean et al. 2023, 2301.08164): how much more entropy two views have jointly once their pairing is broken.

    The mean over permutations P of S(Kx o P Ky P^T) - S(Kx o Ky), in nats, with Gaussian kernels
    exp(-|a - b|^2 / (2 bandwidth^2)) and S the entropy of the eigenvalues at trace 1 (`matrix_entropy`). 0 for views
    that share nothing, up to log n.

    Parameters
    ----------
    x, y: [sample, feature], two views of the same samples in the same order.
    bandwidth: of both kernels; None: each view's median distance between distinct samples.
    order: of the entropy.
    permutations: how many are drawn with `seed`; with at most 5 samples all n! are taken instead, as the mean over all
        is what is meant.

    NaN where a view has no two samples that differ by more than rounding and no bandwidth is given. At most 4,096
    samples: each permutation takes the eigenvalues of an n x n matrix.

    Examples:
        Both views hold two pairs of equal samples: (2/3) ln 2, the mean over all 24 permutations.

        >>> from diagnostics.measures.geometry import dime
        >>> pairs = [[0.0], [0.0], [100.0], [100.0]]
        >>> round(dime(pairs, pairs, bandwidth=1.0), 4)
        0.4621
    """
    refuse_values(
        (
            bandwidth is not None and not bandwidth > 0,
            f"bandwidth is {bandwidth}: give a number above 0, or None for the median distance.",
        ),
        (
            permutations < 1 or not 0 < order < math.inf,
            f"permutations is {permutations} and order {order}: give at least 1, and above 0.",
        ),
    )
    a, b = pair(x, y, 2)
    n = len(a)
    if n > MOST_DIME_SAMPLES:
        raise DiagnosticsError(
            f"x has shape {tuple(a.shape)}: give at most {MOST_DIME_SAMPLES} samples.", code="too-large"
        )
    first, second = _gaussian(a, bandwidth), _gaussian(b, bandwidth)
    if first is None or second is None:
        return float("nan")
    together = float(_entropies((first * second)[None], order)[0])
    draws = torch.Generator(device="cpu").manual_seed(seed)
    orders = [torch.randperm(n, generator=draws, device="cpu") for _ in range(permutations)]
    if n <= EXACT:
        orders = [torch.tensor(every, device="cpu") for every in itertools.permutations(range(n))]
    broken = [float(_entropies((first * second[p][:, p])[None], order)[0]) for p in orders]
    return sum(broken) / len(broken) - together


def _gaussian(x: Tensor, bandwidth: float | None) -> Tensor | None:
    scale = scale_of(float(x.abs().amax()))
    gaps = torch.cdist(x * scale, x * scale, compute_mode="donot_use_mm_for_euclid_dist")
    if bandwidth is None:
        between = gaps[gaps > 0]
        if not len(between) or not bool(centre(x).any()):
            return None
        bandwidth = float(median(between))
    else:
        bandwidth *= scale
    return (gaps / bandwidth).square().mul_(-0.5).exp_()


def _entropies(kernels: Tensor, order: float) -> Tensor:
    """Entropy of the eigenvalues of each of [sample, m, m], scaled to trace 1."""
    values = eigvalsh(kernels)
    # A kernel's eigenvalues are never below 0; what is there, or as small, is rounding error.
    least = values[:, -1:] * kernels.shape[1] * torch.finfo(values.dtype).eps
    values = values * (values > least)
    p = values / values.sum(dim=1, keepdim=True)
    if order == 1:
        return torch.special.entr(p).sum(dim=1)
    # The largest leaves the sum first: its power may vanish where the order is large.
    largest = p.amax(dim=1)
    return (order * largest.log() + (p / largest[:, None]).pow(order).sum(dim=1).log()) / (1 - order)


DELTA = 1e-4
BLOCK_ELEMENTS = 2**22
"""Largest array held for a block, in numbers: 32 MiB."""


def lidar(views: Any, *, delta: float = DELTA) -> float:
    """LiDAR (Thilak et al. 2023, 2312.04000): exp of the entropy of the eigenvalues of between over within.

    The eigenvalues lambda of Sw^{-1/2} Sb Sw^{-1/2}, not squared, as p = lambda / sum(lambda) + 1e-7, not normalised
    again. Sb is the covariance of the class means over classes (divided by their number), Sw the mean over classes of
    the covariance of their views plus delta times the identity. At most about the number of classes less one, and of
    features.

    Parameters
    ----------
    views: [class, view, feature]: the samples as classes, at least 2 of them, with at least 2 views each.
    delta: weight of the identity, above 0. It has the units of a variance, so the value changes with the features'
    scale
        once Sw is not large beside it; a shift or a rotation changes nothing.

    NaN where all classes have one mean.

    Examples:
        From rows [sample, feature] with groups [sample], equally many rows in each group. Three classes at equal
        distances span two dimensions.

        >>> import numpy as np
        >>> from diagnostics.measures.geometry import lidar
        >>> rows = np.eye(3)[[0, 1, 2, 0, 1, 2]]
        >>> groups = np.array(["a", "b", "c", "a", "b", "c"])
        >>> views = np.stack([rows[groups == group] for group in np.unique(groups)])
        >>> views.shape
        (3, 2, 3)
        >>> round(lidar(views), 3)
        2.0
    """
    x = as_tensor(views)
    shape = tuple(x.shape)
    if x.ndim != 3 or shape[0] < 2 or shape[1] < 2 or shape[2] == 0:
        raise DiagnosticsError(
            f"views has shape {shape}: give [class, view, feature], at least 2 classes of 2 views.", code="bad-shape"
        )
    classes = torch.arange(shape[0], device=x.device).repeat_interleave(shape[1])
    return lidar_of_classes(samples(x.flatten(0, 1), "views"), classes, delta)


def lidar_of_classes(x: Tensor, classes: Tensor, delta: float = DELTA) -> float:
    """`lidar` of [sample, feature] with classes 0, 1, ... [sample] of any size, all weighing the same."""
    if not delta > 0:
        raise DiagnosticsError(f"delta is {delta}: give a number above 0.", code="bad-value")
    x = centre(x)
    count = torch.bincount(classes).to(x.dtype)
    means = x.new_zeros((len(count), x.shape[1])).index_add_(0, classes, x) / count[:, None]
    between = (means - means.mean(dim=0)) / len(count) ** 0.5
    within = (x - means[classes]) / (len(count) * count)[classes].sqrt()[:, None]
    # The root of Sw without Sw: squared, delta would be lost beside features a million times its root.
    root = delta**0.5 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    factor = triangle(torch.cat([within, root]))
    sizes = factor.diagonal().abs()
    # Three digits at least must be left.
    if not bool(sizes.min() > 1e3 * sizes.max() * torch.finfo(x.dtype).eps * len(x)):
        raise DiagnosticsError(
            f"Features of shape {tuple(x.shape)} are so large that delta {delta:g} vanishes beside them: scale them "
            f"down or raise delta.",
            code="bad-value",
        )
    whitened = torch.linalg.solve_triangular(factor.T, between.T, upper=False)
    # A common mean leaves rounding error, which is no difference between classes.
    if not bool(between.norm() > 1e-14 * x.abs().max() * x.shape[1] ** 0.5):
        return float("nan")
    # Of the features' eigenvalues those beyond the classes are 0, and add their 1e-7 as the others do.
    eigenvalues = x.new_zeros(x.shape[1])
    known = svdvals(whitened).square()
    eigenvalues[: len(known)] = known
    return float(torch.special.entr(eigenvalues / eigenvalues.sum() + 1e-7).sum().exp())


def alignment(x: Any, y: Any, *, power: float = 2.0) -> float:
    """Alignment (Wang and Isola 2020, 2005.10242): mean |u_i - v_i|^power over pairs of views.

    u and v are the rows of x and y [sample, feature], two views of the same samples, at length 1; not centred. 0 where
    views are alike; with power 2, 2 where they are at right angles. Pairs in which a row has length zero are left out;
    NaN where none is left.

    Examples:
        >>> from diagnostics.measures.geometry import alignment
        >>> alignment([[1.0, 0.0]], [[5.0, 0.0]])  # one direction: lengths do not count
        0.0
        >>> alignment([[1.0, 0.0]], [[0.0, 1.0]])  # at right angles
        2.0
    """
    if not power > 0:
        raise DiagnosticsError(f"power is {power}: give a number above 0.", code="bad-value")
    u, v, _ = directions_of_pairs(*_features_alike(x, y))
    return float(distances(u, v, power).mean()) if len(u) else float("nan")


def infonce(x: Any, y: Any, *, temperature: float = 0.1) -> float:
    """InfoNCE in SimCLR's form (NT-Xent; Chen et al. 2020, 2002.05709, eq. 1), in nats, averaged over both views.

    -log of the softmax of cosine / temperature for a view's partner among it and the 2N - 2 views of the other samples,
    so log(2N - 1) where all are alike: the value depends on N. Not centred.

    Parameters
    ----------
    x, y: [sample, feature], two views of the same samples; at least 2. Pairs in which a row has length zero are left
    out;
        NaN where fewer than 2 are left.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import infonce
        >>> round(infonce(np.eye(4), np.eye(4)), 6)  # log(1 + 6 exp(-10)), N = 4
        0.000272
        >>> round(infonce(np.ones((8, 2)), np.ones((8, 2))), 4)  # log(15), N = 8
        2.7081
    """
    if not temperature > 0:
        raise DiagnosticsError(f"temperature is {temperature}: give a number above 0.", code="bad-value")
    u, v, _ = directions_of_pairs(*_features_alike(x, y, 2))
    return float(losses(u, v, temperature).mean()) if len(u) >= 2 else float("nan")


def distances(u: Tensor, v: Tensor, power: float) -> Tensor:
    """|u_i - v_i|^power of paired directions, [sample]."""
    return (u - v).square().sum(dim=1).pow(power / 2)


def losses(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    """NT-Xent of paired directions, [sample], the mean over a pair's two views."""
    both = torch.cat([u, v])
    n = len(u)
    out = torch.empty(2 * n, dtype=u.dtype, device=u.device)
    step = max(1, BLOCK_ELEMENTS // len(both))
    for start in range(0, 2 * n, step):
        block = both[start : start + step]
        own = torch.arange(len(block), device=u.device)
        logits = (block @ both.T).div_(temperature)
        logits[own, start + own] = -torch.inf
        partner = logits[own, (start + own + n) % (2 * n)]
        out[start : start + step] = logits.logsumexp(dim=1) - partner
    return (out[:n] + out[n:]) / 2


def _features_alike(x: Any, y: Any, least: int = 1) -> tuple[Tensor, Tensor]:
    first, second = pair(x, y, least)
    if first.shape[1] != second.shape[1]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise DiagnosticsError(f"x and y have shapes {shapes}: give both with the same features.", code="bad-shape")
    return first, second


def directions_of_pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both rows of each pair at length 1, and which pairs have two directions."""
    sizes = x.abs().amax(dim=1), y.abs().amax(dim=1)
    kept = (sizes[0] > 0) & (sizes[1] > 0)
    x, y = (rows[kept] / size[kept, None] for rows, size in zip((x, y), sizes, strict=True))
    return x / x.square().sum(dim=1).sqrt()[:, None], y / y.square().sum(dim=1).sqrt()[:, None], kept


def cosine_of_others(u: Tensor, v: Tensor) -> float:
    """Mean cosine of u_i and v_j over i other than j, of directions [sample, feature]."""
    return float(u.sum(dim=0) @ v.sum(dim=0) - (u * v).sum()) / (len(u) * (len(u) - 1))


THILAK = "Thilak et al. 2023 (2312.04000)"
WANG = "Wang and Isola 2020 (2005.10242)"
CHEN = "Chen et al. 2020 (2002.05709)"
SKEAN = "Skean et al. 2023 (2301.08164)"
BLOCKS = 10
TEMPERATURE = 0.1


class _Views(PooledMeasure):
    """A measure of groups with at least two samples; one sample a group is no view of anything."""

    standard = False
    groups_needed: ClassVar[int] = 2

    def rows(self, activations: Activations) -> np.ndarray:
        _, of_row, sizes = np.unique(activations.groups.astype(str), return_inverse=True, return_counts=True)
        if (count := int((sizes >= 2).sum())) < self.groups_needed:
            raise DiagnosticsError(
                f"{self.name} compares samples of one group, and {count} of {len(sizes)} groups have two samples or "
                f"more: it needs {self.groups_needed}; give the dataset `groups` (video, subject, scene) whose samples are "
                f"views of one thing.",
                code="too-few",
            )
        return np.flatnonzero(sizes[of_row] >= 2)


class _Pairs(_Views):
    """A measure of the first two samples of each group: all first ones, then all second ones."""

    most_pairs: ClassVar[int] = 1024

    def rows(self, activations: Activations) -> np.ndarray:
        by_group: dict[str, list[int]] = {}
        for row in super().rows(activations):
            by_group.setdefault(str(activations.groups[row]), []).append(int(row))
        groups = list(by_group.values())[: self.most_pairs]
        return np.array([rows[0] for rows in groups] + [rows[1] for rows in groups])

    def beside(self, n: int) -> str:
        return f"{n} samples: the first two of each of {n // 2} groups"

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        half = len(x) // 2
        return self.of_pairs(x[:half], x[half:], groups[:half], seed)

    @abstractmethod
    def of_pairs(self, x: Tensor, y: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        """The numbers of one tap from two views [pair, feature] of as many groups."""


def _simplex(classes: int) -> np.ndarray:
    """[class, view, feature]: equally far apart means, views of isotropic spread around them."""
    spread = np.concatenate([np.eye(classes), -np.eye(classes)]) * 0.1
    return np.eye(classes)[:, None] * 10 + spread[None]


def _between(*eigenvalues: float) -> np.ndarray:
    """Views [class, view, feature] with these eigenvalues between classes, and an isotropic spread within them."""
    d = len(eigenvalues)
    means = 100 * cosine_axes(16, d) * np.sqrt(eigenvalues)
    return means[:, None] + np.concatenate([np.eye(d), -np.eye(d)])


def _crossed() -> np.ndarray:
    """Classes with means (2, 1), (2, -1), (-2, 1), (-2, -1), [class, view, feature].

    The views lie 1 to either side of them along the first axis.
    """
    means = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
    return means[:, None] + np.array([[1.0, 0.0], [-1.0, 0.0]])


class Lidar(_Views):
    name = "lidar"
    answers = "In how many directions do groups differ by more than their samples do?"
    source = THILAK
    invariant_to = ("rotation", "shift")
    functional = (
        f"LiDAR: exp of the entropy of lambda / sum(lambda) + 1e-7, eigenvalues of the between-group covariance "
        f"whitened by the within-group one plus {DELTA:g}; groups with at least two samples, all weighing the same"
    )
    centring = "group means centred over groups, samples over their group"
    interval = f"95 % delete-a-group jackknife on the logarithm, at most {BLOCKS} blocks of groups"
    about: ClassVar[Mapping[str, str]] = {
        "line_shuffled": "the value once samples are dealt to the groups at random",
        "line_ceiling": "the smaller of groups less one and features",
    }
    groups_needed = 3
    known_answers = (
        # 2.2763 of the squared eigenvalues.
        Case("eigenvalues (4, 2, 1, 1): 2^1.75", 3.363586, THILAK, lambda: lidar(_between(4, 2, 1, 1)), 1e-3),
        *(
            Case(f"{c} equally distant means: c - 1", c - 1, THILAK, lambda c=c: lidar(_simplex(c)), 1e-3)
            for c in (3, 6)
        ),
        Case(
            "between (4, 1), within (1, 0), delta 1: eigenvalues (2, 1)",
            3 / 2 ** (2 / 3),
            THILAK,
            lambda: lidar(_crossed(), delta=1.0),
            2e-6,
        ),
    )

    def rows(self, activations: Activations) -> np.ndarray:
        return super().rows(activations)[: self.most_rows]

    def beside(self, n: int) -> str:
        return f"{n} samples of groups with two samples or more"

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        # A group whose other samples lie beyond the most rows has no spread of its own here.
        _, of_row, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
        kept = sizes[of_row] >= 2
        x, groups = x[torch.from_numpy(np.flatnonzero(kept)).to(x.device)], groups[kept]
        count = int((sizes >= 2).sum())
        score = _lidar(x, groups)
        shuffled = groups[np.random.default_rng(seed).permutation(len(groups))]
        lines = {"line_shuffled": _lidar(x, shuffled), "line_ceiling": float(min(count - 1, x.shape[1]))}
        if math.isnan(score):
            return TapNumbers(lines, "all groups have one mean")
        ends = _jackknife(
            lambda rows: _lidar(x[rows], groups[rows.cpu().numpy()]), score, groups, x, seed, logarithm=True
        )
        return TapNumbers({"score": score, "low": ends[0], "high": ends[1], **lines})


def _lidar(x: Tensor, groups: np.ndarray) -> float:
    _, classes = np.unique(groups.astype(str), return_inverse=True)
    return lidar_of_classes(x, torch.from_numpy(classes).to(x.device))


def _jackknife(
    value: Callable[[Tensor], float], score: float, groups: np.ndarray, x: Tensor, seed: int, *, logarithm: bool
) -> tuple[float, float]:
    """The interval of a score from its values without one block of groups each.

    The rows that a block leaves are bool [row], where x lies.
    """
    blocks = group_blocks(groups, BLOCKS, seed)
    numbers, sizes = np.unique(blocks, return_counts=True)
    left_out = [value(torch.from_numpy(blocks != number).to(x.device)) for number in numbers]
    return jackknife_interval(score, np.array(left_out), sizes, logarithm=logarithm)


class Alignment(_Pairs):
    name = "alignment"
    answers = "How near are two samples of a group to each other?"
    source = WANG
    invariant_to = ("rotation", "each sample's own scale")
    functional = "alignment: mean squared distance of two samples of a group, at length 1"
    centring = "none; samples scaled to length 1"
    interval = "95 % bootstrap over groups"
    about: ClassVar[Mapping[str, str]] = {"line_unpaired": "the same for samples of different groups"}
    known_answers = (
        Case("identical views", 0, WANG, lambda: alignment(normal(20, 4, seed=2), normal(20, 4, seed=2))),
        Case("orthogonal views", 2, WANG, lambda: alignment(np.eye(6)[:3], np.eye(6)[3:])),
    )

    def of_pairs(self, x: Tensor, y: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        u, v, kept = directions_of_pairs(x, y)
        if len(u) < 2:
            return TapNumbers({}, f"{len(u)} of {len(x)} pairs have two samples of length above zero")
        apart = distances(u, v, 2.0).cpu().numpy()
        low, high = bootstrap_mean_interval(apart[:, None], groups[kept.cpu().numpy()], seed)
        others = 2 - 2 * cosine_of_others(u, v)
        numbers = {"score": float(apart.mean()), "low": float(low[0]), "high": float(high[0]), "line_unpaired": others}
        lost = len(x) - len(u)
        return TapNumbers(numbers, f"{lost} of {len(x)} pairs have a sample of length zero" if lost else "")


class _Recomputed(_Pairs):
    """A function of all pairs at once, with an interval from leaving blocks of groups out."""

    interval = f"95 % delete-a-group jackknife, at most {BLOCKS} blocks of groups"
    groups_needed = 3
    lacks: ClassVar[str]
    """Why there is no value."""

    @abstractmethod
    def value(self, x: Tensor, y: Tensor, seed: int) -> float:
        """From two views [pair, feature]."""

    @abstractmethod
    def lines(self, x: Tensor, y: Tensor, score: float) -> dict[str, float]:
        """Reference lines."""

    def of_pairs(self, x: Tensor, y: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        score = self.value(x, y, seed)
        lines = self.lines(x, y, score)
        if math.isnan(score):
            return TapNumbers(lines, self.lacks)
        ends = _jackknife(lambda rows: self.value(x[rows], y[rows], seed), score, groups, x, seed, logarithm=False)
        return TapNumbers({"score": score, "low": ends[0], "high": ends[1], **lines})


def _infonce_lines(self: _Recomputed, x: Tensor, y: Tensor, score: float) -> dict[str, float]:
    """Reference lines of InfoNCE."""
    u, v, _ = directions_of_pairs(x, y)
    if len(u) < 2:
        return {}
    # A view meets the same others whichever of them is its partner, so that only the partner's cosine changes.
    gained = (float((u * v).sum()) / len(u) - cosine_of_others(u, v)) / TEMPERATURE
    return {"line_unpaired": score + gained, "line_alike": math.log(2 * len(u) - 1)}


InfoNce = define(
    _Recomputed, "InfoNce",
    name="infonce",
    answers="Does a sample find its partner among the other groups' samples?",
    source=f"{CHEN}, eq. 1",
    invariant_to=("rotation", "each sample's own scale"),
    functional=f"InfoNCE (NT-Xent), in nats, cosine at temperature {TEMPERATURE:g}, 2N - 2 negatives for N groups",
    centring="none; samples scaled to length 1",
    about={
        "line_unpaired": "the mean once each sample is given any other group's as partner",
        "line_alike": "log(2N - 1), all samples alike",
    },
    lacks="fewer than two pairs have two samples of length above zero",
    known_answers=(
        Case("4 orthonormal samples, temperature 0.1", 0.000272, f"SimCLR, {CHEN}", lambda: infonce(np.eye(4), np.eye(4), temperature=0.1)),
        Case("8 orthonormal samples, temperature 0.5", 1.062879, f"SimCLR, {CHEN}", lambda: infonce(np.eye(8), np.eye(8), temperature=0.5)),
        Case("8 equal samples: ln 15", 2.708050, f"SimCLR, {CHEN}", lambda: infonce(np.ones((8, 3)), np.ones((8, 3)))),
    ),
    value=lambda self, x, y, seed: infonce(x, y, temperature=TEMPERATURE),
    lines=_infonce_lines,
)  # fmt: skip


Dime = define(
    _Recomputed,
    "Dime",
    name="dime",
    answers="How much do two samples of a group share?",
    source=SKEAN,
    invariant_to=("rotation", "scale", "shift"),
    functional=(
        "DiME, in nats: mean joint matrix-based entropy of order 1 over 20 permutations of the second samples, minus "
        "that of the pairs; Gaussian kernels, bandwidth the median distance"
    ),
    centring="none needed: distances between samples",
    most_pairs=256,
    lacks="all first or all second samples are equal",
    about={"line_unpaired": "0, views that share nothing"},
    known_answers=(
        Case(
            "two pairs of identical samples, all 24 permutations: 2/3 ln 2",
            0.462098,
            SKEAN,
            lambda: dime(column(0, 0, 1e3, 1e3), column(0, 0, 1e3, 1e3), bandwidth=1.0),
        ),
    ),
    value=lambda self, x, y, seed: dime(x, y, seed=seed),
    lines=lambda self, x, y, score: {"line_unpaired": 0.0},
)

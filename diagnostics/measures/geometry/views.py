"""Agreement of several views of the same samples: LiDAR, alignment and InfoNCE."""

from typing import Any

import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor, centre, pair, samples
from diagnostics.measures.decompositions import svdvals, triangle

DELTA = 1e-4
BLOCK_ELEMENTS = 2**22
"""Largest array held for a block, in numbers: 32 MiB."""


def lidar(views: Any, *, delta: float = DELTA) -> float:
    """LiDAR (Thilak et al. 2023, 2312.04000): exp of the entropy of the eigenvalues of between over within.

    The eigenvalues lambda of Sw^{-1/2} Sb Sw^{-1/2}, not squared, as p = lambda / sum(lambda) + 1e-7, not normalised again.
    Sb is the covariance of the class means over classes (divided by their number), Sw the mean over classes of the
    covariance of their views plus delta times the identity. At most about the number of classes less one, and of features.

    Parameters
    ----------
    views: [class, view, feature]: the samples as classes, at least 2 of them, with at least 2 views each.
    delta: weight of the identity, above 0. It has the units of a variance, so the value changes with the features' scale
        once Sw is not large beside it; a shift or a rotation changes nothing.

    NaN where all classes have one mean.

    Examples:
        From rows [sample, feature] with groups [sample], equally many rows in each group. Three classes at equal distances
        span two dimensions.

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
        raise DiagnosticsError(f"views has shape {shape}: give [class, view, feature], at least 2 classes of 2 views.")
    classes = torch.arange(shape[0], device=x.device).repeat_interleave(shape[1])
    return lidar_of_classes(samples(x.flatten(0, 1), "views"), classes, delta)


def lidar_of_classes(x: Tensor, classes: Tensor, delta: float = DELTA) -> float:
    """`lidar` of [sample, feature] with classes 0, 1, ... [sample] of any size, all weighing the same."""
    if not delta > 0:
        raise DiagnosticsError(f"delta is {delta}: give a number above 0.")
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
            f"Features of shape {tuple(x.shape)} are so large that delta {delta:g} vanishes beside them: scale them down or "
            "raise delta."
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
    views are alike; with power 2, 2 where they are at right angles. Pairs in which a row has length zero are left out; NaN
    where none is left.

    Examples:
        >>> from diagnostics.measures.geometry import alignment
        >>> alignment([[1.0, 0.0]], [[5.0, 0.0]])  # one direction: lengths do not count
        0.0
        >>> alignment([[1.0, 0.0]], [[0.0, 1.0]])  # at right angles
        2.0
    """
    if not power > 0:
        raise DiagnosticsError(f"power is {power}: give a number above 0.")
    u, v, _ = paired_directions(*_features_alike(x, y))
    return float(distances(u, v, power).mean()) if len(u) else float("nan")


def infonce(x: Any, y: Any, *, temperature: float = 0.1) -> float:
    """InfoNCE in SimCLR's form (NT-Xent; Chen et al. 2020, 2002.05709, eq. 1), in nats, averaged over both views.

    -log of the softmax of cosine / temperature for a view's partner among it and the 2N - 2 views of the other samples, so
    log(2N - 1) where all are alike: the value depends on N. Not centred.

    Parameters
    ----------
    x, y: [sample, feature], two views of the same samples; at least 2. Pairs in which a row has length zero are left out;
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
        raise DiagnosticsError(f"temperature is {temperature}: give a number above 0.")
    u, v, _ = paired_directions(*_features_alike(x, y, 2))
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
        raise DiagnosticsError(f"x and y have shapes {shapes}: give both with the same features.")
    return first, second


def paired_directions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both rows of each pair at length 1, and which pairs have two directions."""
    sizes = x.abs().amax(dim=1), y.abs().amax(dim=1)
    kept = (sizes[0] > 0) & (sizes[1] > 0)
    x, y = (rows[kept] / size[kept, None] for rows, size in zip((x, y), sizes, strict=True))
    return x / x.square().sum(dim=1).sqrt()[:, None], y / y.square().sum(dim=1).sqrt()[:, None], kept


def unpaired_cosine(u: Tensor, v: Tensor) -> float:
    """Mean cosine of u_i and v_j over i other than j, of directions [sample, feature]."""
    return float(u.sum(dim=0) @ v.sum(dim=0) - (u * v).sum()) / (len(u) * (len(u) - 1))

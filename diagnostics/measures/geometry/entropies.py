"""Matrix-based entropies: the entropy of the eigenvalues of a kernel matrix scaled to trace 1."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import centre, median, pair, scale_of, token_samples
from diagnostics.measures.decompositions import eigvalsh

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
        raise DiagnosticsError(f"order is {order}: give a number above 0.")
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
    exp(-|a - b|^2 / (2 bandwidth^2)) and S the entropy of the eigenvalues at trace 1 (`matrix_entropy`). 0 for views that
    share nothing, up to log n.

    Parameters
    ----------
    x, y: [sample, feature], two views of the same samples in the same order.
    bandwidth: of both kernels; None: each view's median distance between distinct samples.
    order: of the entropy.
    permutations: how many are drawn with `seed`; with at most 5 samples all n! are taken instead, as the mean over all
        is what is meant.

    NaN where a view has no two samples that differ by more than rounding and no bandwidth is given. At most 4,096 samples: each permutation takes
    the eigenvalues of an n x n matrix.

    Examples:
        Both views hold two pairs of equal samples: (2/3) ln 2, the mean over all 24 permutations.

        >>> from diagnostics.measures.geometry import dime
        >>> pairs = [[0.0], [0.0], [100.0], [100.0]]
        >>> round(dime(pairs, pairs, bandwidth=1.0), 4)
        0.4621
    """
    if bandwidth is not None and not bandwidth > 0:
        raise DiagnosticsError(f"bandwidth is {bandwidth}: give a number above 0, or None for the median distance.")
    if permutations < 1 or not 0 < order < math.inf:
        raise DiagnosticsError(f"permutations is {permutations} and order {order}: give at least 1, and above 0.")
    a, b = pair(x, y, 2)
    n = len(a)
    if n > MOST_DIME_SAMPLES:
        raise DiagnosticsError(f"x has shape {tuple(a.shape)}: give at most {MOST_DIME_SAMPLES} samples.")
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

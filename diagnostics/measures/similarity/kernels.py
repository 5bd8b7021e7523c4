"""Similarity of representations: debiased linear CKA, exact, from Gram matrices that are gathered over features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import centred, matrix, one_thread, over_taps
from diagnostics.measures.base import Measure

MOST_ROWS = 2048
"""Rows of the Gram matrices at most: all taps' are held at once, and independent features already spread by only
sqrt(2) / n = .0007 there."""

# A kernel whose centred part is this small beside the kernel itself is rounding error, not structure.
_NOTHING = 1e-12


def cka(x: Any, y: Any, *, unbiased: bool = True) -> float:
    """Linear centred kernel alignment of two representations of the same samples.

    Parameters
    ----------
    x, y: [sample, feature], rows aligned; their widths may differ.
    unbiased: the ratio of unbiased HSIC (Song et al. 2012, eq. 5; in the U-centred form of Székely and Rizzo 2014,
        eq. 3.2), which may be negative and needs 4 samples. False: the biased ratio of Kornblith et al. 2019
        (1905.00414, eq. 3), which approaches 1 for unrelated features wider than n.

    Returns NaN where a side has nothing to compare (constant features). Raises DiagnosticsError for too few samples,
    unequal numbers of samples and values that are not finite.
    """
    k, m = _kernels(x, y, unbiased)
    return float((_unit(k, unbiased) * _unit(m, unbiased)).sum())


def hsic(x: Any, y: Any, *, unbiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels: HSIC_1 of Song et al. 2012 (eq. 5), or the biased
    tr(KHLH) / (n - 1)^2 of Gretton et al. 2005 (eq. 9). Arguments and errors as in `cka`.
    """
    k, m = _kernels(x, y, unbiased)
    n = len(k)
    product = float((center_gram(k, unbiased=unbiased) * center_gram(m, unbiased=unbiased)).sum())
    return product / (n * (n - 3) if unbiased else (n - 1) ** 2)


def center_gram(gram: np.ndarray, *, unbiased: bool = True) -> np.ndarray:
    """A centred copy of a kernel matrix [sample, sample], float64.

    U-centred with zero diagonal (Székely and Rizzo 2014, eq. 2.9), so that the sum of products of two of them over
    n (n - 3) is HSIC_1; doubly centred when not `unbiased`.
    """
    out = np.array(gram, dtype=np.float64)
    n = len(out)
    if out.ndim != 2 or out.shape[1] != n or n < (4 if unbiased else 2):
        raise DiagnosticsError(
            f"A kernel matrix of shape {out.shape} cannot be centred: give a square one of at least "
            f"{4 if unbiased else 2} samples."
        )
    if unbiased:
        np.fill_diagonal(out, 0.0)
    rows, columns = out.sum(axis=1), out.sum(axis=0)
    size = n - 2 if unbiased else n
    total = rows.sum() / ((n - 1) * (n - 2) if unbiased else n * n)
    out -= (rows / size - total)[:, None]
    out -= columns / size
    if unbiased:
        np.fill_diagonal(out, 0.0)
    return out


def gram_of_blocks(blocks: Iterable[np.ndarray], rows: int) -> np.ndarray:
    """The kernel matrix float64 [rows, rows] of features that come in blocks [sample, feature], centred block by block.

    Centring removes from the kernel what U-centring would remove later, so that a common offset costs no digits.
    """
    gram = np.zeros((rows, rows))
    for block in blocks:
        x = centred(np.asarray(block[:rows], dtype=np.float64))
        # numpy sees that both factors are one matrix and calls syrk, which does half the work.
        gram += x @ x.T
    return gram


def _kernels(x: Any, y: Any, unbiased: bool) -> tuple[np.ndarray, np.ndarray]:
    first, second = (matrix(side, name, least=4 if unbiased else 2) for side, name in ((x, "x"), (y, "y")))
    n = len(first)
    if len(second) != n:
        raise DiagnosticsError(
            f"x and y have shapes {first.shape} and {second.shape}: give both for the same samples in the same order."
        )
    return gram_of_blocks([first], n), gram_of_blocks([second], n)


def _unit(gram: np.ndarray, unbiased: bool) -> np.ndarray:
    """The centred kernel divided by its norm; NaN where nothing but rounding error is left."""
    out = center_gram(gram, unbiased=unbiased)
    norm = float(np.linalg.norm(out))
    out *= 1 / norm if norm > _NOTHING * float(np.linalg.norm(gram)) else np.nan
    return out


class Cka(Measure):
    """Debiased linear CKA of every pair of taps."""

    name = "cka"
    answers = "Which taps hold alike geometries of the samples?"
    source = "Kornblith et al. 2019 (1905.00414); unbiased HSIC: Song et al. 2012, eq. 5; Székely and Rizzo 2014"
    family = "similarity"
    needs = "tokens"
    higher_is_better = None
    pairwise = True

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        whole = activations.token_samples >= 4
        n = min(activations.token_samples if whole else len(activations.ids), MOST_ROWS)
        if n < 4:
            raise DiagnosticsError(f"cka compares at least 4 samples, and there are {n}: use a dataset with more.")
        names = [tap.name for tap in activations.taps]
        units = np.empty((len(names), n * n))
        for i, name in enumerate(names):
            blocks = activations.feature_blocks(name) if whole else [activations.pooled(name)]
            gram = gram_of_blocks(blocks, n)
            if not np.isfinite(gram).all():
                raise DiagnosticsError(
                    f"cka finds NaN or infinity at tap {name} in {n} samples: leave it out (--taps)."
                )
            units[i] = _unit(gram, unbiased=True).ravel()
        attrs = {
            "functional": "debiased linear CKA: HSIC_1(K,L) / sqrt(HSIC_1(K,K) HSIC_1(L,L))",
            "pooling": "none: all features of all tokens" if whole else f"{activations.pooling} (no tokens are kept)",
            "centring": "features centred over samples, then the kernel U-centred",
            "n": n,
            "seed": seed,
        }
        matrix_ = (("tap", "tap_other"), units @ units.T)
        return over_taps(activations, {"matrix": matrix_}, attrs, {"tap_other": names})

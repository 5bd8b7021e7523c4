"""Matrix decompositions in double precision, with a fallback where LAPACK's divide and conquer fails.

Divide and conquer (what torch and numpy call) gives up on some matrices with many equal singular or eigenvalues, such as
those of counts of a few words, in single precision one in three of them. QR iteration, slower, then is asked.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError, describe


def eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., k], ascending, and eigenvectors [..., k, k] of symmetric float [..., k, k], in float64.

    This and the others: on the device of x; DiagnosticsError for NaN and infinity, and where no algorithm converges.
    """
    return _by(torch.linalg.eigh, _eigh, x, "eigenvectors")


def eigvalsh(x: Tensor) -> Tensor:
    """Eigenvalues [..., k], ascending, of symmetric float [..., k, k], in float64."""
    return _by(lambda y: (torch.linalg.eigvalsh(y),), lambda y: _eigh(y)[:1], x, "eigenvalues")[0]


def svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD u [..., n, r], s [..., r] descending, v [..., r, d] of float [..., n, d], in float64."""
    return _by(lambda y: torch.linalg.svd(y, full_matrices=False), _svd, x, "singular vectors")


def svdvals(x: Tensor) -> Tensor:
    """Singular values [..., r], descending, of float [..., n, d], in float64."""
    return _by(lambda y: (torch.linalg.svdvals(y),), lambda y: _svd(y)[1:2], x, "singular values")[0]


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """Reduced QR decomposition of float [..., n, d], in float64. It has nothing to converge."""
    return torch.linalg.qr(_double(x, "QR decomposition"))


def triangle(x: Tensor) -> Tensor:
    """The R of `qr` alone."""
    return torch.linalg.qr(_double(x, "QR decomposition"), mode="r").R


def cholesky(x: Tensor) -> Tensor:
    """Lower Cholesky factor of symmetric positive definite float [..., k, k], in float64; where rounding has made it
    indefinite, of x plus the smallest share of its mean diagonal, 1e-14 to 1e-8, that makes it definite again.
    """
    matrix = _double(x, "Cholesky factor")
    factor, failed = torch.linalg.cholesky_ex(matrix)
    share = 1e-14
    while bool(failed.any()) and share < 1e-7:
        size = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1, keepdim=True)
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed((share * size).expand(matrix.shape[:-1])))
        share *= 100
    if bool(failed.any()):
        raise DiagnosticsError(
            f"A matrix of shape {tuple(x.shape)} has no Cholesky factor, it is not positive definite: raise the penalty, or "
            "leave out features that are combinations of others."
        )
    return factor


def _double(x: Tensor, result: str) -> Tensor:
    matrix = x.to(torch.float64)
    if not bool(matrix.isfinite().all()):
        raise DiagnosticsError(
            f"A matrix of shape {tuple(x.shape)} has no {result}, it holds NaN or infinity: scale the "
            "features down, or leave out samples that are not finite."
        )
    return matrix


def _by(
    fast: Callable[[Tensor], Any], slow: Callable[[np.ndarray], tuple[np.ndarray, ...]], x: Tensor, result: str
) -> Any:
    """The result of the fast algorithm, or of the slow one for each matrix by itself, on the CPU."""
    matrix = _double(x, result)
    with contextlib.suppress(RuntimeError):  # torch's LinAlgError is one, and so are failures of a device's library
        return fast(matrix)
    try:
        flat = [slow(single) for single in matrix.detach().cpu().reshape(-1, *matrix.shape[-2:]).numpy()]
    except np.linalg.LinAlgError as error:
        raise DiagnosticsError(
            f"No algorithm finds the {result} of a matrix of shape {tuple(x.shape)} ({describe(error)}): leave out features that "
            "are combinations of others, or the tap."
        ) from error
    parts = (torch.from_numpy(np.stack(part)) for part in zip(*flat, strict=True))
    return tuple(part.reshape(*matrix.shape[:-2], *part.shape[1:]).to(x.device) for part in parts)


def _eigh(x: np.ndarray) -> tuple[np.ndarray, ...]:
    from scipy import linalg

    return linalg.eigh(x, driver="ev")


def _svd(x: np.ndarray) -> Any:
    from scipy import linalg

    return linalg.svd(x, full_matrices=False, lapack_driver="gesvd")

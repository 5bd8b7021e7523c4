"""Array helpers that measures share.

Validation, centring, results laid out over taps, and decompositions in double precision.

Divide and conquer (what torch and numpy call) gives up on some matrices with many equal singular or eigenvalues, such
as those of counts of a few words, in single precision one in three of them. QR iteration, slower, then is asked.
"""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations
from diagnostics.errors import DiagnosticsError, explaining

# Arrays of up to this many values are shown whole.
_SHOWN = 8
SINGLE, DOUBLE = 1e-6, 1e-12
"""Shares of a value up to which differences are rounding, in either precision: sums over features leave some."""


class ShortRepr:
    """For a dataclass of results (with `repr=False`): one line, in which a large array is its type and shape."""

    def __repr__(self) -> str:
        # pyrefly: ignore[bad-argument-type]
        fields = dataclasses.fields(self)
        return f"{type(self).__name__}({', '.join(f'{f.name}={_short(getattr(self, f.name))}' for f in fields)})"


def _short(value: Any) -> str:
    if not isinstance(value, (np.ndarray, Tensor)):
        return repr(value)
    if math.prod(value.shape) > _SHOWN:
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    array = value.cpu().numpy() if isinstance(value, Tensor) else value
    return np.array2string(array, separator=", ", precision=6, max_line_width=10**6).replace("\n", "")


def as_tensor(x: Any) -> Tensor:
    """numpy, torch or nested numbers as a float64 tensor without gradient, on the device where a tensor lies.

    Never written to: it may share memory with what was given.
    """
    if isinstance(x, Tensor):
        if x.is_complex():
            raise DiagnosticsError(
                f"A complex tensor of shape {tuple(x.shape)} has no measure: give real numbers.", code="bad-type"
            )
        return x.detach().to(torch.float64)
    with (
        explaining(
            f"{type(x).__name__} given where real numbers are wanted",
            "give a numpy array or a torch tensor",
            "bad-type",
            (ValueError, TypeError, Warning),
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        array = np.asarray(x, dtype=np.float64)
    # torch warns of memory that it must not write to.
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def samples(x: Any, name: str, least: int = 1) -> Tensor:
    """`x` as a finite float64 tensor [sample, feature] with at least `least` samples, or a DiagnosticsError.

    Its sentence begins with `name`: "x" for a plain function, "Tap blocks.3 for rankme" in a measure.
    """
    tensor = as_tensor(x)
    shape = tuple(tensor.shape)
    if tensor.ndim != 2 or shape[1] == 0:
        raise DiagnosticsError(
            f"{name} has shape {shape}: give [sample, feature], with at least one feature.", code="bad-shape"
        )
    if shape[0] < least:
        wanted = "one sample" if least == 1 else f"{least} samples"
        raise DiagnosticsError(f"{name} has shape {shape}: give at least {wanted}.", code="bad-shape")
    return finite(tensor, name)


def pair(x: Any, y: Any, least: int = 1) -> tuple[Tensor, Tensor]:
    """x and y as `samples`, on x's device, with equal numbers of samples."""
    first, second = samples(x, "x", least), samples(y, "y", least)
    if len(first) != len(second):
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise DiagnosticsError(
            f"x and y have shapes {shapes}: give both for the same samples in the same order.", code="bad-shape"
        )
    return first, second.to(first.device)


def token_samples(x: Any, name: str, grid: tuple[int, ...] | None = None) -> tuple[Tensor, bool]:
    """`x` as float64 [sample, token, feature], and whether it was one sample, [token, feature]; grid tokens only.

    Raises DiagnosticsError where it is neither, holds NaN or infinity, or does not fill `grid` (one to three extents).
    """
    tensor = as_tensor(x)
    shape = tuple(tensor.shape)
    if tensor.ndim not in (2, 3) or 0 in shape:
        raise DiagnosticsError(
            f"{name} has shape {shape}: give [sample, token, feature] or [token, feature].", code="bad-shape"
        )
    if grid is not None and (shape[-2] != math.prod(grid) or not 1 <= len(grid) <= 3):
        raise DiagnosticsError(
            f"{name} of shape {shape} does not fill a grid of {grid}: give one token per cell, on one to three axes.",
            code="bad-shape",
        )
    return finite(tensor if tensor.ndim == 3 else tensor[None], name), tensor.ndim == 2


def finite(tensor: Tensor, name: str) -> Tensor:
    """The tensor; raises DiagnosticsError where it holds NaN or infinity."""
    # A sum is finite only if every term is, and takes no second array; it may overflow where no term does.
    if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
        raise DiagnosticsError(
            f"{name} of shape {tuple(tensor.shape)} holds NaN or infinity: leave those samples out.", code="not-finite"
        )
    return tensor


def class_labels(labels: Any, rows: int, name: str = "labels") -> np.ndarray:
    """Labels as int64 [row]; raises DiagnosticsError for what is not one known class (an integer from 0) a row."""
    kinds = {"f": "floating-point numbers", "U": "text", "S": "text"}
    if isinstance(labels, Tensor) and labels.is_floating_point():
        raise DiagnosticsError(f"{name} are {kinds['f']}: give integer classes.", code="bad-type")
    with explaining(f"{name} are no array", "give one integer class per row", "bad-type", ValueError):
        array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if array.dtype.kind not in "iub":
        kind = kinds.get(array.dtype.kind, f"of type {array.dtype}")
        raise DiagnosticsError(f"{name} are {kind}: give integer classes.", code="bad-type")
    if array.shape != (rows,):
        raise DiagnosticsError(
            f"{name} have shape {array.shape}: give one label per row, {rows} of them.", code="bad-shape"
        )
    if array.size and array.min() < 0:
        raise DiagnosticsError(
            f"{name} hold {array.min()}: negative labels are unknown, leave those rows out.", code="bad-value"
        )
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise DiagnosticsError(f"{name} hold {array.max()}: give integer classes of 64 bits.", code="bad-value")
    return array.astype(np.int64)


def centre(x: Tensor) -> Tensor:
    """A copy of [sample, feature] with every column's mean removed.

    Columns that are constant but for rounding are 0: those that differ from their mean by no more than 1e-12 of their
    value, or 1e-6 where they come in single precision.
    """
    # The first row goes first, so that a constant column is exactly 0 and a large common offset costs no digits.
    out = x - x[:1]
    out -= out.mean(dim=0)
    return without_rounding(out, x)


def without_rounding(centred: Tensor, x: Tensor) -> Tensor:
    """`centred` [sample, feature] with 0, in place, for features of x that are constant but for rounding."""
    # A few rows already show most features to vary.
    maybe = ((x[:8] - x[0]).abs().amax(dim=0) <= 2 * SINGLE * x[0].abs()).nonzero()[:, 0]
    if len(maybe):
        some = x[:, maybe]
        share = torch.where((some == some.float()).all(dim=0), SINGLE, DOUBLE)
        still = centred[:, maybe].abs().amax(dim=0) <= share * some[0].abs()
        centred[:, maybe[still]] = 0
    return centred


def unit_rows(x: Tensor) -> Tensor:
    """Rows of [..., feature] divided by their length; rows of zeros stay."""
    # The largest goes first: squares must neither overflow nor vanish.
    largest = torch.maximum(x.amax(dim=-1, keepdim=True), -x.amin(dim=-1, keepdim=True))
    scaled = x / torch.where(largest > 0, largest, 1.0)
    length = scaled.norm(dim=-1, keepdim=True)
    return scaled.div_(torch.where(length > 0, length, 1.0))


def rounding(x: Tensor) -> float:
    """`SINGLE` where no value has more digits than that holds (activations as they are stored), else `DOUBLE`."""
    return SINGLE if torch.equal(x, x.float().to(x.dtype)) else DOUBLE


def quotient(above: Tensor, below: Tensor) -> Tensor:
    """`above` / `below`, NaN where that is not above 0."""
    return torch.where(below > 0, above / below, torch.nan)


def ordinary(size: float) -> bool:
    """Test for a number whose squares of squares, and their sums, neither over- nor underflow; not for 0 and NaN."""
    return 1e-60 < size < 1e60


def scale_of(peak: float) -> float:
    """The factor that brings values of this largest magnitude to where squares of squares keep their digits.

    Neither they nor their sums over- or underflow there. It is 1 for ordinary numbers, else a power of two, so that no
    digit is lost.
    """
    return 1.0 if peak == 0 or ordinary(peak) else math.ldexp(1.0, -max(math.frexp(peak)[1], -1000))


def rescale(x: Tensor) -> Tensor:
    """x multiplied by the `scale_of` its largest magnitude."""
    scale = scale_of(max(float(x.amax()), -float(x.amin()))) if x.numel() else 1.0
    return x if scale == 1 else x * scale


def median(values: Tensor) -> Tensor:
    """Along the last axis; of an even number the mean of the middle two, where torch's takes the lower."""
    count = values.shape[-1]
    lower, upper = (count - 1) // 2, count // 2
    if values.device.type == "cpu":
        # numpy selects one place with vector instructions, at a twenty-fifth of the time of torch; two it does not.
        parted = np.partition(values.numpy(), upper, axis=-1)
        return torch.from_numpy(np.stack([parted[..., : lower + 1].max(axis=-1), parted[..., upper]])).mean(dim=0)
    return torch.stack([values.kthvalue(k + 1, dim=-1).values for k in (lower, upper)]).mean(dim=0)


def gram(x: Tensor) -> Tensor:
    """x xT of [sample, feature] -> [sample, sample]."""
    if x.device.type == "cpu":
        # numpy sees that both factors are one matrix and calls syrk, which does half the work; torch does not.
        array = x.numpy()
        return torch.from_numpy(array @ array.T)
    return x @ x.T


def require_finite_tap(x: np.ndarray | Tensor, measure: str, tap: str) -> None:
    """Raise DiagnosticsError where activations of a tap hold NaN or infinity."""
    if not bool((x.isfinite() if isinstance(x, Tensor) else np.isfinite(x)).all()):
        raise DiagnosticsError(
            f"{measure} finds NaN or infinity at tap {tap}: leave it out (--taps).", code="not-finite"
        )


def token_count(activations: Activations, measure: str, most: int) -> int:
    """The number of samples that a measure of tokens reads, at most `most`; raises where no tokens are kept."""
    if activations.token_samples == 0:
        raise DiagnosticsError(
            f"{measure} reads tokens, and none are kept: raise the token budget (--token-budget).", code="no-tokens"
        )
    return min(activations.token_samples, most)


def first_tokens(activations: Activations, tap: str, n: int) -> Iterator[tuple[slice, Tensor]]:
    """(rows, float32 [row, token, feature] where measures compute) through the first n samples of a tap."""
    for rows, tokens in activations.token_blocks(tap):
        if rows.start >= n:
            return
        wanted = tokens[: n - rows.start]
        yield slice(rows.start, rows.start + len(wanted)), torch.as_tensor(wanted, device=activations.device)


def over_taps(
    activations: Activations, variables: Mapping[str, Any], attrs: Mapping[str, Any], **coords: Any
) -> xr.Dataset:
    """Results over the taps and their depths; a variable is its values [tap], or a pair of axes and values."""
    taps = activations.taps
    return xr.Dataset(
        {name: values if isinstance(values, tuple) else ("tap", values) for name, values in variables.items()},
        {"tap": [tap.name for tap in taps], "depth": ("tap", [float(tap.depth) for tap in taps]), **coords},
        dict(attrs),
    )


def eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., k], ascending, and eigenvectors [..., k, k] of symmetric float [..., k, k], in float64.

    This and the others: on the device of x; DiagnosticsError for NaN and infinity, and where no algorithm converges.
    """
    return _by(torch.linalg.eigh, _eigh, x, "eigenvectors")


def eigh_as_given(x: Tensor) -> tuple[Tensor, ...]:
    """As `eigh`, in the type of x where that converges: in float32 at a third of the cost."""
    with contextlib.suppress(RuntimeError):
        return torch.linalg.eigh(x)
    return tuple(part.to(x.dtype) for part in eigh(x))


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
    """Lower Cholesky factor of symmetric positive definite float [..., k, k], in float64.

    Where rounding has made it indefinite, of x plus the smallest share of its mean diagonal, 1e-14 to 1e-8, that makes
    it definite again.
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
            f"A matrix of shape {tuple(x.shape)} has no Cholesky factor, it is not positive definite: raise the "
            f"penalty, or leave out features that are combinations of others.",
            code="singular",
        )
    return factor


def solve_shifted(products: np.ndarray, shift: float, towards: np.ndarray) -> np.ndarray:
    """Weights w [feature, target] of (products + shift) w = towards, of products [feature, feature] of rows.

    Sums in float32 may have made them indefinite: what is negative of them then counts as 0, as in `RidgePath`.
    """
    system, wanted = torch.from_numpy(products.copy()), torch.from_numpy(towards)
    system.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(system)
    # No pivot is below the least eigenvalue, which is that of the shift or more.
    if not failed and bool((factor.diagonal() ** 2 > shift / 2).all()):
        return np.asarray(torch.cholesky_solve(wanted, factor))
    eigenvalues, v = eigh(torch.from_numpy(products))
    return np.asarray(v @ ((v.mT @ wanted) / (eigenvalues.clamp(min=0.0) + shift)[:, None]))


def _double(x: Tensor, result: str) -> Tensor:
    matrix = x.to(torch.float64)
    if not bool(matrix.isfinite().all()):
        raise DiagnosticsError(
            f"A matrix of shape {tuple(x.shape)} has no {result}, it holds NaN or infinity: scale the "
            "features down, or leave out samples that are not finite.",
            code="not-finite",
        )
    return matrix


def _by(
    fast: Callable[[Tensor], Any], slow: Callable[[np.ndarray], tuple[np.ndarray, ...]], x: Tensor, result: str
) -> Any:
    """The result of the fast algorithm, or of the slow one for each matrix by itself, on the CPU."""
    matrix = _double(x, result)
    with contextlib.suppress(RuntimeError):  # torch's LinAlgError is one, and so are failures of a device's library
        return fast(matrix)
    with explaining(
        f"No algorithm finds the {result} of a matrix of shape {tuple(x.shape)}",
        "leave out features that are combinations of others, or the tap",
        "singular",
        np.linalg.LinAlgError,
    ):
        flat = [slow(single) for single in matrix.detach().cpu().reshape(-1, *matrix.shape[-2:]).numpy()]
    parts = (torch.from_numpy(np.stack(part)) for part in zip(*flat, strict=True))
    return tuple(part.reshape(*matrix.shape[:-2], *part.shape[1:]).to(x.device) for part in parts)


def _eigh(x: np.ndarray) -> tuple[np.ndarray, ...]:
    from scipy import linalg

    # pyrefly: ignore[bad-return]
    return linalg.eigh(x, driver="ev")


def _svd(x: np.ndarray) -> Any:
    from scipy import linalg

    return linalg.svd(x, full_matrices=False, lapack_driver="gesvd")

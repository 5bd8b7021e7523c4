"""Kernel matrices accumulated over features, and functions of two of them: HSIC and centred kernel alignment."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures.arrays import as_tensor, centre, finite, median, pair, scale_of, without_rounding
from diagnostics.measures.similarity import packed

MOST_ROWS = 2048
"""Rows of the kernels of a run at most: all taps' are held at once, and independent features already spread by only
sqrt(2) / n = .0007 there."""
MEDIAN_ROWS = 4096
"""Rows whose distances the median is taken over at most."""
WIDE = 1024
"""Features that a linear kernel takes at a time."""
SINGLE_FEATURES = 512
"""Features from which on they may be multiplied in single precision: with few, rounding averages out less."""
SINGLE_ROWS = 128
"""Samples from which on, for the same reason."""
SINGLE_WIDE = 4096
"""Features whose products add up in single precision at most."""
BLOCK_ROWS = 1024
"""Rows of a kernel that the plain functions hold at a time."""

KernelName = Literal["linear", "rbf"]


def cka(x: Any, y: Any, *, kernel: KernelName = "linear", unbiased: bool = True, sigma: float | None = None) -> float:
    """Centred kernel alignment of two representations of the same samples.

    Parameters
    ----------
    x, y: [sample, feature], rows aligned; their widths may differ.
    kernel: "linear", or "rbf", exp(-d^2 / (2 sigma^2)) of the Euclidean distance d.
    unbiased: the ratio of unbiased HSIC (Song et al. 2012, eq. 5; in the U-centred form of Székely and Rizzo 2014,
        eq. 3.2), which may be negative and needs 4 samples. False: the biased ratio of Kornblith et al. 2019
        (1905.00414, eq. 3), which approaches 1 for unrelated features wider than n.
    sigma: of "rbf", the same for both sides; None gives each side the median of its own distances over the pairs i < j
        of samples (of at most 4096 of them, evenly chosen). An absolute sigma means little for wide features: where it
        is far below their distances every sample resembles itself alone.

    Returns NaN where a side has nothing to compare (constant features, equidistant samples). Holds 1024 rows of a kernel
    at a time. Raises DiagnosticsError for too few samples, unequal numbers of samples, values that are not finite and a
    sigma that is not above 0.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import cka
        >>> x = np.random.default_rng(0).normal(size=(40, 2))
        >>> round(cka(x, x @ [[0, 5], [-5, 0]] + 9), 6)  # rotated, scaled and shifted
        1.0
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> round(cka(axes[:, :2], axes[:, 1:], unbiased=False), 6)  # one axis of two
        0.5
    """
    least = 4 if unbiased else 2
    first, second = pair(x, y, least)
    scales = [scale_of(float(side.abs().amax())) for side in (first, second)]
    first, second = first * scales[0], second * scales[1]
    if kernel not in ("linear", "rbf"):
        raise unknown("kernel", kernel, ("linear", "rbf"))
    if sigma is not None and not 0 < sigma < float("inf"):
        raise DiagnosticsError(f"sigma is {sigma}: give a positive number, or none for the median distance.")
    sigmas: list[float | None] = [None, None]
    if kernel == "rbf":
        sides = zip((first, second), scales, strict=True)
        sigmas = [_median_distance(side) if sigma is None else sigma * scale for side, scale in sides]
    return Sums(Kernel(first, sigmas[0]), Kernel(second, sigmas[1]), unbiased).ratio


def hsic(x: Any, y: Any, *, unbiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels: HSIC_1 of Song et al. 2012 (eq. 5), or the biased
    tr(KHLH) / (n - 1)^2 of Gretton et al. 2005 (eq. 9). Arguments and errors as in `cka`. Infinite, or 0, where its size
    leaves the floats.

    Examples:
        >>> from diagnostics.measures.similarity import hsic
        >>> a, b = [[1.0], [2.0], [4.0], [8.0]], [[1.0], [3.0], [2.0], [7.0]]
        >>> round(hsic(a, b), 6)  # 7 / 3
        2.333333
    """
    first, second = pair(x, y, 4 if unbiased else 2)
    n = len(first)
    scale, other_scale = (scale_of(float(side.abs().amax())) for side in (first, second))
    sums = Sums(Kernel(first * scale), Kernel(second * other_scale), unbiased)
    return sums.both / (n * (n - 3) if unbiased else (n - 1) ** 2) / scale / other_scale / scale / other_scale


def center_gram(gram: Any, *, unbiased: bool = True) -> Tensor:
    """A centred copy of a symmetric kernel matrix [sample, sample], float64.

    U-centred with zero diagonal (Székely and Rizzo 2014, eq. 2.9), so that the sum of products of two of them over
    n (n - 3) is HSIC_1; doubly centred when not `unbiased`.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import center_gram
        >>> a = np.array([[1.0], [2.0], [4.0], [8.0]])
        >>> centred = center_gram(a @ a.T)
        >>> centred.diagonal().tolist(), centred.sum(dim=1).abs().max().item() < 1e-9
        ([0.0, 0.0, 0.0, 0.0], True)
    """
    out = as_tensor(gram).clone()
    n = len(out) if out.ndim else 0
    if out.ndim != 2 or out.shape[1] != n or n < (4 if unbiased else 2):
        raise DiagnosticsError(
            f"A kernel matrix of shape {tuple(out.shape)} cannot be centred: give a square one of at least "
            f"{4 if unbiased else 2} samples."
        )
    finite(out, "A kernel matrix")
    if unbiased:
        out.fill_diagonal_(0.0)
    return _centred_rows(out, out.sum(dim=1), 0, unbiased)


def gram_of_blocks(blocks: Iterable[Any]) -> Tensor:
    """The linear kernel float64 [sample, sample] of features that come in blocks [sample, feature], each centred first.

    Centring removes from the kernel what centring the kernel would remove later, so that a common offset costs no digits.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import gram_of_blocks
        >>> blocks = [np.array([[1.0], [3.0]]), np.array([[0.0], [4.0]])]
        >>> gram_of_blocks(blocks).tolist()  # about the means: 1 * 1 + 2 * 2
        [[5.0, -5.0], [-5.0, 5.0]]
    """
    upper = upper_gram(block if isinstance(block, Tensor) else torch.from_numpy(np.asarray(block)) for block in blocks)
    return upper + upper.triu(1).T


def upper_gram(blocks: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
    """`gram_of_blocks` on and above the diagonal, zero below it; in `out` [sample, sample] where that is given.

    Many features of many samples are multiplied in single precision on a CPU, in half the time; what every few thousand
    give adds up in double. Rounding then differs from entry to entry, and moves CKA by 1e-9 to 1e-8 (below 1e-7 where
    one feature dominates, below 1e-6 where one sample is a thousand times as far out as the others).
    """
    total: Tensor | None = None
    single = None
    for block in blocks:
        n = len(block)
        if total is None:
            total = torch.zeros(n, n, dtype=torch.float64, device=block.device) if out is None else out.zero_()
            single = _SingleProduct(n) if block.device.type == "cpu" and n >= SINGLE_ROWS else None
        for part in _pieces(block, SINGLE_WIDE):
            if single is not None and part.shape[1] >= SINGLE_FEATURES and single.add_upper(total, part):
                continue
            for piece in _pieces(part, WIDE):
                _add_upper(total, centre(as_tensor(piece)))
    if total is None:
        raise DiagnosticsError("There are no features: give at least one block of [sample, feature].")
    return total


def _pieces(x: Tensor, most: int) -> Iterator[Tensor]:
    """[sample, feature] in as few pieces of at most so many features as there can be, alike in size lest one be narrow."""
    width = x.shape[1]
    step = -(-width // -(-width // most)) if width else 1
    for start in range(0, width, step):
        yield x[:, start : start + step]


def _add_upper(total: Tensor, x: Tensor) -> None:
    """Adds x xT of [sample, feature] to `total` on and above the diagonal, in double precision."""
    # scipy's modules of BLAS routines are made when it is imported, where no checker can look.
    from scipy.linalg.blas import dsyrk  # pyright: ignore[reportAttributeAccessIssue]

    if total.device.type == "cpu":
        # Both as transposed views, for BLAS counts columns first; so is what is upper by rows lower by columns.
        dsyrk(1.0, x.numpy().T, beta=1.0, c=total.numpy().T, trans=1, lower=1, overwrite_c=1)
    else:
        total += (x @ x.T).triu()


class _SingleProduct:
    """x xT of n samples in single precision, one triangle of it: half the work, in memory that is used again."""

    def __init__(self, n: int) -> None:
        self.gram = torch.zeros(n, n, dtype=torch.float32, device="cpu")
        self.centred = torch.empty(n * WIDE, dtype=torch.float32, device="cpu")
        self.share = torch.full((n,), 1 / n, dtype=torch.float32, device="cpu")

    def add_upper(self, total: Tensor, x: Tensor) -> bool:
        """Adds the product of centred [sample, feature] to `total`, or nothing (False) where it would over- or underflow."""
        from scipy.linalg.blas import ssyrk  # pyright: ignore[reportAttributeAccessIssue]

        gram = self.gram.numpy()
        for i, piece in enumerate(_pieces(x, WIDE)):
            # What is there of earlier pieces stays.
            ssyrk(1.0, self._centre(piece).numpy().T, beta=float(i > 0), c=gram.T, trans=1, lower=1, overwrite_c=1)
        # No entry, nor any part of its sum, is larger than the largest squared norm.
        if not 1e-20 < float(gram.diagonal().max()) < float("inf"):
            self.gram.zero_()  # not every BLAS forgets a NaN that it is to overwrite
            return False
        total += self.gram
        return True

    def _centre(self, x: Tensor) -> Tensor:
        """Centred columns, in memory that the next call overwrites."""
        out = self.centred[: x.numel()].view(x.shape)
        if x.dtype != torch.float32:
            return out.copy_(centre(as_tensor(x)))
        # Without the first row a constant is 0, and the mean of the rest is exact enough: what it is off by shifts all
        # samples alike, which centring the kernel takes away. The values themselves are rounded once, in the difference.
        x = x.detach()
        mean = torch.sub(x, x[0], out=out).T.mv(self.share).add_(x[0])
        return without_rounding(torch.sub(x, mean, out=out), x)


class Kernel:
    """A kernel matrix of centred features [sample, feature] in blocks of rows: x xT, or with a sigma
    exp(-d^2 / (2 sigma^2)) - 1. Centring takes the constant away again, and a wide kernel keeps its digits."""

    def __init__(self, x: Tensor, sigma: float | None = None) -> None:
        self.x, self.sigma = centre(x), sigma
        self.squares = (self.x * self.x).sum(dim=1)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop, [row, sample]."""
        if self.sigma is None:
            return self.x[start:stop] @ self.x.T
        if self.sigma == 0:
            return self.x.new_zeros(stop - start, len(self.x))
        squared = _squared_distances(self.x[start:stop], self.squares[start:stop], self.x, self.squares)
        out = squared.div_(-2 * self.sigma).div_(self.sigma).expm1_()
        _zero_diagonal(out, start)
        return out


def _squared_distances(x: Tensor, x_squares: Tensor, y: Tensor, y_squares: Tensor) -> Tensor:
    """Of centred rows, [x, y]: a common offset then costs no digits."""
    out = x @ y.T
    return out.mul_(-2).add_(x_squares[:, None]).add_(y_squares).clamp_(min=0)


def _median_distance(x: Tensor) -> float:
    """The median over pairs i < j of rows."""
    x = centre(x)
    if (n := len(x)) > MEDIAN_ROWS:
        x = x[torch.arange(MEDIAN_ROWS, device=x.device) * n // MEDIAN_ROWS]
    squares = (x * x).sum(dim=1)
    squared = _squared_distances(x, squares, x, squares)
    return float(median(squared.flatten().index_select(0, packed.places(len(x), x.device)).sqrt_()))


class Sums:
    """Sums of products of two centred kernels, of either with itself, and of the kernels before (`raw`)."""

    def __init__(self, first: Kernel, second: Kernel, unbiased: bool) -> None:
        self.unbiased = unbiased
        self.both = self.own = self.other = 0.0
        margins = [torch.cat([k.sum(dim=1) for _, k in self._blocks(side)]) for side in (first, second)]
        self.raw = [0.0, 0.0]
        for (start, k), (_, m) in zip(self._blocks(first), self._blocks(second), strict=True):
            self.raw[0] += float((k * k).sum())
            self.raw[1] += float((m * m).sum())
            k, m = (_centred_rows(b, margin, start, unbiased) for b, margin in zip((k, m), margins, strict=True))
            self.both += float((k * m).sum())
            self.own += float((k * k).sum())
            self.other += float((m * m).sum())

    def _blocks(self, side: Kernel) -> Iterator[tuple[int, Tensor]]:
        n = len(side.x)
        for start in range(0, n, BLOCK_ROWS):
            rows = side.rows(start, min(start + BLOCK_ROWS, n))
            if self.unbiased:
                _zero_diagonal(rows, start)
            yield start, rows

    @property
    def ratio(self) -> float:
        """CKA; NaN where a side is nothing but rounding error."""
        if not (self.own > packed.NOTHING**2 * self.raw[0] and self.other > packed.NOTHING**2 * self.raw[1]):
            return float("nan")
        return self.both / (self.own**0.5 * self.other**0.5)


def _centred_rows(rows: Tensor, sums: Tensor, start: int, unbiased: bool) -> Tensor:
    """Rows of a kernel centred in place, from the sums of all rows; U-centred where `unbiased`."""
    n = len(sums)
    means = sums / (n - 2 if unbiased else n)
    rows -= (means - sums.sum() / ((n - 1) * (n - 2) if unbiased else n * n))[start : start + len(rows), None]
    rows -= means
    if unbiased:
        _zero_diagonal(rows, start)
    return rows


def _zero_diagonal(rows: Tensor, start: int) -> None:
    rows[:, start : start + len(rows)].fill_diagonal_(0.0)

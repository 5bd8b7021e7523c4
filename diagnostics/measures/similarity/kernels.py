"""Kernel matrices accumulated over features, and functions of two of them: HSIC and centred kernel alignment.

Kernels of many taps are packed: one float64 vector for each tap, over the pairs i < j of samples. U-centred kernels are
symmetric with zero diagonal, so these n (n - 1) / 2 numbers are all there is; divided by their norm, the similarity of
two taps is the product of two vectors, and permuting samples only moves entries.
"""

import functools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError, check_known
from diagnostics.measures.arrays import (
    as_tensor,
    centre,
    finite,
    median,
    ordinary,
    pair,
    require_finite_tap,
    scale_of,
    without_rounding,
)
from diagnostics.measures.base import (
    Case,
    column,
    common_axes,
    define,
    normal,
    overlapping_columns,
    rotation,
    sixty_samples,
    two_parts,
)
from diagnostics.measures.similarity.base import Side, Similarity, Taps

# A kernel whose centred part is this small beside the kernel itself is rounding error, not structure.
NOTHING = 1e-12
# Pairs at a time: what two dozen taps need for as many stays in a processor's cache.
BLOCK = 2**13


def unit_pairs(upper: Tensor) -> Tensor | None:
    """`centre_pairs` divided by its norm; None where nothing but rounding error is left."""
    size = float(upper.triu_(1).norm())
    return scale_pairs(centre_pairs(upper), size)


def centre_pairs(upper: Tensor) -> Tensor:
    """The U-centred kernel (Székely and Rizzo 2014, eq. 2.9) over pairs i < j.

    It is made of [sample, sample], which is read above its diagonal only and overwritten.
    """
    upper.triu_(1)
    n = len(upper)
    sums = upper.sum(dim=0) + upper.sum(dim=1)
    means, mean = sums / (n - 2), sums.sum() / ((n - 1) * (n - 2))
    upper -= (means - mean)[:, None]
    upper -= means
    return upper.flatten().index_select(0, pair_places(n, upper.device))


def scale_pairs(values: Tensor, size: float) -> Tensor | None:
    """A vector over pairs divided by its norm in place; None where that is nothing beside `size`, the kernel's own."""
    norm = float(values.norm())
    if not norm > NOTHING * size:
        return None
    values /= norm
    return values


def permute_pairs(values: Tensor, order: Tensor) -> Tensor:
    """The vector of a kernel whose samples are reordered: entry (i, j) is that of (order[i], order[j])."""
    return values.index_select(0, permute_entries(order))


def permute_entries(order: Tensor) -> Tensor:
    """Places of the entries of a vector over pairs under an order of the samples, int32 [pair].

    Those entries become its entries when the samples are put in this order.
    """
    places, moved = _entries(len(order)), order.cpu().numpy()
    # Row by row: what is looked up lies close together.
    entries = [places[sample].take(moved[i + 1 :]) for i, sample in enumerate(moved)]
    return torch.from_numpy(np.concatenate(entries)).to(order.device)


def pair_products(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> np.ndarray:
    """All products, float64 [first, second], without a copy of all the vectors."""
    total = torch.zeros(len(firsts), len(seconds), dtype=torch.float64, device=firsts[0].device)
    same = firsts is seconds
    for start in range(0, len(firsts[0]), BLOCK):
        part = slice(start, start + BLOCK)
        first = torch.stack([kernel[part] for kernel in firsts]).double()
        total += first @ (first if same else torch.stack([kernel[part] for kernel in seconds]).double()).T
    return total.cpu().numpy()


def products_of_shuffles(
    firsts: Sequence[Tensor], seconds: Sequence[Tensor], orders: Iterator[Tensor]
) -> Iterator[np.ndarray]:
    """`pair_products` for each order of the second side's samples, in single precision (an error near 1e-7)."""
    # Entries of all taps lie side by side, so that a permutation fetches those of a pair together.
    second = torch.stack([kernel.float() for kernel in seconds], dim=1)
    first = second.T if firsts is seconds else torch.stack([kernel.float() for kernel in firsts])
    for order in orders:
        entries = permute_entries(order)
        total = torch.zeros(len(firsts), len(seconds), dtype=torch.float32, device=first.device)
        for start in range(0, len(entries), BLOCK):
            part = slice(start, start + BLOCK)
            total += first[:, part] @ second.index_select(0, entries[part])
        yield total.double().cpu().numpy()


@functools.lru_cache(maxsize=2)
def _entries(n: int) -> np.ndarray:
    """The place of the pair of two samples in a vector over pairs, int32 [sample, sample].

    It is the same in whatever order the two come.
    """
    entries = np.zeros((n, n), dtype=np.int32)
    entries.ravel()[pair_places(n, torch.device("cpu")).numpy()] = np.arange(n * (n - 1) // 2, dtype=np.int32)
    for sample in range(n):
        entries[sample + 1 :, sample] = entries[sample, sample + 1 :]
    return entries


@functools.lru_cache(maxsize=2)
def pair_places(n: int, device: torch.device) -> Tensor:
    """The place of each pair i < j in a flattened [sample, sample]."""
    rows, columns = torch.triu_indices(n, n, 1, dtype=torch.int32 if n * n < 2**31 else torch.int64, device=device)
    return rows.mul_(n).add_(columns)


MOST_ROWS = 2048
"""Rows of the kernels of a run at most: all taps' are held at once, and independent features already spread by only
sqrt(2) / n = .0007 there."""
PERMUTATIONS = 39
"""Permutations of the null, nearly all that the measure costs: unrelated taps pass tau in 1 of 20 runs (in fewer where
values are tied) with any number that is 1 less than a multiple of 20, and 99 find little more."""
MEDIAN_ROWS = 4096
"""Rows whose distances the median is taken over at most."""
WIDE = 1024
"""Features that a linear kernel takes at a time."""
SINGLE_FEATURES = 512
"""Features from which on they may be multiplied in single precision: with few, rounding averages out less."""
SINGLE_ROWS = 128
"""Samples from which on, for the same reason."""
SINGLE_KERNELS = 1024
"""Samples from which on the kernels of a run, all held at once, are kept in single precision: over so many pairs
rounding averages out, to 1e-10 of CKA."""
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

    Returns NaN where a side has nothing to compare (constant features, equidistant samples). Holds 1024 rows of a
    kernel at a time. Raises DiagnosticsError for too few samples, unequal numbers of samples, values that are not
    finite and a sigma that is not above 0.

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
    first, second = pair(x, y, 4 if unbiased else 2)
    scales = [scale_of(float(side.abs().amax())) for side in (first, second)]
    first, second = first * scales[0], second * scales[1]
    check_known("kernel", kernel, ("linear", "rbf"))
    if sigma is not None and not 0 < sigma < float("inf"):
        raise DiagnosticsError(
            f"sigma is {sigma}: give a positive number, or none for the median distance.", code="bad-value"
        )
    sigmas: list[float | None] = [None, None]
    if kernel == "rbf":
        sides = zip((first, second), scales, strict=True)
        sigmas = [_median_distance(side) if sigma is None else sigma * scale for side, scale in sides]
    return Sums(Kernel(first, sigmas[0]), Kernel(second, sigmas[1]), unbiased).ratio


def hsic(x: Any, y: Any, *, unbiased: bool = True) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels.

    HSIC_1 of Song et al. 2012 (eq. 5), or the biased tr(KHLH) / (n - 1)^2 of Gretton et al. 2005 (eq. 9). Arguments and
    errors as in `cka`. Infinite, or 0, where its size leaves the floats.

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
            f"{4 if unbiased else 2} samples.",
            code="bad-shape",
        )
    finite(out, "A kernel matrix")
    if unbiased:
        out.fill_diagonal_(0.0)
    return _centre_rows(out, out.sum(dim=1), 0, unbiased)


def gram_of_blocks(blocks: Iterable[Any]) -> Tensor:
    """The linear kernel float64 [sample, sample] of features that come in blocks [sample, feature], each centred first.

    Centring removes from the kernel what centring the kernel would remove later, so that a common offset costs no
    digits.

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
        raise DiagnosticsError("There are no features: give at least one block of [sample, feature].", code="too-few")
    return total


def _pieces(x: Tensor, most: int) -> Iterator[Tensor]:
    """[sample, feature] in as few pieces of at most so many features as there can be.

    They are alike in size, lest one be narrow.
    """
    width = x.shape[1]
    step = -(-width // -(-width // most)) if width else 1
    for start in range(0, width, step):
        yield x[:, start : start + step]


def _add_upper(total: Tensor, x: Tensor) -> None:
    """Add x xT of [sample, feature] to `total` on and above the diagonal, in double precision."""
    # scipy's modules of BLAS routines are made when it is imported, where no checker can look.
    # pyrefly: ignore[missing-module-attribute]
    from scipy.linalg.blas import dsyrk

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
        """Add the product of centred [sample, feature] to `total`.

        It adds nothing (False) where it would over- or underflow.
        """
        # pyrefly: ignore[missing-module-attribute]
        from scipy.linalg.blas import ssyrk

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
        # samples alike, which centring the kernel takes away. The values themselves are rounded once, in the
        # difference.
        x = x.detach()
        mean = torch.sub(x, x[0], out=out).T.mv(self.share).add_(x[0])
        return without_rounding(torch.sub(x, mean, out=out), x)


class Kernel:
    """A kernel matrix of centred features [sample, feature] in blocks of rows.

    x xT, or with a sigma exp(-d^2 / (2 sigma^2)) - 1. Centring takes the constant away again, and a wide kernel keeps
    its digits.
    """

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
    return (x @ y.T).mul_(-2).add_(x_squares[:, None]).add_(y_squares).clamp_(min=0)


def _median_distance(x: Tensor) -> float:
    """The median over pairs i < j of rows."""
    x = centre(x)
    if (n := len(x)) > MEDIAN_ROWS:
        x = x[torch.arange(MEDIAN_ROWS, device=x.device) * n // MEDIAN_ROWS]
    squares = (x * x).sum(dim=1)
    squared = _squared_distances(x, squares, x, squares)
    return float(median(squared.flatten().index_select(0, pair_places(len(x), x.device)).sqrt_()))


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
            k, m = (_centre_rows(b, margin, start, unbiased) for b, margin in zip((k, m), margins, strict=True))
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
        if not (self.own > NOTHING**2 * self.raw[0] and self.other > NOTHING**2 * self.raw[1]):
            return float("nan")
        return self.both / (self.own**0.5 * self.other**0.5)


def _centre_rows(rows: Tensor, sums: Tensor, start: int, unbiased: bool) -> Tensor:
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


KORNBLITH = "Kornblith et al. 2019 (1905.00414)"
SONG = "Song et al. 2012, eq. 5"


def blocks_of(side: Side, tap: str, scale: float = 1.0) -> Iterator[Tensor]:
    """A tap's features [sample, block] where the two sides are compared, as stored unless a scale asks for more."""
    for block in side.blocks(tap):
        x = torch.from_numpy(block).to(side.device)
        yield x if scale == 1 else as_tensor(x) * scale


def scale_of_tap(side: Side, tap: str, name: str) -> float:
    """The `scale_of` a tap for the measure of this name; a DiagnosticsError where it holds NaN or infinity."""
    peak = 0.0
    for block in blocks_of(side, tap):
        require_finite_tap(block, name, tap)
        peak = max(peak, float(block.abs().amax()))
    return scale_of(peak)


class Products(Similarity):
    """A similarity of kernels: a tap is prepared as a vector of unit norm, and a pair's value is their product."""

    needs = "tokens"
    least = 4

    def compare(self, a: Any, b: Any) -> float:
        return float(a @ b)

    def pairs(self, firsts: Taps, seconds: Taps, upper: bool) -> np.ndarray:
        return pair_products(firsts, seconds)


class _Alignment(Products):
    """Debiased CKA of all pairs of taps."""

    invariant_to = ("rotation", "scale", "shift")
    most_rows = MOST_ROWS
    permutations = PERMUTATIONS

    @abstractmethod
    def upper(self, blocks: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
        """The kernel of features in blocks [sample, feature], in `out` where given, read above its diagonal only."""

    def of_tap(self, side: Side, tap: str) -> tuple[Any, str]:
        upper = self.upper(blocks_of(side, tap), side.kernel)
        # A sample that is not finite, or overflows, is not at its own place either; and squares of small numbers
        # vanish.
        if not ordinary(float(upper.diagonal().sum().sqrt())):
            upper = self.upper(blocks_of(side, tap, scale_of_tap(side, tap, self.name)), side.kernel)
        unit = unit_pairs(upper)
        if unit is not None and len(upper) >= SINGLE_KERNELS:
            unit = unit.float()
        return unit, "all samples are equal up to rounding, or equally far from one another" if unit is None else ""

    def prepare(self, x: Tensor) -> Any:
        return unit_pairs(self.upper([x]))

    def permute(self, a: Any, order: Tensor) -> Any:
        return permute_pairs(a, order)

    def shuffle(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        return products_of_shuffles(firsts, seconds, orders)


def _cka_of_noise(n: int, p: int, draws: int) -> float:
    """Mean biased CKA of independent Gaussian features [n, p]."""
    pairs = [(normal(n, p, seed=i), normal(n, p, seed=i + 1000)) for i in range(draws)]
    return float(np.mean([cka(*pair, unbiased=False) for pair in pairs]))


def _null_spread(n: int, draws: int = 60) -> float:
    """Standard deviation of debiased CKA of independent features times n."""
    return n * float(np.std([cka(normal(n, 24, seed=i), normal(n, 24, seed=i + 1000)) for i in range(draws)]))


Cka = define(
    _Alignment, "Cka",
    name="cka",
    answers="Which taps hold similar geometries of the samples?",
    source=f"{KORNBLITH}; unbiased HSIC: {SONG}; Székely and Rizzo 2014",
    standard=True,
    functional="debiased linear CKA: HSIC_1(K,L) / sqrt(HSIC_1(K,K) HSIC_1(L,L))",
    centring="features centred over samples, then the kernel U-centred",
    known_answers=(
        Case("rotated copy", 1, KORNBLITH, lambda: cka(sixty_samples(), sixty_samples() @ rotation(8, 0))),
        Case("biased, rotated copy", 1, KORNBLITH, lambda: cka(sixty_samples(), sixty_samples() @ rotation(8, 0), unbiased=False)),
        Case("scaled by 1e-4", 1, KORNBLITH, lambda: cka(sixty_samples(), 1e-4 * sixty_samples())),
        *(
            Case(f"scaled by 0.1 and shifted by {c:g}", 1, KORNBLITH, lambda c=c: cka(sixty_samples(), 0.1 * sixty_samples() + c))
            for c in (10.0, 100.0, 1e4)
        ),
        Case("both shifted by 1e4", 1, KORNBLITH, lambda: cka(sixty_samples() + 1e4, sixty_samples() + 1e4)),
        Case("biased, 6 orthonormal columns of which 2 are shared", 1 / 3, KORNBLITH, lambda: cka(*overlapping_columns(), unbiased=False)),
        Case("biased, same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 10 / 14, KORNBLITH, lambda: cka(*common_axes(), unbiased=False)),
        Case("arccos, same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.775193, "Williams et al. 2021 (2110.14739)", lambda: math.acos(cka(*common_axes(), unbiased=False))),
        Case("biased, one feature each: squared correlation", 0.617347, KORNBLITH, lambda: cka(column(0, 1, 3), column(1, 0, 3), unbiased=False)),
        Case("biased, n = 5: squared correlation", 0.777363, KORNBLITH, lambda: cka(column(1, 2, 4, 8, 5), column(1, 3, 2, 7, 6), unbiased=False)),
        Case("biased, independent, n = 64, p = 4096: sqrt(pq / ((n+p)(n+q)))", 0.9846, KORNBLITH, lambda: _cka_of_noise(64, 4096, 2), 1e-3),
        Case("biased, independent, n = p = 256 (mean of 3 draws)", 0.5, KORNBLITH, lambda: _cka_of_noise(256, 256, 3), 3e-3),
        Case("biased, independent, n = 1024, p = 192", 0.1579, KORNBLITH, lambda: _cka_of_noise(1024, 192, 1), 3e-3),
        Case("n = 4, rank-1 kernels", 0.098097, SONG, lambda: cka(column(1, 2, 4, 8), column(1, 3, 2, 7))),
        Case("n = 5, rank-1 kernels", 0.699261, SONG, lambda: cka(column(1, 2, 4, 8, 5), column(1, 3, 2, 7, 6))),
        *(
            Case(f"spread of independent features times n, n = {n} (60 draws): sqrt(2)", math.sqrt(2), "Song et al. 2012", lambda n=n: _null_spread(n), 0.45)
            for n in (64, 256)
        ),
        Case("biased, one feature each: squared sum of products over (n - 1)^2", (11 / 3) ** 2 / 4, "Gretton et al. 2005, eq. 9", lambda: hsic(column(0, 1, 3), column(1, 0, 3), unbiased=False), measure="hsic"),
        Case("n = 4, ab", 2.333333, SONG, lambda: hsic(column(1, 2, 4, 8), column(1, 3, 2, 7)), measure="hsic"),
        Case("n = 4, aa", 44.666667, SONG, lambda: hsic(column(1, 2, 4, 8), column(1, 2, 4, 8)), measure="hsic"),
        Case("n = 4, bb", 12.666667, SONG, lambda: hsic(column(1, 3, 2, 7), column(1, 3, 2, 7)), measure="hsic"),
        Case("n = 5, ab", 28.9, SONG, lambda: hsic(column(1, 2, 4, 8, 5), column(1, 3, 2, 7, 6)), measure="hsic"),
        Case("n = 5, aa", 38.5, SONG, lambda: hsic(column(1, 2, 4, 8, 5), column(1, 2, 4, 8, 5)), measure="hsic"),
        Case("n = 5, bb", 44.366667, SONG, lambda: hsic(column(1, 3, 2, 7, 6), column(1, 3, 2, 7, 6)), measure="hsic"),
    ),
    upper=lambda self, blocks, out=None: upper_gram(blocks, out),
)  # fmt: skip


def _of_independent_features() -> float:
    """Mean debiased RBF CKA of 20 draws of two sides [256, 8]."""
    sides = [(normal(256, 8, seed=i), normal(256, 8, seed=i + 1000)) for i in range(20)]
    return float(np.mean([cka(*pair, kernel="rbf") for pair in sides]))


def _rbf_upper(blocks: Iterable[Tensor], out: Tensor | None) -> Tensor:
    """The RBF kernel less 1 at the median distance, above its diagonal, of features in blocks [sample, feature]."""
    gram = upper_gram(blocks, out)
    squares = gram.diagonal().clone()
    squared = gram.mul_(-2).add_(squares[:, None]).add_(squares).clamp_(min=0)
    middle = float(median(squared.flatten().index_select(0, pair_places(len(squared), squared.device)).sqrt_()))
    if middle == 0:
        return torch.zeros_like(squared)
    # As in `kernels`, the constant 1 is left out.
    return squared.div_(-2 * middle).div_(middle).expm1_()


RbfCka = define(
    _Alignment, "RbfCka",
    name="cka_rbf",
    answers="Which taps hold similar neighbourhoods of the samples, with little weight on large distances?",
    source=f"{KORNBLITH}, section 3; unbiased HSIC: {SONG}",
    functional="debiased RBF CKA: HSIC_1 ratio with k = exp(-d^2 / (2 sigma^2))",
    centring="features centred over samples (which changes no distance), then the kernel U-centred",
    known_answers=(
        Case("biased, sigma 1", 0.985145, KORNBLITH, lambda: cka(column(0, 1, 3), column(1, 0, 3), kernel="rbf", sigma=1.0, unbiased=False)),
        Case("a large sigma minus linear", 0, "Alvarez 2022 (2112.09305)", lambda: cka(*two_parts(), kernel="rbf", sigma=1e4) - cka(*two_parts())),
        Case("rotated copy, scaled by 3 and shifted by 5", 1, KORNBLITH, lambda: cka(sixty_samples(), 3 * sixty_samples() @ rotation(8, 0) + 5, kernel="rbf")),
        Case("independent, n = 256 (mean of 20 draws)", 0, SONG, _of_independent_features, 4e-3),
    ),
    upper=lambda self, blocks, out=None: _rbf_upper(blocks, out),
    attributes=lambda self, n: {"sigma": "each tap's median distance over the pairs of samples"},
)  # fmt: skip

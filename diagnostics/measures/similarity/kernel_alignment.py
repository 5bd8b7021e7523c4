"""Debiased CKA (centred kernel alignment) of all pairs of taps, with linear and with Gaussian kernels."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.arrays import as_tensor, median, ordinary, require_finite_tap, scale_of
from diagnostics.measures.known_answers import (
    Case,
    column,
    normal,
    overlapping_columns,
    rotation,
    shared_axes,
    sixty_samples,
)
from diagnostics.measures.similarity import packed
from diagnostics.measures.similarity.base import Side, Similarity, Taps
from diagnostics.measures.similarity.kernels import MOST_ROWS, cka, hsic, upper_gram

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

    def compared(self, a: Any, b: Any) -> float:
        return float(a @ b)

    def pairs(self, firsts: Taps, seconds: Taps, upper: bool) -> np.ndarray:
        return packed.products(firsts, seconds)


class _Alignment(Products):
    """Debiased CKA of all pairs of taps."""

    invariant_to = ("rotation", "scale", "shift")
    most_rows = MOST_ROWS

    @abstractmethod
    def upper(self, blocks: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
        """The kernel of features in blocks [sample, feature], in `out` where given, read above its diagonal only."""

    def of_tap(self, side: Side, tap: str) -> tuple[Any, str]:
        upper = self.upper(blocks_of(side, tap), side.kernel)
        # A sample that is not finite, or overflows, is not at its own place either; and squares of small numbers vanish.
        if not ordinary(float(upper.diagonal().sum().sqrt())):
            upper = self.upper(blocks_of(side, tap, scale_of_tap(side, tap, self.name)), side.kernel)
        unit = packed.unit(upper)
        return unit, "all samples are equal up to rounding, or equally far from one another" if unit is None else ""

    def prepared(self, x: Tensor) -> Any:
        return packed.unit(self.upper([x]))

    def permuted(self, a: Any, order: Tensor) -> Any:
        return packed.moved(a, order)

    def shuffled(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        return packed.shuffled_products(firsts, seconds, orders)


def _inflated(n: int, p: int, draws: int) -> float:
    """Mean biased CKA of independent Gaussian features [n, p]."""
    pairs = [(normal(n, p, seed=i), normal(n, p, seed=i + 1000)) for i in range(draws)]
    return float(np.mean([cka(*pair, unbiased=False) for pair in pairs]))


def _null_spread(n: int, draws: int = 60) -> float:
    """Standard deviation of debiased CKA of independent features times n."""
    values = [cka(normal(n, 24, seed=i), normal(n, 24, seed=i + 1000)) for i in range(draws)]
    return n * float(np.std(values))


class Cka(_Alignment):
    name = "cka"
    answers = "Which taps hold similar geometries of the samples?"
    source = f"{KORNBLITH}; unbiased HSIC: {SONG}; Székely and Rizzo 2014"
    standard = True
    functional = "debiased linear CKA: HSIC_1(K,L) / sqrt(HSIC_1(K,K) HSIC_1(L,L))"
    centring = "features centred over samples, then the kernel U-centred"
    known_answers = (
        Case("rotated copy", 1, KORNBLITH, lambda: cka(sixty_samples(), sixty_samples() @ rotation(8, 0))),
        Case("biased, rotated copy", 1, KORNBLITH, lambda: cka(sixty_samples(), sixty_samples() @ rotation(8, 0), unbiased=False)),
        Case("scaled by 1e-4", 1, KORNBLITH, lambda: cka(sixty_samples(), 1e-4 * sixty_samples())),
        *(
            Case(f"scaled by 0.1 and shifted by {c:g}", 1, KORNBLITH, lambda c=c: cka(sixty_samples(), 0.1 * sixty_samples() + c))
            for c in (10.0, 100.0, 1e4)
        ),
        Case("both shifted by 1e4", 1, KORNBLITH, lambda: cka(sixty_samples() + 1e4, sixty_samples() + 1e4)),
        Case("biased, 6 orthonormal columns of which 2 are shared", 1 / 3, KORNBLITH, lambda: cka(*overlapping_columns(), unbiased=False)),
        Case("biased, same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 10 / 14, KORNBLITH, lambda: cka(*shared_axes(), unbiased=False)),
        Case("arccos, same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.775193, "Williams et al. 2021 (2110.14739)", lambda: math.acos(cka(*shared_axes(), unbiased=False))),
        Case("biased, one feature each: squared correlation", 0.617347, KORNBLITH, lambda: cka(column(0, 1, 3), column(1, 0, 3), unbiased=False)),
        Case("biased, n = 5: squared correlation", 0.777363, KORNBLITH, lambda: cka(column(1, 2, 4, 8, 5), column(1, 3, 2, 7, 6), unbiased=False)),
        Case("biased, independent, n = 64, p = 4096: sqrt(pq / ((n+p)(n+q)))", 0.9846, KORNBLITH, lambda: _inflated(64, 4096, 2), 1e-3),
        Case("biased, independent, n = p = 256 (mean of 3 draws)", 0.5, KORNBLITH, lambda: _inflated(256, 256, 3), 3e-3),
        Case("biased, independent, n = 1024, p = 192", 0.1579, KORNBLITH, lambda: _inflated(1024, 192, 1), 3e-3),
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
    )  # fmt: skip

    def upper(self, blocks: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
        return upper_gram(blocks, out)


def _of_independent_features() -> float:
    """Mean debiased RBF CKA of 20 draws of two sides [256, 8]."""
    sides = [(normal(256, 8, seed=i), normal(256, 8, seed=i + 1000)) for i in range(20)]
    return float(np.mean([cka(*pair, kernel="rbf") for pair in sides]))


def _large_sigma_minus_linear() -> float:
    x, y = sixty_samples()[:, :4], sixty_samples()[:, 2:]
    return cka(x, y, kernel="rbf", sigma=1e4) - cka(x, y)


class RbfCka(_Alignment):
    name = "cka_rbf"
    answers = "Which taps hold similar neighbourhoods of the samples, with little weight on large distances?"
    source = f"{KORNBLITH}, section 3; unbiased HSIC: {SONG}"
    functional = "debiased RBF CKA: HSIC_1 ratio with k = exp(-d^2 / (2 sigma^2))"
    centring = "features centred over samples (which changes no distance), then the kernel U-centred"
    known_answers = (
        Case("biased, sigma 1", 0.985145, KORNBLITH, lambda: cka(column(0, 1, 3), column(1, 0, 3), kernel="rbf", sigma=1.0, unbiased=False)),
        Case("a large sigma minus linear", 0, "Alvarez 2022 (2112.09305)", _large_sigma_minus_linear),
        Case("rotated copy, scaled by 3 and shifted by 5", 1, KORNBLITH, lambda: cka(sixty_samples(), 3 * sixty_samples() @ rotation(8, 0) + 5, kernel="rbf")),
        Case("independent, n = 256 (mean of 20 draws)", 0, SONG, _of_independent_features, 4e-3),
    )  # fmt: skip

    def upper(self, blocks: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
        gram = upper_gram(blocks, out)
        squares = gram.diagonal().clone()
        squared = gram.mul_(-2).add_(squares[:, None]).add_(squares).clamp_(min=0)
        middle = float(median(squared.flatten().index_select(0, packed.places(len(squared), squared.device)).sqrt_()))
        if middle == 0:
            return torch.zeros_like(squared)
        # As in `kernels`, the constant 1 is left out.
        return squared.div_(-2 * middle).div_(middle).expm1_()

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"sigma": "each tap's median distance over the pairs of samples"}

"""Debiased CKA (centred kernel alignment) of all pairs of taps, with linear and with Gaussian kernels."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.arrays import as_tensor, median, ordinary, require_finite_tap, scale_of
from diagnostics.measures.similarity import packed
from diagnostics.measures.similarity.base import Side, Similarity, Taps
from diagnostics.measures.similarity.kernels import MOST_ROWS, upper_gram


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
        return unit, "all samples are equal, rounding aside, or equally far from one another" if unit is None else ""

    def prepared(self, x: Tensor) -> Any:
        return packed.unit(self.upper([x]))

    def permuted(self, a: Any, order: Tensor) -> Any:
        return packed.moved(a, order)

    def shuffled(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        return packed.shuffled_products(firsts, seconds, orders)


class Cka(_Alignment):
    name = "cka"
    answers = "Which taps hold alike geometries of the samples?"
    source = "Kornblith et al. 2019 (1905.00414); unbiased HSIC: Song et al. 2012, eq. 5; Székely and Rizzo 2014"
    standard = True
    functional = "debiased linear CKA: HSIC_1(K,L) / sqrt(HSIC_1(K,K) HSIC_1(L,L))"
    centring = "features centred over samples, then the kernel U-centred"

    def upper(self, blocks: Iterable[Tensor], out: Tensor | None = None) -> Tensor:
        return upper_gram(blocks, out)


class RbfCka(_Alignment):
    name = "cka_rbf"
    answers = "Which taps hold alike neighbourhoods of the samples, far distances counting little?"
    source = "Kornblith et al. 2019 (1905.00414), section 3; unbiased HSIC: Song et al. 2012, eq. 5"
    functional = "debiased RBF CKA: HSIC_1 ratio with k = exp(-d^2 / (2 sigma^2))"
    centring = "features centred over samples (which changes no distance), then the kernel U-centred"

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

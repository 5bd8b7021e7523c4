"""Kernels of many taps, packed: one float64 vector for each tap, over the pairs i < j of samples.

U-centred kernels are symmetric with zero diagonal, so these n (n - 1) / 2 numbers are all there is; divided by their norm,
the similarity of two taps is the product of two vectors, and permuting samples only moves entries.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

# A kernel whose centred part is this small beside the kernel itself is rounding error, not structure.
NOTHING = 1e-12
# Pairs at a time: what two dozen taps need for as many stays in a processor's cache.
BLOCK = 2**13


def unit(upper: Tensor) -> Tensor | None:
    """`centred` divided by its norm; None where nothing but rounding error is left."""
    size = float(upper.triu_(1).norm())
    return scaled(centred(upper), size)


def centred(upper: Tensor) -> Tensor:
    """The U-centred kernel (Székely and Rizzo 2014, eq. 2.9) over pairs i < j, of [sample, sample], which is read above its
    diagonal only and overwritten."""
    upper.triu_(1)
    n = len(upper)
    sums = upper.sum(dim=0) + upper.sum(dim=1)
    means, mean = sums / (n - 2), sums.sum() / ((n - 1) * (n - 2))
    upper -= (means - mean)[:, None]
    upper -= means
    return upper.flatten().index_select(0, places(n, upper.device))


def scaled(values: Tensor, size: float) -> Tensor | None:
    """A vector over pairs divided by its norm in place; None where that is nothing beside `size`, the kernel's own."""
    norm = float(values.norm())
    if not norm > NOTHING * size:
        return None
    values /= norm
    return values


def moved(values: Tensor, order: Tensor) -> Tensor:
    """The vector of a kernel whose samples are reordered: entry (i, j) is that of (order[i], order[j])."""
    n = len(order)
    rows, columns = _samples(n, order.device)
    return values.index_select(0, _entries(order.index_select(0, rows), order.index_select(0, columns), n))


def products(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> np.ndarray:
    """All products, float64 [first, second], without a copy of all the vectors."""
    total = torch.zeros(len(firsts), len(seconds), dtype=torch.float64, device=firsts[0].device)
    same = firsts is seconds
    for start in range(0, len(firsts[0]), BLOCK):
        part = slice(start, start + BLOCK)
        first = torch.stack([kernel[part] for kernel in firsts])
        total += first @ (first if same else torch.stack([kernel[part] for kernel in seconds])).T
    return total.cpu().numpy()


def shuffled_products(
    firsts: Sequence[Tensor], seconds: Sequence[Tensor], orders: Iterator[Tensor]
) -> Iterator[np.ndarray]:
    """`products` for each order of the second side's samples, in single precision (an error near 1e-7)."""
    # Entries of all taps lie side by side, so that a permutation fetches those of a pair together.
    first = torch.stack([kernel.float() for kernel in firsts])
    second = torch.stack([kernel.float() for kernel in seconds], dim=1)
    for order in orders:
        n = len(order)
        rows, columns = _samples(n, order.device)
        total = torch.zeros(len(firsts), len(seconds), dtype=torch.float32, device=first.device)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            entries = _entries(order.index_select(0, rows[part]), order.index_select(0, columns[part]), n)
            total += first[:, part] @ second.index_select(0, entries)
        yield total.double().cpu().numpy()


def _entries(rows: Tensor, columns: Tensor, n: int) -> Tensor:
    """Where the pairs (rows, columns), in whatever order the two come, stand in a vector over pairs."""
    low, high = torch.minimum(rows, columns), torch.maximum(rows, columns)
    return low * (2 * n - 1 - low) // 2 + high - low - 1


@functools.lru_cache(maxsize=2)
def _samples(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two samples of each pair i < j."""
    rows, columns = torch.triu_indices(n, n, 1, device=device)
    return rows, columns


@functools.lru_cache(maxsize=2)
def places(n: int, device: torch.device) -> Tensor:
    """Where each pair i < j stands in a flattened [sample, sample]."""
    rows, columns = torch.triu_indices(n, n, 1, device=device)
    return rows * n + columns

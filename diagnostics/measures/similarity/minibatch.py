"""CKA estimated from minibatches, for sample sizes whose n x n kernel is too large.

Also the estimator of the torch-cka package, unchanged, to reproduce numbers published with it.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diagnostics.errors import DiagnosticsError, importing
from diagnostics.measures.arrays import as_tensor, centre, ordinary, pair, require_finite_tap, rescale
from diagnostics.measures.base import Arrays, Case, column, normal, sixty_samples, two_parts
from diagnostics.measures.similarity.base import Side, Similarity, Swaps, Taps
from diagnostics.measures.similarity.kernels import (
    NOTHING,
    SONG,
    Kernel,
    Products,
    Sums,
    blocks_of,
    centre_pairs,
    cka,
    pair_products,
    permute_pairs,
    scale_of_tap,
    scale_pairs,
)

BATCH = 64
LEAST = 4
"""Samples of a batch: HSIC_1 has no value below."""
MOST_ROWS = 16384
NGUYEN = "Nguyen et al. 2021 (2010.15327)"


def minibatch_cka(x: Any, y: Any, *, batch_size: int = BATCH) -> float:
    """Minibatch CKA (Nguyen et al. 2021, 2010.15327, eq. 2): an estimate of debiased linear CKA from batches.

    HSIC_1 of the pair and of each side is summed over batches of `batch_size` consecutive samples, then divided once. A
    last batch that is not full weighs by its samples; one below 4 samples is left out. Same population value as `cka`,
    not the same number: .01 to .06 apart for 512 images in batches of 8 to 64. Rows in an order that means something
    (by class, by video) make batches that do not stand for the whole: shuffle first, x and y alike.

    x, y: [sample, feature], rows aligned. NaN where a side has nothing to compare. Raises DiagnosticsError for fewer
    than 4 samples or a batch size below 4, unequal numbers of samples and values that are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import cka, minibatch_cka
        >>> x, y = np.random.default_rng(0).normal(size=(2, 40, 2))
        >>> rotated = x @ [[0, 5], [-5, 0]] + 9  # and scaled and shifted
        >>> round(minibatch_cka(x, rotated, batch_size=8), 6)
        1.0
        >>> bool(np.isclose(minibatch_cka(x, y, batch_size=40), cka(x, y)))  # one batch
        True
    """
    first, second = (rescale(side) for side in pair(x, y, LEAST))
    if batch_size < LEAST:
        raise DiagnosticsError(
            f"A batch size of {batch_size} is too small: give at least {LEAST} samples a batch.", code="bad-value"
        )
    total = MinibatchCka()
    for start in range(0, len(first), batch_size):
        total.update(first[start : start + batch_size], second[start : start + batch_size])
    return total.value()


class MinibatchCka:
    """The sums of `minibatch_cka`, batch by batch; those of two parts of the data merge into those of the whole.

    `samples` counts what took part, `left_out` the samples of batches below 4.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import MinibatchCka, minibatch_cka
        >>> x, y = np.random.default_rng(0).normal(size=(2, 64, 3))
        >>> first, second = MinibatchCka(), MinibatchCka()
        >>> first.update(x[:32], y[:32])
        >>> second.update(x[32:], y[32:])
        >>> first.merge(second)
        >>> whole = minibatch_cka(x, y, batch_size=32)
        >>> first.samples, bool(np.isclose(first.value(), whole))
        (64, True)
    """

    def __init__(self) -> None:
        self.samples = self.left_out = 0
        # Of the pair and of either side; then the sizes of the kernels themselves, beside which these must be
        # something.
        self._sums = np.zeros(5)

    def update(self, x: Any, y: Any) -> None:
        """Add a batch, [sample, feature] each."""
        first, second = pair(x, y)
        n = len(first)
        if n < LEAST:
            self.left_out += n
            return
        sums = Sums(Kernel(first), Kernel(second), unbiased=True)
        # HSIC_1 of the batch, times its samples.
        self._sums += np.array([sums.both, sums.own, sums.other, *sums.raw]) / (n - 3)
        self.samples += n

    def merge(self, other: MinibatchCka) -> None:
        """Add what another one has seen."""
        self._sums += other._sums
        self.samples += other.samples
        self.left_out += other.left_out

    def value(self) -> float:
        """The estimate so far; NaN where a side had nothing to compare."""
        both, own, other, raw, raw_other = self._sums.tolist()
        if not (own > NOTHING**2 * raw and other > NOTHING**2 * raw_other):
            return float("nan")
        return both / (own**0.5 * other**0.5)


def batches(n: int, size: int) -> list[slice]:
    """The rows of each batch, a last one below 4 left out."""
    parts = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    return [rows for rows in parts if rows.stop - rows.start >= LEAST]


def pairs_of(parts: Sequence[slice]) -> int:
    """Pairs of samples within batches."""
    return sum(n * (n - 1) // 2 for n in (rows.stop - rows.start for rows in parts))


def batch_kernels(blocks: Iterable[Tensor], parts: Sequence[slice]) -> list[Tensor]:
    """The linear kernel of each batch, of features that come in blocks [sample, feature], each centred first."""
    kernels: list[Tensor] = []
    for block in blocks:
        x = centre(block)
        products = [x[rows] @ x[rows].T for rows in parts]
        kernels = [kernel.add_(new) for kernel, new in zip(kernels, products, strict=True)] if kernels else products
    return kernels


def _in_batches(size: int, *pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """Minibatch CKA of these sides one below the other, each [sample, feature]."""
    return minibatch_cka(np.vstack([x for x, _ in pairs]), np.vstack([y for _, y in pairs]), batch_size=size)


def _of_taps_minus_plain() -> float:
    x, y = normal(BATCH + 6, 4, seed=8), normal(BATCH + 6, 3, seed=9)
    taps = Arrays({"x": x, "y": y + x[:, :3]}, ["train"] * len(x))
    matrix = MinibatchAlignment().compute(taps, None, 0)["matrix"]
    return float(matrix.sel(tap="x", tap_other="y")) - minibatch_cka(x, y + x[:, :3], batch_size=BATCH)


class MinibatchAlignment(Products):
    """Minibatch CKA: a tap is the kernels of its batches, one vector of unit norm."""

    name = "minibatch_cka"
    answers = "Which taps hold similar geometries of the samples, estimated from small batches?"
    source = f"{NGUYEN}, eq. 2; unbiased HSIC: {SONG}"
    invariant_to = ("rotation", "scale", "shift")
    most_rows = MOST_ROWS
    functional = f"an estimate of debiased linear CKA from batches of {BATCH}: ratio of HSIC_1 summed over batches"
    centring = "features centred over samples, then the kernel of each batch U-centred"
    known_answers = (
        Case("one batch of all samples minus debiased CKA", 0, NGUYEN, lambda: minibatch_cka(*two_parts(), batch_size=60) - cka(*two_parts())),
        Case("shifted copy, batches of 8", 1, NGUYEN, lambda: minibatch_cka(sixty_samples(), 0.1 * sixty_samples() + 100, batch_size=8)),
        Case("two batches of (1, 2, 4, 8) and (1, 3, 2, 7): sums, divided once", 0.098097, NGUYEN, lambda: _in_batches(4, *[(column(1, 2, 4, 8), column(1, 3, 2, 7))] * 2)),
        Case("batches of 5 and 4 samples: each weighs by its samples", (5 * 28.9 + 4 * 7 / 3) / math.sqrt((5 * 38.5 + 4 * 134 / 3) * (5 * 1331 / 30 + 4 * 38 / 3)), NGUYEN, lambda: _in_batches(5, (column(1, 2, 4, 8, 5), column(1, 3, 2, 7, 6)), (column(1, 2, 4, 8), column(1, 3, 2, 7)))),
        Case("of two taps, a full batch and one of 6 samples, minus the plain function", 0, NGUYEN, _of_taps_minus_plain),
    )  # fmt: skip

    def of_tap(self, side: Side, tap: str) -> tuple[Any, str]:
        parts = batches(len(side.rows), BATCH)
        kernels = batch_kernels(map(as_tensor, blocks_of(side, tap)), parts)
        if not ordinary(sum(float(kernel.diagonal().sum().sqrt()) for kernel in kernels)):
            kernels = batch_kernels(map(as_tensor, blocks_of(side, tap, scale_of_tap(side, tap, self.name))), parts)
        if (kernel := join_batches(kernels)) is not None:
            return kernel, ""
        return None, "all samples of each batch are equal up to rounding, or equally far from one another"

    def prepare(self, x: Tensor) -> Any:
        return join_batches(batch_kernels([x], batches(len(x), BATCH)))

    def permute(self, a: Any, order: Tensor) -> Any:
        parts = batches(len(order), BATCH)
        kernels = a.split([pairs_of([rows]) for rows in parts])
        return torch.cat(
            [permute_pairs(kernel, order[rows] - rows.start) for kernel, rows in zip(kernels, parts, strict=True)]
        )

    def swappable(self, groups: np.ndarray) -> Swaps:
        # Samples stay in their batch, whose kernel is all there is of them; a group may lie in several batches.
        if len(np.unique(groups.astype(str))) < len(groups):
            return Swaps((), never="samples come in groups, and batches hold no whole ones")
        within = tuple(np.arange(rows.start, rows.stop)[:, None] for rows in batches(len(groups), BATCH))
        return Swaps(within, "the samples within each batch")

    def attributes(self, n: int) -> Mapping[str, Any]:
        used = sum(rows.stop - rows.start for rows in batches(n, BATCH))
        left_out = f"the last batch of {n - used} is left out" if used < n else "none"
        return {"batch_size": BATCH, "left_out": left_out}


def join_batches(kernels: Sequence[Tensor], *, weigh: bool = True) -> Tensor | None:
    """The vector of unit norm whose products are the ratio of sums over batches.

    Each weighs by its samples or alike.
    """
    size, parts = 0.0, list[Tensor]()
    for kernel in kernels:
        n = len(kernel)
        weight = 1 / ((n - 3) if weigh else n * (n - 3))
        size += weight * float(kernel.triu(1).square().sum())
        parts.append(centre_pairs(kernel) * weight**0.5)
    return scale_pairs(torch.cat(parts), size**0.5)


MOST_REPLAYED = 1024
MOST_BYTES = 4 * 2**30
"""Of activations, all of which the package's models must have at hand."""


class Replay(nn.Module):
    """A model whose layers give stored features of the samples whose numbers it is given.

    For packages that want models.
    """

    def __init__(self, taps: Sequence[Tensor]) -> None:
        super().__init__()
        self.taps = list(taps)
        self.layers = nn.ModuleList(nn.Identity() for _ in taps)

    def forward(self, index: Tensor) -> Tensor:
        """Run all layers; the package listens at each."""
        for layer, tap in zip(self.layers, self.taps, strict=True):
            layer(tap[index])
        return index

    @property
    def names(self) -> list[str]:
        """The layers' names in the order in which they run, which is also the order in which they are registered."""
        return [f"layers.{i}" for i in range(len(self.taps))]


class TorchCka(Similarity):
    """torch-cka's CKA of every pair of taps, and beside it the same estimate in float64 from centred features."""

    name = "torch_cka"
    answers = "What does the torch-cka package find?"
    source = "the package torch-cka (0.21), after Nguyen et al. 2021 (2010.15327)"
    invariant_to = ("rotation", "scale", "shift", "in exact arithmetic alone")
    needs = "tokens"
    least = LEAST
    most_rows = MOST_REPLAYED
    permutations = 0
    functional = f"torch-cka's minibatch CKA, batches of {BATCH} in the order of the rows, float32"
    centring = "none before the kernel, which is how the package does it"
    known_to_fail: ClassVar[str] = (
        "a minibatch estimate, not CKA of all samples; float32 kernels of uncentred features: a layer against itself times "
        "0.1 plus 10 gave .02 to .23 or NaN instead of 1, plus 100 about 0, infinity or NaN, and an entry that is NaN here "
        "is one whose HSIC with itself came out negative; a last batch of 2 or 3 samples divides by zero (left out here)"
    )

    def of_tap(self, side: Side, tap: str) -> tuple[Any, str]:
        size = sum(4 * len(side.rows) * t.tokens * t.features for t in side.activations.taps) if side.whole else 0
        if size > MOST_BYTES:
            raise DiagnosticsError(
                f"{self.name} needs all activations of {len(side.rows)} samples in memory at once, here "
                f"{size / 2**30:.1f} GiB: take fewer taps (--taps), or the measures cka or minibatch_cka.",
                code="too-large",
            )
        x = torch.cat([as_tensor(block).float() for block in side.blocks(tap)], dim=1).to(side.device)
        require_finite_tap(x, self.name, tap)
        why = self.reason(x)
        return (None, why) if why else (x, "")

    def prepare(self, x: Tensor) -> Any:
        return x.float()

    def reason(self, x: Tensor) -> str:
        return "all samples are equal" if bool((x == x[:1]).all()) else ""

    def compare(self, a: Any, b: Any) -> float:
        return float(self.pairs([a], [b], upper=False)[0, 0])

    def pairs(self, firsts: Taps, seconds: Taps, upper: bool) -> np.ndarray:
        return torch_cka(firsts, seconds, BATCH)

    def beside(self, firsts: Taps, seconds: Taps) -> Mapping[str, np.ndarray]:
        # The package's estimate, every batch weighing alike, with what it rounds away.
        parts = batches(len(firsts[0]), BATCH)

        def vectors(taps: Taps) -> list[Tensor]:
            nothing = torch.full((pairs_of(parts),), torch.nan, dtype=torch.float64, device=taps[0].device)
            vectors_of_taps = (join_batches(batch_kernels([tap.double()], parts), weigh=False) for tap in taps)
            return [nothing if vector is None else vector for vector in vectors_of_taps]

        return {"in_float64": pair_products(vectors(firsts), vectors(seconds))}

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"batch_size": BATCH, "known_to_fail": self.known_to_fail}


def torch_cka(firsts: Sequence[Tensor], seconds: Sequence[Tensor], batch_size: int) -> np.ndarray:
    """The package's values for stored features [sample, feature] as the layers of two models, [first, second].

    Batches are consecutive samples; a last one below 4, at which it divides by zero, is left out. NaN where its sums
    are. Raises DiagnosticsError where it is not installed.
    """
    with importing("torch_cka needs", "pip install torch-cka"):
        from torch_cka import CKA
    n = len(firsts[0])
    rows = torch.arange(n - n % batch_size if n % batch_size < LEAST else n)
    # Not shuffled: the package draws the order anew for each of two models.
    loader = DataLoader(TensorDataset(rows), batch_size=batch_size, shuffle=False)
    first, second = Replay(firsts), Replay(seconds)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        package = CKA(first, second, "first", "second", first.names, second.names, device=str(firsts[0].device))
        # It asserts that nothing is NaN, after it has stored what it found.
        with contextlib.suppress(AssertionError):
            package.compare(loader, loader)
    return package.hsic_matrix.double().cpu().numpy()

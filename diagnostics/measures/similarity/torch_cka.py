"""The estimator of the torch-cka package, unchanged, to reproduce numbers published with it."""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor, require_finite_tap
from diagnostics.measures.similarity import packed
from diagnostics.measures.similarity.base import Side, Similarity, Taps
from diagnostics.measures.similarity.minibatch import BATCH, LEAST, batch_kernels, batches, joined, pairs_of

MOST_ROWS = 1024
MOST_BYTES = 4 * 2**30
"""Of activations, all of which the package's models must have at hand."""


class Replay(nn.Module):
    """A model whose layers give stored features of the samples whose numbers it is given: for packages that want models."""

    def __init__(self, taps: Sequence[Tensor]) -> None:
        super().__init__()
        self.taps = list(taps)
        self.layers = nn.ModuleList(nn.Identity() for _ in taps)

    def forward(self, index: Tensor) -> Tensor:
        """Runs all layers; the package listens at each."""
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
    most_rows = MOST_ROWS
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
                f"{self.name} needs all activations of {len(side.rows)} samples in memory at once, here {size / 2**30:.1f} "
                "GiB: take fewer taps (--taps), or the measures cka or minibatch_cka."
            )
        blocks = [as_tensor(block).float() for block in side.blocks(tap)]
        x = torch.cat(blocks, dim=1).to(side.device)
        require_finite_tap(x, self.name, tap)
        why = self.reason(x)
        return (None, why) if why else (x, "")

    def prepared(self, x: Tensor) -> Any:
        return x.float()

    def reason(self, x: Tensor) -> str:
        return "all samples are equal" if bool((x == x[:1]).all()) else ""

    def compared(self, a: Any, b: Any) -> float:
        return float(self.pairs([a], [b], upper=False)[0, 0])

    def pairs(self, firsts: Taps, seconds: Taps, upper: bool) -> np.ndarray:
        return torch_cka(firsts, seconds, BATCH)

    def beside(self, firsts: Taps, seconds: Taps) -> Mapping[str, np.ndarray]:
        # The package's estimate, every batch weighing alike, with what it rounds away.
        parts = batches(len(firsts[0]), BATCH)

        def vectors(taps: Taps) -> list[Tensor]:
            nothing = torch.full((pairs_of(parts),), torch.nan, dtype=torch.float64, device=taps[0].device)
            vectors_of_taps = (joined(batch_kernels([tap.double()], parts), weigh=False) for tap in taps)
            return [nothing if vector is None else vector for vector in vectors_of_taps]

        return {"in_float64": packed.products(vectors(firsts), vectors(seconds))}

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"batch_size": BATCH, "known_to_fail": self.known_to_fail}


def torch_cka(firsts: Sequence[Tensor], seconds: Sequence[Tensor], batch_size: int) -> np.ndarray:
    """The package's values for stored features [sample, feature] as the layers of two models, [first, second].

    Batches are consecutive samples; a last one below 4, at which it divides by zero, is left out. NaN where its sums are.
    Raises DiagnosticsError where it is not installed.
    """
    try:
        from torch_cka import CKA  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DiagnosticsError(
            f"torch_cka runs the package torch-cka, which cannot be imported ({error}): pip install torch-cka."
        ) from error
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

"""The encoder under test, the outcome of a check, and how activations are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder, Reduce, keep
from diagnostics.encoders.taps import Tap
from diagnostics.errors import describe
from diagnostics.vocabulary import Modality

Verdict = Literal["ok", "failed", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """One check: its verdict and a sentence; `figures` are what was measured, in the units that the sentence names."""

    verdict: Verdict
    message: str
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    check: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"check": self.check, "verdict": self.verdict, "said": self.message, "figures": dict(self.figures)}


def ok(message: str, **figures: float) -> Outcome:
    """The encoder does what the check asks."""
    return Outcome("ok", message, figures)


def failed(message: str, **figures: float) -> Outcome:
    """It does not; the sentence says what was found and what to mend."""
    return Outcome("failed", message, figures)


def not_applicable(message: str) -> Outcome:
    """The check has nothing to ask of this encoder, for the reason given."""
    return Outcome("not applicable", message)


# Activations that should be equal may differ by rounding, which depends on how many samples a kernel is given: this share
# of the tap's spread at most.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class NoPassError(Exception):
    """No forward pass succeeds, so that most checks have nothing to look at."""


class EncoderUnderTest:
    """An encoder with three different samples that it takes, and how to build it once more.

    `samples` are the encoder's example and two others of its size unless others are given; `again` builds the same encoder
    a second time, where that is known. Samples are raw, batches are prepared and collated.
    """

    def __init__(
        self, encoder: Encoder, samples: Sequence[np.ndarray] = (), again: Callable[[], Encoder] | None = None
    ) -> None:
        self.samples = list(samples) or variations(encoder.example(), encoder.modality)
        self.encoder = encoder.sized_for(self.samples[0])
        self.again = again
        self.passes = 0
        self._failure = ""
        self.order: list[str] = []
        """Names of the taps in the order in which they fired in the first pass."""
        self.identity: dict[str, str] = {}
        """Of the encoder, before the first pass."""

    @property
    def module(self) -> nn.Module | None:
        """The torch module of the encoder, where it shows one."""
        module = getattr(self.encoder, "module", None)
        return module if isinstance(module, nn.Module) else None

    @property
    def sites(self) -> bool:
        """Whether it shows a torch module and where in it each tap reads."""
        return self.module is not None and all(tap.site is not None for tap in self.encoder.taps)

    def batch(self, samples: Sequence[np.ndarray] | None = None) -> Any:
        """The samples (all three by default) prepared and collated."""
        return default_collate([self.encoder.preprocess(sample) for sample in samples or self.samples])

    def capture(self, batch: Any = None, reduce: Reduce = keep, taps: Sequence[str] | None = None) -> dict[str, Any]:
        """One forward pass, counted; on all three samples by default."""
        self.passes += 1
        return self.encoder.capture(self.batch() if batch is None else batch, taps, reduce)

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """`{tap: activations [3, T, F]}` of the first pass; NoPassError, each time, where that fails."""
        if self._failure:
            raise NoPassError(self._failure)

        def noting(tap: Tap, tokens: Tensor) -> Tensor:
            self.order.append(tap.name)
            return keep(tap, tokens)

        try:
            self.identity = dict(self.encoder.identity)
            return self.capture(reduce=noting)
        except Exception as error:
            self._failure = describe(error)
            raise NoPassError(self._failure) from error


def variations(example: np.ndarray, modality: Modality) -> list[np.ndarray]:
    """The example and two others of its form that share nothing with it but that."""
    rng = np.random.default_rng(0)
    if modality == "text":
        text = str(example)
        return [np.array(text), np.array(text[::-1]), np.array(text[: max(1, len(text) // 2)])]
    example = np.asarray(example)
    if modality in ("image", "video") and example.dtype == np.uint8:
        noise = [rng.integers(0, 256, example.shape, dtype=np.uint8) for _ in range(2)]
        return [example, noise[0], (noise[1] // 2).astype(np.uint8)]
    if modality == "audio":
        loud, quiet = (s * rng.standard_normal(example.shape).clip(-3, 3) for s in (0.3, 0.1))
        return [example, loud.astype(np.float32), quiet.astype(np.float32)]
    scale, middle = float(np.nanstd(example)) or 1.0, float(np.nanmean(example))
    noise = rng.standard_normal((2, *example.shape))
    return [example, middle + scale * noise[0], middle + scale * noise[1].cumsum(axis=0)]


def difference(tokens: Tensor, reference: Tensor) -> float:
    """The largest difference as a share of the spread of `reference` (as its largest number where all are alike).

    Infinite where shapes differ or either is not finite at another place.
    """
    if tokens.shape != reference.shape:
        return float("inf")
    if tokens.numel() == 0 or torch.equal(tokens, reference):
        return 0.0
    a, b = tokens.double(), reference.double()
    spread = float(b.std(correction=0)) or float(b.abs().max()) or 1.0
    worst = float((a - b).abs().max()) / spread
    return worst if worst == worst else float("inf")


def tolerance(tokens: Tensor) -> float:
    """The largest `difference` that rounding explains, by the dtype of the activations."""
    return TOLERANCE.get(tokens.dtype, 1e-3)


def worst_tap(activations: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> tuple[str, float, bool]:
    """The tap that differs most beyond its tolerance, its `difference`, and whether it lies within the tolerance."""
    differences = {name: difference(activations[name], reference[name]) for name in reference if name in activations}
    if not differences:
        return "", 0.0, True
    name = max(differences, key=lambda name: differences[name] / tolerance(reference[name]))
    return name, differences[name], differences[name] <= tolerance(reference[name])

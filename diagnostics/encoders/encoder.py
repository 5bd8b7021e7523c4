"""The encoder contract: what every encoder has and can be asked for, whatever its model is made with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.vocabulary import Modality

Reduce = Callable[[Tap, Tensor], Any]


def keep(tap: Tap, tokens: Tensor) -> Tensor:
    """The reduction that keeps all tokens: a copy [B, T, F], safe from later in-place operations."""
    return tokens.clone()


class Captured(dict[str, Any]):
    """What was read at some taps, `{tap name: value}`, and why it was not at others, `left_out`."""

    def __init__(self, values: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
        super().__init__(values)
        self.left_out = dict(left_out)


class Encoder(ABC):
    """A model with its preprocessing, seen through its taps.

    Subclasses set `name`, `modality`, `taps` (in order of execution) and `output_tap` (the name of the tap that the
    encoder's makers hand to users), and implement the abstract methods. A torch module needs no subclass: see
    `TorchEncoder`.
    """

    name: str
    modality: Modality
    taps: tuple[Tap, ...]
    output_tap: str
    rate: float | None = None
    """Samples a second (Hz) that audio must have, frames a second of a video; None where it does not matter."""
    spec: str = ""
    """The name that it was asked for, as on the command line; "" for an object made in Python."""
    skeleton: str = ""
    """A name that builds the same architecture, preprocessing and taps, whatever the weights; "" means `spec`."""
    lineage: Mapping[str, Any] = MappingProxyType({})
    """What made the weights, as plain JSON values. Comparisons read `group` (a label), `seed` (of the training) and `base`
    (the weights' identity of the encoder that an alignment started from)."""

    redrawn: float = 1.0
    """Of a control with other weights: which share of the encoder's numbers it has otherwise."""
    note: str = ""
    """What is to be known beside it, in words: of a control, which numbers are not drawn anew."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Digests of `weights`, `configuration` and `preprocessing`; equal digests mean equal activations."""

    @abstractmethod
    def example(self) -> np.ndarray:
        """A raw sample that the encoder accepts, for dry runs and cost estimates."""

    @abstractmethod
    def preprocess(self, sample: np.ndarray) -> Any:
        """One raw sample as what `torch.utils.data.default_collate` can batch."""

    @abstractmethod
    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        """`{tap name: reduce(tap, activations [sample, token, feature])}` from one forward pass.

        `reduce` runs on the device at the moment the tap fires, before a later operation can overwrite the tensor,
        and must not keep the tensor it is given. All taps when `taps` is None.
        """

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Captured:
        """`{tap name: reduce(tap, attention [sample, head, query, key])}` of the blocks that the taps stand after.

        Over all tokens of the tap, prefix tokens first. `reduce` returns a tensor [sample, ...], and may be given the
        batch in parts. Taps without one attention of their own are left out; raises where all are.
        """
        raise DiagnosticsError(f"{self.name} gives no attention.")

    def input_gradient(self, batch: Any, taps: Sequence[str] | None = None) -> Captured:
        """`{tap name: float tensor [sample, *places]}`: how strongly the tap's central grid token depends on each place.

        Places are those of the input that the grid covers, as the model takes it (pixels, time steps). Taps whose grid
        does not show which axes these are are left out; raises where all are.
        """
        raise DiagnosticsError(f"{self.name} gives no gradients.")

    def sized_for(self, sample: np.ndarray) -> Encoder:
        """This encoder with the grids that it has for samples of this size; raises when the size does not fit."""
        return self

    def valid(self, batch: Any, tap: Tap) -> Tensor | None:
        """Which grid tokens of a tap stand for data, bool [sample, grid token]; None where all do (no padding, no mask)."""
        return None

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """For a sample whose grid axes have these extents: the (start, stop) that the grid covers along each axis.

        Differs from `(0, extent)` where preprocessing crops, so that dense targets are cut as the input was.
        """
        return tuple((0.0, float(n)) for n in shape)

    def to(self, device: str) -> Encoder:
        """This encoder on a device; returns itself."""
        return self

    @contextmanager
    def on(self, device: str) -> Generator[None]:
        """This encoder on a device while inside, and afterwards where it was; by default `to` it and to the CPU."""
        self.to(device)
        try:
            yield
        finally:
            self.to("cpu")

    def fresh(self, seed: int) -> Encoder:
        """The same architecture with untrained weights: the control for what training brought."""
        raise DiagnosticsError(f"{self.name} has no weights to draw afresh.")

    def permuted(self, seed: int) -> Encoder:
        """The same weights, shuffled within each tensor: the control for the weights' distribution alone."""
        raise DiagnosticsError(f"{self.name} has no weights to permute.")

    def tap(self, name: str) -> Tap:
        """The tap of that name; unknown names raise with the nearest ones."""
        for tap in self.taps:
            if tap.name == name:
                return tap
        raise unknown("tap", name, [tap.name for tap in self.taps], f"See `diagnostics inspect {self.name}`.")

    @property
    def poolings(self) -> tuple[str, ...]:
        """How tokens are pooled, side by side: see `pool`."""
        grids = [tap.grid for tap in self.taps]
        last = ("last",) if any(grid.axes == ("t",) and grid.tokens > 1 for grid in grids) else ()
        prefix = ("prefix",) if any(grid.prefix for grid in grids) else ()
        return ("mean", *last, *prefix)

"""The encoder contract: attributes and methods that every encoder has, in any framework."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from torch import Tensor

from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.vocabulary import Modality

Reduce = Callable[[Tap, Tensor], Any]


def keep(tap: Tap, tokens: Tensor) -> Tensor:
    """The reduction that keeps everything: a copy of the tokens [B, T, F], safe from later in-place operations."""
    return tokens.clone()


class Captured(dict[str, Any]):
    """Values captured at taps, `{tap name: value}`, with the taps that have none and the reasons in `left_out`."""

    def __init__(self, values: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
        super().__init__(values)
        self.left_out = dict(left_out)


class Encoder(ABC):
    """A model with its preprocessing, seen through its taps.

    Subclasses set `name`, `modality`, `taps` (in order of execution) and `output_tap` (name of the tap whose activations the
    model's authors give to users), and implement the abstract methods. A torch module needs no subclass: use
    `TorchEncoder`.

    Examples:
        >>> import diagnostics as dx
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> encoder
        <TorchEncoder lorenz-forecast: series, 9 taps, output norm>
        >>> print(encoder.tap("blocks.3").grid)
        32 t
        >>> data = dx.build("dataset", "lorenz?n=40")
        >>> encoder.transform(data, tap="blocks.3").shape
        (40, 96)
    """

    name: str
    modality: Modality
    taps: tuple[Tap, ...]
    output_tap: str
    rate: float | None = None
    """Sampling rate (Hz) that audio must have, or frames per second of a video; None where it does not matter."""
    spec: str = ""
    """The name by which it was built, as on the command line; "" for an object made in Python."""
    skeleton: str = ""
    """A name that builds the same architecture, preprocessing and taps, with whatever weights; "" means `spec`."""
    files: tuple[Path, ...] = ()
    """Small data files (.json, .txt, .model) in the folder that `skeleton` names and that building it reads. A saved encoder
    contains them, so that loading it does not need the folder."""
    maker_names: Mapping[str, str] = MappingProxyType({})
    """Tap -> what the makers of the model call what stands there, as `{"norm": "last_hidden_state"}`."""
    lineage: Mapping[str, Any] = MappingProxyType({})
    """How the weights were made, as plain JSON values. Comparisons read `group` (a label), `seed` (of the training) and `base`
    (the weights' identity of the encoder that an alignment started from)."""

    pinned: bool = False
    """Whether `transform` takes only samples that are prepared to the shape of the example, since others need not mean the same: where
    taps were discovered, and of the encoder that a run or `TapFeatures` was fitted with."""
    redrawn: float = 1.0
    """Of a control encoder with redrawn weights: the share of the encoder's weights that differ in it."""
    note: str = ""
    """A remark for reports: of a control encoder, which weights are not redrawn."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Digests of `weights`, `configuration` and `preprocessing`; equal identities mean equal activations."""

    @abstractmethod
    def example(self) -> np.ndarray:
        """A raw sample that the encoder accepts, for dry runs and cost estimates."""

    @abstractmethod
    def preprocess(self, sample: np.ndarray) -> Any:
        """The model's input for one raw sample, in a form that `torch.utils.data.default_collate` can batch."""

    @abstractmethod
    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        """`{tap name: reduce(tap, activations [sample, token, feature])}` from one forward pass.

        `reduce` is called on the device when the tap fires, before a later operation can overwrite the tensor, and must not
        keep the tensor that it is given. All taps when `taps` is None.

        Examples:
            >>> from torch.utils.data import default_collate
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> batch = default_collate([encoder.preprocess(encoder.example())] * 2)
            >>> for tap, tokens in encoder.capture(batch, ["embed", "norm"]).items():
            ...     print(tap, tuple(tokens.shape))
            embed (2, 32, 48)
            norm (2, 32, 48)

            Only what is wanted of each tap, computed where the model is:

            >>> means = encoder.capture(batch, ["norm"], lambda tap, tokens: tokens.mean(1))
            >>> print(tuple(means["norm"].shape))
            (2, 48)
        """

    def transform(
        self,
        samples: Sequence[Any] | np.ndarray,
        tap: str | None = None,
        pooling: str | Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        device: str | None = None,
        tokens: bool = False,
    ) -> np.ndarray:
        """Features of new samples at a tap, float32 [sample, feature]: what a run stores of them (see `Run.features`).

        Parameters
        ----------
        samples: raw, as a `Dataset` of the encoder's modality holds them, or such a dataset; images also as paths or Pillow images.
            Their size is that of the first, and where `pinned` that of the example.
        tap: by default the output tap.
        pooling: one or several of `poolings`; all side by side where None, as a run stores them.
        batch_size: samples of a forward pass; by default 16 on a CPU, 128 on a GPU. It does not decide the result.
        device: `cuda` when there is one, else `cpu`. The model is afterwards where it was, in the mode that it was in.
        tokens: the grid tokens instead, [sample, token, feature], without prefix tokens.

        Raises DiagnosticsError for samples of another modality, of a size that the model cannot take or that is prepared to
        another shape than the example where it is `pinned`, and for those that give NaN or infinity, naming the sample by its place.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> data = dx.build("dataset", "lorenz?n=40")
            >>> encoder.transform(data, tap="blocks.1", pooling="mean").shape
            (40, 48)

            All poolings side by side, of the samples of one split:

            >>> encoder.poolings
            ('mean', 'last')
            >>> encoder.transform(data[data.split == "test"], tap="blocks.1").shape
            (8, 96)

            A token for each of 32 places in time:

            >>> encoder.transform(data, tap="blocks.1", tokens=True).shape
            (40, 32, 48)
        """
        from diagnostics.encoders.transform import transform

        return transform(self, samples, tap, pooling, batch_size, device, tokens)

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Captured:
        """`{tap name: reduce(tap, attention [sample, head, query, key])}` of the blocks whose outputs the taps read.

        Queries and keys are all tokens of the tap, prefix tokens first. `reduce` returns a tensor [sample, ...] and may be
        called with parts of the batch. Taps without exactly one attention of their own are left out.

        Raises DiagnosticsError where no tap has one.

        Examples:
            >>> from torch.utils.data import default_collate
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> batch = default_collate([encoder.preprocess(encoder.example())])
            >>> attention = encoder.attention(batch, ["blocks.0", "blocks.5"])
            >>> tuple(attention["blocks.5"].shape)
            (1, 4, 32, 32)

            Each row of it sums to 1:

            >>> bool((attention["blocks.5"].sum(-1) - 1).abs().max() < 1e-5)
            True
        """
        raise DiagnosticsError(f"{self.name} gives no attention.")

    def input_gradient(self, batch: Any, taps: Sequence[str] | None = None) -> Captured:
        """`{tap name: float tensor [sample, *places]}`: how strongly the tap's central grid token depends on each place.

        Places are those of the model's input that the grid covers (pixels, time steps). Taps whose grid does not show which
        axes of the input are places are left out.

        Raises DiagnosticsError where all taps are left out.

        Examples:
            >>> from torch.utils.data import default_collate
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> batch = default_collate([encoder.preprocess(encoder.example())])
            >>> gradient = encoder.input_gradient(batch, ["blocks.0"])["blocks.0"]
            >>> tuple(gradient.shape)
            (1, 512)

            The token in the middle of a causal encoder depends on no later step:

            >>> gradient[0].nonzero().max().item()
            271
        """
        raise DiagnosticsError(f"{self.name} gives no gradients.")

    def sized_for(self, sample: np.ndarray) -> Encoder:
        """The encoder for samples of this size, with the grids that it has then; itself where nothing differs.

        Raises DiagnosticsError for a size that the model cannot take.

        Examples:
            >>> import numpy as np
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> shorter = encoder.sized_for(np.zeros(256))
            >>> print(encoder.tap("norm").grid, "->", shorter.tap("norm").grid)
            32 t -> 16 t
        """
        return self

    def valid(self, batch: Any, tap: Tap) -> Tensor | None:
        """Which grid tokens of a tap represent data, bool [sample, grid token]; None where all do (no padding, no mask)."""
        return None

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """The (start, stop) that the grid covers along each axis of a sample whose grid axes have these extents.

        Differs from `(0, extent)` where preprocessing crops, so that dense targets are cropped like the input.
        """
        return tuple((0.0, float(n)) for n in shape)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values of these attributes (`spec`, `lineage`, ...), which shares all others, the model included.

        Raises TypeError for the name of no attribute.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> renamed = encoder.replace(name="mine", maker_names={"norm": "last_state"})
            >>> renamed, encoder.name
            (<TorchEncoder mine: series, 9 taps, output norm>, 'lorenz-forecast')
        """
        if strange := [name for name in changes if not hasattr(self, name)]:
            raise TypeError(f"{type(self).__name__} has no {strange[0]} that could be replaced.")
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def to(self, device: str) -> Encoder:
        """Moves the encoder to a device, and returns it."""
        return self

    @contextmanager
    def on(self, device: str) -> Generator[None]:
        """A context in which the encoder is on a device, and after which it is where it was (by default on the CPU)."""
        self.to(device)
        try:
            yield
        finally:
            self.to("cpu")

    def fresh(self, seed: int) -> Encoder:
        """A control encoder (baseline): the same architecture with untrained weights.

        Raises DiagnosticsError where it has no weights to draw.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> control = encoder.fresh(seed=0)
            >>> control
            <TorchEncoder lorenz-forecast (fresh weights): series, 9 taps, output norm>
            >>> control.identity["weights"] == encoder.identity["weights"]
            False
        """
        raise DiagnosticsError(f"{self.name} has no weights to draw afresh.")

    def permuted(self, seed: int) -> Encoder:
        """A control encoder (baseline): the same weights, shuffled within each tensor, which keeps their distribution.

        Raises DiagnosticsError where it has no weights to shuffle.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> encoder.permuted(seed=0).name
            'lorenz-forecast (permuted weights)'
        """
        raise DiagnosticsError(f"{self.name} has no weights to permute.")

    def tap(self, name: str) -> Tap:
        """The tap of that name. Raises DiagnosticsError, with the nearest names, where there is none.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> tap = encoder.tap("blocks.2")
            >>> print(tap.depth, tap.features, tap.grid)
            0.5 48 32 t
        """
        for tap in self.taps:
            if tap.name == name:
                return tap
        raise unknown(
            "tap", name, [tap.name for tap in self.taps], f"See `diagnostics inspect {self.spec}`." if self.spec else ""
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.modality}, {len(self.taps)} taps, output {self.output_tap}>"

    @property
    def poolings(self) -> tuple[str, ...]:
        """Names of the poolings of its tokens; see `diagnostics.encoders.pooling.pool`."""
        grids = [tap.grid for tap in self.taps]
        last = ("last",) if any(grid.axes == ("t",) and grid.tokens > 1 for grid in grids) else ()
        prefix = ("prefix",) if any(grid.prefix for grid in grids) else ()
        return ("mean", *last, *prefix)

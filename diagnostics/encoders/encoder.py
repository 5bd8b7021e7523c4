"""The encoder contract: attributes and methods that every encoder has, in any framework, and which samples fit one."""

from __future__ import annotations

import copy
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.encoders.modules import BATCH, by_name, computing, pool, select_poolings, usable_device
from diagnostics.encoders.pictures import to_pixels
from diagnostics.encoders.taps import Tap, require_one_grid, taps_together
from diagnostics.errors import DiagnosticsError, explaining, name_error, naming, refuse_values
from diagnostics.vocabulary import Modality

Reduce = Callable[[Tap, Tensor], Any]

AXES: dict[Modality, tuple[str, ...]] = {
    "image": ("[y, x]", "[y, x, channel]"),
    "video": ("[t, y, x, channel]",),
    "series": ("[time]", "[time, variate]"),
    "audio": ("[time]",),
    "text": (),
}
"""The axes that a sample of each modality may have; a text is a string."""
COLOURS = (1, 3)
"""Channels of an image that is taken for one where they come first: fewer than any side has pixels."""


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

    Subclasses set `name`, `modality`, `taps` (in order of execution) and `output_tap` (name of the tap whose
    activations the model's authors give to users), and implement the abstract methods. A torch module needs no
    subclass: use `TorchEncoder`.

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
    maker_names: Mapping[str, str] = MappingProxyType({})
    """Tap -> what the makers of the model call what stands there, as `{"norm": "last_hidden_state"}`."""
    lineage: Mapping[str, Any] = MappingProxyType({})
    """How the weights were made, as plain JSON values. Comparisons read `group` (a label), `seed` (of the training) and
    `base` (the weights' identity of the encoder that an alignment started from)."""

    side_by_side: tuple[str, ...] = ()
    """The taps that `transform` reads side by side where none is named; empty: the output tap."""

    pinned: bool = False
    """Whether `transform` takes only samples that are prepared to the shape of the example, since others need not mean
    the same: where taps were discovered, and of the encoder that a run or `TapFeatures` was fitted with."""

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

        `reduce` is called on the device when the tap fires, before a later operation can overwrite the tensor, and must
        not keep the tensor that it is given. All taps when `taps` is None.

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
        tap: str | Sequence[str] | None = None,
        pooling: str | Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        device: str | None = None,
        tokens: bool = False,
    ) -> np.ndarray:
        """Features of new samples at a tap, float32 [sample, feature]: what a run stores of them (see `Run.features`).

        Parameters
        ----------
        samples: raw, as a `Dataset` of the encoder's modality holds them, or such a dataset; images also as paths or
        Pillow images.
            Their size is that of the first, and where `pinned` that of the example.
        tap: by default `side_by_side` or the output tap; several are read one after the other, and their features
            stand side by side.
        pooling: one or several of `poolings`; all side by side where None, as a run stores them.
        batch_size: samples of a forward pass; by default 16 on a CPU, 128 on a GPU. It does not decide the result.
        device: `cuda` when there is one, else `cpu`. The model is afterwards where it was, in the mode that it was in.
        tokens: the grid tokens instead, [sample, token, feature], without prefix tokens.

        Raises DiagnosticsError for samples of another modality, of a size that the model cannot take or that is
        prepared to another shape than the example where it is `pinned`, and for those that give NaN or infinity, naming
        the sample by its place.

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
        if tokens and pooling is not None:
            raise DiagnosticsError(
                f"Tokens are not pooled: leave out either pooling={pooling!r} or tokens=True.", code="conflict"
            )
        tap = tap or self.side_by_side or None if not isinstance(tap, list) else tap
        if not isinstance(tap, str | None):
            more: dict[str, Any] = {"batch_size": batch_size, "device": device, "tokens": tokens}
            several = taps_together(tap)
            if tokens:
                require_one_grid(self.tap(one) for one in several)
            return np.concatenate([self.transform(samples, one, pooling, **more) for one in several], axis=-1)
        where = usable_device(device)
        if batch_size is not None and batch_size < 1:
            raise DiagnosticsError(f"Batch size {batch_size} is below 1.", code="bad-value")
        wanted = self.tap(self.output_tap if tap is None else tap)
        names = select_poolings(pooling, self.poolings)
        given = _as_list(self, samples)
        sized = self
        pinned = _shapes_in_words(self.preprocess(self.example())) if self.pinned else ""
        if len(given) and not pinned:
            first = _check_sample(self, given, 0)
            sized = size_for(self, first, f"Samples of shape {first.shape}")
        read = sized.tap(wanted.name)
        shape = (read.grid.tokens, read.features) if tokens else (len(names) * read.features,)
        features = np.empty((len(given), *shape), dtype=np.float32)
        if not len(given):
            return features
        size = batch_size or BATCH.get(where.partition(":")[0], BATCH["cpu"])
        # As a run does unless it was asked for less: a GPU's TF32 is off.
        with sized.on(where), computing("float32", where):
            for start in range(0, len(given), size):
                rows = range(start, min(start + size, len(given)))
                batch = _batch(sized, [_check_sample(self, given, i) for i in rows], start, pinned)
                short, batch = (sized, batch) if tokens else sized.shortened(batch)
                values = _read(short, batch, read, _grid_tokens if tokens else pool_batch(sized, batch, names), rows)
                features[start : rows.stop] = values.reshape(len(rows), *shape).cpu().numpy()
        return features

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Captured:
        """`{tap name: reduce(tap, attention [sample, head, query, key])}` of the blocks whose outputs the taps read.

        Queries and keys are all tokens of the tap, prefix tokens first. `reduce` returns a tensor [sample, ...] and may
        be called with parts of the batch. Taps without exactly one attention of their own are left out.

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
        raise DiagnosticsError(f"{self.name} gives no attention.", code="no-attention")

    def input_gradient(self, batch: Any, taps: Sequence[str] | None = None) -> Captured:
        """Dependence of the tap's central grid token on each place.

        `{tap name: float tensor [sample, *places]}`.

        Places are those of the model's input that the grid covers (pixels, time steps). Taps whose grid does not show
        which axes of the input are places are left out.

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
        raise DiagnosticsError(f"{self.name} gives no gradients.", code="unsupported")

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
        """The grid tokens of a tap that represent data, bool [sample, grid token].

        None where all do (no padding, no mask).
        """
        return None

    def shortened(self, batch: Any) -> tuple[Encoder, Any]:
        """The encoder and batch, without places behind all that represent data where none of those changes a token."""
        return self, batch

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """The (start, stop) that the grid covers along each axis of a sample whose grid axes have these extents.

        Differs from `(0, extent)` where preprocessing crops, so that dense targets are cropped like the input.
        """
        return tuple((0.0, float(n)) for n in shape)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values of these attributes (`spec`, `lineage`, ...).

        It shares all others, the model included.

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
        """Move the encoder to a device, and return it."""
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
        raise DiagnosticsError(f"{self.name} has no weights to draw afresh.", code="no-control")

    def permuted(self, seed: int) -> Encoder:
        """A control encoder (baseline): the same weights, shuffled within each tensor, which keeps their distribution.

        Raises DiagnosticsError where it has no weights to shuffle.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> encoder.permuted(seed=0).name
            'lorenz-forecast (permuted weights)'
        """
        raise DiagnosticsError(f"{self.name} has no weights to permute.", code="no-control")

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
        see = f"See `diagnostics inspect {shlex.quote(self.spec)}`." if self.spec else ""
        raise name_error("tap", name, [tap.name for tap in self.taps], see)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.modality}, {len(self.taps)} taps, output {self.output_tap}>"

    @property
    def poolings(self) -> tuple[str, ...]:
        """Names of the poolings of its tokens; see `diagnostics.encoders.modules.pool`."""
        grids = [tap.grid for tap in self.taps]
        last = ("last",) if any(grid.axes == ("t",) and grid.tokens > 1 for grid in grids) else ()
        prefix = ("prefix",) if any(grid.prefix for grid in grids) else ()
        return ("mean", *last, *prefix)


def check_modality(encoder: Encoder, samples: Any) -> None:
    """Raise where samples, as those of a dataset do, say that they are of another modality."""
    modality = getattr(samples, "modality", encoder.modality)
    if modality != encoder.modality:
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, but {getattr(samples, 'name', 'what was given')} holds "
            f"{modality} samples: give {encoder.modality} samples.",
            code="other-modality",
        )


def size_for(encoder: Encoder, sample: np.ndarray, whose: str) -> Encoder:
    """The encoder sized for a sample.

    Raises where it takes none like it, of which `whose` says in words what they are.
    """
    name = encoder.name
    with explaining(f"{whose} cannot be read for {name}"), naming(f"{whose} do not fit {name}", "bad-sample"):
        if encoder.modality in ("image", "video"):
            check_channels_last(sample, encoder.example())
        return encoder.sized_for(sample)


def pin_to(encoder: Encoder, shape: Sequence[int]) -> Encoder:
    """The encoder sized for samples of a shape, whose `transform` takes only what is prepared as they are.

    As it is for texts, and where no shape is known.
    """
    if not shape:
        return encoder
    like = np.zeros(tuple(shape), np.asarray(encoder.example()).dtype)
    return size_for(encoder, like, f"Samples of shape {tuple(shape)}").replace(pinned=True)


def first_shape(encoder: Encoder, samples: Any) -> tuple[int, ...]:
    """Shape of the first of some samples as `transform` takes them; () of a text and of none."""
    given = _as_list(encoder, samples)
    return np.shape(_check_sample(encoder, given, 0)) if len(given) else ()


def check_channels_last(sample: np.ndarray, example: np.ndarray | None = None) -> None:
    """Raise for an image or a video whose channels come before its pixels, unless those of the example do too."""
    if channels_first(sample) and (example is None or not channels_first(example)):
        *first, channels, y, x = np.shape(sample)
        raise DiagnosticsError(
            f"it has shape {[*first, channels, y, x]}, and channels come last, as in {[*first, y, x, channels]}: give "
            "np.moveaxis(images, -3, -1), or images.movedim(-3, -1) of a tensor.",
            code="bad-sample",
        )


def channels_first(sample: Any) -> bool:
    """Test for a shape that can only be [..., channel, y, x]."""
    shape = tuple(np.shape(sample))
    return len(shape) in (3, 4) and shape[-3] in COLOURS and min(shape[-2:]) > max(COLOURS) + 1


def _as_list(encoder: Encoder, samples: Any) -> Any:
    """The samples as something with a length whose items are samples.

    Raises for a single sample and another modality.
    """
    if isinstance(samples, (str, os.PathLike)) or hasattr(samples, "getbands"):
        raise DiagnosticsError(
            f"{encoder.name}.transform was given a single {type(samples).__name__}: give a list of samples.",
            code="bad-type",
        )
    check_modality(encoder, samples)
    if hasattr(samples, "to_numpy"):  # a table's rows, where its items would be columns
        samples = samples.to_numpy()
    elif not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
        samples = list(samples)
    if _is_one(samples, np.asarray(encoder.example())):
        raise DiagnosticsError(
            f"{encoder.name}.transform was given {_words(samples)}, which is one sample: give [sample, ...], or a list "
            f"of samples.",
            code="bad-shape",
        )
    return samples


def _is_one(samples: Any, example: np.ndarray) -> bool:
    """Test for one sample where several are wanted.

    An image in colour would pass for as many grey ones as it has rows.
    """
    shape = tuple(getattr(samples, "shape", ()))
    if not shape or example.ndim == 0 or np.asarray(samples).dtype.kind not in "biuf":
        return False
    # With its channels first it would pass for three grey ones; one grey image in an axis of its own is a list of one.
    colours = channels_first(samples) and shape[0] > 1 and not channels_first(example)
    return len(shape) == 1 or (len(shape) == example.ndim and (shape[-1] == example.shape[-1] or colours))


def _check_sample(encoder: Encoder, samples: Any, index: int) -> np.ndarray:
    """A sample as an array that may be written to; raises where it is of no shape or type that the modality has."""
    axes, example = AXES[encoder.modality], np.asarray(encoder.example())
    with explaining(f"Sample {index} for {encoder.name} cannot be read", code="unreadable"):
        raw = samples[index]
        sample = np.asarray(to_pixels(raw, example.ndim == 2) if encoder.modality == "image" else raw)
    if encoder.modality == "text":
        fits = sample.ndim == 0 and isinstance(sample.item(), str)
    else:
        fits = sample.ndim in {axis.count(",") + 1 for axis in axes} and sample.dtype.kind in "biuf"
        # Fractions read as bytes are black: an encoder that takes fractions has an example of them.
        fits = fits and (sample.dtype.kind == "f") <= (example.dtype.kind == "f")
    if encoder.modality in ("image", "video"):
        with naming(f"Sample {index} does not fit {encoder.name}", "bad-sample"):
            check_channels_last(sample, example)
    if not fits:
        like = f"{' or '.join(axes)}, as its example {_words(example)}" if axes else "a string each"
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples ({like}), and sample {index} is {_words(sample)}: give "
            f"samples as the run's dataset holds them.",
            code="bad-sample",
        )
    # Torch warns of arrays that cannot be written to.
    return sample if sample.flags.writeable else sample.copy()


def _words(sample: Any) -> str:
    array = np.asarray(sample)
    alone = array.dtype.kind in "USO" and array.ndim == 0
    return f"a {type(array.item()).__name__}" if alone else f"{array.dtype} of shape {array.shape}"


def _shapes_in_words(prepared: Any) -> str:
    return " and ".join(str(list(np.shape(value))) for value in by_name(prepared).values())


def _batch(encoder: Encoder, samples: Sequence[np.ndarray], start: int, pinned: str) -> Any:
    """Preprocessed and collated samples.

    `start` is the place of the first among all, `pinned` the shapes that they must have.
    """
    prepared: list[Any] = []
    for index, sample in enumerate(samples, start):
        with (
            explaining(f"Sample {index} ({_words(sample)}) cannot be prepared for {encoder.name}"),
            naming(f"Sample {index} does not fit {encoder.name}", "bad-sample"),
        ):
            prepared.append(encoder.preprocess(sample))
        if pinned and (here := _shapes_in_words(prepared[-1])) != pinned:
            remedy = (
                "make it with size=, which brings images to one size"
                if encoder.modality == "image"
                else "give samples of that size"
            )
            raise DiagnosticsError(
                f"Sample {index} ({_words(sample)}) is prepared to shape {here}, and {encoder.name} was made for "
                f"{pinned}, so its features would be others: {remedy}, or read samples of this size apart, with "
                f"encoder.sized_for(sample).",
                code="bad-sample",
            )
    try:
        return default_collate(prepared)
    except (RuntimeError, TypeError) as error:
        shapes = " and ".join(dict.fromkeys(str(sample.shape) for sample in samples))
        raise DiagnosticsError(
            f"Samples {start} to {start + len(samples) - 1}, of shape {shapes}, do not form a batch for "
            f"{encoder.name}: give samples of one size in a call, or batch_size=1.",
            code="bad-shape",
        ) from error


def pool_batch(encoder: Encoder, batch: Any, poolings: Sequence[str]) -> Callable[[Tap, Tensor], Tensor]:
    """The function from a batch's tokens to float32 [sample, pooling, feature]."""

    def reduce(tap: Tap, tokens: Tensor) -> Tensor:
        valid = encoder.valid(batch, tap)
        return pool(tap, tokens, poolings, None if valid is None else valid.to(tokens.device))

    return reduce


def _grid_tokens(tap: Tap, tokens: Tensor) -> Tensor:
    """float32 [sample, grid token, feature], a copy: a later operation may overwrite the tokens."""
    return tokens[:, tap.grid.prefix :].to(torch.float32, copy=True)


def _read(encoder: Encoder, batch: Any, tap: Tap, reduce: Callable[[Tap, Tensor], Tensor], rows: range) -> Tensor:
    """A batch's tokens at a tap after `reduce`, from one pass."""
    with explaining(f"{encoder.name} fails on the batch from sample {rows.start} on"):
        values = encoder.capture(batch, [tap.name], reduce)[tap.name]
    why = f"Tap {tap.name} of {encoder.name} gives {len(values)} rows for {len(rows)} samples."
    refuse_values((len(values) != len(rows), why, "bad-tap"))
    finite = values.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise DiagnosticsError(why_not_finite(encoder, tap.name, rows, batch, finite), code="not-finite")
    return values


def why_not_finite(
    encoder: Encoder, tap: str, samples: Sequence[object], batch: Any, finite: Tensor, ragged: bool = False
) -> str:
    """The sentence about activations that are not finite in some rows of a batch of these samples.

    What was NaN before the pass is not the model's, and what is NaN of every sample is none of a sample. `ragged`
    samples hold NaN where they are shorter than others.
    """
    row = int(finite.int().argmin())
    parts = [part for part in by_name(batch).values() if isinstance(part, Tensor) and part.shape[:1] == finite.shape]
    if not all(bool(part[row].isfinite().all()) for part in parts):
        return f"Sample {samples[row]} holds NaN or infinity as {encoder.name} takes it" + (
            ", as samples differ in length and NaN fills the shorter ones: declare a diagnostics.TorchEncoder whose "
            "preprocess= cuts or fills them and whose valid= says which tokens represent data."
            if ragged
            else ": fill its gaps, or leave it out."
        )
    every = len(finite) > 1 and not bool(finite.any())
    of = f"all {len(finite)} samples from {samples[0]} on" if every else f"sample {samples[row]}"
    look = f"look at {'its weights' if every else 'that sample'}, or at the precision of the pass"
    return f"{encoder.name} gives NaN or infinity at tap {tap} for {of}: {look}."

"""Features of new samples: raw samples in batches through an encoder, one tap pooled as a run pools it, or its tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.encoders.batches import by_name
from diagnostics.encoders.computing import computing
from diagnostics.encoders.devices import BATCH, usable_device
from diagnostics.encoders.fitting import channels_first, check_channels_last, check_modality, sized
from diagnostics.encoders.pictures import to_pixels
from diagnostics.encoders.pooling import chosen_poolings, pool
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.vocabulary import Modality

if TYPE_CHECKING:
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.encoders.taps import Tap

AXES: dict[Modality, tuple[str, ...]] = {
    "image": ("[y, x]", "[y, x, channel]"),
    "video": ("[t, y, x, channel]",),
    "series": ("[time]", "[time, variate]"),
    "audio": ("[time]",),
    "text": (),
}
"""The axes that a sample of each modality may have; a text is a string."""


def transform(
    encoder: Encoder,
    samples: Sequence[Any] | np.ndarray,
    tap: str | None = None,
    pooling: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    tokens: bool = False,
) -> np.ndarray:
    """What `Encoder.transform` returns."""
    if tokens and pooling is not None:
        raise DiagnosticsError(f"Tokens are not pooled: leave out either pooling={pooling!r} or tokens=True.")
    where = usable_device(device)
    if batch_size is not None and batch_size < 1:
        raise DiagnosticsError(f"Batch size {batch_size} is below 1.")
    wanted = encoder.tap(encoder.output_tap if tap is None else tap)
    names = chosen_poolings(pooling, encoder.poolings)
    given = listed_samples(encoder, samples)
    fitting = encoder
    pinned = _shown_shapes(encoder.preprocess(encoder.example())) if encoder.pinned else ""
    if len(given) and not pinned:
        first = checked_sample(encoder, given, 0)
        fitting = sized(encoder, first, f"Samples of shape {first.shape}")
    read = fitting.tap(wanted.name)
    shape = (read.grid.tokens, read.features) if tokens else (len(names) * read.features,)
    features = np.empty((len(given), *shape), dtype=np.float32)
    if not len(given):
        return features
    size = batch_size or BATCH.get(where.partition(":")[0], BATCH["cpu"])
    # As a run does unless it was asked for less: a GPU's TF32 is off.
    with fitting.on(where), computing("float32", where):
        for start in range(0, len(given), size):
            rows = range(start, min(start + size, len(given)))
            batch = _batch(fitting, [checked_sample(encoder, given, i) for i in rows], start, pinned)
            reduce = _grid_tokens if tokens else _pooling(fitting, batch, names)
            features[start : rows.stop] = (
                _read(fitting, batch, read, reduce, rows).reshape(len(rows), *shape).cpu().numpy()
            )
    return features


def listed_samples(encoder: Encoder, samples: Any) -> Any:
    """The samples as something with a length whose items are samples; raises for a single sample and another modality."""
    if isinstance(samples, (str, os.PathLike)) or hasattr(samples, "getbands"):
        raise DiagnosticsError(
            f"{encoder.name}.transform was given a single {type(samples).__name__}: give a list of samples."
        )
    check_modality(encoder, samples)
    if hasattr(samples, "to_numpy"):  # a table's rows, where its items would be columns
        samples = samples.to_numpy()
    elif not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
        samples = list(samples)
    if _is_one(samples, np.asarray(encoder.example())):
        raise DiagnosticsError(
            f"{encoder.name}.transform was given {_shown(samples)}, which is one sample: give [sample, ...], or a list of samples."
        )
    return samples


def _is_one(samples: Any, example: np.ndarray) -> bool:
    """Whether an array is a sample where several are wanted: an image in colour would pass for as many grey ones as it has rows."""
    shape = tuple(getattr(samples, "shape", ()))
    if not shape or example.ndim == 0 or np.asarray(samples).dtype.kind not in "biuf":
        return False
    # With its channels first it would pass for three grey ones; one grey image in an axis of its own is a list of one.
    colours = channels_first(samples) and shape[0] > 1 and not channels_first(example)
    return len(shape) == 1 or (len(shape) == example.ndim and (shape[-1] == example.shape[-1] or colours))


def checked_sample(encoder: Encoder, samples: Any, index: int) -> np.ndarray:
    """A sample as an array that may be written to; raises where it is of no shape or type that the modality has."""
    axes, example = AXES[encoder.modality], np.asarray(encoder.example())
    try:
        raw = samples[index]
        sample = np.asarray(to_pixels(raw, example.ndim == 2) if encoder.modality == "image" else raw)
    except DiagnosticsError:
        raise
    except Exception as error:
        raise DiagnosticsError(f"Sample {index} for {encoder.name} cannot be read ({describe(error)}).") from error
    if encoder.modality == "text":
        fits = sample.ndim == 0 and isinstance(sample.item(), str)
    else:
        fits = sample.ndim in {axis.count(",") + 1 for axis in axes} and sample.dtype.kind in "biuf"
        # Fractions read as bytes are black: an encoder that takes fractions has an example of them.
        fits = fits and (sample.dtype.kind == "f") <= (example.dtype.kind == "f")
    if encoder.modality in ("image", "video"):
        try:
            check_channels_last(sample, example)
        except DiagnosticsError as error:
            raise DiagnosticsError(f"Sample {index} does not fit {encoder.name}: {error}") from error
    if not fits:
        like = f"{' or '.join(axes)}, as its example {_shown(example)}" if axes else "a string each"
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples ({like}), and sample {index} is {_shown(sample)}: give samples as "
            "the run's dataset holds them."
        )
    # Torch warns of arrays that cannot be written to.
    return sample if sample.flags.writeable else sample.copy()


def _shown(sample: Any) -> str:
    array = np.asarray(sample)
    if array.dtype.kind in "USO" and array.ndim == 0:
        return f"a {type(array.item()).__name__}"
    return f"{array.dtype} of shape {array.shape}"


def _shown_shapes(prepared: Any) -> str:
    return " and ".join(str(list(np.shape(value))) for value in by_name(prepared).values())


def _batch(encoder: Encoder, samples: Sequence[np.ndarray], start: int, pinned: str) -> Any:
    """Preprocessed and collated samples; `start` is the place of the first among all, `pinned` the shapes that they must have."""
    prepared: list[Any] = []
    for index, sample in enumerate(samples, start):
        try:
            prepared.append(encoder.preprocess(sample))
        except DiagnosticsError as error:
            raise DiagnosticsError(f"Sample {index} does not fit {encoder.name}: {error}") from error
        except Exception as error:
            raise DiagnosticsError(
                f"Sample {index} ({_shown(sample)}) cannot be prepared for {encoder.name}: {describe(error)}"
            ) from error
        if pinned and (here := _shown_shapes(prepared[-1])) != pinned:
            remedy = (
                "make it with size=, which brings images to one size"
                if encoder.modality == "image"
                else "give samples of that size"
            )
            raise DiagnosticsError(
                f"Sample {index} ({_shown(sample)}) is prepared to shape {here}, and {encoder.name} was made for {pinned}, so its "
                f"features would be others: {remedy}, or read samples of this size apart, with encoder.sized_for(sample)."
            )
    try:
        return default_collate(prepared)
    except (RuntimeError, TypeError) as error:
        shapes = " and ".join(dict.fromkeys(str(sample.shape) for sample in samples))
        raise DiagnosticsError(
            f"Samples {start} to {start + len(samples) - 1}, of shape {shapes}, do not form a batch for {encoder.name}: give "
            "samples of one size in a call, or batch_size=1."
        ) from error


def _pooling(encoder: Encoder, batch: Any, poolings: Sequence[str]) -> Callable[[Tap, Tensor], Tensor]:
    """What makes float32 [sample, pooling, feature] of a batch's tokens."""

    def pooled(tap: Tap, tokens: Tensor) -> Tensor:
        return pool(tap, tokens, poolings, _valid(encoder, batch, tap, tokens.device))

    return pooled


def _grid_tokens(tap: Tap, tokens: Tensor) -> Tensor:
    """float32 [sample, grid token, feature], a copy: a later operation may overwrite the tokens."""
    return tokens[:, tap.grid.prefix :].to(torch.float32, copy=True)


def _read(encoder: Encoder, batch: Any, tap: Tap, reduce: Callable[[Tap, Tensor], Tensor], rows: range) -> Tensor:
    """What `reduce` makes of a batch's tokens at a tap, from one pass."""
    try:
        values = encoder.capture(batch, [tap.name], reduce)[tap.name]
    except DiagnosticsError:
        raise
    except Exception as error:
        raise DiagnosticsError(
            f"{encoder.name} fails on the batch from sample {rows.start} on: {describe(error)}"
        ) from error
    if len(values) != len(rows):
        raise DiagnosticsError(f"Tap {tap.name} of {encoder.name} gives {len(values)} rows for {len(rows)} samples.")
    finite = values.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise DiagnosticsError(
            f"{encoder.name} gives NaN or infinity at tap {tap.name} for sample {rows[int(finite.int().argmin())]}: look at that "
            "sample, which may be empty, or at the precision the model runs in."
        )
    return values


def _valid(encoder: Encoder, batch: Any, tap: Tap, device: torch.device) -> Tensor | None:
    valid = encoder.valid(batch, tap)
    return None if valid is None else valid.to(device)

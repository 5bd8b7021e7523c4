"""A bare torch module as an encoder: its taps are discovered, and what only its maker knows is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from diagnostics.encoders.encoder import Encoder, check_channels_last
from diagnostics.encoders.modules import device_of, evaluating
from diagnostics.encoders.pictures import central_part
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, check_known, describe, explaining, join_names, naming, refuse_values
from diagnostics.vocabulary import Modality

SAME = 1e-3
"""Share of a tap's largest activation up to which a difference between two batches is rounding."""

Numbers = float | str | Sequence[float]

NEEDED = {"image": ("size", "mean", "std"), "series": ("length",)}
"""What has to be said of a module of each modality."""


def declare(
    module: nn.Module,
    owner: str,
    own: Mapping[str, str],
    modality: str | None = None,
    size: int | None = None,
    length: int | None = None,
    variates: int | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> TorchEncoder:
    """The encoder of a module that a function gave, by the others behind its name.

    `owner` is that function, as `file.py:function`, and `own` are its options.

    Parameters
    ----------
    modality: image or series.
    size: pixels of a side of the square that images are brought to: their middle, as wide as it is high, antialiased.
    length, variates: of a series; one variate is [time].
    mean, std: one number or one a channel, with commas; of pixels from 0 to 1, or of a series, which goes in as it is
        without them.

    Raises DiagnosticsError for what is not given and cannot be known, and as `wrap` does.
    """
    check_known("modality of a bare module", modality, NEEDED, "Return a diagnostics.TorchEncoder of another.")
    given = {"size": size, "length": length, "variates": variates, "mean": mean, "std": std}
    missing = ["modality"] if modality is None else [name for name in NEEDED[modality] if given[name] is None]
    if missing:
        ways = [_way(owner, own, each, given) for each in (NEEDED if modality is None else [modality])]
        raise DiagnosticsError(
            f"{owner} gives a bare {type(module).__name__}, whose {join_names(missing)} cannot be known from it: say "
            f"what it takes in place of the dots, {' or '.join(ways)}, or return a diagnostics.TorchEncoder.",
            code="unclear",
        )
    if modality == "series":
        example = _noise((length or 1, *([variates] if variates else [])), np.float32)
        return wrap(module, "series", example, mean=mean, std=std)
    examples = [_noise((size or 1, size or 1, channels), np.uint8) for channels in (3, 1)]
    tries = [(example, Pixels.of(module, example, size, mean, std)) for example in examples]
    return _wrap(module, "image", [pair for pair in tries if pair[1].fits] or tries)


def _way(owner: str, own: Mapping[str, str], modality: str, given: Mapping[str, Any]) -> str:
    """Name of the encoder, with what was given of it and dots for what was not."""
    optional = ("variates", "mean", "std") if modality == "series" else ()
    told = {name: "..." if given[name] is None else given[name] for name in NEEDED[modality]}
    told |= {name: given[name] for name in optional if given[name] is not None}
    query = "&".join(f"{name}={value}" for name, value in {**own, "modality": modality, **told}.items())
    dots = [name for name in ("mean", "std") if told.get(name) == "..."]
    of = f" ({' and '.join(dots)} of pixels from 0 to 1, one number or one per channel)" if dots else ""
    return f"{shlex.quote(f'{owner}?{query}')}{of}"


def wrap(
    module: nn.Module,
    modality: Modality,
    sample: np.ndarray,
    *,
    size: int | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> TorchEncoder:
    """A module as the encoder of samples like this one, with discovered taps; the module stays as it is.

    Images go in as [channel, y, x]: bytes as (pixel / 255 - mean) / std, which has to be given, other numbers as they
    are; grey ones three times where the module takes three channels; their middle, as wide as it is high, resized to
    `size` pixels a side where that is given. Series
    go in as they are, [time] or [time, variate], or where the module runs on that alone with an axis for one channel,
    or with the variates first.

    Raises
    ------
    DiagnosticsError: where bytes have no mean and std, for other modalities, where the module runs on no such batch,
    where
        its taps cannot be discovered, and where samples of a batch change one another's activations.
    """
    example = _noise(np.shape(sample), np.asarray(sample).dtype)
    if modality == "image" and example.ndim in (2, 3):
        with naming(f"Samples do not fit a bare {type(module).__name__}", "bad-sample"):
            check_channels_last(example)
        pixels, kind = Pixels.of(module, example, size, mean, std), np.asarray(sample).dtype
        refuse_values(
            (
                kind.kind in "iu"
                and kind != np.uint8
                and not (mean is None and std is None)
                and max(map(abs, (*pixels.mean, *pixels.std))) <= 1,
                f"Images of {kind} go in as they are, and mean and std up to 1 are of fractions: divide the images by "
                "the largest number that they can hold, or give mean= and std= of their own numbers.",
                "unclear",
            )
        )
        wider = [Pixels(3, size, pixels.scale, pixels.mean, pixels.std)] if pixels.channels == 1 else []
        tries = [pixels for pixels in (pixels, *wider) if pixels.fits] or [pixels]
        return _wrap(module, modality, [(example, prepare) for prepare in tries])
    if modality == "series" and example.ndim in (1, 2):
        values = _as_tuple(mean, 0.0), _as_tuple(std, 1.0)
        layouts = ("as it is", "channel first", "channel last") if example.ndim == 1 else ("as it is", "variates first")
        return _wrap(module, modality, [(example, Values(layout, *values)) for layout in layouts])
    raise DiagnosticsError(
        f"How {modality} samples of shape {list(example.shape)} become the input of a bare {type(module).__name__} "
        f"cannot be known: declare it, diagnostics.TorchEncoder(name, {modality!r}, module, preprocess=..., "
        f"example=...) (docs/how-to/plugins.md).",
        code="unclear",
    )


def is_bare(encoder: Encoder) -> bool:
    """Test for an encoder that `wrap` made."""
    return isinstance(getattr(encoder, "_preprocess", None), Pixels | Values)


Prepare = Callable[[np.ndarray], Tensor]


def _wrap(module: nn.Module, modality: Modality, tries: Iterable[tuple[np.ndarray, Prepare]]) -> TorchEncoder:
    """With the first preparation on which the module runs, shows its taps, and keeps samples apart."""
    name = type(module).__name__
    refuse_values(
        (
            hasattr(module, "_orig_mod") or isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel),
            f"{name} wraps another module: give the one inside, which has the same weights, "
            f"model.{'_orig_mod' if hasattr(module, '_orig_mod') else 'module'}.",
            "bad-type",
        )
    )
    ran: list[DiagnosticsError] = []
    failed: list[str] = []
    for example, prepare in tries:
        batch = torch.stack([prepare(example)] * 2).to(device_of(module))
        try:
            with evaluating(module), torch.no_grad():
                _call(module, batch)
        except Exception as error:
            failed.append(f"{list(batch.shape)} ({describe(error)})")
            continue
        resized = isinstance(prepare, Pixels) and prepare.size is not None
        try:
            encoder = TorchEncoder(
                name,
                modality,
                module,
                preprocess=prepare,
                example=example,
                forward=_call,
                configuration=str(prepare),
                sized_for=_same_size if resized else None,
                covers=central_part if resized else None,
            )
            _check_apart(encoder)
        except DiagnosticsError as error:
            ran.append(error)
        else:
            return encoder
    if ran:
        raise DiagnosticsError(
            f"{str(ran[0]).rstrip('.')}, as taps= of a diagnostics.TorchEncoder around it.", code=ran[0].code
        )
    raise DiagnosticsError(
        f"{name} runs on no batch of shape {' or '.join(failed)}: give the size= that it takes, or declare how a "
        f"sample becomes its input, diagnostics.TorchEncoder(name, {modality!r}, module, preprocess=..., example=...) "
        f"(docs/how-to/plugins.md).",
        code="bad-sample",
    )


def _same_size(sample: np.ndarray) -> None:
    """The same encoder: where all samples are resized there is nothing to discover anew for those of another size."""


def _check_apart(encoder: TorchEncoder) -> None:
    """Raise where a sample's activations depend on those beside it: time or tokens stand where samples should.

    The sample has one before it and one behind it, since a recurrent module carries over in one direction alone.
    """
    example = encoder.example()
    others = [_noise(example.shape, example.dtype, seed) for seed in (1, 2)]
    first, second = (
        encoder.capture(torch.stack([encoder.preprocess(each) for each in (other, example, other)])) for other in others
    )
    for tap, tokens in first.items():
        # NaN where the model overflows, which extraction reports by sample.
        if bool((tokens[1] - second[tap][1]).abs().max() > SAME * tokens[1].abs().max()):
            raise DiagnosticsError(
                f"{encoder.name} gives a sample other activations at {tap} when another sample is in its batch "
                f"(perhaps its input has time before samples): declare its input and its taps yourself "
                f"(docs/how-to/plugins.md).",
                code="irreproducible",
            )


def _call(module: nn.Module, batch: Any) -> Any:
    """In the precision that the weights have at this moment."""
    kinds = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return module(batch.to(next(kinds, torch.float32)))


@dataclass(frozen=True)
class Pixels:
    """An image [y, x] or [y, x, channel] as float32 [channel, y, x]: (pixel / scale - mean) / std."""

    channels: int
    size: int | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls, module: nn.Module, example: np.ndarray, size: int | None, mean: Numbers | None, std: Numbers | None
    ) -> Pixels:
        """Of images like the example; raises where they are bytes and it is not said how these become numbers."""
        raw = example.dtype == np.uint8
        if raw and (mean is None or std is None):
            raise DiagnosticsError(
                f"How the bytes of an image become the input of a bare {type(module).__name__} cannot be known: give "
                f"mean= and std= beside it, of its pixels from 0 to 1 (mean=0, std=1 where it takes them so).",
                code="unclear",
            )
        channels = example.shape[2] if example.ndim == 3 else 1
        if size is not None and not (isinstance(size, Integral) and size >= 1):
            raise DiagnosticsError(f"size={size!r} is no number of pixels: give 1 or more.", code="bad-value")
        return cls(channels, size, 255.0 if raw else 1.0, _as_tuple(mean, 0.0), _as_tuple(std, 1.0))

    @property
    def fits(self) -> bool:
        """True if there is one mean and std, or one a channel."""
        return {len(self.mean), len(self.std)} <= {1, self.channels}

    def __call__(self, sample: np.ndarray) -> Tensor:
        image = torch.from_numpy(np.asarray(sample, dtype=np.float32) / np.float32(self.scale))
        if self.scale > 1 and np.asarray(sample).dtype != np.uint8 and float(image.max()) > 1:
            raise DiagnosticsError(
                f"it holds numbers up to {np.max(sample)}, and the module takes bytes: convert the images.",
                code="bad-sample",
            )
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
        if len(image) == 1:
            image = image.expand(self.channels, -1, -1)
        if len(image) != self.channels:
            raise DiagnosticsError(
                f"it has shape {list(np.shape(sample))}, and the module takes {self.channels} channel(s): convert the "
                f"images.",
                code="bad-sample",
            )
        if self.size:
            (top, bottom), (left, right) = central_part(tuple(image.shape[1:]))
            image = image[:, top:bottom, left:right]
        if self.size is not None and self.size != image.shape[1]:
            image = interpolate(image[None], (self.size, self.size), mode="bilinear", antialias=True)[0]
        mean, std = (_by_channel(numbers, self.channels)[:, None, None] for numbers in (self.mean, self.std))
        return ((image - mean) / std).contiguous()


@dataclass(frozen=True)
class Values:
    """A series [time] or [time, variate] as float32, (value - mean) / std, in one of several layouts."""

    layout: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, sample: np.ndarray) -> Tensor:
        series = torch.from_numpy(np.array(sample, dtype=np.float32))
        variates = series.shape[1] if series.ndim == 2 else 1
        mean, std = (_by_channel(numbers, variates) for numbers in (self.mean, self.std))
        series = (series - mean) / std
        if self.layout == "channel first":
            return series[None]
        if self.layout == "channel last":
            return series[:, None]
        return series.T.contiguous() if self.layout == "variates first" else series


def _as_tuple(numbers: Numbers | None, otherwise: float) -> tuple[float, ...]:
    """As a tuple; `otherwise`, 1 for what is divided by, where there are none."""
    what, remedy = f"{numbers} cannot be {'a std' if otherwise else 'a mean'}", "give one number, or one per channel"
    with explaining(what, f"{remedy}, with commas between them", "bad-value", (TypeError, ValueError)):
        parts = numbers.split(",") if isinstance(numbers, str) else numbers
        listed = np.atleast_1d(np.asarray(otherwise if parts is None else parts, dtype=np.float64))
    if listed.ndim > 1 or not np.isfinite(listed).all() or (otherwise and not listed.all()):
        raise DiagnosticsError(f"{what}: {remedy}.", code="bad-value")
    return tuple(listed.tolist())


def _by_channel(numbers: tuple[float, ...], channels: int) -> Tensor:
    if len(numbers) not in (1, channels):
        raise DiagnosticsError(
            f"mean and std are {len(numbers)} numbers for {channels} channel(s): give one, or one per channel.",
            code="bad-value",
        )
    return torch.tensor(numbers, dtype=torch.float32)


def _noise(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    """A sample of this shape that is the same each time, as part of the identity must be."""
    rng = np.random.default_rng(seed)
    raw = dtype == np.uint8
    return rng.integers(0, 256, shape, np.uint8) if raw else rng.standard_normal(shape).astype(np.float32)

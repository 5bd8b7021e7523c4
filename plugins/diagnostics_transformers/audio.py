"""Audio: the directory's own feature extractor, or a waveform or log-mel spectrogram by the configuration."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Tap, explaining, refuse_values
from diagnostics_transformers.towers import Arguments, Prepared, arguments, from_directory, model_type, setting

# Which part of a sound the tokens behind a stack of convolutions stand for.


@dataclass(frozen=True)
class Convolution:
    """Along time: its kernel, its stride, and how many zeros are put before and behind its input."""

    kernel: int
    stride: int
    before: int = 0
    behind: int = 0


def convolutions(config: Any) -> list[Convolution]:
    """Those in front of a model's layers whose tokens do not divide its features evenly; nothing for other models."""
    kernels, strides = setting(config, "conv_kernel"), setting(config, "conv_stride")
    if isinstance(kernels, (list, tuple)) and isinstance(strides, (list, tuple)):
        # wav2vec 2.0 and kin; SEW then takes the mean of some frames.
        squeeze = int(setting(config, "squeeze_factor", default=1))
        stack = [Convolution(int(k), int(s)) for k, s in zip(kernels, strides, strict=True)]
        return [*stack, Convolution(squeeze, squeeze)] if squeeze > 1 else stack
    kinds = (str(setting(part, "model_type")) for part in (config, setting(config, "encoder_config")))
    return next((_OF_TYPE[kind] for kind in kinds if kind in _OF_TYPE), [])


def span(steps: int, stack: list[Convolution]) -> tuple[float, float]:
    """(start, stop) of what the tokens stand for, in the steps of the input.

    Each is the stride's width about its window's middle.

    Convolutions without zeros at the ends leave some of it out; causal ones look back, so that their windows' middles
    lie early.
    """
    middle, stride, count = 0.5, 1, steps
    for convolution in stack:
        middle += stride * ((convolution.kernel - 1) / 2 - convolution.before)
        stride *= convolution.stride
        count = (count + convolution.before + convolution.behind - convolution.kernel) // convolution.stride + 1
    start = middle - stride / 2
    return start, start + count * stride


_LASR = [Convolution(5, 2)] * 2
_NEMOTRON = [Convolution(3, 2, before=2, behind=1)] * 3
_MOONSHINE = [Convolution(80, 80), *[Convolution(5, 2, before=4)] * 2]
_VOXTRAL = [Convolution(3, 1, before=2), Convolution(3, 2, before=1)]
_OF_TYPE = {
    "lasr_encoder": _LASR,
    "moonshine_streaming_encoder": _MOONSHINE,
    "nemotron_asr_streaming_encoder": _NEMOTRON,
    "voxtral_realtime_encoder": _VOXTRAL,
}


RATE = 16_000
SECONDS = 2
"""How long samples are taken to be before one is seen."""

# A class token before the frames.
_SPECIAL = {"pe_audio_encoder": 1}
_BINS = ("num_mel_bins", "feature_size", "input_feat_per_channel", "input_feat_size", "mel_bins")
# Bins that no setting names; frames stacked with their differences.
_BINS_OF = {"gemma4_audio": 128}
_STACKED = {"granite_speech5_encoder": 4}
_MASKS = ("attention_mask", "input_features_mask", "padding_mask", "audio_mel_mask")
_KEYS = ("input_features", "input_values", "audio_mel")


def prepare_audio(tower: nn.Module, source: str | None, name: str, length: int | None) -> Prepared:
    """Audio float [time], missing samples at its start NaN, as `sound` and `heard`, the mask of its frames."""
    config: Any = tower.config
    extractor = from_directory("feature extractor", source)
    extract, rate, note = _of_directory(extractor) if extractor is not None else _fallback(tower, config)
    whole = int(setting(config, "samples_per_token", default=1))
    length = length or -(-SECONDS * rate // whole) * whole
    # A norm over all of a sound sees what stands in its padding, and no mask keeps it from that.
    blurred = any(isinstance(part, nn.GroupNorm) for part in tower.modules())
    masked = _mask_of(tower) is not None and not blurred
    masked = masked and bool(getattr(extractor, "return_attention_mask", True))
    sounds = Sounds.of(name, extract, length, rate, masked)
    frames, bins = sounds.frames, sounds.bins
    extents = {"y": bins, "t": frames} if bins and _has_patches(config) else {"t": frames}
    places: list[tuple[int, ...]] = []
    if "y" in extents:
        size, steps = int(config.patch_size), (int(config.frequency_stride), int(config.time_stride))
        places = [((bins - size) // steps[0] + 1, (frames - size) // steps[1] + 1)]
    return Prepared(
        "audio",
        sounds,
        np.random.default_rng(0).standard_normal(length).astype(np.float32) / 10,
        extents,
        places=places,
        description=f"{length} samples at {rate} Hz, {note}",
        forms=_forms(tower, sounds, masked),
        covers=partial(sounds.covers, stack=convolutions(config)),
        valid=sounds.valid,
        rate=float(rate),
        special=_SPECIAL.get(model_type(tower), 0),
        any_length=True,
        guessed="" if extractor is not None else "feature extractor",
    )


def _mask_of(tower: nn.Module) -> str | None:
    """The argument by which a model is told which frames are sound."""
    return next((key for key in _MASKS if key in arguments(tower)), None)


def _has_patches(config: Any) -> bool:
    """True if spectrograms are cut into patches like images (AST)."""
    return all(isinstance(setting(config, key), int) for key in ("patch_size", "frequency_stride", "time_stride"))


def _forms(tower: nn.Module, sounds: Sounds, masked: bool) -> list[Arguments]:
    """The ways in which models take the same features: which axis is time, with channels, with a mask."""
    takes = arguments(tower)
    key = next(k for k in _KEYS if k in takes)
    mask = _mask_of(tower)
    shapes: list[Callable[[Tensor], Tensor]] = [lambda x: x]
    if sounds.bins:
        shapes.append(lambda x: x.mT)
    if sounds.time == 1 and _has_patches(tower.config):
        # Patches are cut along either axis without complaint, but the model was made for [frame, bin].
        shapes.reverse()
    shapes.append(lambda x: x[:, None])

    def of(shape: Callable[[Tensor], Tensor], with_mask: bool, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        given: dict[str, Any] = {key: shape(batch["sound"])}
        if with_mask and mask is not None:
            given[mask] = batch["heard"].bool() if mask == "audio_mel_mask" else batch["heard"]
        return given | ({"use_cache": False} if "use_cache" in takes else {})

    wanted = mask is not None and (
        masked or inspect.signature(tower.forward).parameters[mask].default is inspect.Parameter.empty
    )
    masks = [wanted, not wanted] if mask is not None else [False]
    return [partial(of, shape, with_mask) for with_mask in masks for shape in shapes]


Extract = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sounds:
    """Audio of one length as features [bin, frame], [frame, bin] or [time]."""

    encoder: str
    extract: Extract
    length: int
    rate: int
    shape: tuple[int, ...]
    time: int
    """Which axis of the features is time."""
    span: float
    """Of how many samples the features stand for: more than `length` where they are padded to a length of their own."""
    masked: bool
    """Whether the model can be told which frames are sound."""

    @classmethod
    def of(cls, encoder: str, extract: Extract, length: int, rate: int, masked: bool) -> Sounds:
        """With the shape of the features found by trying."""
        rng = np.random.default_rng(0)
        with explaining(
            f"The features of {encoder} cannot be made from {length} samples", "try another ?length=", "bad-value"
        ):
            whole = extract(rng.standard_normal(length).astype(np.float32))
            extract(rng.standard_normal(max(1, length // 2)).astype(np.float32))
            longer = extract(rng.standard_normal(2 * length).astype(np.float32))
        changing = [i for i, (a, b) in enumerate(zip(whole.shape, longer.shape, strict=True)) if a != b]
        if changing:
            return cls(encoder, extract, length, rate, whole.shape, time=changing[0], span=float(length), masked=masked)
        # A length of its own, to which everything is padded or cut: the longest axis is time.
        time = int(np.argmax(whole.shape))
        span = _span(extract, rate)
        if length > span:
            raise DiagnosticsError(
                f"{encoder} reads at most {int(span)} samples ({span / rate:.3g} s at {rate} Hz), not "
                f"{length}: cut them, as audio:FOLDER?seconds={span / rate:.3g} does.",
                code="bad-sample",
            )
        return cls(encoder, extract, length, rate, whole.shape, time=time, span=span, masked=True)

    @property
    def frames(self) -> int:
        return self.shape[self.time]

    @property
    def bins(self) -> int:
        return self.shape[1 - self.time] if len(self.shape) == 2 else 0

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        values = np.asarray(sample, dtype=np.float32)
        if values.shape != (self.length,):
            raise DiagnosticsError(
                f"{self.encoder} takes audio of shape [{self.length}], not {list(values.shape)}: bring samples to one "
                f"length, with NaN before those that are shorter.",
                code="not-finite",
            )
        known = np.isfinite(values)
        first = int(known.argmax())
        refuse_values(
            (
                not known[first:].all() or not known.any(),
                f"{self.encoder} takes audio that is NaN only before its first sample: fill the gaps.",
                "not-finite",
            ),
            (
                first and not self.masked,
                f"{self.encoder} has no input that marks which part of a sample is sound, so the padding of shorter "
                f"ones would count: cut all samples to one length.",
                "bad-sample",
            ),
        )
        features = torch.from_numpy(np.ascontiguousarray(self.extract(values[first:]), dtype=np.float32))
        rest = self.frames - features.shape[self.time]
        # Axes are counted from the last one, two numbers for each.
        features = nn.functional.pad(features, (*(0, 0) * (features.ndim - 1 - self.time), 0, max(0, rest)))
        heard = math.ceil(self.frames * (self.length - first) / self.span)
        return {"sound": features, "heard": (torch.arange(self.frames) < heard).long()}

    def covers(self, shape: tuple[int, ...], stack: list[Convolution]) -> tuple[tuple[float, float], ...]:
        """(start, stop) of what the tokens stand for, in samples.

        Beyond the sample where they are padded to a length.
        """
        start, stop = span(self.frames, stack)
        frame = self.span / self.frames * shape[0] / self.length
        return ((start * frame, stop * frame),)

    def valid(self, batch: Mapping[str, Tensor], tap: Tap) -> Tensor | None:
        """Places whose time lies before the end of the sound."""
        heard = batch["heard"].sum(dim=1, keepdim=True)
        steps = dict(zip(tap.grid.axes, tap.grid.shape, strict=True)).get("t", 1)
        if steps == 1 or bool((heard == self.frames).all()):
            return None
        times = torch.arange(steps, device=heard.device)[None] < (heard * steps / self.frames).floor().clamp_min(1)
        shape = [-1 if axis == "t" else 1 for axis in tap.grid.axes]
        return times.reshape(len(heard), *shape).expand(len(heard), *tap.grid.shape).flatten(1)


def _span(extract: Extract, rate: int) -> float:
    """Number of samples behind features of a fixed length: where a click no longer shows, found by halving."""
    low, high = 0, 120 * rate
    rest = extract(np.zeros(high, dtype=np.float32))
    while high - low > rate // 100:
        middle = (low + high) // 2
        click = np.zeros(120 * rate, dtype=np.float32)
        click[middle : middle + rate // 100] = 1.0
        low, high = (low, middle) if np.allclose(extract(click), rest) else (middle, high)
    # To whole frames, in a length that is a round number of them.
    return float(round(high / rate, 2) * rate)


def _of_directory(extractor: Any) -> tuple[Extract, int, str]:
    rate = int(getattr(extractor, "sampling_rate", RATE))

    def extract(values: np.ndarray) -> np.ndarray:
        extracted = extractor(values, sampling_rate=rate, return_tensors="np")
        features = extracted["input_features"] if "input_features" in extracted else extracted["input_values"]
        # Without the batch axis, and without an axis of one channel.
        return np.asarray(features)[0].squeeze()

    return extract, rate, type(extractor).__name__


def _fallback(tower: nn.Module, config: Any) -> tuple[Extract, int, str]:
    rate = int(setting(config, "sampling_rate", "sample_rate", default=RATE))
    if "input_values" in arguments(tower) and not _has_patches(config):
        return lambda values: (values - values.mean()) / (values.std() + 1e-7), rate, "waveform, mean 0 and spread 1"
    inner = (config, *(setting(config, key) for key in ("encoder_config", "audio_config", "asr_config")))
    named = (setting(part, *_BINS) for part in inner if part is not None)
    kind = model_type(tower)
    bins = _BINS_OF.get(kind) or int(next((n for n in named if isinstance(n, int)), 80))
    kind = str(setting(setting(config, "encoder_config"), "model_type", default=kind))
    bins *= _STACKED.get(kind, 1)
    if setting(config, "feature_projection_input_dim") is not None:
        bins = int(config.feature_projection_input_dim)
    bins *= int(setting(config, "num_stacked_frames", default=1))
    frames = setting(config, "max_source_positions")
    fixed = 2 * int(frames) if isinstance(frames, int) and frames <= 1500 else 0
    fixed = int(config.max_length) if _has_patches(config) else fixed
    return _log_mel(bins, rate, fixed), rate, f"log-mel spectrogram of {bins} bins"


def _log_mel(bins: int, rate: int, fixed: int) -> Extract:
    """[bin, frame], 100 frames a second, padded or cut to `fixed` frames.

    Clipped at 8 decades and scaled as for Whisper.
    """
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    width, hop = round(0.025 * rate), round(0.01 * rate)
    size = max(2 ** math.ceil(math.log2(width)), 4 * bins)
    filters = mel_filter_bank(1 + size // 2, bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    window = window_function(width, "hann")

    def extract(values: np.ndarray) -> np.ndarray:
        if fixed:
            values = np.pad(values[: fixed * hop], (0, max(0, fixed * hop - len(values))))
        power = spectrogram(values, window, width, hop, fft_length=size, power=2.0, mel_filters=filters)
        levels = np.log10(np.maximum(power, 1e-10))[:, : max(1, len(values) // hop)]
        return ((np.maximum(levels, levels.max() - 8.0) + 4.0) / 4.0).astype(np.float32)

    return extract

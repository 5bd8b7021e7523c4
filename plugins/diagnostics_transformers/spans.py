"""Which part of a sound the tokens behind a stack of convolutions stand for."""

from dataclasses import dataclass
from typing import Any

from diagnostics_transformers.prepared import setting


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
    """(start, stop) of what the tokens stand for, in the steps of the input: each the stride's width about its window's middle.

    Convolutions without zeros at the ends leave some of it out; causal ones look back, so that their windows' middles lie
    early.
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

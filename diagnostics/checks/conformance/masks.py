"""Checks of how tokens are weighted: attention sums to one, and the content of padding has no effect."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.checks.conformance.encoder_under_test import EncoderUnderTest, difference, tolerance
from diagnostics.checks.conformance.outcome import Outcome, failed, not_applicable, ok
from diagnostics.encoders.modules import pool
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError

# A prime, which no model has as its number of heads: which axis is that of samples can be told.
ATTENTION_BATCH = 5
MASS = 1e-3


def attention(subject: EncoderUnderTest) -> Outcome:
    """Each query's attention is over the tap's tokens, not negative, and sums to 1 (or nothing).

    Where a fused kernel hides it, it is recomputed, and times the values it must be what the kernel gave: `capture` of
    attention itself refuses it otherwise.
    """
    wrong: list[str] = []
    worst = [0.0]

    def look(tap: Tap, weights: Tensor) -> Tensor:
        if weights.ndim != 4 or tuple(weights.shape[-2:]) != (tap.tokens, tap.tokens):
            wrong.append(f"{tap.name} has shape {tuple(weights.shape)}, not over its {tap.tokens} tokens")
        else:
            mass = weights.sum(-1)
            off = float(torch.where(mass == 0, 0.0, (mass - 1).abs()).max())
            worst[0] = max(worst[0], off)
            if not off <= MASS or float(weights.min()) < 0:
                wrong.append(f"{tap.name} sums to 1 within {off:.2g} only, or is negative: it is no softmax")
        return torch.zeros(len(weights))

    samples = [subject.samples[i % len(subject.samples)] for i in range(ATTENTION_BATCH)]
    subject.passes += 1
    try:
        maps = subject.encoder.attention(subject.batch(samples), None, look)
    except DiagnosticsError as error:
        return not_applicable(str(error).rstrip(".").removeprefix(f"{subject.encoder.name} gives no attention: "))
    if wrong:
        return failed(f"attention at tap {wrong[0]}")
    left = f"; {len(maps.left_out)} taps have none of their own" if maps.left_out else ""
    return ok(f"attention of {len(maps)} taps sums to 1 within {worst[0]:.1g}{left}", off=worst[0])


def padding(subject: EncoderUnderTest) -> Outcome:
    """What stands where a sample is padded does not change what is pooled."""
    encoder = subject.encoder
    sample = _padded(subject)
    if sample is None:
        return not_applicable(f"{encoder.modality} samples are not padded")
    try:
        whole, part = (encoder.preprocess(s) for s in (subject.samples[0], sample))
    except Exception as error:
        return not_applicable(f"it takes no sample that is padded: {' '.join(str(error).split())}".rstrip("."))
    valid = {tap.name: encoder.valid(default_collate([part]), tap) for tap in encoder.taps}
    if all(mask is None for mask in valid.values()):
        return not_applicable("it declares no mask of valid tokens")
    for tap in encoder.taps:
        mask = valid[tap.name]
        if mask is not None and (tuple(mask.shape) != (1, tap.grid.tokens) or mask.dtype != torch.bool):
            return failed(
                f"valid gives {mask.dtype} of shape {tuple(mask.shape)} at tap {tap.name}, not bool [sample, grid token] of "
                f"{(1, tap.grid.tokens)}"
            )
    if not isinstance(part, Mapping) or not isinstance(whole, Mapping):
        return not_applicable("its prepared samples show no mask")
    other = _other_padding(whole, part)
    if other is None:
        return not_applicable("its prepared samples show no padding whose content could be changed")
    batch = default_collate([part, other])
    names = encoder.poolings

    def pooled(tap: Tap, tokens: Tensor) -> Tensor:
        mask = encoder.valid(batch, tap)
        return pool(tap, tokens, names, None if mask is None else mask.to(tokens.device))

    activations = subject.capture(batch, pooled)
    worst = 0.0
    for tap in encoder.taps:
        differs = difference(activations[tap.name][1], activations[tap.name][0])
        worst = max(worst, differs)
        if differs > tolerance(activations[tap.name]):
            return failed(
                f"the content of padding changes the pooled activations of tap {tap.name} by {differs:.2g} of their spread: "
                "hand the mask to the model and let valid leave those tokens out, or refuse such samples"
            )
    return ok(f"padding changes pooled activations by {worst:.1g} of their spread at most", difference=worst)


def _padded(subject: EncoderUnderTest) -> np.ndarray | None:
    sample, modality = subject.samples[0], subject.encoder.modality
    if modality == "text":
        return np.array(str(sample)[: max(1, len(str(sample)) // 2)])
    if modality not in ("series", "audio") or len(sample) < 4:
        return None
    padded = np.array(sample, dtype=np.float64 if sample.dtype == np.float64 else np.float32)
    padded[: len(padded) // 2] = np.nan
    return padded


def _other_padding(whole: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The padded sample with other content where its mask differs from that of the whole one."""
    for key, mask in part.items():
        if not isinstance(mask, Tensor) or not isinstance(whole.get(key), Tensor) or mask.shape != whole[key].shape:
            continue
        if mask.ndim == 0 or not ((mask == 0) | (mask == 1)).all():
            continue
        where = mask != whole[key]
        changed = dict(part)
        for name, content in part.items():
            if name != key and isinstance(content, Tensor) and content.shape == mask.shape and where.any():
                values = set(torch.unique(content).tolist())
                if content.is_floating_point():
                    changed[name] = torch.where(where, content + 3.0, content)
                elif not values <= {0, 1}:
                    changed[name] = torch.where(where, max(values), content)
        if any(changed[name] is not part[name] for name in part):
            return changed
    return None

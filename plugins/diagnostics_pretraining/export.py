"""Both towers written as open_clip writes a model, once open_clip has read them back to the same embeddings."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diagnostics_perception.models import ARCHITECTURES, Architecture
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.plugin import DiagnosticsError, TorchEncoder, describe
from diagnostics_pretraining.text_encoder import TEXTS, WHOLE, whole_table
from diagnostics_pretraining.towers import Pair, Towers, load_pair, towers_of

CONFIGURATION, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_VISION = "vision"
_ANY_CORE = "vit_pe_core_tiny_patch16_384"
"""timm's architecture of which sizes that timm does not know are variations."""
_UPDATE = "update it and timm with pip install -U -e '.[pretraining]'"
_APART = 1e-4
"""Of embeddings, as a share of their spread: more than another order of sums explains."""


@dataclass(frozen=True)
class Exported:
    """What was written: the encoder's name, how many tensors and bytes, the name by which open_clip reads it, and how many of
    CLIP's tokens the text tower does not know, which all have the row of the unknown."""

    folder: str
    encoder: str
    name: str
    tensors: int
    bytes: int
    unknown: int


def export(folder: str | Path, out: Path, trust_code: bool = False) -> Exported:
    """Writes a saved pair to a new folder, which `open_clip.create_model("local-dir:...")` reads.

    open_clip knows no reduced vocabulary, so that one is written as the whole (see `whole_table`). Raises DiagnosticsError for a folder
    that is there, for what is no pair, and where open_clip gives other embeddings.
    """
    # As it was given: the configuration may name it, and a folder that is copied must not tell where it was made.
    place = out.expanduser()
    if place.exists():
        raise DiagnosticsError(f"{out} is there already: choose another --out, or remove it.")
    pair = load_pair(folder, trust_code=trust_code)
    towers = towers_of(pair)
    tensors = _tensors(towers)
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / WEIGHTS)
        _describe(towers, partial, partial)
        _check_same(pair, partial)
        _describe(towers, partial, place)
        partial.replace(place)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else describe(error)
        raise DiagnosticsError(
            f"{out} cannot be written ({why}): is there free space, and do you have permission to write there?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = (place / WEIGHTS).stat().st_size
    unknown = WHOLE - len(towers.vocabulary.kept or range(WHOLE))
    return Exported(str(place), pair.image.name, f"local-dir:{place}", len(tensors), size, unknown)


def _tensors(towers: Towers) -> dict[str, Tensor]:
    parts = {"visual.trunk": towers.image, "text": towers.text}
    named = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    table = "text.token_embedding.weight"
    named[table] = whole_table(named[table], towers.vocabulary)
    return {**named, "logit_scale": towers.log_scale.detach()}


def _describe(towers: Towers, folder: Path, place: Path) -> None:
    """Writes the configuration into a folder that will lie at `place`."""
    one, text = towers.architecture, TEXTS[towers.size]
    name = one.timm.partition(".")[0]
    if one != ARCHITECTURES[towers.size] or not name:
        # open_clip gives timm a name and no sizes; such a name is a folder with sizes, by its path from the working directory.
        name = f"local-dir:{place / _VISION}"
        (folder / _VISION).mkdir(exist_ok=True)
        (folder / _VISION / "config.json").write_text(json.dumps(_variation(one), indent=2))
    model = {
        "embed_dim": one.embedding,
        "vision_cfg": {
            "image_size": one.image,
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": _pool(one),
            "timm_proj": None,
        },
        "text_cfg": {
            "context_length": towers.vocabulary.context,
            "vocab_size": WHOLE,
            "width": text.width,
            "heads": text.heads,
            "layers": text.depth,
        },
        "custom_text": True,
    }
    half = [0.5, 0.5, 0.5]
    images = {"mean": half, "std": half, "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / CONFIGURATION).write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}, indent=2))


def _variation(one: Architecture) -> dict[str, Any]:
    """An architecture as timm describes it in a folder."""
    return {
        "architecture": _ANY_CORE,
        "num_classes": one.embedding,
        "model_args": {
            "img_size": one.image,
            "patch_size": one.patch,
            "embed_dim": one.width,
            "depth": one.depth,
            "num_heads": one.heads,
            "mlp_ratio": one.mlp / one.width,
            "class_token": one.class_token,
            "use_rot_pos_emb": one.rope,
            "ref_feat_shape": [one.grid(), one.grid()],
            "rope_grid_offset": float(one.prefix),
        },
        "pretrained_cfg": {"input_size": [3, one.image, one.image], "num_classes": one.embedding},
    }


def _pool(one: Architecture) -> str:
    return "map" if one.pool == "attention" else "token"


@torch.no_grad()
def _check_same(pair: Pair, folder: Path) -> None:
    """Raises where open_clip gives other embeddings of both encoders' examples."""
    import open_clip

    try:
        model: Any = open_clip.create_model(f"local-dir:{folder}", device="cpu").eval()
    except Exception as error:
        raise DiagnosticsError(
            f"open_clip cannot read what would be written of {pair.image.name} ({describe(error)}): {_UPDATE}."
        ) from error
    images = default_collate([pair.image.preprocess(pair.image.example())])
    texts = open_clip.get_tokenizer(f"local-dir:{folder}")([str(pair.text.example())])
    for encoder, given in ((pair.image, model.encode_image(images)), (pair.text, model.encode_text(texts))):
        expected = _embedding(encoder)
        if float((given - expected).abs().max()) > _APART * float(expected.std()):
            raise DiagnosticsError(
                f"open_clip gives other embeddings of {encoder.name} than it has here, so nothing is written: {_UPDATE}."
            )


def _embedding(encoder: TorchEncoder) -> Tensor:
    return encoder.capture(default_collate([encoder.preprocess(encoder.example())]), ["head"])["head"][:, 0]

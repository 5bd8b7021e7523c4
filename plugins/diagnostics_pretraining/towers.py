"""Towers of image and text as a pair of encoders, and as files of open_clip."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diagnostics_perception.encoder import encoder_of, variation
from diagnostics_perception.models import ARCHITECTURES, Architecture, fitted_positions, initial, skeleton, variant
from diagnostics_timm.weights import name_of
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import DiagnosticsError, TorchEncoder, build, explaining, partial_folder
from diagnostics_pretraining.text_encoder import (
    TEXTS,
    WHOLE,
    Vocabulary,
    embedded,
    extend_table,
    initial_text,
    known_size,
    seed_of,
    text_encoder_of,
    vocabulary_in,
    whole_table,
)

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer
    from timm.models.eva import Eva


# An image tower and a text tower that are trained together, at any size of image up to the final one.


# Two towers as two encoders, saved side by side: the image encoder in a folder, the text encoder in `text/` in it.

TEXT = "text"
"""Of the image encoder's folder, the one in which its text encoder lies."""


_TABLE = "token_embedding.weight"


@dataclass(frozen=True)
class Pair:
    """An image encoder and the text encoder that was trained with it; tap `head` of each gives its embedding.

    scale: what multiplies the cosines of their embeddings before the softmax.
    """

    image: TorchEncoder
    text: TorchEncoder
    scale: float


def encoders_of(towers: Towers, name: str, lineage: Mapping[str, Any] | None = None) -> Pair:
    """Towers as encoders, which share their modules.

    lineage: of both, as plain JSON values; `scale` and `text` (the text tower's weights) are added to the image
    encoder's.
    """
    modes = [(module, module.training) for module in towers.modules()]
    one = towers.architecture
    text = text_encoder_of(f"{name}/{TEXT}", towers.size, towers.text, towers.vocabulary)
    scale = math.exp(float(towers.log_scale.detach()))
    mine = {**(lineage or {}), "scale": scale, TEXT: text.identity["weights"]}
    native = ARCHITECTURES[towers.size].image
    size = {"img_size": one.image if one.image != native else None}
    image = encoder_of(name, replace(one, image=native), towers.image, one.image)
    image = image.replace(skeleton=name_of(f"pe:{towers.size}", False, 0, variation(one) | size), lineage=mine)
    for module, training in modes:  # making an encoder of a module puts it into eval mode
        module.training = training
    return Pair(image, text.replace(lineage=dict(lineage or {})), scale)


def load_pair(folder: str | Path, *, trust_code: bool = False) -> Pair:
    """Both encoders that `diagnostics train pe` wrote.

    Raises DiagnosticsError where there is no text encoder, and where it is not the one that the image encoder was
    trained with.
    """
    image = build("encoder", str(folder), trust_code=trust_code)
    inner = Path(folder).expanduser() / TEXT
    scale = image.lineage.get("scale")
    if not inner.is_dir() or not isinstance(scale, float) or not 0 < scale < math.inf:
        raise DiagnosticsError(
            f"{folder} has no text encoder that was trained with it: name a folder that `diagnostics train pe` wrote.",
            code="missing-file",
        )
    text = build("encoder", str(inner), trust_code=trust_code)
    if image.lineage.get(TEXT) != text.identity["weights"]:
        raise DiagnosticsError(
            f"{inner} is not the text encoder that {folder} was trained with: copy both folders again, together.",
            code="other-run",
        )
    return Pair(image, text, scale)


def towers_of(pair: Pair, *, masked: bool = False, seed: int = 0, vocabulary: Vocabulary | None = None) -> Towers:
    """New towers with a pair's weights, to be trained further; a mask token is drawn from the seed.

    A reduced vocabulary can become one with more words.

    Raises DiagnosticsError for encoders that are not as towers are, an aligned or cut one among them.
    """
    size, known = vocabulary_in(pair.text)
    vocabulary = vocabulary or known
    text = pair.text.module.state_dict()
    if vocabulary != known:
        text[_TABLE] = extend_table(text[_TABLE], known, vocabulary)
    module: Any = pair.image.module
    pool = "attention" if getattr(module, "attn_pool", None) is not None else "class"
    rope = getattr(module, "rope", None) is not None
    image = pair.image.taps[0].grid.shape[0] * ARCHITECTURES[size].patch
    towers = build_towers(size, rope=rope, pool=pool, vocabulary=vocabulary, seed=seed, masked=masked, image=image)
    try:
        towers.image.load_state_dict(module.state_dict())
        towers.text.load_state_dict(text)
    except RuntimeError as error:
        raise DiagnosticsError(
            f"{pair.image.name} does not fit towers of size {size}, as one that was cut or aligned: name what `train "
            f"pe` wrote.",
            code="other-weights",
        ) from error
    with torch.no_grad():
        towers.log_scale.fill_(math.log(pair.scale))
    return towers


class Towers(nn.Module):
    """Both towers, the scale of their similarities, and the token that stands for a hidden patch.

    Images have any size that patches divide, up to the architecture's own: the table of positions is that of the final
    grid, and is resampled on the way in (bilinear, as Meta's code resamples a trained one), while rotary positions
    count patches. So no parameter changes its shape from stage to stage.

    size, architecture, vocabulary: what they were built from. log_scale: logarithm of what multiplies cosines.
    mask_token: [width], or None where no patch is ever hidden.
    """

    def __init__(
        self,
        size: str,
        architecture: Architecture,
        vocabulary: Vocabulary,
        image: Eva,
        text: TextTransformer,
        mask_token: Tensor | None,
    ) -> None:
        super().__init__()
        self.size, self.architecture, self.vocabulary = size, architecture, vocabulary
        self.image: Any = image
        self.text = text
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.mask_token = None if mask_token is None else nn.Parameter(mask_token)
        # Meta's projection has no bias, timm's has one: it stays at zero.
        self.image.head.bias.requires_grad_(False)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Of images [b, 3, y, x], as preprocessing gives them: [b, embedding], not normalised."""
        return self.image.forward_head(self._encode(pixels, None))

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Of tokens int64 [b, up to context]: [b, embedding], not normalised."""
        return embedded(self.text, tokens)

    def image_tokens(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Grid tokens [b, grid, width] after the last norm.

        hidden: bool [b, grid], patches of which the mask token takes the place, before positions are added.
        """
        return self._encode(pixels, hidden)[:, self.architecture.prefix :]

    def tokens_and_embeddings(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The results of `image_tokens` and `embed_images`, in one pass."""
        tokens = self._encode(pixels, None)
        return tokens[:, self.architecture.prefix :], self.image.forward_head(tokens)

    def _encode(self, pixels: Tensor, hidden: Tensor | None) -> Tensor:
        one, image = self.architecture, self.image
        grid = self._grid(pixels)
        x = image.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        if hidden is not None:
            if self.mask_token is None:
                raise DiagnosticsError(
                    "These towers have no mask token: build them with masked=True.", code="missing-option"
                )
            x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        if one.class_token:
            x = torch.cat([image.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = image.norm_pre(x + fitted_positions(image.pos_embed, one.prefix, grid, "index"))
        rope = self._rotary(grid)
        for block in image.blocks:
            x = block(x, rope=rope)
        return image.norm(x)

    def _grid(self, pixels: Tensor) -> int:
        side = pixels.shape[-1]
        if pixels.shape[-2] != side or side > self.architecture.image:
            raise DiagnosticsError(
                f"Images of {pixels.shape[-2]} x {side} pixels do not fit towers of {self.architecture.image}: give "
                f"squares of that size or smaller.",
                code="bad-value",
            )
        return self.architecture.grid(side)

    def _rotary(self, grid: int) -> Tensor | None:
        """Of the k-th patch k, at any size: the corner of the final grid's table, [grid * grid, 2 * head width]."""
        if self.image.rope is None:
            return None
        table, native = self.image.rope.get_embed(), self.architecture.grid()
        return table if grid == native else table.unflatten(0, (native, native))[:grid, :grid].flatten(0, 1)


def build_towers(
    size: str,
    *,
    rope: bool,
    pool: str,
    vocabulary: Vocabulary,
    seed: int,
    masked: bool = False,
    image: int | None = None,
) -> Towers:
    """Both towers of a size (`nano`, `b16-224`, ...) with initial weights.

    Each part is drawn from the seed by itself, so that what is left out of one changes nothing in the others.

    masked: whether there is a mask token. image: side of the final images in pixels, by default the size's own. Raises
    DiagnosticsError for an unknown size, for images that patches do not fit, and for `pool="class"` of a size without a
    class token.
    """
    name = known_size(size)
    one = variant(name, rope=rope, pool=pool)
    one = one if image is None else replace(one, image=image)
    with torch.random.fork_rng(devices=[]):
        tower = _image_tower(name, one, seed)
        text = initial_text(name, vocabulary, seed)
        torch.manual_seed(seed_of("mask", seed))
        mask_token = one.width**-0.5 * torch.randn(one.width) if masked else None
    return Towers(name, one, vocabulary, tower, text, mask_token)


def _image_tower(name: str, one: Architecture, seed: int) -> Eva:
    """A new image tower: what a whole one of the size would be drawn as, without what is left out.

    For another grid than the size's own, it has a table of positions of its own.
    """
    grid = one.grid()
    torch.manual_seed(seed)
    drawn = initial(variant(name)).state_dict()
    if grid != variant(name).grid():
        torch.manual_seed(seed_of("positions", seed))
        drawn["pos_embed"] = one.width**-0.5 * torch.randn(1, one.prefix + grid**2, one.width)
    tower = skeleton(one)
    tower.load_state_dict({key: drawn[key] for key in tower.state_dict()}, assign=True)
    return tower


# Both towers written as open_clip writes a model, once open_clip has read them back to the same embeddings.


CONFIGURATION, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_VISION = "vision"
_ANY_CORE = "vit_pe_core_tiny_patch16_384"
"""timm's architecture of which sizes that timm does not know are variations."""
_UPDATE = "update it and timm with pip install -U -e '.[pretraining]'"
_APART = 1e-4
"""Of embeddings, as a share of their spread: more than another order of sums explains."""


@dataclass(frozen=True)
class Exported:
    """An account of what was written.

    The encoder's name, how many tensors and bytes, the name by which open_clip reads it, and how many of CLIP's tokens
    the text tower does not know, which all have the row of the unknown.
    """

    folder: str
    encoder: str
    name: str
    tensors: int
    bytes: int
    unknown: int


def export(folder: str | Path, out: Path, trust_code: bool = False) -> Exported:
    """Write a saved pair to a new folder, which `open_clip.create_model("local-dir:...")` reads.

    open_clip knows no reduced vocabulary, so that one is written as the whole (see `whole_table`). Raises
    DiagnosticsError for a folder that is there, for what is no pair, and where open_clip gives other embeddings.
    """
    # As it was given: the configuration may name it, and a folder that is copied must not tell where it was made.
    place = out.expanduser()
    if place.exists():
        raise DiagnosticsError(f"{out} is there already: choose another --out, or remove it.", code="occupied")
    pair = load_pair(folder, trust_code=trust_code)
    towers = towers_of(pair)
    tensors = _tensors(towers)
    with partial_folder(place) as partial:
        save_file(tensors, partial / WEIGHTS)
        _describe(towers, partial, partial)
        _check_same(pair, partial)
        _describe(towers, partial, place)
        partial.replace(place)
    unknown = WHOLE - len(towers.vocabulary.kept or range(WHOLE))
    return Exported(
        str(place), pair.image.name, f"local-dir:{place}", len(tensors), (place / WEIGHTS).stat().st_size, unknown
    )


def _tensors(towers: Towers) -> dict[str, Tensor]:
    parts = {"visual.trunk": towers.image, "text": towers.text}
    named = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    table = f"text.{_TABLE}"
    named[table] = whole_table(named[table], towers.vocabulary)
    return {**named, "logit_scale": towers.log_scale.detach()}


def _describe(towers: Towers, folder: Path, place: Path) -> None:
    """Write the configuration into a folder that will lie at `place`."""
    one, text = towers.architecture, TEXTS[towers.size]
    name = one.timm.partition(".")[0]
    if one != ARCHITECTURES[towers.size] or not name:
        # open_clip gives timm a name and no sizes; such a name is a folder with sizes, by its path from the working
        # directory.
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
    """Raise where open_clip gives other embeddings of both encoders' examples."""
    import open_clip

    with explaining(f"open_clip cannot read what would be written of {pair.image.name}", _UPDATE):
        model: Any = open_clip.create_model(f"local-dir:{folder}", device="cpu").eval()
        images = default_collate([pair.image.preprocess(pair.image.example())])
        texts = open_clip.get_tokenizer(f"local-dir:{folder}")([str(pair.text.example())])
        embeddings = model.encode_image(images), model.encode_text(texts)
    for encoder, given in zip((pair.image, pair.text), embeddings, strict=True):
        batch = default_collate([encoder.preprocess(encoder.example())])
        expected = encoder.capture(batch, ["head"])["head"][:, 0]
        if float((given - expected).abs().max()) > _APART * float(expected.std()):
            raise DiagnosticsError(
                f"open_clip gives other embeddings of {encoder.name} than it has here, so nothing is written: "
                f"{_UPDATE}.",
                code="irreproducible",
            )

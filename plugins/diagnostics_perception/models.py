"""The Perception Encoders (arXiv 2504.13181) as timm's `Eva`: their sizes, positions and initial weights."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
from timm.models.eva import Eva
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, check_known, refuse_values

Positions = Literal["index", "rescaled"]
Pool = Literal["attention", "class"]

_ROPE_BASE = 10000.0
_POOL_HEADS = 8
_POOL_MLP_RATIO = 4.0
LAYER_SCALE = 0.1
"""Its initial value in all models that have it."""


@dataclass(frozen=True)
class Architecture:
    """One size of one family.

    `image` and `patch` are sides in pixels, `mlp` is the hidden width of a block. `layer_scale` is the initial value of
    LayerScale, None where there is none. `embedding` is the width of the CLIP embedding that attention pooling and a
    projection give; 0 where an encoder hands out its tokens, and then no norm follows the blocks either. `timm` is the
    name of its weights there, empty where none were published. `rope`: rotary positions beside the learned ones.
    `pool`: what the embedding is projected from, a block of attention over all tokens or the class token.
    """

    timm: str
    image: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    class_token: bool = True
    layer_scale: float | None = None
    embedding: int = 0
    rope: bool = True
    pool: Pool = "attention"

    @property
    def prefix(self) -> int:
        """Number of tokens before the grid."""
        return int(self.class_token)

    def grid(self, image: int | None = None) -> int:
        """Patches along a side of an image, by default of one as in training; raises where they do not fit."""
        side = self.image if image is None else image
        refuse_values(
            (side > 8192, f"No image of img_size={side} pixels is encoded: give at most 8,192."),
            (
                side < self.patch or side % self.patch,
                f"An image of {side} x {side} pixels cannot be cut into patches of {self.patch}: "
                f"choose an img_size that is a multiple of {self.patch}.",
            ),
        )
        return side // self.patch


def _gigantic(family: str, depth: int, layer_scale: float | None, embedding: int = 0) -> Architecture:
    name = f"vit_pe_{family}_gigantic_patch14_448.fb"
    return Architecture(
        name,
        448,
        14,
        1536,
        depth=depth,
        heads=16,
        mlp=8960,
        class_token=False,
        layer_scale=layer_scale,
        embedding=embedding,
    )


_LANG_L = Architecture(
    "vit_pe_lang_large_patch14_448.fb", 448, 14, 1024, 23, heads=16, mlp=4096, layer_scale=LAYER_SCALE
)
_LANG_G = _gigantic("lang", 47, LAYER_SCALE)

ARCHITECTURES = {
    "core-t16-384": Architecture("vit_pe_core_tiny_patch16_384.fb", 384, 16, 192, 12, heads=3, mlp=768, embedding=512),
    "core-s16-384": Architecture(
        "vit_pe_core_small_patch16_384.fb", 384, 16, 384, 12, heads=6, mlp=1536, embedding=512
    ),
    "core-b16-224": Architecture(
        "vit_pe_core_base_patch16_224.fb", 224, 16, 768, 12, heads=12, mlp=3072, embedding=1024
    ),
    "core-l14-336": Architecture(
        "vit_pe_core_large_patch14_336.fb", 336, 14, 1024, 24, heads=16, mlp=4096, embedding=1024
    ),
    "core-g14-448": _gigantic("core", 50, None, embedding=1280),
    "lang-l14-448": _LANG_L,
    "lang-l14-448-tiling": replace(_LANG_L, timm="vit_pe_lang_large_patch14_448.fb_tiling"),
    "lang-g14-448": _LANG_G,
    "lang-g14-448-tiling": replace(_LANG_G, timm="vit_pe_lang_gigantic_patch14_448.fb_tiling"),
    "spatial-t16-512": Architecture("vit_pe_spatial_tiny_patch16_512.fb", 512, 16, 192, 12, heads=3, mlp=768),
    "spatial-s16-512": Architecture("vit_pe_spatial_small_patch16_512.fb", 512, 16, 384, 12, heads=6, mlp=1536),
    "spatial-b16-512": Architecture("vit_pe_spatial_base_patch16_512.fb", 512, 16, 768, 12, heads=12, mlp=3072),
    "spatial-l14-448": Architecture("vit_pe_spatial_large_patch14_448.fb", 448, 14, 1024, 24, heads=16, mlp=4096),
    "spatial-g14-448": _gigantic("spatial", 50, LAYER_SCALE),
    "nano": Architecture("", 48, 8, 64, 6, heads=2, mlp=256, embedding=64),
    "micro": Architecture("", 16, 4, 32, 2, heads=2, mlp=128, embedding=32),
}


def variant(
    model: str,
    depth: int | None = None,
    layer_scale: float | None = None,
    rope: bool = True,
    pool: str = "attention",
) -> Architecture:
    """A known model with fewer blocks, or with LayerScale of another initial value (0: none); None leaves it as it is.

    rope, pool: as of `Architecture`. Raises DiagnosticsError for what cannot be.
    """
    known = ARCHITECTURES[model]
    check_known("option pool", pool, get_args(Pool))
    if pool == "class" and not (known.class_token and known.embedding):
        lacks = "class token" if known.embedding else "embedding"
        raise DiagnosticsError(
            f"pe:{model} has no {lacks}, so it cannot have pool=class: leave it out.", code="no-effect"
        )
    known = replace(known, rope=rope, pool="class" if pool == "class" else "attention")
    depth = known.depth if depth is None else depth
    if not 1 <= depth <= known.depth:
        raise DiagnosticsError(
            f"pe:{model} has {known.depth} blocks and cannot have depth={depth}: give 1 to {known.depth}.",
            code="bad-value",
        )
    if layer_scale is None:
        return replace(known, depth=depth)
    if not 0 <= layer_scale < math.inf:
        raise DiagnosticsError(
            f"LayerScale cannot start at layer_scale={layer_scale}: give a number above 0, as 0.1, or 0 for none.",
            code="bad-value",
        )
    return replace(known, depth=depth, layer_scale=layer_scale or None)


def skeleton(architecture: Architecture, image: int | None = None, positions: Positions = "index") -> Eva:
    """The model with parameters on the meta device, and rotary positions that are not.

    `image` is the side of the input in pixels. With `index` the k-th patch stands at k whatever the size (Meta's code);
    with `rescaled` the patches are spread over the grid of training (timm's).
    """
    grid, native = architecture.grid(image), architecture.grid()
    with torch.device("meta"):
        model = Eva(
            img_size=grid * architecture.patch,
            patch_size=architecture.patch,
            num_classes=architecture.embedding,
            global_pool={"attention": "map", "class": "token"}[architecture.pool] if architecture.embedding else "",
            embed_dim=architecture.width,
            depth=architecture.depth,
            num_heads=architecture.heads,
            mlp_ratio=architecture.mlp / architecture.width,
            attn_type="rope",
            norm_layer=nn.LayerNorm,
            init_values=architecture.layer_scale,
            class_token=architecture.class_token,
            use_pre_transformer_norm=True,
            use_post_transformer_norm=bool(architecture.embedding),
            use_fc_norm=False,
            attn_pool_num_heads=_POOL_HEADS,
            attn_pool_mlp_ratio=_POOL_MLP_RATIO,
        )
    if not architecture.rope:
        return model
    # Built here, not by Eva: its factory drops a reference grid of None, and these tables must not lie on meta.
    model.rope = RotaryEmbeddingCat(
        architecture.width // architecture.heads,
        temperature=_ROPE_BASE,
        in_pixels=False,
        feat_shape=[grid, grid],
        ref_feat_shape=None if positions == "index" else [native, native],
        grid_offset=float(architecture.prefix),
        grid_indexing="xy",
    )
    return model


def fitted_positions(table: Tensor, prefix: int, grid: int, positions: Positions) -> Tensor:
    """A learned table [1, prefix + old * old, width] for another grid, prefix rows kept.

    Bilinear for `index`, as Meta's code does it, bicubic with antialiasing for `rescaled`, as timm's.
    """
    old = math.isqrt(table.shape[1] - prefix)
    if old == grid:
        return table
    kept, places = table[:, :prefix], table[:, prefix:]
    image = places.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    mode = "bilinear" if positions == "index" else "bicubic"
    image = F.interpolate(image, (grid, grid), mode=mode, align_corners=False, antialias=positions != "index")
    return torch.cat([kept, image.flatten(2).transpose(1, 2)], dim=1)


def initial(architecture: Architecture, image: int | None = None, positions: Positions = "index") -> Eva:
    """The model with weights drawn from torch's global generator as its makers draw them before training.

    The table of positions is drawn for the grid of training and fitted to another as a trained one would be.
    """
    model = skeleton(architecture, image, positions)
    rope, model.rope = model.rope, None
    model.to_empty(device="cpu")
    model.rope = rope
    table = architecture.width**-0.5 * torch.randn(
        1, architecture.prefix + architecture.grid() ** 2, architecture.width
    )
    with torch.no_grad():
        _draw(model, architecture)
        model.get_parameter("pos_embed").copy_(
            fitted_positions(table, architecture.prefix, architecture.grid(image), positions)
        )
    return model


def _draw(model: Any, architecture: Architecture) -> None:
    """All weights but the table of positions."""
    scale = architecture.width**-0.5
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
            part.reset_parameters()
    for block in model.blocks:
        _as_in_projection(block.attn.qkv)
        block.attn.proj.bias.zero_()
        if architecture.layer_scale is not None:
            block.gamma_1.fill_(architecture.layer_scale)
            block.gamma_2.fill_(architecture.layer_scale)
    if architecture.class_token:
        model.cls_token.normal_(std=scale)
    if architecture.embedding:
        if architecture.pool == "attention":
            model.attn_pool.latent.normal_()
            _as_in_projection(model.attn_pool.q, model.attn_pool.kv)
            model.attn_pool.proj.bias.zero_()
        model.head.weight.normal_(std=scale)
        model.head.bias.zero_()


def _as_in_projection(*parts: nn.Linear) -> None:
    """Layers that are one matrix [3 width, width] in Meta's code: Xavier over the whole of it, biases 0."""
    width = parts[0].in_features
    bound = math.sqrt(6 / (width + 3 * width))
    for part in parts:
        part.weight.uniform_(-bound, bound)
        part.bias.zero_()

"""Meta's layout and timm's: the names of a Perception Encoder's tensors in both, and how one becomes the other."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diagnostics_perception.models import ARCHITECTURES, LAYER_SCALE, Architecture, Pool, varied

# Which of the known Perception Encoders some tensors could be of.


@dataclass(frozen=True)
class Known:
    """A model that some tensors could be of, perhaps with fewer blocks, or with LayerScale where it has none, or without.

    architecture: of the tensors. options: of `pe:`, which make it of the model.
    """

    model: str
    architecture: Architecture
    options: Mapping[str, object]

    def named(self, **more: object) -> str:
        """Its name with more options and these."""
        options = [f"{key}={value}" for key, value in {**more, **self.options}.items()]
        return f"pe:{self.model}{'?' if options else ''}{'&'.join(options)}"


def recognised(tensors: Mapping[str, Tensor], rope: bool = True) -> list[Known]:
    """The models that tensors in either layout could be of, by their blocks, patches, class token and head; those that need the fewest options
    first. No tensor tells whether there are rotary positions (`rope`)."""
    conv = tensors.get("conv1.weight", tensors.get("patch_embed.proj.weight"))
    blocks = {int(match[1]) for match in map(BLOCK.match, tensors) if match}
    pooled = any(name.startswith("attn_pool.") for name in tensors)
    projected = pooled or not tensors.keys().isdisjoint(("proj", "head.weight"))
    scaled = any("gamma" in name for name in tensors)
    prefixed = not tensors.keys().isdisjoint(("class_embedding", "cls_token"))
    if conv is None or blocks != set(range(len(blocks))):
        return []
    alike = [
        _known(model, one, len(blocks), scaled, rope, "attention" if pooled or not projected else "class")
        for model, one in ARCHITECTURES.items()
        if tuple(conv.shape) == (one.width, 3, one.patch, one.patch)
        and 1 <= len(blocks) <= one.depth
        and (projected, prefixed) == (bool(one.embedding), one.class_token)
        and (pooled or not projected or prefixed)
    ]
    return sorted(alike, key=lambda known: len(known.options))


def _known(model: str, one: Architecture, depth: int, scaled: bool, rope: bool, pool: Pool) -> Known:
    options: dict[str, Any] = {} if depth == one.depth else {"depth": depth}
    if scaled != (one.layer_scale is not None):
        options["layer_scale"] = LAYER_SCALE if scaled else 0
    changed = varied(model, **options, rope=rope, pool=pool)
    options |= {} if rope else {"rope": "false"}
    options |= {} if pool == "attention" else {"pool": pool}
    return Known(model, changed, options)


Take = Callable[[Tensor], Tensor]

BLOCK = re.compile(r"(?:transformer\.resblocks|blocks)\.(\d+)\.")
"""Matches a block's tensors in either layout."""
HEAD = ("norm", "attn_pool", "head")
"""What follows the blocks of an `Eva` that gives an embedding."""
PARTS = ("cls_token", "pos_embed", "patch_embed", "norm_pre", "blocks", *HEAD)
"""What of an `Eva` has a place in Meta's layout."""
_RENAMED = (
    ("patch_embed.proj.", "conv1."),
    ("norm_pre.", "ln_pre."),
    ("blocks.", "transformer.resblocks."),
    ("attn_pool.latent", "attn_pool.probe"),
    ("attn_pool.proj.", "attn_pool.attn.out_proj."),
    ("attn_pool.norm.", "attn_pool.layernorm."),
    (".norm1.", ".ln_1."),
    (".norm2.", ".ln_2."),
    (".attn.qkv.", ".attn.in_proj_"),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".gamma_1", ".ls_1.gamma"),
    (".gamma_2", ".ls_2.gamma"),
)
_GIVEN: dict[str, Take] = {
    "cls_token": lambda value: value[0, 0],
    "pos_embed": lambda value: value[0],
    "head.weight": lambda value: value.T,
}
"""How a tensor of `Eva` that has another shape in Meta's layout is given to it."""


def as_it_is(value: Tensor) -> Tensor:
    return value


def meta_source(key: str, width: int) -> tuple[str, Take]:
    """The name in Meta's layout of a tensor of `Eva` (empty for the projection's bias, zero), and how it is taken."""
    special: dict[str, tuple[str, Take]] = {
        "cls_token": ("class_embedding", lambda value: value[None, None]),
        "pos_embed": ("positional_embedding", lambda value: value[None]),
        "head.weight": ("proj", lambda value: value.T),
        "head.bias": ("", as_it_is),
    }
    if key in special:
        return special[key]
    projected = re.fullmatch(r"attn_pool\.(q|kv)\.(weight|bias)", key)
    if projected:
        rows = slice(0, width) if projected[1] == "q" else slice(width, None)
        # Cloned, since two parameters that share their memory cannot be saved.
        return f"attn_pool.attn.in_proj_{projected[2]}", lambda value: value[rows].clone()
    if key.startswith("norm."):
        return key.replace("norm.", "ln_post.", 1), as_it_is
    for ours, theirs in _RENAMED:
        key = key.replace(ours, theirs, 1)
    return key, as_it_is


def meta_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an `Eva` in Meta's layout; they share its memory where they can."""
    parts: dict[str, list[Tensor]] = {}
    for key, value in state.items():
        name, _ = meta_source(key, 0)
        if name:
            # Of the pool's one matrix, the rows of q come before those of k and v, as in Eva.
            parts.setdefault(name, []).append(_GIVEN.get(key, as_it_is)(value))
    return {name: (torch.cat(of) if len(of) > 1 else of[0]).contiguous() for name, of in parts.items()}

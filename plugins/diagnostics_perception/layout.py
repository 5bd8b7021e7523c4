"""Meta's layout and timm's: the names of a Perception Encoder's tensors in both, and how one becomes the other."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

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

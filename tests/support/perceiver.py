"""Perception Encoder from its equations, small ones, and tensors in its makers' layout."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from diagnostics_perception.models import Architecture
from torch import Tensor

CORE = Architecture("tiny", 32, 8, 96, 3, 3, 384, embedding=24)
TINY = {
    "core": CORE,
    "core like G": replace(CORE, class_token=False, mlp=560),
    "lang": replace(CORE, layer_scale=0.1, embedding=0),
    "lang like G": replace(CORE, layer_scale=0.1, embedding=0, class_token=False, mlp=560),
    "spatial": replace(CORE, embedding=0),
}
VARIED = {
    "core without rope": replace(CORE, rope=False),
    "core by its class token": replace(CORE, pool="class"),
    "core with neither": replace(CORE, rope=False, pool="class"),
}
"""What the ablation of the paper starts from."""


def meta_shapes(one: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of Meta's vision tower, written out from its description."""
    width, mlp = one.width, one.mlp
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (width, 3, one.patch, one.patch),
        "positional_embedding": ((one.image // one.patch) ** 2 + one.class_token, width),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
    }
    if one.class_token:
        shapes["class_embedding"] = (width,)
    layers = [f"transformer.resblocks.{i}." for i in range(one.depth)]
    for at in layers:
        shapes |= {
            f"{at}attn.in_proj_weight": (3 * width, width),
            f"{at}attn.in_proj_bias": (3 * width,),
            f"{at}attn.out_proj.weight": (width, width),
            f"{at}attn.out_proj.bias": (width,),
            f"{at}mlp.c_fc.weight": (mlp, width),
            f"{at}mlp.c_fc.bias": (mlp,),
            f"{at}mlp.c_proj.weight": (width, mlp),
            f"{at}mlp.c_proj.bias": (width,),
        }
        names = ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"]
        names += ["ls_1.gamma", "ls_2.gamma"] if one.layer_scale else []
        shapes |= {f"{at}{name}": (width,) for name in names}
    if one.embedding:
        shapes |= {"ln_post.weight": (width,), "ln_post.bias": (width,), "proj": (width, one.embedding)}
    if one.embedding and one.pool == "attention":
        shapes |= {
            "attn_pool.probe": (1, 1, width),
            "attn_pool.attn.in_proj_weight": (3 * width, width),
            "attn_pool.attn.in_proj_bias": (3 * width,),
            "attn_pool.attn.out_proj.weight": (width, width),
            "attn_pool.attn.out_proj.bias": (width,),
            "attn_pool.layernorm.weight": (width,),
            "attn_pool.layernorm.bias": (width,),
            "attn_pool.mlp.c_fc.weight": (4 * width, width),
            "attn_pool.mlp.c_fc.bias": (4 * width,),
            "attn_pool.mlp.c_proj.weight": (width, 4 * width),
            "attn_pool.mlp.c_proj.bias": (width,),
        }
    return shapes


def meta_state(one: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """All of them random, norms and LayerScale too, so that no mistake hides behind a one or a zero."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in meta_shapes(one).items():
        spread = 0.5 if len(shape) == 1 or "embedding" in name or "probe" in name else 1.5 / math.sqrt(shape[-1])
        centre = 1.0 if ("ln_" in name or "layernorm" in name) and name.endswith("weight") else 0.0
        state[name] = centre + spread * torch.randn(shape, generator=generator)
    return state


def reference(
    state: dict[str, Tensor],
    image: Tensor,
    one: Architecture,
    *,
    eps: float = 1e-5,
    offset: int | None = None,
    x_first: bool = True,
    interleaved: bool = True,
    pool_heads: int = 8,
) -> dict[str, Tensor]:
    """The encoder from its equations, in float64 and in Meta's names; no layer of torch or timm in it.

    Rotations are computed in float32, as the makers' code does. What the keywords name are the mistakes that a port can
    make; their defaults are none of them.
    """
    w = {name: tensor.double() for name, tensor in state.items()}
    side = image.shape[-1] // one.patch

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = x @ w[f"{name}.c_fc.weight"].T + w[f"{name}.c_fc.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return hidden @ w[f"{name}.c_proj.weight"].T + w[f"{name}.c_proj.bias"]

    size = one.width // one.heads
    frequency = 1.0 / 10000.0 ** (torch.arange(0, size // 2, 2).float() / (size // 2))
    places = torch.arange(side).float() + (one.class_token if offset is None else offset)
    y, x = (axis.flatten()[:, None] * frequency for axis in torch.meshgrid(places, places, indexing="ij"))
    angles = torch.cat([x, y] if x_first else [y, x], dim=1)  # [token, size / 2]
    cos, sin = angles.cos().double(), angles.sin().double()

    def rotated(vectors: Tensor) -> Tensor:
        """[B, head, token, size], prefix tokens not turned."""
        still, turned = vectors[:, :, : one.prefix], vectors[:, :, one.prefix :]
        if interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
            pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
        else:
            first, second = turned.chunk(2, dim=-1)
            pairs = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
        return torch.cat([still, pairs], dim=2)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, rope: bool) -> Tensor:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        if rope:
            q, k = rotated(q), rotated(k)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    cut = image.double().unflatten(3, (side, one.patch)).unflatten(2, (side, one.patch))  # B c y p x q
    patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    tokens = patches @ w["conv1.weight"].flatten(1).T
    table = w["positional_embedding"]
    if side != one.image // one.patch:
        by = bilinear(one.image // one.patch, side)
        grid = table[one.prefix :].unflatten(0, (one.image // one.patch, -1))
        moved = torch.einsum("ai,bj,ijw->abw", by, by, grid).flatten(0, 1)
        table = torch.cat([table[: one.prefix], moved])
    if one.class_token:
        tokens = torch.cat([w["class_embedding"].expand(len(image), 1, -1), tokens], dim=1)
    tokens = norm(tokens + table, "ln_pre")
    found = {"embed": tokens}
    for i in range(one.depth):
        at = f"transformer.resblocks.{i}"
        given = norm(tokens, f"{at}.ln_1")
        q, k, v = (given @ w[f"{at}.attn.in_proj_weight"].T + w[f"{at}.attn.in_proj_bias"]).chunk(3, dim=-1)
        mixed = attend(q, k, v, one.heads, rope=one.rope) @ w[f"{at}.attn.out_proj.weight"].T
        mixed = mixed + w[f"{at}.attn.out_proj.bias"]
        tokens = tokens + mixed * w.get(f"{at}.ls_1.gamma", torch.ones(()))
        tokens = tokens + mlp(norm(tokens, f"{at}.ln_2"), f"{at}.mlp") * w.get(f"{at}.ls_2.gamma", torch.ones(()))
        found[f"blocks.{i}"] = tokens
    if one.embedding:
        found["norm"] = norm(tokens, "ln_post")
    if one.embedding and one.pool == "class":
        found["head"] = found["norm"][:, :1] @ w["proj"]
    elif one.embedding:
        weight, bias = w["attn_pool.attn.in_proj_weight"].chunk(3), w["attn_pool.attn.in_proj_bias"].chunk(3)
        probe = w["attn_pool.probe"].expand(len(image), 1, -1)
        q, k, v = (t @ m.T + b for t, m, b in zip((probe, found["norm"], found["norm"]), weight, bias, strict=True))
        pooled = attend(q, k, v, pool_heads, rope=False) @ w["attn_pool.attn.out_proj.weight"].T
        pooled = pooled + w["attn_pool.attn.out_proj.bias"]
        found["attn_pool"] = pooled + mlp(norm(pooled, "attn_pool.layernorm"), "attn_pool.mlp")
        found["head"] = found["attn_pool"] @ w["proj"]
    return found


def bilinear(old: int, new: int) -> Tensor:
    """[new, old] weights of places read between the centres of cells, held at the border."""
    where = ((torch.arange(new).double() + 0.5) * old / new - 0.5).clamp(min=0)
    low = where.floor().long().clamp(max=old - 1)
    high = (low + 1).clamp(max=old - 1)
    weights = torch.zeros(new, old, dtype=torch.float64)
    rows = torch.arange(new)
    weights[rows, low] += 1 - (where - low)
    weights[rows, high] += where - low
    return weights


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

"""Finding a model's stack of blocks by its structure, without knowing the model."""

from __future__ import annotations

import re
from collections import Counter

from torch import nn

from diagnostics.errors import DiagnosticsError

_ROOTS = ("blocks", "stages", "layers", "levels", "network")
_WITHIN_STAGE = ("blocks", "layers")
_SIDE = ("decoder", "predictor", "quantizer", "feature_extractor", "head", "attn_pool", "cls_attn_blocks")
_HEADS = ("head", "head_dist", "fc", "classifier", "attn_pool", "conv_head", "final_conv")
# Their blocks see only part of the channels, so the stage is the smallest part that holds all the model knows.
_WHOLE_STAGES = ("CrossStage", "CrossStage3")
# Below this share of the trunk's parameters, what was guessed is a side branch or one stage of many.
_LEAST_SHARE = 0.5

_Named = tuple[str, nn.Module]


def find_blocks(model: nn.Module, encoder: str) -> list[str]:
    """Qualified names of the blocks, in the order in which they stand; raises when there is no stack of them."""
    blocks = _named_root(model)
    if not blocks:
        blocks = _numbered_roots(model) or _largest_container(model)
        blocks = blocks if _share(model, blocks) >= _LEAST_SHARE else []
    if not blocks:
        raise DiagnosticsError(
            f"{encoder} ({type(model).__name__}) has no stack of blocks that could be found: declare its taps yourself "
            "(docs/plugins.md)."
        )
    return [name for name, _ in blocks]


def _named_root(model: nn.Module) -> list[_Named]:
    for name in _ROOTS:
        root = getattr(model, name, None)
        if isinstance(root, (nn.Sequential, nn.ModuleList)) and len(_children(name, root)) > 0:
            return [block for child in _children(name, root) for block in _stage(*child)]
    return []


def _numbered_roots(model: nn.Module) -> list[_Named]:
    """`layer1` ... `layer4` of a ResNet, `s1` ... `s4` of a RegNet."""
    series: dict[str, list[_Named]] = {}
    for name, child in model.named_children():
        match = re.fullmatch(r"([a-z_]+?)_?\d+", name)
        if match and _stage(name, child) != [(name, child)]:
            series.setdefault(match[1], []).append((name, child))
    most = max(series.values(), key=len, default=[])
    return [block for child in most for block in _stage(*child)] if len(most) > 1 else []


def _largest_container(model: nn.Module) -> list[_Named]:
    best: list[_Named] = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList)) or any(part in _SIDE for part in name.split(".")):
            continue
        children = _children(name, module)
        if len(children) < 2 or not all(_composite(child) for _, child in children):
            continue
        kinds = Counter(type(child) for _, child in children)
        if kinds.most_common(1)[0][1] >= 0.8 * len(children) and _size(children) > _size(best):
            best = children
    return [block for child in best for block in _stage(*child)]


def _stage(name: str, module: nn.Module) -> list[_Named]:
    """The blocks of a stage, or the module itself where it is a block."""
    if type(module).__name__ in _WHOLE_STAGES:
        return [(name, module)]
    children = _children(name, module)
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        parts = [(f"{name}.{key}", child) for key, child in module.named_children() if key in _WITHIN_STAGE]
        parts = [part for part in parts if isinstance(part[1], (nn.Sequential, nn.ModuleList))]
        if parts:
            children = _children(*parts[0])
        elif not all(re.fullmatch(r"b\d+", key) for key, _ in module.named_children()):
            return [(name, module)]
    return children if children and all(_composite(child) for _, child in children) else [(name, module)]


def _children(name: str, module: nn.Module) -> list[_Named]:
    return [(f"{name}.{key}", c) for key, c in module.named_children() if not isinstance(c, nn.Identity)]


def _composite(module: nn.Module) -> bool:
    """Whether it could be a block: has parts, and is more than one of torch's own layers."""
    own = type(module).__module__.startswith("torch.nn.") and not isinstance(module, (nn.Sequential, nn.ModuleList))
    return not own and next(module.children(), None) is not None


def _size(modules: list[_Named]) -> int:
    return sum(p.numel() for _, module in modules for p in module.parameters())


def _share(model: nn.Module, blocks: list[_Named]) -> float:
    heads = [(name, child) for name, child in model.named_children() if name in _HEADS]
    return _size(blocks) / max(1, _size([("", model)]) - _size(heads))

"""Where a tower's layers stand: the classes whose outputs transformers records, then its structure."""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from diagnostics_transformers.towers import model_type

# Parts of a model that are no trunk.
_SIDE = ("decoder", "predictor", "quantizer", "feature_extractor", "pooler", "head", "neck", "resampler")
# Layers without a module of their own: what ends each of them, so that its output is the whole layer's.
_STANDING = {"xlm": "layer_norm2", "flaubert": "layer_norm2", "swiftformer": "encoder.network"}
# Stacks that run one after the other on the same tokens.
_CONTINUED = {"mllama_vision_model": ("transformer.layers", "global_transformer.layers")}
# Layers whose forward pass is called past the module: the part that ends each of them.
_PARTS = {"squeezebert": ("encoder.layers", "output")}
FIRST = {
    "xlm": "tower.attentions.0",
    "flaubert": "tower.attentions.0",
    "squeezebert": "tower.encoder.layers.0.attention",
}
"""What takes the embedding where it is not the first of these."""


# Stacks that run one after the other: list of layers, axes of its tokens, special tokens before them.
CHAINS = {
    "pe_video_encoder": (
        ("embedder.vision_model.timm_model.blocks", ("t", "y", "x"), 1),
        ("layers", ("t",), 1),
    )
}
_OF_TIMM = ("timm_wrapper", "timm_backbone")


def stacks(tower: nn.Module) -> list[list[str] | None]:
    """Qualified names of the layers, the most likely first; None stands for what discovery finds by itself."""
    kind = model_type(tower.get_submodule("tower"))
    if kind in _STANDING:
        return [children(tower, _STANDING[kind])]
    if kind in _CONTINUED:
        return [[name for place in _CONTINUED[kind] for name in children(tower, place)]]
    if kind in _PARTS:
        place, part = _PARTS[kind]
        return [[f"{name}.{part}" for name in children(tower, place)]]
    if kind in _OF_TIMM:
        return [None]
    candidates: list[list[str] | None] = [names for names in _recorded(tower) if names]
    listed = _listed(tower)
    if listed and listed not in candidates:
        candidates.append(listed)
    return [*candidates, None]


def children(tower: nn.Module, place: str) -> list[str]:
    """Qualified names of the layers that stand at a place of the tower."""
    return [f"tower.{place}.{key}" for key, _ in tower.get_submodule(f"tower.{place}").named_children()]


def _listed(tower: nn.Module) -> list[str]:
    """The list of at least two modules of one class with most parameters, not inside another one's."""
    best: list[str] = []
    most, only_side = 0, _only_side(tower)
    for name, part in _lists(tower, nn.ModuleList, nn.Sequential).items():
        if is_side(name) and not only_side:
            continue
        alike = len({type(child) for child in part}) == 1
        size = sum(p.numel() for p in part.parameters())
        if alike and size > most:
            best, most = [f"{name}.{key}" for key, _ in part.named_children()], size
    return best


def inner_layers(module: nn.Module) -> list[str]:
    """Names within a head of the layers that it stacks; nothing where it has no such stack."""
    alike = {name: part for name, part in _lists(module, nn.ModuleList).items() if len({type(p) for p in part}) == 1}
    longest = max(alike, key=lambda name: len(alike[name]), default="")
    return [f"{longest}.{i}" for i in range(len(alike[longest]))] if alike else []


def _lists(tower: nn.Module, *kinds: type[nn.ModuleList | nn.Sequential]) -> dict[str, Any]:
    """Lists of at least two modules with parts of their own, by name."""
    lists = {name: part for name, part in tower.named_modules() if isinstance(part, kinds)}
    return {n: part for n, part in lists.items() if len(part) > 1 and next(part[0].children(), None) is not None}


def _only_side(tower: nn.Module) -> bool:
    """Whether all that stacks layers has the name of a side branch: decoders alone are a trunk."""
    return all(is_side(name) for name in _lists(tower, nn.ModuleList, nn.Sequential))


def _recorded(tower: nn.Module) -> Iterable[list[str]]:
    """Instances of each class that some part records as its hidden states, outermost only, those of the trunk alone."""
    by_class: dict[type, list[str]] = {}
    for owner_name, owner in tower.named_modules():
        for kind, place in _targets(owner):
            for name, part in owner.named_modules():
                whole = f"{owner_name}.{name}" if owner_name else name
                if isinstance(part, kind) and place in name and whole not in by_class.setdefault(kind, []):
                    by_class[kind].append(whole)

    def size(names: Iterable[str]) -> int:
        return sum(p.numel() for name in names for p in tower.get_submodule(name).parameters())

    candidates: list[tuple[int, list[str]]] = []
    for names in by_class.values():
        outer = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
        trunk = [n for n in outer if not is_side(n)] or (outer if _only_side(tower) else [])
        groups = _groups(trunk)
        if groups:
            candidates.append((size(trunk), trunk))
        if len(groups) > 1:
            # Stages hold layers of one class in several lists; lists of another width or purpose stand elsewhere.
            candidates.append((size(trunk) - 1, max(groups.values(), key=size)))
    return [names for _, names in sorted(candidates, key=lambda pair: -pair[0])]


def _targets(owner: nn.Module) -> list[tuple[type, str]]:
    recorded = (getattr(owner, "_can_record_outputs", None) or {}).get("hidden_states")
    entries: list[Any] = list(recorded) if isinstance(recorded, (list, tuple)) else [recorded] if recorded else []
    targets: list[tuple[type, str]] = []
    for entry in entries:
        kind = getattr(entry, "target_class", entry)
        if isinstance(kind, type):
            targets.append((kind, getattr(entry, "layer_name", None) or ""))
    return targets


def is_side(name: str) -> bool:
    """Whether a module stands in a part that is no trunk (a decoder, a quantizer)."""
    return any(part.removesuffix("s").endswith(_SIDE) for part in name.split("."))


def _groups(names: list[str]) -> dict[str, list[str]]:
    """Names by the list that they stand in."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\.\d+$", "", name), []).append(name)
    return groups

"""Which of the known Perception Encoders some tensors could be of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diagnostics_perception.layout import BLOCK
from diagnostics_perception.models import ARCHITECTURES, LAYER_SCALE, Architecture, Pool, varied


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

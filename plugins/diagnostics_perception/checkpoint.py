"""Weights from a file, Meta's layout or timm's, into an `Eva`; what does not fit is reported, never ignored.

Meta's own loader takes any file and prints what was missing, so that a 50-block core loads silently as a 47-block lang
encoder with untrained LayerScale. Here that is an error, or, asked for, a sentence that the run carries.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diagnostics_timm.weights import read_tensors as tensors_in
from torch import Tensor

from diagnostics.plugin import DiagnosticsError
from diagnostics_perception.models import (
    ARCHITECTURES,
    LAYER_SCALE,
    Architecture,
    Pool,
    Positions,
    fitted_positions,
    skeleton,
    varied,
)

# Meta's layout and timm's: the names of a Perception Encoder's tensors in both, and how one becomes the other.

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


TEXT_TOWER = (
    "token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection", "logit_scale",
)  # fmt: skip
_HEAD = re.compile(r"(ln_post|norm|attn_pool|fc_norm|head)\.|proj$")


@dataclass
class Report:
    """What of a checkpoint does not fit an architecture, by the names that the file has or should have."""

    missing: list[str] = field(default_factory=list[str])
    unexpected: list[str] = field(default_factory=list[str])
    misshapen: list[str] = field(default_factory=list[str])
    dropped_blocks: list[int] = field(default_factory=list[int])
    dropped_head: list[str] = field(default_factory=list[str])
    layer_scale: list[str] = field(default_factory=list[str])
    """Missing LayerScale, which stays at its initial value."""
    positions: str = ""
    """How a table of positions was fitted to the input's grid; nothing where it did not need to be."""
    positions_unasked: bool = False
    """Whether the file's table is neither of the grid of training nor of the one that was asked for."""

    @property
    def wrong(self) -> list[str]:
        """What nothing can make good."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        return [f"{len(names)} tensors {kind}: {_few(names)}" for kind, names in kinds.items() if names]

    @property
    def changed(self) -> list[str]:
        """What makes of the checkpoint another encoder than it was, though one that runs."""
        notes = []
        if self.dropped_blocks:
            notes.append(f"its blocks {_span(self.dropped_blocks)} are dropped")
        if self.dropped_head:
            notes.append(f"{len(self.dropped_head)} tensors after its blocks are dropped ({_few(self.dropped_head)})")
        if self.layer_scale:
            notes.append(f"LayerScale is not in it and stays at its initial value ({len(self.layer_scale)} tensors)")
        return [*notes, self.positions] if self.positions_unasked else notes

    def __str__(self) -> str:
        """What a run should say of its weights; nothing where the checkpoint fits as it is."""
        asked = [self.positions] if self.positions and not self.positions_unasked else []
        return "; ".join([*self.changed, *asked])


def from_file(
    path: Path, encoder: str, architecture: Architecture, grid: int, positions: Positions, partial: bool
) -> tuple[dict[str, Tensor], Report]:
    """The tensors of a checkpoint under the names of `Eva`, and what had to be changed; raises where they do not fit."""
    tensors = read_tensors(path)
    fitted_tensors, report = fitted(tensors, architecture, grid, positions)
    if report.wrong:
        raise DiagnosticsError(
            f"Checkpoint {path} does not fit {encoder} ({'; '.join(report.wrong)}): {_advice(tensors)}."
        )
    if report.changed and not partial:
        raise DiagnosticsError(
            f"Checkpoint {path} fits {encoder} only in part ({'; '.join(report.changed)}): {_advice(tensors)}, "
            "or add partial=true to take it so."
        )
    return fitted_tensors, report


def fitted(
    tensors: Mapping[str, Tensor], architecture: Architecture, grid: int, positions: Positions
) -> tuple[dict[str, Tensor], Report]:
    """`tensors` in either layout, in float32 and under the names of `Eva`, and what does not fit.

    `grid` is the input's, in patches a side. LayerScale that is missing is filled with its initial value.
    """
    expected = skeleton(architecture, grid * architecture.patch).state_dict()
    tensors_by_name: dict[str, Tensor] = {}
    report = Report()
    used: set[str] = set()
    timm_layout = "patch_embed.proj.weight" in tensors
    for key, wanted in expected.items():
        name, take = (key, as_it_is) if timm_layout else meta_source(key, architecture.width)
        used.add(name)
        if not name:
            tensors_by_name[key] = torch.zeros(wanted.shape)
        elif name in tensors:
            value = take(tensors[name]).float()
            if key == "pos_embed":
                value = _table(value, architecture, grid, positions, report)
            if value.shape == wanted.shape:
                tensors_by_name[key] = value.contiguous()
            else:
                report.misshapen.append(f"{name} {list(tensors[name].shape)}")
        elif "gamma_" in key and architecture.layer_scale is not None:
            tensors_by_name[key] = torch.full(wanted.shape, architecture.layer_scale)
            report.layer_scale.append(name)
        else:
            report.missing.append(name)
    for name in tensors:
        block = BLOCK.match(name)
        if name in used:
            continue
        if block and int(block[1]) >= architecture.depth:
            report.dropped_blocks = sorted({*report.dropped_blocks, int(block[1])})
        elif _HEAD.match(name) and not architecture.embedding:
            report.dropped_head.append(name)
        else:
            report.unexpected.append(name)
    return tensors_by_name, report


def _table(value: Tensor, architecture: Architecture, grid: int, positions: Positions, report: Report) -> Tensor:
    """The learned positions for the input's grid; left as they are where they belong to no square grid."""
    places = value.shape[1] - architecture.prefix if value.ndim == 3 else 0
    old = math.isqrt(max(0, places))
    if old == grid or old < 1 or old * old != places:
        return value
    how = "bilinear" if positions == "index" else "bicubic, antialiased"
    report.positions = f"its positions of {old} x {old} patches are fitted to {grid} x {grid} ({how})"
    report.positions_unasked = old != architecture.grid()
    return fitted_positions(value, architecture.prefix, grid, positions)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The vision tensors of a checkpoint, names without wrappers' prefixes; never unpickles anything but tensors.

    Of a whole CLIP (names that begin with `visual.`) the text tower is left out; what belongs to neither stays.
    """
    tensors = tensors_in(path)
    if any(name.startswith("visual.") for name in tensors):
        tensors = {
            name.removeprefix("visual."): value
            for name, value in tensors.items()
            if name.startswith("visual.") or not name.startswith(TEXT_TOWER)
        }
    if not tensors.keys() & {"conv1.weight", "patch_embed.proj.weight"}:
        raise DiagnosticsError(
            f"Checkpoint {path} holds no Perception Encoder ({len(tensors)} tensors, but neither conv1.weight as in "
            "Meta's files nor patch_embed.proj.weight as in timm's): give the file of a vision tower."
        )
    return tensors


def _advice(tensors: Mapping[str, Tensor]) -> str:
    """Which encoder a checkpoint looks like."""
    known = recognised(tensors)
    alike = [one.named() for one in known if len(one.options) == len(known[0].options)]
    return f"it looks like {' or '.join(alike)}" if alike else "name the model that it was saved from"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _span(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole and len(numbers) > 1 else ", ".join(map(str, numbers))

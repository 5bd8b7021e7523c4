"""Checkpoints of Perception Encoders, read into an `Eva` and written from one."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import torch
from diagnostics_timm.weights import read_tensors as tensors_in
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import (
    DiagnosticsError,
    Encoder,
    TorchEncoder,
    build,
    cut_encoder,
    few,
    refuse_values,
    whole_file,
)
from diagnostics_perception.models import (
    ARCHITECTURES,
    LAYER_SCALE,
    Architecture,
    Pool,
    Positions,
    fitted_positions,
    skeleton,
    variant,
)

# Weights from a file, Meta's layout or timm's, into an `Eva`; what does not fit is reported, never ignored.
#
# Meta's own loader takes any file and prints what was missing, so that a 50-block core loads silently as a 47-block
# lang encoder with untrained LayerScale. Here that is an error, or, asked for, a sentence that the run carries.


# Meta's layout and timm's: the names of a Perception Encoder's tensors in both, and how one becomes the other.

# Which of the known Perception Encoders some tensors could be of.


@dataclass(frozen=True)
class Known:
    """A model that some tensors could be of.

    Perhaps with fewer blocks, or with LayerScale where it has none, or without.

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
    """The models that tensors in either layout could be of, by their blocks, patches, class token and head.

    Those that need the fewest options first. No tensor tells whether there are rotary positions (`rope`).
    """
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
    changed = variant(model, **options, rope=rope, pool=pool)
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
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
    "logit_scale",
)
_HEAD = re.compile(r"(ln_post|norm|attn_pool|fc_norm|head)\.|proj$")


@dataclass
class Report:
    """The parts of a checkpoint that do not fit an architecture, by the names that the file has or should have."""

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
        """The misfits that nothing can make good."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        return [f"{len(names)} tensors {kind}: {_few(names)}" for kind, names in kinds.items() if names]

    @property
    def changed(self) -> list[str]:
        """The changes that make of the checkpoint another encoder than it was, though one that runs."""
        notes = []
        if self.dropped_blocks:
            notes.append(f"its blocks {_span(self.dropped_blocks)} are dropped")
        if self.dropped_head:
            notes.append(f"{len(self.dropped_head)} tensors after its blocks are dropped ({_few(self.dropped_head)})")
        if self.layer_scale:
            notes.append(f"LayerScale is not in it and stays at its initial value ({len(self.layer_scale)} tensors)")
        return [*notes, self.positions] if self.positions_unasked else notes

    def __str__(self) -> str:
        """The sentence that a run should say of its weights; nothing where the checkpoint fits as it is."""
        asked = [self.positions] if self.positions and not self.positions_unasked else []
        return "; ".join([*self.changed, *asked])


def from_file(
    path: Path, encoder: str, architecture: Architecture, grid: int, positions: Positions, partial: bool
) -> tuple[dict[str, Tensor], Report]:
    """The tensors of a checkpoint under the names of `Eva`, and what had to be changed.

    Raises where they do not fit.
    """
    tensors = read_tensors(path)
    fitted_tensors, report = fitted(tensors, architecture, grid, positions)
    if report.wrong:
        raise DiagnosticsError(
            f"Checkpoint {path} does not fit {encoder} ({'; '.join(report.wrong)}): {_advice(tensors)}.",
            code="other-weights",
        )
    if report.changed and not partial:
        raise DiagnosticsError(
            f"Checkpoint {path} fits {encoder} only in part ({'; '.join(report.changed)}): {_advice(tensors)}, "
            "or add partial=true to take it so.",
            code="other-weights",
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
            "Meta's files nor patch_embed.proj.weight as in timm's): give the file of a vision tower.",
            code="other-weights",
        )
    return tensors


def _advice(tensors: Mapping[str, Tensor]) -> str:
    """The encoder that a checkpoint looks like, in words."""
    known = recognised(tensors)
    alike = [one.named() for one in known if len(one.options) == len(known[0].options)]
    return f"it looks like {' or '.join(alike)}" if alike else "name the model that it was saved from"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _span(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole and len(numbers) > 1 else ", ".join(map(str, numbers))


# An encoder around an `Eva` written as its makers write theirs, once it is shown that the file would give the same
# encoder.
#
# Where the text encoder that was trained with it lies beside it, the file holds both.


ENDINGS = (".safetensors", ".pt")
_VOCABULARY = 49_408
"""Rows of CLIP's, which Meta's text towers have."""
_NEEDED = "name one that `pe:` builds, whole or cut at a block, as it is, saved or aligned"


@dataclass(frozen=True)
class Exported:
    """An account of what was written.

    The encoder's name, how many tensors and bytes, the name under which it is read back, the name of the text encoder
    that is in the file too (empty without one), the parts for which Meta's layout has no place, and what Meta's code
    reads it with (empty where that knows no such model): without its options a cut encoder loses its last blocks there,
    without an error.
    """

    file: str
    encoder: str
    name: str
    text: str
    tensors: int
    bytes: int
    left_out: list[str]
    code: str


def export(encoder: str | Encoder, out: Path, trust_code: bool = False) -> Exported:
    """Write the tensors of an encoder, or of what a name builds, to a new file, which `pe:NAME?checkpoint=FILE` reads.

    Raises DiagnosticsError for a file that is there or ends in something else, an encoder that is no Perception
    Encoder, and one whose activations are not those that its tensors give in `pe:NAME`, bit for bit.
    """
    file = out.expanduser()
    refuse_values(
        (
            file.suffix not in ENDINGS,
            f"{file} says no format: give a file that ends in {' or '.join(ENDINGS)} (Meta's own code reads .pt).",
            "unsupported",
        ),
        (
            file.exists() or file.is_symlink(),
            f"{file} is there already: choose another --out, or remove it.",
            "occupied",
        ),
    )
    whole: Encoder = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    own, left_out = _own(whole)
    _check_tensors(whole.name, own.module.state_dict())
    tensors = meta_tensors(own.module.state_dict())
    known, side = _model_of(own.replace(name=whole.name), tensors)
    text = _text(encoder, whole, trust_code)
    if text is not None and (rows := len(text.module.state_dict()["token_embedding.weight"])) != _VOCABULARY:
        left_out, text = [*left_out, f"the text tower (its vocabulary has {rows:,} rows)"], None
    if text is not None:
        scale = {"logit_scale": torch.tensor(math.log(whole.lineage["scale"]))}
        tensors = {**{f"visual.{key}": tensor for key, tensor in tensors.items()}, **text.module.state_dict(), **scale}
    _write(tensors, file)
    checkpoint = quote(str(out), safe="/~")
    size = {} if side == known.architecture.image else {"img_size": side}
    read_back = "" if text is None else _with_checkpoint(text.skeleton, checkpoint)
    return Exported(
        str(file),
        whole.name,
        known.named(checkpoint=checkpoint, **size),
        read_back,
        len(tensors),
        bytes=file.stat().st_size,
        left_out=left_out,
        code=metas_line(known, size, str(out), text is not None),
    )


_METAS = {"depth": "layers", "layer_scale": "ls_init_value", "img_size": "image_size"}
"""Options of `pe:` -> those of Meta's classes."""


def metas_line(known: Known, size: Mapping[str, object], file: str, whole: bool) -> str:
    """The line that one types for Meta's code to read a file, with the options of a cut encoder; "" where it cannot."""
    options = {**size, **known.options}
    parts = known.model.split("-")
    if parts[0] not in ("core", "lang", "spatial") or not file.endswith(".pt") or not options.keys() <= _METAS.keys():
        return ""
    name = "-".join(["PE", *(part.capitalize() for part in parts)])
    more = "".join(f", {_METAS[key]}={value or None}" for key, value in options.items())
    kind = "CLIP" if whole else "VisionTransformer"
    return f"pe.{kind}.from_config({name!r}, pretrained=True, checkpoint_path={file!r}{more})"


def _text(encoder: str | Encoder, image: Encoder, trust_code: bool) -> TorchEncoder | None:
    """The text encoder that was trained with a saved image encoder and lies in its folder; None where there is none."""
    scale, weights = image.lineage.get("scale"), image.lineage.get("text")
    if not isinstance(encoder, str) or not isinstance(scale, float) or not 0 < scale < math.inf:
        return None
    folder = Path(encoder).expanduser() / "text"
    text = build("encoder", str(folder), trust_code=trust_code) if folder.is_dir() else None
    if not isinstance(text, TorchEncoder) or text.identity["weights"] != weights:
        return None
    return text if all(key.startswith(TEXT_TOWER) for key in text.module.state_dict()) else None


def _with_checkpoint(skeleton: str, checkpoint: str) -> str:
    """The name of an encoder with initial weights, with those of a file instead."""
    name, _, query = skeleton.partition("?")
    kept = [option for option in query.split("&") if option and not option.startswith("pretrained=")]
    return f"{name}?{'&'.join([f'checkpoint={checkpoint}', *kept])}"


def _own(encoder: Encoder) -> tuple[TorchEncoder, list[str]]:
    """The encoder without modules that no `Eva` has, which a cut at its output leaves out, and the names of these."""
    if not isinstance(encoder, TorchEncoder) or not isinstance(encoder.module, Eva):
        kind = type(encoder.module).__name__ if isinstance(encoder, TorchEncoder) else "model without a torch module"
        raise DiagnosticsError(
            f"{encoder.name} is a {kind}, where a Perception Encoder is an Eva of timm: {_NEEDED}.", code="bad-type"
        )
    further = _parts(encoder).difference(PARTS)
    if not further:
        return encoder, []
    own = cut_encoder(encoder, encoder.output_tap)
    if read := _parts(own).intersection(further):
        raise DiagnosticsError(
            f"{encoder.name} has {few(read)}, which no Perception Encoder has: {_NEEDED}.", code="unsupported"
        )
    return own, sorted(further)


def _parts(encoder: TorchEncoder) -> set[str]:
    """Names of the module's own parameters and of its children that have some."""
    return {key.partition(".")[0] for key in encoder.module.state_dict()}


def _check_tensors(encoder: str, state: Mapping[str, Tensor]) -> None:
    """Raise for what no file in Meta's layout can hold."""
    head = {key.partition(".")[0] for key in state}.intersection(HEAD)
    why = ""
    if not any(key.startswith("blocks.") for key in state):
        why = "has no block"
    elif head and head not in (set(HEAD), set(HEAD) - {"attn_pool"}):
        why = (
            f"has {' and '.join(sorted(head))} but not all of {', '.join(HEAD)}, of which Meta's encoders have "
            f"all or none"
        )
    elif "head.bias" in state and bool(state["head.bias"].any()):
        why = "has a bias in its projection, which Meta's has not"
    elif odd := {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"}:
        why = f"has weights in {few(odd)}, which are read back in float32"
    if why:
        raise DiagnosticsError(f"{encoder} {why}: {_NEEDED}.", code="unsupported")


def _model_of(encoder: TorchEncoder, tensors: Mapping[str, Tensor]) -> tuple[Known, int]:
    """The model by whose name the tensors are read back, and the side of its input in pixels; raises where none is."""
    misfits: list[str] = []
    for known in recognised(tensors, rope=cast("Eva", encoder.module).rope is not None):
        one = known.architecture
        grid = math.isqrt(max(1, len(tensors.get("positional_embedding", ())) - one.prefix))
        fit, report = fitted(tensors, one, grid, "index")
        if misfit := [*report.wrong, *report.changed]:
            misfits.append("; ".join(misfit))
            continue
        module = skeleton(one, grid * one.patch)
        module.load_state_dict(fit, assign=True)
        _check_same(encoder, module.eval())
        return known, grid * one.patch
    why = (
        f"its tensors are not those of one ({misfits[0]})"
        if misfits
        else "none with its patches, blocks and head could be read back (`micro` and `nano` have none cut at a block)"
    )
    raise DiagnosticsError(f"{encoder.name} is no Perception Encoder, since {why}: {_NEEDED}.", code="unsupported")


def _check_same(encoder: TorchEncoder, module: nn.Module) -> None:
    """Raise where a module that has the encoder's tensors gives other activations."""
    batch = default_collate([encoder.preprocess(encoder.example())])
    expected, given = encoder.capture(batch), encoder.with_module(module, encoder.name).capture(batch)
    for name, tokens in expected.items():
        if not torch.allclose(tokens, given[name], 0, 0, equal_nan=True):
            raise DiagnosticsError(
                f"{encoder.name} gives other activations at {name} than Meta's code would with its tensors, as with "
                f"positions=rescaled: {_NEEDED}, with positions=index.",
                code="other-run",
            )


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    # Copies of parts of a larger memory, all of which would be written.
    whole = {name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in tensors.items()}
    with whole_file(file) as written:
        (torch.save if file.suffix == ".pt" else save_file)(whole, written)

"""An encoder around an `Eva` written as its makers write theirs, once it is shown that the file would give the same encoder.

Where the text encoder that was trained with it lies beside it, the file holds both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import DiagnosticsError, Encoder, TorchEncoder, build, cut_encoder, few, whole_file
from diagnostics_perception.checkpoint import HEAD, PARTS, TEXT_TOWER, Known, fitted, meta_tensors, recognised
from diagnostics_perception.models import skeleton

ENDINGS = (".safetensors", ".pt")
_VOCABULARY = 49_408
"""Rows of CLIP's, which Meta's text towers have."""
_NEEDED = "name one that `pe:` builds, whole or cut at a block, as it is, saved or aligned"


@dataclass(frozen=True)
class Exported:
    """What was written: the encoder's name, how many tensors and bytes, the name under which it is read back, the name of the text
    encoder that is in the file too (empty without one), and the parts for which Meta's layout has no place."""

    file: str
    encoder: str
    name: str
    text: str
    tensors: int
    bytes: int
    left_out: list[str]


def export(encoder: str | Encoder, out: Path, trust_code: bool = False) -> Exported:
    """Writes the tensors of an encoder, or of what a name builds, to a new file, which `pe:NAME?checkpoint=FILE` reads.

    Raises DiagnosticsError for a file that is there or ends in something else, an encoder that is no Perception Encoder, and one whose
    activations are not those that its tensors give in `pe:NAME`, bit for bit.
    """
    file = out.expanduser()
    if file.suffix not in ENDINGS:
        raise DiagnosticsError(
            f"{file} says no format: give a file that ends in {' or '.join(ENDINGS)} (Meta's own code reads .pt)."
        )
    if file.exists() or file.is_symlink():
        raise DiagnosticsError(f"{file} is there already: choose another --out, or remove it.")
    whole: Encoder = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    own, left_out = _own(whole)
    _check_tensors(whole.name, own.module.state_dict())
    tensors = meta_tensors(own.module.state_dict())
    known, side = _known(own.replace(name=whole.name), tensors)
    text = _text(encoder, whole, trust_code)
    if text is not None and (rows := len(text.module.state_dict()["token_embedding.weight"])) != _VOCABULARY:
        left_out, text = [*left_out, f"the text tower (its vocabulary has {rows:,} rows)"], None
    if text is not None:
        scale = {"logit_scale": torch.tensor(math.log(whole.lineage["scale"]))}
        tensors = {**{f"visual.{key}": tensor for key, tensor in tensors.items()}, **text.module.state_dict(), **scale}
    _write(tensors, file)
    checkpoint = quote(str(out), safe="/~")
    options: dict[str, object] = {"checkpoint": checkpoint}
    if side != known.architecture.image:
        options["img_size"] = side
    read_back = "" if text is None else _with_checkpoint(text.skeleton, checkpoint)
    return Exported(
        str(file), whole.name, known.named(**options), read_back, len(tensors), file.stat().st_size, left_out
    )


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
        raise DiagnosticsError(f"{encoder.name} is a {kind}, where a Perception Encoder is an Eva of timm: {_NEEDED}.")
    further = _parts(encoder).difference(PARTS)
    if not further:
        return encoder, []
    own = cut_encoder(encoder, encoder.output_tap)
    if read := _parts(own).intersection(further):
        raise DiagnosticsError(f"{encoder.name} has {few(read)}, which no Perception Encoder has: {_NEEDED}.")
    return own, sorted(further)


def _parts(encoder: TorchEncoder) -> set[str]:
    """Names of the module's own parameters and of its children that have some."""
    return {key.partition(".")[0] for key in encoder.module.state_dict()}


def _check_tensors(encoder: str, state: Mapping[str, Tensor]) -> None:
    """Raises for what no file in Meta's layout can hold."""
    head = {key.partition(".")[0] for key in state}.intersection(HEAD)
    heads = (set(HEAD), set(HEAD) - {"attn_pool"})
    why = ""
    if not any(key.startswith("blocks.") for key in state):
        why = "has no block"
    elif head and head not in heads:
        why = f"has {' and '.join(sorted(head))} but not all of {', '.join(HEAD)}, of which Meta's encoders have all or none"
    elif "head.bias" in state and bool(state["head.bias"].any()):
        why = "has a bias in its projection, which Meta's has not"
    elif odd := {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"}:
        why = f"has weights in {few(odd)}, which are read back in float32"
    if why:
        raise DiagnosticsError(f"{encoder} {why}: {_NEEDED}.")


def _known(encoder: TorchEncoder, tensors: Mapping[str, Tensor]) -> tuple[Known, int]:
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
        f"its tensors are not those of one ({misfits[0]})" if misfits else "its patches and blocks are of no known size"
    )
    raise DiagnosticsError(f"{encoder.name} is no Perception Encoder, since {why}: {_NEEDED}.")


def _check_same(encoder: TorchEncoder, module: nn.Module) -> None:
    """Raises where a module that has the encoder's tensors gives other activations."""
    batch = default_collate([encoder.preprocess(encoder.example())])
    expected, given = encoder.capture(batch), encoder.with_module(module, encoder.name).capture(batch)
    for name, tokens in expected.items():
        if not torch.allclose(tokens, given[name], 0, 0, equal_nan=True):
            raise DiagnosticsError(
                f"{encoder.name} gives other activations at {name} than Meta's code would with its tensors, as with "
                f"positions=rescaled: {_NEEDED}, with positions=index."
            )


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    # Copies of parts of a larger memory, all of which would be written.
    whole = {name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in tensors.items()}
    with whole_file(file) as written:
        (torch.save if file.suffix == ".pt" else save_file)(whole, written)

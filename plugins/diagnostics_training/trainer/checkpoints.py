"""One checkpoint, replaced whole: weights, optimiser state by the parameter's name and of its groups, the step, and what it
belongs to.

A safetensors file whose metadata is the JSON, so that one rename replaces all of it, with digests of the tensors and of itself:
safetensors notices no changed byte. Generators are not saved: each step draws from its own number (see `trainer`).
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, describe
from diagnostics_training.trainer.data import parse_spec

FILE = "checkpoint.safetensors"
KEY = "diagnostics_checkpoint"
WEIGHTS, STATE, GROUP = "weights/", "optimiser/", "group/"
DAMAGED = "its bytes are not those that were written"

OPTIONS = frozenset({
    "data", "batch", "steps", "lr", "optimiser", "schedule", "warmup", "cooldown", "accumulate", "clip", "seed", "precision",
    "width", "depth", "heads", "patch", "likelihood", "positives", "regulariser", "to", "for", "mask", "layer_scale", "drop_path", "teacher", "keep", "at",
    "lm", "pool", "projector_steps", "train_lm",
    "relations", "mask_cell",
})  # fmt: skip
"""Parts of an identity that are options of a command."""
UNTELLING = {
    "fingerprint": "other samples of these data",
    "base": "other weights of the base encoder",
    "decoder": "other weights of the decoder",
    "relations_by": "another teacher of relations",
    "vocabulary": "another vocabulary of texts",
    "taught_by": "another teacher",
}
"""Parts whose values tell people nothing."""
FOLLOWS = {
    "data": ("fingerprint", "modality", "length", "variates", "size", "frames", "outputs", "vocabulary"),
    "fingerprint": ("outputs",),
    "to": ("tap",),
    "for": ("tap",),
    "base": ("tap",),
    "lm": ("decoder", "tap"),
    "steps": ("projector_steps",),
    "relations": ("tap", "relations_by"),
    "towers": ("vocabulary",),
}
"""What differs because something else does."""


def save(
    folder: Path, step: int, module: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> None:
    """Written beside its place and renamed: there is the last checkpoint or the new one, never half of one."""
    tensors = {WEIGHTS + name: tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{STATE}{key}/{name}"] = torch.as_tensor(value)
    for i, group in enumerate(optimiser.param_groups):
        # What the optimiser itself has put there, as timm's LAMB its count of steps; all else comes from the settings.
        for key in group.keys() - optimiser.defaults.keys() - {"params"}:
            tensors[f"{GROUP}{i}/{key}"] = torch.as_tensor(group[key])
    # Clones: tensors that share memory are refused, and equal values cost little here.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # A folder, since safetensors writes to a file of another name first, which a kill leaves.
    beside = folder / f"{FILE}.partial"
    kept = {"format": 3, "step": step, "identity": dict(identity), "tensors": digest_of_tensors(tensors)}
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        written = beside / FILE
        save_file(tensors, written, {KEY: json.dumps({**kept, "digest": digest_of_json(kept)})})
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise DiagnosticsError(
            f"The checkpoint in {folder} cannot be written ({describe(error)}): free some room there and give the same command again."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]) -> int:
    """Puts a checkpoint's tensors in place and gives its step; 0 where there is none.

    Raises DiagnosticsError where it belongs to other settings or data, or cannot be read.
    """
    kept = about(folder)
    if kept is None:
        return 0
    refuse_other(f"The checkpoint in {folder}", kept["identity"], identity)
    path = folder / FILE
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if digest_of_tensors(tensors) != kept["tensors"]:
        raise _unreadable(path, DAMAGED)
    module.load_state_dict({n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)})
    for name, parameter in module.named_parameters():
        state = {
            key.removeprefix(STATE).removesuffix(f"/{name}"): tensor
            for key, tensor in tensors.items()
            if key.startswith(STATE) and key.split("/", 2)[2] == name
        }
        if state:
            # The count of steps stays where the optimiser keeps it; moments lie with their parameter.
            optimiser.state[parameter] = {
                key: t.to(parameter.device) if t.ndim or optimiser.defaults.get("fused") else t
                for key, t in state.items()
            }
    for key, tensor in tensors.items():
        if key.startswith(GROUP):
            i, name = key.removeprefix(GROUP).split("/", 1)
            # LAMB counts with a tensor, in earlier versions of timm with a number.
            optimiser.param_groups[int(i)][name] = tensor if tensor.is_floating_point() else tensor.item()
    return int(kept["step"])


def about(folder: Path) -> dict[str, Any] | None:
    """`step` and `identity` of the checkpoint in a folder, without its tensors; None where there is none.

    Raises where the file is no checkpoint, or its JSON is not what was written.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if KEY not in metadata:
        raise DiagnosticsError(f"{path} is no checkpoint of this trainer: give another --out.")
    try:
        kept: dict[str, Any] = json.loads(metadata[KEY])
        if kept.pop("digest") != digest_of_json(kept):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, DAMAGED) from error
    return kept


def digest_of_json(kept: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unreadable(path: Path, why: str) -> DiagnosticsError:
    return DiagnosticsError(f"Checkpoint {path} cannot be read ({why}): remove it to start again.")


def make_folder(folder: Path) -> None:
    """Makes a folder where there is none; raises where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiagnosticsError(f"Folder {folder} cannot be made ({error.strerror}): give another --out.") from error


@contextlib.contextmanager
def resumable(folder: Path) -> Generator[None]:
    """An interrupt of a training in a folder says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (folder / FILE).is_file()
        how = "resumes from its last checkpoint" if kept else "starts again, since there was no checkpoint yet"
        raise KeyboardInterrupt(f"Interrupted; the same command {how} in {folder}.") from None


def refuse_other(subject: str, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises where what is there was made with other settings or data than are asked for, and names them all."""
    old, new = _parts(kept), _parts(json.loads(json.dumps(dict(identity))))
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # What follows from something else that is named is no news.
    reported = [key for key in different if not any(key in FOLLOWS.get(other, ()) for other in different)]
    if reported:
        raise DiagnosticsError(
            f"{subject} was written with other settings ({'; '.join(_difference(key, old.get(key), new.get(key)) for key in reported)}): give "
            "another --out, or remove that folder to start again."
        )


def _parts(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the options that an architecture's name holds each by itself."""
    name, options = parse_spec(str(identity.get("architecture") or ""))
    return {**identity, **options, "architecture": name or None}


def _difference(key: str, old: Any, new: Any) -> str:
    if key in UNTELLING:
        return UNTELLING[key]
    option = f"--{key.replace('_', '-')}" if key in OPTIONS else key
    if old is None:
        return f"{option} was not given"
    return f"{option} {old}, which is not given now" if new is None else f"{option} {old}, not {new}"

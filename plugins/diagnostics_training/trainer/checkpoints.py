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

from diagnostics.plugin import DiagnosticsError, Encoder, describe, save_encoder

FILE = "checkpoint.safetensors"
KEY = "diagnostics_checkpoint"
WEIGHTS, STATE, GROUP = "weights/", "optimiser/", "group/"
DAMAGED = "its bytes are not those that were written"


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
    """Raises where what is there was made with other settings or data than are asked for, and names them all.

    Keys of an identity are options as they are typed, or words. Words that begin with "other" say all that there is to say of a
    value, and since they may follow from something else, they are said only where nothing else differs.
    """
    new = json.loads(json.dumps(dict(identity)))
    different = [key for key in sorted(kept.keys() | new.keys()) if kept.get(key) != new.get(key)]
    reported = [key for key in different if not key.startswith("other ")] or different
    if reported:
        raise DiagnosticsError(
            f"{subject} was written with other settings ({'; '.join(_difference(key, kept.get(key), new.get(key)) for key in reported)}): "
            "give another --out, or remove that folder to start again."
        )


def _difference(key: str, old: Any, new: Any) -> str:
    if key.startswith("other "):
        return key
    if old is None:
        return f"{key} was not given"
    return f"{key} {old}, which is not given now" if new is None else f"{key} {old}, not {new}"


# What a finished training left in its folder: one JSON file with what it came to and what it was made with.

ENCODER = "encoder.safetensors"


def finished(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a training of the same identity came to; None where it is not finished.

    Raises where the folder holds a training of another identity, or an encoder that no such training made: it would be
    overwritten.
    """
    folder, encoder = path.parent, path.parent / ENCODER
    if path.is_file():
        kept = _read(path)
        refuse_other(f"The encoder in {folder}", kept["identity"], identity)
        if encoder.is_file():
            if kept["encoder"] != _digest(encoder):
                raise DiagnosticsError(
                    f"{encoder} is not the encoder that {path.name} in that folder describes, and would be overwritten: give another --out."
                )
            # Of no use any more, where a kill left it.
            (folder / FILE).unlink(missing_ok=True)
            return kept["row"]
    if checkpoint := about(folder):
        whole = checkpoint["identity"]
        if not identity.keys() <= whole.keys():
            raise DiagnosticsError(
                f"The checkpoint in {folder} is that of another kind of training: give another --out."
            )
        refuse_other(f"The checkpoint in {folder}", {key: whole[key] for key in identity}, identity)
    if encoder.is_file():
        raise DiagnosticsError(
            f"{encoder} is an encoder that this command did not make, and would be overwritten: give another --out."
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept.pop("digest") != digest_of_json(kept):
            raise ValueError
        return {key: kept[key] for key in ("row", "identity", "encoder")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DiagnosticsError(f"{path} cannot be read as the summary of a training: give another --out.") from error


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def finish(
    path: Path, encoder: Encoder, lineage: Mapping[str, Any], row: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Saves the encoder, and beside it what it came to; after that the checkpoint is of no use.

    The file says which encoder is to be there before that one takes its place, so that a kill in between leaves no
    encoder of which nothing tells: the same command then does the rest again.
    """
    folder = path.parent
    partial_encoder, partial_summary = folder / f"partial-{ENCODER}", path.with_name(f"{path.name}.partial")
    try:
        save_encoder(partial_encoder, encoder, lineage=lineage)
        kept = {"row": dict(row), "identity": dict(identity), "encoder": _digest(partial_encoder)}
        kept["digest"] = digest_of_json(kept)
        try:
            partial_summary.write_text(json.dumps(kept, indent=1))
            partial_summary.replace(path)
            partial_encoder.replace(folder / ENCODER)
            (folder / FILE).unlink(missing_ok=True)
        except OSError as error:
            raise DiagnosticsError(
                f"{path} cannot be written ({error.strerror}): free some room there and give the same command again."
            ) from error
    finally:
        for left in (partial_encoder, partial_summary):
            left.unlink(missing_ok=True)

"""One checkpoint, replaced whole.

Weights, optimiser state by the parameter's name and of its groups, the step, and what it belongs to.

A safetensors file whose metadata is the JSON, so that one rename replaces all of it, with digests of the tensors and of
itself: safetensors notices no changed byte. Generators are not saved: each step draws from its own number (see
`trainer`).
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diagnostics.plugin import (
    DiagnosticsError,
    digest_of_json,
    explaining,
    whole_file,
)

FILE = "checkpoint.safetensors"
KEY = "diagnostics_checkpoint"
WEIGHTS, STATE, GROUP = "weights/", "optimiser/", "group/"
DAMAGED = "its bytes are not those that were written"
UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a damaged file raises; too little memory is none of it."""


class Saver:
    """Checkpoints of a training in a folder.

    What is trained is copied, and a second thread hashes and writes it, one checkpoint at a time, while training goes
    on.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self._pool, self._coming = ThreadPoolExecutor(1), Future[None]()
        self._coming.set_result(None)

    def save(self, step: int, module: nn.Module, optimiser: torch.optim.Optimizer, keep: Path | None = None) -> None:
        """Begins once the last one is written; raises what that came to. `keep` is where this one stays for good."""
        self.wait()
        tensors = _copy(module, optimiser)
        self._coming = self._pool.submit(_write, self.folder / FILE, step, tensors, self.identity, keep)

    def wait(self) -> None:
        """Return when the last one is written."""
        self._coming.result()

    def close(self) -> None:
        """Wait, and let the thread go."""
        self._pool.shutdown()
        self.wait()


def _copy(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {WEIGHTS + name: tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{STATE}{key}/{name}"] = torch.as_tensor(value)
    for i, group in enumerate(optimiser.param_groups):
        # What the optimiser itself has put there, as timm's LAMB its count of steps; all else comes from the settings.
        for key in group.keys() - optimiser.defaults.keys() - {"params"}:
            tensors[f"{GROUP}{i}/{key}"] = torch.as_tensor(group[key])
    # Clones: tensors that share memory are refused, and equal values cost little here.
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _write(path: Path, step: int, tensors: dict[str, Tensor], identity: Mapping[str, Any], keep: Path | None) -> None:
    """Beside its place and renamed: there is the last checkpoint or the new one, never half of one."""
    kept = {"format": 3, "step": step, "identity": dict(identity), "tensors": digest_of_tensors(tensors)}
    with whole_file(path) as written:
        save_file(tensors, written, {KEY: json.dumps({**kept, "digest": digest_of_json(kept)})})
        with written.open("rb") as file:
            os.fsync(file.fileno())
    if keep is not None:
        keep.parent.mkdir(exist_ok=True)
        with whole_file(keep) as written:
            shutil.copyfile(path, written)


def load_checkpoint(
    folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> int:
    """Put a checkpoint's tensors in place and give its step; 0 where there is none.

    Raises DiagnosticsError where it belongs to other settings or data, or cannot be read.
    """
    kept = about_checkpoint(folder)
    if kept is None:
        return 0
    refuse_other(f"The checkpoint in {folder}", kept["identity"], identity)
    path = folder / FILE
    with _reading(path):
        tensors = load_file(path)
        if digest_of_tensors(tensors) != kept["tensors"]:
            raise ValueError(DAMAGED)
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


def about_checkpoint(folder: Path) -> dict[str, Any] | None:
    """`step` and `identity` of the checkpoint in a folder, without its tensors; None where there is none.

    Raises where the file is no checkpoint, or its JSON is not what was written.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    with _reading(path), safe_open(path, "pt") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
    if KEY not in metadata:
        raise DiagnosticsError(f"{path} is no checkpoint of this trainer: give another --out.", code="occupied")
    with _reading(path):
        kept: dict[str, Any] = json.loads(metadata[KEY])
        if kept.pop("digest") != digest_of_json(kept):
            raise ValueError(DAMAGED)
        return kept


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _reading(path: Path) -> contextlib.AbstractContextManager[None]:
    return explaining(f"Checkpoint {path} cannot be read", "remove it to start again", "damaged", UNREADABLE)


def refuse_other(subject: str, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise where what is there was made with other settings or data than are asked for, and name them all.

    Keys of an identity are options as they are typed, or words. Words that begin with "other" say all that there is to
    say of a value, and since they may follow from something else, they are said only where nothing else differs.
    """
    new = json.loads(json.dumps(dict(identity)))
    different = [key for key in sorted(kept.keys() | new.keys()) if kept.get(key) != new.get(key)]
    reported = [key for key in different if not key.startswith("other ")] or different
    if reported:
        raise DiagnosticsError(
            f"{subject} was written with other settings "
            f"({'; '.join(_difference(key, kept.get(key), new.get(key)) for key in reported)}): give another --out, or "
            f"remove that folder to start again.",
            code="other-run",
        )


def _difference(key: str, old: Any, new: Any) -> str:
    if key.startswith("other "):
        return key
    if old is None:
        return f"{key} was not given"
    return f"{key} {old}, which is not given now" if new is None else f"{key} {old}, not {new}"

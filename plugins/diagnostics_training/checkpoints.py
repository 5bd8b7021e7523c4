"""One checkpoint, replaced whole: weights, optimiser state by the parameter's name, the step, and what it belongs to.

A safetensors file whose metadata is the JSON, so that one rename replaces all of it. Generators are not saved: each step
draws from its own number (see `trainer`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diagnostics import DiagnosticsError

FILE = "checkpoint.safetensors"
KEY = "diagnostics_checkpoint"
WEIGHTS, STATE = "weights/", "optimiser/"


def save(
    folder: Path, step: int, module: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> None:
    """Written beside its place and renamed: there is the last checkpoint or the new one, never half of one."""
    tensors = {WEIGHTS + name: tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{STATE}{key}/{name}"] = torch.as_tensor(value)
    # Clones: tensors that share memory are refused, and equal values cost little here.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    beside = folder / f"{FILE}.partial"
    try:
        save_file(tensors, beside, {KEY: json.dumps({"format": 1, "step": step, "identity": dict(identity)})})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(folder / FILE)
    finally:
        beside.unlink(missing_ok=True)


def load(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]) -> int:
    """Puts a checkpoint's tensors in place and gives its step; 0 where there is none.

    Raises DiagnosticsError where it belongs to other settings or data, or cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads((file.metadata() or {}).get(KEY, "{}"))
            _check(folder, kept, identity)
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DiagnosticsError(f"Checkpoint {path} cannot be read ({error}): remove it to begin anew.") from error
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
    return int(kept["step"])


def _check(folder: Path, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    if kept.get("format") != 1:
        raise DiagnosticsError(f"{folder / FILE} is no checkpoint of this trainer: give another --out.")
    refuse_other(f"The checkpoint in {folder}", kept["identity"], identity)


def refuse_other(what: str, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises where what is there was made with other settings or data than are asked for."""
    wanted: dict[str, Any] = json.loads(json.dumps(dict(identity)))
    for key in sorted(wanted.keys() | kept.keys()):
        if kept.get(key) != wanted.get(key):
            raise DiagnosticsError(
                f"{what} was made with {key} {kept.get(key)}, not {wanted.get(key)}: give another --out, or remove that folder "
                "to begin anew."
            )

"""Tensors in batches and modules: changed one by one, moved, and digested to identify weights and prepared samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.errors import DiagnosticsError


def map_tensors(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with each of its tensors changed; mappings become dicts, and what is no tensor stays as it is."""
    if isinstance(batch, Mapping):
        return {key: map_tensors(change, value) for key, value in batch.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_tensors(change, value) for value in batch)  # pyright: ignore
    return change(batch) if isinstance(batch, Tensor) else batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def by_name(prepared: Any) -> dict[str, Any]:
    """A model's input for one sample as its parts by name; a single one is named ""."""
    items = prepared.items() if isinstance(prepared, Mapping) else [("", prepared)]
    return {str(key): value for key, value in items}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, whatever the order and the device."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {data.dtype} {tuple(data.shape)};".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All that decides what a module computes, by name: parameters, buffers, and what quantised layers pack.

    Raises DiagnosticsError where the state of the module holds something else than tensors and plain values.
    """
    # Buffers that are not saved (position frequencies, masks) decide the activations as well.
    state: dict[str, Any] = {**dict(module.named_buffers()), **module.state_dict()}
    return {name: tensor for key, value in state.items() for name, tensor in _as_tensors(key, value)}


def _as_tensors(key: str, value: Any) -> list[tuple[str, Tensor]]:
    """A part of a module's state as tensors by name: what quantised layers pack is no tensor."""
    if isinstance(value, Tensor):
        return [(key, value.dequantize() if value.is_quantized else value)]
    if isinstance(value, torch.ScriptObject):
        return _as_tensors(key, value.__getstate__())  # pyright: ignore
    if isinstance(value, Mapping):
        return [part for name, item in value.items() for part in _as_tensors(f"{key}.{name}", item)]  # pyright: ignore
    if isinstance(value, (tuple, list)):
        return [part for i, item in enumerate(value) for part in _as_tensors(f"{key}.{i}", item)]  # pyright: ignore
    if value is None or isinstance(value, (str, bytes, bool, int, float, torch.dtype)):
        return [(key, torch.tensor(list(repr(value).encode()), dtype=torch.uint8))]
    raise DiagnosticsError(
        f"'{key}' in the state of the module is a {type(value).__name__}, of which no digest can be taken: keep tensors there."
    )

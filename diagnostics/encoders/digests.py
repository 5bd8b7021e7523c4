"""Digests that identify tensors: weights and prepared samples."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.errors import DiagnosticsError


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

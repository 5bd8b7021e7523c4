"""Operations on batches of any structure (a tensor, or mappings and sequences of them), tensor by tensor."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


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

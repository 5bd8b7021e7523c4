"""Contexts that use the caller's module and then restore its mode, buffers, gradients, device and random state."""

import random
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.errors import DiagnosticsError

_DRAWING = threading.RLock()
"""Held while weights are drawn, so that no other thread's pass sets the generators back in between."""
_RUNNING: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
"""For each module a lock, held during a pass: hooks and modes are the module's, whichever thread set them."""


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """A context of one thread in which the module is in eval mode, and after which modes, buffers and random state are as before.

    They are restored after an exception too. Only the flags are set, since `eval()` may be overridden to do more (merge
    weights, for example), which `train()` undoes up to rounding.
    """
    training: list[nn.Module] = []
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    part: Any
    with _DRAWING:
        running = _RUNNING.setdefault(module, threading.RLock())
    with running, random_kept(device_of(module)):
        try:
            for part in _parts(module):
                if part.training:
                    training.append(part)
                    _set_mode(part, False)
                # torch's own modules write into theirs (running statistics) in train mode alone, others may as they like.
                if part._buffers and not type(part).__module__.startswith("torch.nn.modules."):
                    buffers += [(part, name, b, b.clone()) for name, b in part._buffers.items() if b is not None]
            yield
        finally:
            for part in training:
                _set_mode(part, True)
            for part, name, buffer, before in buffers:
                _put_back(part, name, buffer, before)


def _parts(module: nn.Module) -> list[nn.Module]:
    """All its modules, each once; `modules()` takes three times as long, in every pass."""
    parts: dict[nn.Module, None] = {}
    waiting: list[Any] = [module]
    while waiting:
        part = waiting.pop()
        if part is not None and part not in parts:
            parts[part] = None
            waiting += part._modules.values()
    return list(parts)


def _set_mode(part: nn.Module, training: bool) -> None:
    """The flag without a search for parameters and buffers of that name, which takes ten times as long."""
    if "training" in vars(part):
        vars(part)["training"] = training
    else:
        part.training = training  # scripted modules keep it elsewhere


def _put_back(part: nn.Module, name: str, buffer: Tensor, before: Tensor) -> None:
    """Restores a buffer and its numbers; a table that was made anew for an input of another size stays."""
    # Nothing is written where they are the same, since a graph may have kept it.
    if not torch.equal(buffer, before):
        with torch.no_grad():
            buffer.copy_(before)
    now = getattr(part, name, None)
    if now is not buffer and isinstance(now, Tensor) and now.shape == buffer.shape:
        setattr(part, name, buffer)


@contextmanager
def random_kept(device: torch.device | None = None) -> Generator[None]:
    """A context after which the random states of Python, numpy and torch are as before.

    Of torch, those of the CPU and of the given CUDA device (of all CUDA devices where none is given).
    """
    devices = [device.index or 0] if device is not None and device.type == "cuda" else []
    if device is None and torch.cuda.is_initialized():
        devices = list(range(torch.cuda.device_count()))
    with _DRAWING:
        python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
        cuda = [torch.cuda.get_rng_state(index) for index in devices]
    try:
        yield
    finally:
        with _DRAWING:
            random.setstate(python)
            np.random.set_state(arrays)
            torch.set_rng_state(tensors)
            for index, state in zip(devices, cuda, strict=True):
                torch.cuda.set_rng_state(state, index)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """A context in which Python, numpy and torch draw from this seed, one thread at a time, and after which random states are as
    before."""
    with _DRAWING, random_kept():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # `torch.manual_seed` would also seed CUDA where that is not used yet, which cannot be taken back.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def wanting_gradients(module: nn.Module, wanted: bool) -> Generator[None]:
    """A context in which all floating point parameters require gradients, or none do."""
    changed = [p for p in module.parameters() if p.requires_grad != wanted and p.is_floating_point()]
    try:
        for parameter in changed:
            parameter.requires_grad_(wanted)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not wanted)


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's first tensor; the CPU where it has none. Raises DiagnosticsError where that holds no numbers."""
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            if tensor.is_meta:
                raise DiagnosticsError(
                    f"The weights of {type(module).__name__} lie on the device meta, which holds no numbers: load them first, as with "
                    "module.to_empty(device='cpu') and module.load_state_dict(...)."
                )
            return tensor.device
    return torch.device("cpu")


@contextmanager
def placed(module: nn.Module, device: str | torch.device) -> Generator[None]:
    """A context in which the module is on a device, and after which it has the same tensors (and gradients) as before."""
    device_of(module)  # raises
    wanted, parts = torch.device(device), list(module.modules())
    parameters = [(part, *item) for part in parts for item in part.named_parameters(recurse=False)]
    buffers = [(part, *item) for part in parts for item in part.named_buffers(recurse=False)]
    kept = [(parameter, parameter.data, parameter.grad) for _, _, parameter in parameters]
    origin = {tensor.device for _, _, tensor in (*parameters, *buffers)}
    if all(at.type == wanted.type and wanted.index in (None, at.index) for at in origin):
        yield
        return
    try:
        for parameter, _, _ in kept:
            parameter.grad = None  # of no use there
        module.to(wanted)
        yield
    finally:
        for parameter, data, gradient in kept:
            parameter.data = data
            parameter.grad = gradient
        for part, name, tensor in (*parameters, *buffers):
            setattr(part, name, tensor)
        if len(origin) == 1:
            module.to(origin.pop())  # what it may keep beside parameters and buffers

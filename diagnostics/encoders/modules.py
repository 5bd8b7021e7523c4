"""All around a pass of a torch module.

Its device and precision, contexts that restore the module as it was, tensors of batches and modules, and pooling over
grid tokens.
"""

import hashlib
import random
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, check_known, few
from diagnostics.vocabulary import Compute

# Large batches only thrash the caches of a CPU; a GPU wants more.
BATCH = {"cpu": 16, "cuda": 128}


def usable_device(device: str | None) -> str:
    """The device that was asked for, or `cuda` where there is one, else `cpu`.

    Raises DiagnosticsError where this machine cannot compute on it.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).cpu()  # which raises on `meta`, since it holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise DiagnosticsError(
            f"Device '{device}' is not there ({str(error).splitlines()[0]}): use --device cpu.", code="bad-value"
        ) from error
    return str(device)


def check_compute(name: str, device: str) -> None:
    """Raise DiagnosticsError for an unknown name, and for what the device cannot compute in."""
    check_known("--compute", name, get_args(Compute))
    if name == "tf32" and torch.device(device).type != "cuda":
        raise DiagnosticsError(
            f"--compute tf32 is for CUDA GPUs, not for {device}: give float32 or bf16.", code="bad-value"
        )


@contextmanager
def computing(compute: Compute, device: str) -> Generator[None]:
    """A context in which passes on a device compute in this.

    `float32` and `bf16` also keep a GPU from TF32, which torch lets convolutions have otherwise.
    """
    kind = torch.device(device).type
    with _tf32(compute == "tf32", kind), torch.autocast(kind, torch.bfloat16, enabled=compute == "bf16"):
        yield


@contextmanager
def whole(device: torch.device) -> Generator[None]:
    """A context for what is made of a pass's values while it runs: autocast and TF32, which would cut it, are off."""
    # Not all devices have it, as `meta`.
    known = torch.amp.is_autocast_available(device.type)
    with _tf32(False, device.type), torch.autocast(device.type, enabled=False) if known else nullcontext():
        yield


@contextmanager
def _tf32(wanted: bool, kind: str) -> Generator[None]:
    if kind != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def map_tensors(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with each of its tensors changed; mappings become dicts, and what is no tensor stays as it is."""
    if isinstance(batch, Mapping):
        return {key: map_tensors(change, value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_tensors(change, value) for value in batch)
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


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], *, types: bool = False) -> str:
    """The misfits between tensors and those that a module wants, in words; "" where they fit.

    Each name is to be in both, with one shape, and with `types` with one number format too.

    Examples:
        >>> import torch
        >>> from diagnostics.plugin import misfits
        >>> module = torch.nn.Linear(2, 3)
        >>> misfits(module.state_dict(), {"weight": torch.zeros(3, 4)})
        '1 tensors missing: bias; 1 tensors of another shape: weight'
    """
    both = [(name, wanted[name], given[name]) for name in wanted.keys() & given.keys()]
    kinds = {
        "missing": wanted.keys() - given.keys(),
        "unexpected": given.keys() - wanted.keys(),
        "of another shape": {name for name, mine, other in both if mine.shape != other.shape},
        "of another type": {name for name, mine, other in both if types and mine.dtype != other.dtype},
    }
    return "; ".join(f"{len(names)} tensors {kind}: {few(names)}" for kind, names in kinds.items() if names)


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
        return _as_tensors(key, value.__getstate__())
    if isinstance(value, Mapping):
        return [part for name, item in value.items() for part in _as_tensors(f"{key}.{name}", item)]
    if isinstance(value, (tuple, list)):
        return [part for i, item in enumerate(value) for part in _as_tensors(f"{key}.{i}", item)]
    if value is None or isinstance(value, (str, bytes, bool, int, float, torch.dtype)):
        return [(key, torch.tensor(list(repr(value).encode()), dtype=torch.uint8))]
    raise DiagnosticsError(
        f"'{key}' in the state of the module is a {type(value).__name__}, of which no digest can be taken: keep "
        f"tensors there.",
        code="not-savable",
    )


_DRAWING = threading.RLock()
"""Held while weights are drawn, so that no other thread's pass sets the generators back in between."""
_RUNNING: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
"""For each module a lock, held during a pass: hooks and modes are the module's, whichever thread set them."""


COMPILED = "_compiled_call_impl"


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """A context of one thread in which the module is in eval mode.

    After it modes, buffers and random state are as before.

    They are restored after an exception too. Only the flags are set, since `eval()` may be overridden to do more (merge
    weights, for example), which `train()` undoes up to rounding.
    """
    training: list[nn.Module] = []
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    part: Any
    with _DRAWING:
        running = _RUNNING.setdefault(module, threading.RLock())
    with running, random_kept(device_of(module)):
        parts = _parts(module)
        # Of `module.compile()`: hooks would be compiled too, and use up how often a training may compile anew.
        compiled = [(vars(part), vars(part).pop(COMPILED)) for part in parts if COMPILED in vars(part)]
        try:
            for part in parts:
                if part.training:
                    training.append(part)
                    _set_mode(part, False)
                # torch's own modules write into theirs (running statistics) in train mode alone, others may as they
                # like.
                if part._buffers and not type(part).__module__.startswith("torch.nn.modules."):
                    buffers += [(part, name, b, b.clone()) for name, b in part._buffers.items() if b is not None]
            yield
        finally:
            for state, call in compiled:
                state[COMPILED] = call
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
def seeding(seed: int) -> Generator[None]:
    """A context in which Python, numpy and torch draw from this seed, one thread at a time.

    After it random states are as before.
    """
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
    """The device of the module's first tensor; the CPU where it has none.

    Raises DiagnosticsError where that holds no numbers.
    """
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            if tensor.is_meta:
                raise DiagnosticsError(
                    f"The weights of {type(module).__name__} lie on the device meta, which holds no numbers: load them "
                    f"first, as with module.to_empty(device='cpu') and module.load_state_dict(...).",
                    code="no-weights",
                )
            return tensor.device
    return torch.device("cpu")


@contextmanager
def placing(module: nn.Module, device: str | torch.device) -> Generator[None]:
    """A context in which the module is on a device.

    After it the module has the same tensors (and gradients) as before.
    """
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


def pool(tap: Tap, tokens: Tensor, poolings: Sequence[str], valid: Tensor | None = None) -> Tensor:
    """Tokens [B, T, F] pooled to float32 [B, pooling, F].

    `mean` averages the grid tokens (never prefix tokens), `last` is the last grid token, `prefix` the first prefix
    token (the class token where a model has one). A tap without prefix tokens gives its mean for `prefix`. Grid tokens
    that are not `valid` (bool [B, grid tokens]) count for neither; a sample without any gives NaN.
    """
    prefix = tap.grid.prefix
    grid = tokens[:, prefix:]
    if valid is None or bool(valid.all()):
        mean, last = grid.mean(dim=1, dtype=torch.float32), grid[:, -1].float()
    else:
        counts = valid.sum(dim=1, keepdim=True)
        mean = torch.where(valid[..., None], grid, 0).sum(dim=1, dtype=torch.float32) / counts
        places = torch.arange(valid.shape[1], device=valid.device)
        ends = torch.where(valid, places, -1).amax(dim=1).clamp_min(0)
        last = grid[torch.arange(len(grid), device=grid.device), ends].float()
        last = torch.where(counts > 0, last, torch.nan)
    parts = {"mean": mean, "last": last, "prefix": tokens[:, 0].float() if prefix else mean}
    return torch.stack([parts[name] for name in poolings], dim=1)


def select_poolings(wanted: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The poolings that are wanted, one or several, in the order in which `known` lists them; all where None are named.

    Raises DiagnosticsError for one that is not known, and where an empty list is given.
    """
    if wanted is None:
        return tuple(known)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        check_known("pooling", name, known)
    if not names:
        raise DiagnosticsError(
            f"No pooling is named: give {', '.join(known)}, or leave it out for all.", code="missing-option"
        )
    return tuple(name for name in known if name in names)

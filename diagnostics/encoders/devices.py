"""Where a model computes and in what: devices, samples of a pass, and single precision unless something coarser is asked for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import get_args

import torch

from diagnostics.errors import DiagnosticsError, unknown
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
        torch.empty(1, device=device).cpu()  # `meta` holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DiagnosticsError(
            f"Device '{device}' is not there ({str(error).splitlines()[0]}): use --device cpu."
        ) from error
    return device


def check_compute(name: str, device: str) -> None:
    """Raises DiagnosticsError for an unknown name, and for what the device cannot compute in."""
    if name not in get_args(Compute):
        raise unknown("--compute", name, get_args(Compute))
    if name == "tf32" and torch.device(device).type != "cuda":
        raise DiagnosticsError(f"--compute tf32 is for CUDA GPUs, not for {device}: give float32 or bf16.")


@contextmanager
def computing(compute: Compute, device: str) -> Generator[None]:
    """A context in which passes on a device compute in this; `float32` and `bf16` also keep a GPU from TF32, which torch lets
    convolutions have otherwise."""
    kind = torch.device(device).type
    with _tf32(compute == "tf32", kind), torch.autocast(kind, torch.bfloat16, enabled=compute == "bf16"):
        yield


@contextmanager
def whole(device: torch.device) -> Generator[None]:
    """A context for what is made of a pass's values while it runs: autocast, which would shorten it, is off."""
    # Not all devices have it, as `meta`.
    known = torch.amp.is_autocast_available(device.type)  # pyright: ignore[reportPrivateImportUsage]  (documented)
    with torch.autocast(device.type, enabled=False) if known else nullcontext():
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

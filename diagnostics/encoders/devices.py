"""Where a model computes: the devices of this machine, and how many samples of a pass each takes."""

from __future__ import annotations

import torch

from diagnostics.errors import DiagnosticsError

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

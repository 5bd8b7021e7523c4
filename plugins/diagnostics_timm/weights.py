"""Weights from the hub and from files, for the plugins of image encoders and others; needs no timm."""

import contextlib
import logging
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.plugin import DiagnosticsError, explaining

# Seconds that the hub has to answer one request before what is wanted is looked for in the local cache only.
_PATIENCE = 5.0


@contextlib.contextmanager
def quick_offline(local: bool = False) -> Generator[bool]:
    """Tells whether the hub answers; where it does not, or all is `local`, only files on this machine are used.

    Without this, its client takes three quarters of a minute of retries to say that there is no network, also for
    what lies in the cache. Any answer counts, so that proxies, mirrors and private hubs go their usual way.
    """
    import huggingface_hub
    from huggingface_hub import constants

    reached = False
    if not local and not constants.HF_HUB_OFFLINE:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
            reached = True
        except Exception as error:
            if not is_fetching(error):
                raise
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reached
    try:
        yield reached
    finally:
        constants.HF_HUB_OFFLINE = before


def is_fetching(error: BaseException) -> bool:
    """True if an error comes from the network or its clients."""
    clients = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in clients


def name_of(model: str, trained: bool, seed: int, options: Mapping[str, object]) -> str:
    """The specification without the checkpoint: where a file lies does not decide the activations, its tensors do.

    Options that are None are left out, and the seed where it is 0 or decides nothing.
    """
    parts = [] if trained else ["pretrained=false", *([f"seed={seed}"] if seed else [])]
    parts += [f"{key}={value}" for key, value in options.items() if value is not None]
    return f"{model}{'?' if parts else ''}{'&'.join(parts)}"


@contextlib.contextmanager
def seeding(seed: int) -> Generator[None]:
    """Draw initial weights from this seed, whatever was drawn before; leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep transformers from drawing bars, and libraries from warning; leaves their settings as they were."""
    from transformers.utils import logging as bars

    disabled_level, drawn = logging.root.manager.disable, bars.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(disabled_level)
        if drawn:
            bars.enable_progress_bar()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers' prefixes; never unpickles anything but tensors."""
    if not path.is_file():
        raise DiagnosticsError(
            f"There is no checkpoint {path}: give a .safetensors, .pth, .pt or .bin file.", code="missing-file"
        )
    with explaining(
        f"Checkpoint {path} cannot be read",
        "it is damaged, cut short, or holds more than tensors; copy it again or save its state_dict() as .safetensors",
        "unreadable",
    ):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "weights", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    return {
        re.sub(r"^(module\.|_orig_mod\.)+", "", str(key)): value for key, value in items if isinstance(value, Tensor)
    }

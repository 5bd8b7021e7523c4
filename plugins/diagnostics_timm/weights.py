"""Building a timm model and bringing weights into it: from the hub, from a local file, or initial ones."""

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, describe, misfits, unknown

# The hub of weights, asked once whether it answers; shared by the plugins that fetch from it. Imports neither timm nor
# torch.

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
    """Whether an error comes from the network or its clients."""
    clients = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in clients


_INSTEAD = "give a local file with ?checkpoint=file.safetensors or take initial weights with ?pretrained=false."
MOST_PIXELS = 8192
"""Along a side: what is larger fills the memory before anything else is said."""


def model_of(name: str, pretrained: bool, checkpoint: str | None, img_size: int | None, seed: int) -> nn.Module:
    """The model with the weights that were asked for; a checkpoint goes before `pretrained`."""
    _check_name(name)
    if img_size is not None and not 1 <= img_size <= MOST_PIXELS:
        raise DiagnosticsError(
            f"timm:{name} cannot take img_size={img_size}: give a number of pixels of at least 1 and at most "
            f"{MOST_PIXELS:,}."
        )
    if checkpoint is not None:
        return _from_file(name, Path(checkpoint), img_size)
    if pretrained:
        return _from_hub(name, img_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(name, img_size)


def create(name: str, img_size: int | None, **options: Any) -> nn.Module:
    """The architecture with initial weights, or with those that timm's own `options` name."""
    sized: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        try:
            return timm.create_model(name, **sized, **options)
        except TypeError as error:
            # Convolutional models take any size and have no such argument; they only see another preprocessing.
            if not sized or "img_size" not in str(error):
                raise
            return timm.create_model(name, **options)
    except Exception as error:
        # What went wrong with the weights is told by who asked for them.
        if options:
            raise
        size = "" if img_size is None else f" with img_size={img_size} (try a multiple of its patch or window size)"
        raise DiagnosticsError(f"timm cannot build {name}{size}: {describe(error)}") from error


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise unknown("timm model", architecture, known, "See timm.list_models() for all.")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise unknown(f"weights of timm model {architecture}:", tag, tags)


def _from_hub(name: str, img_size: int | None) -> nn.Module:
    configuration = timm.get_pretrained_cfg(name)
    if configuration is None or not configuration.has_weights:
        raise DiagnosticsError(f"timm has no pretrained weights of {name}: {_INSTEAD}")
    reached = True
    try:
        with quick_offline() as reached:
            return create(name, img_size, pretrained=True)
    except Exception as error:
        if not is_fetching(error):
            size = "" if img_size is None else f" with img_size={img_size}"
            raise DiagnosticsError(f"timm cannot load {name}{size}: {describe(error)}") from error
        why = f"({describe(error)})" if reached else "(no network, and not in the local cache)"
        raise DiagnosticsError(f"Pretrained weights of timm:{name} cannot be fetched {why}: {_INSTEAD}") from error


def _from_file(name: str, path: Path, img_size: int | None) -> nn.Module:
    tensors = read_tensors(path)
    if not tensors:
        raise DiagnosticsError(f"Checkpoint {path} holds no tensors: save the model's state_dict() into it.")
    model = create(name, img_size)
    differences = misfits(model.state_dict(), tensors)
    if not differences:
        model.load_state_dict(tensors, strict=True)
        return model
    # Not timm's own layout, or another resolution: timm knows how to convert the formats of a model's makers and to
    # resample position embeddings. It is as strict, and what it cannot place is told from the file's own tensors.
    try:
        return create(name, img_size, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
    except Exception as error:
        raise DiagnosticsError(
            f"Checkpoint {path} does not fit timm:{name} ({differences}): name the model that it was saved from."
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers' prefixes; never unpickles anything but tensors."""
    if not path.is_file():
        raise DiagnosticsError(f"There is no checkpoint {path}: give a .safetensors, .pth, .pt or .bin file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DiagnosticsError(
            f"Checkpoint {path} cannot be read: it is damaged, cut short, or holds more than tensors "
            f"({type(error).__name__}); copy it again or save its state_dict() as .safetensors."
        ) from error
    for key in ("state_dict", "weights", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    return {str(key).removeprefix("module."): value for key, value in items if isinstance(value, Tensor)}

"""Weights on disk or from the hub, seeds, and the errors when they do not come.

Options of every builder here: `pretrained` takes trained weights, otherwise initial ones of `seed`; `config` is what to change
in the configuration of untrained weights.
"""

import contextlib
import json
import logging
import pickle
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError
from diagnostics.errors import describe, few

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")
# Seconds that the hub has to answer before the local cache is asked.
_PATIENCE = 5.0


def folder_of(scheme: str, spec: str, files: Sequence[str], small: str) -> Path:
    """The folder of a checkpoint: `spec` itself, or what the hub (or its cache here) has under that name.

    `files` are the patterns of what is needed, `small` names an untrained model for those who have no checkpoint.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        check_files(path)
        return path
    if path.is_file():
        raise DiagnosticsError(f"{scheme}{spec} is a file: give the folder that holds it and its config.json.")
    if not _HUB_ID.fullmatch(spec):
        raise DiagnosticsError(
            f"There is no folder {spec}: give {scheme}FOLDER, {scheme}OWNER/MODEL of the hub, or for untrained weights "
            f"{scheme}{small}?pretrained=false."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, allow_patterns=list(files), etag_timeout=_PATIENCE))
    except Exception as error:
        offline = isinstance(error, LocalEntryNotFoundError)
        why = "the hub does not answer, and its cache here has nothing of that name" if offline else describe(error)
        raise DiagnosticsError(
            f"{scheme}{spec} is no folder here and cannot be fetched ({why}): give the folder of a checkpoint, or for untrained "
            f"weights {scheme}{small}?pretrained=false."
        ) from error


def check_files(folder: Path) -> None:
    """Raises where a checkpoint's folder holds a pipe, a socket or a device, reading which may never end."""
    for file in sorted(folder.iterdir()):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise DiagnosticsError(
                f"{file} is no regular file: give the folder of a checkpoint as its authors published it."
            )


def called(scheme: str, spec: str, pretrained: bool, seed: int) -> str:
    """The encoder's name: where a file lies does not decide the activations, so only its last part stands in it."""
    path = Path(spec).expanduser()
    name = path.resolve().name if path.exists() else spec
    options = "" if pretrained else "?pretrained=false" + (f"&seed={seed}" if seed else "")
    return f"{scheme}{name}{options}"


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DiagnosticsError(f"{folder} holds no config.json: give the folder of a checkpoint.") from None
    except (OSError, ValueError) as error:
        raise DiagnosticsError(f"{path} cannot be read ({describe(error)}): copy the checkpoint again.") from error
    if not isinstance(settings, dict):
        raise DiagnosticsError(f"{path} is no mapping: copy the checkpoint again.")
    return settings


def settings_of(
    scheme: str, spec: str, pretrained: bool, files: Sequence[str], small: Mapping[str, Any], config: Any = None
) -> tuple[Path | None, dict[str, Any]]:
    """Folder and configuration of a checkpoint; of an untrained model in `small`, no folder, and `config` changes it.

    Scheme, spec and files as of `folder_of`, whose errors offer the first of `small`.
    """
    if not pretrained and spec in small:
        return None, {**small[spec], **(config or {})}
    folder = folder_of(scheme, spec, files, next(iter(small)))
    return folder, read_config(folder)


@contextlib.contextmanager
def importing(model: str, remedy: str) -> Generator[None]:
    """Turns the absence of a package that a model needs into one sentence; `remedy` is what to type."""
    try:
        yield
    except ImportError as error:
        raise DiagnosticsError(f"{model} needs {error.name}: {remedy}.") from error


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Initial weights of this seed, whatever was drawn before; leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def loading(library: str, folder: Path | str) -> Generator[None]:
    """Turns what goes wrong between a checkpoint and the library that reads it into one sentence."""
    try:
        yield
    except DiagnosticsError:
        raise
    except pickle.UnpicklingError as error:
        raise DiagnosticsError(
            f"{folder} is no checkpoint, or holds more than tensors and could run code: it is not loaded; get the file that its authors published."
        ) from error
    except Exception as error:
        raise DiagnosticsError(
            f"{library} cannot load {folder} ({describe(error)}): it is damaged, or saved from another model or version."
        ) from error


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keeps libraries from telling and drawing bars while they load; leaves their settings as they were."""
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


def check_fits(module: nn.Module, folder: Path, aside: Sequence[str] = ()) -> None:
    """Raises where a folder's weights lack a parameter of the module, which would keep random values, or have another shape.

    Names that begin with one of `aside` are not asked for. Reads no tensors.
    """
    stored = _stored_shapes(folder)
    wanted = {
        name: tuple(p.shape)
        for name, p in module.named_parameters(remove_duplicate=False)
        if not name.startswith(tuple(aside))
    }
    odd = sorted(name for name, shape in wanted.items() if stored.get(name) != shape)
    if odd:
        first = f"{odd[0]} is {list(stored[odd[0]])}" if odd[0] in stored else f"{odd[0]} is missing"
        raise DiagnosticsError(
            f"{folder} does not hold the weights of a {type(module).__name__} of its config.json: {len(odd)} of {len(wanted)} "
            f"parameters are missing or of another shape ({first}, not {list(wanted[odd[0]])}); copy the checkpoint again."
        )


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a folder's .safetensors or torch files; unpickles nothing but tensors."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            # The file is no mapping and cannot be iterated over.
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for path in sorted(folder.glob("*.bin")) if not shapes else []:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes |= {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    if not shapes:
        raise DiagnosticsError(f"{folder} holds no weights (*.safetensors or *.bin): give the folder of a checkpoint.")
    return shapes


def with_weights(
    library: str,
    untrained: Callable[[], Any],
    folder: Path | None,
    pretrained: bool,
    seed: int,
    aside: Sequence[str] = (),
) -> Any:
    """The module that `untrained` makes, with a checkpoint's weights or, untrained, with initial ones of a seed.

    Raises where a tensor lacks or is left over, but for names that begin with one of `aside`.
    """
    with seeded(seed), loading(library, folder or "its own configuration"):
        module = untrained()
        if folder is None or not pretrained:
            return module
        missing, unexpected = module.load_state_dict(tensors_of(library, folder), strict=False)
    if odd := [name for name in (*missing, *unexpected) if not name.startswith(tuple(aside))]:
        raise DiagnosticsError(
            f"{folder} does not fit a {type(module).__name__} of its config.json: {len(odd)} tensors are missing or left over "
            f"({few(odd)}); it was saved from another model or version."
        )
    return module


def tensors_of(library: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():
        raise DiagnosticsError(f"{folder} holds no model.safetensors: give the folder of a {library} checkpoint.")
    with loading(library, path):
        return load_file(path)

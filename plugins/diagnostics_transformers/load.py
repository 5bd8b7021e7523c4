"""From a directory or a hub name to a model: configuration, weights, and what is missing in them."""

import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from diagnostics_timm.weights import is_fetching, quick_offline, quiet, seeding
from torch import nn
from transformers import AutoConfig

from diagnostics.plugin import DiagnosticsError, describe, explaining, few, refuse_values

_DATA_FILES = (
    "*config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
_WRAPPED = r"^(module|_orig_mod)\."
"""Before the names of weights that were saved from within `DataParallel` or `torch.compile`."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


@dataclass
class Loaded:
    """A model with the place that its preprocessing is read from, and what was not in its weights.

    The place is None where there is none.
    """

    name: str
    model: nn.Module
    config: Any
    source: str | None
    missing: set[str] = field(default_factory=set[str])
    whole: bool = False
    """Whether the model is the architecture that its configuration names, not the bare encoder."""
    stored: bool = False
    """Whether its weights were read, not drawn, so that its samples have to be prepared as its makers did."""

    def fresh(self) -> nn.Module:
        """The same architecture with weights as its makers initialise them, drawn from torch's generator."""
        return initial(self.config, self.name, self.whole)


def load(name: str, pretrained: bool = True, seed: int = 0, whole: bool = False) -> Loaded:
    """The model in a local directory or under a hub name; random weights (from `seed`) where it is not `pretrained`."""
    source = _source(name)
    # Weights that no file holds, as of a pooler that nothing reads, are drawn, and are a part of the identity.
    with quiet(), quick_offline(local=Path(source).is_dir()), seeding(seed):
        config = _config(source, name)
        if pretrained:
            model, missing = _with_weights(source, config, name, whole)
            return Loaded(name, model, config, source, missing, whole, stored=True)
    with seeding(seed):
        return Loaded(name, initial(config, name, whole), config, source, whole=whole)


def folder_of(loaded: Loaded) -> Path:
    """The place of the configuration, and of what preprocessing reads.

    It is the directory, or the hub's in the local cache.
    """
    source = loaded.source or loaded.name
    if Path(source).is_dir():
        return Path(source).resolve()
    from transformers.utils.hub import cached_file

    config = cached_file(source, "config.json", local_files_only=True)
    assert config is not None
    return Path(config).parent


def data_files(folder: Path) -> tuple[Path, ...]:
    """The files there from which a model is built and its samples are prepared, without weights and code."""
    small = (path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt", ".model") and path.is_file())
    return tuple(path for path in small if any(fnmatch(path.name, pattern) for pattern in _DATA_FILES))


def initial(config: Any, name: str, whole: bool = False) -> nn.Module:
    """The architecture of a configuration, with initial weights.

    DiagnosticsError where transformers cannot build it.
    """
    with explaining(f"transformers cannot build {name}", "check its config.json"), quiet():
        return _class(config, name, whole)._from_config(config, dtype=torch.float32).eval()


def _class(config: Any, name: str, whole: bool) -> Any:
    """The bare model of a configuration's type, or the architecture that it names."""
    if whole or getattr(config, "model_type", "") in _NO_BARE:
        named = (getattr(config, "architectures", None) or [""])[0]
        model = getattr(transformers, named, None) if named else None
        if model is None:
            raise DiagnosticsError(
                f"{name} names no architecture that transformers has ('{named}'): leave out heads=true.",
                code="no-effect",
            )
        return model
    try:
        model = transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        # Not every type has a bare model of its own; the architecture that it was saved as has one inside.
        return _class(config, name, True)
    return model[0] if isinstance(model, (tuple, list)) else model


def _source(name: str) -> str:
    """The directory, or the hub name where there is no such directory and it can be one."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise DiagnosticsError(
                f"Directory {name} has no config.json: give one where save_pretrained of transformers wrote "
                f"{'an adapter and its base, merged' if (path / 'adapter_config.json').is_file() else 'a model'}.",
                code="missing-file",
            )
        return str(path)
    refuse_values(
        (path.is_file(), f"{name} is a file: give the directory that holds it with its config.json.", "missing-file"),
        (
            not _HUB_NAME.fullmatch(name) or ".." in name or name.startswith(("~", ".", os.sep)),
            f"There is no directory {name}: give one with a config.json, or the name of a model on the hub.",
            "missing-file",
        ),
    )
    return name


# Settings under which a model is an encoder of all that it is given.
_SETTINGS: dict[str, dict[str, Any]] = {
    "vit_mae": {"mask_ratio": 0.0},  # drops three quarters of its patches otherwise, in evaluation too
}


_NO_BARE = ("speecht5",)
"""Their bare model lacks what reads the input."""


def settled(config: Any) -> Any:
    """A configuration with the settings that encoding needs."""
    for key, value in _SETTINGS.get(getattr(config, "model_type", ""), {}).items():
        setattr(config, key, value)
    return config


def _config(source: str, name: str) -> Any:
    try:
        config = settled(AutoConfig.from_pretrained(source, trust_remote_code=False))
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text or "auto_map" in text:
            why = "it comes with code of its own, which is never run"
        elif "model type" in text or "model_type" in text:
            why = f"transformers {transformers.__version__} does not know its model type"
        else:
            why = _absence(error, source) or describe(error)
        raise DiagnosticsError(f"{name} cannot be loaded ({why}): {_instead(source)}", code="unreadable") from error
    _refuse_kernels(config, name)
    return config


def _refuse_kernels(config: Any, name: str) -> None:
    """Raise where a configuration names a kernel of the hub.

    That is code that building the model would fetch and run.
    """
    for part in (config, *(getattr(config, key, None) for key in getattr(config, "sub_configs", ()))):
        for key in ("_attn_implementation", "_experts_implementation"):
            kernel = str(getattr(part, key, None) or "")
            if "/" in kernel:
                raise DiagnosticsError(
                    f"{name} cannot be loaded (its config.json names the kernel '{kernel}' of the hub, code that is "
                    f"never run): take {key[1:]} out of it.",
                    code="untrusted-code",
                )


def _with_weights(source: str, config: Any, name: str, whole: bool) -> tuple[nn.Module, set[str]]:
    kind = _class(config, name, whole)
    read = partial(
        kind.from_pretrained,
        source,
        config=config,
        dtype=torch.float32,
        trust_remote_code=False,
        weights_only=True,
        output_loading_info=True,
    )
    try:
        model, info = read()
        if any(re.match(_WRAPPED, key) for key in info["unexpected_keys"]):
            model, info = read(key_mapping={_WRAPPED: ""})
    except Exception as error:
        why = _absence(error, source) or _refusal(error) or describe(error)
        raise DiagnosticsError(
            f"Weights of {name} cannot be loaded ({why}): {_instead(source)}", code="unreadable"
        ) from error
    mismatched = [key[0] if isinstance(key, tuple) else str(key) for key in info["mismatched_keys"]]
    if mismatched:
        raise DiagnosticsError(
            f"Weights of {name} are of another architecture than its config.json ({len(mismatched)} tensors of another "
            f"shape: {few(mismatched)}): give the config.json that they were saved with.",
            code="other-weights",
        )
    return model.eval(), {str(key) for key in info["missing_keys"]}


def refuse_missing(loaded: Loaded, prefix: str, but: set[str]) -> None:
    """Raise where weights under `prefix` were not in the files.

    Those under the modules `but` are excepted (heads that are dropped).
    """
    lacking = [key for key in loaded.missing if key.startswith(prefix) and not _under(key.removeprefix(prefix), but)]
    if lacking:
        raise DiagnosticsError(
            f"Weights of {loaded.name} lack {len(lacking)} tensors that a {type(loaded.model).__name__} needs "
            f"({few(lacking)}): they were saved from another architecture.",
            code="no-weights",
        )


def lacking(loaded: Loaded, prefix: str, module: str) -> bool:
    """True if weights of a module under `prefix` were not in the files, so that it is of no use."""
    return any(_under(key.removeprefix(prefix), {module}) for key in loaded.missing if key.startswith(prefix))


def _under(key: str, modules: set[str]) -> bool:
    return any(key == module or key.startswith(f"{module}.") for module in modules)


def _refusal(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}"
    if "weights_only" in text or "Unpickling" in text or "pickle" in text.lower():
        return "its .bin file holds more than tensors, and is never unpickled"
    if "torchaudio" in text or "libc10_cuda" in text:
        return "the torchaudio that is installed does not fit this torch: pip uninstall torchaudio"
    if isinstance(error, OSError) and "no file named" in text:
        return "there are no weights beside its config.json"
    return ""


def _absence(error: BaseException, source: str) -> str:
    if Path(source).is_dir():
        return ""
    return "no such directory, not in the local cache, and the hub does not give it" if is_fetching(error) else ""


def _instead(source: str) -> str:
    if Path(source).is_dir():
        return "save the model again with save_pretrained, or take initial weights with ?pretrained=false."
    return "give a local directory that was written by save_pretrained."

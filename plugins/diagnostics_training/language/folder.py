"""Models in local folders of transformers: none runs code of its own, unpickles anything or asks a hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from diagnostics.plugin import DiagnosticsError, describe, few

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options of every `from_pretrained`; that of a model takes `use_safetensors` too, which a configuration would keep."""


def checked_folder(name: str, kind: str, remedy: str) -> Path:
    """The folder of that name. Raises where it holds no model, and where its configuration names a kernel of the hub, which is code
    that building the model would fetch and run.

    kind: what the model is to be, in words; remedy: what to do, as the end of a sentence.
    """
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise DiagnosticsError(f"There is no {kind} {name}: {remedy}.")
    try:
        parts = list(_mappings(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        raise DiagnosticsError(f"{kind.capitalize()} {name} cannot be loaded ({describe(error)}): {remedy}.") from error
    for part in parts:
        for key, value in part.items():
            if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
                raise DiagnosticsError(
                    f"{kind.capitalize()} {name} names the kernel '{value}' of the hub, code that is never run: take {key} out of its "
                    "config.json."
                )
    return folder


def _mappings(part: Any) -> Generator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _mappings(inner)


def check_weights(model: Any, info: Mapping[str, Any], named: str, remedy: str) -> None:
    """Raises where weights of a model were not in its files, by what `from_pretrained` tells with `output_loading_info`."""
    if lacking := sorted(map(str, info["missing_keys"])):
        raise DiagnosticsError(
            f"Weights of {named} lack {len(lacking)} tensors of a {type(model).__name__} ({few(lacking)}): {remedy}."
        )


def why_not_loaded(error: Exception, kind: str) -> str:
    """What an error of `from_pretrained` means, in words; `kind` is what the model is to be."""
    text = str(error)
    if "trust_remote_code" in text or "auto_map" in text:
        return "it comes with code of its own, which is never run"
    if isinstance(error, OSError) and "no file named" in text and "safetensors" in text:
        return "there are no weights in safetensors beside its config.json, and others are never unpickled"
    if "for this kind of AutoModel" in text:
        return f"it is no {kind}"
    return describe(error)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Without progress bars and warnings of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

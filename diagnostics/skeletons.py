"""The name that builds a saved encoder again, from whatever folder, and the small text files that this needs.

A checkpoint directory's configuration and tokenizer travel with the weights, so that the directory need not be there.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote, unquote

from diagnostics.errors import DiagnosticsError, said
from diagnostics.torch_encoder import TorchEncoder

FILES = "{files}"
"""Stands in a saved skeleton for the folder in which its files are put when it is loaded."""
MOST_BYTES = 20 * 10**6
"""Of such files together: they are part of a header, which is read before the weights."""
_TRAVELLING = (
    "*config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model",
)  # fmt: skip
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_BASE = re.compile(r"(?:^|&)base=([^&]*)")


def skeleton_of(encoder: TorchEncoder) -> tuple[str, dict[str, str | dict[str, str]]]:
    """The name that builds an encoder again, from whatever folder, and the files that it needs."""
    text = encoder.skeleton or encoder.spec
    if not text:
        raise DiagnosticsError(
            f"{encoder.name} was made in Python, so nothing says how to build it again: put the function that makes it into a "
            "file and use diagnostics.build('encoder', 'file.py:function')."
        )
    return _standing(text, bool(encoder.skeleton), encoder.name)


def _standing(text: str, weightless: bool, encoder: str) -> tuple[str, dict[str, str | dict[str, str]]]:
    """A name that holds from whatever folder, and the files that it needs; `weightless` where weights are not looked for."""
    name, mark, query = text.partition("?")
    if around := _BASE.search(query):
        # Around another encoder, whose name is treated likewise; braces stay, for the place of the files.
        inner, files = _standing(unquote(around[1]), weightless, encoder)
        return f"{name}?{query[: around.start(1)]}{quote(inner, safe='{}')}{query[around.end(1) :]}", files
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return f"{Path(path).resolve()}:{function}{mark}{query}", {}
    scheme, colon, rest = name.partition(":")
    folder = Path(rest).expanduser()
    if colon and folder.is_absolute() and not folder.exists():
        raise DiagnosticsError(f"{folder} is gone, and {encoder} cannot be built again without it: put it back.")
    # A folder may be called as a model is (`timm:resnet18` beside results in `resnet18`), but says nothing of how to build it.
    if not (colon and rest and folder.is_dir() and any(_travels(file) for file in folder.iterdir())):
        return name + mark + query, {}
    if not weightless:
        # The weights lie there too, so it is asked for as it is.
        return f"{scheme}:{folder.resolve()}{mark}{query}", {}
    return f"{scheme}:{FILES}{mark}{query}", _files(folder)


def _travels(file: Path) -> bool:
    return file.is_file() and any(fnmatch(file.name, pattern) for pattern in _TRAVELLING)


def _files(folder: Path) -> dict[str, str | dict[str, str]]:
    """What a checkpoint directory says of how to build a model, without its weights."""
    found: dict[str, str | dict[str, str]] = {}
    room = MOST_BYTES
    for file in sorted(folder.iterdir()):
        if not _travels(file):
            continue
        room -= file.stat().st_size
        if room < 0 or not _FILE_NAME.fullmatch(file.name):
            raise DiagnosticsError(
                f"{file} cannot travel with the weights, of which it is needed to build the encoder again: its name must be "
                f"plain, and such files may have {MOST_BYTES // 10**6} MB in all."
            )
        content = file.read_bytes()
        try:
            found[file.name] = content.decode()
        except UnicodeDecodeError:
            found[file.name] = {"base64": base64.b64encode(content).decode()}
    return found


@functools.cache
def unpacked(files: str, file: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with these files, removed when the process ends: encoders of other sizes are built from it later."""
    folder = tempfile.TemporaryDirectory(prefix="diagnostics-")
    for name, content in json.loads(files).items():
        # Names come from outside: none may be a path.
        if not _FILE_NAME.fullmatch(name):
            raise DiagnosticsError(f"{file} holds a file named {name!r}, which is no plain name: do not use it.")
        try:
            data = content.encode() if isinstance(content, str) else base64.b64decode(content["base64"], validate=True)
        except (ValueError, TypeError, KeyError) as error:
            raise DiagnosticsError(f"{name} in {file} is damaged ({said(error)}): copy or save it again.") from error
        Path(folder.name, name).write_bytes(data)
    return folder

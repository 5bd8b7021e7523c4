"""What a saved encoder needs to be built again: a name that works from any folder, and small data files.

Files that the encoder declares (`Encoder.files`) travel with the weights, so that the folder they lie in is not needed.
"""

import base64
import contextlib
import functools
import json
import re
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, describe

FILES = "{files}"
"""In a saved skeleton, a placeholder for the folder to which its files are unpacked when it is loaded."""
MOST_BYTES = 20 * 10**6
"""Total size of such files: they are part of a header, which is read before the weights."""
MOST_FILES = 64
MOST_TEXT = 3 * MOST_BYTES
"""Characters of the JSON that contains them, in which line ends and quotes take two."""
MOST_PARAMETERS, MOST_NUMBERS = 20_000, 10**10
"""Most tensors and weights of a module that a skeleton builds: 25 and 5 times those of PE-G."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}\.(json|txt|model)")
"""Plain names of data files: no path, and nothing that could be imported or run."""
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}
_BASE = re.compile(r"(?:^|&)base=([^&]*)")


def skeleton_of(encoder: TorchEncoder) -> tuple[str, dict[str, str | dict[str, str]]]:
    """The name that builds an encoder again, from whatever folder, and the files that travel with it (name -> content).

    Content is text, or bytes as `{"base64": ...}`. Raises DiagnosticsError where no name builds the encoder, and where a
    file that must travel is missing, too large, or not a data file.
    """
    text = encoder.skeleton or encoder.spec
    if not text:
        raise DiagnosticsError(
            f"{encoder.name} was made in Python, so nothing says how to build it again: put the function that makes it into a "
            "file and use diagnostics.build('encoder', 'file.py:function')."
        )
    return _from_anywhere(text, encoder.files, encoder.name)


def _from_anywhere(text: str, files: Sequence[Path], encoder: str) -> tuple[str, dict[str, str | dict[str, str]]]:
    """A name with absolute paths, or with `FILES` for the folder that holds `files`, and then their content."""
    name, mark, query = text.partition("?")
    if inner := _BASE.search(query):
        # The name of another encoder is an option, and treated likewise; the braces of FILES are not quoted.
        base, contents = _from_anywhere(unquote(inner[1]), files, encoder)
        return f"{name}?{query[: inner.start(1)]}{quote(base, safe='{}')}{query[inner.end(1) :]}", contents
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return f"{Path(path).resolve()}:{function}{mark}{query}", {}
    scheme, colon, rest = name.partition(":")
    folder = Path(rest).expanduser()
    if colon and folder.is_absolute() and not folder.exists():
        raise DiagnosticsError(f"{folder} is gone, and {encoder} cannot be built again without it: put it back.")
    if colon and folder in {file.parent for file in files}:
        return f"{scheme}:{FILES}{mark}{query}", _contents(files)
    # A folder may have the name of a model (`timm:resnet18` beside results in `resnet18`), but then has no configuration.
    if colon and rest and (folder / "config.json").is_file():
        return f"{scheme}:{folder.resolve()}{mark}{query}", {}
    return name + mark + query, {}


def _contents(files: Sequence[Path]) -> dict[str, str | dict[str, str]]:
    contents: dict[str, str | dict[str, str]] = {}
    room = MOST_BYTES
    for file in files:
        if not file.is_file():
            raise DiagnosticsError(f"{file} is gone, and the encoder cannot be built again without it: put it back.")
        room -= file.stat().st_size
        if room < 0 or len(contents) == MOST_FILES or not _FILE_NAME.fullmatch(file.name):
            raise DiagnosticsError(
                f"{file} cannot be saved with the weights, and the encoder cannot be built again without it: its name must be "
                f"plain, and such files may have {MOST_BYTES // 10**6} MB in all and be {MOST_FILES} at most."
            )
        content = file.read_bytes()
        try:
            contents[file.name] = content.decode()
        except UnicodeDecodeError:
            contents[file.name] = {"base64": base64.b64encode(content).decode()}
    return contents


@functools.cache
def unpack_files(files: str, file: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with these files (JSON), kept until the process ends: encoders of other sizes are built from it.

    Raises DiagnosticsError for names that are no plain data files, damaged content, and more files than can be.
    """
    contents = {name: _content(name, content, file) for name, content in json.loads(files).items()}
    size = sum(map(len, contents.values()))
    if size > MOST_BYTES or len(contents) > MOST_FILES or len({name.lower() for name in contents}) < len(contents):
        raise DiagnosticsError(
            f"{file} holds {len(contents)} files of {size / 1e6:.1f} MB, where up to {MOST_FILES} of different names and "
            f"{MOST_BYTES // 10**6} MB in all can be: do not use it."
        )
    folder = tempfile.TemporaryDirectory(prefix="diagnostics-")
    for name, data in contents.items():
        Path(folder.name, name).write_bytes(data)
    return folder


def _content(name: str, content: Any, file: str) -> bytes:
    # Names come from an untrusted file: none may be a path, or be imported or run as code.
    if not _FILE_NAME.fullmatch(name) or Path(name).stem.partition(".")[0].upper() in _RESERVED:
        raise DiagnosticsError(
            f"{file} holds a file named {name[:80]!r}, which is no plain name of a .json, .txt or .model file: do not use it."
        )
    try:
        return content.encode() if isinstance(content, str) else base64.b64decode(content["base64"], validate=True)
    except (ValueError, TypeError, KeyError) as error:
        raise DiagnosticsError(f"{name} in {file} is damaged ({describe(error)}): copy or save it again.") from error


@contextlib.contextmanager
def limit_size() -> Generator[None]:
    """A context in which building a module that is too large (a million blocks, a matrix beyond any memory) is stopped.

    Raises DiagnosticsError at the parameter that goes beyond `MOST_PARAMETERS` tensors or `MOST_NUMBERS` weights.
    """
    count = numbers = 0

    def note(_module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count, numbers
        count, numbers = count + 1, numbers + parameter.numel()
        if count > MOST_PARAMETERS or numbers > MOST_NUMBERS:
            raise DiagnosticsError(
                f"its module has more than {MOST_PARAMETERS:,} parameters or {MOST_NUMBERS:,} weights, at '{name}' of a "
                f"{type(_module).__name__}: no encoder is that large."
            )

    with register_module_parameter_registration_hook(note):
        yield

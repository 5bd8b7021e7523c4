"""Saved encoders: a safetensors file with the weights, and in its metadata the name that builds the rest.

What is loaded is built by that name first (its skeleton, with whatever weights, from any folder), then given the file's
tensors. The small text files that a skeleton needs (`Encoder.files`: a checkpoint directory's configuration and
tokenizer) travel in the metadata.
"""

import base64
import contextlib
import functools
import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import digest_of, misfits
from diagnostics.encoders.saved.cut import cut_encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, StorageError, describe, explaining, unwritable
from diagnostics.options import decode

SAVED = "encoder.safetensors"
"""Filename of a saved encoder in its folder."""
KEY = "diagnostics"
"""Of the metadata under which its description stands."""
FORMAT = 1


Summary = tuple[list[int], float, float]
"""Shape, mean and spread."""


@dataclass(frozen=True)
class Description:
    """The metadata of a saved encoder: how to build the encoder, and what it must then be like."""

    name: str
    modality: str
    skeleton: str
    configuration: str
    cut: str | None
    absent: list[str]
    """Modules that a cut encoder does without."""
    taps: list[str]
    output_tap: str
    prepared: dict[str, Summary]
    """Of what preprocessing made of the example."""
    sha256: str
    """Of the tensors in the file."""
    lineage: dict[str, Any]
    files: dict[str, Any]
    """Name -> text, or bytes as `{"base64": ...}`."""
    format: int = FORMAT
    side_by_side: list[str] = field(default_factory=list[str])
    """As of the encoder; a file of a single tap, and each of before, has none."""


def save_encoder(
    path: str | Path,
    encoder: Encoder,
    *,
    cut: str | Sequence[str] | None = None,
    lineage: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write an encoder to one safetensors file, from which its name on the command line is the file's or folder's.

    Parameters
    ----------
    path: a folder, in which it is `encoder.safetensors`, or a file that ends in `.safetensors`. What is there is
    replaced,
        in one move.
    encoder: a `TorchEncoder` that was built by a name, or has a `skeleton`.
    cut: only up to this tap, or the deepest of several; see `diagnostics.encoders.saved.cut.cut_encoder`.
    lineage: what made the weights, instead of the encoder's own.
    half: float32 weights are rounded to float16 in the file, half its size; what is loaded from it is the rounded
    encoder, with an
        identity of its own. Raises where one lies beyond float16.

    Returns the path of the file. Raises DiagnosticsError where nothing builds the encoder again, and StorageError where
    the file cannot be written.

    Examples:
        >>> import diagnostics as dx
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> print(dx.save_encoder("models/forecast", encoder))
        models/forecast/encoder.safetensors
        >>> print(dx.save_encoder("models/forecast-to-3", encoder, cut="blocks.3"))
        models/forecast-to-3/encoder.safetensors
        >>> dx.build("encoder", "models/forecast-to-3").output_tap
        'blocks.3'
    """
    encoder = cut_encoder(encoder, cut) if cut is not None else encoder
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(
            f"{encoder.name} exposes no torch module whose weights could be saved: save another encoder.",
            code="not-savable",
        )
    skeleton, files = skeleton_of(encoder)
    tensors = _tensors(encoder)
    if half:
        tensors = {name: _rounded(name, tensor, encoder.name) for name, tensor in tensors.items()}
    about = Description(
        encoder.name,
        encoder.modality,
        skeleton,
        configuration=encoder.configuration,
        cut=encoder.cut or None,
        absent=list(encoder.absent),
        taps=[tap.name for tap in encoder.taps],
        output_tap=encoder.output_tap,
        prepared=_summaries(encoder),
        sha256=digest_of(tensors),
        lineage=dict(encoder.lineage if lineage is None else lineage),
        files=files,
        side_by_side=list(encoder.side_by_side),
    )
    with explaining(
        f"The lineage of {encoder.name} cannot be written as JSON", "use plain values", "not-savable", TypeError
    ):
        text = json.dumps({**asdict(about), "digest": digest_of_json(asdict(about))})
    file = encoder_file(path)
    with whole_file(file) as written:
        save_file(tensors, written, metadata={KEY: text})
    return file


def encoder_file(path: str | Path) -> Path:
    """The file of a saved encoder.

    It is the path itself where it ends in `.safetensors`, else `encoder.safetensors` in it.
    """
    file = Path(path).expanduser()
    return file if file.suffix == ".safetensors" else file / SAVED


def _summaries(encoder: TorchEncoder) -> dict[str, Summary]:
    summaries: dict[str, Summary] = {}
    for key, tensor in encoder.prepare_example().items():
        known = tensor[~tensor.isnan()] if tensor.is_floating_point() else tensor
        values = known.double() if known.numel() else torch.zeros(1, dtype=torch.float64)
        summaries[key] = list(tensor.shape), float(values.mean()), float(values.std(correction=0))
    return summaries


def check_prepared(encoder: TorchEncoder, about: Description, file: Path) -> None:
    """Raise where preprocessing is another than when the file was written, beyond what another version rounds."""
    now = _summaries(encoder)
    for key in about.prepared.keys() | now.keys():
        then, here = about.prepared.get(key), now.get(key)
        if then is None or here is None or then[0] != here[0] or not _near(then, here):
            raise DiagnosticsError(
                f"{file} was saved with another preprocessing than '{about.skeleton}' has here (shape, mean "
                f"and spread of {key or 'the example'} were {then} and are {here}): install the packages that it was "
                f"saved with.",
                code="other-version",
            )


def _near(then: Summary, here: Summary) -> bool:
    most = 0.02 * abs(then[2]) + 1e-6
    return all(math.isclose(a, b, rel_tol=0.02, abs_tol=most) for a, b in zip(then[1:], here[1:], strict=True))


def _tensors(encoder: TorchEncoder) -> dict[str, Tensor]:
    """The module's state by name, tensors that it has under several names once."""
    first, memories = _first_names(encoder.module, encoder.name), set[int]()
    tensors: dict[str, Tensor] = {}
    for name, tensor in encoder.module.state_dict().items():
        if first[name] == name:
            memory = tensor.untyped_storage().data_ptr()
            # Two views into one memory are no one tensor, and the format has no views.
            tensors[name] = (tensor.clone() if memory in memories else tensor).detach().cpu().contiguous()
            memories |= {memory} if tensor.numel() else set()
    return tensors


def _rounded(name: str, tensor: Tensor, encoder: str) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    rounded = tensor.half()
    if not torch.equal(rounded.isfinite(), tensor.isfinite()):  # masks hold -inf as they should
        raise DiagnosticsError(
            f"'{name}' of {encoder} has values beyond float16: save it without half.", code="not-finite"
        )
    return rounded


def _first_names(module: nn.Module, encoder: str) -> dict[str, str]:
    """Name of each tensor of the state -> the first name of the same one."""
    first: dict[Any, str] = {}
    names: dict[str, str] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise DiagnosticsError(
                f"{encoder} keeps something that is no tensor in its state ('{name}'), which no safetensors file can "
                f"hold: save another encoder.",
                code="not-savable",
            )
        place = value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype
        names[name] = first.setdefault(place if value.numel() else name, name)
    return names


def fill(module: nn.Module, about: Description, file: Path) -> None:
    """The file's tensors as the module's state; raises where one lacks, is left over, or is of another kind."""
    with _reading(file):
        tensors = load_file(file)
    if digest_of(tensors) != about.sha256:
        raise DiagnosticsError(
            f"The weights in {file} are not those that were saved: it is damaged, copy it again.", code="damaged"
        )
    own, first = module.state_dict(), _first_names(module, about.name)
    wanted = {name: tensor for name, tensor in own.items() if first[name] == name}
    for name in wanted.keys() & tensors.keys():
        if (tensors[name].dtype, own[name].dtype) == (torch.float16, torch.float32):
            tensors[name] = tensors[name].float()
    if odd := misfits(wanted, tensors, types=True):
        raise DiagnosticsError(
            f"Weights in {file} do not fit '{about.skeleton}' ({odd}): what it builds has changed since they were "
            f"saved, install or restore that version.",
            code="other-weights",
        )
    module.load_state_dict({name: tensors[first[name]] for name in own}, strict=True)


def read_description(file: Path) -> Description | None:
    """The description in a saved encoder's file; None where the file holds tensors alone.

    Raises DiagnosticsError where it cannot be read, is damaged, or is of another format.
    """
    with _reading(file), safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(KEY)
    if text is None:
        return None
    if len(text) > MOST_TEXT:
        raise DiagnosticsError(
            f"The description in {file} has {len(text) / 1e6:,.0f} MB, more than the {MOST_TEXT // 10**6} MB that one "
            f"may have: do not use it.",
            code="too-large",
        )
    with explaining(
        f"The description in {file} is damaged",
        "copy or save it again",
        "damaged",
        (ValueError, TypeError, KeyError, RecursionError),
    ):
        fields = json.loads(text, object_pairs_hook=_once)
        # What is written by hand, or was before there was one, lacks it.
        if "digest" in fields and fields.pop("digest") != digest_of_json(fields):
            raise ValueError("it is not what was written")
        if fields["format"] != FORMAT:
            raise DiagnosticsError(
                f"{file} is of format {fields['format']}, not {FORMAT}: use the version that wrote it.",
                code="other-version",
            )
        return decode(Description, fields)


def digest_of_json(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping in which nothing stands twice, so that no reader sees another value than this one."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key occurs twice")
    return mapping


def _reading(file: Path) -> contextlib.AbstractContextManager[None]:
    remedy = "it is cut short, damaged, or something else under that name; copy or save it again"
    return explaining(f"{file} cannot be read as safetensors", remedy, "unreadable", (SafetensorError, OSError))


@contextlib.contextmanager
def partial_folder(place: Path) -> Generator[Path]:
    """Give an empty folder beside `place`, from which to move there what was written whole.

    Nothing is left of it afterwards.

    Raises StorageError where `place` cannot be written, by the system or by the library that writes it.
    """
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
    except OSError as error:
        raise unwritable(place, error) from error
    except (SafetensorError, RuntimeError) as error:  # the latter is torch's
        raise StorageError(
            f"{place} cannot be written ({describe(error)}): is there free space, and do you have permission to "
            f"write there?",
            code="unwritable",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_file(file: Path) -> Generator[Path]:
    """Give a path of the same suffix to write to, and make it `file` in one move at the end.

    After an error nothing is left of it.

    Raises StorageError where it cannot be written, by the system or by the library that writes it.
    """
    # A folder, since safetensors writes to a file of another name first, which a kill leaves.
    with partial_folder(file) as partial:
        written = partial / file.name
        written.touch()
        mode = written.stat().st_mode
        yield written
        written.chmod(mode)  # safetensors leaves a file that nobody else may read, whatever the umask allows
        written.replace(file)


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

    Content is text, or bytes as `{"base64": ...}`. Raises DiagnosticsError where no name builds the encoder, and where
    a file that must travel is missing, too large, or not a data file.
    """
    text = encoder.skeleton or encoder.spec
    if not text:
        raise DiagnosticsError(
            f"{encoder.name} was made in Python, so nothing says how to build it again: put the function that makes it "
            f"into a file and use diagnostics.build('encoder', 'file.py:function').",
            code="not-savable",
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
        raise DiagnosticsError(
            f"{folder} is gone, and {encoder} cannot be built again without it: put it back.", code="missing-file"
        )
    if colon and folder in {file.parent for file in files}:
        return f"{scheme}:{FILES}{mark}{query}", _contents(files)
    # A folder may have the name of a model (`timm:resnet18` beside results in `resnet18`), but then has no
    # configuration.
    if colon and rest and (folder / "config.json").is_file():
        return f"{scheme}:{folder.resolve()}{mark}{query}", {}
    return name + mark + query, {}


def _contents(files: Sequence[Path]) -> dict[str, str | dict[str, str]]:
    contents: dict[str, str | dict[str, str]] = {}
    room = MOST_BYTES
    for file in files:
        if not file.is_file():
            raise DiagnosticsError(
                f"{file} is gone, and the encoder cannot be built again without it: put it back.", code="missing-file"
            )
        room -= file.stat().st_size
        if room < 0 or len(contents) == MOST_FILES or not _FILE_NAME.fullmatch(file.name):
            raise DiagnosticsError(
                f"{file} cannot be saved with the weights, and the encoder cannot be built again without it: its name "
                f"must be plain, and such files may have {MOST_BYTES // 10**6} MB in all and be {MOST_FILES} at most.",
                code="not-savable",
            )
        content = file.read_bytes()
        try:
            contents[file.name] = content.decode()
        except UnicodeDecodeError:
            contents[file.name] = {"base64": base64.b64encode(content).decode()}
    return contents


@functools.cache
def unpack_files(files: str, file: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with these files (JSON), kept until the process ends.

    Encoders of other sizes are built from it.

    Raises DiagnosticsError for names that are no plain data files, damaged content, and more files than can be.
    """
    contents = {name: _content(name, content, file) for name, content in json.loads(files).items()}
    size = sum(map(len, contents.values()))
    if size > MOST_BYTES or len(contents) > MOST_FILES or len({name.lower() for name in contents}) < len(contents):
        raise DiagnosticsError(
            f"{file} holds {len(contents)} files of {size / 1e6:.1f} MB, where up to {MOST_FILES} of "
            f"different names and {MOST_BYTES // 10**6} MB in all can be: do not use it.",
            code="too-large",
        )
    try:
        folder = tempfile.TemporaryDirectory(prefix="diagnostics-")
        for name, data in contents.items():
            Path(folder.name, name).write_bytes(data)
    except OSError as error:
        raise StorageError(
            f"The files in {file} cannot be unpacked into {tempfile.tempdir or 'any folder'} "
            f"({error.strerror or error}): free some room there, or set TMPDIR to another folder.",
            code="no-space",
        ) from error
    return folder


def _content(name: str, content: Any, file: str) -> bytes:
    # Names come from an untrusted file: none may be a path, or be imported or run as code.
    if not _FILE_NAME.fullmatch(name) or Path(name).stem.partition(".")[0].upper() in _RESERVED:
        raise DiagnosticsError(
            f"{file} holds a file named {name[:80]!r}, which is no plain name of a .json, .txt or .model file: do not "
            f"use it.",
            code="strange-file",
        )
    with explaining(
        f"{name} in {file} is damaged", "copy or save it again", "damaged", (ValueError, TypeError, KeyError)
    ):
        return content.encode() if isinstance(content, str) else base64.b64decode(content["base64"], validate=True)


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
                f"its module has more than {MOST_PARAMETERS:,} parameters or {MOST_NUMBERS:,} weights, at "
                f"'{name}' of a {type(_module).__name__}: no encoder is that large.",
                code="too-large",
            )

    with register_module_parameter_registration_hook(note):
        yield

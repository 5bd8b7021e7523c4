"""Folders of files: what lies in them, what goes wrong with it, and the datasets that are made of it."""

import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diagnostics.plugin import SPLIT_OF, Dataset, DiagnosticsError, LazySamples, importing, printable, refuse_values

# What goes wrong with files: missing packages, damaged files, and whether to go on without them.


MOST_BYTES = 4 * 2**30
"""Of what one dataset holds in memory before the first sample is read."""
_SHOWN = 3


class Unusable(DiagnosticsError):
    """A file that cannot be a sample: its name, `why` as the rest of that sentence, what to do.

    `damage` if its bytes are wrong.

    `skip` says whether `?on_error=skip` exists there and helps.
    """

    def __init__(self, name: str, why: str, remedy: str, skip: bool = True, damage: bool = False) -> None:
        more = f", or leave {'damaged' if damage else 'such'} files out with ?on_error=skip" if skip else ""
        super().__init__(f"{name} {why}: {remedy}{more}.", code="unreadable" if damage else "bad-data")
        self.name, self.why, self.remedy, self.damage = name, why, remedy, damage


class DataError(DiagnosticsError):
    """A row, a column or a text that does not hold what is needed."""

    code = "bad-data"


def need(module: str, package: str, wanted: str) -> Any:
    """The module, or the sentence that says which package to install for what is wanted."""
    with importing(f"{wanted} needs", f"pip install {package}"):
        return importlib.import_module(module)


def damaged(name: str, error: BaseException | str, skip: bool = True) -> Unusable:
    """The error for a file that cannot be decoded; returned, not raised."""
    why = (
        error
        if isinstance(error, str)
        else f"{type(error).__name__}: {' '.join(_ADDRESS.sub('', str(error)).split())}".rstrip(":. ")
    )
    remedy = "repair or remove it" if skip else "repair it or write it again"
    return Unusable(name, f"cannot be decoded ({why})", remedy, skip, damage=True)


_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
"""Of what libraries say, the part that is another in each process."""


@contextlib.contextmanager
def decoding(name: str) -> Generator[None]:
    """Turn an unexpected exception within this context into the error for a file that cannot be decoded."""
    try:
        yield
    except DiagnosticsError:
        raise
    except Exception as error:
        raise damaged(name, error) from error


_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path, name: str, skip: bool = True) -> None:
    """Raise for what is no regular file (links followed) or has a name that is no text.

    Opens nothing, which may hang.
    """
    if utf8_name(str(path)) != str(path):
        raise Unusable(utf8_name(name), "has a name that is not UTF-8", "rename it", skip)
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        why = "is a link to what is not there" if path.is_symlink() else f"cannot be reached ({error.strerror})"
        raise Unusable(name, why, "remove it", skip) from error
    if kind != stat.S_IFREG:
        raise Unusable(name, f"is {_KINDS.get(kind, 'something else')} and no file", "remove it", skip)


def check_tree(root: Path) -> None:
    """Raise where a folder that a library reads as a whole holds what is no regular file."""
    for where, _, files in os.walk(root):
        for name in files:
            check_regular(Path(where, name), utf8_name(str(Path(where, name))), skip=False)


def utf8_name(name: str) -> str:
    """The name of a file as text: bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def usable(
    names: Sequence[str], check: Callable[[int], object], on_error: str, source: str
) -> tuple[Sequence[int], dict[str, Unusable]]:
    """The files that can be read, and of others, by name, what is wrong, perhaps with a file beside it.

    With `on_error` `stop` nothing is looked at, and the file that fails stops the run when its turn comes. With `skip`,
    `check(i)` decodes every file once, now, since ids and splits are fixed before the first forward pass; what is left
    out is said on stderr. Raises where nothing is left.
    """
    if on_error not in ("stop", "skip", "replace"):
        raise DiagnosticsError(
            f"Option on_error={on_error} of {source} is unknown: give stop or skip.", code="bad-value"
        )
    if on_error != "skip":
        return range(len(names)), {}
    kept: list[int] = []
    left_out: dict[str, Unusable] = {}
    for i, name in enumerate(names):
        try:
            check(i)
        except Unusable as error:
            # Without what led to it, which would keep the arrays of each such file.
            left_out[name] = error.with_traceback(None)
            error.__cause__ = error.__context__ = None
        else:
            kept.append(i)
    tell(source, sentence(left_out, len(names)))
    if not kept:
        first = next(iter(left_out.values()))
        raise DiagnosticsError(
            f"Of {len(names)} files of {source} none can be used, as {first.name} {first.why}: {first.remedy}.",
            code="bad-data",
        )
    return kept, left_out


def sentence(left_out: Mapping[str, Unusable], of: int) -> str:
    """The number of files left out and the first ones at fault, for `Dataset.about`; nothing where none was."""
    broken = [fault.name for fault in left_out.values() if fault.damage]
    others = [f"{fault.name} {fault.why}" for fault in left_out.values() if not fault.damage]
    return join_notes(
        f"{len(broken)} of {of} left out as damaged: {_first(broken, _SHOWN)}" if broken else "",
        f"{len(others)} of {of} left out: {_first(others, 1)}" if others else "",
    )


def _first(entries: Sequence[str], count: int) -> str:
    more = f" and {len(entries) - count} more" if len(entries) > count else ""
    return f"{', '.join(entries[:count])}{more}"


def alone(names: Sequence[str], kind: str, without: str) -> str:
    """`2 images without a map left out, images/a.jpg first`; nothing where there are no names."""
    if not names:
        return ""
    return (
        f"{len(names)} {kind}{'s' * (len(names) > 1)} without {without} left out, "
        f"{names[0]}{' first' * (len(names) > 1)}"
    )


def too_large(needed: int) -> str:
    """In words that what a file declares to hold would not fit into memory; nothing where it would."""
    if needed <= MOST_BYTES:
        return ""
    return f"would take {needed / 2**30:.1f} GiB of memory, more than the {MOST_BYTES / 2**30:g} GiB that are allowed"


def check_bytes(needed: int, contents: str, remedy: str) -> None:
    """Raise where `contents` would not fit into memory, before any of it is read."""
    if why := too_large(needed):
        raise DiagnosticsError(f"{contents} {why}: {remedy}.", code="too-large")


def warn(text: str) -> None:
    """One line on stderr, so that what is printed for programs stays clean."""
    print(f"diagnostics: {printable(text)}", file=sys.stderr)


def tell(source: object, note: str) -> str:
    """The same note, said on stderr with what it is about; nothing where there is none."""
    if note:
        warn(f"{source}: {note}.")
    return note


def join_notes(*parts: str) -> str:
    """The parts that say anything, as one line."""
    return "; ".join(part for part in parts if part)


# What lies in a folder: files by suffix in a fixed order, the splits and classes that their folders name.


PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class File:
    """A file, its name below the given folder, its split, and `parts` of its name below that.

    The split is `""` where no folder says one.
    """

    path: Path
    name: str
    split: str
    parts: tuple[str, ...]


def folder(text: str, scheme: str) -> Path:
    """The folder that a specification names."""
    path = Path(text).expanduser()
    if not path.is_dir():
        fault = "is a file" if path.exists() else "does not exist"
        raise DiagnosticsError(
            f"{scheme}:{text} {fault}: give the path of a folder after '{scheme}:'.", code="missing-file"
        )
    if utf8_name(path.resolve().name) != path.resolve().name:
        raise DiagnosticsError(f"{scheme}:{utf8_name(text)} has a name that is not UTF-8: rename it.", code="bad-value")
    return path


def file(text: str, scheme: str, suffixes: Collection[str]) -> Path:
    """The file that a specification names."""
    path = Path(text).expanduser()
    refuse_values(
        (
            not path.exists(),
            f"{scheme}:{text} does not exist: give the path of a file after '{scheme}:'.",
            "missing-file",
        ),
        (
            path.is_dir() and not path.suffix,
            f"{scheme}:{text} is a folder: give a file, {', '.join(sorted(suffixes))}; a table may have a row for each "
            f"file of the folder.",
            "missing-file",
        ),
        (
            path.suffix.lower() not in suffixes,
            f"{scheme}:{text} is not one of {', '.join(sorted(suffixes))}: convert it first.",
            "unsupported",
        ),
    )
    if path.suffix.lower() == ".zarr" and path.is_dir():
        check_tree(path)
    else:
        check_regular(path, f"{scheme}:{text}", skip=False)
    return path


def find(root: Path, suffixes: Collection[str], kind: str) -> list[File]:
    """All files with one of these suffixes, ordered by name; hidden ones are passed over. Raises where there is none.

    Where every folder below `root` is named like a split (`train`, `val`, `test`), they are the splits. Whether each is
    a file that can be read is seen when it is read.
    """
    names = sorted(_walk(root, {suffix.lower() for suffix in suffixes}))
    if not names:
        raise DiagnosticsError(
            f"{root} holds no {kind}: put files of {', '.join(sorted(suffixes))} there.", code="missing-file"
        )
    splits = {name.parts[0].lower() if len(name.parts) > 1 else "" for name in names} <= set(SPLIT_OF)
    return [
        File(
            root / name,
            utf8_name(name.as_posix()),
            SPLIT_OF[name.parts[0].lower()] if splits else "",
            tuple(map(utf8_name, name.parts[1:] if splits else name.parts)),
        )
        for name in names
    ]


def classes(files: Sequence[File]) -> list[str] | None:
    """The class of each file, the folder it lies in below root or split; None where there are no such folders."""
    of_file = [file.parts[0] if len(file.parts) > 1 else "" for file in files]
    if not any(of_file):
        return None
    if "" in of_file:
        stray = files[of_file.index("")].name
        raise DiagnosticsError(
            f"{stray} lies beside class folders, so its class is not known: move it into one of them.", code="bad-data"
        )
    return of_file


def safe_name(text: str, where: str) -> PurePosixPath:
    """A name that a table or archive gives for a file, or an error where it could lead out of the folder."""
    name = PurePosixPath(utf8_name(text).replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise DiagnosticsError(
            f"{where} names '{text}', which is no place below its own folder: give names of files, without '..', '/' "
            f"or a drive in front.",
            code="strange-file",
        )
    return name


def read_json(file: Path) -> Any:
    """Read a file in JSON; raises for one that is none."""
    check_regular(file, file.name, skip=False)
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DiagnosticsError(f"{file} is no JSON ({error}): copy it again.", code="unreadable") from error


@contextlib.contextmanager
def parsing(file: Path, form: str) -> Generator[None]:
    """Turn what entries of another form raise within this context into the error for the file."""
    try:
        yield
    # OSError: of names that no file can have.
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, OSError) as error:
        raise DiagnosticsError(
            f"{file} is not in {form} ({type(error).__name__}: {error}): correct it.", code="bad-data"
        ) from error


def _walk(root: Path, suffixes: Collection[str]) -> list[PurePosixPath]:
    names: list[PurePosixPath] = []
    seen: set[str] = set()  # folders that link back to one above would never end
    for where, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = PurePosixPath(Path(where).relative_to(root).as_posix())
        names += [below / name for name in files if not name.startswith(".") and Path(name).suffix.lower() in suffixes]
    return names


# Datasets whose fingerprint is made of their files' bytes.


def pad_left(sample: np.ndarray, length: int) -> np.ndarray:
    """A sample float32 [time, ...] with NaN in front, so that it has `length` steps."""
    return np.concatenate([np.full((length - len(sample), *sample.shape[1:]), np.nan, np.float32), sample])


class FileDataset(Dataset):
    """A dataset of files.

    Parameters
    ----------
    files: id-like name -> file, all whose bytes decide what the samples are.
    options: what else decides it (size, frames), as text.
    left_out: sample -> what is wrong with its file; kept as sentences.
    shards: which of several archives each sample lies in, int [sample]; None where no order of reading is better than
    another.
    scanned: digest of what archives told when they were opened, of each sample its caption and where it lies.
    """

    def __init__(
        self,
        *args: Any,
        files: Mapping[str, Path],
        options: str,
        left_out: Mapping[str, Unusable],
        shards: np.ndarray | None = None,
        scanned: str = "",
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self.files, self.options, self.shards, self.scanned = dict(files), options, shards, scanned
        self.left_out = {name: f"{error.name} {error.why}." for name, error in left_out.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the bytes of all files under their names within the folder.

        Ids, splits, groups, targets and options count too.

        Made when first asked for: every file is read once from end to end and none is decoded.
        """
        digest = self._of_columns()
        if self.modality == "image":  # how the bytes become samples: until then images lay as the camera did
            digest.update(b"upright")
        for name, path in sorted(self.files.items()):
            check_regular(path, name)
            with path.open("rb") as file:
                digest.update(name.encode() + b"\x1f" + hashlib.file_digest(file, "sha256").digest())
        for name, target in sorted(self.targets.items()):
            values = np.ascontiguousarray(target.values)
            facts = (name, target.kind, target.classes, target.units, target.period, values.dtype.str, values.shape)
            digest.update(repr(facts).encode())
            if target.kind == "questions":  # the files' bytes, and by whom they are embedded
                digest.update(target.about.encode())
            elif values.dtype != object:  # maps that are read on demand are the files' bytes
                digest.update(values.data)
        return digest.hexdigest()

    @property
    def outline(self) -> str:
        """Digest of ids, splits, groups, texts and options, and of the sizes of all files, whose bytes are not read.

        By it a training knows terabytes again. It does not see an image that is replaced by another of the same size.
        """
        digest = self._of_columns()
        digest.update(self.scanned.encode())
        for name, path in sorted(self.files.items()):
            check_regular(path, name)
            digest.update(f"{name}\x1f{path.stat().st_size}\x1e".encode())
        return digest.hexdigest()

    def _of_columns(self) -> Any:
        digest = hashlib.sha256(f"{self.modality} {self.rate} {self.ragged} {self.options}\x1e".encode())
        # Texts that are read on demand lie in the files.
        texts = () if isinstance(self.texts, LazySamples) else self.texts
        for column in (self.ids, self.split, self.groups, texts):
            digest.update("\x1f".join(map(str, column)).encode() + b"\x1e")
        return digest

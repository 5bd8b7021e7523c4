"""What lies in a folder: files by suffix in a fixed order, the splits and classes that their folders name."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diagnostics.plugin import SPLIT_OF, DiagnosticsError
from diagnostics_files.errors import check_regular, check_tree, utf8_name

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class File:
    """A file, its name below the given folder, its split (`""` where no folder says one), and `parts` of its name below that."""

    path: Path
    name: str
    split: str
    parts: tuple[str, ...]


def folder(text: str, scheme: str) -> Path:
    """The folder that a specification names."""
    path = Path(text).expanduser()
    if not path.is_dir():
        fault = "is a file" if path.exists() else "does not exist"
        raise DiagnosticsError(f"{scheme}:{text} {fault}: give the path of a folder after '{scheme}:'.")
    if utf8_name(path.resolve().name) != path.resolve().name:
        raise DiagnosticsError(f"{scheme}:{utf8_name(text)} has a name that is not UTF-8: rename it.")
    return path


def file(text: str, scheme: str, suffixes: Collection[str]) -> Path:
    """The file that a specification names."""
    path = Path(text).expanduser()
    if not path.exists():
        raise DiagnosticsError(f"{scheme}:{text} does not exist: give the path of a file after '{scheme}:'.")
    if path.is_dir() and not path.suffix:
        raise DiagnosticsError(
            f"{scheme}:{text} is a folder: give a file, {', '.join(sorted(suffixes))}; a table may have a row for each file of the folder."
        )
    if path.suffix.lower() not in suffixes:
        raise DiagnosticsError(f"{scheme}:{text} is not one of {', '.join(sorted(suffixes))}: convert it first.")
    if path.suffix.lower() == ".zarr" and path.is_dir():
        check_tree(path)
    else:
        check_regular(path, f"{scheme}:{text}", skip=False)
    return path


def find(root: Path, suffixes: Collection[str], kind: str) -> list[File]:
    """All files with one of these suffixes, ordered by name; hidden ones are passed over. Raises where there is none.

    Where every folder below `root` is named like a split (`train`, `val`, `test`), they are the splits. Whether each is a file
    that can be read is seen when it is read.
    """
    names = sorted(_walk(root, {suffix.lower() for suffix in suffixes}))
    if not names:
        raise DiagnosticsError(f"{root} holds no {kind}: put files of {', '.join(sorted(suffixes))} there.")
    tops = {name.parts[0].lower() if len(name.parts) > 1 else "" for name in names}
    splits = tops <= set(SPLIT_OF)
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
            f"{stray} lies beside class folders, so its class is not known: move it into one of them."
        )
    return of_file


def safe_name(text: str, where: str) -> PurePosixPath:
    """A name that a table or archive gives for a file, or an error where it could lead out of the folder."""
    name = PurePosixPath(utf8_name(text).replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise DiagnosticsError(
            f"{where} names '{text}', which is no place below its own folder: give names of files, without '..', '/' or a drive "
            "in front."
        )
    return name


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

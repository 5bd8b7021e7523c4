"""Creates a plugin project from templates: an encoder, a dataset, and passing tests for both."""

import importlib.resources
import importlib.util
import keyword
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from diagnostics.errors import DiagnosticsError

# The name of a distribution: https://packaging.python.org/en/latest/specifications/name-normalization/
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def write_plugin(name: str, out: Path) -> tuple[Path, list[str]]:
    """Writes the project into the folder `out`/`name`; returns that folder and the files in it.

    Raises DiagnosticsError where the name does not suit a distribution and a module, where a module of that name is installed,
    and where the folder exists. The write is atomic, and confined to the folder.
    """
    module = _module(name)
    folder = out / name
    if folder.exists():
        raise DiagnosticsError(f"{folder} is there already: choose another name or another --out.")
    if not out.is_dir():
        raise DiagnosticsError(f"There is no folder {out}: make it first, or choose another --out.")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
        try:
            files = _write(partial, name, module)
            partial.chmod(0o755)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise DiagnosticsError(f"{folder} cannot be written ({error.strerror}): choose another --out.") from error
    return folder, files


def _module(name: str) -> str:
    """The name of the module for a distribution's name."""
    module = re.sub(r"[._-]+", "_", name).lower()
    if not _NAME.fullmatch(name) or not module.isidentifier() or keyword.iskeyword(module):
        raise DiagnosticsError(
            f"{name!r} cannot be the name of a plugin: start with a letter, continue with letters, "
            "digits, '-', '_' or '.', and do not use a keyword of Python."
        )
    if module == "tests" or importlib.util.find_spec(module) is not None:
        raise DiagnosticsError(f"A module {module} is there already, which {name!r} would hide: choose another name.")
    return module


def _write(folder: Path, name: str, module: str) -> list[str]:
    files: list[str] = []
    names = {"name": name, "module": module}
    for template in (importlib.resources.files("diagnostics.cli") / "templates").iterdir():
        # `tests~test_encoder.py.txt` becomes `tests/test_encoder.py`.
        path = Path(*template.name.removesuffix(".txt").replace("module", module).split("~"))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(Template(template.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
        files.append(str(path))
    return sorted(files)

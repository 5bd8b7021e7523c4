"""A file of weights that appears whole or not at all."""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from safetensors import SafetensorError

from diagnostics.errors import StorageError, describe, unwritable


@contextlib.contextmanager
def whole_file(file: Path) -> Generator[Path]:
    """Gives a path of the same suffix to write to, and makes it `file` in one move at the end; after an error nothing is left of it.

    Raises StorageError where it cannot be written, by the system or by the library that writes it.
    """
    # A folder, since safetensors writes to a file of another name first, which a kill leaves.
    partial = file.with_name(f".{file.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        written = partial / file.name
        written.touch()
        mode = written.stat().st_mode
        yield written
        written.chmod(mode)  # safetensors leaves a file that nobody else may read, whatever the umask allows
        written.replace(file)
    except OSError as error:
        raise unwritable(file, error) from error
    except (SafetensorError, RuntimeError) as error:  # the latter is torch's
        raise StorageError(
            f"{file} cannot be written ({describe(error)}): is there free space, and do you have permission to write there?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

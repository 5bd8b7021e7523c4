"""The layer of an encoder to use for a task, and what the output hides.

Everything public is on this page; it is loaded when first used, so that importing `diagnostics` stays cheap.
"""

import importlib

# As `typing` has it, which is not imported: `__main__` has to come before all that a current folder could hold.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"


_homes: "dict[str, dict[str, str]]" = {}


def read_stub(source: str) -> "dict[str, str]":
    """Name -> its module, of what the stub beside a module imports: the one list of its public names."""
    if source not in _homes:
        import ast

        with open(source + "i", encoding="utf-8") as stub:
            imports = [node for node in ast.parse(stub.read()).body if isinstance(node, ast.ImportFrom) and node.module]
        _homes[source] = {name.name: str(node.module) for node in imports for name in node.names if name.name != "*"}
    return _homes[source]


def __getattr__(name: str) -> "Any":
    homes = read_stub(__file__)
    if name == "__all__":
        # `import *` would hide scikit-learn.
        return sorted({*homes, "__version__"} - {"sklearn"})
    if name not in homes:
        raise AttributeError(f"module 'diagnostics' has no attribute {name!r}")
    if name == "sklearn":
        return importlib.import_module("diagnostics.sklearn")
    return getattr(importlib.import_module(homes[name]), name)


def __dir__() -> list[str]:
    return __getattr__("__all__")

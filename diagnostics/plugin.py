"""All that a plugin may import: every name of `diagnostics`, and those that only plugins need.

Loaded when first used. They change only with a note in the changelog; any other module may change without one.
"""

import importlib
from typing import Any

import diagnostics


def __getattr__(name: str) -> Any:
    homes = diagnostics.read_stub(__file__)
    if name == "__all__":
        return sorted({*homes, *dir(diagnostics)})
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    if name in dir(diagnostics):
        return getattr(diagnostics, name)
    raise AttributeError(f"module 'diagnostics.plugin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __getattr__("__all__")

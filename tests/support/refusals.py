"""Errors by their codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from diagnostics.errors import Code, DiagnosticsError


@contextmanager
def refusal(
    code: Code, *named: object, kind: type[DiagnosticsError] = DiagnosticsError
) -> Iterator[pytest.ExceptionInfo[DiagnosticsError]]:
    """The context in which an error of this code must be raised, whose message has each of these names and values."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value.code}: {caught.value}"
    missing = [name for name in named if str(name) not in str(caught.value)]
    assert not missing, f"{missing} are not in: {caught.value}"

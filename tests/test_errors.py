"""Codes of errors: each is declared once, used, and in the docs."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import get_args

import pytest

from diagnostics.activations.folder import StrangeFileError
from diagnostics.encoders.attention.capture import NotFiniteError
from diagnostics.errors import Code, DiagnosticsError
from tests.support.refusals import refusal

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference" / "plugins.md"


def codes_in(source: str) -> set[str]:
    """The texts in arguments `code=`, and in attributes `code` of classes."""
    nodes = list(ast.walk(ast.parse(source)))
    values = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "code"]
    lines = [line for node in nodes if isinstance(node, ast.ClassDef) for line in node.body]
    values += [line.value for line in lines if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "code"]
    values += [line.value for line in lines if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "code"]
    leaves = [leaf for value in values if value is not None for leaf in ast.walk(value)]
    return {leaf.value for leaf in leaves if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}


def test_every_code_is_given_by_an_error_and_no_other() -> None:
    given = {
        code
        for room in ("diagnostics", "plugins")
        for path in (ROOT / room).rglob("*.py")
        for code in codes_in(path.read_text(encoding="utf-8"))
    }
    assert given == set(get_args(Code))


def test_every_error_that_is_made_here_has_a_code() -> None:
    calls = [
        (path, node)
        for room in ("diagnostics", "plugins")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("DiagnosticsError", "StorageError")
    ]
    assert len(calls) > 500
    without = [(path.name, n.lineno) for path, n in calls if "code" not in {keyword.arg for keyword in n.keywords}]
    assert without == []


@pytest.mark.skipif(not REFERENCE.is_file(), reason="tests run without the docs beside them")
def test_the_reference_has_a_line_for_every_code() -> None:
    section = REFERENCE.read_text(encoding="utf-8").split("\n### Codes\n")[1]
    assert re.findall(r"^\| `([a-z-]+)` \| .", section, re.M) == list(get_args(Code))


@pytest.mark.parametrize(
    "error",
    [DiagnosticsError("It is full.", code="no-space"), StrangeFileError(Path("run")), NotFiniteError("It is.", 3)],
)
def test_a_copy_is_the_same(error: DiagnosticsError) -> None:
    """Made as in another process."""
    other = copy.copy(error)
    assert type(other) is type(error)
    assert vars(other) == vars(error)
    assert str(other) == str(error)


def test_a_refusal_for_another_reason_or_of_another_name_fails() -> None:
    for code, name in (("damaged", "embed"), ("no-grid", "norm")):
        with pytest.raises(AssertionError), refusal(code, name):
            raise DiagnosticsError("Tap embed has none.", code="no-grid")

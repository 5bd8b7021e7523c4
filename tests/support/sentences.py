"""How many tests compare a sentence; `python tests/support/sentences.py` ends with 1 if more do than may."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MOST = 361
"""Of 2,647 test functions, those that compare a sentence. Lower it with what no longer does, and never raise it: a test compares a
code, a verdict or a class, and a sentence is asserted once, where it is raised."""


def count() -> int:
    functions = [
        node
        for path in sorted(Path(__file__).parent.parent.rglob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return sum(map(compares_a_sentence, functions))


def compares_a_sentence(function: ast.FunctionDef) -> bool:
    """Test for `match=`, or a comparison with a text of four words or more."""
    return any(
        (isinstance(node, ast.keyword) and node.arg == "match")
        or (isinstance(node, ast.Compare) and any(map(is_sentence, (node.left, *node.comparators))))
        for node in ast.walk(function)
    )


def is_sentence(node: ast.expr) -> bool:
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return any(map(is_sentence, node.elts))
    texts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return len(" ".join(str(text.value) for text in texts if isinstance(text, ast.Constant)).split()) >= 4


if __name__ == "__main__":
    if (now := count()) > MOST:
        sys.exit(f"{now} tests compare a sentence, and {MOST} may: compare error.code, as tests.support.refusals does.")

"""How functions are named and docstrings open; `python tests/support/naming_shares.py` ends with 1 if it is worse than may.

A function is named by a verb or, where it gives a thing, by a noun; no public one by a participle. A docstring opens with an
imperative sentence or a noun phrase: ruff's D401 knows which verbs are in the third person, and takes articles and plurals for
those too, so that it is asked here and its mistakes are left out.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = {"named by a participle": 0.05, "opened by a clause": 0.0}
"""Shares of functions, and of docstrings. Lower them with what falls, and never raise them."""
PARTICIPLE = re.compile(r"_?[a-z]{2,}(?:ed|wn|en|ught|ound|ade|old)(?:_\w+)?")
NO_PARTICIPLE = re.compile(
    r"_?(?:need|feed|seed|speed|token|open|children|hidden|embed|between|screen|fold|hold|bound|round|threshold|shed|own)(?:_\w+)?"
)
CLAUSE = re.compile(r"(?:What|Whether|How|Why|Where|When|Who|Whose|Which)\b")
THIRD_PERSON = re.compile(r'First line of docstring should be in imperative mood: "([A-Z][a-z]+s)\b(?! of\b)')
PLURAL = re.compile(
    "Archives|Changes|Counts|Encoders|Ends|Extractions|Findings|Groups|Indices|Lists|Maps|Matches|Notes|Outputs|Processes|Readings"
    "|Samples|Settings|Steps|Sums|Tests|This|Times|Views"
)
EXPORTED = re.compile(r"^from [\w.]+ import \w+ as (\w+)$", re.MULTILINE)


def is_participle(name: str) -> bool:
    return bool(PARTICIPLE.fullmatch(name)) and not NO_PARTICIPLE.fullmatch(name)


def nodes() -> Iterator[ast.AST]:
    """All of the package and its plugins."""
    for room in ("diagnostics", "plugins"):
        for path in sorted((ROOT / room).rglob("*.py")):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def shares() -> dict[str, float]:
    """The shares that `MOST` limits."""
    named, texts = list[bool](), list[str]()
    for node in nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named.append(is_participle(node.name))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            texts += [text] if (text := ast.get_docstring(node)) else []
    counts = (named, [bool(CLAUSE.match(text)) for text in texts])
    return {name: sum(count) / len(count) for name, count in zip(MOST, counts, strict=True)}


def public_participles() -> list[str]:
    """Public functions that are named by a participle."""
    stubs = [(ROOT / "diagnostics" / name).read_text(encoding="utf-8") for name in ("__init__.pyi", "plugin.pyi")]
    return [name for stub in stubs for name in EXPORTED.findall(stub) if is_participle(name)]


def third_persons() -> list[str]:
    """Docstrings that open with a verb in the third person, as FILE:LINE."""
    asked = [sys.executable, "-m", "ruff", "check", "--select", "D401", "--exit-zero", "--output-format", "json"]
    told = json.loads(subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    opened = [(each, found[1]) for each in told if (found := THIRD_PERSON.match(each["message"]))]
    return [f"{each['filename']}:{each['location']['row']}" for each, word in opened if not PLURAL.fullmatch(word)]


if __name__ == "__main__":
    worse = [
        f"{share:.1%} are {name}, and {MOST[name]:.1%} may be" for name, share in shares().items() if share > MOST[name]
    ]
    public = (f"{name} is public, and a participle" for name in public_participles())
    if found := [*worse, *public, *(f"{place} opens with a verb in the third person" for place in third_persons())]:
        sys.exit("; ".join(found))

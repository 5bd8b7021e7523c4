"""How many one-line mutations of statistics, choice, verdict and comparison `diagnostics selftest` notices, and how many the tests.

    python benchmarks/mutations.py [--seed N] [--draws N] [--tests] [--smallest]

All mutations of `FILES` are enumerated, `--draws` of them are drawn by the seed, and each is made in a temporary copy of the package.
`--tests` also runs the nearest test files for those that selftest misses. A mutation turns

- a sum into a difference and back, or takes a minus away;
- an index 0 into -1, another integer n into n + 1 (1 into 0), another number x into 0.9 x (0 into 0.1), True into False;
- a comparison round (< into >, == into !=), or, where an integer stands on a side, its border (< into <=);
- `min` into `max`, `low` into `high`, `train`, `val` and `test` into one another, wherever these are names, attributes or keys.

Left out by rule, since they cannot change a number or a finding: annotations, docstrings, decorators and imports; words (f-strings,
what is raised, `format`, sums of text, and methods that print or draw, `WORDS`); checks (`strict=`, `assert`); layout of memory
(powers of 2, what `MEMORY` names, `dtype`); rounding (numbers below 1e-5 and what they are multiplied by); what only a GPU runs (tests
of `is_cuda`); and which of several is taken that are refused unless they agree (`AGREEING`).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
NEAREST = {
    "measures/statistics.py": "tests/measures/test_statistics.py",
    "measures/tap_choice.py": "tests/measures/test_tap_choice.py tests/measures/test_confidence_set.py tests/measures/test_statistics.py",
    "measures/verdict.py": "tests/measures/test_tap_choice.py tests/measures/test_statistics.py tests/runs/test_verdict.py",
    "measures/apply.py": "tests/measures/test_tap_choice.py tests/measures/test_misfits.py tests/runs/test_verdict.py",
    "measures/result.py": "tests/measures/test_result.py tests/measures/test_tap_choice.py",
    "measures/probes/out_of_fold.py": "tests/measures/test_out_of_fold.py",
    "measures/probes/softmax.py": "tests/measures/test_out_of_fold.py tests/measures/test_probes.py",
    "runs/results/profile.py": "tests/runs/test_verdict.py tests/runs/test_runs.py tests/runs/test_overview.py",
    "runs/results/recommendation.py": "tests/runs/test_recommendation.py tests/runs/test_verdict.py",
    "runs/results/redraws.py": "tests/runs/test_redraws.py",
    "runs/comparison/differences.py": "tests/runs/test_comparison.py",
    "runs/comparison/estimates.py": "tests/runs/test_comparison.py",
}
"""The files of statistics, choice, verdict and comparison, each with the tests nearest to it."""
FILES = tuple(NEAREST)
WITHIN = {
    "measures/probes/softmax.py": {
        "choose_logistic", "OutOfFold", "choose_out_of_fold", "start_of_last", "last_fits", "_of_taps", "_path", "_best",
    },
}  # fmt: skip
"""Of files that hold solvers beside the choice, the functions and classes of the choice."""

SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add}
TURNED = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
BORDERS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
SWAPS = {
    "min": "max",
    "minimum": "maximum",
    "argmin": "argmax",
    "nanargmin": "nanargmax",
    "low": "high",
    "train": "val",
    "val": "test",
    "test": "val",
}
SWAPS |= {new: old for old, new in SWAPS.items() if new not in SWAPS}
WORDS = {
    "__str__",
    "__repr__",
    "_repr_html_",
    "to_json",
    "figure",
    "plot",
    "_control_curve",
    "format",
    "line",
    "mark",
    "meaning",
}
MEMORY = {"maxsize", "_BLOCK", "step"}
AGREEING = {"runs", "known", "profiles", "results"}
ROUNDING = 1e-5


@dataclass(frozen=True)
class Mutation:
    """One changed place: a file below `diagnostics/`, the number of the change in it, its line, and what stands there then."""

    file: str
    number: int
    line: int
    what: str

    @property
    def source(self) -> str:
        """The whole file with it."""
        tree = _tree(self.file)
        for number, _ in enumerate(_changes(tree, self.file)):
            if number == self.number:
                return ast.unparse(tree)
        raise IndexError(self.number)


def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / "diagnostics" / file).read_text())


def mutations(file: str) -> list[Mutation]:
    """All of a file, in the order in which they stand."""
    return [Mutation(file, number, *change) for number, change in enumerate(_changes(_tree(file), file))]


def _changes(tree: ast.Module, file: str) -> Iterator[tuple[int, str]]:
    """Line and text of each changed place, while the tree is changed there."""
    counts = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and type(node.value.value) is int
        for target in node.targets
        if isinstance(target, ast.Name)
    } | {"FEWEST", "FEW"}
    names = WITHIN.get(file)
    parts = [tree] if names is None else [part for part in tree.body if getattr(part, "name", "") in names]
    for node, field, at in [place for part in parts for place in _places(part)]:
        value = getattr(node, field)
        old = value if at is None else value[at]
        for new in _changed(old, node, field, counts):
            _put(node, field, at, new)
            shown = node if isinstance(node, ast.expr) or not isinstance(new, ast.expr) else new
            yield getattr(old, "lineno", getattr(node, "lineno", 0)), ast.unparse(shown)[:160]
            _put(node, field, at, old)


def _put(node: ast.AST, field: str, at: int | None, value: object) -> None:
    if at is None:
        setattr(node, field, value)
    else:
        getattr(node, field)[at] = value


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """(node, field, place in its list) of all that may change, in order."""
    for field, value in ast.iter_fields(node):
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if _without_effect(node, field, child):
                continue
            yield node, field, at
            if isinstance(child, ast.AST):
                yield from _places(child)


def _without_effect(node: ast.AST, field: str, child: object) -> bool:
    """Test for what the rules leave out."""
    if field in ("annotation", "returns", "decorator_list", "ctx", "type_params"):
        return True
    if isinstance(child, (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom, ast.Assert)):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True  # a docstring
    if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and child.name in WORDS:
        return True
    if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
        return True
    if isinstance(child, ast.keyword) and (child.arg in {"strict", "dtype"} | MEMORY):
        return True
    if isinstance(child, ast.Call) and getattr(child.func, "id", "").startswith(("format_", "cast")):
        return True
    if isinstance(child, (ast.Assign, ast.AnnAssign)):
        targets = child.targets if isinstance(child, ast.Assign) else [child.target]
        if any(isinstance(target, ast.Name) and target.id in MEMORY for target in targets):
            return True
    if isinstance(child, (ast.If, ast.IfExp, ast.BoolOp)) and "is_cuda" in ast.unparse(getattr(child, "test", child)):
        return isinstance(child, ast.BoolOp)
    if field == "slice" and isinstance(node, ast.Subscript) and getattr(node.value, "id", "") in AGREEING:
        return isinstance(child, ast.Constant)
    if isinstance(child, ast.BinOp):
        power = (
            isinstance(child.op, ast.Pow)
            and isinstance(child.left, ast.Constant)
            and isinstance(child.right, ast.Constant)
        )
        rounds = (
            isinstance(child.left, ast.Constant)
            and isinstance(child.left.value, float)
            and 0 < child.left.value < ROUNDING
        )
        return power or rounds or any(_is_text(side) for side in (child.left, child.right))
    return False


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _changed(old: object, parent: ast.AST, field: str, counts: set[str]) -> Iterator[object]:
    """What may stand there instead."""
    if isinstance(old, ast.operator) and type(old) in SIGNS:
        yield SIGNS[type(old)]()
    elif isinstance(old, ast.cmpop):
        if type(old) in TURNED:
            yield TURNED[type(old)]()
        sides = (parent.left, *parent.comparators) if isinstance(parent, ast.Compare) else ()
        if type(old) in BORDERS and any(_is_count(side, counts) for side in sides):
            yield BORDERS[type(old)]()
    elif isinstance(old, ast.UnaryOp) and isinstance(old.op, ast.USub):
        yield old.operand
    elif isinstance(old, ast.Constant):
        yield from _other_constant(old, parent, field)
    elif isinstance(old, str) and old in SWAPS and field in ("id", "attr", "arg"):
        yield SWAPS[old]


def _is_count(node: ast.expr, counts: set[str]) -> bool:
    return (isinstance(node, ast.Constant) and type(node.value) is int) or (
        isinstance(node, ast.Name) and node.id in counts
    )


def _other_constant(old: ast.Constant, parent: ast.AST, field: str) -> Iterator[ast.Constant]:
    value = old.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        index = isinstance(parent, ast.Subscript) and field == "slice"
        yield ast.Constant(-1 if index and value == 0 else 0 if value == 1 else value + 1)
    elif isinstance(value, float) and (value == 0 or abs(value) >= ROUNDING):
        yield ast.Constant(0.9 * value if value else 0.1)
    elif isinstance(value, str) and value in SWAPS:
        yield ast.Constant(SWAPS[value])


def every_mutation() -> list[Mutation]:
    """Of all files."""
    return [mutation for file in FILES for mutation in mutations(file)]


def noticed_by_selftest(copied: Path, families: str) -> tuple[bool, str]:
    """Test for an answer that is off in a copy of the package; and the first such case, or why it does not run.

    In a copy of this process, which has imported all libraries and nothing of the package.
    """
    answer = in_a_copy(lambda: selftest(copied, families))
    return answer != "", answer


def selftest(copied: Path, families: str) -> str:
    """What `diagnostics selftest` computes, until one answer is off; those that are nearest first."""
    sys.path.insert(0, str(copied))
    try:
        import diagnostics
        from diagnostics.checks.selftest import all_cases, check
        from diagnostics.measures.threads import one_thread

        assert Path(diagnostics.__file__).is_relative_to(copied)
        first = ("answer",)
        with one_thread():
            for family, case in sorted(all_cases(), key=lambda asked: asked[0] not in first):
                if (family in first or families == "all") and not check(family, case).right:
                    return f"{family}: {case.what}"
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def in_a_copy(work: Callable[[], str]) -> str:
    """What `work` returns in a fork of this process."""
    receive, send = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.write(send, work().encode()[:60_000])
            status = 0
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        said = answer.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"ends with {status}"


def import_libraries(copied: Path) -> None:
    """Import all that selftest imports, but the package itself."""

    def needed() -> str:
        off = selftest(copied, "all")
        return f"! {off}" if off else " ".join(name for name in sys.modules if not name.startswith("diagnostics"))

    names = in_a_copy(needed).split()
    if names[:1] == ["!"]:
        sys.exit(f"selftest is off without a mutation: {' '.join(names[1:])}")
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def noticed_by_tests(copied: Path, file: str) -> bool:
    """Test for a failure among the tests nearest to a file."""
    shutil.copytree(ROOT / "tests", copied / "tests", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", copied)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *NEAREST[file].split()]
    done = subprocess.run(command, cwd=copied, env=_environment(copied), capture_output=True, text=True, check=False)
    return done.returncode == 1


def _environment(copied: Path) -> dict[str, str]:
    """In which the copy is imported and not the package that is installed, and leaves no bytecode."""
    return {**os.environ, "PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Draws, makes and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--smallest", action="store_true")
    asked = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ["OMP_NUM_THREADS"] = "1"
    everything = every_mutation()
    drawn = np.random.default_rng(asked.seed).permutation(len(everything))[: 1 if asked.smallest else asked.draws]
    print(f"{len(everything)} mutations in {len(FILES)} files; {len(drawn)} drawn by seed {asked.seed}")
    counts = {"selftest": 0, "tests": 0}
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        shutil.copytree(ROOT / "diagnostics", copied / "diagnostics", ignore=shutil.ignore_patterns("__pycache__"))
        if not asked.smallest:
            import_libraries(copied)
        for index in drawn:
            mutation = everything[index]
            place = copied / "diagnostics" / mutation.file
            place.write_text(mutation.source)
            seen, why = noticed_by_selftest(copied, "nearest" if asked.smallest else "all")
            tested = (
                "" if seen or not asked.tests else "tests" if noticed_by_tests(copied, mutation.file) else "nothing"
            )
            counts["selftest"] += seen
            counts["tests"] += tested == "tests"
            by = f"selftest ({why})" if seen else tested or "not selftest"
            print(f"{mutation.file}:{mutation.line}: {mutation.what}\n    noticed by {by}", flush=True)
            shutil.copy(ROOT / "diagnostics" / mutation.file, place)
    also = f", and the nearest tests {counts['tests']} of the others" if asked.tests else ""
    print(f"selftest notices {counts['selftest']} of {len(drawn)}{also}")
    sys.exit(not asked.smallest and counts["selftest"] < 0.9 * len(drawn))


if __name__ == "__main__":
    main()

"""Whether two checkouts offer the same and find the same: `python benchmarks/unchanged.py BEFORE AFTER` [--smallest].

Of each it reads the help of every command, `list --json`, and the JSON of three small runs, of a comparison, and of trainings
and alignments of a few steps, on the same seed and one thread, in copies of a process that has imported the checkout (tests/support/warm.py):
about 4 minutes of a core a checkout. A command, option or key that is gone or of another kind, and any number that differs in its last digit,
is printed, and the status is 1. What is new, and sentences that say the same numbers in other words, are printed and pass.
`--smallest` compares this checkout with itself, by the help of one command and by `list --json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support import warm

RUNS = {
    "series": ("fracast", "lorenz?n=40"),
    "trained": ("objectives:lorenz-jepa", "lorenz?n=40"),
    "images": ("timm:vit_tiny_patch16_224?pretrained=false&img_size=64", "shapes?n=40&size=64"),
}
COMPARED = ("series", "trained")
SERIES, SCENES = "lorenz?n=40&seed=3&length=64", "shapes?n=40&seed=3&size=32"
FEW_STEPS = ("--steps", "3", "--batch", "4")
TRAININGS: tuple[tuple[str, ...], ...] = (
    ("train", "objectives", "--data", SERIES, "--width", "16", "--depth", "2", "--heads", "2", "--out", "objectives", *FEW_STEPS),
    ("train", "pe", "--data", SCENES, "--size", "nano", "--recipe", "8", "--samples", "64", "--batch", "8", "--out", "pair"),
    (
        "align", "tap", "--encoder", "objectives/jepa", "--to", "blocks.0", "--data", SERIES, "--teacher", "objectives/forecast", "--keep",
        "0.5", "--mask", "0.2", "--drop-path", "0.1", "--layer-scale", "0.5", "--out", "tap", *FEW_STEPS,
    ),
    ("align", "spatial", "--encoder", "./pair", "--to", "blocks.1", "--relations", "masks", "--data", SCENES, "--out", "spatial", *FEW_STEPS),
    ("align", "language", "--encoder", "./pair", "--lm", "tiny", "--train-lm", "--data", SCENES, "--out", "language", *FEW_STEPS),
    ("zeroshot", "./pair", "--data", SCENES, "--for", "shape"),
)  # fmt: skip
"""One after the other, since each takes an encoder of those before it."""
TIMES = re.compile(r'"seconds": [\d.e-]+')
SMALLEST = "--smallest" in sys.argv
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


@contextlib.contextmanager
def starting(environment: Mapping[str, str]) -> Iterator[None]:
    """Processes that begin meanwhile have this environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Checkout:
    """The command line of a checkout, in a folder of its own."""

    def __init__(self, path: str, folder: Path) -> None:
        self.path, self.folder = Path(path).resolve(), folder
        if not (self.path / "diagnostics" / "__init__.py").is_file():
            sys.exit(f"{path} is no checkout: it holds no package diagnostics.")
        paths = os.pathsep.join(map(str, (self.path, self.path / "plugins")))
        self.environment = os.environ | {
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "10000",
            "TERM": "dumb",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        with starting(self.environment):
            self.server = warm.begin(folder)
            self.python = next(self.server)
        origin = self._python("-c", "import diagnostics; print(diagnostics.__file__)").strip()
        assert Path(origin).is_relative_to(self.path), f"{origin} is not in {self.path}"

    def says(self, *args: str) -> str:
        """What `diagnostics ARGS` prints."""
        return self._python("-m", "diagnostics", *args)

    def _python(self, *args: str) -> str:
        done = subprocess.run(
            [self.python, *args], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{self.path}: {' '.join(args)} ended with status {done.returncode}.\n{done.stderr}")
        return done.stdout

    def findings(self) -> dict[str, Any]:
        """Everything that is compared, by name."""
        if SMALLEST:
            return {"commands": dict(self._help("show")), "list --json": json.loads(self.says("list", "--json"))}
        findings: dict[str, Any] = {
            "commands": dict(self._help()),
            "list --json": json.loads(self.says("list", "--json")),
        }
        for name, (encoder, dataset) in RUNS.items():
            print(f"{self.path}: run {encoder} --data {dataset}", file=sys.stderr)
            findings[f"run {name}"] = json.loads(self.says("run", encoder, "--data", dataset, "--out", name, "--json"))
        findings["compare"] = json.loads(self.says("compare", *COMPARED, "--json"))
        for words in TRAININGS:
            name = " ".join(words[:2])
            print(f"{self.path}: {name}", file=sys.stderr)
            findings[name] = json.loads(TIMES.sub('"seconds": 0', self.says(*words, "--json")))
        return findings

    def _help(self, *command: str) -> Iterator[tuple[str, Any]]:
        """Of a command and of those below it: its options with their types and words, and its text."""
        text, _, _ = self.says(*command, "--help").partition("\n  Example:\n")
        about, *sections = re.split(r"^(\w.*):$", text, flags=re.M)
        parts = list(zip(sections[::2], sections[1::2], strict=True))
        rows = {row: words for key, part in parts if not key.startswith("Commands") for row, words in _rows(part)}
        yield " ".join(("diagnostics", *command)), {"text": about, "options": rows}
        # What is further in goes on from the line above.
        for name in (
            name for key, part in parts if key.startswith("Commands") for name in re.findall(r"^ {2}(\S+)", part, re.M)
        ):
            yield from self._help(*command, name)


def _rows(section: str) -> list[tuple[str, str]]:
    """(what stands first, its words) of every line of a section of a help."""
    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in section.splitlines() if line.strip()]
    return [(row[0], row[1] if len(row) > 1 else "") for row in rows]


def differences(before: Any, after: Any, where: str = "") -> Iterator[tuple[bool, str]]:
    """(whether it matters, what differs) of two values of JSON."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            at = f"{where} / {key}"
            if key not in after:
                yield True, f"{at} is gone"
            elif key not in before:
                yield False, f"{at} is new"
            else:
                yield from differences(before[key], after[key], at)
    elif isinstance(before, list) and isinstance(after, list):
        names = _named(before), _named(after)
        if names[0] is not None and names[1] is not None and names[0].keys() != names[1].keys():
            yield from differences(*names, where)
            return
        if len(before) != len(after):
            yield True, f"{where} has {len(after)} items in place of {len(before)}"
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from differences(one, other, f"{where} / {index}")
    elif isinstance(before, str) and isinstance(after, str) and before != after:
        # A sentence may be put in other words, as long as it says the same numbers.
        sentence = " " in before.strip() and NUMBER.findall(before) == NUMBER.findall(after)
        yield not sentence, f"{where}: {'in other words, ' if sentence else ''}{before!r} -> {after!r}"
    elif type(before) is not type(after) or repr(before) != repr(after):
        yield True, f"{where}: {before!r} -> {after!r}"


def _named(items: list[Any]) -> dict[str, Any] | None:
    """By name, where each has one of its own, so that after one that is gone not all the others are another."""
    names = [item if isinstance(item, str) else item.get("name") if isinstance(item, dict) else None for item in items]
    return dict(zip(names, items, strict=True)) if None not in names and len(set(names)) == len(names) else None


def main() -> int:
    """Both checkouts side by side; 1 where something is gone or another."""
    paths = [str(Path(__file__).parents[1])] * 2 if SMALLEST else sys.argv[1:]
    if len(paths) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, side) for side in ("before", "after")]
        for folder in folders:
            folder.mkdir()
        sides = [Checkout(path, folder) for path, folder in zip(paths, folders, strict=True)]
        with ThreadPoolExecutor(2) as pool:
            before, after = pool.map(Checkout.findings, sides)
    rows = sorted(differences(before, after), key=lambda row: (row[0], row[1]))
    for matters, row in rows:
        print("DIFFERS " if matters else "        ", row.removeprefix(" / "))
    wrong = sum(matters for matters, _ in rows)
    counts = [sum(1 for _ in _leaves(findings)) for findings in (before, after)]
    print(
        f"{wrong} of {counts[0]} values are gone or another, {len(rows) - wrong} new or in other words ({counts[1]} after)"
    )
    return 1 if wrong else 0


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


if __name__ == "__main__":
    sys.exit(main())

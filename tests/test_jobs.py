"""Commands that are made from jobs: one declaration of each option."""

from __future__ import annotations

import ast
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

import diagnostics as dx
from diagnostics.options import Option, deciding, options, options_of
from diagnostics.runs import job
from diagnostics.runs import options as of_run

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parent.parent
NEEDS_DOCS = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="tests run without the docs beside them")

Steps = Annotated[int, Option("Training steps.", "N", group="Training")]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all jobs have."""

    model: Annotated[str | nn.Module, Option("What is trained.", "MODEL", argument=True)]
    steps: Steps = 1000
    device: Annotated[str | None, Option("cpu, cuda, ...", "NAME", decides=False)] = None


@dataclass(frozen=True, kw_only=True)
class Mine(Shared):
    """A job with its own default of a shared option, and one field for Python alone."""

    target: Annotated[str, Option("What is learned.", "TARGET", ("--for", "-f"))]
    steps: Steps = 7
    out: Annotated[str | Path | None, Option("Folder.")] = None
    taps: Annotated[str | Sequence[str] | None, Option("Taps.")] = None
    kind: Annotated[Literal["one", "other"], Option("Which kind.", "one|other")] = "one"
    teacher: Annotated[tuple[str, ...], Option("Teachers; repeatable.")] = ()
    control: Annotated[bool, Option("Train a control.")] = True
    watch_every: Annotated[int | None, Option("Look every N steps.", decides=False)] = None
    workers: Annotated[int, Option(decides=False)] = 0
    mean: float = 0.5


def typed(*line: str) -> tuple[int, str, list[Any]]:
    app, seen = typer.Typer(rich_markup_mode=None), list[Any]()

    @app.command()
    @options_of(Mine)
    def learn(job: Mine, json: Annotated[bool, Option("Print JSON.", names=("--json",))] = False) -> None:
        """Learn something."""
        seen.extend([job, json])

    done = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    return done.exit_code, done.output, seen


def test_a_command_has_the_fields_of_its_job_and_hands_the_job_over() -> None:
    assert typed("m.py:build", "--for", "label") == (0, "", [Mine(model="m.py:build", target="label"), False])
    more = "--steps 3 --out there --taps a,b --teacher one --teacher two --no-control --watch-every 5 --json"
    status, _, (job, json) = typed("m", "-f", "label", *more.split())
    assert not status
    assert json
    assert job == Mine(
        model="m",
        target="label",
        steps=3,
        out="there",
        taps="a,b",
        teacher=("one", "two"),
        control=False,
        watch_every=5,
    )


def test_the_help_shows_what_the_fields_declare() -> None:
    status, text, _ = typed("--help")
    assert not status
    rows = {" ".join(line.split()) for line in text.splitlines()}
    assert "Learn something." in rows
    for row in (
        "--steps N Training steps. [default: 7]",
        "-f, --for TARGET What is learned. [required]",
        "--kind one|other Which kind. [default: one]",
        "--control / --no-control Train a control. [default: control]",
        "--json Print JSON.",
    ):
        assert row in rows, text
    assert "mean" not in text
    assert "workers" not in text


def test_what_does_not_decide_stands_in_no_identity() -> None:
    assert deciding(Mine) == ["model", "steps", "target", "out", "taps", "kind", "teacher", "control", "mean"]
    assert [option.flag for option in options(Mine).values()][:4] == ["", "--steps", "--device", "--for"]


def test_run_has_the_parameters_of_its_request() -> None:
    """Names, types and defaults as they are written, and a row of the docstring for each."""
    (function,) = [node for node in parsed(job) if isinstance(node, ast.FunctionDef) and node.name == "run"]
    (declared,) = [node for node in parsed(of_run) if isinstance(node, ast.ClassDef) and node.name == "Request"]
    given = [*function.args.args, *function.args.kwonlyargs]
    defaults = [None] * len(function.args.args) + function.args.kw_defaults
    signature = {
        each.arg: (ast.unparse(each.annotation or each), default and ast.unparse(default))
        for each, default in zip(given, defaults, strict=True)
    }
    assert signature.pop("watch") == ("Watch | None", "None")
    assert signature.pop("executor") == ("Submits | None", "None")
    rows = [node for node in declared.body if isinstance(node, ast.AnnAssign)]
    assert signature == {
        ast.unparse(row.target): (written(row.annotation), row.value and ast.unparse(row.value)) for row in rows
    }
    documented = re.findall(r"^    (\w[\w, ]*): ", (dx.run.__doc__ or "").split("------")[1], re.M)
    assert {name for names in documented for name in names.split(", ")} == {*signature, "watch", "executor"}


NOTED = """
import json
from pathlib import Path

import diagnostics as dx
from tests.support.tiny import tiny_dataset, tiny_encoder

assert Path(dx.__file__).parent.parent == Path.cwd()
encoder, data = tiny_encoder(), tiny_dataset(24)
run = dx.run(encoder, data, out="noted", measures="rankme", controls=False, report=False, note="of mine")
print(run.calls[-1].options["note"])
"""


@pytest.mark.slow
@NEEDS_DOCS
def test_an_option_of_run_is_added_as_contributing_says(tmp_path: Path) -> None:
    def insert(path: str, behind: str, text: str) -> None:
        file = tmp_path / path
        before, found, after = file.read_text(encoding="utf-8").partition(behind)
        assert found, behind
        file.write_text(before + found + text + after, encoding="utf-8")

    def python(*args: str) -> str:
        paths = [str(tmp_path), str(ROOT / "plugins"), str(ROOT / "tests" / "support")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert not done.returncode, done.stdout + done.stderr
        return done.stdout

    shutil.copytree(ROOT / "diagnostics", tmp_path / "diagnostics", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("docs/cli.py", "docs/reference/cli.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    field = '    note: Annotated[str | None, Option("A note that is kept with this call.", "TEXT", group=HOW)] = None\n'
    insert("diagnostics/runs/options.py", '"Seed of the controls and the bootstrap.", "N", group=HOW)] = 0\n', field)
    insert("diagnostics/runs/job.py", "    seed: int = 0,\n", "    note: str | None = None,\n")
    insert(
        "diagnostics/runs/job.py",
        "    trust_code: whether",
        " a Python file is run.\n    note: kept with this call; whether",
    )
    insert("diagnostics/runs/job.py", '"choose_on": setup.choose_on', ', "note": request.note')
    assert python("-c", NOTED) == "of mine\n"
    assert "--note TEXT" in python("-m", "diagnostics", "run", "--help")
    python("docs/cli.py")
    written_page = (tmp_path / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert "### `--note TEXT`\n\nA note that is kept with this call.\n" in written_page
    python("-c", "from tests import test_jobs; test_jobs.test_run_has_the_parameters_of_its_request()")


@NEEDS_DOCS
def test_every_option_has_a_section_in_the_reference() -> None:
    page = ROOT / "docs" / "reference" / "cli.md"
    text = page.read_text(encoding="utf-8")
    corrected = runpy.run_path(str(ROOT / "docs" / "cli.py"))["corrected"]
    assert corrected(text) == text
    lost = re.sub(r"^### `--seed N`.*?(?=^### )", "", text, count=1, flags=re.M | re.S)
    assert "Seed of the controls and the bootstrap." in corrected(lost)
    assert corrected(text.replace("### `--seed N`", "### `--sort N`", 1)) != text


def parsed(module: Any) -> list[ast.stmt]:
    return ast.parse(inspect.getsource(module)).body


def written(annotation: ast.expr) -> str:
    """The type of a field, without its `Option`; aliases of both as they are resolved."""
    if isinstance(annotation, ast.Name) and (alias := getattr(of_run, annotation.id, None)) is not None:
        return alias.__origin__.__name__
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        return ast.unparse(annotation.slice.elts[0])
    return ast.unparse(annotation)

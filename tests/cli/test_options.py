"""Options around every command: a configuration file, quiet and verbose, help by groups, completion, and a light start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import diagnostics as dx
from diagnostics.cli.main import app
from tests.support.commands import diagnose, refused

MINE = """
import warnings
from tests.support.tiny import tiny_dataset, tiny_encoder


def build(): return tiny_encoder()
def data(n: int = 24): return tiny_dataset(n)


def warning():
    warnings.warn("an old spelling", FutureWarning)
    return tiny_encoder()
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the command is given in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return tmp_path


CONFIG = """# of mine
encoder = "mine.py:build"
data = "mine.py:data?n=30"

measures = ["rankme", "participation_ratio"]
batch-size = 5
controls = false
out = "runs/there"
"""


def configured(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_options_and_the_command_line_wins(mine: Path) -> None:
    path = configured(mine, CONFIG)
    result = json.loads(diagnose("run", "--config", path, "--json", "--batch-size", 6).out)
    assert (result["run"], sum(result["n"].values()), result["controls"]) == ("runs/there", 30, {})
    assert {profile["measure"] for profile in result["profiles"]} == {"rankme", "participation_ratio"}
    (call,) = dx.open_run("runs/there").calls
    assert call.options["batch_size"] == 6
    assert call.command == f"diagnostics run --config {path} --json --batch-size 6"
    assert call.config["measures"] == ["rankme", "participation_ratio"]
    assert call.seconds is not None
    assert call.seconds > 0
    report = (mine / "runs" / "there" / "report.html").read_text(encoding="utf-8")
    assert call.command in report
    assert "batch-size = 5" in report
    # A call from Python was not typed.
    dx.run("mine.py:build", "mine.py:data?n=30", out="runs/there", measures="rankme", controls=False, report=False)
    assert [bool(call.command) for call in dx.open_run("runs/there").calls] == [True, False]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "bach-size = 5\n# a remark\nsed = 3\nzonk = 1",
            "{path} has options that this command does not have: 'bach-size' in line 9 (did you mean batch-size?), "
            "'sed' in line 11 (did you mean seed?), 'zonk' in line 12. Correct",
        ),
        ("config = 'other.toml'", "{path} has options that this command does not have: 'config' in line 9"),
        ("[taps]\nnames = 1", "Option taps in line 9 of {path} is a text or a number or a list of names, not dict."),
        ("fresh = 'no'", "Option fresh in line 9 of {path} is true or false, not 'no'."),
        ("seed = [1]", "Option seed in line 9 of {path} is a text or a number, not list."),
        ("workers 2", "{path} is not valid TOML ("),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(mine: Path, line: str, sentence: str) -> None:
    path = configured(mine, f"{CONFIG}{line}\n")
    assert refused("run", "--config", path).startswith(sentence.format(path=path))
    assert not (mine / "runs").exists()


def test_a_file_that_is_not_there_is_refused(mine: Path) -> None:
    assert "absent.toml cannot be read (No such file" in refused("run", "--config", mine / "absent.toml")


def test_quiet_leaves_the_result_alone_and_verbose_says_each_step(mine: Path, warm_python: Path) -> None:
    run = "run mine.py:warning --data mine.py:data --measures rankme --no-controls"
    assert "Both --quiet and --verbose are given" in refused(*run.split(), "-q", "-v")
    code = f"""import sys
from diagnostics.cli.main import main
for name in sys.argv[1:]:
    print(name, file=sys.stderr, flush=True)
    sys.argv = ["diagnostics", *{run!r}.split(), *name.split(), "-o", f"runs/mine{{name}}"]
    try: main()
    except SystemExit as left: assert not left.code, left.code
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [warm_python, "-c", code, "-q", "--workers 0", "-v"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    quiet, _, rest = done.stderr.partition("--workers 0\n")
    plain, _, verbose = rest.partition("-v\n")
    assert quiet == "-q\n"
    assert len(plain.splitlines()) == 1  # the cost
    assert "FutureWarning:" in verbose and "an old spelling" in verbose
    assert " s  measuring tiny: 0 of 1, now rankme\n" in verbose
    assert all(f"diagnostics open runs/mine{name}\n" in done.stdout for name in ("-q", "-v"))


def test_every_command_has_an_example_that_its_options_allow() -> None:
    whole: Any = typer.main.get_command(app)
    for name, command in whole.commands.items():
        if command.callback is None or not command.epilog:
            assert not (command.callback and command.callback.__module__.startswith("diagnostics.cli."))
            continue
        line = command.epilog.rpartition("\n")[2].strip()
        assert line.startswith(f"diagnostics {name} ")
        assert line in diagnose(name, "--help").out
        command.make_context(name, line.split()[2:])


def test_help_shows_commands_and_options_by_what_they_are_for() -> None:
    command = [sys.executable, "-m", "diagnostics", "--help"]  # a process that knows the commands of plugins
    help = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    at = [help.index(f"Commands {panel}:") for panel in ("to measure encoders", "for finished runs", "of plugins")]
    assert at == sorted(at)
    assert at[1] < help.index("\n  clean ") < at[2] < help.index("\n  train ")
    help = diagnose("run", "--help").out
    assert help.index("\nWhat is measured:") < help.index(" --taps ") < help.index("\nCost and disk:")
    assert help.index("\nCost and disk:") < help.index(" --batch-size ") < help.index("\nOptions:")


def completed(words: str) -> list[str]:
    environment = os.environ | {
        "_DIAGNOSTICS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "diagnostics"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_names() -> None:
    assert completed("diagnostics ru") == ["run", "runs"]
    assert completed("diagnostics run --tok") == ["--token-budget"]
    assert "lorenz" in completed("diagnostics run fracast --data lor")


def test_list_imports_nothing_heavy_and_takes_under_a_second() -> None:
    code = (
        "import sys, time; from diagnostics.cli.main import main\n"
        "sys.argv = ['diagnostics', 'list', 'datasets']\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code\n"
        "heavy = {'torch', 'zarr', 'xarray', 'pandas', 'sklearn', 'scipy', 'timm', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, _, seconds = done.stderr.strip().rpartition(" ")
    assert heavy == "[]"
    assert float(seconds) < 1
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("images:PATH"))
    assert "Images of a folder" in lines[at]
    assert "image; " in lines[at + 1]


def test_every_encoder_and_dataset_says_what_it_is_and_of_which_modality() -> None:
    listed = json.loads(diagnose("list", "--json").out)
    for row in listed["encoders"] + listed["datasets"]:
        assert row["about"], row["name"]
        assert row["modalities"], row["name"]

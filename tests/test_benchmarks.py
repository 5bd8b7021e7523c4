"""Every script of `benchmarks/` ends without error at its smallest size.

Each runs as `python benchmarks/SCRIPT --smallest` does, but by `warm_python`: imports are most of what they would take.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if not path.name.startswith("_"))
ASKED = {"on_a_gpu.py": ["extraction", "trainer"], "pretraining.py": ["--row", "1", "--demonstration"]}
"""Of a script that runs others, which are run by themselves, the part that is its own; and what runs by a flag alone."""
MOST = 30
"""CPU seconds of a script with the processes that it starts. Quiet, none takes more than 10: this stops what blows up, and holds on a
machine a third as fast."""


TIMED = """
import resource, runpy, sys
from pathlib import Path
seconds, path, *_ = sys.argv = sys.argv[1:]
del sys.argv[0]
sys.path.insert(0, path if Path(path).is_dir() else str(Path(path).parent))
try:
    runpy.run_path(path, run_name="__main__")
finally:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    Path(seconds).write_text(str(sum(each.ru_utime + each.ru_stime for each in used)))
"""
"""As if Python had been given the script; writes the CPU seconds that it took."""


@pytest.mark.slow
@pytest.mark.parametrize("script", [*SCRIPTS, "coverage"])
def test_a_script_ends_at_its_smallest_size(script: str, warm_python: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    seconds = tmp_path / "seconds"
    command = [warm_python, "-c", TIMED, seconds, BENCHMARKS / script, "--smallest", *ASKED.get(script, [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    taken = float(seconds.read_text())
    print(f"{script}: {taken:.1f} CPU-s")
    assert taken < MOST


ON_A_GPU = """
import importlib, sys
sys.modules |= dict.fromkeys(("scipy", "sklearn", "matplotlib", "plotly", "torch_cka", "hf_xet"))
for script in ("attention", "align", "pretraining", "on_a_gpu"):
    importlib.import_module(script)
"""


@pytest.mark.slow
def test_scripts_for_a_gpu_import_nothing_that_is_too_large_to_carry() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("open_clip")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_part_on_a_gpu_ends_at_its_limit_and_its_status_says_how_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_part = runpy.run_path(str(BENCHMARKS / "on_a_gpu.py"))["run_part"]

    def status(code: str, limit: float = 60) -> tuple[str, list[str]]:
        found = run_part([sys.executable, "-c", code], str(tmp_path), limit)
        return found["status"], found["lines"]

    assert status("print('seen')") == ("held", ["seen"])
    assert status("print('MISS speed'); raise SystemExit(1)") == ("missed", ["MISS speed"])
    assert status("import absent")[0] == "failed"
    assert status("print('FAILED tests/test_gpu.py'); raise SystemExit(1)")[0] == "failed"
    assert status("print('ERROR:2026-12-02 a profiler')")[0] == "held"
    for there, word in ((False, "held"), (True, "missed")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert status("print('SKIPPED [1] tests/test_gpu.py')")[0] == word
    began = time.perf_counter()
    assert status("import time; print('seen', flush=True); time.sleep(100)", 2)[0] == "out of time"
    assert time.perf_counter() - began < 50


def test_a_wheel_is_carried_without_tests_and_unpacked_where_its_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, carried, site = (tmp_path / name for name in ("made", "carried", "site"))
    for folder in (made, carried):
        folder.mkdir()
    names = ("absent-1-py3-none-any.whl", "other-1-cp39-cp39-manylinux_2_17_x86_64.whl", "numpy-1-py3-none-any.whl")
    pack_again = runpy.run_path(str(BENCHMARKS / "wheels_for_a_gpu.py"))["pack_again"]
    for name in names:
        with zipfile.ZipFile(made / name, "w") as wheel:
            for file in ("module.py", "tests/test_module.py", "testing/tools.py"):
                wheel.writestr(f"{name.partition('-')[0]}/{file}", "")
        pack_again(made / name, carried)
    module = runpy.run_path(str(BENCHMARKS / "on_a_gpu.py"))
    monkeypatch.setitem(module["unpack_missing"].__globals__, "WHEELS", carried)
    assert module["unpack_missing"](site) == (["absent"], ["other"])
    assert {path.relative_to(site).as_posix() for path in site.rglob("*.py")} == {
        "absent/module.py",
        "absent/testing/tools.py",
    }


def test_kernels_are_compiled_again_where_they_or_their_precision_changed(tmp_path: Path) -> None:
    files = ("benchmarks/kernels.py", "diagnostics/encoders/attention/triton_kernels.py")
    texts = {name: (BENCHMARKS.parent / name).read_text(encoding="utf-8") for name in files}

    def digest(**changed: str) -> str:
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(changed.get(Path(name).stem, text), encoding="utf-8")
        return runpy.run_path(str(tmp_path / files[0]))["digest"]()

    compiled, kernels = texts.values()
    assert digest() == digest()
    others = [
        digest(triton_kernels=kernels.replace('PRECISION = "tf32x3"', 'PRECISION = "ieee"')),
        digest(triton_kernels=kernels.replace("128: (32, 32)", "128: (64, 32)")),
        digest(kernels=compiled.replace('"axes": 3', '"axes": 2')),
    ]
    assert len({digest(), *others}) == 4

"""Progress is shown where somebody can see it: each kind of place, and the silence that is asked for."""

import os
import pty
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import diagnostics as dx
from diagnostics.progress import Cost
from diagnostics.report import progress_bars
from diagnostics.report.progress_bars import in_notebook, watching

COST = Cost("<b>encoder</b>", "data", 10, 3, 10, 10, 3, 2.0, 1, "runs/here")
WORK = """
import diagnostics as dx
from diagnostics.report import progress_bars
progress_bars.LINE_EVERY = -1.0
with progress_bars.watching({watch}) as watch:
    for done in range(3):
        watch(dx.Progress("extracting it", done, 2))
"""


def of_a_process(watch: str, stderr: int = subprocess.PIPE) -> str:
    """What it writes on stderr, outside of any test."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"} | {"TERM": "xterm"}
    text = WORK.format(watch=watch)
    return subprocess.run([sys.executable, "-c", text], env=environment, stderr=stderr, text=True, check=True).stderr


def test_lines_in_a_pipe_and_nothing_where_silence_is_asked_for() -> None:
    assert of_a_process("None").splitlines() == [f"extracting it: {done} of 2" for done in range(3)]
    assert of_a_process("dx.silent") == ""


def test_bars_in_a_terminal() -> None:
    leader, follower = pty.openpty()
    of_a_process("None", stderr=follower)
    os.close(follower)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "extracting it" in shown and "0/2" in shown and "\x1b[" in shown  # the first picture; later ones are timed


def test_nothing_under_pytest_unless_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    with watching(None) as watch:
        watch(COST)
    assert capsys.readouterr().err == ""
    with watching(seen.append) as watch:
        watch(COST)
    assert seen == [COST]


class _Kernel:
    """What IPython shows a notebook: the bundles of each output, the latest last."""

    def __init__(self) -> None:
        self.shell = SimpleNamespace(kernel=object())
        self.bundles: list[dict[str, str]] = []
        self.outputs = 0
        handle = SimpleNamespace(update=lambda bundle, raw: self.bundles.append(bundle))

        def display(bundle: dict[str, str], raw: bool, display_id: bool) -> Any:
            self.outputs += 1
            self.bundles.append(bundle)
            return handle

        self.display = SimpleNamespace(display=display)

    def get_ipython(self) -> Any:
        return self.shell


def test_a_bar_in_a_notebook_that_goes_when_the_work_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = _Kernel()
    monkeypatch.setitem(sys.modules, "IPython", kernel)  # type: ignore[arg-type] # stands for the module
    monkeypatch.setattr(progress_bars, "REDRAWN_EVERY", 0.0)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    seen: list[dict[str, str]] = []

    def broken() -> None:
        with watching(None) as watch:
            watch(COST)
            watch(dx.Progress("extracting <it>", 1, 4, "blocks.1"))
            seen.append(kernel.bundles[-1])
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    bar = '<progress max="4" value="1"></progress> extracting &lt;it&gt;: 1 of 4, now blocks.1'
    assert bar in seen[0]["text/html"]
    assert seen[0]["text/plain"].endswith("extracting <it>: 1 of 4, now blocks.1")
    assert kernel.outputs == 1
    assert "<progress" not in kernel.bundles[-1]["text/html"]
    assert "&lt;b&gt;encoder&lt;/b&gt; on data: 10 samples" in kernel.bundles[-1]["text/html"]
    assert capsys.readouterr().err == ""


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _Kernel()
    kernel.shell = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", kernel)  # type: ignore[arg-type] # stands for the module
    assert not in_notebook()

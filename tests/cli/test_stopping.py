"""Signals to real processes: each ends a command in order, with the way to go on and without a traceback.

And what plugins print or raise when they are imported.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

TESTS = Path(__file__).parents[1]
MINE = """
import os, pathlib, time
import numpy as np, torch
from tests.support.tiny import tiny_dataset, tiny_encoder
HERE = pathlib.Path(__file__).parent


def _count():
    file = HERE / "passes"
    file.write_text(str(int(file.read_text()) + 1 if file.exists() else 1))
    return int(file.read_text())


class Waits(torch.nn.Module):
    "Waits in its seventh pass over a batch of 16, as long as there is a file called `wait`."
    def __init__(self, block): super().__init__(); self.block = block
    def forward(self, x):
        if x.shape[0] > 2 and _count() == 7:
            self.wait()
        return self.block(x)
    def wait(self):
        (HERE / "waiting").touch()
        while (HERE / "wait").exists(): time.sleep(0.02)


class Stubborn(Waits):
    "What it cleans up takes long; time stands still until there is a file called `late`."
    def wait(self):
        import types
        from diagnostics import interrupts
        def clock():
            (HERE / "asked").touch()
            return 1000.0 if (HERE / "late").exists() else 0.0
        interrupts.time = types.SimpleNamespace(monotonic=clock)
        try: super().wait()
        except KeyboardInterrupt:
            (HERE / "asked").unlink()
            (HERE / "cleaning").touch()
            time.sleep(300)
            raise


class Finaliser:
    def __del__(self):
        import signal
        signal.raise_signal(signal.SIGINT)
        for _ in range(1000): pass


class Finalised(Waits):
    "The signal comes while an object is deleted, where nothing can be raised."
    def wait(self):
        Finaliser()
        super().wait()


def _waiting(kind):
    encoder = tiny_encoder()
    encoder.module.blocks[0] = kind(encoder.module.blocks[0])
    return encoder


def build(): return _waiting(Waits)
def stubborn(): return _waiting(Stubborn)
def finalised(): return _waiting(Finalised)
def data(n: int = 150): return tiny_dataset(n)


def slow_data():
    data = tiny_dataset(400)
    class Slow:
        def __len__(self): return 400
        def __getitem__(self, i):
            if torch.utils.data.get_worker_info():
                (HERE / "waiting").touch()
                time.sleep(0.05)
            return data.samples[i]
    from diagnostics import Dataset
    return Dataset("slow", "series", Slow(), data.ids, data.split, data.targets, fingerprint="1")
"""


def _heed_signals() -> None:
    """As in a terminal, also where the tests run in the background of a shell, which ignores some."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Command:
    """A `diagnostics` command in a process group of its own, whose home is a folder."""

    def __init__(self, folder: Path, *arguments: str, path: Sequence[Path] = (), **options: Any) -> None:
        self.folder = folder
        (folder / "mine.py").write_text(MINE, encoding="utf-8")
        # The package may be on the path of this process alone.
        paths = [*path, TESTS / "support", *(Path(part) for part in sys.path if part)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
        options = {"preexec_fn": _heed_signals} | options
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diagnostics", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
            **options,
        )

    def until(self, name: str) -> Command:
        """Wait for a file in the folder."""
        for _ in range(6000):
            if (self.folder / name).exists():
                return self
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate())
            time.sleep(0.02)
        raise AssertionError(f"{name} never came")

    def send(self, *numbers: int) -> Command:
        """Signals to the whole group, as a terminal sends them."""
        for number in numbers:
            os.killpg(self.process.pid, number)
        return self

    def ended(self) -> tuple[int, str, list[str]]:
        """Status, stdout, and the lines of stderr but for the cost and, on a slow machine, the progress."""
        try:
            out, err = self.process.communicate(timeout=300)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        assert "Traceback" not in err, err
        assert "Exception ignored" not in err, err
        return (
            self.process.returncode,
            out,
            [line for line in err.splitlines() if line and not re.search(r"extraction takes|: \d+ of \d+", line)],
        )


def run_of(encoder: str, *more: str) -> tuple[str, ...]:
    data = ("--data", "mine.py:data") if "--data" not in more else ()
    return (
        "run",
        f"mine.py:{encoder}",
        *data,
        "--out",
        "out",
        "--no-controls",
        "--measures",
        "rankme",
        "--json",
        *more,
    )


GO_ON = "diagnostics: Interrupted; what is done is kept in out: give the same command again to continue."


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGTERM], 143),
        ([signal.SIGHUP], 129),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130),
    ],
    ids=lambda value: "-".join(number.name for number in value) if isinstance(value, list) else str(value),
)
def test_a_signal_ends_a_run_with_the_way_to_go_on(tmp_path: Path, numbers: list[int], status: int) -> None:
    (tmp_path / "wait").touch()
    command = Command(tmp_path, *run_of("build")).until("waiting")
    for number in numbers:
        command.send(number)
        time.sleep(0.05)  # equal signals of one moment are one
    assert command.ended() == (status, "", [GO_ON])
    if numbers != [signal.SIGTERM]:
        return
    (tmp_path / "wait").unlink()
    (tmp_path / "passes").unlink()
    result, out, err = Command(tmp_path, *run_of("build")).ended()
    assert (result, err) == (0, [])
    assert json.loads(out)["n"]
    # Two passes looked whether it repeats and four batches of 16 were whole: five of 16 are left, and one of 6.
    assert int((tmp_path / "passes").read_text()) == 6


def test_features_end_with_the_way_to_go_on_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "wait").touch()
    features = "features", "mine.py:build", "--data", "mine.py:data", "--out", "out", "--json"
    assert Command(tmp_path, *features).until("waiting").send(signal.SIGINT).ended() == (130, "", [GO_ON])
    (tmp_path / "wait").unlink()
    status, out, err = Command(tmp_path, *features).ended()
    assert (status, err, json.loads(out)["samples"]) == (0, [], 150)


def test_ctrl_c_again_ends_a_command_that_takes_long_to_end(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    command = Command(tmp_path, *run_of("stubborn")).until("waiting").send(signal.SIGINT).until("cleaning")
    command.send(signal.SIGINT).until("asked")  # the same impatience
    time.sleep(0.2)  # what would end the command comes right after
    assert command.process.poll() is None
    (tmp_path / "late").touch()
    assert command.send(signal.SIGINT).ended() == (130, "", [])


def test_a_signal_that_meets_a_finaliser_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    assert Command(tmp_path, *run_of("finalised")).ended() == (130, "", [GO_ON])


def test_ctrl_c_reaches_workers_too_and_they_say_nothing(tmp_path: Path) -> None:
    command = run_of("build", "--data", "mine.py:slow_data", "--workers", "2")
    status, out, err = Command(tmp_path, *command).until("waiting").send(signal.SIGINT).ended()
    assert (status, out, err) == (130, "", [GO_ON])


def test_what_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    command = Command(tmp_path, *run_of("build"), **ignored).until("waiting").send(signal.SIGHUP)
    (tmp_path / "wait").unlink()
    status, out, err = command.ended()
    assert (status, err) == (0, [])
    assert json.loads(out)["n"]


@pytest.mark.parametrize(("module", "status"), [("typer", 130), ("torch", 143)])
def test_a_signal_while_modules_are_imported_ends_at_once(tmp_path: Path, module: str, status: int) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / f"{module}.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'waiting')!r}).touch()\ntime.sleep(60)\n", encoding="utf-8"
    )
    number = signal.SIGINT if status == 130 else signal.SIGTERM
    command = Command(tmp_path, *run_of("build"), path=[slow]).until("waiting").send(number, number)
    assert command.ended() == (status, "", ["diagnostics: Interrupted."])


def test_a_training_ends_in_its_own_words(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    arguments = (
        "train", "objectives", "--data", "lorenz?n=64&length=64", "--objective", "reconstruct", "--steps", "100000",
        "--batch", "4", "--width", "16", "--depth", "1", "--out", "models", "--json",
    )  # fmt: skip
    command = Command(tmp_path, *arguments).until("models/reconstruct/metrics.jsonl").send(signal.SIGTERM)
    status, out, err = command.ended()
    assert (status, out) == (143, "")
    assert err[-1].startswith("diagnostics: Interrupted; the same command ")
    assert err[-1].endswith("in models/reconstruct.")


GONE = """
import signal, sys
from diagnostics.cli.app import working
from diagnostics.interrupts import watch_signals
watch_signals()
with working():
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    sys.stderr.write("at work")
sys.stdout.write("result")
"""


@pytest.mark.parametrize(
    "command", [["-m", "diagnostics", "list", "--json"], ["-m", "diagnostics", "run", "--help"], ["-c", GONE]]
)
def test_an_output_that_nobody_reads_ends_a_command_in_silence_as_it_ends_other_tools(command: list[str]) -> None:
    """`| head` closes it: no words, and in a shell status 141. While a command works, no pipe ends it."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (said, process.wait()) == ("at work" if command[1] == GONE else "", -signal.SIGPIPE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("arguments", [["list", "--json"], ["list"], ["run", "--help"], ["--version"]])
def test_an_output_that_takes_no_more_is_one_sentence(arguments: list[str]) -> None:
    """Also where all that is printed fits into a buffer, which Python writes at its end."""
    command = [sys.executable, "-m", "diagnostics", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        both = subprocess.run(command, stdout=full, stderr=full)
    assert done.stderr == (
        "diagnostics: The output of this command cannot be written (No space left on device): redirect it elsewhere; stored results are "
        "kept.\n"
    )
    assert (done.returncode, both.returncode) == (2, 2)


LOUD = """
import os, subprocess, sys
print("a greeting")
os.write(1, b"past Python\\n")
subprocess.run([sys.executable, "-c", "print('of a child')"])
from diagnostics import hookimpl

@hookimpl
def datasets():
    print("of a hook")
    return {}
"""


def test_a_plugin_that_prints_or_interrupts_at_import_breaks_no_command(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    for name, source in {
        "loud": LOUD,
        "rude": "raise KeyboardInterrupt('go away')",
        "gone": "raise SystemExit(0)",
    }.items():
        folder = plugins / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (folder / "entry_points.txt").write_text(f"[diagnostics]\n{name} = {name}_plugin\n", encoding="utf-8")
        (plugins / f"{name}_plugin.py").write_text(source, encoding="utf-8")
    status, out, err = Command(tmp_path, "list", "plugins", "--json", path=[plugins]).ended()
    assert status == 0
    errors = {row["name"]: row["error"] for row in json.loads(out)["plugins"] if row["version"] == "1.0"}
    assert errors == {"loud": "", "rude": "KeyboardInterrupt: go away", "gone": "SystemExit: 0"}
    assert set(err) == {
        "a greeting",
        "past Python",
        "of a child",
        "of a hook",
        "diagnostics: plugin rude 1.0 could not be loaded (KeyboardInterrupt: go away); the others work.",
        "diagnostics: plugin gone 1.0 could not be loaded (SystemExit: 0); the others work.",
    }


def test_the_installed_command_is_that_process() -> None:
    import encoder_diagnostics

    pyproject = (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'diagnostics = "{encoder_diagnostics.__name__}:{encoder_diagnostics.main.__name__}"' in pyproject
    assert "diagnostics.__main__" in Path(encoder_diagnostics.__file__).read_text(encoding="utf-8")

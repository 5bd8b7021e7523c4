"""The kit for plugin authors, as they use it: a test file of three lines in a pytest session of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from diagnostics.checks.conformance import CHECKS
from diagnostics.plugin import EncoderTests

SUPPORT = Path(__file__).parents[1] / "support"

MINE = """
from tests.support.tiny import tiny_encoder, tiny_image_encoder
built = []
def build():
    built.append(1)
    return tiny_encoder()
def turned():
    encoder = tiny_image_encoder()
    stem = encoder.module.stem.forward
    encoder.module.stem.forward = lambda x: stem(x).transpose(2, 3)
    return encoder
"""

TESTS = """
import pytest
from tests.support.tiny import tiny_dataset, tiny_encoder
from diagnostics.plugin import EncoderTests

class TestGood(EncoderTests):
    encoder = "mine.py:build"

class TestTurned(EncoderTests):
    encoder = "mine.py:turned"

class TestBuilt(EncoderTests):
    def build(self):
        return tiny_encoder(3)
    def test_of_my_own(self, subject):
        assert subject.encoder.name == "tiny"

class TestNameless(EncoderTests):
    pass

class TestUnknown(EncoderTests):
    encoder = "mine.py:nothing"

@pytest.mark.parametrize("seed", [1, 2])
def test_many(conforms, seed):
    conforms(tiny_encoder(seed))

def test_one_of_many(conforms):
    conforms("mine.py:turned")
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Class (or function) -> test -> its line of the summary, of one session that is run from another folder."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "tests").mkdir()
    (folder / "tests" / "mine.py").write_text(MINE, encoding="utf-8")
    (folder / "tests" / "test_mine.py").write_text(TESTS, encoding="utf-8")
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {SUPPORT}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-q", "-p", "no:cacheprovider", "-W", "error", "tests"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "400"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        match = re.match(r"(PASSED|FAILED|SKIPPED|ERROR) (.*)", line)
        if match is None:
            continue
        name = re.search(r"test_mine.py::(\w+)(?:::(\w+))?", line)
        if name is not None:
            lines.setdefault(name[1], {})[name[2] or ""] = line
        else:
            lines.setdefault("skipped", {})[line] = line
    return lines


def test_there_is_one_test_for_each_check() -> None:
    assert [name for name in vars(EncoderTests) if name.startswith("test_")] == [f"test_{name}" for name in CHECKS]


@pytest.mark.slow
def test_three_lines_give_one_test_a_check(session: dict[str, dict[str, str]]) -> None:
    passed = {name for name, line in session["TestGood"].items() if line.startswith("PASSED")}
    assert passed == {f"test_{name}" for name in CHECKS} - {"test_attention", "test_padding"}


def test_what_is_not_applicable_is_skipped_with_its_reason(session: dict[str, dict[str, str]]) -> None:
    assert any("it declares no mask of valid tokens" in line for line in session["skipped"])


def test_a_failure_is_named_and_said(session: dict[str, dict[str, str]]) -> None:
    failed = {name: line for name, line in session["TestTurned"].items() if not line.startswith("PASSED")}
    assert list(failed) == ["test_grid"]
    assert "tiny-image, grid: tap embed, 4 x 4 (y, x)" in failed["test_grid"]


def test_build_can_be_overridden_and_tests_added(session: dict[str, dict[str, str]]) -> None:
    assert session["TestBuilt"]["test_of_my_own"].startswith("PASSED")
    assert session["TestBuilt"]["test_identity_stable"].startswith("PASSED")


def test_what_cannot_be_built_fails_with_a_sentence(session: dict[str, dict[str, str]]) -> None:
    assert all("TestNameless names no encoder" in line for line in session["TestNameless"].values())
    assert all("Unknown function in" in line for line in session["TestUnknown"].values())


def test_the_fixture_checks_many_encoders_at_once(session: dict[str, dict[str, str]]) -> None:
    assert session["test_many"][""].startswith("PASSED")
    assert "tiny-image fails 1 of 17 checks." in session["test_one_of_many"][""]


def test_importing_the_kit_is_light() -> None:
    code = (
        "import sys, diagnostics.checks.encoder_tests; "
        "heavy = {'torch', 'numpy', 'diagnostics.encoders.taps', 'diagnostics.registry', 'rich', 'typer'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

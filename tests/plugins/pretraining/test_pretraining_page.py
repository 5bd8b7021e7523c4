"""The way from `shapes` to tars of one's own, as its page tells it: each block runs, in order, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("open_clip")

from diagnostics_training.trainer.record import lines

from diagnostics.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "pretraining.md"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="tests run without the docs beside them")


def test_commands_and_code_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, block in BLOCK.findall(PAGE.read_text(encoding="utf-8").partition("## Which trainer")[0]):
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        for line in block.replace("\\\n", "").splitlines():
            monkeypatch.setattr("sys.argv", shlex.split(line))
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == 0, line
    assert json.loads((tmp_path / "models/own/training.json").read_text())["row"]["broken"] == 0
    assert [line["step"] for line in lines(tmp_path / "models/own") if "evaluation/accuracy" in line] == [10, 20]
    assert {path.name for path in tmp_path.glob("pairs-*")} >= {"pairs-00000.tar.index", "pairs-00001.tar.index"}
    (page,) = (tmp_path / "runs/own").glob("comparison-*.html")
    assert {path.parent.name for path in (tmp_path / "runs/own").glob("*/report.html")} == {"10", "last"}
    assert {"10", "20"} <= set(re.findall(r"recipe 1, (\d+) steps", page.read_text()))

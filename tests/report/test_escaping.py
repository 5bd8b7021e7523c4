"""No name, wherever it comes from, writes to a terminal what the terminal would obey."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diagnostics as dx
from diagnostics import Dataset, Progress, printable
from diagnostics.cli import main as cli
from diagnostics.progress import Cost
from diagnostics.report import progress_bars as watching
from diagnostics.report.terminal import print_page
from diagnostics.runs.pages.run import run_page
from tests.support.commands import diagnose

# A title is set, text turns red, its direction is turned, a line is begun, the screen is cleared (C1), the cursor goes home.
HOSTILE = "evil\x1b]0;owned\x07\x1b[31m\u202e\u2066\nnew\r\x9b2J\x7f\u200b\u2028end"
SHOWN = "evil\\x1b]0;owned\\x07\\x1b[31m\\u202e\\u2066\\nnew\\r\\x9b2J\\x7f\\u200b\\u2028end"

MINE = (
    f"HOSTILE = {HOSTILE!r}"
    + """
import numpy as np
from tests.support.tiny import tiny_dataset, tiny_encoder
from diagnostics import Dataset, DiagnosticsError, Target


class Gone:
    def __init__(self, samples): self.samples = samples
    def __len__(self): return len(self.samples)
    def __getitem__(self, i):
        if i == 20: raise OSError(HOSTILE)
        return self.samples[i]


def build(tap: str = ""):
    lineage = {"how": HOSTILE, "data": HOSTILE, "group": HOSTILE}
    return tiny_encoder(name=HOSTILE).replace(configuration=HOSTILE, lineage=lineage)


def data(gone: bool = False):
    old = tiny_dataset(60)
    samples = Gone(old.samples) if gone else old.samples
    ids = [f"{HOSTILE}{i}" for i in range(60)]
    kind = old.targets["kind"]
    targets = {"kind": Target("label", kind.values, units=HOSTILE, about=HOSTILE, classes=(HOSTILE, "b", "c"))}
    return Dataset(HOSTILE, "series", samples, ids, old.split, targets, about=HOSTILE, fingerprint="1")


def refuses(): raise DiagnosticsError(HOSTILE)
def fails(): raise RuntimeError(HOSTILE)
"""
)


def harmless(*texts: str) -> None:
    """Nothing but line breaks is left of what a terminal obeys or hides."""
    for character in "".join(texts).replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), ascii(character)


def lines(text: str) -> str:
    """Wrapped text as one line."""
    return "".join(line.strip() for line in text.splitlines())


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return str(path)


def test_printable_shows_escapes_and_leaves_every_script_alone() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable(Path("plain/path")) == "plain/path"
    assert printable("caf\udcff\0") == "caf\\udcff\\x00"
    for text in (
        "hidden_z (R²) 0.907 [0.834, 0.950]",
        "层 é e\u0301 مرحبا हिन्दी",
        "👩\u200d🔬 ↑ ─",
        "\u3000wide\u00a0space",
    ):
        assert printable(text) == text


@given(st.text(st.characters(), max_size=50))
def test_whatever_the_text_is_nothing_is_obeyed(text: str) -> None:
    harmless(printable(text).replace("\u200c", "").replace("\u200d", ""))


def test_inspect_and_check_show_names_of_encoders_and_json_keeps_them(mine: str) -> None:
    for command in ("inspect", "check"):
        status, out, err = diagnose(command, f"{mine}:build")
        assert status == 0
        harmless(out, err)
        assert SHOWN in lines(out)
        assert json.loads(diagnose(command, f"{mine}:build", "--json").out)["encoder"] == HOSTILE


def test_run_report_and_compare_show_names_of_encoders_data_classes_and_folders(mine: str, tmp_path: Path) -> None:
    folders = [tmp_path / f"a{HOSTILE.replace('/', '')}", tmp_path / "b"]
    for folder in folders:
        status, out, err = diagnose(
            "run", f"{mine}:build", "--data", f"{mine}:data", "--out", folder, "--measures", "knn_probe,two_nn"
        )
        assert status == 0, err
        harmless(out, err)
        assert lines(out).count(SHOWN) >= 2
        assert SHOWN in err  # the cost
    status, out, err = diagnose("report", folders[0])
    assert status == 0
    harmless(out, err)
    status, out, err = diagnose("compare", f"{HOSTILE}={folders[0]}", f"b={folders[1]}", "--similarity", "none")
    assert status == 0, err
    harmless(out, err)
    assert SHOWN in lines(out)
    assert json.loads(diagnose("report", folders[0], "--json").out)["dataset"] == HOSTILE


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "{mine}:refuses"),
        ("--traceback", "inspect", "{mine}:refuses"),
        ("--traceback", "inspect", "{mine}:fails"),
        ("inspect", "{mine}:" + HOSTILE),
        ("inspect", HOSTILE),
        ("run", "{mine}:build", "--data", "{mine}:data?gone=true", "--out", "{out}", "--no-controls"),
        ("run", "{mine}:build", "--data", "{mine}:data", "--out", "{out}", "--taps", HOSTILE),
        ("run", "{mine}:build", "--data", "{mine}:data", "--out", "{out}", "--measures", HOSTILE),
        ("report", HOSTILE),
        ("report", "no\udcffsuch"),
        ("compare", HOSTILE, HOSTILE),
        ("cut", "{mine}:build", "--tap", HOSTILE, "--out", "{out}"),
        ("list", HOSTILE),
        ("new-plugin", HOSTILE),
    ],
    ids=lambda arguments: ascii(arguments[:2])[:30],
)
def test_errors_show_what_they_quote(mine: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    places = {"{mine}": mine, "{out}": str(tmp_path / "out")}
    given = [
        next((word.replace(key, value) for key, value in places.items() if key in word), word) for word in arguments
    ]
    status, out, err = diagnose(*given)
    assert (status, out) == (2, "")
    harmless(err)
    assert "\\x1b]0;owned\\x07" in err or "\\udcff" in err
    assert err.splitlines()[-1].startswith("diagnostics: ")


def test_cut_shows_the_name_of_what_it_wrote(tmp_path: Path, mine: str) -> None:
    status, out, err = diagnose(
        "cut", f"{mine}:build", "--tap", "blocks.1", "--out", tmp_path / HOSTILE.replace("/", "")
    )
    assert status == 0, err
    harmless(out, err)
    assert out.splitlines()[0].count(SHOWN) == 2


def test_a_mistyped_command_shows_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ((HOSTILE,), ("report", "a", HOSTILE), ("list", f"--{HOSTILE}")):
        monkeypatch.setattr(sys, "argv", ["diagnostics", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        harmless(err)
        assert "owned" in err


def test_cost_and_progress_show_what_they_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "LINE_EVERY", -1.0)
    with dx.watcher() as watch:
        watch(Cost(HOSTILE, HOSTILE, 10, 3, 10, 10, 3, 2.0, 2, HOSTILE, unprobeable=(f"{HOSTILE} is constant.",)))
        watch(Progress(f"measuring {HOSTILE}", 1, 2, HOSTILE))
    err = capsys.readouterr().err
    harmless(err)
    unprobeable, cost, progress = err.splitlines()
    assert unprobeable == f"{SHOWN} is constant."
    assert cost.count(SHOWN) == 3
    assert progress.count(SHOWN) == 2


def test_files_left_out_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL", reason="pillow is not installed")
    from PIL import Image

    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for i in range(12):
            Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / kind / f"{i}.png")
    (tmp_path / "a" / f"{HOSTILE.replace('/', '')}.png").write_bytes(b"no picture")
    data: Dataset = dx.build("dataset", f"images:{tmp_path}?on_error=skip")
    assert len(data) == 24
    err = capsys.readouterr().err
    harmless(err)
    assert SHOWN in err
    encoder = f"{Path(__file__).parents[1] / 'support' / 'tiny.py'}:tiny_image_encoder"
    status, out, err = diagnose("run", encoder, "--data", f"images:{tmp_path}", "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    harmless(err)
    assert SHOWN in err


def test_names_in_results_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What a run holds may have been written by anyone: taps, targets, measures, reasons."""
    from diagnostics.measures.statistics import Interval
    from tests.support.profiles import finished_run, profile

    one = profile(
        "linear_probe", [HOSTILE, "norm"], Interval(0.5, 0.4, 0.6), {"raw_input": 0.1}, probe=True, target=HOSTILE
    )
    other = profile(HOSTILE, [HOSTILE, "norm"], Interval(0.5, 0.4, 0.6), {}, probe=False, target="")
    redrawn = {"fresh_weights": {"note": HOSTILE}}
    run = finished_run([one, other], HOSTILE, HOSTILE, untrained=HOSTILE, skipped={HOSTILE: HOSTILE}, redrawn=redrawn)
    for full, times in ((False, 6), (True, 10)):
        print_page(run_page(run), Path(HOSTILE), full=full)
        out = capsys.readouterr().out
        harmless(out)
        assert lines(out).count(SHOWN) >= times

"""What `diagnostics compare` prints and writes, as a reader sees it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

import diagnostics as dx
from diagnostics.report.terminal import print_page
from diagnostics.runs.comparison.page import comparison_page, describe_verdict
from tests.support.commands import diagnose, refused
from tests.support.graded import graded_data, graded_encoder, linear_alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of a base, of an alignment of it with a head, and of two seeds of another training."""
    folder = tmp_path_factory.mktemp("shown")
    base = graded_encoder("base", (0.5, 2, 0.5), (1, 1, 1))
    lineage = {"group": "up <b>", "base": base.identity["weights"], "for": "a", "how": "diagnostics align --to <tap>"}
    encoders = {
        "base": base,
        "up": graded_encoder("up", (0.5, 2, 1.5, 0.5), (1,) * 4, heads=1, lineage=lineage),
        "x0": graded_encoder("x0", (0.5, 1, 0.5), (1,) * 3, 4, lineage={"group": "x", "seed": 0}),
        "x1": graded_encoder("x1", (0.5, 1, 0.5), (1,) * 3, 6, lineage={"group": "x", "seed": 1}),
    }
    with linear_alone():
        for name, encoder in encoders.items():
            dx.run(encoder, graded_data(), out=folder / name, measures="linear_probe", controls=False, report=False)
    return folder


def runs(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("base", "up", "x0", "x1")]


def test_the_table_holds_every_label_and_what_its_head_drops(folder: Path) -> None:
    sentence = diagnose("compare", *runs(folder), "--similarity", "none").out
    lines = [line.split() for line in sentence.splitlines()]
    assert any(line[:3] == ["base", "stage.1", "(0.50)"] for line in lines)
    assert any(line[:1] == ["x"] and "(0.50) 2/2" in " ".join(line) for line in lines)
    assert "end of trunk minus end of head, up <b>: a (R2) +0.4" in sentence
    assert "up <b> (from base)" in sentence
    assert "a (R2), trained for it" in sentence
    assert "significant after correction" in sentence
    assert (folder / "comparison-base-up-b-x.html").is_file()


@pytest.mark.smoke
def test_json_is_one_object_with_the_report(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep.html"
    result = json.loads(diagnose("compare", *runs(folder), "--json", "--out", str(out)).out)
    assert result["report"] == str(out)
    assert {one["first"] for one in result["similarity"]} == {"base", "up <b>", "x seed 0"}
    assert out.is_file()


def test_the_page_escapes_what_labels_hold_and_needs_no_network(folder: Path, tmp_path: Path) -> None:
    result = dx.compare(runs(folder))
    page = result.report(tmp_path / "page.html").read_text(encoding="utf-8")
    own = page.split("<body>", 1)[1]
    assert "up <b>" not in own.replace("&lt;", "")
    assert "up &lt;b&gt;" in own
    assert 'src="http' not in page
    tables = result._repr_html_()
    assert "<script" not in tables
    assert "diagnostics align --to &lt;tap&gt;" in tables
    assert repr(result) == "<Comparison of base, up <b>, x seed 0, x seed 1 on graded>"


def test_a_report_that_cannot_be_written_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "page.html"
    assert "There is no folder" in refused("compare", *runs(folder), "--similarity", "none", "--out", str(missing))


def test_mistakes_are_told_in_a_sentence(folder: Path) -> None:
    assert "two runs or more" in refused("compare", str(folder / "base"))
    assert "is not a run" in refused("compare", str(folder / "base"), str(folder / "nothing"))
    assert "does not compare pairs of taps" in refused("compare", *runs(folder), "--similarity", "linear_probe")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_number_and_no_label_is_cut_off_however_narrow_the_terminal(
    folder: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    label = "a label of sixty letters and spaces, which is a long label 层"
    paths = [f"{label}={folder / 'x0'}", *runs(folder)[:2]]
    result = dx.compare(paths, similarity=None)
    monkeypatch.setenv("COLUMNS", str(width))
    print_page(comparison_page(result), Path("page.html"))
    shown = capsys.readouterr().out
    # Wide as it is, it stays whole at 60 too.
    assert max(map(cell_len, shown.splitlines())) <= max(width, cell_len(label))
    assert label in shown
    for one in result.group_scores:
        ends = one.chosen.interval
        assert f"[{ends.low:.3f}, {ends.high:.3f}]" in shown
        assert one.chosen_tap_text.split()[0] in shown
    for one in result.differences:
        ends = (f"{end:.3f}" for end in (one.estimate.interval.low, one.estimate.interval.high))
        low, high = ("0.000" if end == "-0.000" else end for end in ends)
        assert f"[{low}, {high}]" in shown
    assert "…" not in shown


def test_a_comparison_starts_with_its_verdict(folder: Path, tmp_path: Path) -> None:
    sentence = " ".join(diagnose("compare", *runs(folder), "--similarity", "none").out.split())
    # What the noise of these seeds is read from is no weight.
    equal = "x seed 0 and x seed 1 have equal weights: they differ in configuration alone. "
    assert re.match(rf"{equal}\d+ of \d+ differences are shown on these \d+ test samples", sentence), sentence[:200]
    assert "up <b> is above base in" in sentence or "is above x in" in sentence
    alike = graded_encoder("base", (0.5, 2, 0.5), (1, 1, 1))
    dx.run(alike, graded_data(), out=tmp_path / "alike", measures="linear_probe", controls=False, report=False)
    sentence = " ".join(
        diagnose("compare", f"one={folder / 'base'}", f"two={tmp_path / 'alike'}", "--similarity", "none").out.split()
    )
    assert sentence.startswith(
        "one and two have equal weights: they are one encoder. No difference between these runs is shown on these"
    ), sentence[:200]
    assert "no proof that they are alike" not in sentence


def test_equal_weights_are_said_and_what_differs_beside_them(folder: Path, tmp_path: Path) -> None:
    def verdict(*encoders: dx.TorchEncoder) -> str:
        places = [f"{encoder.name}={tmp_path / encoder.name}" for encoder in encoders]
        for encoder in encoders:
            out = tmp_path / encoder.name
            dx.run(encoder, graded_data(), out=out, measures="linear_probe", controls=False, report=False)
        return describe_verdict(dx.compare(places, similarity=None))

    one = graded_encoder("one", (0.5, 2, 0.5), (1, 1, 1))
    other = graded_encoder("other", (0.5, 1, 0.5), (1, 1, 1), 4)
    moved = dx.TorchEncoder(
        "moved", "series", one.module, one.taps, preprocess=lambda x: one.preprocess(x) + 1, example=one.example()
    )
    assert "equal weights" not in verdict(one, other)
    assert verdict(one, moved, other).startswith(
        "one and moved have equal weights: they differ in configuration and preprocessing alone. "
    )

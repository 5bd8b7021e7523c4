"""Runs from end to end: planted answers, controls through the same code, results that plain xarray opens, the report."""

from __future__ import annotations

import copy
import csv
import html
import importlib.metadata
import json
import re
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError, Encoder, Run, Target, TorchEncoder
from diagnostics.measures.statistics import profile_intervals
from diagnostics.measures.verdict import Verdict
from diagnostics.report.terminal import print_page
from diagnostics.runs.comparison.page import cautions
from diagnostics.runs.pages.run import run_page
from diagnostics.runs.results.profile import CUT, INTERVALS
from tests.support.browser import NEEDS_CHROMIUM, open_browser
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder


class Eraser(nn.Module):
    """Blocks of the identity, of which one removes the last feature for good."""

    def __init__(self, at: int, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(blocks)])
        with torch.no_grad():
            for i, block in enumerate(self.blocks):
                assert isinstance(block, nn.Linear)
                block.weight.copy_(torch.eye(6))
                block.bias.zero_()
                if i == at:
                    block.weight[5, 5] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def planted(at: int) -> tuple[Encoder, Dataset]:
    """An encoder that holds `gone` up to block `at` - 1 and erases it there, and keeps `kept` to its output."""
    rng = np.random.default_rng(0)
    n, steps = 150, 5
    values = rng.standard_normal((n, 6))
    samples = np.repeat(values[:, None], steps, axis=1) + 0.1 * rng.standard_normal((n, steps, 6))
    dataset = Dataset(
        "planted",
        "series",
        samples.astype(np.float32),
        [f"s{i}" for i in range(n)],
        np.resize(np.array(["train", "train", "train", "val", "test"]), n),
        {"gone": Target("state", values[:, 5]), "kept": Target("state", values[:, 0])},
    )
    encoder = TorchEncoder(
        "eraser",
        "series",
        Eraser(at),
        dx.stack_taps("blocks", 4, 6, dx.Grid((steps,), ("t",))),
        "blocks.3",
        lambda sample: torch.from_numpy(sample),
        samples[0].astype(np.float32),
    )
    return encoder, dataset


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.slow
def test_a_factor_erased_at_a_known_tap_is_found_there(tmp_path: Path, at: int) -> None:
    run = dx.run(*planted(at), out=tmp_path / "run", measures=["linear_probe"], report=False)
    gone, kept = run.profile("linear_probe/gone"), run.profile("linear_probe/kept")
    score = dict(zip(gone.taps, gone.data["score"].values, strict=True))
    assert all(score[f"blocks.{i}"] > 0.95 for i in range(at))
    assert all(score[f"blocks.{i}"] < 0.1 for i in range(at, 4))
    assert gone.hidden_gap is not None
    assert gone.hidden_gap.low > 0.8
    assert gone.reading.startswith("hidden by the output")
    # The negative control: what is not erased shows no gap.
    assert kept.hidden_gap is not None
    assert kept.hidden_gap.low <= 0 <= kept.hidden_gap.high
    assert kept.verdict in (Verdict.EXCLUDED, Verdict.UNDECIDED)
    # The raw input holds both, so nothing here is evidence of learning.
    assert "raw input" in gone.reading
    shuffled = gone.control("shuffled_labels")
    assert shuffled is not None
    assert shuffled.value < 0.2


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two classes apart by far, 16 of them in test; an encoder that says of itself that it was never trained."""
    rng, n = np.random.default_rng(0), 80
    side = np.resize([0, 1], n)
    samples = (rng.standard_normal((n, 5, 6)) + 20 * (2 * side - 1)[:, None, None]).astype(np.float32)
    dataset = Dataset(
        "easy",
        "series",
        samples,
        [f"s{i}" for i in range(n)],
        np.repeat(np.array(["train", "val", "test"]), [48, 16, 16]),
        {"side": Target("label", side, classes=("left", "right"))},
    )
    encoder = TorchEncoder(
        "mine:tiny?pretrained=false&seed=2",
        "series",
        Eraser(1),
        dx.stack_taps("blocks", 4, 6, dx.Grid((5,), ("t",))),
        "blocks.3",
        lambda sample: torch.from_numpy(sample),
        samples[0],
    )
    out = tmp_path_factory.mktemp("easy") / "run"
    return dx.run(encoder, dataset, out=out, measures=["linear_probe", "rankme"], controls=False)


def test_sixteen_of_sixteen_right_is_no_certainty(easy: Run) -> None:
    result = easy.profile("linear_probe/side")
    exact = stats.binomtest(16, 16).proportion_ci(0.95, "exact").low
    for interval in (result.score, result.output):
        assert interval is not None
        assert (interval.value, interval.high) == (1, 1)
        # Spread for the training set's share, of 16 test units to 64 that were fitted.
        assert interval.low == pytest.approx(1 - np.sqrt(1.25) * (1 - exact))
    assert "Clopper and Pearson" in result.data.attrs["intervals"]
    # Two taps that are right on the same 16 units may differ on others.
    assert result.hidden_gap is not None
    assert result.chosen_tap == result.output_tap != result.best_tap
    assert result.hidden_gap.low < -0.1 < 0 == result.hidden_gap.value < 0.1 < result.hidden_gap.high
    assert result.verdict is Verdict.UNDECIDED


def test_terminal_and_report_say_the_same_of_intervals_and_it_holds(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    print_page(run_page(run), Path("report.html"), full=True)
    page = run.report().read_text(encoding="utf-8").split("<body>", 1)[1]
    for text in (" ".join(capsys.readouterr().out.split()), html.unescape(page)):
        assert text.count(INTERVALS) == 1
        assert text.count(" never exceeds 1") == 1 + text.count(f"{CUT[0].upper()}{CUT[1:]}.")
    # One unit in five misses by 0.4 in the first tap and by 4 in the second: both would pass 1, the second falls below 0.
    loss, reference = np.zeros((2, 5)), np.ones((2, 5))
    loss[:, 0] = 0.4, 4.0
    score, low, high = profile_intervals(loss, reference, fit_units=2, seed=0)
    assert score == pytest.approx([0.92, 0.2])
    assert list(high) == [1, 1]
    assert low[1] < 0


def test_one_test_unit_that_decides_a_score_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An input that is the same for all samples but one of test, to whom a reader says what it likes."""
    encoder, _ = planted(1)
    rng, n = np.random.default_rng(3), 300
    values = rng.standard_normal((n, 6))
    split = np.resize(np.array(["train", "train", "train", "val", "test"]), n)
    truth = values[:, 0] + 0.3 * rng.standard_normal(n)
    scores = {}
    for name, far in (("far", 1e4), ("near", 0.0)):
        values[:, 5] = 1e-3 * rng.standard_normal(n)
        values[np.flatnonzero(split == "test")[7], 5] = far
        series = np.repeat(values[:, None], 5, axis=1).astype(np.float32)
        target = {"state": Target("state", truth)}
        data = Dataset(name, "series", series, [f"s{i}" for i in range(n)], split, target)
        result = dx.run(encoder, data, out=tmp_path / name, measures=["linear_probe"], controls=False)
        scores[name] = result.profile("linear_probe/state")
    assert scores["near"].cautions == []
    (caution,) = (profile := scores["far"]).cautions
    data = profile.data.sel(tap=profile.best_tap)
    kept = data["unit"].values != f"s{5 * 7 + 4}"
    without = 1 - data["loss"].values[kept].sum() / data["reference_loss"].values[kept].sum()
    assert f"s{5 * 7 + 4}," in caution
    assert f"at {profile.best_tap}: " in caution and f"and {without:.3f} without" in caution
    assert profile.units_needed is None
    print_page(run_page(dx.open_run(tmp_path / "far")), Path("report.html"))
    assert f"Beware: {caution}." in " ".join(capsys.readouterr().out.split())


def test_a_loss_that_few_units_carry_is_told_wherever_few_units_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One target with normal noise, one whose noise has hardly a variance, read from the same activations."""
    encoder, _ = planted(1)
    rng, n = np.random.default_rng(3), 300
    values = rng.standard_normal((n, 6))
    dataset = Dataset(
        "tails",
        "series",
        np.repeat(values[:, None], 5, axis=1).astype(np.float32),
        [f"s{i}" for i in range(n)],
        np.resize(np.array(["train", "train", "train", "val", "test"]), n),
        {
            "normal": Target("state", values[:, 0] + 0.5 * rng.standard_normal(n)),
            "heavy": Target("state", values[:, 0] + 0.3 * rng.standard_t(2, n)),
        },
    )
    result = dx.run(encoder, dataset, out=tmp_path / "run", measures=["linear_probe"], controls=False)
    profile = result.profile("linear_probe/heavy")
    caution, of_test = profile.cautions
    assert of_test == profile.outlier  # noise without a variance has its outlier there too
    # The splits are given, so that val decides; test is not looked at.
    loss = np.sort(profile.data["val_loss"].sel(tap=profile.chosen_tap).values)
    share = loss[-3:].sum() / loss.sum()
    assert caution.startswith(f"3 of 60 units carry {share:.0%} of the error of linear_probe/heavy")
    assert result.profile("linear_probe/normal").cautions == []
    assert profile.to_json()["cautions"] == [caution, of_test]
    print_page(run_page(result), Path("report.html"))
    brief = "Beware: a few units decide heavy, so intervals may be too narrow."
    assert brief in " ".join(capsys.readouterr().out.split())
    print_page(run_page(result), Path("report.html"), full=True)
    assert f"Beware: {caution}." in " ".join(capsys.readouterr().out.split())
    assert f"Beware: {caution}." in result.report().read_text(encoding="utf-8")
    other = dx.run(planted(2)[0], dataset, out=tmp_path / "other", measures=["linear_probe"], controls=False)
    comparison = dx.compare([result, other], similarity=None)
    assert f"{comparison.members[0].name}: {caution}" in cautions(comparison)


def test_untrained_weights_are_called_random(easy: Run, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_page(run_page(easy), Path("report.html"))
    assert "This encoder's weights are random: pretrained=false" in " ".join(capsys.readouterr().out.split())
    assert "weights are random: pretrained=false" in easy.report().read_text(encoding="utf-8")
    # Of what does not say so of itself nothing is said.
    print_page(run_page(run), Path("report.html"))
    assert "weights are random" not in capsys.readouterr().out
    assert "weights are random" not in run.report().read_text(encoding="utf-8")


def test_the_versions_of_packages_that_were_imported_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    options = {"measures": ["rankme"], "controls": False, "report": False}
    versions = dx.run(*planted(1), out=tmp_path / "with", **options).provenance("rankme")["versions"]
    assert versions["transformers"] == importlib.metadata.version("transformers")
    assert versions["torch"]
    monkeypatch.delitem(sys.modules, "transformers")
    versions = dx.run(*planted(1), out=tmp_path / "without", **options).provenance("rankme")["versions"]
    assert "transformers" not in versions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return dx.run(
        tiny_image_encoder(),
        tiny_dataset(40, "image", name="<script>alert(1)</script>"),
        out=tmp_path_factory.mktemp("runs") / "run",
    )


def test_json_has_what_was_promised(run: Run) -> None:
    result = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert set(result) >= {"run", "encoder", "dataset", "n", "profiles", "similarity"}
    assert result["n"] == {"train": 24, "val": 8, "test": 8}
    by_name = {(p["measure"], p["target"]): p for p in result["profiles"]}
    assert {("linear_probe", t) for t in ("kind", "level", "height")} <= set(by_name)
    assert {("knn_probe", "kind"), ("rankme", None), ("participation_ratio", None)} <= set(by_name)
    for profile in result["profiles"]:
        assert set(profile) >= {
            "measure", "target", "family", "higher_is_better", "taps", "depth", "score", "low", "high", "chosen_tap",
            "chosen_score", "chosen_on", "tap_set", "best_tap", "output_tap", "output_score", "hidden_gap", "gap_bound", "margin",
            "verdict", "readability", "units_needed", "controls",
        }  # fmt: skip
        assert profile["taps"] == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm"]
        assert set(profile["hidden_gap"]) == {"value", "low", "high"}
        assert set(profile["controls"]) == {
            "fresh_weights",
            "permuted_weights",
            "raw_input",
            "raw_input_kernel",
            "summary_statistics",
            "shuffled_labels",
        }
        # The kernel needs more samples than these.
        assert profile["controls"].pop("raw_input_kernel") is None
        facts = profile["attributes"]
        assert {"functional", "pooling", "seed"} <= set(facts), profile["measure"]
        assert any(key.startswith("n") for key in facts)
        if profile["target"]:
            assert all(value is not None for value in profile["controls"].values()), profile["target"]
            chosen, best = (profile["taps"].index(profile[key]) for key in ("chosen_tap", "best_tap"))
            assert profile["chosen_score"] == pytest.approx(profile["score"][chosen])
            gap = profile["score"][best] - profile["output_score"]
            assert profile["hidden_gap"]["value"] == pytest.approx(gap, abs=1e-12)
            assert profile["gap_bound"] >= profile["hidden_gap"]["high"]
            # Of 8 test units.
            assert profile["verdict"] == "undecided"
    (cka,) = [s for s in result["similarity"] if s["measure"] == "cka"]
    assert np.allclose(np.diag(cka["matrix"]), 1)


def test_a_planted_value_is_read_and_a_dense_one_per_cell(run: Run) -> None:
    level, height = run.profile("linear_probe/level"), run.profile("linear_probe/height")
    assert level.score is not None
    assert level.score.value > 0.9
    assert height.score is not None
    assert height.score.value > 0.5
    assert height.data.attrs["n_test"] == 8


def test_json_and_numpy_alone_read_the_results(run: Run) -> None:
    """As docs/explanation/store.md has it."""
    place = run.path / "results" / json.loads((run.path / "results.json").read_text())["index"].split()[0]
    index, numbers = json.loads((place / "index.json").read_text()), (place / "numbers").read_bytes()
    result = index["arrays"][""]["linear_probe/level"]
    score = result["data"]["score"]
    read = np.ndarray(score["shape"], score["dtype"], numbers, score["start"])
    np.testing.assert_array_equal(read, run.profile("linear_probe/level").data["score"])
    assert result["attrs"]["functional"] and result["coords"]["tap"]["texts"] == run.profile("linear_probe/level").taps
    assert isinstance(run.results, xr.DataTree)


@pytest.mark.slow
def test_the_same_command_again_gives_the_same_results_without_a_forward_pass(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(40)
    first = dx.run(encoder, dataset, out=tmp_path / "run").to_json()
    encoder.module.passes = 0
    second = dx.run(encoder, dataset, out=tmp_path / "run").to_json()
    assert encoder.module.passes == 4, (
        "over the example alone: whether it gives the same, whether controls give it too, and for each which weights it reads"
    )
    assert first == second


@pytest.mark.slow
def test_results_depend_on_neither_batch_size_nor_workers(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(40)
    one = dx.run(encoder, dataset, out=tmp_path / "one", batch_size=1, measures=["linear_probe"])
    other = dx.run(encoder, dataset, out=tmp_path / "other", batch_size=7, workers=1, measures=["linear_probe"])
    for p, q in zip(one.profiles(), other.profiles(), strict=True):
        np.testing.assert_allclose(p.data["score"], q.data["score"], atol=1e-4)


def test_the_encoder_is_left_as_it_was(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    before = copy.deepcopy(encoder.module.state_dict())
    dx.run(encoder, tiny_dataset(40), out=tmp_path / "run", measures=["rankme"], report=False)
    for key, value in encoder.module.state_dict().items():
        assert torch.equal(value, before[key])


def test_without_controls_there_are_none(tmp_path: Path) -> None:
    options = {"out": tmp_path / "run", "measures": ["linear_probe"], "report": False}
    run = dx.run(tiny_encoder(), tiny_dataset(40), controls=False, **options)
    assert not (run.path / "controls").exists()
    assert set(run.to_json()["profiles"][0]["controls"].values()) == {None}
    # Asked for later, they come without another pass of the encoder itself.
    assert dx.run(tiny_encoder(), tiny_dataset(40), **options).profile("linear_probe/level").controls


def test_a_control_that_fails_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    def broken() -> nn.Module:
        raise DiagnosticsError("no fresh weights today.")

    encoder = tiny_encoder(fresh=broken)
    run = dx.run(encoder, tiny_dataset(40), out=tmp_path / "run", measures=["linear_probe"], report=False)
    assert run.skipped["fresh_weights"] == "no fresh weights today."
    assert run.profile("linear_probe/level").control("permuted_weights") is not None


def test_a_module_that_cannot_be_copied_loses_its_controls_alone(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.module.lock = threading.Lock()
    run = dx.run(encoder, tiny_dataset(40), out=tmp_path / "run", measures=["linear_probe"], report=False)
    assert "cannot be made from tiny" in run.skipped["permuted_weights"]
    assert run.profile("linear_probe/level").control("raw_input") is not None


def test_controls_of_another_seed_are_refused_before_any_work(tmp_path: Path) -> None:
    options = {"out": tmp_path / "run", "measures": ["rankme"], "report": False}
    dx.run(tiny_encoder(), tiny_dataset(40), **options)
    with refusal("other-run", "0", "7"):
        dx.run(tiny_encoder(), tiny_dataset(40), seed=7, **options)


def test_a_target_known_in_part_keeps_its_controls_paired(tmp_path: Path) -> None:
    dataset = tiny_dataset(60)
    dataset.targets["level"].values[::3] = np.nan
    run = dx.run(tiny_encoder(), dataset, out=tmp_path / "run", measures=["linear_probe"], report=False)
    profile = run.profile("linear_probe/level")
    assert profile.data.attrs["n_test"] < 12
    assert all(profile.over(name) is not None for name in profile.controls)


def test_only_the_taps_asked_for_and_always_the_output(tmp_path: Path) -> None:
    run = dx.run(
        tiny_encoder(),
        tiny_dataset(40),
        out=tmp_path / "run",
        taps=["blocks.1"],
        measures=["rankme"],
        controls=False,
        report=False,
    )
    assert run.profiles()[0].taps == ["blocks.1", "norm"]


def test_no_tokens_leaves_token_measures_out_with_a_reason(tmp_path: Path) -> None:
    options = {"token_budget": 0, "controls": False, "report": False, "dense": "stored"}
    run = dx.run(tiny_image_encoder(), tiny_dataset(40, "image"), out=tmp_path / "run", **options)
    assert "--token-budget" in run.skipped["linear_probe/height"]
    assert "--token-budget" in run.skipped["self_similarity"]


def test_unfinished_and_half_copied_runs_do_not_open(run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run.path, copied)
    opened = dx.open_run(copied)
    assert opened.to_json()["profiles"] == run.to_json()["profiles"]
    for profile in opened.profiles():
        names = list(profile.data.data_vars)
        assert names == sorted(names), "the same order each time"
    next(copied.glob("results/*/numbers")).unlink()
    with refusal("damaged"):
        dx.open_run(copied).to_json()
    next((copied / "taps" / "norm" / "tokens").glob("c.*")).rename(tmp_path / "taken")
    with refusal("damaged"):
        dx.open_run(copied)


@pytest.mark.smoke
def test_the_report_escapes_names_and_keeps_to_itself(run: Run) -> None:
    page = run.report().read_text()
    own = page[: page.index("<script>")] + page[page.index("<body>") :]
    assert "&lt;script&gt;alert(1)" in own
    assert "<script>alert(1)" not in page
    assert not re.search(r"(src|href)=[\"']https?:", own)


def test_a_notebook_shows_the_tables_and_a_profile_its_figure(run: Run) -> None:
    shown = run._repr_html_()
    assert "linear_probe" in shown
    assert "plotly" not in shown
    assert "For level use" in shown and "Frame: the output" not in shown, "there is no picture"
    figure = run.profile("linear_probe/level").plot()
    (line,) = [trace for trace in figure.data if trace.name == "linear_probe"]
    np.testing.assert_allclose(line.y, run.profile("linear_probe/level").data["score"])
    assert {"fresh weights", "shuffled labels", "output tap"} <= {trace.name for trace in figure.data}


@NEEDS_CHROMIUM
@pytest.mark.browser
def test_the_report_draws_every_figure_without_a_request(run: Run) -> None:
    requests: list[str] = []
    errors: list[str] = []
    with open_browser() as browser:
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        path = run.report()
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .xtick').length > 0")
        page.wait_for_timeout(500)
        drawn = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].map(x => x.querySelectorAll('.trace, .hm').length)"
        )
        maps = page.evaluate("document.querySelectorAll('.hm image').length")
        buttons = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(x => x.dataset.title)")
        alerts = page.evaluate("document.title")
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert errors == []
    assert len(drawn) == len(run.profiles()) + len(run.similarity()) + 2, "and the pictures of all targets and tasks"
    assert all(count > 0 for count in drawn)
    assert maps > len(run.similarity())
    assert set(buttons) == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}, "none that uploads anything"
    assert "script" in alerts, "the title is text"


@NEEDS_CHROMIUM
@pytest.mark.browser
def test_tables_fit_the_page_and_no_bar_lies_over_a_legend(run: Run) -> None:
    path = run.report().as_uri()
    with open_browser() as browser:
        for width in (1100, 800):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(path)
            page.wait_for_function("document.querySelectorAll('.js-plotly-plot .xtick').length > 0")
            page.wait_for_timeout(500)
            beyond = page.evaluate("[...document.querySelectorAll('.summary')].map(x => x.scrollWidth - x.clientWidth)")
            # How far each bar reaches below the top of the drawing, in which the legend and the map are.
            over = page.evaluate("""[...document.querySelectorAll('.js-plotly-plot')].map(x =>
                x.querySelector('.modebar').getBoundingClientRect().bottom - x.querySelector('.main-svg').getBoundingClientRect().top)""")
            assert len(beyond) == 3
            if width == 1100:
                assert max(beyond) == 0
            assert over
            assert max(over) <= 0


@NEEDS_CHROMIUM
@pytest.mark.browser
def test_the_report_in_the_dark_on_a_phone_on_paper_and_as_csv(run: Run) -> None:
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
        page.goto(run.report().as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .xtick').length > 0")
        page.wait_for_timeout(500)
        wide = page.evaluate("document.documentElement.scrollWidth")
        dark = page.evaluate("""[getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector('.xtick text')).fill]""")
        link = page.locator("#probes ~ a.csv").first
        link.evaluate("x => x.addEventListener('click', event => event.preventDefault())")
        link.click()
        name, address = link.get_attribute("download"), link.get_attribute("href")
        # An A4 page less its margins is 695 pixels wide and 1,024 high.
        page.set_viewport_size({"width": 695, "height": 1024})
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_timeout(500)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        cut = page.evaluate("""[...document.querySelectorAll('.figure')].filter(x => {
            const box = x.querySelector('.main-svg').getBoundingClientRect();
            return box.right > innerWidth || box.height > 1024 || getComputedStyle(x).breakInside !== 'avoid'; }).length""")
        across = page.evaluate("[...document.querySelectorAll('table')].filter(x => x.scrollWidth > innerWidth).length")
    assert wide == 400, "nothing scrolls sideways but tables"
    assert dark == ["rgb(20, 25, 31)", "rgb(223, 230, 237)"]
    assert paper == "rgb(255, 255, 255)"
    assert (cut, across) == (0, 0)
    assert name == "What-the-taps-hold-and-what-the-output-hides.csv"
    assert address is not None and address.startswith("data:text/csv")
    header, *rows = csv.reader(unquote(address.partition(",")[2]).lstrip("\ufeff").splitlines())
    assert header[:7] == ["profile", "family", "chosen tap (depth)", "score", "score low", "score high", "output"]
    by_name = {row[0]: row for row in rows}
    score = run.profile("linear_probe/level").score
    assert score is not None
    assert [float(x) for x in by_name["linear_probe/level"][3:6]] == [score.value, score.low, score.high]


# Two runs


def test_taps_of_two_runs_are_compared_on_the_same_samples_only(tmp_path: Path) -> None:
    encoder, data = planted(1)
    options = {"measures": "participation_ratio", "controls": False, "report": False}
    first = dx.run(encoder, data, out=tmp_path / "first", **options)
    second = dx.run(planted(3)[0], data, out=tmp_path / "second", **options)
    for other in (second, tmp_path / "second", str(tmp_path / "second")):
        result = first.similarity_with(other)
        assert result["matrix"].dims == ("tap", "tap_other")
        # Both start from the same tokens, and only one erases a feature at block 1.
        assert float(result["matrix"].sel(tap="embed", tap_other="embed")) == pytest.approx(1)
        assert float(result["matrix"].sel(tap="blocks.1", tap_other="blocks.1")) < 0.99
        assert float(result["matrix"].sel(tap="blocks.3", tap_other="blocks.3")) == pytest.approx(1)
        assert float(result["p"].sel(tap="embed", tap_other="embed")) == pytest.approx(0.025)
    # Other samples under the same ids: only the content tells.
    changed = Dataset(
        "planted", "series", data.samples[::-1].copy(), data.ids, list(data.split), data.targets, about=data.about
    )
    third = dx.run(encoder, changed, out=tmp_path / "third", **options)
    with refusal("not-comparable", "fingerprints"):
        first.similarity_with(third)
    fewer = Dataset(
        "planted",
        "series",
        data.samples[:100],
        data.ids[:100],
        list(data.split[:100]),
        {name: Target(t.kind, t.values[:100]) for name, t in data.targets.items()},
    )
    fourth = dx.run(encoder, fewer, out=tmp_path / "fourth", **options)
    with refusal("not-comparable", "cka"):
        first.similarity_with(fourth)


def test_names_may_come_as_one_text_and_what_is_no_encoder_is_said(tmp_path: Path) -> None:
    encoder, data = planted(1)
    run = dx.run(
        encoder, data, out=tmp_path / "run", taps="blocks.1", measures="rankme, cka", controls=False, report=False
    )
    assert [p.measure for p in run.profiles()] == ["rankme"]
    assert run.profile("rankme").taps == ["blocks.1", "blocks.3"]
    with refusal("bad-type", "diagnostics.Encoder"):
        dx.run([2, 2], data, out=tmp_path / "none")
    with refusal("bad-type", "Target l of d"):
        Dataset("d", "series", data.samples, data.ids, list(data.split), {"l": [1, 2]})
    with refusal("bad-target", "2 classes"):
        Dataset(
            "d",
            "series",
            data.samples,
            data.ids,
            list(data.split),
            {"l": Target("label", np.arange(150) % 3, classes=("a", "b"))},
        )

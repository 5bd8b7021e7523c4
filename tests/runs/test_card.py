"""The section for a model card: its numbers, its metadata, its picture, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import diagnostics as dx
from diagnostics.runs.pages.card import plain, write_card
from diagnostics.runs.pages.explorer import readouts
from tests.support.commands import diagnose, refused
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dx.Run:
    options = {"measures": ["linear_probe", "rankme"], "controls": False, "report": False}
    out = tmp_path_factory.mktemp("card") / "run"
    return dx.run(tiny_image_encoder(), tiny_dataset(40, "image"), out=out, **options)


def test_a_card_names_the_layer_of_each_target_with_the_runs_numbers(run: dx.Run, tmp_path: Path) -> None:
    path = write_card(run, tmp_path / "card.md")
    text = path.read_text(encoding="utf-8")
    assert "32 samples to fit probes and to choose with, 8 to score" in text
    assert "(card.svg)" in text
    assert (tmp_path / "card.svg").read_text(encoding="utf-8").startswith("<?xml")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    advice = {r.target: r for r in run.recommendations()}
    assert len(rows) == len(advice) > 0
    for row in rows:
        target = row[0].removeprefix("| ").rpartition(" (")[0].replace("\\", "")
        assert row[1] == plain(advice[target].tap or "-")
        assert row[3].startswith(plain(f"{advice[target].output.value:.3f}"))


def test_a_finished_run_is_read_without_torch(run: dx.Run, tmp_path: Path) -> None:
    code = (
        "import sys, diagnostics as dx; from diagnostics.cli.main import main\n"
        "run, out = sys.argv[1:]\n"
        "read = dx.open_run(run); read.recommend(read.recommendations()[0].target), read.to_dataframe()\n"
        "for command in (['card', '--out', out], ['show', '--json'], ['runs']):\n"
        "    sys.argv = ['diagnostics', *command, run]\n"
        "    try: main()\n"
        "    except SystemExit as left: assert not left.code, command\n"
        "    print(sorted({'torch', 'sklearn', 'timm', 'zarr'} & {*sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, str(run.path), str(tmp_path / "card.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n" * 3


def test_the_metadata_is_yaml_with_the_scores_at_the_layer_and_at_the_output(run: dx.Run, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which packages of the docs and of hubs bring")
    _, metadata, _ = write_card(run, tmp_path / "card.md").read_text(encoding="utf-8").split("---\n", 2)
    (model,) = yaml.safe_load(metadata)["model-index"]
    assert model["name"] == run.encoder_name
    advice = run.recommendations()
    named = {result["task"]["name"]: result for result in model["results"]}
    assert set(named) == {f"{r.measure} of {r.target}" for r in advice}
    for r in advice:
        result = named[f"{r.measure} of {r.target}"]
        assert result["dataset"]["revision"] == run.record.dataset.fingerprint
        values = {metric["name"]: metric["value"] for metric in result["metrics"]}
        assert values[f"{r.score_name} at the output, {r.output_tap}"] == pytest.approx(r.output.value, abs=1e-4)
        assert len(values) == 1 + bool(r.tap and not r.at_output)


def test_the_hub_reads_the_scores_beside_the_card(run: dx.Run, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which packages of the docs and of hubs bring")
    hub = pytest.importorskip("huggingface_hub", reason="timm and transformers bring it")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip("this huggingface_hub is older than the form")
    write_card(run, tmp_path / "card.md")
    read = hub.parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "card.yaml").read_text("utf-8")))
    advice = {r.target: r for r in run.recommendations() if r.tap and r.score}
    assert {one.task_id: one.value for one in read} == {
        name: pytest.approx(r.score.value, abs=1e-4) for name, r in advice.items() if r.score
    }
    assert {one.dataset_revision for one in read} == {run.record.dataset.fingerprint}


def test_names_in_the_metadata_cannot_be_read_as_html(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which packages of the docs and of hubs bring")
    name = 'a <script>alert("&")</script> b'
    data = dx.Dataset(
        name, "image", **{k: getattr(tiny_dataset(40, "image"), k) for k in ("samples", "ids", "split", "targets")}
    )
    options = {"measures": ["linear_probe"], "controls": False, "report": False}
    run = dx.run(tiny_image_encoder(), data, out=tmp_path / "run", **options)
    _, metadata, _ = write_card(run, tmp_path / "card.md").read_text(encoding="utf-8").split("---\n", 2)
    assert not set("<>&") & set(metadata)
    assert yaml.safe_load(metadata)["model-index"][0]["results"][0]["dataset"]["name"] == name


def test_the_command_writes_it_into_the_run_or_where_it_is_asked_to(run: dx.Run, tmp_path: Path) -> None:
    assert diagnose("card", run.path) == (0, f"{run.path / 'card.md'}\n", "")
    assert diagnose("card", run.path, "-o", tmp_path / "layers.md").out == f"{tmp_path / 'layers.md'}\n"
    assert (tmp_path / "layers.svg").is_file()
    assert refused("card", run.path, "-o", tmp_path / "absent" / "a.md").startswith("There is no folder")
    assert not (tmp_path / "absent").exists()
    assert refused("card", run.path, "-o", tmp_path / "a.svg").startswith("A card is Markdown")
    assert not (tmp_path / "a.svg").exists()


def test_a_card_replaces_itself_and_no_text_of_another_hand(run: dx.Run, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    card = write_card(run, path).read_text(encoding="utf-8")
    assert write_card(run, path).read_text(encoding="utf-8") == card
    for text in ("# My model\n", card.replace("---\n", "---\nlicense: mit\n", 1), f"{card}\n# My model\n"):
        path.write_text(text, encoding="utf-8")
        with refusal("occupied", path):
            write_card(run, path)
        assert path.read_text(encoding="utf-8") == text


def test_a_run_without_a_probe_has_no_card(tmp_path: Path) -> None:
    options = {"measures": ["rankme"], "controls": False, "report": False}
    run = dx.run(tiny_image_encoder(), tiny_dataset(40, "image"), out=tmp_path / "run", **options)
    with refusal("no-target"):
        write_card(run, tmp_path / "card.md")
    assert not (tmp_path / "card.svg").exists()


def test_card_and_explorer_count_independent_units_beside_samples(tmp_path: Path) -> None:
    run = dx.run(
        tiny_encoder(),
        tiny_dataset(40, group_size=2),
        out=tmp_path / "run",
        measures="linear_probe",
        controls=False,
        report=False,
    )
    assert "of 4 independent" in write_card(run, tmp_path / "card.md").read_text(encoding="utf-8")
    assert [each.test_units for each in readouts(run)] == [4, 4]

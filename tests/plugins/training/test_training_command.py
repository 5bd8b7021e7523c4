"""`diagnostics train objectives`: from a name of data to encoders that `run` takes; and the encoders by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("timm")

from diagnostics_training.jobs import TrainJob
from diagnostics_training.models.inputs import Views, prepare
from diagnostics_training.plugin import next_lines
from diagnostics_training.train import train
from diagnostics_training.trainer.checkpoint import FILE as CHECKPOINT
from diagnostics_training.trainer.data import Feed, load, rendering_notice, training_spec
from diagnostics_training.trainer.objective import Objective

import diagnostics as dx
import diagnostics.cli.main as cli
from diagnostics import Dataset, DiagnosticsError, build, load_encoder, save_encoder
from diagnostics.checks.conformance import check_encoder
from diagnostics.cli.encoders import requests_by_step
from diagnostics.cli.main import app
from diagnostics.registry import Entry, Plugin
from diagnostics.runs.options import Request, default_folder
from tests.support.refusals import refusal

SMALL = ["--width", "16", "--depth", "2", "--heads", "2", "--steps", "6", "--batch", "8"]
DATA = "lorenz?n=40&length=64"


def command() -> typer.Typer:
    """The plugin's command, as the command line has it."""
    from diagnostics_training.plugin import train_objectives

    app = typer.Typer()
    app.command()(cli.guard(train_objectives, "training"))
    return app


def run(*words: str) -> Any:
    return CliRunner().invoke(command(), [*words])


def test_from_the_command_to_encoders_and_back_again(tmp_path: Path) -> None:
    words = ["--data", DATA, "--objective", "jepa,random", "--seeds", "2", "--out", str(tmp_path), *SMALL, "--json"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["encoders"]
    assert [(Path(row["path"]).name, row["name"], row["objective"], row["seed"], row["steps"]) for row in rows] == [
        ("jepa", "lorenz-jepa", "jepa", 0, 6),
        ("jepa-seed1", "lorenz-jepa-seed1", "jepa", 1, 6),
        ("random", "lorenz-random", "random", 0, 0),
        ("random-seed1", "lorenz-random-seed1", "random", 1, 0),
    ]
    assert "4 encoders on lorenz?n=40&length=96&seed=1000, the 24 samples of its train split" in result.stderr
    encoder = load_encoder(rows[1]["path"])
    assert encoder.name == "lorenz-jepa-seed1"
    assert {key: encoder.lineage[key] for key in ("group", "seed", "objective", "steps")} == {
        "group": "jepa",
        "seed": 1,
        "objective": "jepa",
        "steps": 6,
    }
    assert encoder.lineage["data"].startswith("lorenz?n=40&length=96&seed=1000, the 24 samples")
    assert encoder.lineage["how"].startswith("diagnostics train objectives --data 'lorenz?n=40&length=64' --objective")
    assert not check_encoder(encoder).failed
    assert build("encoder", rows[0]["path"]).identity["weights"] != encoder.identity["weights"]
    assert not (tmp_path / "jepa" / CHECKPOINT).exists()
    # Random is what training of the seed starts from, and is not what the control of fresh weights draws.
    random = load_encoder(rows[2]["path"])
    start = build("encoder", "objective:random?length=64&width=16&depth=2&heads=2&seed=0")
    assert random.identity["weights"] == start.identity["weights"] != random.fresh(0).identity["weights"]

    before = (tmp_path / "jepa" / "encoder.safetensors").stat().st_mtime_ns
    again = run(*words)
    assert json.loads(again.stdout)["encoders"] == rows
    assert "jepa is finished" in again.stderr
    assert (tmp_path / "jepa" / "encoder.safetensors").stat().st_mtime_ns == before

    other = run(*words, "--lr", "0.01")
    assert other.exit_code == 2
    assert "was written with other settings (--lr 0.001, not 0.01): give another --out" in other.stderr


def test_how_it_is_trained_is_asked_for_and_recorded(tmp_path: Path) -> None:
    """What changes no number may differ when the command is given again."""
    words = ["--data", DATA, "--objective", "jepa", "--out", str(tmp_path), *SMALL]
    how = "--optimiser lamb --schedule constant --cooldown 0.5 --warmup 2 --clip 0.5 --accumulate 2 --precision bf16"
    assert run(*words, *how.split(), "--recompute", "--workers", "1", "--encoder-every", "1").exit_code == 0
    rates = [json.loads(line)["lr"] for line in (tmp_path / "jepa" / "metrics.jsonl").read_text().splitlines()]
    assert rates == [pytest.approx(1e-3 / 3)]
    assert set(how.split()) <= set(load_encoder(tmp_path / "jepa").lineage["how"].split())
    assert "jepa is finished" in run(*words, *how.split()).stderr
    other = run(*words)
    assert other.exit_code == 2
    for option in (
        "--accumulate 2, not 1",
        "--clip 0.5, not 1.0",
        "--optimiser lamb, not adamw",
        "--warmup 2.0, not 0.1",
    ):
        assert option in other.stderr


def test_all_encoders_on_the_way_are_measured_and_compared_by_one_command(tmp_path: Path) -> None:
    words = ["--data", DATA, "--objective", "jepa", "--out", str(tmp_path), *SMALL, "--steps", "15"]
    assert run(*words, "--encoder-every", "5").exit_code == 0
    asked = ["run", f"{tmp_path}/jepa/steps", "--data", DATA, "--measures", "linear_probe", "--no-controls"]
    done = CliRunner().invoke(app, [*asked, "--out", f"{tmp_path}/runs", "--json"])
    assert done.exit_code == 0, done.output
    found, kinds = json.loads(done.stdout), {"measures": "linear_probe", "controls": False, "report": False}
    # In the order of steps, and the last one from around them.
    encoders = {"5": "jepa/steps/5", "10": "jepa/steps/10", "last": "jepa"}
    assert [Path(row["run"]).name for row in found["runs"]] == [*encoders]
    each = [
        dx.run(str(tmp_path / path), DATA, out=tmp_path / "alone" / name, **kinds) for name, path in encoders.items()
    ]
    assert len({row.store.identity["weights"] for row in each}) == 3
    assert dx.compare(each).to_json()["profiles"] == found["profiles"]
    assert len([*(tmp_path / "runs").glob("comparison-*.html")]) == 1
    # A saved encoder is itself, whatever lies in its folder; launches share one run alone.
    assert not requests_by_step(Request(encoder=str(tmp_path / "jepa"), dataset=DATA))
    assert CliRunner().invoke(app, [*asked, "--part", "1/2"]).exit_code == 2


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    result = run("--data", DATA, "--objective", "jepa", "--out", str(tmp_path / "new"), *SMALL)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "new").exists()


def test_the_last_line_is_the_next_command(tmp_path: Path) -> None:
    result = run("--data", DATA, "--objective", "random", "--out", str(tmp_path), *SMALL)
    assert result.stdout.splitlines() == [
        f"{tmp_path / 'random'}: untrained",
        f"Next: diagnostics run {tmp_path / 'random'} --data '{DATA}'",
    ]


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", DATA, "--objective", "jepa", "--out", str(tmp_path), *SMALL]
    drawn = Feed.__call__

    def interrupted(self: Feed, step: int, *processes: int) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return drawn(self, step, *processes)

    monkeypatch.setattr(Feed, "__call__", interrupted)
    result = run(*words)
    assert result.exit_code == 130
    assert f"the same command starts again, since there was no checkpoint yet in {tmp_path / 'jepa'}" in result.stderr
    small: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "steps": 6, "batch": 8}
    with pytest.raises(KeyboardInterrupt, match="resumes from its last checkpoint"):
        train(TrainJob(data=DATA, objective="jepa", out=tmp_path, checkpoint_every=2, **small))
    monkeypatch.setattr(Feed, "__call__", drawn)
    result = run(*words)
    assert result.exit_code == 0
    assert "jepa: resumes from step 4 of 6" in result.stderr


def test_no_encoder_is_overwritten_but_its_own(tmp_path: Path) -> None:
    """Whatever else lies in the folder is refused and left; what a kill left between the last two moves is finished."""
    words = ["--data", DATA, "--objective", "jepa", "--out", str(tmp_path), *SMALL]
    assert run(*words).exit_code == 0
    folder = tmp_path / "jepa"
    file, summary = folder / "encoder.safetensors", folder / "training.json"
    own, record = file.read_bytes(), summary.read_text()
    other = build("encoder", "objective:jepa?length=64&width=16&depth=2&heads=2&seed=9")
    save_encoder(folder, other)
    foreign = file.read_bytes()
    result = run(*words)
    assert result.exit_code == 2
    assert "is not the encoder that training.json in that folder describes" in result.stderr
    summary.unlink()
    result = run(*words)
    assert result.exit_code == 2
    assert "is an encoder that this command did not make, and would be overwritten: give another --out" in result.stderr
    assert file.read_bytes() == foreign
    # An encoder that is gone is made again.
    summary.write_text(record)
    file.unlink()
    assert run(*words).exit_code == 0
    assert file.read_bytes() == own


@pytest.mark.parametrize("objective", ["jepa", "random"])
@pytest.mark.parametrize("last", ["training.json", "encoder.safetensors"])
def test_a_kill_before_one_of_the_last_moves_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, last: str
) -> None:
    """Also of an encoder that is not trained, of which there is no checkpoint."""
    words = ["--data", DATA, "--objective", objective, "--out", str(tmp_path), *SMALL]
    moved = Path.replace

    def killed(self: Path, to: Path) -> Any:
        if Path(to).name == last:
            raise KeyboardInterrupt
        return moved(self, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        assert run(*words).exit_code == 130
    result = run(*words)
    assert result.exit_code == 0
    assert objective == "random" or "jepa: resumes from step 6 of 6" in result.stderr
    assert "is finished" in run(*words).stderr
    left = {file.name for file in (tmp_path / objective).iterdir()} - {"metrics.jsonl", "tensorboard"}
    assert left == {"encoder.safetensors", "training.json"}


@pytest.mark.parametrize("part", ["loss", "steps"])
def test_a_record_that_changed_since_is_refused(tmp_path: Path, part: str) -> None:
    words = ["--data", DATA, "--objective", "random", "--out", str(tmp_path), *SMALL]
    assert run(*words).exit_code == 0
    record = tmp_path / "random" / "training.json"
    kept = json.loads(record.read_text())
    kept["row"][part] = 7
    record.write_text(json.dumps(kept))
    result = run(*words)
    assert result.exit_code == 2 and "cannot be read as the summary of a training" in result.stderr


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    words = ["--data", DATA, "--objective", "contrastive", "--positives", "temporal", "--out", str(tmp_path)]
    assert run(*words, *SMALL).exit_code == 0
    result = run("--data", "lorenz?n=50&length=64", *words[2:4], "--out", str(tmp_path), *SMALL, "--depth", "1")
    assert (
        "was written with other settings (--data lorenz?n=40&length=96&seed=1000, not lorenz?n=50&length=96&seed=1000; --depth 2, not 1; "
        "--positives temporal, not views)"
    ) in result.stderr


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("--data", DATA, "--objective", "jepa", "--out", str(tmp_path / "file"), *SMALL)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"diagnostics: Folder {tmp_path / 'file' / 'jepa'} cannot be made (Not a directory)"
    )


def test_what_is_trained_is_said_first_and_what_is_next_last(tmp_path: Path) -> None:
    result = run("--data", DATA, "--objective", "jepa,random", "--out", str(tmp_path), *SMALL, "--steps", "30")
    message = result.stderr.splitlines()
    assert message[0].startswith("2 encoders on lorenz?n=40")
    assert re.fullmatch(rf"jepa: trains [0-9,]+ parameters for 30 steps on \w+; writes to {tmp_path}/jepa", message[1])
    assert re.search(r"jepa: about \d+ s more", "\n".join(message[2:]))
    models = [f"{tmp_path}/jepa", f"{tmp_path}/random"]
    assert result.stdout.splitlines()[-2:] == [
        f"Next: diagnostics run {models[0]} --data '{DATA}' && diagnostics run {models[1]} --data '{DATA}'",
        f"Then: diagnostics compare {' '.join(str(default_folder(model, DATA)) for model in models)}",
    ]


def test_the_next_commands_find_the_runs_where_they_are_by_default() -> None:
    assert next_lines(["a", "b", "c d"], "lorenz?n=4") == [
        "Next: for model in a b 'c d'; do diagnostics run \"$model\" --data 'lorenz?n=4'; done",
        "Then: diagnostics compare runs/a-lorenz-n-4 runs/b-lorenz-n-4 runs/c-d-lorenz-n-4",
    ]


def test_an_interrupted_training_is_no_encoder_yet(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"")
    with refusal("missing-file", "not finished"):
        build("encoder", str(tmp_path))


def test_scenes_are_announced() -> None:
    assert rendering_notice("shapes") == "makes 6,000 scenes of shapes?n=6000&seed=1000, which takes a while"
    assert rendering_notice("shapes?frames=4").startswith("makes 1,500 clips of")
    assert rendering_notice("shapes?n=20") == rendering_notice("lorenz") == rendering_notice("digits") == ""


@pytest.mark.parametrize("modality", ["image", "video"])
def test_every_objective_on_pictures_and_clips(tmp_path: Path, modality: str) -> None:
    data = "shapes?n=20&size=32" + ("&frames=2" if modality == "video" else "")
    for row in train(
        TrainJob(data=data, modality=modality, out=tmp_path, steps=2, batch=4, width=16, depth=2, heads=2)
    ):
        encoder = load_encoder(row["path"])
        assert encoder.modality == modality
        assert encoder.name == f"shapes-{row['objective']}"
        assert not check_encoder(encoder).failed


def test_photos_of_unequal_size_train_an_encoder_that_reads_them(tmp_path: Path) -> None:
    """They are brought to the shortest side of all that patches fit, by the rule of every other encoder, before and after training."""
    shapes = [(20, 30), (35, 21), (40, 40), (18, 60), (64, 19)] * 4
    rng = np.random.default_rng(0)
    for i, shape in enumerate(shapes):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(tmp_path / f"photos/{'ab'[i % 2]}/{i}.png")
    data = f"images:{tmp_path / 'photos'}"
    (row,) = train(
        TrainJob(data=data, objective="jepa", out=tmp_path / "models", steps=2, batch=4, width=16, depth=1, heads=2)
    )
    encoder, photos = load_encoder(row["path"]), build("dataset", data)
    assert encoder.example().shape == (16, 16, 3)
    features = encoder.transform(photos)
    assert features.shape == (20, 16)
    photo = np.asarray(photos[1])
    height, width = photo.shape[:2]
    (top, bottom), (left, right) = encoder.covers((height, width))
    assert bottom - top == right - left == min(height, width)
    middle = photo[int(top) : int(bottom), int(left) : int(right)]
    wanted = np.asarray(Image.fromarray(middle).resize((16, 16), Image.Resampling.BILINEAR)).astype(float)
    found = encoder.preprocess(photo).movedim(0, -1).numpy() * 0.25 * 255 + 0.5 * 255
    assert np.abs(found - wanted).max() <= 1.001  # Pillow's own rounding


def test_several_variates(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import numpy as np, diagnostics as dx\n"
        "def build():\n"
        "    x = np.random.default_rng(0).standard_normal((30, 48, 3)).astype('float32')\n"
        "    ids = [str(i) for i in range(30)]\n"
        "    return dx.Dataset('mine', 'series', x, ids, list(dx.split_groups(ids, 0)),"
        " {'a': dx.Target('value', x[:, 0, 0])})\n"
    )
    for row in train(TrainJob(data=f"{source}:build", out=tmp_path, steps=2, batch=4, width=16, depth=2, heads=2)):
        encoder = load_encoder(row["path"])
        assert encoder.taps[0].grid.shape == (3,)
        assert not check_encoder(encoder).failed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", DATA, "--objective", "jeppa"], "no objective 'jeppa': choose from forecast"),
        (["--data", DATA, "--modality", "image"], "lorenz holds series, not image"),
        (["--data", DATA, "--seeds", "0"], "0 seeds: give at least 1"),
        (["--data", DATA, "--regulariser", "x"], "no regulariser 'x'"),
        (["--data", DATA, "--likelihood", "x"], "Unknown likelihood 'x': there are gaussian, quantile"),
        (
            ["--data", DATA, "--likelihood", "x", "--objective", "jepa"],
            "Unknown likelihood 'x': there are gaussian, quantile",
        ),
        (
            ["--data", DATA, "--positives", "temporel", "--objective", "jepa"],
            "Unknown positives 'temporel': did you mean temporal?",
        ),
        (
            ["--data", DATA, "--width", "33"],
            "among 4 heads in pairs, as sines and cosines of positions need it: give a multiple of 8",
        ),
        (["--data", DATA, "--patch", "100"], "cannot be cut into patches of 100: give --patch 64, which"),
        (["--data", DATA, "--patch", "0"], "cannot have a size of 0"),
        (["--data", DATA, "--steps", "0"], "cannot have steps 0"),
        (["--data", "shapes?n=20&size=33"], "(33x33) cannot be cut into patches of 8: give --patch 11"),
        (["--data", "shapes?n=20&size=32&frames=3"], "(3x32x32) cannot be cut into patches of 2 frames"),
        (["--data", DATA, "--batch", "100"], "cannot be drawn from 24 train samples"),
        (["--data", DATA, "--device", "cuda"], "no GPU for device cuda"),
        (["--data", "lorenz?n=5"], "cannot have n=5"),
        (["--data", DATA, "--optimiser", "muon"], "no optimiser muon: choose adamw or lamb"),
        (["--data", DATA, "--cooldown", "0.5"], "A cosine schedule falls by itself"),
        (["--data", DATA, "--batch", "8", "--accumulate", "2"], "The loss of contrastive compares the samples"),
        (
            ["--data", DATA, "--batch", "8", "--accumulate", "2", "--objective", "jepa", "--regulariser", "sigreg"],
            "The loss of jepa compares the samples",
        ),
        (["--data", DATA, "--batch", "8", "--accumulate", "9", "--objective", "jepa"], "cannot be computed in 9 parts"),
        (
            ["--data", "shapes?n=20&size=32", "--objective", "contrastive", "--positives", "temporal"],
            "are for series and clips",
        ),
        (["--data", "shapes?n=20&size=32", "--batch", "4", "--positives", "temporal"], "are for series and clips"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(*words, "--out", str(tmp_path / "models"))
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    # Nothing is announced before it is refused.
    assert result.stderr.startswith("diagnostics: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "models").exists()


# Data


@pytest.mark.parametrize("name", ["lorenz", "pendulum", "damped_oscillator", "arma", "changepoint", "shapes"])
def test_simulated_data_named_alone_are_many_and_of_another_seed(name: str) -> None:
    spec, length = training_spec(name)
    assert spec.startswith(f"{name}?n={'6000' if name == 'shapes' else '20000'}&seed=1000")
    assert length == (None if name == "shapes" else 512)
    assert training_spec(f"{name}?seed=3&n=50")[0].startswith(f"{name}?seed=3&n=50")


def test_other_data_stay_as_they_were_asked_for() -> None:
    assert training_spec("digits") == ("digits", None)
    assert training_spec("mine.py:build?n=4") == ("mine.py:build?n=4", None)


def test_nothing_that_is_probed_was_trained_on() -> None:
    """Train series are those of the train split, and share no window with what `run` shows."""
    data, probed = load("lorenz?n=60&length=64"), build("dataset", "lorenz?n=60&length=64")
    dataset: Dataset = build("dataset", data.spec)
    assert len(data.samples) == 36
    assert all(dataset.split[row] == "train" for row in data.rows)
    assert data.ids == tuple(dataset.ids[row] for row in data.rows)
    assert np.array_equal(data.samples, np.stack([dataset[int(row)] for row in data.rows]))
    assert data.samples.shape[1] == 96
    assert data.extent == (64,)
    windows = {
        w.astype(np.float32).tobytes() for x in data.samples for w in np.lib.stride_tricks.sliding_window_view(x, 8)
    }
    assert not any(x[start : start + 8].tobytes() in windows for x in probed.samples for start in range(56))
    kept = load("lorenz?n=60&length=64", windows=False)
    assert kept.samples.shape[1] == 64


def test_an_epoch_shows_each_sample_once_and_processes_share_a_batch() -> None:
    samples = np.arange(24, dtype=np.float32)[:, None] * np.ones((1, 8), np.float32)
    samples[:, 0] += 1  # not constant, so that norming keeps it apart
    samples = samples + np.random.default_rng(0).standard_normal(samples.shape).astype(np.float32)
    beside = {"labels": np.arange(24)[:, None]}
    objective = Objective()
    objective.pairs = True
    feed = Feed(samples, Views("series", (8,)), objective, 8, 0, beside)
    epochs = [
        torch.cat([feed(step)["labels"] for step in range(3 * e, 3 * e + 3)]).flatten().tolist() for e in range(2)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1]
    assert [feed.ids(step) for step in (0, 3)] == [
        [str(i) for i in feed(step)["labels"].flatten().tolist()] for step in (0, 3)
    ]
    whole, parts = feed(4), [feed(4, rank, 2) for rank in range(2)]
    for key in ("x", "y", "labels"):
        assert torch.equal(whole[key], torch.cat([part[key] for part in parts]))
    with refusal("bad-value", "3"):
        feed(0, 0, 3)


def test_series_are_windows_normed_as_in_use() -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((5, 30)).astype(np.float32)
    drawn = Views("series", (20,)).draw(rng, 5, samples)
    built = Views("series", (20,)).make(samples, drawn | {"noise": 0 * drawn["noise"], "scale": 0 * drawn["scale"] + 1})
    assert len(set(drawn["start"].tolist())) > 1
    for row, start in enumerate(drawn["start"]):
        assert torch.allclose(built[row], prepare("series", samples[row : row + 1, start : start + 20])[0], atol=1e-6)
    end = Views("series", (20,), moves=False, noise=False).draw(rng, 5, samples)
    assert set(end["start"].tolist()) == {10}
    assert not end["noise"].any()
    assert drawn["noise"].std() == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_a_crop_is_the_part_of_the_picture_that_was_drawn(mirror: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    views = Views("image", (8, 8))
    # The quarter with rows 8 to 16 and columns 0 to 8.
    drawn = {
        "half": np.array([[0.5, 0.5]]),
        "centre": np.array([[0.5, -0.5]]),
        "mirror": np.array([mirror]),
        "colour": np.ones((1, 3)),
    }
    part = picture[0, 8:, :8].astype(np.float32).transpose(2, 0, 1) / 255
    part = part[..., ::-1].copy() if mirror < 0 else part
    assert torch.allclose(views.make(picture, drawn)[0], (torch.from_numpy(part) - 0.5) / 0.25, atol=1e-4)


def test_crops_stay_within_the_picture_and_all_frames_are_treated_alike() -> None:
    rng = np.random.default_rng(0)
    clip = np.repeat(rng.integers(0, 256, (4, 1, 16, 16, 3)).astype(np.uint8), 3, axis=1)
    views = Views("video", (3, 16, 16))
    drawn = views.draw(rng, 4, clip)
    built = views.make(clip, drawn)
    assert built.shape == (4, 3, 3, 16, 16)
    assert torch.equal(built[:, :, 0], built[:, :, 2])
    many = views.draw(rng, 1000, clip)
    assert (np.abs(many["centre"]) + many["half"] <= 1 + 1e-9).all()
    assert (many["half"] ** 2).prod(1).min() ** 0.5 > 0.39
    assert set(many["mirror"]) == {-1.0, 1.0}


# Names


def test_untrained_encoders_by_name() -> None:
    spec = "objective:forecast?length=64&width=16&depth=2&heads=2&patch=8"
    first, again = build("encoder", spec), build("encoder", spec)
    assert first.identity == again.identity != build("encoder", spec + "&seed=1").identity
    assert [tap.name for tap in first.taps] == ["embed", "blocks.0", "blocks.1", "norm", "head.forecast"]
    assert [tap.depth for tap in first.taps] == [0, 0.5, 1, 1, 1.5]
    assert first.output_tap == "norm"
    assert build("encoder", first.skeleton).identity == first.identity


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("objective:jeppa", "Unknown objective 'jeppa'"),
        ("objective:jepa?length=100", "cannot be cut into patches of 16"),
        ("objective:jepa?modality=text", "Unknown modality 'text'"),
        ("objective:jepa?modality=video&frames=3", "frames=3 cannot be cut"),
        ("objectives:../../etc/passwd", "no trained encoder 'objectives:../../etc/passwd'"),
        ("objectives:lorenz-jepa?training_seed=77", "no trained encoder 'objectives:lorenz-jepa-seed77'"),
    ],
)
def test_names_that_cannot_be_are_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        build("encoder", spec)


@pytest.mark.parametrize("sample", [np.zeros((64, 2)), np.zeros(60), np.full(64, np.nan), np.zeros((4, 64, 2))])
def test_samples_that_do_not_fit_are_refused(sample: np.ndarray) -> None:
    with pytest.raises(DiagnosticsError):
        build("encoder", "objective:random?length=64&width=16&depth=1&heads=2&patch=8").preprocess(sample)


def test_a_longer_series_has_a_longer_grid() -> None:
    encoder = build("encoder", "objective:jepa?length=64&width=16&depth=1&heads=2&patch=8")
    longer = encoder.sized_for(np.zeros(128))
    assert longer.taps[0].grid.shape == (16,)
    assert longer.identity["weights"] == encoder.identity["weights"]


# Groups of commands


def test_a_name_of_two_words_is_a_command_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(word: str) -> None:
        """Says a word."""
        print(f"one {word}")

    def two() -> None:
        print("two")

    plugin = Plugin("mine", "1", "mine")
    commands = {"grow one": one, "grow two": two, "flat": two, "run x": one}
    result = {name: (plugin, Entry(command)) for name, command in commands.items()}
    monkeypatch.setattr(cli, "app", typer.Typer())
    cli.app.command("run")(two)
    monkeypatch.setattr(cli, "plugin_entries", lambda what: result)
    cli._add_plugin_commands()
    for words, message in (
        (["grow", "one", "x"], "one x"),
        (["grow", "two"], "two"),
        (["flat"], "two"),
        (["run"], "two"),
    ):
        assert CliRunner().invoke(cli.app, words).stdout.strip() == message
    assert "grow one, grow two" in " ".join(CliRunner().invoke(cli.app, ["--help"]).stdout.split())


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None)
    result = run("--data", DATA, "--out", str(tmp_path), *SMALL)
    assert result.exit_code == 2
    assert "pip install timm" in result.stderr
    with refusal("missing-package"):
        build("encoder", "objective:jepa")


def test_the_page_shows_an_objective_that_trains() -> None:
    page = Path(__file__).parents[3] / "docs" / "dev" / "training.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    (block,) = (block for block in blocks if "class Line(" in block)
    exec(compile(block, str(page), "exec"), {"__name__": "page"})


def test_the_readme_says_every_option() -> None:
    readme = Path(__file__).parents[3] / "plugins" / "diagnostics_training" / "README.md"
    if not readme.is_file():
        pytest.skip("tests run without the plugin's README beside them")
    flags = {
        flag for option in typer.main.get_command(command()).params for flag in option.opts if option.name != "help"
    }
    assert len(flags) > 15
    assert flags - {f for f in flags if f"`{f}`" in readme.read_text(encoding="utf-8")} <= {
        "--install-completion",
        "--show-completion",
    }

"""`diagnostics train pe` on tars of one's own that are not clean: what it trains on, says, scores and keeps."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("open_clip")

from diagnostics_pretraining.objective import Batches, Pretraining, flattened
from diagnostics_pretraining.order import BROKEN
from diagnostics_pretraining.plugin import train_pe
from diagnostics_pretraining.recipe import PretrainJob
from diagnostics_pretraining.text_encoder import Vocabulary, vocabulary_of
from diagnostics_pretraining.towers import build_towers, encoders_of, load_pair, towers_of
from diagnostics_pretraining.train import plan_of
from diagnostics_training.trainer.checkpoint import FILE, about_checkpoint
from diagnostics_training.trainer.objective import World
from diagnostics_training.trainer.record import STEPS, lines, look
from diagnostics_training.trainer.trainer import fit
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from diagnostics.cli.app import guard
from tests.support.refusals import refusal

OWN = """
batch = 8
lr = 1e-2
stages = [{ size = 8, samples = 64 }]
pool = "attention"
mask = 0.25
mask_weight = 0.5
mask_from = 0.5
"""
WORDS = ("red", "green", "blue", "grey")
BROKEN_ONES = (3, 17)


def picture(number: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 5 * number, np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of 24 pairs, two pictures of which are torn, and a text without a picture."""
    folder = tmp_path_factory.mktemp("data")
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(24 * shard, 24 * shard + 24):
                image = picture(number)[:40] if number in BROKEN_ONES else picture(number)
                text = f"a {WORDS[number % 4]} thing {number}".encode()
                for name, content in ((f"{number:03d}.png", image), (f"{number:03d}.txt", text)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
            archive.addfile(tarfile.TarInfo(f"lonely{shard}.txt"), io.BytesIO())
    return folder


def command(*words: object) -> Any:
    app = Typer()
    app.command()(guard(train_pe, "pretraining"))
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole training by the command, and what that came to."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "own.toml").write_text(OWN)
    words = ["--data", f"captions:{data}/{{0..1}}.tar", "--split", "all", "--size", "micro", "--out", folder / "pe"]
    words += [
        "--config",
        folder / "own.toml",
        "--eval",
        "shapes?n=30&size=32&seed=4",
        "--save-every",
        4,
        "--keep-every",
        4,
    ]
    return folder, command(*words, "--json")


def test_it_trains_on_all_pairs_but_those_that_are_broken(trained: tuple[Path, Any], data: Path) -> None:
    folder, done = trained
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)
    listed = [json.loads(line)["id"] for line in (folder / "pe" / BROKEN).read_text().splitlines()]
    assert row["broken"] == len(listed) == 2 and set(listed) == {"0/003", "0/017"}
    # Of the 50 samples, 48 have both parts.
    assert "48 of 48" in done.stderr and "1.3" in done.stderr
    assert row["data"].endswith("the 48 samples of all splits")
    assert (data / "0.tar.index").is_file()


def test_it_scores_on_val_and_keeps_checkpoints_on_the_way(trained: tuple[Path, Any]) -> None:
    folder, _ = trained
    logged = lines(folder / "pe", times=True)
    scored = {line["step"]: line for line in logged if "evaluation/accuracy" in line}
    assert scored.keys() == {4, 8}
    for line in scored.values():
        for name in ("accuracy", "recall_image_to_text", "recall_text_to_image"):
            assert 0 <= line[f"evaluation/{name}"] <= 1 and 0 < line[f"evaluation/{name}_chance"] < 1
        assert line["time/data"] >= 0 and line["time/samples"] > 0
    assert not any(key.startswith("time/") for line in lines(folder / "pe") for key in line)
    kept = sorted(path.name for path in (folder / "pe" / STEPS).iterdir())
    assert kept == [f"4-{FILE}", f"8-{FILE}"]
    first, last = (load_file(folder / "pe" / STEPS / name) for name in kept)
    assert not torch.equal(first["weights/towers.log_scale"], last["weights/towers.log_scale"])


def planned(data: Path, out: Path, **more: Any) -> Any:
    (out / "own.toml").write_text(OWN)
    asked: dict[str, Any] = {"data": f"captions:{data}", "out": out / "pe", "size": "micro", "config": out / "own.toml"}
    return plan_of(PretrainJob(**asked | more))


def test_masks_have_a_weight_and_a_beginning(data: Path, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, split="all")
    settings = replace(plan.settings, log_every=1)
    fit(plan.objective(plan.towers(), "cpu"), plan.batches, settings, tmp_path / "pe", identity=plan.identity)
    logged = lines(tmp_path / "pe")
    assert ["masked" in line for line in logged] == [False] * 4 + [True] * 4
    for line in logged[4:]:
        assert line["loss"] == pytest.approx(line["contrast"] + 0.5 * line["masked"], abs=1e-6)
    (tmp_path / "own.toml").write_text(OWN.replace("mask = 0.25", ""))
    with refusal("bad-value", "0.5"):
        plan_of(PretrainJob(data="shapes?n=50", out=tmp_path, size="micro", config=tmp_path / "own.toml"))


def test_a_checkpoint_is_of_as_many_processes(data: Path, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, split="all")

    def until(step: int, rank: int, size: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return plan.batches(step, rank, size)

    settings, out = replace(plan.settings, checkpoint_every=4), tmp_path / "pe"
    with pytest.raises(KeyboardInterrupt):
        fit(plan.objective(plan.towers(), "cpu"), until, settings, out, identity=plan.identity)
    before = (out / FILE).read_bytes()
    with refusal("other-run", "processes 1, not 2"):
        fit(
            plan.objective(plan.towers(), "cpu"), plan.batches, settings, out, identity=plan.identity, world=World(0, 2)
        )
    assert (out / FILE).read_bytes() == before
    with refusal("bad-value", "8", "3"):
        plan_of(PretrainJob(data=f"captions:{data}", out=out, size="micro", recipe="1", batch=8, samples=64), 3)


def test_a_loss_that_is_not_finite_names_the_last_whole_checkpoint(data: Path, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, split="all")
    assert isinstance(plan.batches, Batches)

    def bad(step: int, rank: int, size: int) -> Any:
        batch = plan.batches(step, rank, size)
        return batch | {"pixels": flattened(batch) * (torch.nan if step == 6 else 1)}

    settings = replace(plan.settings, log_every=1, checkpoint_every=3)
    with refusal("diverged", "step 7", "step 6"):
        fit(plan.objective(plan.towers(), "cpu"), bad, settings, tmp_path / "pe", identity=plan.identity)
    assert (about_checkpoint(tmp_path / "pe") or {})["step"] == 6


def test_a_pair_that_all_are_trained_on_leaves_none_to_score(tmp_path: Path) -> None:
    with refusal("conflict", "--eval"):
        PretrainJob(data="shapes", evaluation="shapes", split="all", out=tmp_path, size="micro", recipe="1")
    asked: dict[str, Any] = {"data": "shapes", "out": tmp_path, "size": "micro", "recipe": "1"}
    with refusal("unknown-name", "test"):
        PretrainJob(**asked, split="test")


def test_tokens_that_all_agree_are_a_collapse() -> None:
    torch.manual_seed(0)
    output, tokens = torch.randn(8, 16), torch.randn(8, 9, 16)
    assert not look(1, output, tokens).collapsed and look(1, output).token_spread is None
    agreed = tokens.mean(1, keepdim=True).expand(-1, 9, -1) + 1e-4 * tokens
    assert look(1, output, agreed).collapsed and look(1, output, tokens.zero_()).token_spread == 0
    assert not look(1, output, agreed[:, :1]).collapsed
    towers = build_towers("micro", rope=False, pool="class", vocabulary=Vocabulary(16), seed=0)
    assert Pretraining(towers).tokens({"pixels": torch.randn(2, 3, 8, 8)}).shape == (2, 4, 32)


def test_new_words_get_rows_that_change_nothing_yet(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    (tmp_path / "own.toml").write_text(OWN)
    plan = plan_of(
        PretrainJob(data="shapes?n=60&size=32", out=tmp_path, start=str(folder / "pe"), config=tmp_path / "own.toml")
    )
    pair, known = load_pair(folder / "pe"), vocabulary_of(["a red green blue grey thing"], 16).kept or ()
    assert {*known} < {*(plan.vocabulary.kept or ())}
    texts = ["a red thing 7", "a striped star", "two small circles"]
    before = pair.text.transform(texts, tap="head", pooling="mean")
    assert np.array_equal(before[1], before[1]) and plan.vocabulary.unknown not in plan.vocabulary.encode(texts[1:2])[0]
    towers = plan.towers()
    after = encoders_of(towers, "more").text.transform(texts, tap="head", pooling="mean")
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert torch.equal(towers_of(pair).text.token_embedding.weight, pair.text.module.token_embedding.weight)

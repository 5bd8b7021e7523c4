"""`diagnostics train pe`: it goes on across a change of stage bit for bit, and processes give one process's losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("open_clip")

from diagnostics_pretraining.objective import Batches, Pretraining
from diagnostics_pretraining.plugin import train_pe
from diagnostics_pretraining.recipe import PretrainJob
from diagnostics_pretraining.towers import load_pair
from diagnostics_pretraining.train import Plan, plan_of, train
from diagnostics_training.trainer.objective import Batch, World, world
from diagnostics_training.trainer.record import lines
from diagnostics_training.trainer.trainer import fit
from typer import Typer
from typer.testing import CliRunner

from diagnostics import DiagnosticsError, build
from diagnostics.cli.app import guard
from tests.support.refusals import refusal
from tests.support.two_processes import end_two, start_two

DATA = "shapes?n=60&size=32&objects=1&seed=3"
CLIPS = f"{DATA}&frames=4"
OWN = """
batch = 16
lr = 1e-2
optimiser = "lamb"
stages = [
    { size = 8, samples = 64 },
    { size = 16, samples = 64 },
]
rope = true
pool = "attention"
mask = 0.125
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


def job(recipe: Path, out: Path, **more: Any) -> PretrainJob:
    asked: dict[str, Any] = {"data": DATA, "out": out, "size": "micro", "config": recipe}
    return PretrainJob(**asked | more)


def trained(plan: Plan, out: Path, batches: Any = None, where: World | None = None) -> list[dict[str, float]]:
    """What is logged of every step, with a checkpoint every third."""
    settings = replace(plan.settings, log_every=1, look_every=2, checkpoint_every=3)
    fit(Pretraining(plan.towers()), batches or plan.batches, settings, out, identity=plan.identity, world=where)
    return lines(out)


@pytest.mark.parametrize(("optimiser", "stopped"), [("lamb", 4), ("lamb", 6), ("adamw", 7)])
def test_a_stopped_training_goes_on_bit_for_bit_across_stages(
    tmp_path: Path, recipe: Path, optimiser: str, stopped: int
) -> None:
    """Of eight steps, the first four of the first stage; the checkpoint is of step 3 or 6."""
    plan = plan_of(job(recipe, tmp_path, optimiser=optimiser))
    whole = trained(plan, tmp_path / "whole")

    def until(step: int, rank: int, size: int) -> Batch:
        if step == stopped:
            raise KeyboardInterrupt
        return plan.batches(step, rank, size)

    with pytest.raises(KeyboardInterrupt):
        trained(plan, tmp_path / "stopped", until)
    assert len(lines(tmp_path / "stopped")) == stopped
    assert trained(plan, tmp_path / "stopped") == whole
    assert [line["step"] for line in whole] == list(range(1, 9))
    assert all("masked" in line for line in whole)


def of_two(folder: str, recipe: str, data: str) -> None:
    """Called in subprocesses."""
    with world("cpu") as where:
        trained(plan_of(job(Path(recipe), Path(folder), data=data), where.size), Path(folder), None, where)


@pytest.mark.slow
@pytest.mark.parametrize("data", [DATA, CLIPS])
def test_two_processes_give_one_processs_losses(tmp_path: Path, recipe: Path, data: str, warm_python: Path) -> None:
    """Of images, some of which are seen again with patches hidden; and of images and clips, seven of sixteen."""
    if data == CLIPS:
        recipe.write_text(
            OWN.replace("mask = 0.125", "clips = 0.4375\nframes = 3").replace("samples = 64", "samples = 32")
        )
    whole = trained(plan_of(job(recipe, tmp_path, data=data)), tmp_path / "one")
    call = f"of_two({str(tmp_path / 'two')!r}, {str(recipe)!r}, {data!r})"
    end_two(start_two(warm_python, __file__, call))
    two = lines(tmp_path / "two")
    assert len(two) == len(whole) == (8 if data == DATA else 4)
    for one, other in zip(whole, two, strict=True):
        assert one.keys() == other.keys() and ("masked" in one) == (data == DATA)
        for name in {"loss", "contrast", "masked", "scale"} & one.keys():
            assert one[name] == pytest.approx(other[name], abs=1e-5)


def test_a_pair_is_saved_and_finished_ones_are_left(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pe"
    row = train(job(recipe, out, encoder_every=4))
    assert (row["steps"], row["samples"], row["size"], row["left_out"]) == (8, 128, "micro", [])
    printed = capsys.readouterr().err
    assert "pe: keeps the " in printed
    pair = load_pair(out)
    assert 1 < pair.scale < 100
    assert pair.image.lineage["samples"] == 128
    halfway = build("encoder", str(out / "steps" / "4"))
    assert [path.name for path in (out / "steps").iterdir()] == ["4"]
    assert (halfway.lineage["steps"], halfway.lineage["samples"]) == (4, 64)
    assert halfway.identity["weights"] != pair.image.identity["weights"]
    digest = (out / "encoder.safetensors").read_bytes()
    assert train(job(recipe, out)) == row
    assert f"{out} is finished" in capsys.readouterr().err
    assert (out / "encoder.safetensors").read_bytes() == digest
    with refusal("other-run", "--lr", "--seed"):
        train(job(recipe, out, lr=0.5, seed=4))
    recipe.write_text(OWN.replace("0.125", "0.0625").replace("size = 8, samples = 64", "size = 16, samples = 32"))
    with pytest.raises(DiagnosticsError) as refused:
        train(job(recipe, out, size="nano", samples=64))
    for difference in (
        "mask 0.125, not 0.0625",
        "towers micro, not nano",
        "stages 8:64 16:64, not",
        "--steps 8, not 4",
    ):
        assert difference in str(refused.value)
    assert "vocabulary" not in str(refused.value)


def test_it_trains_further_from_a_pair(tmp_path: Path, recipe: Path) -> None:
    train(job(recipe, tmp_path / "pe"))
    more = plan_of(job(recipe, tmp_path / "more", size=None, start=str(tmp_path / "pe"), lr=1e-9))
    first, fresh = more.towers(), plan_of(job(recipe, tmp_path / "other")).towers()
    pixels, kept = torch.randn(2, 3, 16, 16), load_pair(tmp_path / "pe").image.module
    assert torch.equal(first.embed_images(pixels), kept(pixels))
    assert not torch.equal(first.embed_images(pixels), fresh.embed_images(pixels))
    assert more.identity["other weights of the base encoder"] == load_pair(tmp_path / "pe").image.identity["weights"]
    recipe.write_text(
        OWN.replace("rope = true", "").replace('"attention"', '"class"').replace("size = 16", "size = 12")
    )
    with pytest.raises(
        DiagnosticsError,
        match="it has rope true, not false, pool attention, not class and images of 16 pixels, not 12 pixels",
    ):
        plan_of(job(recipe, tmp_path / "more", size=None, start=str(tmp_path / "pe")))


@pytest.mark.parametrize(
    ("toml", "options", "message"),
    [
        ("mask = 0.0625\nmasks = 1", {}, r"'masks' in line 12 \(did you mean mask\?\)"),
        ("", {"samples": 100}, "100 samples is no whole number of batches of 16: give --samples 96"),
        ("", {"data": "digits"}, "digits has no texts to train with"),
        ("", {"size": "huge"}, "Unknown size 'huge'"),
        ("", {"data": "shapes?n=20&size=32"}, "A batch of 16 cannot be drawn from 12 train samples"),
        ("[augment]\nmirror = 0.5\nbrightness = 0.1", {}, "Texts of shapes would be false under a change of mirror"),
        ("", {"batch": 4}, "Every 8-th image of a batch .* a batch of 4 in 1 process is no multiple of 8"),
        ("", {"start": "somewhere"}, "give one of the two"),
        ("", {"config": None}, "A training has one recipe"),
        ("", {"lr": -1.0}, "learning rate of -1.0"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_is_written(
    tmp_path: Path, recipe: Path, toml: str, options: dict[str, Any], message: str
) -> None:
    recipe.write_text(
        f"{OWN.rstrip().removesuffix('mask = 0.125')}{toml}" if toml.startswith("mask") else f"{OWN}{toml}"
    )
    out = tmp_path / "pe"
    with pytest.raises(DiagnosticsError, match=message):
        train(job(recipe, out, **options))
    assert not out.exists()


def test_a_single_patch_cannot_be_hidden(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(OWN.replace("size = 8", "size = 4"))
    with refusal("bad-value", "4"):
        train(job(recipe, tmp_path / "pe"))


def test_sizes_that_no_patch_divides_are_refused(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(OWN.replace("size = 8", "size = 10"))
    with refusal("bad-value", "10", "4"):
        train(job(recipe, tmp_path / "pe"))


def test_a_recipe_that_is_here_leaves_out_what_texts_do_not_survive(tmp_path: Path) -> None:
    plan = plan_of(
        PretrainJob(data="shapes?n=450&size=32&objects=1", out=tmp_path, size="micro", recipe="9", samples=1024)
    )
    assert plan.left_out == ("crop", "mirror")
    assert any("leaves crop and mirror of the augmentation out" in note for note in plan.notes)


@pytest.mark.parametrize(("row", "told"), [("9", True), ("8", False)])
def test_a_small_size_is_told_that_masks_hinder_it(tmp_path: Path, row: str, told: bool) -> None:
    plan = plan_of(PretrainJob(data="shapes?n=450&size=32&objects=1", out=tmp_path, size="micro", recipe=row))
    assert any("mask_from" in note for note in plan.notes) == told


def test_a_loss_that_is_not_finite_names_step_samples_and_checkpoint(tmp_path: Path, recipe: Path) -> None:
    plan = plan_of(job(recipe, tmp_path))

    class Broken(Batches):
        def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
            batch = super().__call__(step, rank, world)
            return batch | {"pixels": batch["pixels"] * (torch.nan if step == 4 else 1)}

    assert isinstance(plan.batches, Batches)
    batches = Broken(plan.batches.feed, 4, 1 / 8, 0.4)
    with refusal("diverged"):
        trained(plan, tmp_path / "pe", batches)


def command(*words: object) -> Any:
    app = Typer()
    app.command()(guard(train_pe, "pretraining"))
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_prints_what_is_next_and_goes_on_from_a_folder(tmp_path: Path, recipe: Path) -> None:
    out = tmp_path / "pe"
    words = ["--data", DATA, "--size", "micro", "--config", recipe, "--out", out]
    first = command(*words)
    assert first.exit_code == 0, first.stderr
    assert f"{out}: loss" in first.stdout
    assert f"diagnostics run {out} --data" in first.stdout
    assert f"diagnostics zeroshot {out} --data 'shapes?size=32&objects=1' --for label" in first.stdout
    assert "pe: trains on 36 of 60 samples, the train split" in first.stderr
    assert json.loads(command(*words, "--json").stdout)["steps"] == 8
    more = command("--data", DATA, "--from", out, "--config", recipe, "--out", tmp_path / "more", "--json")
    assert json.loads(more.stdout)["size"] == "micro"
    refused = command(*words, "--lr", "0.5")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "--lr 0.01, not 0.5" in refused.stderr


def test_what_is_next_can_be_typed_for_captions_alone(tmp_path: Path, recipe: Path) -> None:
    rng, rows = np.random.default_rng(0), ["image,caption"]
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,picture {i}")
    (tmp_path / "c.csv").write_text("\n".join(rows))
    done = command(
        "--data", f"captions:{tmp_path / 'c.csv'}", "--size", "micro", "--config", recipe, "--out", tmp_path / "pe"
    )
    assert done.exit_code == 0, done.stderr
    assert (
        done.stdout.splitlines()[-1]
        == f"Or:   diagnostics zeroshot {tmp_path / 'pe'} --data captions:{tmp_path / 'c.csv'}"
    )

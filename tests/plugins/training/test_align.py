"""Alignment: what it lifts to the output, what it leaves alone, and that its result is an encoder like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diagnostics_training.alignment import student as choosing
from diagnostics_training.alignment.feed import Feed, hidden
from diagnostics_training.alignment.objective import (
    Alignment,
    DropPath,
    Teacher,
    on_grid,
    put_drops,
    put_section,
    scaled,
    with_module,
)
from diagnostics_training.alignment.student import align_tap
from diagnostics_training.jobs import TapJob
from diagnostics_training.plugin import aligned_lines, best_scores
from diagnostics_training.trainer.data import data_for, plain
from diagnostics_training.trainer.record import lines
from torch import nn
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import DiagnosticsError, Grid, TorchEncoder, stack_taps
from diagnostics.checks.conformance import check_encoder
from diagnostics.cli.main import main
from diagnostics.runs.options import default_folder
from tests.support.refusals import refusal

ERASING = f"{Path(__file__).parents[2] / 'support' / 'erasing.py'}:build"
DATA = f"{Path(__file__).parents[2] / 'support' / 'erasing.py'}:data"
SMALL = "objective:jepa?modality=series&length=64&width=16&depth=2&heads=2&patch=8"
SERIES = "lorenz?n=60&seed=1&length=64"
SHORT: dict[str, Any] = {"steps": 12, "batch": 16, "lr": 5e-3}


def job(out: Path, to: str = "blocks.0", encoder: str = ERASING, data: str = DATA, **more: Any) -> TapJob:
    """Without a control, unless it is asked for."""
    settings: dict[str, Any] = {"steps": 150, "batch": 32, "lr": 3e-2, "device": "cpu", "control": False, **more}
    return TapJob(encoder=encoder, to=to, data=data, out=out, **settings)


def batch_of(encoder: TorchEncoder, samples: Any) -> Any:
    return default_collate([encoder.preprocess(sample) for sample in samples])


def probed(encoder: str | Path, out: Path) -> dx.Run:
    return dx.run(
        str(encoder),
        DATA,
        out=out,
        measures="linear_probe",
        controls=False,
        report=False,
        device="cpu",
        trust_code=True,
    )


# What it does


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, dx.Comparison]:
    """The lifted encoder's row, the folder of all, and the comparison with a control and an alignment of no steps."""
    folder = tmp_path_factory.mktemp("planted")
    row = align_tap(job(folder / "lifted", "best-tap", target="first"))
    align_tap(job(folder / "control", "blocks.1"))
    align_tap(job(folder / "from a tenth", "blocks.1", layer_scale=0.1))
    align_tap(job(folder / "nothing", steps=0))
    runs: list[Any] = [probed(ERASING, folder / "runs" / "base")]
    runs += [
        f"{name}={probed(folder / name, folder / 'runs' / name).path}"
        for name in ("lifted", "control", "from a tenth", "nothing")
    ]
    return row, folder, dx.compare(runs, similarity=None)


def shares(result: dx.Comparison, group: str, target: str) -> Any:
    return next(one for one in result.shares if (one.group, one.profile) == (group, f"linear_probe/{target}"))


@pytest.mark.slow
def test_what_the_last_block_erases_comes_back_to_the_output(planted: Any) -> None:
    row, _, result = planted
    # Embedding and first block hold it alike.
    assert row["to"] in ("embed", "blocks.0")
    assert row["probed"]["score"] == "R2"
    assert row["probed"]["gain"] == row["probed"]["scores"][row["to"]] - row["probed"]["scores"]["blocks.1"] > 0.8
    assert row["probed"]["scores"]["blocks.1"] < 0.1 < 0.9 < row["probed"]["scores"][row["to"]]
    lifted = shares(result, "lifted", "first")
    assert lifted.recovered.value > 0.9
    assert lifted.recovered.low > 0.8
    assert lifted.purpose
    assert shares(result, "lifted", "second").kept_output.value == pytest.approx(1, abs=0.02)


def test_aligning_to_the_output_recovers_nothing(planted: Any) -> None:
    _, folder, result = planted
    assert abs(shares(result, "control", "first").recovered.value) < 0.03
    assert shares(result, "control", "second").kept_output.value == pytest.approx(1, abs=0.02)
    # Damped branches let the target through at the start; the loss sends it away again.
    damped, _ = scaled(dx.build("encoder", ERASING), 0.1)
    data = dx.build("dataset", DATA)
    started = dx.run(
        damped, data, out=folder / "runs" / "damped", measures="linear_probe", controls=False, report=False
    )
    assert started.profile("linear_probe/first").output.value > 0.9
    assert abs(shares(result, "from a tenth", "first").recovered.value) < 0.1


def test_no_steps_from_factors_of_one_are_the_identity(planted: Any) -> None:
    _, folder, result = planted
    base, same = dx.build("encoder", ERASING), dx.load_encoder(folder / "nothing", trust_code=True)
    batch = batch_of(base, [dx.build("dataset", DATA)[i] for i in range(8)])
    assert all(torch.equal(same.capture(batch)[name], tokens) for name, tokens in base.capture(batch).items())
    assert shares(result, "nothing", "first").recovered.value == 0.0
    assert shares(result, "nothing", "second").kept_output.value == 1.0
    assert shares(result, "nothing", "second").kept_best.value == 1.0


def test_the_lineage_pairs_it_with_the_run_of_its_base(planted: Any) -> None:
    _, folder, _ = planted
    base = dx.open_run(folder / "runs" / "base").store.attrs["identity"]["weights"]
    record = dict(dx.load_encoder(folder / "lifted", trust_code=True).lineage)
    assert record["base"] == base
    assert record["group"] == "erasing aligned for first"
    assert (record["for"], record["to"], record["seed"], record["steps"]) == ("first", planted[0]["to"], 0, 150)
    assert record["data"] == f"{DATA}, the 240 samples of its train split"
    assert "--to best-tap --for first" in record["how"]
    assert dx.load_encoder(folder / "control", trust_code=True).lineage["group"] == "erasing aligned to blocks.1"


def test_the_loss_is_minus_the_mean_cosine_and_falls(planted: Any) -> None:
    row, folder, _ = planted
    logged = lines(folder / "lifted")
    assert all(line["loss"] == pytest.approx(-line["cosine"]) for line in logged)
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.05
    assert row["cosine"]["after"] > row["cosine"]["before"] + 0.05
    assert row["cosine"]["after"] > 0.99
    # The base's own, by hand: without the first of four numbers.
    base = dx.build("encoder", ERASING)
    data = dx.build("dataset", DATA)
    order = np.random.default_rng([0, 0, 0]).permutation(np.flatnonzero(data.split == "train"))[:32]
    seen = base.capture(batch_of(base, [data[int(i)] for i in order]))
    taught, given = (seen[name].double().numpy() for name in (row["to"], "blocks.1"))
    by_hand = (taught * given).sum(-1) / np.linalg.norm(taught, axis=-1) / np.linalg.norm(given, axis=-1)
    assert row["cosine"]["before"] == pytest.approx(by_hand.mean(), abs=1e-5)


def test_the_result_is_an_encoder_that_loads_again_and_keeps_its_contract(planted: Any) -> None:
    _, folder, _ = planted
    result = check_encoder(str(folder / "lifted"), trust_code=True)
    assert [one for one in result.outcomes if one.verdict == "failed"] == []
    built = dx.load_encoder(folder / "lifted", trust_code=True)
    assert [tap.name for tap in built.taps] == [tap.name for tap in dx.build("encoder", ERASING).taps]
    assert built.output_tap == "blocks.1"
    assert json.loads((folder / "lifted" / "alignment.json").read_text())["row"]["path"] == str(folder / "lifted")


def test_teachers_are_left_as_they_are_and_the_saved_student_is_the_trained_one(
    tmp_path: Path, monkeypatch: Any
) -> None:
    kept: list[Alignment] = []

    class Watched(Alignment):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept.append(self)

    monkeypatch.setattr(choosing, "Alignment", Watched)
    second = f"{SMALL}&seed=3"
    align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, teacher=(f"{second}:blocks.1",), **SHORT))
    (objective,) = kept
    for teacher, name in zip(objective.teachers, (SMALL, second), strict=True):
        assert teacher.encoder.identity["weights"] == dx.build("encoder", name).identity["weights"]
        assert all(p.grad is None for p in teacher.encoder.module.parameters())
    assert [teacher.tap.name for teacher in objective.teachers] == ["blocks.0", "blocks.1"]
    loaded = dx.load_encoder(tmp_path / "a")
    batch = batch_of(loaded, [loaded.example()] * 3)
    taught = objective.student.capture(batch)
    assert all(torch.equal(tokens, taught[name]) for name, tokens in loaded.capture(batch).items())
    assert loaded.identity["weights"] == objective.student.identity["weights"]
    assert loaded.identity["weights"] != dx.build("encoder", SMALL).identity["weights"]
    logged = lines(tmp_path / "a")[-1]
    assert logged["loss"] == pytest.approx(-logged["cosine"] - logged["cosine_2"], rel=1e-5)


# LayerScale and DropPath


def test_blocks_with_places_get_two_factors_a_feature_and_others_one() -> None:
    def count(encoder: Any) -> int:
        return sum(p.numel() for p in encoder.module.parameters())

    base = dx.build("encoder", SMALL)
    built, blocks = scaled(base, 0.1)
    assert [block.kind for block in blocks] == ["slots", "slots"]
    assert count(built) == count(base) + 2 * 2 * 16
    erasing = dx.build("encoder", ERASING)
    whole, blocks = scaled(erasing, 0.1)
    assert [block.kind for block in blocks] == ["whole", "whole"]
    assert count(whole) == count(erasing) + 2 * 4
    x = torch.randn(2, 4, 4)
    seen = whole.capture(x)
    one = erasing.module.blocks[0].linear.weight
    assert torch.allclose(seen["blocks.0"], x + 0.1 * x @ one.T, atol=1e-6)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "time_first"])
def test_factors_scale_what_a_block_adds_in_any_layout(layout: Any) -> None:
    shape = {"channels_first": (3, 6, 5), "channels_last": (3, 5, 6), "time_first": (5, 3, 6)}[layout]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(shape[-1], shape[-1])

        def forward(self, x: torch.Tensor, *, mark: int = 0) -> tuple[torch.Tensor, int]:
            x += self.inner(x.clone())
            return x, mark

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.transpose(0, 1).clone() if layout == "time_first" else x.clone()
            return self.blocks[0](x, mark=1)[0]

    taps = stack_taps("blocks", 1, 6, Grid((5,), ("t",)), layout=layout)
    example = np.ones((5, 6) if layout != "channels_first" else (6, 5), np.float32)
    base = TorchEncoder("layouts", "series", Model(), taps, example=example)
    x = torch.randn(3, *example.shape)
    before = base.capture(x)
    assert torch.equal(scaled(base, 1.0)[0].capture(x)["blocks.0"], before["blocks.0"])
    built, blocks = scaled(base, 0.5)
    factors = torch.arange(6) / 5
    gamma = dict(built.module.named_parameters())["blocks.0.residual.scale.gamma"]
    with torch.no_grad():
        gamma.copy_(factors)
    by_hand = before["embed"] + factors * (before["blocks.0"] - before["embed"])
    assert torch.allclose(built.capture(x)["blocks.0"], by_hand, atol=1e-6)
    put_drops(built.module, blocks, 0.5)
    drop = next(part for part in built.module.modules() if isinstance(part, DropPath))
    drop.train()
    torch.manual_seed(0)
    rows = built.capture(torch.cat([x] * 20), gradient=True)["blocks.0"].detach() - torch.cat([before["embed"]] * 20)
    whole = torch.cat([by_hand - before["embed"]] * 20)
    kept = rows.abs().amax((1, 2)) > 0
    assert 15 < int(kept.sum()) < 45
    assert torch.allclose(rows[kept], 2 * whole[kept], atol=1e-5)
    assert shape[1 if layout == "time_first" else 0] == 3


def test_drop_path_is_at_work_in_training_alone_and_dropout_never() -> None:
    base = dx.build("encoder", SMALL)
    student, blocks = scaled(base, 1.0)
    student.module.backbone.blocks[0].mlp.drop1 = nn.Dropout(0.9)
    put_drops(student.module, blocks, 0.5)
    objective = Alignment(student, [Teacher(base, base.tap("blocks.0"), "clean")])
    batch = put_section("clean", batch_of(base, [base.example()] * 8))
    objective.eval()
    assert float(objective(batch)["loss"]) == float(objective(batch)["loss"])
    objective.train()
    assert {part for part in objective.modules() if part.training} == {
        objective,
        *objective.maps.modules(),
        *(p for p in objective.modules() if isinstance(p, DropPath)),
    }
    assert len({float(objective(batch)["loss"]) for _ in range(4)}) == 4


@pytest.mark.parametrize(
    ("model", "kind"),
    [("vit_tiny_patch16_224", "slots"), ("vit_pe_core_tiny_patch16_384", "gammas"), ("resnet18", "whole")],
)
def test_models_of_timm_begin_as_they_were(model: str, kind: str) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    size = "&img_size=32" if model.startswith("vit") else ""
    base = dx.build("encoder", f"timm:{model}?pretrained=false{size}")
    built, blocks = scaled(base, 1.0)
    assert {block.kind for block in blocks} == {kind}
    batch = batch_of(base, [base.example()])
    assert all(torch.equal(built.capture(batch)[name], tokens) for name, tokens in base.capture(batch).items())
    tenth = scaled(base, 0.1)[0].capture(batch)
    if kind != "whole":  # an untrained resnet's branches give 0
        assert float((tenth["norm"] - built.capture(batch)["norm"]).abs().mean()) > 0.01


def test_a_factor_that_is_there_is_kept_times_the_start() -> None:
    base, _ = scaled(dx.build("encoder", SMALL), 0.5)
    again, _ = scaled(base, 0.5)
    assert sorted(dict(again.module.named_parameters())) == sorted(dict(base.module.named_parameters()))
    gamma = dict(again.module.named_parameters())["backbone.blocks.0.ls1.gamma"]
    assert torch.equal(gamma, torch.full((16,), 0.25))


@pytest.mark.parametrize("kind", ["cut", "hf"])
def test_encoders_that_came_from_files_are_built_again_around_what_they_need(
    kind: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "cut":
        dx.save_encoder("model", dx.build("encoder", SMALL), cut="blocks.0")
        base = dx.build("encoder", "model")
    else:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained("model")
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("model")
        base = dx.build("encoder", "hf:model")
    built, blocks = scaled(base, 0.5)
    assert blocks
    dx.save_encoder("aligned", built)
    shutil.rmtree("model")
    loaded = dx.load_encoder("aligned")
    batch = batch_of(base, [base.example()] * 2)
    expected = built.capture(batch)
    assert all(torch.equal(loaded.capture(batch)[name], tokens) for name, tokens in expected.items())
    assert loaded.output_tap == base.output_tap
    # Once more, around what was loaded.
    again = dx.load_encoder(dx.save_encoder("again", loaded))
    assert all(torch.equal(again.capture(batch)[name], tokens) for name, tokens in expected.items())


# Options


def test_a_mask_hides_whole_windows_from_the_student_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    series = np.random.default_rng(1).standard_normal((64, 2)).astype(np.float32)
    series[:5] = np.nan
    shown = hidden("series", series[5:], 0.99, np.random.default_rng(0)) == series[5:]
    assert 0 < shown.mean() < 0.1  # not all, whatever the share rounds to
    less = hidden("series", series, 0.5, rng)
    gone = (less != series) & ~np.isnan(series)
    assert np.array_equal(np.isnan(less), np.isnan(series))
    assert np.array_equal(gone[:, 0], gone[:, 1])
    assert np.allclose(less[gone[:, 0]], np.nanmean(series, axis=0), atol=1e-6)
    windows = gone[:, 0].reshape(16, 4)[2:]
    assert set(windows.mean(1)) == {0.0, 1.0}
    picture = np.zeros((32, 24, 3), np.uint8)
    hole = hidden("image", picture, 0.25, rng)
    assert set(np.unique(hole)) == {0, 128}
    assert (hole == 128).mean() == 0.25
    clip = hidden("video", np.stack([picture] * 4), 0.25, rng)
    assert (clip == clip[:1]).all()
    assert (clip == 128).mean() == 0.25
    with refusal("unsupported", "text"):
        hidden("text", series, 0.5, rng)

    base = dx.build("encoder", SMALL)
    data = dx.build("dataset", SERIES)
    teachers = [Teacher(base, base.tap("blocks.0"), "clean")]
    rows = np.flatnonzero(data.split == "train")
    feed = Feed(data, rows, base, teachers, 4, 0.5, 0)
    whole, parts = feed(3), [feed(3, rank, 2) for rank in range(2)]
    assert all(torch.equal(whole[key], torch.cat([part[key] for part in parts])) for key in ("clean", "masked"))
    assert not torch.equal(whole["clean"], whole["masked"])
    row = align_tap(job(tmp_path / "m", "blocks.0", SMALL, SERIES, mask=0.5, drop_path=0.1, layer_scale=0.5, **SHORT))
    assert lines(tmp_path / "m")[-1]["loss"] > -row["cosine"]["after"] + 1e-3
    assert "--mask 0.5 --layer-scale 0.5 --drop-path 0.1" in dx.load_encoder(tmp_path / "m").lineage["how"]


def test_a_teacher_of_another_width_is_met_by_a_map_that_is_thrown_away(tmp_path: Path) -> None:
    wide = "objective:jepa?modality=series&length=64&width=32&depth=1&heads=2&patch=8"
    align_tap(job(tmp_path / "w", "blocks.0", SMALL, SERIES, teacher=(wide,), **SHORT))
    loaded = dx.load_encoder(tmp_path / "w")
    base = dx.build("encoder", SMALL)
    assert sum(p.numel() for p in loaded.module.parameters()) == 64 + sum(p.numel() for p in base.module.parameters())


def test_tokens_on_another_grid_are_what_torch_makes_of_maps_and_of_lines() -> None:
    tokens = torch.randn(2, 1 + 4 * 6, 3)
    for shape in ((8, 9), (2, 3), (4, 12)):
        told = on_grid(tokens, Grid((4, 6), ("y", "x"), 1), Grid(shape, ("y", "x")))
        maps = tokens[:, 1:].unflatten(1, (4, 6)).permute(0, 3, 1, 2)
        whole = nn.functional.interpolate(maps, shape, mode="bilinear", antialias=True)
        assert torch.equal(told[:, 0], tokens[:, 0])
        assert torch.allclose(told[:, 1:], whole.flatten(2).transpose(1, 2), atol=1e-6)
    line = torch.arange(4.0).reshape(1, 4, 1)
    twice = on_grid(line, Grid((4,), ("t",)), Grid((8,), ("t",))).flatten()
    assert twice.tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


def test_fracast_whose_one_block_runs_ten_times(tmp_path: Path) -> None:
    pytest.importorskip("fracast")
    row = align_tap(
        job(tmp_path / "f", "block.4", "fracast", "lorenz?n=10&seed=1&length=64", steps=4, batch=2, lr=1e-2)
    )
    assert row["cosine"]["after"] > row["cosine"]["before"] + 0.01
    logged = lines(tmp_path / "f")
    assert row["loss"] == logged[-1]["loss"] < -row["cosine"]["before"]
    loaded = dx.load_encoder(tmp_path / "f")
    base = dx.build("encoder", "fracast")
    assert sum(p.numel() for p in loaded.module.parameters()) == 64 + sum(p.numel() for p in base.module.parameters())
    sized = loaded.sized_for(np.zeros(64))
    assert sized.tap("block.9").grid.shape == (64,)
    assert sized.identity["weights"] == loaded.identity["weights"]


def test_the_data_are_those_of_training_where_none_are_named(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    lineage = {"data": "lorenz?n=60&seed=7&length=96, the 36 samples of its train split"}
    base = dx.build("encoder", SMALL).replace(lineage=lineage)
    assert data_for(None, base) == "lorenz?n=60&seed=7&length=64"
    assert data_for("pendulum?n=9", base) == "pendulum?n=9&seed=1000&length=512"
    dx.save_encoder(tmp_path / "jepa", base, lineage=base.lineage)
    monkeypatch.chdir(tmp_path)
    words = "align tap --encoder jepa --to blocks.0 --steps 2 --batch 8 --json"
    monkeypatch.setattr("sys.argv", ["diagnostics", *words.split()])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    row = json.loads(capsys.readouterr().out)
    assert row["path"] == "jepa-aligned"
    assert row["data"] == "lorenz?n=60&seed=7&length=64, the 36 samples of its train split"
    assert dx.build("encoder", "jepa-aligned").lineage["data"] == row["data"]


# Going on


def test_it_goes_on_where_it_was_and_leaves_what_is_finished(tmp_path: Path, monkeypatch: Any) -> None:
    more = {"mask": 0.3, "drop_path": 0.2, "checkpoint_every": 5, "log_every": 1, **SHORT}
    align_tap(job(tmp_path / "whole", "blocks.0", SMALL, SERIES, **more))

    def stop(self: Alignment, done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Alignment, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            align_tap(job(tmp_path / "cut", "blocks.0", SMALL, SERIES, encoder_every=3, **more))
    halfway = {step: dx.load_encoder(tmp_path / "cut" / "steps" / step) for step in ("3", "6")}
    assert len({encoder.identity["weights"] for encoder in halfway.values()}) == 2
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    row = align_tap(job(tmp_path / "cut", "blocks.0", SMALL, SERIES, encoder_every=3, **more))
    again = dx.load_encoder(tmp_path / "cut" / "steps" / "6")
    assert again.identity == halfway["6"].identity
    assert again.lineage["steps"] == 6
    assert [x["loss"] for x in lines(tmp_path / "cut")] == [x["loss"] for x in lines(tmp_path / "whole")]
    one, other = (dx.load_encoder(tmp_path / name).identity["weights"] for name in ("whole", "cut"))
    assert one == other
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()
    assert align_tap(job(tmp_path / "cut", "blocks.0", SMALL, SERIES, **more)) == row
    with refusal("other-run", "--mask"):
        align_tap(job(tmp_path / "cut", "blocks.0", SMALL, SERIES, **(more | {"mask": 0.0})))


def test_no_encoder_is_overwritten_but_its_own(tmp_path: Path) -> None:
    """Not even the base itself; and an unknown tap is told before what was written with other settings."""
    base = tmp_path / "base"
    dx.save_encoder(base, dx.build("encoder", SMALL))
    before = (base / "encoder.safetensors").read_bytes()
    for steps in (0, 2):
        with refusal("occupied"):
            align_tap(job(base, "blocks.0", str(base), SERIES, **(SHORT | {"steps": steps})))
    assert (base / "encoder.safetensors").read_bytes() == before
    assert [file.name for file in base.iterdir()] == ["encoder.safetensors"]
    built = job(tmp_path / "built", "best-tap", target="first", steps=2)
    align_tap(built)
    with refusal("other-run", "--batch", "--for", "--to"):
        align_tap(job(built.folder, "blocks.0", batch=64, steps=2))
    with refusal("unknown-name", "blocks.7"):
        align_tap(job(built.folder, "blocks.7", steps=2))
    with refusal("no-target", "frist"):
        align_tap(job(built.folder, "best-tap", target="frist", steps=2))


@pytest.mark.parametrize("gain", [0.004, 0.5])
def test_too_small_a_difference_is_said_and_it_goes_on(
    gain: float, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    probed = {
        "tap": "blocks.0",
        "data": DATA,
        "n": {},
        "chosen_on": "train and val, out of fold",
        "scores": {"blocks.0": 0.5 + gain, "blocks.1": 0.5},
        "score": "R2",
        "gain": gain,
    }
    monkeypatch.setattr(choosing, "best_tap", lambda *_: ("blocks.0", probed))
    row = align_tap(job(tmp_path / "o", "best-tap", target="first", steps=0))
    record = capsys.readouterr().err
    assert ("exceeds blocks.1 by only 0.0040 of R2 for first: nothing worth lifting is shown" in record) == (
        gain < 0.01
    )
    last = aligned_lines(row)
    assert (
        f"blocks.0 is the tap to use for first, by train and val, out of fold of {DATA}, {gain:.3f} of R2 above blocks.1"
        in last[1]
    )
    built = tmp_path / "o"
    assert last[-2:] == [
        f"Next: diagnostics run {ERASING} --data {DATA} && diagnostics run {built} --trust-code --data {DATA}",
        f"Then: diagnostics compare {default_folder(ERASING, DATA)} {default_folder(str(built), DATA)}",
    ]


def test_of_many_taps_the_best_are_named() -> None:
    shown = best_scores({f"blocks.{i}": i / 100 for i in range(50)})
    assert shown.startswith("blocks.42 0.420, blocks.43") and shown.endswith("blocks.49 0.490; 42 others are no higher")
    assert best_scores({"embed": 0.5, "blocks.0": 0.25}) == "embed 0.500, blocks.0 0.250"


def test_the_best_tap_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that is all that is left follows the alignment that is there."""
    asked = job(tmp_path / "o", "best-tap", target="first", steps=2, control=True)
    row = align_tap(asked)
    shutil.rmtree(tmp_path / "o-control")

    def again(*_: Any) -> Any:
        raise AssertionError("the best tap is looked for again")

    monkeypatch.setattr(choosing, "best_tap", again)
    assert align_tap(asked)["control"] == {
        **row["control"],
        "seconds": pytest.approx(row["control"]["seconds"], abs=60),
    }


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Feed.__call__

    def interrupted(self: Feed, step: int, *processes: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return drawn(self, step, *processes)

    monkeypatch.setattr(Feed, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt, match="starts again, since there was no checkpoint yet in"):
        align_tap(job(tmp_path / "o", steps=10))
    with pytest.raises(KeyboardInterrupt, match="resumes from its last checkpoint in"):
        align_tap(job(tmp_path / "o", steps=10, checkpoint_every=2))

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt("what is done is kept in a folder that is gone")

    monkeypatch.setattr(choosing, "run", stopped)
    with pytest.raises(KeyboardInterrupt, match="Interrupted while searching for the best tap"):
        align_tap(job(tmp_path / "p", "best-tap", target="first"))


@pytest.mark.parametrize(
    ("asked", "probes"),
    [
        ("lorenz?n=2001&seed=7&length=64", "lorenz?n=2000&seed=8&length=64"),
        ("lorenz?n=2000&seed=7&length=64", "lorenz?n=2000&seed=7&length=64"),
    ],
)
def test_the_best_tap_is_chosen_on_samples_of_no_training(
    asked: str, probes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer samples of one seed are the first of many, split in another way: val would hold some that were trained on."""
    named: list[str] = []
    unread: Any = None  # the data come first

    def noted(kind: str, name: str) -> Any:
        named.append(name)
        raise DiagnosticsError("enough")

    monkeypatch.setattr(choosing, "build", noted)
    with refusal("other", "enough"):
        choosing.best_tap(unread, "hidden_z", asked, "cpu", lambda _: None)
    assert named == [probes]
    many, few = (dx.build("dataset", f"lorenz?n={n}&seed=7&length=64") for n in (60, 20))
    assert np.array_equal(many[0], few[0]) and (many.split[:20] != few.split).any()  # planted: that is why


def test_what_is_probed_next_is_not_what_was_trained_on() -> None:
    assert plain("lorenz?n=20000&seed=1000&length=512") == "lorenz"
    assert plain("lorenz?n=60&seed=7&length=64") == "lorenz?length=64"
    assert plain("digits?n=5") == "digits?n=5"


# What cannot be


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"to": "blocks.7"}, "Unknown tap 'blocks.7'"),
        ({"to": "best-tap", "target": "frist"}, "planted has no target 'frist': choose one of first, second"),
        (
            {"to": "best-tap", "target": "first", "encoder": ERASING.replace("build", "early")},
            "so there is nothing to align",
        ),
        ({"to": "best-tap"}, "name that with --for"),
        ({"target": "first"}, "leave one of them out"),
        ({"mask": 1.0}, "--mask is a share"),
        ({"drop_path": -0.1}, "--drop-path is a share"),
        ({"layer_scale": 0.0}, "LayerScale cannot start at 0.0"),
        ({"batch": 1000}, "A batch of 1000 cannot be drawn from the 240 train samples"),
        ({"batch": 1}, "batches of 2 or more"),
        ({"seed": -1}, "Seed -1 is below 0"),
        ({"lr": 0.0}, "a learning rate of 0.0"),
        ({"data": None}, "has no record of its training data: name a dataset with --data"),
        ({"data": "digits"}, "reads series samples, but digits holds image samples"),
        ({"encoder": ERASING.replace("build", "closed")}, "No gradient can be followed through closed"),
        ({"teacher": ("nobody:blocks.0",)}, "Unknown encoder 'nobody:blocks.0'"),
        ({"teacher": (f"{ERASING}:blocks.9",)}, "Unknown tap 'blocks.9'"),
        (
            {"encoder": "objective:supervised?length=16&patch=4&width=16", "to": "head.targets"},
            "tokens are compared place by place",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    asked = {"encoder": ERASING, "to": "blocks.0", "data": DATA, "out": tmp_path / "o", "steps": 1, "batch": 8}
    with pytest.raises(DiagnosticsError, match=message):
        align_tap(TapJob(**(asked | changed)))
    assert not (tmp_path / "o" / "encoder.safetensors").exists()


def test_an_encoder_without_a_module_is_refused() -> None:
    class Closed(dx.Encoder):
        name, modality, taps, output_tap = "closed", "series", (), ""
        identity: ClassVar = {}

        def example(self) -> Any: ...
        def preprocess(self, sample: Any) -> Any: ...
        def capture(self, *args: Any, **kwargs: Any) -> Any: ...

    with refusal("unsupported", "closed"):
        with_module(Closed())

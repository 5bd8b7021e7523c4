"""Several teachers, what is kept, which tap learns, and the control beside every alignment."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics_training.alignment import student as choosing
from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.objective import Alignment, agreement, on_grid
from diagnostics_training.alignment.objective import taught as teacher_tokens
from diagnostics_training.alignment.student import align_tap, named_teacher, start_of
from diagnostics_training.jobs import TapJob
from diagnostics_training.plugin import aligned_lines
from diagnostics_training.trainer.record import lines

import diagnostics as dx
from diagnostics import DiagnosticsError, Grid, Tap
from tests.support.refusals import refusal

ERASING = Path(__file__).parents[2] / "support" / "erasing.py"
ROOMY, WAVES = f"{ERASING}:roomy", f"{ERASING}:waves"
SMALL = "objective:jepa?modality=series&length=64&width=16&depth=2&heads=2&patch=8"
SERIES = "lorenz?n=60&seed=1&length=64"


def job(out: Path, to: str = "blocks.0", encoder: str = ROOMY, data: str = WAVES, **more: Any) -> TapJob:
    settings: dict[str, Any] = {"steps": 400, "batch": 32, "lr": 3e-2, "device": "cpu", "control": False, **more}
    return TapJob(encoder=encoder, to=to, data=data, out=out, **settings)


def probed(encoder: str | Path, out: Path) -> str:
    dx.run(
        str(encoder),
        WAVES,
        out=out,
        measures="linear_probe",
        controls=False,
        report=False,
        device="cpu",
        trust_code=True,
    )
    return str(out)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dx.Comparison, dict[str, Any]]:
    """The base, its alignment with and without what is kept, and the control."""
    folder = tmp_path_factory.mktemp("kept")
    row = align_tap(job(folder / "lifted", control=True))
    align_tap(job(folder / "kept", keep=1.0))
    runs: list[Any] = [probed(ROOMY, folder / "runs" / "base")]
    runs += [probed(folder / name, folder / "runs" / name) for name in ("lifted", "lifted-control")]
    runs.append(f"kept={probed(folder / 'kept', folder / 'runs' / 'kept')}")
    return folder, dx.compare(runs, similarity=None), row


def shares(result: dx.Comparison, group: str, target: str) -> Any:
    return next(one for one in result.shares if (one.group, one.profile) == (group, f"linear_probe/{target}"))


LIFTED = "roomy aligned to blocks.0"


@pytest.mark.slow
def test_what_the_output_alone_held_is_lost_unless_it_is_kept(compared: Any) -> None:
    _, result, _ = compared
    assert shares(result, LIFTED, "first").recovered.value > 0.9
    assert shares(result, LIFTED, "third").kept_output.value < 0.5
    assert shares(result, "kept", "first").recovered.value > 0.8
    assert shares(result, "kept", "third").kept_output.value > 0.9


@pytest.mark.slow
def test_the_control_recovers_nothing_and_is_taken_off(compared: Any) -> None:
    folder, result, row = compared
    assert abs(shares(result, f"control of {LIFTED}", "first").recovered.value) < 0.03
    assert row["control"]["path"] == str(folder / "lifted-control")
    assert row["control"]["cosine"]["after"] > 0.98
    assert row["control"]["steps"] == row["steps"]
    first, third = shares(result, LIFTED, "first"), shares(result, LIFTED, "third")
    assert first.is_lifted and first.recovered_over_control.low > 0.8
    assert not third.is_lifted and third.over_control.high < 0
    assert "control" in dx.load_encoder(folder / "kept", trust_code=True).lineage  # made without one
    assert shares(result, "kept", "first").reasons["over_control"] == "it was made without a control (--no-control)"
    last = aligned_lines(row)
    assert last[1].startswith(f"Control: {folder / 'lifted-control'}: taught by blocks.1, loss -1")
    assert not any(line.startswith("Beware") for line in last)
    drifting = {**row["control"], "cosine": {"before": 1.0, "after": 0.9}}
    assert "fell to a cosine of 0.900 to its own tokens" in aligned_lines({**row, "control": drifting})[2]
    assert f"diagnostics run {folder / 'lifted-control'} --trust-code" in last[-2]
    again = align_tap(job(folder / "lifted", control=True))
    assert again == row


def test_the_control_sees_the_same_batches_and_no_other_teacher(tmp_path: Path) -> None:
    more: dict[str, Any] = {"steps": 3, "batch": 8, "lr": 1e-3, "mask": 0.3, "keep": 0.5}
    row = align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, control=True, **more))
    assert set(lines(tmp_path / "a")[-1]) - set(lines(tmp_path / "a-control")[-1]) == {"cosine_2"}
    assert row["control"]["to"] == row["output"]
    assert row["control"]["loss"] != row["loss"]
    # Aligned to its own output alone it is its own control, and without steps there is nothing to control.
    assert align_tap(job(tmp_path / "b", "norm", SMALL, SERIES, control=True, steps=3, batch=8))["control"] is None
    assert align_tap(job(tmp_path / "c", "blocks.0", SMALL, SERIES, control=True, steps=0, batch=8))["control"] is None
    assert not (tmp_path / "b-control").exists() and not (tmp_path / "c-control").exists()


def test_a_foreign_encoder_in_the_controls_folder_is_not_overwritten(tmp_path: Path) -> None:
    dx.save_encoder(tmp_path / "a-control", dx.build("encoder", SMALL))
    with refusal("occupied", "a-control"):
        align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, control=True, steps=2, batch=8))
    assert not (tmp_path / "a").exists()  # nothing was trained before


def test_the_tap_that_learns_is_where_the_encoder_ends(tmp_path: Path) -> None:
    row = align_tap(job(tmp_path / "a", "embed", SMALL, SERIES, at="blocks.0", steps=4, batch=8, control=True))
    assert row["output"] == "blocks.0"
    loaded = dx.load_encoder(tmp_path / "a")
    assert loaded.output_tap == "blocks.0" and [tap.name for tap in loaded.taps] == ["embed", "blocks.0"]
    assert dx.load_encoder(tmp_path / "a-control").output_tap == "blocks.0"
    base = dx.build("encoder", SMALL)
    assert loaded.lineage["base"] == base.identity["weights"]
    # A teacher may lie beyond the tap that learns.
    beyond = align_tap(job(tmp_path / "b", "blocks.1", SMALL, SERIES, at="blocks.0", steps=4, batch=8, lr=3e-3))
    assert beyond["cosine"]["after"] > beyond["cosine"]["before"]


def test_weights_of_teachers_are_those_of_their_cosines(tmp_path: Path) -> None:
    other = f"{SMALL}&seed=3"
    more: dict[str, Any] = {"teacher": (f"{SMALL}:blocks.1@0.5", f"{other}:blocks.1@2"), "keep": 0.25}
    align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, steps=2, batch=8, lr=1e-3, **more))
    logged = lines(tmp_path / "a")[-1]
    terms = [1.0, 0.5, 2.0, 0.25]
    names = ["cosine", "cosine_2", "cosine_3", "cosine_4"]
    assert logged["loss"] == pytest.approx(
        -sum(w * logged[name] for w, name in zip(terms, names, strict=True)), rel=1e-5
    )


def test_maps_begin_where_they_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base's own output is met at once, and a wider teacher as a linear regression meets it."""
    wide = "objective:jepa?modality=series&length=64&width=32&depth=1&heads=2&patch=8"
    more: dict[str, Any] = {"teacher": (wide,), "keep": 0.5, "steps": 1, "batch": 8, "lr": 1e-9, "log_every": 1}
    align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, **more))
    logged = lines(tmp_path / "a")[0]
    assert logged["cosine_3"] > 0.999
    start = start_of(job(Path("o"), "blocks.0", SMALL, SERIES))
    teacher = named_teacher(wide, start, "x")
    objective = Alignment(start.own, [teacher])
    data = start.dataset
    feed = Feed(data, start.rows, start.own, [teacher], 36, 0.0, 0)
    batch = feed(0)
    objective.begin_maps([batch])
    x = start.own.capture(batch["clean"], ["norm"])["norm"].detach().flatten(0, 1).numpy().astype(np.float64)
    y = teacher.encoder.capture(batch["x"], ["norm"])["norm"].detach().flatten(0, 1).numpy().astype(np.float64)
    weight = 1 / np.linalg.norm(y, axis=1, keepdims=True)
    # The norm leaves features that sum to 0, so that the map itself is not unique.
    met = x @ np.linalg.lstsq(x * weight, y * weight, rcond=1e-5)[0]
    cosine = ((met * y).sum(1) * weight[:, 0] / np.linalg.norm(met, axis=1)).mean()
    assert objective(batch)["cosine"].item() == pytest.approx(cosine, abs=1e-3)
    assert cosine > 0.5
    # Tokens of zeros say nothing.
    empty = teacher_tokens(teacher, batch).clone()
    empty[0] = 0
    with monkeypatch.context() as patch:
        patch.setattr("diagnostics_training.alignment.objective.taught", lambda *_: empty)
        objective.begin_maps([batch])
    assert objective(batch)["cosine"].item() == pytest.approx(cosine, abs=0.05)


def test_another_tap_of_the_base_and_another_width_are_met_through_a_map() -> None:
    start = start_of(job(Path("o"), "blocks.0", SMALL, SERIES, batch=8))
    wide = "objective:jepa?modality=series&length=64&width=32&depth=1&heads=2&patch=8"
    assert named_teacher(f"{SMALL}:blocks.1", start, "x").mapped
    assert named_teacher(f"{SMALL}:blocks.1", start, "x").section == "clean"
    assert named_teacher(wide, start, "x").mapped
    same = named_teacher(f"{SMALL}&seed=3@0.5", start, "x")
    assert (same.mapped, same.section, same.weight) == (False, "x", 0.5)
    for wrong in (f"{SMALL}@-1", f"{SMALL}@inf"):
        with refusal("bad-value", "weight"):
            named_teacher(wrong, start, "x")
    with refusal("bad-value", "--keep", "-1.0", "-1"):
        job(Path("o"), keep=-1.0)


def test_a_teacher_of_another_grid_is_resampled(tmp_path: Path) -> None:
    """A plane stays a plane within what interpolation knows, and the mean of one cell is its own."""
    rng = np.random.default_rng(0)
    fine, coarse = Grid((4, 6), ("y", "x"), prefix=1), Grid((2, 3), ("y", "x"))
    y, x = np.indices(fine.shape)
    plane = torch.tensor(np.stack([2 * y + x, np.ones_like(y)], -1).reshape(1, 24, 2), dtype=torch.float32)
    tokens = torch.cat([torch.zeros(1, 1, 2), plane], dim=1)
    small = on_grid(tokens, fine, coarse)
    assert small.shape == (1, 7, 2)
    assert torch.equal(small[:, :1], tokens[:, :1]) and torch.allclose(small[0, 1:, 1], torch.ones(6))
    # By symmetry the middle column of the coarse grid lies in the middle of the fine one.
    middle = small[0, 1:, 0].reshape(2, 3)
    assert torch.allclose(middle[:, 1].mean(), plane[0, :, 0].mean()) and torch.allclose(
        middle.mean(), plane[0, :, 0].mean(), atol=1e-5
    )
    assert on_grid(tokens, fine, fine) is tokens
    larger = on_grid(small, Grid((2, 3), ("y", "x"), prefix=1), fine)
    assert larger.shape == tokens.shape
    noise = torch.tensor(rng.standard_normal((2, 6, 2)), dtype=torch.float32)
    taps = [Tap("a", 0.5, "trunk", 2, coarse), Tap("b", 0.5, "trunk", 2, coarse)]
    assert float(agreement(noise, taps[0], noise, taps[1])) == pytest.approx(1)
    # End to end: half as many patches.
    half = "objective:jepa?modality=series&length=64&width=16&depth=1&heads=2&patch=16"
    row = align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, steps=2, batch=8, teacher=(half,)))
    assert row["loss"] is not None


def test_the_best_tap_is_chosen_by_the_targets_own_probe_on_all_tokens(tmp_path: Path, monkeypatch: Any) -> None:
    """Of a target with a value for every place each sample's tokens are kept, and no other target is probed."""
    seen: list[dx.Run] = []

    def kept(*args: Any, **options: Any) -> dx.Run:
        seen.append(dx.run(*args, **options | {"out": tmp_path / "run"}))
        return seen[0]

    monkeypatch.setattr(choosing, "run", kept)
    base = dx.build("encoder", "objective:jepa?modality=image&size=32&width=16&depth=2&heads=2&patch=8")
    with contextlib.suppress(DiagnosticsError):  # where the output happens to be best
        choosing.best_tap(base, "segmentation", "shapes?n=90&size=32", "cpu", dx.silent)
    (run,) = seen
    assert [profile.name for profile in run.profiles()] == ["segmentation_probe/segmentation"]
    assert run.store.token_samples == 90


@pytest.mark.parametrize("more", [{"optimiser": "lamb"}, {"precision": "bf16"}, {"accumulate": 2}, {"recompute": True}])
def test_what_the_trainer_can_do_is_there_for_alignments(tmp_path: Path, more: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"steps": 4, "batch": 8, "lr": 1e-3, "drop_path": 0.2}
    plain = align_tap(job(tmp_path / "plain", "blocks.0", SMALL, SERIES, **asked))
    other = align_tap(job(tmp_path / "other", "blocks.0", SMALL, SERIES, **asked, **more))
    same = "recompute" in more
    weights = [dx.load_encoder(Path(row["path"])).identity["weights"] for row in (plain, other)]
    assert (weights[0] == weights[1]) == same
    assert other["loss"] == pytest.approx(plain["loss"], abs=0 if same else 0.2)


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path: Path) -> None:
    with refusal("diverged") as raised:
        align_tap(job(tmp_path / "a", "blocks.0", SMALL, SERIES, steps=30, batch=8, lr=1e30, clip=float("inf")))
    assert any(name in str(raised.value) for name in dx.build("dataset", SERIES).ids)
    assert not (tmp_path / "a" / "encoder.safetensors").exists()

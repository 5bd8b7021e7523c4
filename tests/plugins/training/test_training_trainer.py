"""The trainer: it does what a loop by hand does, goes on after a kill bit for bit, and says when an output collapses."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

pytest.importorskip("timm")

from diagnostics_training.trainer import checkpoint, record
from diagnostics_training.trainer.objective import Objective, World, barrier, world
from diagnostics_training.trainer.record import lines
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit, number, seed_step

from diagnostics import DiagnosticsError, Progress
from diagnostics.activations.folder import lock
from tests.support.objectives import feed, objective
from tests.support.refusals import refusal
from tests.support.two_processes import end_two, start_two


def job(
    out: Path,
    name: str,
    steps: int,
    sleep: float = 0.0,
    where: World | None = None,
    optimiser: str = "adamw",
    **more: int,
) -> Tensor:
    """Trains a tiny objective, and gives the tokens of its encoder; subprocesses call this too."""
    name, _, regulariser = name.partition("+")
    built = objective(name, regulariser=regulariser or "none", **({"outputs": 4} if name == "supervised" else {}))  # type: ignore[arg-type]
    drawn = feed(built, name)

    def batches(step: int, rank: int, size: int) -> dict[str, Tensor]:
        time.sleep(sleep)
        return drawn(step, rank, size)

    settings = Settings(steps=steps, optimiser=optimiser, log_every=1, look_every=7, checkpoint_every=5, **more)  # type: ignore[arg-type]  (a word of the command line)
    fit(built, batches, settings, out, name=name, identity={"data": "sines"}, world=where)
    with torch.no_grad():
        return built.model.backbone(drawn(0)["x"])  # type: ignore[operator, union-attr]


def jobs(folder: str, kinds: list[tuple[str, tuple[str, ...], dict[str, Any]]]) -> None:
    """Several of them, one after the other, by the processes that the environment tells of."""
    with world("cpu") as where:
        for kind, names, more in kinds:
            for name in names:
                tokens = job(Path(folder) / kind / name, name, 6, 0, where, **more)
                if where.first:
                    torch.save(tokens, Path(folder) / kind / name / "tokens.pt")


def start(python: Path, call: str) -> subprocess.Popen[str]:
    """A process that calls a function of this file."""
    path = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support"), os.environ.get("PYTHONPATH", "")]
    )
    known = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    script = (
        f"import torch; torch.set_num_threads(1); from pathlib import Path; import {Path(__file__).stem} as t; t.{call}"
    )
    return subprocess.Popen(
        [python, "-c", script], env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


class Line(Objective):
    """Fits a line; what tests need to see is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.after: list[tuple[int, int]] = []
        self.seeds: list[float] = []

    def forward(self, batch: Any) -> dict[str, Tensor]:
        self.seeds.append(float(torch.rand(())))
        missed = (self.linear(batch["x"]).sum(1) - batch["y"]).square().mean()
        return {"loss": missed, "half": missed / 2}

    def output(self, batch: Any) -> Tensor:
        return batch["x"]

    def after_step(self, done: int, total: int) -> None:
        self.after.append((done, total))


def batches(step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    x = torch.from_numpy(np.random.default_rng(step).standard_normal((16, 3)).astype(np.float32))
    return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5]) + 1}


def trained(out: Path, settings: Settings, **more: Any) -> tuple[Line, Any]:
    torch.manual_seed(0)
    built = Line()
    return built, fit(built, batches, settings, out, tell=lambda line: None, **more)


def test_it_trains_as_a_loop_by_hand(tmp_path: Path) -> None:
    settings = Settings(steps=40, lr=0.1, warmup=0.25, clip=0.5, log_every=1)
    built, result = trained(tmp_path, settings)
    torch.manual_seed(0)
    other = Line()
    optimiser = torch.optim.AdamW(
        [{"params": [other.linear.weight], "weight_decay": 0.05}, {"params": [other.linear.bias], "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        foreach=False,
    )
    losses = []
    for step in range(40):
        rate = 0.1 * (step + 1) / 10 if step < 10 else 0.05 * (1 + math.cos(math.pi * (step - 10) / 30))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = other(batches(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        length = torch.cat([p.grad.flatten() for p in (other.linear.weight, other.linear.bias)]).norm()  # type: ignore[union-attr]  (after a backward pass there is a gradient)
        for p in (other.linear.weight, other.linear.bias):
            p.grad *= min(1.0, 0.5 / float(length))  # type: ignore[operator]
        optimiser.step()
        losses.append(float(loss.detach()))
    logged = lines(tmp_path)
    assert [line["loss"] for line in logged] == pytest.approx(losses, rel=1e-4)
    assert [line["step"] for line in logged] == list(range(1, 41))
    assert logged[9]["lr"] == pytest.approx(0.1)
    assert logged[4]["half"] == pytest.approx(logged[4]["loss"] / 2)
    assert torch.allclose(built.linear.weight, other.linear.weight, atol=1e-5)
    assert torch.equal(built.frozen, torch.ones(2))
    assert built.after == [(done, 40) for done in range(1, 41)]
    assert result.loss == logged[-1]["loss"] < losses[0]


def test_each_step_draws_from_its_own_number(tmp_path: Path) -> None:
    built, _ = trained(tmp_path, Settings(steps=6))
    # The first step's pass is made once before it, for the kernel of its attention.
    again, *of_steps = built.seeds
    assert again == of_steps[0]
    assert len(of_steps) == len(set(of_steps)) == 6
    torch.manual_seed(number(0, 3, 0))
    assert of_steps[3] == float(torch.rand(()))
    assert len({number(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125


def test_progress_and_board(tmp_path: Path) -> None:
    seen: list[Progress] = []
    trained(tmp_path, Settings(steps=25), watch=seen.append, name="line")
    assert [(event.step, event.done, event.total) for event in seen] == [
        ("line", 10, 25),
        ("line", 20, 25),
        ("line", 25, 25),
    ]
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in lines(tmp_path)
    ]


# Going on


# The regulariser draws directions from torch's generator in every step. Without workers a thread makes batches, and losses are the same.
@pytest.mark.parametrize(("optimiser", "workers"), [("adamw", 2), ("lamb", 0)])
def test_a_killed_training_goes_on_bit_for_bit(
    tmp_path: Path, optimiser: str, workers: int, capsys: pytest.CaptureFixture[str], warm_python: Path
) -> None:
    out, name = tmp_path / "killed", "jepa+sigreg"
    killed = start(warm_python, f"job(Path({str(out)!r}), {name!r}, 24, 0.05, None, {optimiser!r}, workers={workers})")
    whole = job(tmp_path / "whole", name, 24, optimiser=optimiser)
    deadline = time.monotonic() + 300
    while len(lines(out)) < 13:
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()  # which ends when the copy behind it has
    assert killed.returncode == -signal.SIGKILL
    assert lines(out)[-1]["step"] < 24
    assert (out / checkpoint.FILE).is_file()
    # What a kill in the middle of a line leaves.
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    capsys.readouterr()
    tokens = job(out, name, 24, optimiser=optimiser, workers=workers)
    assert "resumes from step" in capsys.readouterr().err
    expected, result = lines(tmp_path / "whole"), lines(out)
    assert len(expected) == 24
    assert result == expected
    assert any("rank" in line for line in result)
    assert torch.equal(tokens, whole)


@pytest.mark.parametrize("group", ["group/", "nothing/"])
def test_lamb_goes_on_with_the_count_of_its_group(tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the steps after a resume are others, so the test above can fail."""
    settings = Settings(steps=12, lr=0.01, optimiser="lamb", log_every=1, checkpoint_every=6)
    trained(tmp_path / "whole", settings)

    def until(step: int, rank: int, world: int) -> dict[str, Tensor]:
        if step == 8:
            raise KeyboardInterrupt
        return batches(step)

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), until, settings, tmp_path / "stopped")
    monkeypatch.setattr(checkpoint, "GROUP", group)
    trained(tmp_path / "stopped", settings)
    assert (lines(tmp_path / "stopped") == lines(tmp_path / "whole")) == (group == "group/")


@pytest.mark.parametrize("damage", [b"\xff\xfe{}", b"[]", b"7", b'{"step": 3}', b'{"step": "a", "loss": 1}', b"{"])
def test_a_damaged_log_says_how_to_go_on(tmp_path: Path, damage: bytes) -> None:
    settings = Settings(steps=12, lr=0.01, log_every=1, checkpoint_every=6)

    def until(step: int, rank: int, world: int) -> dict[str, Tensor]:
        if step == 8:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), until, settings, tmp_path)
    log = tmp_path / "metrics.jsonl"
    whole = log.read_bytes().splitlines()
    log.write_bytes(b"\n".join([*whole[:2], damage, *whole[3:], b""]))
    with refusal("damaged", "3", "metrics.jsonl"):
        trained(tmp_path, settings)
    log.write_bytes(b"\n".join([*whole[:2], *whole[3:], b""]))
    trained(tmp_path, settings)
    assert lines(tmp_path)[-1]["step"] == 12


def test_lines_after_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    trained(tmp_path, Settings(steps=20, log_every=1, checkpoint_every=20))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 21, "loss": 0.0}) + "\n")
    _, result = trained(tmp_path, Settings(steps=20, log_every=1, checkpoint_every=20))
    assert result.loss == lines(tmp_path)[-1]["loss"]
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 21))


@pytest.mark.parametrize(
    ("settings", "identity", "message"),
    [
        (Settings(steps=20, lr=0.5), {"--data": "a"}, "--lr 0.001, not 0.5"),
        (Settings(steps=20, seed=1), {"--data": "a"}, "--seed 0, not 1"),
        (Settings(steps=30), {"--data": "a"}, "--steps 20, not 30"),
        (Settings(steps=20), {"--data": "b"}, "--data a, not b"),
        (Settings(steps=20), {}, "--data a, which is not given now"),
    ],
)
def test_a_checkpoint_of_other_settings_or_data_is_refused(
    tmp_path: Path, settings: Settings, identity: dict[str, str], message: str
) -> None:
    trained(tmp_path, Settings(steps=20), identity={"--data": "a"})
    with pytest.raises(DiagnosticsError, match=message):
        trained(tmp_path, settings, identity=identity)


def test_what_is_trained_is_told_before_the_first_progress(tmp_path: Path) -> None:
    messages: list[str] = []
    torch.manual_seed(0)
    fit(
        Line(),
        batches,
        Settings(steps=20, log_every=1),
        tmp_path,
        lambda event: messages.append(str(event.done)),
        tell=messages.append,
    )
    assert [line for line in messages if not line.isdigit()] == [messages[0], messages[11]]
    assert messages[0].startswith("training: trains ")
    assert messages[1] == "1"
    assert messages[11].startswith("training: about ")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, Settings(steps=20))
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-20])
    with refusal("damaged"):
        trained(tmp_path, Settings(steps=20))


def test_no_flipped_bit_of_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    trained(tmp_path, Settings(steps=20))
    path = tmp_path / checkpoint.FILE
    whole = path.read_bytes()
    for at in random.Random(0).sample(range(len(whole)), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 7]) + whole[at + 1 :])
        with pytest.raises(DiagnosticsError, match=f"{re.escape(str(path))}.*(remove it to start again|another --out)"):
            trained(tmp_path, Settings(steps=20))


def test_a_full_disk_is_one_sentence_and_nothing_of_a_checkpoint_stays(tmp_path: Path, monkeypatch: Any) -> None:
    def full(_: Any, file: Path, __: Any) -> None:
        (file.parent / ".tmpXk2").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / ".checkpoint.safetensors.partial").mkdir()
    (tmp_path / ".checkpoint.safetensors.partial" / ".tmpXk1").write_bytes(b"what a kill left")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with refusal("no-space"):
            trained(tmp_path, Settings(steps=20))
    assert not [file for file in tmp_path.rglob("*") if "partial" in file.name or ".tmp" in file.name]
    trained(tmp_path, Settings(steps=20))


def test_a_checkpoint_holds_the_optimiser_by_name(tmp_path: Path) -> None:
    built, _ = trained(tmp_path, Settings(steps=20))
    from safetensors.torch import load_file

    kept = load_file(tmp_path / checkpoint.FILE)
    assert torch.equal(kept["weights/linear.weight"], built.linear.weight)
    assert {"optimiser/exp_avg/linear.weight", "optimiser/exp_avg_sq/linear.bias"} <= kept.keys()
    assert float(kept["optimiser/step/linear.bias"]) == 20
    assert not any("frozen" in name for name in kept if name.startswith("optimiser"))
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_one_process_at_a_time_trains_in_a_folder_and_no_lock_is_left(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with lock(out), refusal("in-use", out):
        trained(out, Settings(steps=20))
    trained(out, Settings(steps=20))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and not list(out.glob(".*"))


class Named:
    """Batches of samples whose ids are told."""

    def __call__(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        return batches(step) | {"step": torch.full((16,), step)}

    def ids(self, step: int, rank: int, world: int) -> list[str]:
        return [f"{step}-{i}" for i in range(rank, 30, world)]


class Bad(Line):
    """Something that is no number comes into one step: into its loss, or into its gradient alone."""

    def __init__(self, step: int, gradient: bool) -> None:
        super().__init__()
        self.bad, self.gradient = step, gradient

    def forward(self, batch: Any) -> dict[str, Tensor]:
        loss = super().forward(batch)["loss"]
        if not bool((batch["step"] == self.bad).all()):
            return {"loss": loss}
        # The derivative of a square root at 0 is infinite.
        return {"loss": loss + (0 * loss).sqrt() if self.gradient else loss * torch.inf}


@pytest.mark.parametrize(("gradient", "kept"), [(False, True), (True, False)])
def test_what_is_not_finite_ends_in_a_sentence_about_its_own_step(tmp_path: Path, gradient: bool, kept: bool) -> None:
    """Logged are the 10th and the 20th step, the bad one is the 13th."""
    settings = Settings(steps=20, checkpoint_every=10 if kept else 20)
    with pytest.raises(DiagnosticsError) as raised:
        fit(Bad(12, gradient), Named(), settings, tmp_path)
    last = f"step 10 is the last in {tmp_path / checkpoint.FILE}" if kept else "no checkpoint was written"
    ids = ", ".join(f"12-{i}" for i in range(20))
    assert str(raised.value) == (
        f"The {'gradient' if gradient else 'loss'} of training is not finite at step 13 (batch of {ids} and 10 more), and {last}: look "
        f"at those samples, or train with a smaller --lr, into another folder than {tmp_path}."
    )
    assert (tmp_path / checkpoint.FILE).exists() == kept


def test_where_ids_are_not_known_none_are_named(tmp_path: Path) -> None:
    with refusal("diverged", "13"):
        fit(Bad(12, False), lambda *at: Named()(*at), Settings(steps=20), tmp_path)


class Evaluated(Line):
    """Its evaluation draws at random and looks at the mode; what it saw is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bool, bool]] = []

    def evaluate(self, step: int) -> dict[str, float]:
        self.seen.append((step, self.training, torch.is_grad_enabled()))
        return {"drawn": float(torch.rand(100).mean()), "loss": -1.0}


def test_an_evaluation_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    def evaluated(every: int | None) -> tuple[Evaluated, list[dict[str, Any]], float]:
        torch.manual_seed(0)
        built, out = Evaluated(), tmp_path / str(every)
        fit(built, batches, Settings(steps=10, log_every=1, evaluate_every=every), out)
        return built, lines(out), float(torch.rand(()))

    (built, logged, after), (plain, bare, expected) = evaluated(4), evaluated(None)
    assert built.seen == [(step, False, False) for step in (4, 8, 10)]
    assert plain.seen == []
    assert [line["step"] for line in logged if "evaluation/drawn" in line] == [4, 8, 10]
    assert logged[3]["evaluation/loss"] == -1
    assert [{key: value for key, value in line.items() if "/" not in key} for line in logged] == bare
    assert (built.seeds, after) == (plain.seeds, expected)


def test_bf16_computes_coarsely_and_keeps_weights_fine(tmp_path: Path) -> None:
    built, coarse = trained(tmp_path / "a", Settings(steps=10, log_every=1, precision="bf16"))
    _, fine = trained(tmp_path / "b", Settings(steps=10, log_every=1))
    assert built.linear.weight.dtype == torch.float32
    assert coarse.loss != fine.loss
    assert coarse.loss == pytest.approx(fine.loss, rel=0.05)


# Several processes


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, warm_python: Path) -> None:
    lamb: dict[str, Any] = {"optimiser": "lamb", "accumulate": 2, "workers": 1}
    kinds: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("plain", ("forecast", "contrastive", "reconstruct", "jepa", "supervised"), {}),
        ("lamb", ("forecast", "reconstruct"), lamb),
    ]
    call = f"jobs({str(tmp_path / 'two')!r}, {kinds!r})"
    running = start_two(warm_python, __file__, call)
    one = {
        (kind, name): job(tmp_path / "one" / kind / name, name, 6, optimiser=more.get("optimiser", "adamw"))
        for kind, names, more in kinds
        for name in names
    }
    end_two(running)
    for (kind, name), tokens in one.items():
        alone, two = (lines(tmp_path / count / kind / name) for count in ("one", "two"))
        assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in alone], abs=1e-5)
        assert alone[0]["loss"] != pytest.approx(alone[-1]["loss"], abs=1e-4)
        assert torch.allclose(
            torch.load(tmp_path / "two" / kind / name / "tokens.pt", weights_only=True), tokens, atol=1e-4
        )


def test_processes_wait_longer_for_the_first_one_than_torch_lets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: given.update(options))
    for name, value in (("get_rank", 1), ("get_world_size", 2), ("barrier", None), ("destroy_process_group", None)):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    with world("cpu") as where:
        assert where == World(1, 2, "cpu")
    assert given["timeout"] > timedelta(days=7)


def test_a_process_whose_first_one_ended_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lose)
    with refusal("process-ended"):
        barrier()


# Collapse


def test_what_is_seen_of_an_output() -> None:
    healthy = torch.randn(64, 16)
    assert not record.look(1, healthy).collapsed
    assert record.look(1, healthy).spread == pytest.approx(
        float(healthy.std(0, correction=0).square().mean().sqrt() / healthy.square().mean().sqrt()), rel=1e-5
    )
    constant = record.look(1, torch.ones(64, 16))
    assert (constant.rank, constant.spread, constant.collapsed) == (0.0, 0.0, True)
    assert record.look(1, torch.ones(64, 16) + 0.001 * healthy).collapsed
    along_a_line = torch.randn(64, 1) * torch.randn(1, 16)
    assert record.look(1, along_a_line).rank == pytest.approx(1, abs=1e-4)
    assert record.look(1, along_a_line).collapsed
    assert record.look(1, torch.full((4, 3), math.nan)).collapsed


class Alike(Objective):
    """Two noisy views are to be the same, and, where `apart`, no feature may lose its spread."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 8), nn.LayerNorm(8))
        self.apart = apart

    def forward(self, batch: Any) -> dict[str, Tensor]:
        x = batch["x"]
        one, two = (self.net(x + 0.5 * torch.randn_like(x)) for _ in range(2))
        spread = torch.relu(1 - one.var(0).sqrt()).mean() if self.apart else 0.0
        return {"loss": (one - two).square().mean() + spread}

    def output(self, batch: Any) -> Tensor:
        return self.net(batch["x"])


@pytest.mark.parametrize("apart", [False, True])
def test_a_planted_collapse_is_told_and_a_healthy_run_is_not(tmp_path: Path, apart: bool) -> None:
    torch.manual_seed(0)
    messages: list[str] = []

    def normal(step: int, rank: int, world: int) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(np.random.default_rng(step).standard_normal((64, 12)).astype(np.float32))}

    result = fit(
        Alike(apart), normal, Settings(steps=400, lr=1e-2, look_every=20), tmp_path, name="alike", tell=messages.append
    )
    collapses = [line for line in messages if "collapses" in line]
    if apart:
        assert not collapses
        assert result.collapse is None
        return
    assert len(collapses) == 1
    assert result.collapse is not None
    assert str(result.collapse) in collapses[0]
    assert f"at step {result.collapse.step} " in collapses[0]
    logged = {line["step"]: line["spread"] for line in lines(tmp_path) if "spread" in line}
    assert logged[result.collapse.step] == result.collapse.spread
    again = fit(
        Alike(apart), normal, Settings(steps=400, lr=1e-2, look_every=20), tmp_path, name="alike", tell=messages.append
    )
    assert again.collapse == result.collapse


def test_a_step_is_seeded_as_torch_seeds() -> None:
    seed_step(Settings(steps=9, seed=3), 5, World())
    own = torch.rand(4)
    torch.manual_seed(number(3, 5, 0))
    assert torch.equal(own, torch.rand(4))
    seed_step(Settings(steps=9, seed=3), 6, World())
    assert not torch.equal(own, torch.rand(4))

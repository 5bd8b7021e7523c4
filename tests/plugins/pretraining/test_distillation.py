"""Distillation is both divergences, from any frozen pair of encoders, which stays as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny import tiny_image_encoder

pytest.importorskip("open_clip")

from diagnostics_pretraining import losses
from diagnostics_pretraining.losses import TEACHER_SCALE, divergences
from diagnostics_pretraining.objective import Distillation, Teacher, flattened
from diagnostics_pretraining.recipe import PretrainJob
from diagnostics_pretraining.text_encoder import context_of, vocabulary_of
from diagnostics_pretraining.towers import Pair, build_towers, encoders_of, load_pair
from diagnostics_pretraining.train import plan_of, train
from diagnostics_training.trainer.objective import world

from diagnostics import Grid, LazySamples, Site, Tap, TorchEncoder, build
from tests.support.pairs import save_pair
from tests.support.refusals import refusal
from tests.support.two_processes import end_two, start_two

PAIRS, WIDTH, TAUGHT = 12, 7, 5
DATA = "shapes?n=60&size=32&objects=1&seed=3"


def drawn() -> list[Tensor]:
    """Student's images, texts and log scale, and the teacher's images and texts, which are alike enough to be uncertain."""
    torch.manual_seed(0)
    images, texts = torch.randn(2, PAIRS, WIDTH)
    taught = torch.randn(1, TAUGHT) + 0.1 * torch.randn(2, PAIRS, TAUGHT)
    return [images.requires_grad_(), texts.requires_grad_(), torch.tensor(math.log(100.0)).requires_grad_(), *taught]


def plain(images: Any, texts: Any, log_scale: Any, taught_images: Any, taught_texts: Any) -> list[float]:
    """The equation in float64, a number at a time."""
    sides = [np.asarray(side.detach(), np.float64) for side in (images, texts, taught_images, taught_texts)]

    def softmax(one: np.ndarray, others: np.ndarray, scale: float) -> list[float]:
        logits = [scale * float(one @ other) / math.sqrt(one @ one) / math.sqrt(other @ other) for other in others]
        total = math.fsum(math.exp(logit - max(logits)) for logit in logits)
        return [logit - max(logits) - math.log(total) for logit in logits]

    results: list[float] = []
    for a, b in ((0, 1), (1, 0)):
        whole: list[float] = []
        for i in range(PAIRS):
            given = softmax(sides[a][i], sides[b], math.exp(float(log_scale.detach())))
            wanted = softmax(sides[2 + a][i], sides[2 + b], 200.0)
            whole.append(math.fsum(math.exp(p) * (p - q) for p, q in zip(wanted, given, strict=True)))
        results.append(math.fsum(whole) / PAIRS)
    return results


def test_it_is_the_equation() -> None:
    ours = [float(one.detach()) for one in divergences(*drawn())]
    assert ours == pytest.approx(plain(*drawn()), rel=1e-6)
    assert min(ours) > 0.1 and abs(ours[0] - ours[1]) > 1e-3 and TEACHER_SCALE == 200.0


def test_blocks_of_anchors_give_the_same_and_keep_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = drawn(), drawn()
    expected = torch.autograd.grad(sum(divergences(*whole)), whole[:3])
    # Twelve pairs in blocks of five, five and two.
    monkeypatch.setattr(losses, "BLOCK", 5 * PAIRS)
    kept: list[int] = []

    def packed(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        blocked = divergences(*parts)
    assert [float(one.detach()) for one in blocked] == pytest.approx(plain(*drawn()), rel=1e-6)
    assert max(kept) == PAIRS * WIDTH < PAIRS**2
    for ours, theirs in zip(torch.autograd.grad(sum(blocked), parts[:3]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_it_is_nothing_where_the_student_finds_the_same() -> None:
    taught = drawn()[3:]
    alike = divergences(3 * taught[0], 0.2 * taught[1], torch.tensor(math.log(200.0)), *taught)
    assert all(abs(float(one)) < 1e-10 for one in alike)
    assert all(float(one) > 1e-3 for one in divergences(*taught, torch.tensor(math.log(100.0)), *taught))


def test_the_teacher_gets_no_gradient() -> None:
    parts = [part.detach().requires_grad_() for part in drawn()]
    sum(divergences(*parts)).backward()
    assert parts[3].grad is None and parts[4].grad is None
    assert all(float(part.grad.abs().max()) > 0 for part in parts[:3] if part.grad is not None)
    assert all(part.grad is not None for part in parts[:3])


def of_two(folder: str) -> None:
    """Each of two processes has half of the pairs; called in subprocesses."""
    with world("cpu") as where:
        half = slice(where.rank * PAIRS // 2, (where.rank + 1) * PAIRS // 2)
        parts = [part.detach() if part.ndim == 0 else part.detach()[half].clone() for part in drawn()]
        inputs = [part.requires_grad_() for part in parts[:3]]
        loss = sum(divergences(*inputs, *parts[3:]))
        torch.save({"loss": loss.detach(), "gradients": torch.autograd.grad(loss, inputs)}, f"{folder}/{where.rank}.pt")


def test_two_processes_give_the_whole_batchs_loss_and_gradients(tmp_path: Path, warm_python: Path) -> None:
    end_two(start_two(warm_python, __file__, f"of_two({str(tmp_path)!r})"))
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    inputs = drawn()
    loss = sum(divergences(*inputs))
    wanted = torch.autograd.grad(loss, inputs[:3])
    assert float((results[0]["loss"] + results[1]["loss"]) / 2) == pytest.approx(float(loss.detach()), rel=1e-9)
    for side in (0, 1):
        ours = torch.cat([one["gradients"][side] for one in results]) / 2  # data parallelism takes their mean
        torch.testing.assert_close(ours, wanted[side], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        (results[0]["gradients"][2] + results[1]["gradients"][2]) / 2, wanted[2], atol=1e-6, rtol=1e-5
    )


class Letters(nn.Module):
    """The mean of its characters' rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(128, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x).mean(1)


def letters(features: int = 8) -> TorchEncoder:
    def preprocess(text: np.ndarray) -> Tensor:
        return torch.tensor([ord(one) % 128 for one in str(text).ljust(200)[:200]])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = Letters()
    tap = Tap("whole", 1.0, "trunk", features, Grid((1,), ("t",)), Site("", layout="features"))
    return TorchEncoder("letters", "text", module, [tap], "whole", preprocess, np.asarray("a star"))


def job(tmp_path: Path, **more: Any) -> PretrainJob:
    options: dict[str, Any] = {"data": DATA, "out": tmp_path / "student", "size": "micro", "recipe": "distil"}
    return PretrainJob(**options | {"batch": 16, "samples": 64} | more)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = vocabulary_of(build("dataset", DATA).texts, context_of("micro"))
    towers = build_towers("micro", rope=False, pool="class", vocabulary=vocabulary, seed=3)
    return save_pair(encoders_of(towers, "teacher"), tmp_path_factory.mktemp("teacher") / "t")


def test_a_saved_pair_teaches(tmp_path: Path, teacher: Path) -> None:
    before = (teacher / "encoder.safetensors").read_bytes()
    row = train(job(tmp_path, teacher=str(teacher)))
    assert row["steps"] == 4 and row["recipe"] == "distil"
    assert (teacher / "encoder.safetensors").read_bytes() == before
    assert f"--teacher {teacher}" in load_pair(tmp_path / "student").image.lineage["how"]


def test_a_teacher_is_left_as_it_is(tmp_path: Path, teacher: Path) -> None:
    planned = plan_of(job(tmp_path, teacher=str(teacher)))
    kept = [part.state_dict() for part in (planned.teacher.image.module, planned.teacher.text.module)]
    kept = [{name: value.clone() for name, value in state.items()} for state in kept]
    objective = planned.objective(planned.towers(), "cpu")
    assert not any(name.startswith("teacher") for name, _ in objective.named_parameters())
    objective.train()
    for step in range(3):
        loss = objective(planned.batches(step, 0, 1))["loss"]
        loss.backward()
    for state, part in zip(kept, (planned.teacher.image.module, planned.teacher.text.module), strict=True):
        assert all(torch.equal(value, part.state_dict()[name]) for name, value in state.items())
        assert all(parameter.grad is None for parameter in part.parameters())


@pytest.mark.parametrize("data", [DATA, "shapes?n=30&size=32&frames=2&seed=3"])
def test_student_and_teacher_see_one_reading_of_each_sample(tmp_path: Path, teacher: Path, data: str) -> None:
    planned = plan_of(job(tmp_path, data=data, teacher=str(teacher)))
    samples, read = planned.dataset.samples, list[int]()

    def sample(i: int) -> np.ndarray:
        read.append(i)
        return samples[i]

    planned.dataset.samples = LazySamples(len(samples), sample)
    batches: Any = planned.batches
    batch = batches(2, 0, 1)
    assert [planned.dataset.ids[i] for i in read] == list(batches.ids(2))
    images = [samples[i][0] if "frames" in data else samples[i] for i in read]
    alone = planned.teacher.prepared(images, [planned.dataset.texts[i] for i in read])
    assert {*alone} == {key for key in batch if key.startswith("teacher")}
    assert all(torch.equal(batch[key], value) for key, value in alone.items())
    assert torch.equal(flattened(batch), torch.stack([load_pair(teacher).image.preprocess(image) for image in images]))


def test_any_two_encoders_can_teach() -> None:
    vocabulary = vocabulary_of(["a star"], context_of("micro"))
    towers = build_towers("micro", rope=True, pool="attention", vocabulary=vocabulary, seed=0)
    teacher = Teacher(Pair(tiny_image_encoder(), letters(), 1.0))
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    texts = ["a red star", "a blue disc", "a star", "nothing"]
    batch = {"pixels": torch.randn(4, 3, 16, 16), "tokens": vocabulary.encode(texts)[0]}
    batch |= teacher.prepared(samples, texts)
    images, words = teacher.embeddings(batch)
    assert images.shape == words.shape == (4, 8)
    torch.testing.assert_close(
        words, teacher.text.module(torch.stack([teacher.text.preprocess(np.asarray(t)) for t in texts])).detach()
    )
    np.testing.assert_allclose(images, teacher.image.transform(samples, pooling="mean"), atol=1e-6)
    assert float(Distillation(towers, teacher)(batch)["loss"].detach()) > 0


def test_what_cannot_teach_is_refused(tmp_path: Path, teacher: Path) -> None:
    with refusal("other-modality", "tiny-image", "image", "text"):
        Teacher(Pair(tiny_image_encoder(), tiny_image_encoder(), 1.0))
    with refusal("other-weights", "16", "8"):
        Teacher(Pair(tiny_image_encoder(width=16), letters(), 1.0))
    for more in ({}, {"recipe": "1", "teacher": str(teacher)}):
        with refusal("conflict", "--recipe", "--teacher"):
            plan_of(job(tmp_path, **more))
    own = tmp_path / "own.toml"
    own.write_text(
        'objective = "distil"\nbatch = 16\nlr = 1e-3\nmask = 0.125\nstages = [{ size = 16, samples = 64 }]\n'
    )
    with refusal("conflict", "mask, augment or clips"):
        plan_of(job(tmp_path, recipe=None, config=own, teacher=str(teacher)))

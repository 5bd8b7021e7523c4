"""How to train: optimisers by name, the rate of every step, and what cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("timm")

from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import build_optimiser

from diagnostics import DiagnosticsError


def rates(steps: int, **more: Any) -> list[float]:
    settings = Settings(steps=steps, lr=1.0, **more)
    return [settings.rate(step) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.25, 5.0])
def test_a_warm_up_is_a_share_or_a_number_of_steps(warmup: float) -> None:
    risen = rates(20, warmup=warmup)
    assert risen[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert risen[5:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 15)) for i in range(15)])


def test_schedules() -> None:
    assert rates(4, warmup=0) == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert rates(4, warmup=0, schedule="constant") == [1, 1, 1, 1]
    assert rates(10, warmup=2, schedule="constant", cooldown=0.4) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    )
    assert rates(4, warmup=0, schedule="constant", cooldown=1.0) == pytest.approx([1, 0.75, 0.5, 0.25])
    # Of a share however small there is one step.
    assert rates(3)[0] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "cannot have steps 0: give at least 1"),
        ({"accumulate": 0}, "cannot have accumulate 0: give at least 1"),
        ({"workers": -1}, "cannot have workers -1: give at least 0"),
        ({"seed": -1}, "cannot have seed -1: give at least 0"),
        ({"weight_decay": float("nan")}, "cannot decay by nan: give 0 or more"),
        ({"lr": -1.0}, "a learning rate of -1.0"),
        ({"lr": math.nan}, "a learning rate of nan"),
        ({"clip": 0.0}, "a length of 0.0"),
        ({"clip": math.nan}, "a length of nan"),
        ({"precision": "int8"}, "no precision int8: choose float32 or bf16"),
        ({"optimiser": "muon"}, "no optimiser muon: choose adamw or lamb"),
        ({"schedule": "linear"}, "no schedule linear: choose cosine or constant"),
        ({"warmup": 6}, "cannot take 6 of 5 steps"),
        ({"warmup": 2.5}, "cannot take 2.5 of 5 steps: give a share below 1, or a whole number of steps"),
        ({"warmup": math.nan}, "cannot take nan of 5 steps"),
        ({"cooldown": 1.5, "schedule": "constant"}, "cannot take 1.5 of the steps"),
        ({"cooldown": 0.5}, "A cosine schedule falls by itself"),
        ({"warmup": 3, "cooldown": 0.6, "schedule": "constant"}, "3 of warm-up and 3 of cooldown"),
    ],
)
def test_what_cannot_be_is_one_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DiagnosticsError) as raised:
        Settings(**({"steps": 5} | changed))
    assert message in str(raised.value)


def test_what_changes_no_number_is_no_part_of_the_identity() -> None:
    plain = Settings(steps=5).identity
    assert (
        plain
        == Settings(steps=5, compile=True, recompute=True, workers=3, evaluate_every=2, checkpoint_every=7).identity
    )
    for changed in ({"accumulate": 2}, {"optimiser": "lamb"}, {"schedule": "constant"}, {"clip": 2.0}, {"warmup": 2}):
        assert Settings(steps=5, **changed).identity != plain  # type: ignore[arg-type]  (one field each)


def test_what_decides_is_known_by_the_name_that_is_typed() -> None:
    known = Settings(steps=5, seed=3).identity
    assert (known["--steps"], known["--seed"], known["weight_decay"]) == (5, 3, 0.05)
    assert not {"--attention", "--workers", "log_every"} & known.keys()


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_decay_is_for_matrices_only(name: Any) -> None:
    module = nn.ModuleDict({"a": nn.Linear(3, 4), "norm": nn.LayerNorm(5)})
    module["a"].mask = nn.Parameter(torch.zeros(1, 1, 6))
    groups = build_optimiser(module, Settings(steps=1, optimiser=name)).param_groups
    shapes = [sorted(tuple(p.shape) for p in group["params"]) for group in groups]
    assert shapes == [[(4, 3)], [(1, 1, 6), (4,), (5,), (5,)]]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


def test_lamb_by_hand() -> None:
    """Two steps of You et al., algorithm 2: Adam's update with decay, times the length of the weights over its own.

    A vector takes Adam's update as it is. Gradients far beyond length 1 are not clipped again.
    """
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    start = {name: value.detach().double().clone() for name, value in module.named_parameters()}
    settings = Settings(steps=2, lr=0.1, optimiser="lamb")
    optimiser = build_optimiser(module, settings)
    gradients = [{name: 50 * torch.randn_like(value) for name, value in module.named_parameters()} for _ in range(2)]
    for gradient in gradients:
        for name, value in module.named_parameters():
            value.grad = gradient[name].clone()
        optimiser.step()
    for name, value in module.named_parameters():
        weights, first, second = start[name], torch.zeros_like(start[name]), torch.zeros_like(start[name])
        for i, gradient in enumerate(gradients, 1):
            g = gradient[name].double()
            first, second = 0.9 * first + 0.1 * g, 0.95 * second + 0.05 * g**2
            update = (first / (1 - 0.9**i)) / ((second / (1 - 0.95**i)).sqrt() + 1e-6)
            if name == "weight":
                update = update + 0.05 * weights
                update = update * weights.norm() / update.norm()
            weights = weights - 0.1 * update
        assert torch.allclose(value.double(), weights, atol=1e-6)

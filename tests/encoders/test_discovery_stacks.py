"""Finding the stack of blocks by structure, on modules made for it; real models are in the coverage benchmark."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from torch import nn

from diagnostics.encoders.places import find_blocks
from tests.support.refusals import refusal


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)


class Unit(nn.Module):
    """A convolution with its norm and activation: a layer, no block."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU()


class Mixed(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.one, self.two = Unit(width), Unit(width)


class Other(Mixed):
    pass


class Third(Mixed):
    pass


class Model(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def blocks(n: int, width: int = 16) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(n)))


def found(model: nn.Module) -> list[str]:
    return find_blocks(model, "it")


def test_a_root_of_blocks() -> None:
    model = Model(stem=nn.Conv2d(3, 16, 3), blocks=blocks(3), norm=nn.LayerNorm(16), head=nn.Linear(16, 10))
    assert found(model) == ["blocks.0", "blocks.1", "blocks.2"]


def test_stages_with_reductions_and_norms_beside_their_blocks() -> None:
    stage = nn.Sequential(nn.Conv2d(16, 8, 1), *blocks(2), nn.LayerNorm(16))
    model = Model(stages=nn.Sequential(blocks(2), stage))
    assert found(model) == ["stages.0.0", "stages.0.1", "stages.1.1", "stages.1.2"]


def test_a_stage_that_is_mostly_something_else_is_a_block_itself() -> None:
    stage = nn.Sequential(nn.Linear(16, 400), Block())
    assert found(Model(stages=nn.Sequential(blocks(2), stage))) == ["stages.0.0", "stages.0.1", "stages.1"]


@pytest.mark.parametrize("within", ["", "body"])
def test_numbered_stages_also_within_one_container(within: str) -> None:
    parts = OrderedDict(conv=nn.Conv2d(3, 16, 3), layer1=blocks(2), layer2=blocks(1))
    model = Model(**{within: nn.Sequential(parts)}) if within else Model(**parts, fc=nn.Linear(16, 1000))
    prefix = f"{within}." if within else ""
    assert found(model) == [f"{prefix}{name}" for name in ("layer1.0", "layer1.1", "layer2.0")]


def test_of_several_numbered_series_the_largest() -> None:
    small = {f"transition{i}": blocks(1, 2) for i in range(4)}
    assert found(Model(**small, stage1=blocks(2), stage2=blocks(1))) == ["stage1.0", "stage1.1", "stage2.0"]


def test_heads_do_not_count_as_trunk() -> None:
    model = Model(stage1=blocks(1), stage2=blocks(1), final_layer=nn.Linear(16, 4000), classifier=nn.Linear(4000, 10))
    assert found(model) == ["stage1.0", "stage2.0"]


def test_a_chain_of_different_parts() -> None:
    parts = OrderedDict(Conv_1=Unit(), Mixed_5b=Mixed(), pool=nn.MaxPool2d(2), Mixed_6a=Other(), cell_0=Third())
    expected = ["Mixed_5b", "Mixed_6a", "cell_0"]
    assert found(Model(**parts, fc=nn.Linear(16, 1000))) == expected
    assert found(Model(features=nn.Sequential(parts))) == [f"features.{name}" for name in expected]
    # What stands to a side is no part of the chain.
    assert found(Model(**parts, decoder=Mixed(), head=Mixed())) == expected


def test_single_layers_are_tapped_behind_their_activations() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    features = nn.Sequential(*layers, nn.Conv2d(8, 8, 3), nn.ReLU())
    assert found(Model(features=features, head=nn.Linear(8, 10))) == ["features.1", "features.4", "features.7"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("conv1 conv2 dropout fc1 fc2", "conv1 conv2"),
        ("conv1 bn conv2 relu fc1", "relu"),
        ("fc1 fc2 fc3", "fc1 fc2 fc3"),
        ("features classifier", "features.1 features.4"),
        ("layer_a layer_b fc1", "layer_a.1 layer_b.1"),
        ("features fc1 fc2", "features.1 features.4"),
    ],
)
def test_networks_of_single_layers(parts: str, expected: str) -> None:
    def made(name: str) -> nn.Module:
        kinds = {"conv": lambda: nn.Conv2d(8, 8, 3), "bn": lambda: nn.BatchNorm2d(8), "relu": nn.ReLU}
        kinds |= {"dropout": nn.Dropout, "fc": lambda: nn.Linear(8, 800)}
        kinds |= {"layer_": lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))}
        kinds |= {"features": lambda: nn.Sequential(*kinds["layer_"](), *kinds["layer_"]())}
        kinds |= {"classifier": lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))}
        return next(make() for kind, make in kinds.items() if name.startswith(kind))

    assert found(Model(**{name: made(name) for name in parts.split()})) == expected.split()


@pytest.mark.parametrize(
    "model",
    [
        Model(one=nn.Linear(4, 4)),
        Model(features=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())),
        # Most of the trunk is elsewhere.
        Model(first=blocks(2, 4), middle=nn.Linear(400, 400), last=nn.Linear(400, 400)),
        nn.LSTM(4, 4),
    ],
)
def test_where_there_is_no_stack_that_is_said(model: nn.Module) -> None:
    with refusal("no-trunk"):
        found(model)


def test_a_model_that_is_itself_the_stack() -> None:
    assert found(blocks(3)) == ["0", "1", "2"]

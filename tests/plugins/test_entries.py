"""What bundled plugins say of their encoders and datasets is so."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from diagnostics import DiagnosticsError
from diagnostics.registry import plugin_entries
from diagnostics.specs import build

DATASETS = {
    "lorenz": "n=20&length=64",
    "pendulum": "n=20&length=64",
    "damped_oscillator": "n=20&length=64",
    "arma": "n=20&length=64",
    "changepoint": "n=20&length=64",
    "digits": "n=60",
    "motorcycle": "views=2",
    "textures": "",
    "clips": "",
    "speech": "",
    "watch": "",
    "shapes": "n=12&views=2",
}
ENCODERS = {
    "fracast": "fracast",
    "timm:": "timm:test_vit?pretrained=false",
    "pe:": "pe:core-t16-384?pretrained=false",
    "objective:": "objective:random?depth=1",
    "objectives:": "objectives:shapes-jepa",
}


def test_every_bundled_dataset_is_looked_at() -> None:
    bundled = {name for name, (plugin, _) in plugin_entries("dataset").items() if plugin.name == "data"}
    assert {name for name in bundled if not name.endswith(":")} == set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_has_the_modality_and_the_kinds_of_its_entry(name: str) -> None:
    _, entry = plugin_entries("dataset")[name]
    dataset = built("dataset", f"{name}?{DATASETS[name]}" if DATASETS[name] else name)
    assert dataset.modality in entry.modalities
    kinds = {target.kind for target in dataset.targets.values()}
    # A state is that of a clip's last frame.
    assert kinds == set(entry.kinds) - ({"state"} if name == "shapes" else set())


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_reads_a_modality_of_its_entry(name: str) -> None:
    _, entry = plugin_entries("encoder")[name]
    assert built("encoder", ENCODERS[name]).modality in entry.modalities


def built(kind: Literal["encoder", "dataset"], spec: str) -> Any:
    try:
        return build(kind, spec)
    except DiagnosticsError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))  # names the package that is not installed here, which a plugin may need
        raise


def test_every_bundled_encoder_and_dataset_says_what_it_is() -> None:
    for kind in ("encoder", "dataset"):
        for name, (plugin, entry) in plugin_entries(kind).items():
            assert entry.about or entry.make.__doc__, f"{plugin.name} does not say what {name} is"

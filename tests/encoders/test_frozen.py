"""A TorchEncoder is changed by `replace` alone, and says which small files travel with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from torch import nn

import diagnostics as dx
from diagnostics import DiagnosticsError, TorchEncoder
from diagnostics.encoders.modules import map_tensors
from diagnostics.encoders.saved.files import skeleton_of
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder


@pytest.mark.parametrize(
    "attribute", ["lineage", "output_tap", "module", "preprocess", "sized_for", "forward", "_example"]
)
def test_nothing_is_set_in_place(attribute: str) -> None:
    encoder: Any = tiny_encoder()
    with refusal("bad-value", f"replace({attribute}="):
        setattr(encoder, attribute, None)


def test_a_copy_differs_and_the_original_stays() -> None:
    encoder = tiny_encoder()
    copy = encoder.replace(lineage={"seed": 1}, preprocess=lambda sample: torch.zeros(1), fresh=nn.Identity)
    assert (dict(encoder.lineage), copy.lineage) == ({}, {"seed": 1})
    assert copy.preprocess(np.ones(3)).tolist() == [0.0] and copy.module is encoder.module
    assert encoder.identity["preprocessing"] != copy.identity["preprocessing"]
    with pytest.raises(TypeError, match="TorchEncoder has no lineag"):
        encoder.replace(lineag={})
    with pytest.raises(DiagnosticsError, match="nowhere"):
        encoder.replace(output_tap="nowhere")


def test_other_sizes_change_likewise_where_it_is_said_how() -> None:
    encoder, longer = tiny_encoder(), np.arange(48.0)
    plain = encoder.replace(configuration="x", lineage={"seed": 1})
    assert plain.sized_for(longer).lineage == {"seed": 1}
    changed = encoder.replace(configuration="x", resized=lambda sized: sized.replace(configuration="y"))
    sized = changed.sized_for(longer)
    assert isinstance(sized, TorchEncoder) and sized.configuration == "y" and sized.taps != encoder.taps
    assert encoder.sized_for(longer).tap("norm") == sized.tap("norm")


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Counting(TorchEncoder):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.count = 0

    tap = dx.Tap("here", 1.0, "trunk", 2, dx.Grid((3,), ("t",)), dx.Site(""))
    encoder = Counting("own", "series", nn.Identity(), [tap], example=np.zeros((3, 2), np.float32))
    encoder.count = 3
    assert encoder.replace(name="other").count == 3


def test_files_that_an_encoder_declares_travel(tmp_path: Path) -> None:
    for name in ("sizes.json", "words.txt", "other.json", "code.py"):
        (tmp_path / name).write_text(f"of {name}")
    declared = (tmp_path / "sizes.json", tmp_path / "words.txt")
    encoder = tiny_encoder().replace(skeleton=f"own:{tmp_path}?size=3", files=declared)
    assert skeleton_of(encoder) == (
        "own:{files}?size=3",
        {"sizes.json": "of sizes.json", "words.txt": "of words.txt"},
    )
    around = encoder.replace(skeleton=f"aligned?base={quote(encoder.skeleton)}&layer_scale=1")
    assert skeleton_of(around)[0] == "aligned?base=own%3A{files}%3Fsize%3D3&layer_scale=1"
    assert skeleton_of(encoder.replace(files=()))[0] == encoder.skeleton
    with refusal("not-savable", "code.py"):
        skeleton_of(encoder.replace(files=(*declared, tmp_path / "code.py")))
    (tmp_path / "words.txt").unlink()
    with refusal("missing-file", "words.txt"):
        skeleton_of(encoder)


def test_tensors_of_a_batch_of_any_structure_are_mapped() -> None:
    batch: Any = {"x": torch.ones(2), "more": [torch.zeros(2), ("name", torch.ones(1))]}
    doubled = map_tensors(lambda tensor: tensor * 2, batch)
    assert doubled["x"].tolist() == [2, 2] and batch["x"].tolist() == [1, 1]
    assert doubled["more"][1] == ("name", torch.tensor([2.0]))

"""ONNX files as encoders, against the torch modules that they were exported from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

# Below the skips, since these imports need them.
from diagnostics_onnx.plugin import build  # noqa: E402  (below the skip of a missing package)

from diagnostics import DiagnosticsError, Grid  # noqa: E402  (below the skip of a missing package)
from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)
from tests.support.tiny import Block  # noqa: E402  (below the skip of a missing package)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.special = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList([Block(8) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.special.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Linear(4, 8), nn.ModuleList([Block(8) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (-1, 4)))
        for layer in self.layers:
            x = layer(x)
        return x


def exported(module: nn.Module, example: Tensor, path: Path, fixed: bool = False) -> Path:
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    axes = {} if fixed else {"dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(module.eval(), (example,), str(path), dynamo=False, **names, **axes)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(Images(), torch.zeros(1, 3, 16, 24), tmp_path_factory.mktemp("onnx") / "images.onnx")


@pytest.mark.parametrize("fixed", [0, 1, 3])
def test_taps_are_what_the_blocks_gave(tmp_path: Path, fixed: int) -> None:
    """Also where the file fixes the size of a batch."""
    module = Images()
    path = exported(module, torch.zeros(max(1, fixed), 3, 16, 24), tmp_path / "images.onnx", fixed > 0)
    encoder = build(str(path), mean="0.5", std="0.25")
    assert [tap.name for tap in encoder.taps] == ["embed", "blocks.0", "blocks.1", "blocks.2"]
    assert {tap.grid for tap in encoder.taps} == {Grid((4, 6), ("y", "x"), 1)}
    assert [tap.depth for tap in encoder.taps] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    batch = torch.stack(
        [encoder.preprocess(np.random.default_rng(i).integers(0, 256, (16, 24, 3), np.uint8)) for i in range(4)]
    )
    captured = encoder.capture(batch)
    with torch.no_grad():
        x = torch.cat([module.special.expand(4, -1, -1), module.stem(batch).flatten(2).transpose(1, 2)], dim=1)
        torch.testing.assert_close(captured["embed"], x)
        for i, block in enumerate(module.blocks):
            x = block(x)
            torch.testing.assert_close(captured[f"blocks.{i}"], x, rtol=1e-4, atol=1e-5)


def test_series(tmp_path: Path) -> None:
    module = Series()
    encoder = build(str(exported(module, torch.zeros(1, 32), tmp_path / "series.onnx")))
    assert encoder.modality == "series" and {str(tap.grid) for tap in encoder.taps} == {"8 t"}
    sample = np.random.default_rng(0).standard_normal(32)
    captured = encoder.capture(encoder.preprocess(sample)[None])
    torch.testing.assert_close(captured["layers.1"], module(torch.from_numpy(sample).float()[None]).detach())
    with refusal("bad-sample", "32"):
        encoder.preprocess(np.zeros(31))


def test_preprocessing_takes_the_middle_and_normalises(images: Path) -> None:
    encoder = build(str(images))
    # Of 100 x 60 pixels as many as have the proportions of 16 x 24.
    assert encoder.covers((100, 60)) == ((30, 70), (0, 60))
    high = np.zeros((100, 60, 3), dtype=np.uint8)
    blank = encoder.preprocess(high)
    high[:30], high[70:] = 255, 255
    assert torch.equal(encoder.preprocess(high), blank)
    subject = encoder.preprocess(np.full((7, 9, 3), [0, 255, 51], dtype=np.uint8))
    assert subject.shape == (3, 16, 24)
    expected = (torch.tensor([0, 1, 0.2]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(subject.amax((1, 2)), expected)
    torch.testing.assert_close(subject.amin((1, 2)), expected)


def test_named_tensors_instead_of_what_is_found(images: Path) -> None:
    tensor = build(str(images)).taps[2].site.module
    encoder = build(str(images), taps=tensor)
    assert len(encoder.taps) == 1 and encoder.taps[0].depth == 1 and encoder.output_tap == encoder.taps[0].name
    with refusal("unknown-name", "onnx:images.onnx", "nothing"):
        build(str(images), taps="nothing")


def test_permuted_weights_are_another_encoder(images: Path) -> None:
    encoder = build(str(images))
    other, same = encoder.permuted(0), build(str(images))
    assert encoder.identity == same.identity
    assert encoder.identity["weights"] != other.identity["weights"]
    batch = encoder.preprocess(encoder.example())[None]
    assert not torch.allclose(encoder.capture(batch)["embed"], other.capture(batch)["embed"])
    with refusal("no-control"):
        encoder.fresh(0)


def without_names(path: Path, images: Path) -> Path:
    model = onnx.load(str(images))
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}"
    onnx.save(model, str(path))
    return path


def test_files_that_cannot_be_used(images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(images.read_bytes()[:500])
    for path, says in [
        (tmp_path / "none.onnx", "There is no file"),
        (broken, "is not a complete ONNX file"),
        (without_names(tmp_path / "plain.onnx", images), "names no repeated blocks"),
    ]:
        with pytest.raises(DiagnosticsError, match=says):
            build(str(path))
    with pytest.raises(DiagnosticsError, match="which is no series"):
        build(str(images), modality="series")
    with pytest.raises(DiagnosticsError, match="is not one number"):
        build(str(images), mean="a,b")

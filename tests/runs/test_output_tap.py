"""The tap that makers hand out against the one before it: planted distances, and names found by values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics.cli.encoders import inspect_encoder
from diagnostics.encoders.torch_encoder import last_taps, names_of_outputs
from diagnostics.runs.derived import HandedOut, compare_output
from tests.support.tiny import tiny_encoder

WIDTH, TOKENS, SCALE = 12, 8, 10.0


class Unrelated(nn.Module):
    """Noise that depends on the sample and on nothing in common with what came before."""

    def forward(self, x: Tensor) -> Tensor:
        seeds = (x.flatten(1).abs().sum(dim=1) * 1e4).long()
        noise = [torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return torch.stack(noise)


class Planted(nn.Module):
    """Cuts a series into tokens, normalises them (the last block), and ends with `norm`."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        mix = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=0.0, elementwise_affine=False))
        self.blocks = nn.ModuleList([nn.Identity(), mix])
        self.norm = end

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).reshape(len(x), TOKENS, WIDTH)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def scaled() -> nn.Module:
    """A LayerNorm with a scale of 10: of tokens of zero mean and unit variance it gives ten times them."""
    norm = nn.LayerNorm(WIDTH, eps=0.0)
    nn.init.constant_(norm.weight, SCALE)
    return norm


def encoder(end: nn.Module) -> dx.TorchEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Planted(end)
    taps = dx.stack_taps("blocks", 2, WIDTH, dx.Grid((TOKENS,), ("t",)), norm="norm")
    return dx.TorchEncoder("planted", "series", module, taps, "norm", as_floats, sample(0))


def as_floats(series: np.ndarray) -> Tensor:
    return torch.as_tensor(series, dtype=torch.float32)


def sample(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(TOKENS * WIDTH)


def dataset(n: int = 60) -> dx.Dataset:
    series = np.stack([sample(i) for i in range(n)])
    split = [("train", "val", "train", "test", "train")[i % 5] for i in range(n)]
    return dx.Dataset(
        "noise", "series", series, [str(i) for i in range(n)], split, {"first": dx.Target("value", series[:, 0])}
    )


def test_a_norm_with_a_scale_of_ten_gives_the_known_ratio() -> None:
    found = compare_output(encoder(scaled()), dataset())
    assert (found.tap, found.before, found.samples) == ("norm", "blocks.1", 60)
    assert found.norm_ratio == pytest.approx(1 / SCALE, rel=1e-5)
    # CKA does not see a scale, and so cannot stand alone.
    assert found.cka == pytest.approx(1, abs=1e-6)
    assert str(found) == (
        "The output tap is norm. The tap before it, blocks.1, is a separate tap: the norm of its tokens is 0.1 times that of the output; linear CKA "
        "with it is 1.000 (60 samples)."
    )


def test_an_end_that_has_nothing_in_common_has_no_cka() -> None:
    found = compare_output(encoder(Unrelated()), dataset())
    assert found.cka is not None and abs(found.cka) < 0.1


def test_the_example_alone_gives_the_ratio_and_says_why_there_is_no_cka() -> None:
    found = compare_output(encoder(scaled()))
    assert found.norm_ratio == pytest.approx(1 / SCALE, rel=1e-5)
    assert found.cka is None
    assert str(found).endswith("0.1 times that of the output; CKA needs 20 samples: give --data (1 sample).")
    assert compare_output(encoder(scaled()), dataset(10)).cka is None


def test_the_report_says_it_from_what_is_stored(tmp_path: Path) -> None:
    planted = encoder(scaled()).replace(maker_names={"norm": "last_hidden_state", "blocks.1": "hidden_states[-1]"})
    run = dx.run(planted, dataset(), out=tmp_path / "run", measures="rankme", controls=False)
    found = run.handed_out
    assert found.norm_ratio == pytest.approx(1 / SCALE, rel=1e-5) and found.cka == pytest.approx(1, abs=1e-6)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert (
        "The output tap is norm, which the model&#39;s own API calls last_hidden_state. The tap before it, blocks.1 (hidden_states[-1])"
        ", is a separate tap: the norm of its means over tokens is 0.1 times that of the output; linear CKA with it is 1.000 (60 samples)."
    ) in text


def test_names_are_found_by_values_and_not_by_place() -> None:
    planted = encoder(scaled())

    def run(module: Any, batch: Tensor) -> dict[str, Tensor]:
        tokens = module(batch)
        names = {"wrong": tokens + 1, "last": tokens, "again": tokens.clone(), "map": tokens.transpose(1, 2) / SCALE}
        return names | {"first token": tokens[:, 0], "ids": torch.zeros(1, TOKENS, dtype=torch.long)}

    taps = last_taps(planted.taps, "norm")
    assert taps == ["norm", "blocks.1"]
    # The last block gives a tenth of the norm, and a map holds the same tokens in another layout.
    assert names_of_outputs(planted, run, taps) == {"norm": "last", "blocks.1": "map"}
    assert names_of_outputs(planted, lambda module, batch: 1 / 0, taps) == {}


def test_inspect_says_it(tmp_path: Path) -> None:
    spec = f"{Path(__file__).parents[1] / 'support' / 'tiny.py'}:tiny_encoder"
    found = inspect_encoder(spec)["handed_out"]
    assert found["tap"] == "norm" and found["before"] == "blocks.2" and found["cka"] is None
    assert found["sentence"].startswith(
        "The output tap is norm. The tap before it, blocks.2, is a separate tap: the norm of its tokens is "
    )


def test_an_encoder_of_one_tap_has_no_tap_before_its_output() -> None:
    one = tiny_encoder().replace(maker_names={"blocks.1": "a tap that is not there"})
    one = one.with_taps([one.tap("norm")])
    assert compare_output(one) == HandedOut("norm", {})
    assert str(compare_output(one)) == "The output tap is norm."

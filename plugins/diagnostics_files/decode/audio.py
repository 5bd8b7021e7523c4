"""Sound files: length from the header, any stretch of them as one channel at any rate."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from diagnostics.plugin import DiagnosticsError
from diagnostics_files.decode.declared_size import check_declared_size
from diagnostics_files.errors import Unusable, check_regular, damaged, decoding, need, too_large

Source = Path | Callable[[], IO[bytes]]
"""A file, or what opens the bytes of one."""
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
FASTEST = 10**6
"""Samples a second: filters that resample grow with them."""
_TAPS = 10
"""Half the length of scipy's own resampling filter, in samples of the lower rate."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound file: samples a channel and samples a second."""

    source: Source
    name: str
    length: int
    rate: int

    def length_at(self, rate: int) -> int:
        """Samples after resampling to `rate`."""
        up, down = ratio(self.rate, rate)
        return -(-self.length * up // down)

    def windows(self, rate: int, seconds: float | None) -> list[tuple[int, int]]:
        """(start, stop) at `rate` of windows that follow one another; a shorter file is one window, a remainder is dropped."""
        length = self.length_at(rate)
        size = length if seconds is None else max(1, round(seconds * rate))
        return [(i * size, (i + 1) * size) for i in range(length // size)] or [(0, length)]


def index(source: Source, name: str) -> Sound:
    """Length and rate, from the header."""
    if isinstance(source, Path):
        check_regular(source, name)
        check_declared_size(source, name)
    with decoding(name):
        if _soundfile():
            info = need("soundfile", "soundfile", "Reading sound files").info(_opened(source))
            length, rate = int(info.frames), int(info.samplerate)
        else:
            rate, samples = _wav(source, name)
            length = len(samples)
    if length < 1:
        raise damaged(name, "it holds no samples")
    if not 1 <= rate <= FASTEST:
        raise damaged(name, f"it says to have {rate:,} samples a second")
    if why := too_large(4 * length):
        raise Unusable(name, why, "cut it into several files")
    return Sound(source, name, length, rate)


def read(sound: Sound, rate: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Samples `start` to `stop` at `rate`, the mean of all channels, float32 [time].

    Whole numbers are scaled so that full scale is 1. Resampled by `scipy.signal.resample_poly`; a stretch equals that part
    of the whole file resampled.
    """
    up, down = ratio(sound.rate, rate)
    stop = sound.length_at(rate) if stop is None else stop
    if up == down:
        mono = _mono(sound, start, stop)
    else:
        from scipy.signal import resample_poly

        # Whole steps of the filter before and behind, so that the stretch sees what the whole file would show it.
        reach = math.ceil(_TAPS * max(up, down) / up / down) + 1
        first = max(0, start // up - reach)
        last = min(sound.length, (-(-stop // up) + reach) * down)
        resampled = resample_poly(_mono(sound, first * down, last).astype(np.float64), up, down)
        mono = resampled[start - first * up : stop - first * up].astype(np.float32)
    if not np.isfinite(mono).all():
        raise damaged(sound.name, "it holds NaN or infinity")
    return mono


def one_rate(sounds: Sequence[Sound], source: str) -> int:
    """The rate of all sounds; raises where they have several."""
    for sound in sounds:
        if sound.rate != sounds[0].rate:
            raise DiagnosticsError(
                f"{sound.name} of {source} has {sound.rate} Hz and {sounds[0].name} {sounds[0].rate} Hz: add ?rate=16000 or "
                "the rate that your encoder takes."
            )
    return sounds[0].rate


def ratio(old: int, new: int) -> tuple[int, int]:
    """(up, down) in lowest terms."""
    common = math.gcd(old, new)
    return new // common, old // common


def _mono(sound: Sound, start: int, stop: int) -> np.ndarray:
    with decoding(sound.name):
        if _soundfile():
            soundfile = need("soundfile", "soundfile", "Reading sound files")
            opened = _opened(sound.source)
            samples, _ = soundfile.read(opened, start=start, stop=stop, dtype="float32", always_2d=True)
        else:
            _, waves = _wav(sound.source, sound.name)
            samples = _scaled(np.asarray(waves[start:stop]))
    if len(samples) != stop - start:
        raise damaged(sound.name, f"it ends {stop - start - len(samples)} samples early")
    return samples.reshape(len(samples), -1).mean(axis=1, dtype=np.float64).astype(np.float32)


def _soundfile() -> bool:
    return importlib.util.find_spec("soundfile") is not None


def _opened(source: Source) -> Any:
    return str(source) if isinstance(source, Path) else source()


def _wav(source: Source, name: str) -> tuple[int, Any]:
    from scipy.io import wavfile

    if not name.lower().endswith(".wav"):
        need("soundfile", "soundfile", f"Reading {name}")
    try:
        return wavfile.read(_opened(source), mmap=isinstance(source, Path))
    except ValueError:  # 24 bits cannot be mapped
        return wavfile.read(_opened(source))


def _scaled(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return ((samples.astype(np.float32)) - 128) / 128
    return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)

"""Decoding of images, sound and video."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from diagnostics.plugin import FORMATS, DiagnosticsError, turn, upright
from diagnostics_files.folder import Unusable, check_regular, damaged, decoding, need, too_large

# Whether a file is as long as its header says: what was cut short decodes without an error and is only shorter then.


_SEGMENT = b"\x18\x53\x80\x67"
"""The element of a Matroska file that holds all others but its header."""
_LONGEST_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest page of an Ogg file."""
_UNKNOWN = 0x7FFF0000
"""A program that writes into a pipe cannot go back to the header and leaves about the largest number there."""


def check_declared_size(path: Path, name: str) -> None:
    """Raise where a sound or video file ends before its declared end.

    RIFF (WAV, AVI), AIFF and Matroska (WebM) declare one; of Ogg the last page is missing.
    """
    with path.open("rb") as file:
        head, size = file.read(4096), path.stat().st_size
        file.seek(max(0, size - _LONGEST_PAGE))
        tail = file.read()
    missing = _declared(head) - size
    if missing > 0:
        raise damaged(name, f"it ends {missing:,} bytes early")
    if head[:4] == b"OggS" and not _has_last_page(tail):
        raise damaged(name, "its last page is missing")


def _has_last_page(tail: bytes) -> bool:
    """True if the last page of an Ogg file is whole and marked as the last one (RFC 3533)."""
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > 26 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _declared(head: bytes) -> int:
    """The size that the header declares, in bytes; 0 where it declares none."""
    if head[:4] in (b"RIFF", b"FORM"):
        size = int.from_bytes(head[4:8], "little" if head[:1] == b"R" else "big")
        return size + 8 if size < _UNKNOWN else 0
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if head[:4] != b"\x1a\x45\xdf\xa3" or at < len(_SEGMENT) or at == len(head):
        return 0
    # The number of leading zero bits is the number of further bytes; all ones mean a size that is not known.
    width = 9 - head[at].bit_length()
    size = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width + size if size < (1 << 7 * width) - 1 else 0


# Decoding images, masks and depth, upright, at the size that they have: encoders bring them to theirs.


MOST_PIXELS = 100_000_000
"""Of one image: decoding holds several copies of them, of 4 bytes a pixel."""


def picture(source: Path | IO[bytes], name: str) -> np.ndarray:
    """An image as uint8 [y, x, 3]: of grey three equal channels, transparency dropped, only the first frame."""
    image = _picture(source, name)
    if image.mode.startswith(("I", "F")):
        raise Unusable(name, f"has pixels of {image.mode}, not of 8 bits a channel", "convert it to 8 bits")
    return np.asarray(image.convert("RGB"))


def picture_of(extent: tuple[int, int], file: Path, name: str, source: str, given: str) -> np.ndarray:
    """The picture in a file, of this extent (y, x); raises where there is none, or one of another extent.

    `source` says what states the extent, and `given` what is given in its pixels.
    """
    check_there(file, name)
    pixels = picture(file, name)
    if pixels.shape[:2] != extent:
        (rows, columns), (y, x) = pixels.shape[:2], extent
        why = f"is {rows} x {columns} pixels, and {source} {y} x {x}"
        raise Unusable(name, why, f"give {given} in its own pixels")
    return pixels


def check_there(file: Path, name: str) -> None:
    """Raise where there is no such file."""
    if not file.is_file():
        raise Unusable(name, "is not there", "copy it")


def mask(source: Path | IO[bytes], name: str) -> np.ndarray:
    """The numbers of a mask, int32 [y, x], from one channel of 1, 8 or 16 bits or palette indices."""
    image = _picture(source, name)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        kind = {"LA": "transparency", "PA": "transparency", "F": "fractions"}.get(image.mode, "colours")
        raise Unusable(
            name,
            f"has {kind} ({image.mode}) instead of class numbers",
            "convert masks to one channel of class numbers or to a palette",
            skip=False,
        )
    return np.asarray(image).astype(np.int32)


def depth(path: Path, name: str, scale: float) -> np.ndarray:
    """Depth in metres, float32 [y, x], NaN where unknown: `.npy` as it is, a 16-bit PNG times `scale`; 0 is unknown."""
    if path.suffix.lower() == ".npy":
        metres = plain_array(path, name).astype(np.float32)
        if metres.ndim != 2:
            raise Unusable(name, f"has the shape {list(metres.shape)}, not [y, x]", "store one map [y, x] per file")
    else:
        image = _picture(path, name)
        if not image.mode.startswith("I"):
            raise Unusable(
                name, f"has pixels of {image.mode}, not depth of 16 bits", "store depth as 16-bit PNG or .npy"
            )
        metres = np.asarray(image).astype(np.float32) * np.float32(scale)
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan))


def extent(path: Path, name: str) -> tuple[int, int]:
    """(y, x) of an image or `.npy`, from its header alone."""
    if path.suffix.lower() == ".npy":
        shape = plain_array(path, name).shape
        return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)
    with _header(path, name) as image:
        # Of a TIFF, Pillow states the size after the turn.
        lies = image.format != "TIFF" and turn(image) in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
        return (image.width, image.height) if lies else (image.height, image.width)


def plain_array(path: Path, name: str, skip: bool = True) -> np.ndarray:
    """A `.npy` of numbers, mapped rather than read.

    What would need a pickle or too much memory as float32 is refused.
    """
    check_regular(path, name, skip)
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        objects = any(word in str(error) for word in ("pickle", "Python objects"))
        why = "it holds a pickle, which could run anything" if objects else error
        raise damaged(name, why, skip) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise damaged(name, "it is no array of numbers", skip)
    if why := too_large(array.size * max(array.itemsize, 4)):
        raise Unusable(name, why, "store a smaller array", skip)
    return array


def _picture(source: Path | IO[bytes], name: str) -> Image.Image:
    with _header(source, name) as image, decoding(name):
        return upright(image).copy()


def _header(source: Path | IO[bytes], name: str) -> Image.Image:
    """The image with nothing decoded yet, so that one that says to be huge is refused before it is."""
    if isinstance(source, Path):
        check_regular(source, name)
    huge = Unusable(name, f"has more than {MOST_PIXELS // 10**6} million pixels", "make it smaller")
    try:
        image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise huge from error
    except Exception as error:
        raise damaged(name, error) from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise huge
    return image


# Sound files: length from the header, any stretch of them as one channel at any rate.


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
        """(start, stop) at `rate` of windows that follow one another.

        A shorter file is one window, a remainder is dropped.
        """
        length = self.length_at(rate)
        size = length if seconds is None else max(1, round(seconds * rate))
        return [(i * size, (i + 1) * size) for i in range(length // size)] or [(0, length)]


def index_sound(source: Source, name: str) -> Sound:
    """Length and rate, from the header."""
    if isinstance(source, Path):
        check_regular(source, name)
        check_declared_size(source, name)
    with decoding(name):
        if _soundfile():
            info = need("soundfile", "soundfile", "Reading sound files").info(_open(source))
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


def read_sound(sound: Sound, rate: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Samples `start` to `stop` at `rate`, the mean of all channels, float32 [time].

    Whole numbers are scaled so that full scale is 1. Resampled by `scipy.signal.resample_poly`; a stretch equals that
    part of the whole file resampled.
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
                f"{sound.name} of {source} has {sound.rate} Hz and {sounds[0].name} {sounds[0].rate} Hz: add "
                f"?rate=16000 or the rate that your encoder takes.",
                code="bad-data",
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
            samples, _ = soundfile.read(_open(sound.source), start=start, stop=stop, dtype="float32", always_2d=True)
        else:
            _, waves = _wav(sound.source, sound.name)
            samples = _scale(np.asarray(waves[start:stop]))
    if len(samples) != stop - start:
        raise damaged(sound.name, f"it ends {stop - start - len(samples)} samples early")
    return samples.reshape(len(samples), -1).mean(axis=1, dtype=np.float64).astype(np.float32)


def _soundfile() -> bool:
    return importlib.util.find_spec("soundfile") is not None


def _open(source: Source) -> Any:
    return str(source) if isinstance(source, Path) else source()


def _wav(source: Source, name: str) -> tuple[int, Any]:
    from scipy.io import wavfile

    if not name.lower().endswith(".wav"):
        need("soundfile", "soundfile", f"Reading {name}")
    try:
        return wavfile.read(_open(source), mmap=isinstance(source, Path))
    except ValueError:  # 24 bits cannot be mapped
        return wavfile.read(_open(source))


def _scale(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return ((samples.astype(np.float32)) - 128) / 128
    return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)


# Frames of video files: counted without decoding, read from the key frame before them. Needs PyAV.


VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True, slots=True)
class Video:
    """A video file: `times` [frame] in the stream's own unit, in order of showing.

    Frames a second, None if not known.
    """

    path: Path
    name: str
    times: np.ndarray
    rate: float | None

    def starts(self, span: int, clips: int | None) -> list[int]:
        """First frames of clips of `span` frames that do not overlap.

        All that fit, or at most `clips` spread evenly.
        """
        count = len(self.times)
        fit = count // span
        if clips is None or clips >= fit:
            return [i * span for i in range(fit)]
        return (
            [int(start) for start in np.linspace(0, count - span, clips).round()]
            if clips > 1
            else [(count - span) // 2]
        )


def index_video(path: Path, name: str) -> Video:
    """The frames of the first video stream, from the packets' times; reads the file and decodes nothing."""
    av = need("av", "av", "Reading video files")
    check_regular(path, name)
    check_declared_size(path, name)
    with decoding(name), av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.pts is not None]
        times = [p.pts for p in packets if not p.is_discard]
        rate = float(stream.average_rate) if stream.average_rate else None
        # Tables of these formats list every frame; what is cut short still shows the first ones.
        listed = stream.frames if "mp4" in container.format.name else 0
    if not times:
        raise damaged(name, "no frame of it has a time")
    if len(packets) < listed:
        raise damaged(name, f"it ends after {len(packets)} of {listed} frames")
    return Video(path, name, np.unique(np.asarray(times, dtype=np.int64)), rate)


def read_video(video: Video, wanted: Sequence[int]) -> np.ndarray:
    """Frames by their numbers, ascending, as uint8 [t, y, x, 3].

    Decoding begins at a key frame. Some formats look for the time of decoding and land too late, others make up the
    times of what follows; so frames must come one after another at the times of the index, from one at or before the
    first wanted. Where they do not, the search goes back further, at last to the start of the file.
    """
    av = need("av", "av", "Reading video files")
    check_regular(video.path, video.name)
    first, back = wanted[0], 0
    with decoding(video.name):
        while True:
            with av.open(str(video.path)) as container:
                if searched := first > back:
                    container.seek(int(video.times[first - back]), stream=container.streams.video[0], backward=True)
                frames = _decode(container, video, wanted, strict=searched)
            if frames is not None:
                return frames
            if not searched:
                raise damaged(video.name, f"frames {first} to {wanted[-1]} are not all there")
            back = 2 * back + 1


def _decode(container: Any, video: Video, wanted: Sequence[int], strict: bool) -> np.ndarray | None:
    """The wanted frames; None where some do not come.

    With `strict` also where any comes at another time than the index says.
    """
    frames: dict[int, np.ndarray] = {}
    last = None
    for frame in container.decode(video=0):
        number = int(np.searchsorted(video.times, frame.pts)) if frame.pts is not None else len(video.times)
        there = number < len(video.times) and video.times[number] == frame.pts
        if strict and (not there or frame.is_corrupt or (number > wanted[0] if last is None else number != last + 1)):
            return None
        last = number
        if there and number in wanted:
            frames[number] = frame.to_ndarray(format="rgb24")
        if len(frames) == len(wanted):
            return np.stack([frames[i] for i in wanted])
    return None

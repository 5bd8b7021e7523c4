"""Features of raw samples without any model, by modality: the downsampled sample, and summary statistics.

`SampleEncoder` is what the control encoders that read them have in common.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from diagnostics.encoders.encoder import Encoder, Reduce, keep
from diagnostics.vocabulary import Modality

RAW_STEPS = 64
FADES = (8, 32)
"""Ages in steps at which a value of the last ones counts 1 / e of the newest."""
WINDOWS = (8, 32)
"""Steps of the windows that `views` takes from all along a series."""
MOST_WINDOWS = 128
RAW_PIXELS = 16
RAW_FRAMES = 4
LAGS = 16
BANDS = 64
WINDOW = 400
WORDS = 256
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


# Series


def _last_steps(series: np.ndarray, steps: int) -> np.ndarray:
    """[step * variate], the mean standing in for steps before a shorter series began."""
    missing = max(0, steps - len(series))
    return np.concatenate([np.tile(series.mean(axis=0), (missing, 1)), series[-steps:]]).ravel()


def filled(series: np.ndarray) -> np.ndarray:
    """Without the padding on its left; gaps hold their variate's own mean, and 0 where all of it is missing."""
    observed = np.isfinite(series)
    series = series[int(observed.any(axis=1).argmax()) :]
    observed = np.isfinite(series)
    counts = observed.sum(axis=0)
    means = np.where(observed, series, 0).sum(axis=0) / np.maximum(counts, 1)
    return np.where(observed, series, means)


def _series(sample: np.ndarray) -> np.ndarray:
    return filled(np.asarray(sample, dtype=np.float32).reshape(len(sample), -1))


def _raw_series(sample: np.ndarray) -> np.ndarray:
    return _last_steps(_series(sample), min(RAW_STEPS, len(sample)))


def _series_views(sample: np.ndarray) -> dict[str, np.ndarray]:
    series = _series(sample)
    lengths = sorted({min(n, len(sample)) for n in WINDOWS})
    return {"last": _raw_series(sample)[None]} | {f"windows{n}": _windows(series, n, len(sample)) for n in lengths}


def fading(values: int, variates: int, age: float) -> np.ndarray:
    """Weights [step * variate] of so many values, the newest last: exp(-steps from the end / age)."""
    steps = np.arange(values // variates)[::-1]
    return np.repeat(np.exp(-steps / age), variates)


def _windows(series: np.ndarray, steps: int, longest: int) -> np.ndarray:
    """[window, step * variate], evenly spaced; as many of them as a series of the longest length gives."""
    most = max(MOST_WINDOWS // 8, MOST_WINDOWS // series.shape[1])
    whole = _last_steps(series, max(steps, len(series))).reshape(-1, series.shape[1])
    starts = np.linspace(0, len(whole) - steps, min(most, longest - steps + 1)).round().astype(int)
    return np.stack([whole[start : start + steps].ravel() for start in starts])


def _series_statistics(sample: np.ndarray) -> np.ndarray:
    """Moments, quantiles, mean absolute step, zero crossings and the first autocorrelations of each variate.

    As many of them as a series of this length has, however much of it is padding.
    """
    series = _series(sample)
    centred = series - series.mean(axis=0)
    spread = centred.std(axis=0)
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    rows = [
        series.mean(axis=0),
        spread,
        (scaled**3).mean(axis=0),
        (scaled**4).mean(axis=0),
        *np.quantile(series, QUANTILES, axis=0),
        _mean(np.abs(np.diff(series, axis=0))),
        _mean(np.diff(np.sign(centred), axis=0) != 0),
        *(_mean(scaled[lag:] * scaled[: max(0, len(scaled) - lag)]) for lag in range(1, min(LAGS + 1, len(sample)))),
    ]
    return np.concatenate([np.atleast_1d(row) for row in rows])


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis; 0 where a series is too short to have any."""
    return values.mean(axis=0) if len(values) else np.zeros(values.shape[1:])


# Images and videos


def pixels_of(image: np.ndarray) -> Tensor:
    """[1, channel, y, x] from 0 to 1."""
    values = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(values.reshape(*values.shape[:2], -1)).permute(2, 0, 1)[None] / 255


def covered(pixels: Tensor, ends: tuple[tuple[float, float], ...]) -> Tensor:
    """The part [..., y, x] between the (start, stop) of each axis; black beyond the image, so that cells stay where they lie."""
    (top, bottom), (left, right) = [(round(start), round(stop)) for start, stop in ends]
    height, width = pixels.shape[-2:]
    beyond = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
    return pad(pixels[..., max(0, top) : bottom, max(0, left) : right], beyond)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., channel, y, x] at another size, smoothed."""
    return interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def pixel_statistics(channels: Tensor) -> Tensor:
    """Mean, spread and quantiles of each channel, [feature] from [channel, pixel]."""
    # Not torch's quantile, which takes no more than 2^24 pixels.
    levels = torch.from_numpy(np.quantile(channels.numpy(), QUANTILES, axis=1)).float()
    return torch.cat([channels.mean(1), channels.std(1, correction=0), levels.flatten()])


def _raw_image(sample: np.ndarray) -> np.ndarray:
    return resized(pixels_of(sample), (RAW_PIXELS, RAW_PIXELS)).flatten().numpy()


def _image_statistics(sample: np.ndarray) -> np.ndarray:
    return pixel_statistics(pixels_of(sample)[0].flatten(1)).numpy()


def _frames(sample: np.ndarray) -> np.ndarray:
    return sample[np.linspace(0, len(sample) - 1, RAW_FRAMES).round().astype(int)]


def _raw_video(sample: np.ndarray) -> np.ndarray:
    return np.concatenate([_raw_image(frame) for frame in _frames(sample)])


def _video_statistics(sample: np.ndarray) -> np.ndarray:
    """Statistics of a few frames' pixels, and the mean absolute change from one frame to the next."""
    frames = np.asarray(sample, dtype=np.float32).reshape(*np.shape(sample)[:3], -1) / 255
    change = _mean(np.abs(np.diff(frames, axis=0))).mean(axis=(0, 1))
    return np.concatenate([*map(_image_statistics, _frames(sample)), change])


# Audio and text


def _raw_audio(sample: np.ndarray) -> np.ndarray:
    """Mean log power in bands of about equal width, over Hann windows of 400 samples."""
    sound = _series(sample)[:, 0]
    sound = np.pad(sound, (0, max(0, WINDOW - len(sound))))
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[:: WINDOW // 2] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    bands = np.stack([part.sum(axis=1) for part in np.array_split(power, BANDS, axis=1)], axis=1)
    return np.log(bands + 1e-10).mean(axis=0)


def _raw_text(sample: np.ndarray) -> np.ndarray:
    """How often words fall into each bin of a hash, over the number of words."""
    words = str(sample).lower().split()
    counts = np.bincount([zlib.crc32(word.encode()) % WORDS for word in words], minlength=WORDS)
    return counts / max(1, len(words))


def _text_statistics(sample: np.ndarray) -> np.ndarray:
    text = str(sample)
    lengths = np.array([len(word) for word in text.split()] or [0])
    kinds = [str.isalpha, str.isdigit, str.isspace, str.isupper]
    shares = [sum(map(kind, text)) / max(1, len(text)) for kind in kinds]
    return np.array([np.log1p(len(text)), np.log1p(len(lengths)), lengths.mean(), lengths.std(), *shares])


Features = Callable[[np.ndarray], np.ndarray]
RAW: Mapping[Modality, Features] = {
    "series": _raw_series, "image": _raw_image, "video": _raw_video, "audio": _raw_audio, "text": _raw_text,
}  # fmt: skip
STATISTICS: Mapping[Modality, Features] = {
    "series": _series_statistics, "image": _image_statistics, "video": _video_statistics, "audio": _series_statistics,
    "text": _text_statistics,
}  # fmt: skip


def views(sample: np.ndarray, modality: Modality) -> dict[str, np.ndarray]:
    """Name -> [row, value]: what `RAW` reads as one row; of a series also windows from all along it."""
    if modality == "series":
        return _series_views(sample)
    names = {"image": "pixels", "video": "frames", "audio": "bands", "text": "words"}
    return {names[modality]: RAW[modality](sample)[None]}


class SampleEncoder(Encoder):
    """A control that reads the sample itself, without a model."""

    cells: tuple[int, int] | None
    """Of images the grid of the encoder's output tap, for dense targets; None where there is none."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        self.name, self.modality, self.encoder = name, encoder.modality, encoder
        grid = encoder.tap(encoder.output_tap).grid
        of_cells = self.modality == "image" and grid.axes == ("y", "x") and grid.tokens > 1
        self.cells = (grid.shape[0], grid.shape[1]) if of_cells else None

    @property
    def poolings(self) -> tuple[str, ...]:
        return ("mean",)

    def example(self) -> np.ndarray:
        return self.encoder.example()

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return self.encoder.covers(shape)

    def features(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Name of a tap -> its activations [sample, token, feature]."""
        return batch

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        features = self.features(batch)
        wanted = self.taps if taps is None else [self.tap(name) for name in taps]
        return {tap.name: reduce(tap, features[tap.name]) for tap in wanted}

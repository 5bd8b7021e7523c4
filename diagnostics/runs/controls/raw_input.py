"""Controls without a model: features of raw samples by modality, and what a kernel reads of the raw sample.

The features are the downsampled sample, and summary statistics. A linear probe reads an encoder's features, and an
encoder is no linear map of its input: `raw_input` shows what is linear in the sample, `raw_input_kernel` what is a
smooth function of it. `SampleEncoder` is what the control encoders that read raw samples have in common.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize, pad, relu, unfold

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder, Reduce, keep
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import eigh
from diagnostics.measures.probes.linear import BANDWIDTHS, LANDMARKS, LEAST_TRAIN, KernelFeatures
from diagnostics.vocabulary import BY_PLACE, Modality

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
    return np.concatenate([np.tile(series.mean(axis=0), (max(0, steps - len(series)), 1)), series[-steps:]]).ravel()


def fill_gaps(series: np.ndarray) -> np.ndarray:
    """Without the padding on its left; gaps hold their variate's own mean, and 0 where all of it is missing."""
    observed = np.isfinite(series)
    series = series[int(observed.any(axis=1).argmax()) :]
    observed = np.isfinite(series)
    counts = observed.sum(axis=0)
    means = np.where(observed, series, 0).sum(axis=0) / np.maximum(counts, 1)
    return np.where(observed, series, means)


def _series(sample: np.ndarray) -> np.ndarray:
    return fill_gaps(np.asarray(sample, dtype=np.float32).reshape(len(sample), -1))


def _raw_series(sample: np.ndarray) -> np.ndarray:
    return _last_steps(_series(sample), min(RAW_STEPS, len(sample)))


def _series_views(sample: np.ndarray) -> dict[str, np.ndarray]:
    series = _series(sample)
    lengths = sorted({min(n, len(sample)) for n in WINDOWS})
    return {"last": _raw_series(sample)[None]} | {f"windows{n}": _windows(series, n, len(sample)) for n in lengths}


def fading(values: int, variates: int, age: float) -> np.ndarray:
    """Weights [step * variate] of so many values, the newest last: exp(-steps from the end / age)."""
    return np.repeat(np.exp(-np.arange(values // variates)[::-1] / age), variates)


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


def crop_to(pixels: Tensor, ends: tuple[tuple[float, float], ...]) -> Tensor:
    """The part [..., y, x] between the (start, stop) of each axis.

    Black beyond the image, so that cells stay where they lie.
    """
    (top, bottom), (left, right) = [(round(start), round(stop)) for start, stop in ends]
    height, width = pixels.shape[-2:]
    beyond = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
    return pad(pixels[..., max(0, top) : bottom, max(0, left) : right], beyond)


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., channel, y, x] at another size, smoothed."""
    return interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def pixel_statistics(channels: Tensor) -> Tensor:
    """Mean, spread and quantiles of each channel, [..., feature] from [..., channel, pixel]."""
    levels = torch.from_numpy(_quantiles(channels.numpy())).float().movedim(-1, -2)
    return torch.cat([channels.mean(-1), channels.std(-1, correction=0), levels.flatten(-2)], dim=-1)


def _quantiles(values: np.ndarray) -> np.ndarray:
    """[..., quantile] of the last axis, as numpy's `quantile` gives them, which takes eight times as long."""
    ordered, at = np.sort(values, axis=-1), np.array(QUANTILES) * (values.shape[-1] - 1)
    below = at.astype(np.intp)
    low, high, share = ordered[..., below], ordered[..., np.minimum(below + 1, values.shape[-1] - 1)], at - below
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def _raw_image(sample: np.ndarray) -> np.ndarray:
    return resize(pixels_of(sample), (RAW_PIXELS, RAW_PIXELS)).flatten().numpy()


def _image_statistics(sample: np.ndarray) -> np.ndarray:
    return pixel_statistics(pixels_of(sample)[0].flatten(1)).numpy()


def _frames(sample: np.ndarray) -> np.ndarray:
    return sample[np.linspace(0, len(sample) - 1, RAW_FRAMES).round().astype(int)]


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
    """Counts of words in each bin of a hash, over the number of words."""
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
    "series": _raw_series,
    "image": _raw_image,
    "video": lambda sample: np.concatenate([_raw_image(frame) for frame in _frames(sample)]),
    "audio": _raw_audio,
    "text": _raw_text,
}
STATISTICS: Mapping[Modality, Features] = {
    "series": _series_statistics,
    "image": _image_statistics,
    "video": _video_statistics,
    "audio": _series_statistics,
    "text": _text_statistics,
}


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


# Untrained features of images: random patches as filters, drawn from images that are handed over.

PATCH = 5
FILTERS = 128
PATCHES_EACH = 16
"""Patches of each image that filters are drawn from and whitened by."""
# As Coates and Ng, for pixels from 0 to 1: what steadies the contrast of flat patches, and the whitening; the
# threshold.
FLAT, STEADY, THRESHOLD = 10 / 255**2, 0.1, 0.5


class PatchFeatures:
    """Random convolutional features: patches of images as filters, a threshold on both sides, means over cells.

    The encoding of Coates and Ng 2011 (ICML, "The importance of encoding versus training") with patches drawn at
    random: contrast is evened out within each patch, and patches are whitened. `images` [sample, channel, y, x] from 0
    to 1 give the patches; `cells` is into how many parts each axis is cut, `stride` the pixels from patch to patch.
    """

    def __init__(self, images: Tensor, cells: tuple[int, int], stride: int, seed: int) -> None:
        self.cells, self.stride = cells, stride
        rng = np.random.default_rng([seed, *images.shape[2:]])
        rows = torch.cat([self._drawn(image, rng) for image in images]).double()
        centre = rows.mean(dim=0)
        variances, axes = eigh((rows - centre).T @ (rows - centre) / len(rows))
        whitening = (axes / (variances.clamp(min=0) + STEADY).sqrt()) @ axes.T
        filters = whitening @ normalize((rows[rng.permutation(len(rows))[:FILTERS]] - centre) @ whitening, dim=1).T
        self.filters, self.shift = filters.float(), (centre @ filters).float()

    def __call__(self, images: Tensor) -> Tensor:
        """[sample, cell, feature] from [sample, channel, y, x], cells in raster order.

        One image at a time, for memory.
        """
        return torch.stack([self._over_cells(image) for image in images])

    def _drawn(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        rows = _patches(image, self.stride)
        return rows[rng.permutation(len(rows))[:PATCHES_EACH]]

    def _over_cells(self, image: Tensor) -> Tensor:
        rows, columns = (extent // self.stride for extent in image.shape[1:])
        answers = (_patches(image, self.stride) @ self.filters - self.shift).T.reshape(-1, rows, columns)
        beyond = torch.cat([relu(answers - THRESHOLD), relu(-answers - THRESHOLD)])
        means = avg_pool2d(beyond[None], (rows // self.cells[0], columns // self.cells[1]))
        return means[0].flatten(1).T


def _patches(image: Tensor, stride: int) -> Tensor:
    """[place, value] around the places of [channel, y, x], with mean 0 and contrast evened out."""
    rows = unfold(pad(image[None], (PATCH // 2,) * 4, mode="replicate"), PATCH, stride=stride)[0].T
    rows = rows - rows.mean(dim=1, keepdim=True)
    return rows / (rows.square().mean(dim=1, keepdim=True) + FLAT).sqrt()


FILTERED = 128
"""Training images that patches are cut from."""
SIDES = (16, 32, 64)
"""Pixels of an image's side before patches are cut from it: they span a third of it to a thirteenth. A tap each."""
CELL_SIDES = (2, 4)
"""The same for dense targets: pixels of a cell's side."""
QUADRANTS = (2, 2)
PLACES = 32
"""Patches along an image's side, so that those of large images cost no more."""


class RawKernel(SampleEncoder):
    """Each bandwidth, window and size of patch is a tap, so that val chooses it as it chooses any tap.

    `KernelFeatures` of what `raw_input` reads, of a series also with newer steps counting more and over its windows; of
    an image also `PatchFeatures` over its quadrants and, where the dataset has dense targets, over the cells of the
    encoder's output grid. Scales, bandwidths and patches come from training samples alone, and no target is looked at.

    Raises DiagnosticsError where the dataset has fewer than 100 training samples.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, seed: int) -> None:
        train = _training(dataset)
        super().__init__("raw_input_kernel", encoder)
        self.seed = seed
        if not _has_dense(dataset):
            self.cells = None
        drawn = np.random.default_rng(seed).permutation(train)[:LANDMARKS]
        self._example = dataset[int(drawn[0])]
        rows: list[dict[str, np.ndarray]] = []
        images: list[dict[str, Tensor]] = []
        for i in drawn:
            sample = dataset[int(i)]
            rows.append(views(sample, self.modality))
            if len(images) < FILTERED:
                images.append(self._images(sample))
        together = {name: np.concatenate([views[name] for views in rows]) for name in rows[0]}
        self.kernels = {name: KernelFeatures(values, seed) for name, values in together.items()}
        if self.modality == "series":
            last, variates = together["last"], int(np.prod(self._example.shape[1:]))
            for age in FADES:
                self.kernels[f"last_fading{age}"] = KernelFeatures(last, seed, fading(last.shape[1], variates, age))
        self.filters = {name: self._patches(name, torch.stack([sizes[name] for sizes in images])) for name in images[0]}
        features = self.features({name: x[None] for name, x in self.preprocess(self._example).items()})
        alone = Grid((1,), ("t",))
        plane = Grid(self.cells, ("y", "x")) if self.cells else alone
        self.taps = tuple(
            Tap(name, 0.0, "embedding", values.shape[2], plane if values.shape[1] > 1 else alone)
            for name, values in features.items()
        )
        self.output_tap = self.taps[0].name

    def _patches(self, name: str, images: Tensor) -> PatchFeatures:
        cells, stride = (
            (self.cells, 1)
            if self.cells and name.startswith("cells")
            else (QUADRANTS, max(1, images.shape[-1] // PLACES))
        )
        return PatchFeatures(images, cells, stride, self.seed)

    @property
    def identity(self) -> Mapping[str, str]:
        return {
            "weights": f"none; landmarks and patches of seed {self.seed}",
            "configuration": f"{self.name} {self.cells}; bandwidths {BANDWIDTHS} of the median distance",
            "preprocessing": "as raw input",
        }

    def example(self) -> np.ndarray:
        return self._example

    def preprocess(self, sample: np.ndarray) -> dict[str, Tensor]:
        rows = views(sample, self.modality)
        read = {name: torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for name, x in rows.items()}
        return read | self._images(sample)

    def _images(self, sample: np.ndarray) -> dict[str, Tensor]:
        """The image [channel, y, x] at each size that patches are cut from; empty for other modalities."""
        if self.modality != "image":
            return {}
        pixels = pixels_of(sample)
        sizes = {f"patches{side}": resize(pixels, (side, side))[0] for side in SIDES}
        if self.cells is not None:
            part = crop_to(pixels, self.encoder.covers(np.shape(sample)[:2]))
            rows, columns = self.cells
            sizes |= {f"cells{side}": resize(part, (rows * side, columns * side))[0] for side in CELL_SIDES}
        return sizes

    def features(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = {
            f"{name}_x{share:g}": values
            for name, kernel in self.kernels.items()
            for share, values in kernel(batch[name.partition("_")[0]]).items()
        }
        for name, patches in self.filters.items():
            values = patches(batch[name])
            features[name] = values if name.startswith("cells") else values.flatten(1)[:, None]
        return features


def _training(dataset: Dataset) -> np.ndarray:
    """Indices of the training samples; raises DiagnosticsError where they are too few."""
    train = np.flatnonzero(dataset.split == "train")
    if len(train) < LEAST_TRAIN:
        needed = f"the raw input kernel needs {LEAST_TRAIN} training samples"
        raise DiagnosticsError(f"{needed}, and {dataset.name} has {len(train)}.", code="too-few")
    return train


def _has_dense(dataset: Dataset) -> bool:
    return any(target.kind in BY_PLACE for target in dataset.targets.values())


def largest_taps(like: SampleEncoder, dataset: Dataset) -> list[Tap]:
    """The kernel's taps as wide as they can be, for another control on the same samples; from the first of them alone.

    Raises DiagnosticsError as `RawKernel` does.
    """
    samples, one = min(len(_training(dataset)), LANDMARKS), Grid((1,), ("t",))
    widths: list[int] = []
    for name, rows in views(dataset[0], like.modality).items():
        marks = min(samples * len(rows), LANDMARKS)
        alike = 1 + (len(FADES) if name == "last" else 0)
        widths += [1 << (marks - 1).bit_length()] * (len(BANDWIDTHS) * alike)
    images = like.modality == "image"
    widths += [2 * FILTERS * math.prod(QUADRANTS)] * (len(SIDES) * images)
    taps = [Tap(f"kernel{i}", 0.0, "embedding", width, one) for i, width in enumerate(widths)]
    if images and like.cells and _has_dense(dataset):
        grid = Grid(like.cells, ("y", "x"))
        taps += [Tap(f"cells{side}", 0.0, "embedding", 2 * FILTERS, grid) for side in CELL_SIDES]
    return taps

"""The control `raw_input_kernel`: what a nonlinear readout of the raw sample reaches, without a model.

A linear probe reads an encoder's features, and an encoder is no linear map of its input. `raw_input` shows what is linear
in the sample; this shows what is a smooth function of it.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad, relu, unfold

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import eigh
from diagnostics.measures.probes.linear import BANDWIDTHS, LANDMARKS, LEAST_TRAIN, KernelFeatures
from diagnostics.runs.controls import raw_features as inputs
from diagnostics.vocabulary import BY_PLACE

# Untrained features of images: random patches as filters, drawn from images that are handed over.

PATCH = 5
FILTERS = 128
PATCHES_EACH = 16
"""Patches of each image that filters are drawn from and whitened by."""
# As Coates and Ng, for pixels from 0 to 1: what steadies the contrast of flat patches, and the whitening; the threshold.
FLAT, STEADY, THRESHOLD = 10 / 255**2, 0.1, 0.5


class PatchFeatures:
    """Random convolutional features: patches of images as filters, a threshold on both sides, means over cells.

    The encoding of Coates and Ng 2011 (ICML, "The importance of encoding versus training") with patches drawn at random:
    contrast is evened out within each patch, and patches are whitened. `images` [sample, channel, y, x] from 0 to 1 give the
    patches; `cells` is into how many parts each axis is cut, `stride` the pixels from patch to patch.
    """

    def __init__(self, images: Tensor, cells: tuple[int, int], stride: int, seed: int) -> None:
        self.cells, self.stride = cells, stride
        rng = np.random.default_rng([seed, *images.shape[2:]])
        rows = torch.cat([self._drawn(image, rng) for image in images]).double()
        centre = rows.mean(dim=0)
        variances, axes = eigh((rows - centre).T @ (rows - centre) / len(rows))
        whitening = (axes / (variances.clamp(min=0) + STEADY).sqrt()) @ axes.T
        drawn = (rows[rng.permutation(len(rows))[:FILTERS]] - centre) @ whitening
        filters = whitening @ normalize(drawn, dim=1).T
        self.filters, self.shift = filters.float(), (centre @ filters).float()

    def __call__(self, images: Tensor) -> Tensor:
        """[sample, cell, feature] from [sample, channel, y, x], cells in raster order; one image at a time, for memory."""
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


class RawKernel(inputs.SampleEncoder):
    """Each bandwidth, window and size of patch is a tap, so that val chooses it as it chooses any tap.

    `KernelFeatures` of what `raw_input` reads, of a series also with newer steps counting more and over its windows; of an image
    also `PatchFeatures` over its quadrants and, where the dataset has dense targets, over the cells of the encoder's output
    grid. Scales, bandwidths and patches come from training samples alone, and no target is looked at.

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
            rows.append(inputs.views(sample, self.modality))
            if len(images) < FILTERED:
                images.append(self._images(sample))
        together = {name: np.concatenate([views[name] for views in rows]) for name in rows[0]}
        self.kernels = {name: KernelFeatures(values, seed) for name, values in together.items()}
        if self.modality == "series":
            last, variates = together["last"], int(np.prod(self._example.shape[1:]))
            for age in inputs.FADES:
                weights = inputs.fading(last.shape[1], variates, age)
                self.kernels[f"last_fading{age}"] = KernelFeatures(last, seed, weights)
        self.filters = {name: self._patches(name, torch.stack([sizes[name] for sizes in images])) for name in images[0]}
        features = self.features({name: x[None] for name, x in self.preprocess(self._example).items()})
        self.taps = tuple(
            Tap(name, 0.0, "embedding", values.shape[2], self._grid(values.shape[1]))
            for name, values in features.items()
        )
        self.output_tap = self.taps[0].name

    def _patches(self, name: str, images: Tensor) -> PatchFeatures:
        if self.cells and name.startswith("cells"):
            return PatchFeatures(images, self.cells, 1, self.seed)
        return PatchFeatures(images, QUADRANTS, max(1, images.shape[-1] // PLACES), self.seed)

    def _grid(self, tokens: int) -> Grid:
        return Grid(self.cells, ("y", "x")) if self.cells and tokens > 1 else Grid((1,), ("t",))

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
        rows = inputs.views(sample, self.modality)
        views = {name: torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for name, x in rows.items()}
        return views | self._images(sample)

    def _images(self, sample: np.ndarray) -> dict[str, Tensor]:
        """The image [channel, y, x] at each size that patches are cut from; empty for other modalities."""
        if self.modality != "image":
            return {}
        pixels = inputs.pixels_of(sample)
        sizes = {f"patches{side}": inputs.resized(pixels, (side, side))[0] for side in SIDES}
        if self.cells is not None:
            part = inputs.covered(pixels, self.encoder.covers(np.shape(sample)[:2]))
            rows, columns = self.cells
            sizes |= {f"cells{side}": inputs.resized(part, (rows * side, columns * side))[0] for side in CELL_SIDES}
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
        raise DiagnosticsError(f"{needed}, and {dataset.name} has {len(train)}.")
    return train


def _has_dense(dataset: Dataset) -> bool:
    return any(target.kind in BY_PLACE for target in dataset.targets.values())


def largest_taps(like: inputs.SampleEncoder, dataset: Dataset) -> list[Tap]:
    """The kernel's taps as wide as they can be, for another control on the same samples; from the first of them alone.

    Raises DiagnosticsError as `RawKernel` does.
    """
    samples, one = min(len(_training(dataset)), LANDMARKS), Grid((1,), ("t",))
    widths: list[int] = []
    for name, rows in inputs.views(dataset[0], like.modality).items():
        marks = min(samples * len(rows), LANDMARKS)
        alike = 1 + (len(inputs.FADES) if name == "last" else 0)
        widths += [1 << (marks - 1).bit_length()] * (len(BANDWIDTHS) * alike)
    images = like.modality == "image"
    widths += [2 * FILTERS * math.prod(QUADRANTS)] * (len(SIDES) * images)
    taps = [Tap(f"kernel{i}", 0.0, "embedding", width, one) for i, width in enumerate(widths)]
    if images and like.cells and _has_dense(dataset):
        grid = Grid(like.cells, ("y", "x"))
        taps += [Tap(f"cells{side}", 0.0, "embedding", 2 * FILTERS, grid) for side in CELL_SIDES]
    return taps

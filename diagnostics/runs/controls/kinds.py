"""Control encoders (baselines), measured by the same code as the encoder, and their descriptions.

`fresh_weights` and `permuted_weights` ask the encoder itself; `raw_input`, `raw_input_kernel` and `summary_statistics`
read the sample without any model. A score that a control reaches is no evidence that the encoder learnt anything.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes.linear import LANDMARKS, LEAST_TRAIN
from diagnostics.runs.controls import raw_input as inputs
from diagnostics.runs.controls.names import WEIGHTS
from diagnostics.runs.controls.raw_input import SIDES, RawKernel, largest_taps

# Apart from the seeds that people give, so that an untrained encoder is not its own control.
CONTROL_SEED = 20_000_003
CELL_PIXELS = 4
ALIKE = 1e-3
"""Of a tap's spread: a control whose every number lies nearer than this to the encoder's is the encoder."""
COMPARED = 2**16

ABOUT: Mapping[str, str] = {
    "fresh_weights": "the same architecture with newly drawn random weights, also in buffers",
    "permuted_weights": "the trained weights, shuffled within each tensor; batch-norm statistics and tables of "
    "positions stay",
    "raw_input": f"no model: the last {inputs.RAW_STEPS} steps of a series; an image at {inputs.RAW_PIXELS} x "
    f"{inputs.RAW_PIXELS} pixels and, for dense targets, each cell at {CELL_PIXELS} x {CELL_PIXELS}; "
    f"{inputs.RAW_FRAMES} frames of a video like images; the mean log power of audio in {inputs.BANDS} bands; the "
    f"words of a text in {inputs.WORDS} bins",
    "raw_input_kernel": "no model: a nonlinear baseline, kernel ridge regression with a Gaussian kernel between "
    f"samples (as features, from {LANDMARKS} training samples or fewer) on the inputs of raw input, one tap per "
    f"bandwidth; for a series also with more weight on the newest steps, and between its windows of "
    f"{' and '.join(map(str, inputs.WINDOWS))} steps; for an image also random patches as filters at "
    f"{', '.join(map(str, SIDES))} pixels and, for dense targets, in each cell. Left out below {LEAST_TRAIN} training "
    f"samples",
    "summary_statistics": f"no model: moments, quantiles {inputs.QUANTILES} and {inputs.LAGS} autocorrelations of the "
    f"sample (for images, of pixels or of each cell; for texts, the lengths of words and the shares of kinds of "
    f"characters)",
    "shuffled_labels": "the encoder's own activations with the targets shuffled among the samples of each split "
    "(whole maps of a dense target are swapped, so what depends on the position alone stays)",
}


def control_encoders(encoder: Encoder, dataset: Dataset, seed: int, draws: int = 1) -> dict[str, Callable[[], Encoder]]:
    """Name -> function that makes the control: called one after another, since each may be as large as the model.

    With several draws of the weights the first has the control's name, and the others `fresh_weights.2` and so on.
    """

    @functools.cache
    def given() -> dict[str, Tensor]:
        return _on_example(encoder, encoder)

    def drawn(name: str, draw: int) -> Encoder:
        make = encoder.fresh if name == "fresh_weights" else encoder.permuted
        return _another(encoder, given(), make(seed + draw * CONTROL_SEED))

    makers: dict[str, Callable[[], Encoder]] = {}
    for name in WEIGHTS:
        for draw in range(1, draws + 1):
            makers[f"{name}.{draw}" if draw > 1 else name] = functools.partial(drawn, name, draw)
    makers["raw_input"] = lambda: InputEncoder("raw_input", encoder)
    makers["raw_input_kernel"] = lambda: RawKernel(encoder, dataset, seed + CONTROL_SEED)
    makers["summary_statistics"] = lambda: InputEncoder("summary_statistics", encoder)
    return makers


def plan_taps(name: str, encoder: Encoder, dataset: Dataset) -> tuple[Encoder, Sequence[Tap]]:
    """A control of `INPUTS` before it is made, from one sample.

    Its taps are as wide as they can be, and an encoder that pools alike stands beside them.
    """
    sized = InputEncoder(name, encoder, dataset[0])
    return sized, largest_taps(sized, dataset) if name == "raw_input_kernel" else sized.taps


def _another(encoder: Encoder, own: Mapping[str, Tensor], other: Encoder) -> Encoder:
    """The control with other weights; raises where on the example it gives what the encoder gives.

    That is, at the output tap, or at most of the taps at which the encoder gives more than one number.
    """
    theirs = _on_example(encoder, other)
    spreads = {tap: float(values.std(correction=0)) for tap, values in own.items()}
    telling = [tap for tap, spread in spreads.items() if spread > 0]
    alike = [tap for tap in telling if _near(own[tap], theirs[tap], ALIKE * spreads[tap])]
    if encoder.output_tap in alike or 2 * len(alike) > len(telling):
        raise DiagnosticsError(
            f"{other.name} gives what {encoder.name} itself gives on its example, at {len(alike)} of {len(telling)} "
            f"taps, so it is no control: its weights lie where none are drawn (give TorchEncoder fresh=, which builds "
            f"a new module).",
            code="no-control",
        )
    return other


def _on_example(encoder: Encoder, other: Encoder) -> dict[str, Tensor]:
    """Activations of another encoder, or of the encoder itself, on the encoder's example."""
    return other.capture(default_collate([encoder.preprocess(encoder.example())]), reduce=_some)


def _some(tap: Tap, tokens: Tensor) -> Tensor:
    """At most `COMPARED` of its numbers: enough to tell two encoders apart."""
    flat = tokens.flatten()
    return flat[:: 1 + len(flat) // COMPARED].double().cpu()


def _near(first: Tensor, other: Tensor, most: float) -> bool:
    return first.shape == other.shape and bool(((first - other).abs() <= most).all())


class InputEncoder(inputs.SampleEncoder):
    """The sample itself as features: `raw_input` or `summary_statistics`.

    One tap with one token, named as the modality. Images have a second one, `cells`, on the grid of the encoder's
    output tap, for dense targets.
    """

    def __init__(self, name: str, encoder: Encoder, sample: np.ndarray | None = None) -> None:
        super().__init__(name, encoder)
        self.raw = name == "raw_input"
        self.output_tap = self.modality
        grids = {self.modality: Grid((1,), ("t",)), "cells": Grid(self.cells, ("y", "x")) if self.cells else None}
        prepared = self.preprocess(encoder.example() if sample is None else sample)
        self.taps = tuple(
            Tap(tap, 0.0, "embedding", prepared[tap].shape[-1], grid) for tap, grid in grids.items() if grid is not None
        )

    @property
    def identity(self) -> Mapping[str, str]:
        return {"weights": "none", "configuration": f"{self.name} {self.cells}", "preprocessing": ABOUT[self.name]}

    def sized_for(self, sample: np.ndarray) -> Encoder:
        return InputEncoder(self.name, self.encoder, sample)

    def preprocess(self, sample: np.ndarray) -> dict[str, Tensor]:
        read = (inputs.RAW if self.raw else inputs.STATISTICS)[self.modality]
        features = {self.output_tap: torch.from_numpy(np.ascontiguousarray(read(sample), dtype=np.float32))[None]}
        if self.cells is not None:
            features["cells"] = self._cells(inputs.pixels_of(sample), np.shape(sample)[:2])
        return features

    def _cells(self, pixels: Tensor, extent: tuple[int, ...]) -> Tensor:
        """[token, feature] of each cell of the grid, from the part of the image that the encoder's grid covers."""
        assert self.cells is not None
        part = inputs.crop_to(pixels, self.encoder.covers(extent))
        rows, columns = self.cells
        side = CELL_PIXELS if self.raw else 2 * CELL_PIXELS
        patches = inputs.resize(part, (rows * side, columns * side))[0].unfold(1, side, side).unfold(2, side, side)
        patches = patches.permute(1, 2, 0, 3, 4).reshape(rows * columns, pixels.shape[1], side * side)
        return patches.flatten(1) if self.raw else inputs.pixel_statistics(patches)

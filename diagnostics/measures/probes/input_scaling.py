"""The control of how samples become numbers: the same encoder under the usual other scalings of its input.

Preprocessing that scales each number alike is undone by what it makes of a black and of a white sample, so that no
encoder has to say what its mean and std are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, Observation, StoredTarget
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import pool
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import over_taps
from diagnostics.measures.base import Arrays, Case, normal
from diagnostics.measures.probes.linear import OWN
from diagnostics.measures.probes.out_of_fold import RidgeOutOfFold
from diagnostics.measures.probes.protocol import Probe, Rows, sum_by_unit, value_columns
from diagnostics.measures.result import CENTRING, FUNCTIONAL, POOLING, SEED, N, store_interval
from diagnostics.measures.statistics import LEVEL, Losses
from diagnostics.measures.verdict import paired_differences

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet, from 0 to 1."""
LOUDNESS = 0.1
"""The root mean square to which sounds are brought."""
PICTURES = {
    "0 to 1": "mean=0 and std=1",
    "ImageNet": f"mean={[*MEAN]} and std={[*STD]}",
    "-1 to 1": "mean=0.5 and std=0.5",
    "per sample": "mean=0 and std=1, and each image as fractions of mean 0 and std 1 by channel",
}
SCALINGS: Mapping[str, Mapping[str, str]] = {
    "image": PICTURES,
    "video": PICTURES,
    "series": {"none": "no mean and std", "per window": "no mean and std, and each window with mean 0 and std 1"},
    "audio": {
        "peak": "each sound divided by its largest absolute value",
        "loudness": f"each sound at a root mean square of {LOUDNESS}",
    },
}
"""By modality the usual scalings, and what to write for each."""
FEWEST = 16
"""Samples below which nothing is compared."""
ALIKE = 0.05
"""Root mean square of the difference of a tap's features, as a share of their spread, up to which two scalings are one:
pixels less 127 over 128, and less 127.5 over 127.5."""


def undo_scaling(encoder: Encoder, batch: Any) -> Tensor:
    """A prepared batch before its numbers were scaled: bytes from 0 to 1, other numbers as they came.

    Raises DiagnosticsError where the preparation does not scale each number alike.
    """
    example = np.asarray(encoder.example())
    if isinstance(batch, Tensor) and batch.is_floating_point() and example.dtype.kind in "uf":
        most = 255 if example.dtype == np.uint8 else 1
        black, middle, white = (
            torch.as_tensor(encoder.preprocess(np.full_like(example, level))).to(batch)
            for level in (0, most // 5 if most > 1 else 0.2, most)
        )
        span = white - black
        even = (middle - black - 0.2 * span).abs() <= 1e-4 * span.abs()
        if black.shape == batch.shape[1:] and bool((even & (span != 0)).all()):
            return (batch - black) / span
    raise DiagnosticsError(
        f"{encoder.name} does not scale each number of a sample alike, so how it would read others cannot be tried: "
        f"leave out input_scaling.",
        code="unsupported",
    )


def scalings(encoder: Encoder, batch: Tensor) -> dict[str, Tensor]:
    """The batch under the usual scalings of its modality, by name."""
    x, raw = undo_scaling(encoder, batch), np.shape(encoder.example())
    if encoder.modality == "audio":
        along = tuple(range(1, x.ndim))
        peak, level = x.abs().amax(along, keepdim=True), x.square().mean(along, keepdim=True).sqrt()
        return {"peak": x / peak.clamp_min(1e-12), "loudness": LOUDNESS * x / level.clamp_min(1e-12)}
    # One mean and spread for each channel: over all axes but that.
    sizes = list(x.shape[1:])
    channels = raw[-1] if len(raw) > {"image": 2, "video": 3, "series": 1}[encoder.modality] else 1
    at = 1 + sizes.index(channels) if channels > 1 and channels in sizes else 0
    along = tuple(axis for axis in range(1, x.ndim) if axis != at)
    centred = x - x.mean(along, keepdim=True)
    each = centred / centred.square().mean(along, keepdim=True).sqrt().clamp_min(1e-6)
    if encoder.modality == "series":
        return {"none": x, "per window": each}
    shape = [-1 if axis == at else 1 for axis in range(x.ndim)]
    found = {"0 to 1": x, "-1 to 1": (x - 0.5) / 0.5, "per sample": each}
    if channels == len(MEAN):
        mean, std = (torch.tensor(numbers).to(x).reshape(shape) for numbers in (MEAN, STD))
        found["ImageNet"] = (x - mean) / std
    return {name: found.get(name, batch) for name in PICTURES}


class ScaledInputs(Observation):
    """Pooled values of each tap per sample, [sample, 1 + scaling, feature], as its input is scaled.

    The first are those of the input as it is, the others under each of `SCALINGS` of its modality; one that has no
    meaning for the input is as its own.
    """

    name = "scaled_inputs"
    samples = 64

    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        def pooled(tap: Any, tokens: Tensor) -> Tensor:
            return pool(tap, tokens, encoder.poolings, encoder.valid(batch, tap)).flatten(1).cpu()

        if encoder.modality not in SCALINGS:
            raise DiagnosticsError(f"{encoder.modality} has no scaling: leave out input_scaling.", code="unsupported")
        inputs = [batch, *scalings(encoder, batch).values()]
        each = [encoder.capture(scaled, taps, pooled) for scaled in inputs]
        return {tap: torch.stack([captured[tap] for captured in each], dim=1) for tap in each[0]}


class _Scaled(Arrays):
    """Series of which a tap holds noise as they are scaled, and the target where each window is."""

    modality = "series"

    def observation_arrays(self, name: str) -> Mapping[str, np.ndarray]:
        return {tap: np.stack([self.values[tap][:, [at]] for at in (1, 1, 0)], axis=1) for tap in self.values}


def _wrongly_scaled() -> xr.Dataset:
    """The control of `_Scaled`."""
    x = normal(ScaledInputs.samples, 2, seed=0)
    return InputScaling().compute(_Scaled({"tap": x}, ["train"] * len(x)), StoredTarget("y", "value", x[:, 0]), 0)


class InputScaling(Probe):
    """R2 at each tap as the input is scaled, and what other scalings of it gain, on at most 64 samples.

    Ridge regression reads values, and classes as 0 and 1, and leaves out one group after the other; R2 is that of all
    columns together. Along `scaling`, `scaling_gain` over the encoder's own with an interval, paired over units and of all
    scalings at once, is the mean over the taps up to the output. The attributes `scaling` and `write` name the one whose interval lies highest above 0.
    """

    name = "input_scaling"
    answers = "Is the input scaled as the encoder was trained to read it?"
    source = OWN
    kinds = ("label", "value", "state")
    losses, score_name, chance = "squares", "R2", 0.0
    standard = of_controls = False
    instead = "it fits several probes: fit one of your own on run.features(tap)"
    observation = ScaledInputs()
    known_answers = (
        Case("gain of the scaling under which a tap is the target, over one under which it is noise", 1, OWN, lambda: float(_wrongly_scaled()["scaling_gain"][0]), 0.1),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        observed = activations.observation_arrays(ScaledInputs.name)
        names, values = [tap.name for tap in activations.taps], _columns(target)[: ScaledInputs.samples]
        # Its advice changes the next run, whose test samples must not have a part in it.
        known = np.flatnonzero(np.isfinite(values).all(axis=1) & (activations.split[: len(values)] != "test"))
        y = values[known]
        y = y[:, y.std(axis=0) > 0]
        rows = Rows.of({"train": known, "val": known[:0], "test": known[:0]}, activations.groups)
        units = len(rows.fit_units)
        if units < FEWEST or not y.shape[1]:
            raise DiagnosticsError(
                f"{self.name} of {target.name} needs {FEWEST} independent samples of different values among the first "
                f"{ScaledInputs.samples}, and there are {units if y.shape[1] else 1}: use more samples.",
                code="too-few",
            )
        scaled = (y - y.mean(axis=0)) / y.std(axis=0)
        reader = RidgeOutOfFold(rows, scaled, lambda errors: (errors**2).sum(-1)[..., None], seed)
        reference = sum_by_unit(reader.reference, rows, "fit")[:, 0]
        features = {tap: observed[tap][known].astype(np.float64) for tap in names if tap in observed}
        known_as = SCALINGS[activations.modality or ""]
        others = {
            name: at for at, name in enumerate(known_as, start=1) if any(_differ(x, at) for x in features.values())
        }
        if not others:
            raise DiagnosticsError(f"No usual scaling changes what {self.name} reads.", code="no-effect")
        lost = np.full((len(names), 1 + len(others), units), np.nan)
        for tap, x in features.items():
            for i, at in enumerate([0, *others.values()]):
                _, of_row, _ = reader.choose(torch.from_numpy(np.ascontiguousarray(x[:, at]))[None])
                lost[names.index(tap), i] = sum_by_unit(of_row[0], rows, "fit")[:, 0]
        depth = np.array([tap.depth for tap in activations.taps])
        upto = (depth <= depth[names.index(activations.output_tap)]) & np.isfinite(lost[:, 0, 0])
        own, mean = (Losses(of, np.broadcast_to(reference, of.shape)) for of in (lost[:, 0], lost[upto].mean(axis=0)))
        level, numbers = 1 - (1 - LEVEL) / len(others), [*range(1, 1 + len(others))]
        gains = paired_differences(mean.at(numbers), mean.at([0]), units - 1, seed, level)
        best = max(range(len(gains)), key=lambda i: gains[i].low)
        ends = {"": "value", "_low": "low", "_high": "high"}
        variables: dict[str, Any] = dict(zip(("score", "low", "high"), own.intervals(units - 1, seed), strict=True))
        variables |= {
            f"scaling_gain{end}": ("scaling", [getattr(gain, of) for gain in gains]) for end, of in ends.items()
        }
        stated = {
            FUNCTIONAL: "R2 of ridge regression, each group read by a fit on the others; of classes as 0 and 1",
            POOLING: activations.pooling,
            CENTRING: "features standardised with all rows",
            N: len(known),
            SEED: seed,
        }
        if gains[best].low > 0:
            name = [*others][best]
            stated |= {"scaling": name, "write": known_as[name], **store_interval("scaling_gain", gains[best])}
        return over_taps(activations, variables, stated, scaling=[*others])


def _differ(x: np.ndarray, at: int) -> bool:
    """Test for features [sample, 1 + scaling, feature] that a scaling changes."""
    return float(np.std(x[:, at] - x[:, 0])) > ALIKE * float(x[:, 0].std())


def _columns(target: StoredTarget) -> np.ndarray:
    """A target as numbers, float64 [sample, column]; NaN where it is not known."""
    if target.kind != "label":
        return value_columns(target)
    labels = np.asarray(target.values).astype(np.int64)
    return np.where(labels[:, None] < 0, np.nan, np.eye(max(1, labels.max() + 1))[labels])

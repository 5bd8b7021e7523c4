"""How often `input_scaling` warns where the input is scaled rightly, and where it is not, by simulation.

A tap of 32 features holds a target under each of four scalings as clearly as under the encoder's own, with noise of its own or one
that is mostly shared: a warning is false. Where the own scaling holds less of it, a warning is right.
"""

from __future__ import annotations

import itertools

import numpy as np

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.input_scaling import PICTURES, InputScaling, ScaledInputs
from diagnostics.vocabulary import Kind

from _common import SMALLEST, finish, verdict

DRAWS = 4 if SMALLEST else 100
FEATURES, TAPS, ROWS = 32, 3, ScaledInputs.samples
MOST = 0.05
"""Largest share of false warnings."""


class Observed(Arrays):
    """Taps [sample, 1 + scaling, feature] as an image encoder would have them."""

    modality = "image"

    def observation_arrays(self, name: str) -> dict[str, np.ndarray]:
        return self.values


def draw(kind: Kind, shared: float, lost: float, size: int, rng: np.random.Generator) -> tuple[Observed, StoredTarget]:
    """Groups of `size`; a share of the noise is `shared` by all scalings, and a share of the signal is `lost` by the own."""
    truth = np.repeat(rng.standard_normal((ROWS // size, 3)), size, axis=0)
    truth = truth + 0.5 * rng.standard_normal(truth.shape)
    kept = np.r_[1 - lost, np.ones(len(PICTURES))]
    taps: dict[str, np.ndarray] = {}
    for tap in range(TAPS):
        noise = [rng.standard_normal((ROWS, each, FEATURES)) for each in (1, len(kept))]
        signal = (truth @ rng.standard_normal((3, FEATURES)))[:, None] * kept[:, None] * (tap + 1) / TAPS
        taps[f"t{tap}"] = signal + np.sqrt(shared) * noise[0] + np.sqrt(1 - shared) * noise[1]
    found = Observed(taps, ["train"] * ROWS)
    found.groups = np.repeat([f"g{i}" for i in range(ROWS // size)], size).astype(object)
    values = truth[:, 0] + rng.standard_normal(ROWS)
    label = truth.argmax(axis=1)
    return found, StoredTarget("y", kind, label if kind == "label" else values)


def main() -> None:
    """Print a row for each setting, and end with status 1 where false warnings are too many."""
    held: list[bool] = []
    settings = itertools.product(("value", "label"), (0.0, 0.9), (1, 2))
    for seed, (kind, shared, size) in enumerate(settings):
        warned: dict[float, float] = {}
        for lost in (0.0, 0.5, 0.8):
            rng = np.random.default_rng([seed, int(10 * lost)])
            results = [InputScaling().compute(*draw(kind, shared, lost, size, rng), 0) for _ in range(DRAWS)]
            warned[lost] = float(np.mean(["scaling" in found.attrs for found in results]))
            if lost:
                gain = np.mean([float(found["scaling_gain"].mean()) for found in results])
                print(f"  {lost:.0%} of the signal lost, gain {gain:.2f}: warned in {warned[lost]:.3f}")
        what = f"{kind}, {ROWS // size} groups, {shared:.0%} of the noise shared: false warnings"
        held.append(verdict(what, warned[0.0], MOST))
    finish(*held)


if __name__ == "__main__":
    main()

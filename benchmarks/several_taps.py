"""`tap_set` and `label_efficiency` at 12 taps, as multiples of the CPU time of the linear probe on the same taps.

Values and classes are planted in noise, more clearly from tap to tap; variance along the i-th axis is i^-1, as in activations.
"""

from __future__ import annotations

import numpy as np

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.base import Arrays, Measure
from diagnostics.measures.probes.labels import LabelEfficiency
from diagnostics.measures.probes.least_squares import _KEPT
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.several_taps import TapSet
from diagnostics.measures.threads import one_thread
from diagnostics.vocabulary import Kind

from _common import SMALLEST, cpu, finish, verdict

TAPS, ROWS, FEATURES, CLASSES = (3, 120, 8, 3) if SMALLEST else (12, 1000, 384, 10)
LIMITS: dict[tuple[type[Measure], Kind], float] = {
    (TapSet, "value"): 6,
    (TapSet, "label"): 12,
    (LabelEfficiency, "value"): 3,
    (LabelEfficiency, "label"): 3,
}


def planted(rows: int = ROWS, features: int = FEATURES) -> tuple[Arrays, np.ndarray]:
    """Taps [row, feature], and the classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows)
    means, scale = rng.normal(size=(CLASSES, features)), np.arange(1, features + 1) ** -0.5
    axes = np.linalg.qr(rng.normal(size=(features, features)))[0] * scale
    taps = {
        f"blocks.{t}": (rng.normal(size=(rows, features)) + (0.02 + 0.03 * t) * means[labels]) @ axes
        for t in range(TAPS)
    }
    found = Arrays(taps, np.resize(["train", "train", "train", "val", "test"], rows).tolist())
    found.choose_on = "fit"
    return found, labels


@one_thread()
def seconds(measure: Measure, activations: Arrays, target: StoredTarget) -> float:
    """CPU seconds of a measure that has no decomposition of another one."""
    # Decompositions are kept for the next target: each measure starts with nothing.
    _KEPT.forget("eigh")
    start = cpu()
    measure.compute(activations, target, 0)
    return cpu() - start


def main() -> None:
    """Print a row for each measure and kind, and end with status 1 where a limit is missed."""
    warm, labels = planted(200, 4)
    TapSet().compute(warm, StoredTarget("y", "value", labels + 0.0), 0)  # imports
    activations, labels = planted()
    values = labels + np.random.default_rng(1).normal(size=ROWS)
    held: list[bool] = []
    for (measure, kind), limit in LIMITS.items():
        target = StoredTarget("y", kind, labels if kind == "label" else values, classes=tuple(map(str, range(CLASSES))))
        own, probe = (seconds(each, activations, target) for each in (measure(), LinearProbe()))
        print(f"{measure.__name__}, {kind}: {own:.2f} s, the probe {probe:.2f} s")
        held.append(verdict(f"{measure.__name__} of a {kind} to the linear probe, CPU", own / probe, limit))
    finish(*held)


if __name__ == "__main__":
    main()

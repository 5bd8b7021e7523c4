"""How often the recommended tap is the right one: planted encoders whose population scores are known, and some with nothing.

Each draw is a new encoder of 12 taps and a new dataset of 600 train, 200 val and 200 test samples, probed by the linear probe.
A draw is right where the recommended tap is the planted one or its population score is within .01 of it; where nothing is
planted, where nothing is recommended. Beside them encoders whose scores change little from tap to tap, where 200 val units do
not always tell neighbours apart.
"""

from __future__ import annotations

import sys

import numpy as np

from diagnostics.activations.contract import StoredTarget, shuffled
from diagnostics.measures.apply import against_control, measure_all
from diagnostics.measures.known_answers import Arrays
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.runs.profile import Profile
from diagnostics.runs.recommendation import recommend

from _common import finish, verdict

DRAWS, TAPS, FEATURES, CLASSES = 100, 12, 16, 4
COUNTS = {"train": 600, "val": 200, "test": 200}
CLOSE = 0.01


def planted(peak: int, rng: np.random.Generator) -> np.ndarray:
    """Signal over noise at each tap: 3 at the peak, from 0 to 1.5 at the others."""
    strength = rng.uniform(0, 1.5, TAPS)
    strength[peak] = 3.0
    return strength


def gradual(peak: int, _: np.random.Generator) -> np.ndarray:
    """Signal over noise at each tap: 3 at the peak, and .25 less with every tap away from it."""
    return 3.0 - 0.25 * np.abs(np.arange(TAPS) - peak)


def draw(kind: str, strength: np.ndarray, rng: np.random.Generator) -> tuple[Arrays, StoredTarget]:
    """Activations that hold the target with that strength, each tap in directions of its own."""
    n = sum(COUNTS.values())
    if kind == "label":
        codes = rng.integers(CLASSES, size=n)
        signal, target = np.eye(CLASSES)[codes], StoredTarget("target", "label", codes)
    else:
        values = rng.standard_normal(n)
        signal, target = values[:, None], StoredTarget("target", "value", values)
    taps = {}
    for i, size in enumerate(strength):
        directions = np.linalg.qr(rng.standard_normal((FEATURES, FEATURES)))[0][: signal.shape[1]]
        taps[f"tap{i}"] = size * signal @ directions + rng.standard_normal((n, FEATURES))
    split = np.repeat(list(COUNTS), list(COUNTS.values()))
    return Arrays(taps, split), target


def population(kind: str, strength: np.ndarray) -> np.ndarray:
    """The score that the best linear readout has at each tap."""
    if kind == "value":
        return strength**2 / (1 + strength**2)
    noise = np.random.default_rng(0).standard_normal((100_000, CLASSES))
    return np.array([((noise + size * np.eye(CLASSES)[0]).argmax(axis=1) == 0).mean() for size in strength])


def recommended(kind: str, strength: np.ndarray, seed: int) -> str | None:
    """The tap recommended in one draw."""
    activations, target = draw(kind, strength, np.random.default_rng(seed))
    probe = LinearProbe()
    result, control = (
        measure_all([probe], activations, {"target": each}, seed).results["linear_probe/target"]
        for each in (target, shuffled(target, activations.split, seed))
    )
    result = against_control(result, control, "shuffled_labels", seed)
    return recommend(Profile.of("linear_probe", "target", result, {"shuffled_labels": control})).tap


def main() -> bool:
    """Prints the table; False where a limit is missed."""
    draws = 10 if "--quick" in sys.argv else DRAWS
    holds = True
    for kind in ("value", "label"):
        for shape in (planted, gradual):
            costs, outputs = [], 0
            for seed in range(draws):
                peak = seed % TAPS
                strength = shape(peak, np.random.default_rng(seed))
                tap = recommended(kind, strength, seed)
                score = population(kind, strength)
                costs.append(score[peak] - (score[int(tap[3:])] if tap else 0.0))
                outputs += tap == f"tap{TAPS - 1}"
            name = f"{kind}, {shape.__name__}"
            print(
                f"{name}: the output in {outputs} draws; cost {np.mean(costs):.4f} on average, at most {max(costs):.4f}"
            )
            share = float((np.array(costs) <= CLOSE).mean())
            if shape is planted:
                holds &= verdict(f"{name}: the planted tap, or within {CLOSE} of it", share, 0.95, at_least=True)
            else:
                print(f"     {name}: the planted tap, or within {CLOSE} of it: {share:.2f} (no limit)")
        nothing = sum(recommended(kind, np.zeros(TAPS), seed) is None for seed in range(draws))
        holds &= verdict(f"{kind}: nothing planted, nothing recommended", nothing / draws, 0.95, at_least=True)
    return holds


if __name__ == "__main__":
    finish(main())

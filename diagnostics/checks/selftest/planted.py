"""A planted encoder, in memory, whose whole answer is known: at every tap one feature, which is the target and an error of a known size.

The planted probe reads that feature as it is, so that losses are the squared errors (of a class: whether the rounded feature is
another), and all that follows from them can be computed by hand.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures.apply import Measured, against_control, measure_all
from diagnostics.measures.known_answers import Arrays
from diagnostics.measures.probes import protocol
from diagnostics.measures.statistics import Losses
from diagnostics.runs.profile import Profile
from diagnostics.vocabulary import ChooseOn

SEED, SEEDS = 3, (0, 1, 2)
"""Of resamples; of the runs of a training."""
TAPS = ("embed", "middle", "late", "norm", "head", "last")
OUTPUT = 3
SPLIT = np.repeat(["train", "val", "test"], [80, 40, 80])
CONTROLS = ("fresh_weights", "fresh_weights.2", "raw_input", "shuffled_labels")


@dataclass(frozen=True)
class Planting:
    """A target: `errors` of the six taps, and of the controls at their only tap; how many samples of train, val and test know it;
    classes, if any. A `finding` is the verdict and the confidence that are planted."""

    errors: tuple[float, ...]
    finding: tuple[str, str]
    known: tuple[int, int, int] = (80, 40, 80)
    classes: int = 0
    controls: tuple[float, ...] = ()
    of: str = ""
    """The planting whose target it reads, by another encoder."""


PLANTED = {
    "hidden": Planting((1.1, 0.3, 0.35, 0.6, 0.01, 0.9), ("shown", "shown"), controls=(0.8, 0.7, 1.5, 1.5)),
    "late": Planting((1.1, 0.5, 0.3, 0.8, 0.01, 0.9), ("shown", "shown"), controls=(0.25, 0.35, 0.25, 1.5)),
    "alike": Planting((0.9, 0.101, 0.1, 0.1, 0.5, 0.9), ("excluded", "no gap"), controls=(0.2, 0.22, 0.3, 1.5)),
    "perhaps": Planting((1.1, 0.7, 0.54, 0.66, 0.5, 0.9), ("undecided", "likely")),
    "unsure": Planting((1.1, 0.7, 0.65, 0.66, 0.5, 0.9), ("undecided", "undecided"), of="perhaps"),
    "noise": Planting((9.0, 8.0, 9.0, 7.0, 5.0, 0.9), ("at chance", "at chance")),
    "nine": Planting((1.1, 0.3, 0.35, 0.8, 0.01, 0.9), ("undecided", "undecided"), known=(80, 40, 9)),
    "ten": Planting((1.1, 0.1, 0.35, 0.99, 0.01, 0.9), ("shown", "shown"), known=(80, 40, 10)),
    "young": Planting((1.1, 0.3, 0.35, 0.8, 0.01, 0.9), ("undecided", "undecided"), known=(5, 4, 80)),
    "aligned": Planting((1.1, 0.35, 0.3, 0.5, 0.4, 0.9), ("shown", "shown"), of="hidden"),
    "control": Planting((1.1, 0.35, 0.5, 0.75, 0.9, 0.9), ("shown", "shown"), of="hidden"),
    "class": Planting((0.9, 0.2, 0.25, 0.5, 0.01, 0.9), ("shown", "shown"), classes=3, controls=(0.2, 0.8, 0.9, 1.5)),
}  # fmt: skip


class Planted(protocol.ClassOrValueProbe):
    """Reads the one feature of a tap as it is."""

    name, answers, source, kinds = "planted", "What was planted?", "checks/selftest", ("value", "label")

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        known = np.isfinite(target.values) if target.kind == "value" else target.values >= 0
        rows, wrong = protocol.rows_of(activations, target.name, known), target.kind == "label"
        read = np.stack([activations.pooled(tap.name)[:, 0] for tap in activations.taps])
        loss = (np.round(read) != target.values).astype(float) if wrong else (read - target.values) ** 2
        whole = np.broadcast_to(
            np.ones(len(known)) if wrong else (target.values - target.values[rows.fit].mean()) ** 2, loss.shape
        )
        test, val, fit = (
            Losses(loss[:, some], whole[:, some])  # each sample is a unit of its own, in order
            for some in (rows.test, rows.val, np.sort(rows.fit))
        )
        oof = fit if activations.choose_on == "fit" else None
        extra = {"number": np.arange(len(read))} | ({"line_chance": np.full(len(read), 0.4)} if wrong else {})
        return protocol.probe_result(
            activations, rows, test.loss, test.reference, val, extra, "planted", "none", seed, oof=oof
        )  # fmt: skip


def truth(name: str) -> np.ndarray:
    """The target of the samples [sample], the same whoever encodes them."""
    planting = PLANTED[name]
    rng = np.random.default_rng([*map(ord, planting.of or name)])
    values = rng.integers(0, planting.classes, 200).astype(float) if planting.classes else rng.standard_normal(200)
    known = np.concatenate([np.arange(n) < m for n, m in zip((80, 40, 80), planting.known, strict=True)])
    return np.where(known, values, -1 if planting.classes else np.nan)


def encoder(name: str, errors: tuple[float, ...], draw: int, choose_on: ChooseOn = "fit") -> Arrays:
    """That of a target: errors that all taps share with others of their own."""
    rng = np.random.default_rng([draw, *map(ord, name)])
    shared = rng.standard_normal(200)
    noise = [0.6 * shared + 0.8 * rng.standard_normal(200) for _ in errors]
    taps = TAPS if len(errors) == len(TAPS) else TAPS[OUTPUT : OUTPUT + 1]
    made = Arrays(
        {tap: (np.nan_to_num(truth(name)) + e * x)[:, None] for tap, e, x in zip(taps, errors, noise, strict=True)},
        SPLIT.tolist(),
    )
    made.taps = [
        replace(tap, depth=at / OUTPUT, part="head" if at > OUTPUT else "trunk") for at, tap in enumerate(made.taps)
    ]
    made.output_tap, made.choose_on = TAPS[OUTPUT], choose_on
    return made


def target(name: str) -> StoredTarget:
    """The target as a run stores it."""
    kind = "label" if PLANTED[name].classes else "value"
    return StoredTarget(PLANTED[name].of or name, kind, truth(name).astype(int) if kind == "label" else truth(name))


@cache
def results(name: str, draw: int = 0, choose_on: ChooseOn = "fit") -> Measured:
    """What measuring gives."""
    return measure_all(
        [Planted()], encoder(name, PLANTED[name].errors, draw, choose_on), {(read := target(name)).name: read}, SEED
    )


@cache
def profile(name: str, draw: int = 0, choose_on: ChooseOn = "fit") -> Profile:
    """The profile with its controls, each of one tap."""
    ((key, data),) = results(name, draw, choose_on).results.items()
    others = {
        control: measure_all(
            [Planted()], encoder(name, (error,), 7 + i), {(read := target(name)).name: read}, SEED
        ).results[key]
        for i, (control, error) in enumerate(
            zip(CONTROLS, PLANTED[name].controls if draw == 0 or PLANTED[name].classes else (), strict=False)
        )
    }
    for control, other in others.items():
        data = against_control(data, other, control, SEED)
    return Profile.of("planted", key.partition("/")[2], data, others)

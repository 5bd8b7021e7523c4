"""How often intervals of what tap sets gain, and of label curves, hold the truth, by simulation; and what is found where nothing is.

Taps hold parts of a target; the truth of a set is the mean over draws, of train and val too, of what its readouts gain on
many other samples, and so is that of a curve. Under the null one tap holds all, the others noise, and a gain that is shown is false.
`python benchmarks/sets.py rare 30`: 30 draws of the settings with that word in their name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.labels import LabelEfficiency
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.several_taps import TapSet
from diagnostics.measures.result import losses_of, units_fitted
from diagnostics.measures.statistics import Losses
from diagnostics.measures.verdict import paired_differences

from _common import ARGUMENTS, SMALLEST, finish, verdict

WORDS = [word for word in ARGUMENTS if not word.isdigit()]
DRAWS = 3 if SMALLEST else int(next(filter(str.isdigit, ARGUMENTS), 80))
MANY = 200 if SMALLEST else 1000
"""Units by which the truth is known."""
TAPS = 4
LEAST, MOST, FALSE = 0.93, 0.985, 0.05
SLACK = 2.0
"""Standard errors of a simulated share up to which it is within the limits."""


@dataclass(frozen=True)
class Setting:
    """How targets are drawn: `classes` of them (0: a value) of which one is rare by a factor, in groups of `size`."""

    name: str
    test: int
    classes: int = 0
    rare: float = 1.0
    size: int = 1
    features: int = 6
    """Of a tap; of 60 a part of 64 labels has about as many."""


SETTINGS = (
    Setting("values", 30),
    Setting("values", 100),
    Setting("values", 400),
    Setting("two classes", 100, classes=2),
    Setting("a rare class", 100, classes=3, rare=0.2),
    Setting("clusters of 4", 100, size=4),
    Setting("values of 60 features", 100, features=60),
)[: 1 if SMALLEST else None]


def draw(setting: Setting, null: bool, rng: np.random.Generator) -> tuple[Arrays, StoredTarget]:
    """Train and val are four times the units of test, and `MANY` further units are test too."""
    units = 5 * setting.test + MANY
    of_unit = np.arange(units).repeat(setting.size)
    truth = rng.standard_normal((units, 2))[of_unit] + 0.5 * rng.standard_normal((len(of_unit), 2))
    taps = {f"t{i}": rng.standard_normal((len(of_unit), setting.features)) for i in range(TAPS)}
    taps["t1"][:, :2] += truth[:, :1] + (truth[:, 1:] if null else 0)
    taps["t2"][:, :2] += 0 if null else truth[:, 1:]
    values = truth.sum(axis=1) + rng.standard_normal(len(of_unit))
    order = np.r_[
        np.resize(["train", "train", "train", "val"], 4 * setting.test), ["test"] * (units - 4 * setting.test)
    ]
    found = Arrays(taps, order[of_unit].tolist())
    found.choose_on = "fit"
    found.groups = np.char.add("u", np.char.zfill(of_unit.astype(str), 6)).astype(object)
    if not setting.classes:
        return found, StoredTarget("y", "value", values)
    shares = np.r_[np.ones(setting.classes - 1), setting.rare]
    edges = np.quantile(values, np.cumsum(shares / shares.sum())[:-1])
    return found, StoredTarget("y", "label", np.digitize(values, edges), classes=tuple("abc"[: setting.classes]))


def part(losses: Losses, units: slice) -> Losses:
    """The losses of some units."""
    return Losses(losses.loss[:, units], losses.reference[:, units], losses.counts)


@dataclass
class Drawn:
    """Of one draw, intervals [set], the set that is chosen and what it shows, and what is gained on many [set]."""

    low: np.ndarray
    high: np.ndarray
    gain: np.ndarray
    shown: bool


def sets(setting: Setting, null: bool, rng: np.random.Generator) -> Drawn:
    """What the sets gain in one draw."""
    activations, target = draw(setting, null, rng)
    measure = TapSet()
    found = measure.compute(activations, target, 0)
    alone = LinearProbe().compute(activations, target, 0).assign_attrs(LinearProbe().declaration(target))
    own = losses_of(alone, "unit").at([[tap.name for tap in activations.taps].index(found.attrs["single"])])
    theirs = Losses(found["set_loss"].values, found["set_reference"].values, own.counts)
    few, many = slice(0, setting.test), slice(setting.test, None)
    gains = paired_differences(part(theirs, few), part(own, few), units_fitted(alone), 0, student=True)
    low, high = (np.array([getattr(gain, end) for gain in gains]) for end in ("low", "high"))
    gained = part(theirs, many).scores - part(own, many).scores
    chosen = found.attrs["chosen_set"]
    shown = chosen != "single" and low[found["set"].values.tolist().index(chosen)] > 0
    return Drawn(low, high, gained, bool(shown))


def curves(setting: Setting, rng: np.random.Generator) -> tuple[Drawn, Drawn]:
    """What few labels read in one draw, at a tap that holds nothing and at the best tap."""
    activations, target = draw(setting, null=True, rng=rng)
    truth = LabelEfficiency().compute(activations, target, 0)
    test = np.flatnonzero(activations.split == "test")
    few = activations.split.copy()
    few[test[len(test) - MANY * setting.size :]] = ""
    found = LabelEfficiency().compute(activations.with_other(split=few), target, 0)

    def at(tap: int) -> Drawn:
        one, known = found.isel(tap=tap), truth.isel(tap=tap)
        return Drawn(
            np.append(one["curve_low"].values, one["low"]),
            np.append(one["curve_high"].values, one["high"]),
            np.append(known["curve"].values, known["score"]),
            shown=False,
        )

    return at(0), at(1)


def coverage(draws: list[Drawn]) -> np.ndarray:
    """How often each interval holds the mean of what is known from many."""
    truth = np.mean([each.gain for each in draws], axis=0)
    return np.mean([(each.low <= truth) & (truth <= each.high) for each in draws], axis=0)


def main() -> None:
    """Print a row for each setting, and end with status 1 where a limit is missed by more than the simulation's own error."""
    held: list[bool] = []
    error = SLACK * np.sqrt(0.05 * 0.95 / DRAWS)
    for seed, setting in enumerate(SETTINGS):
        if WORDS and not any(word in setting.name for word in WORDS):
            continue
        rng = np.random.default_rng(seed)
        what = f"{setting.name}, {setting.test} test units"
        gains = coverage([sets(setting, null=False, rng=rng) for _ in range(DRAWS)])
        nothing, best = (coverage(list(of)) for of in zip(*(curves(setting, rng) for _ in range(DRAWS)), strict=True))
        print(f"{what}, label curves of a tap that holds nothing: {nothing.round(3).tolist()}")
        held.append(verdict(f"{what}, the same, lowest coverage", nothing.min(), LEAST - error, at_least=True))
        for name, shares in (("gains of sets", gains), ("label curves", best)):
            print(f"{what}, {name}: {shares.round(3).tolist()}")
            held += [
                verdict(f"{what}, {name}, lowest coverage", shares.min(), LEAST - error, at_least=True),
                verdict(f"{what}, {name}, mean coverage", shares.mean(), MOST),
            ]
        false = np.mean([sets(setting, null=True, rng=rng).shown for _ in range(DRAWS)])
        held.append(verdict(f"{what}, one tap holds all: a set is shown to gain", float(false), FALSE + error))
    finish(*held)


if __name__ == "__main__":
    main()

"""A planted encoder, in memory, whose whole answer is known.

At every tap it has one feature, which is the target and an error of a known size.

The planted probe reads that feature as it is, so that losses are the squared errors (of a class: whether the rounded
feature is another), and all that follows from them can be computed by hand. Beside it, planted losses and rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures.apply import against_control, measure_all
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes import protocol
from diagnostics.measures.statistics import Losses, score_draws
from diagnostics.runs.comparison.estimates import ProbeLosses, probe_losses
from diagnostics.runs.results.profile import Profile
from diagnostics.vocabulary import ChooseOn

# Of resamples; of the runs of a training.
SEED, SEEDS = 3, (0, 1, 2)
TAPS = ("embed", "middle", "late", "norm", "head", "last")
OUTPUT = 3
SPLIT = np.repeat(["train", "val", "test"], [80, 40, 80])
CONTROLS = ("fresh_weights", "fresh_weights.2", "raw_input", "shuffled_labels")


@dataclass(frozen=True)
class Planting:
    """A planted target.

    `errors` of the six taps, and of the controls at their only tap; how many samples of train, val and test know it;
    classes, if any. A `finding` is the verdict and the confidence that are planted.
    """

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
}


LOSSES_ON = {
    "unit": ("loss", "reference_loss"),
    "val_unit": ("val_loss", "val_reference"),
    "fit_unit": ("oof_loss", "oof_reference"),
}


class Planted(protocol.ClassOrValueProbe):
    """Reads the one feature of a tap as it is."""

    name, answers, source, kinds = "planted", "What was planted?", "checks/selftest", ("value", "label")

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        known = np.isfinite(target.values) if target.kind == "value" else target.values >= 0
        rows, wrong = protocol.rows_of(activations, target.name, known), target.kind == "label"
        read = np.stack([activations.pooled(tap.name)[:, 0] for tap in activations.taps])
        loss = (np.round(read) != target.values).astype(float) if wrong else (read - target.values) ** 2
        whole = (target.values * 0 + 1.0) if wrong else (target.values - target.values[rows.fit].mean()) ** 2
        test, val, fit = (
            Losses(
                loss[:, some], np.broadcast_to(whole, loss.shape)[:, some]
            )  # each sample is a unit of its own, in order
            for some in (rows.test, rows.val, np.sort(rows.fit))
        )
        extra = {"number": np.arange(len(read))} | ({"line_chance": np.full(len(read), 0.4)} if wrong else {})
        return protocol.probe_result(
            activations,
            rows,
            test.loss,
            reference=test.reference,
            val=val,
            extra=extra,
            functional="planted",
            centring="none",
            seed=seed,
            oof=fit if activations.choose_on == "fit" else None,
        )


class Drawn(Planted):
    """The same scores by draws of the units, in place of losses."""

    losses = "resampled"

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        data = super().read_out(activations, target, seed)
        for of in ("unit", "val_unit", "fit_unit"):
            if of in data.sizes:
                lost, whole = LOSSES_ON[of]
                data = data.assign({f"{lost.removesuffix('loss')}drawn": _draw(data[lost], data[whole])})
        return data.drop_vars(["depth", *(name for names in LOSSES_ON.values() for name in names)], errors="ignore")


def _draw(loss: xr.DataArray, reference: xr.DataArray) -> tuple[tuple[str, str], np.ndarray]:
    lost, whole = loss.values, reference.values
    return ("tap", "draw"), score_draws(lambda times: 1 - lost @ times / (whole @ times), loss[loss.dims[1]].values)


def truth(name: str) -> np.ndarray:
    """The target of the samples [sample], the same whoever encodes them."""
    planting = PLANTED[name]
    rng = np.random.default_rng([*map(ord, planting.of or name)])
    values = rng.integers(0, planting.classes, 200).astype(float) if planting.classes else rng.standard_normal(200)
    known = np.concatenate([np.arange(n) < m for n, m in zip((80, 40, 80), planting.known, strict=True)])
    return np.where(known, values, -1 if planting.classes else np.nan)


def encoder(name: str, errors: tuple[float, ...] = (), draw: int = 0, choose_on: ChooseOn = "fit") -> Arrays:
    """That of a target: errors that all taps share with others of their own."""
    rng, errors = np.random.default_rng([draw, *map(ord, name)]), errors or PLANTED[name].errors
    shared = rng.standard_normal(200)
    noise = [0.6 * shared + 0.8 * rng.standard_normal(200) for _ in errors]
    taps = TAPS if len(errors) == len(TAPS) else TAPS[OUTPUT : OUTPUT + 1]
    read = {tap: np.nan_to_num(truth(name)) + e * x for tap, e, x in zip(taps, errors, noise, strict=True)}
    made = Arrays({tap: values[:, None] for tap, values in read.items()}, SPLIT.tolist())
    made.taps = [
        replace(tap, depth=at / OUTPUT, part="head" if at > OUTPUT else "trunk") for at, tap in enumerate(made.taps)
    ]
    made.output_tap, made.choose_on, made.seed = TAPS[OUTPUT], choose_on, SEED
    return made


def target(name: str) -> dict[str, StoredTarget]:
    """The target as a run stores it, by its name."""
    own, values = PLANTED[name].of or name, truth(name)
    return {
        own: StoredTarget(own, "label", values.astype(int))
        if PLANTED[name].classes
        else StoredTarget(own, "value", values)
    }


@cache
def result(name: str, errors: tuple[float, ...] = (), draw: int = 0, choose_on: ChooseOn = "fit") -> xr.Dataset:
    """Result of measuring."""
    (data,) = measure_all([Planted()], encoder(name, errors, draw, choose_on), target(name)).results.values()
    return data


@cache
def profile(name: str, draw: int = 0, choose_on: ChooseOn = "fit") -> Profile:
    """The profile with its controls, each of one tap."""
    data, has_controls = result(name, (), draw, choose_on), draw == 0 or PLANTED[name].classes
    errors = dict(zip(CONTROLS, PLANTED[name].controls if has_controls else (), strict=False))
    others = {control: result(name, (error,), 7 + i) for i, (control, error) in enumerate(errors.items())}
    for control, other in others.items():
        data = against_control(data, other, control)
    return Profile.of("planted", PLANTED[name].of or name, data, others)


def without(data: xr.Dataset, words: str) -> xr.Dataset:
    """A result without the attributes whose names hold these words."""
    return data.drop_attrs(deep=False).assign_attrs(
        {key: value for key, value in data.attrs.items() if words not in key}
    )


def vary(name: str, variables: Mapping[str, Any] = {}, attrs: Mapping[str, Any] = {}, lacks: str = "none") -> Profile:
    """A planted profile with other variables and attributes, and without the attributes that name something."""
    return Profile("planted", name, without(profile(name).data, lacks).assign(variables).assign_attrs(attrs), {})


def runs_of(name: str, draws: Sequence[int] = SEEDS) -> list[ProbeLosses]:
    """The runs of a training: of each seed the planted encoder."""
    return [probe_losses(profile(name, draw)) for draw in draws]


def parts(units: int = 12) -> Losses:
    """Wrong answers and answers [tap, unit, part]: one part lies in two units and one in none; small numbers."""
    rng, at = np.random.default_rng(SEED), np.arange(units)
    whole = np.stack([1 + at % 3, np.where(at < 2, 2, 0), np.zeros(units, int), at % 4 // 2], axis=1)
    lost = rng.binomial(whole, np.array([0.2, 0.4, 0.6, 0.3])[:, None, None])
    return Losses(lost / 32, np.broadcast_to(whole, lost.shape) / 32)


# One and three right answers of four.
QUARTERS = Losses(np.array([[0.0, 1, 1, 1], [1, 0, 0, 0]]), np.ones((2, 4)), counts=True)


def digest(values: Any) -> float:
    """Of many values one number, which changes with each."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return float(np.cos(np.arange(len(flat))) @ flat)


def rows_in_groups(most: int) -> protocol.Rows:
    """Rows of train (12 groups), of val (6 groups) and one of test.

    They lie in groups of one to three rows, the first of `most`.
    """
    groups = np.repeat(np.arange(18), [most, *np.resize([1, 2, 3], 17).clip(max=most)])
    by_split = {"train": np.flatnonzero(groups < 12), "val": np.flatnonzero(groups >= 12), "test": np.array([0])}
    return protocol.Rows.of(by_split, np.array([f"{group:04}" for group in groups]))


# Of data for which the first fold prefers other penalties than all of them together.
RIDGE_SEED = 14


def ridge_data(most: int) -> tuple[protocol.Rows, np.ndarray, np.ndarray]:
    """Rows, features [tap, row, feature] and targets [row, target]; wide where all groups are of one row."""
    rows, rng = rows_in_groups(most), np.random.default_rng(RIDGE_SEED)
    x = rng.standard_normal((2, len(rows.fit), 30 if most == 1 else 3)) + 1
    return rows, x, x[0, :, :2] + rng.standard_normal((len(rows.fit), 2)) * [0.5, 3.0] + 2


def class_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that show the class of most rows, at the last tap of those outside the first fold.

    Features [tap, row, feature], labels, of which no other row has the last, and folds.
    """
    rng = np.random.default_rng(SEED)
    labels = np.append(rng.integers(0, 3, 89), 3)
    fold = np.resize([0, 1, 2, 3, 4, 1, 2], 90)
    shown = np.where(rng.random((2, 90)) < [[0.1], [0.3]], rng.integers(0, 4, (2, 90)), labels)
    x = np.eye(4)[shown][..., :3] + 0.1 * rng.standard_normal((2, 90, 3))
    misled = np.where((fold == 0)[:, None], np.roll(x[0], 7, axis=0), x[0])
    return np.stack([*x, misled]), labels, fold

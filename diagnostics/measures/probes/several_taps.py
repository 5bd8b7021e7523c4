"""Several taps read side by side: whether a set of them holds more than the tap that is used alone.

A set is read as a tap is: of its features side by side, and of as many as one tap has (their principal components on
train), since more features alone may read more. Sets are chosen as taps are, without test. Those of tokens come from
`dense_sets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import over_taps, samples
from diagnostics.measures.base import Arrays, Case, define, normal
from diagnostics.measures.probes.dense import Sums
from diagnostics.measures.probes.dense_sets import ClassSets, ValueSets, read_each, read_joined
from diagnostics.measures.probes.least_squares import principal_axes, refit, standardise
from diagnostics.measures.probes.linear import OWN, LinearProbe, OutOfFoldProbe
from diagnostics.measures.probes.protocol import ClassOrValueProbe
from diagnostics.measures.probes.samples import Task
from diagnostics.measures.probes.segmentation import SegmentationProbe
from diagnostics.measures.probes.tap_sets import (
    MOST,
    NARROW,
    TapsTogether,
    choose_greedily,
    leading,
    width_of_greedy,
)
from diagnostics.measures.result import (
    CENTRING,
    FUNCTIONAL,
    POOLING,
    REASON,
    SEED,
    UNITS_TRAIN,
    UNITS_VAL,
    N,
    choosing_losses,
    losses_of,
    store_interval,
    store_reasons,
    units_fitted,
)
from diagnostics.measures.statistics import Losses, scores
from diagnostics.measures.tap_choice import choose_tap
from diagnostics.measures.verdict import paired_differences
from diagnostics.vocabulary import SPLITS

SINGLE = "single"
ROUNDS, SMOOTH = 3, 0.1
"""Of fitting a readout and the weights of a sum in turn, and the penalty meanwhile."""


def _in_two_taps() -> xr.Dataset:
    """Two taps of one feature each, whose sum is the target."""
    x = normal(200, 2, seed=0)
    taps = Arrays({"a": x[:, :1], "b": x[:, 1:]}, np.resize(["train", "train", "train", "val", "test"], 200).tolist())
    return TapSet().compute(taps, StoredTarget("sum", "value", x.sum(axis=1)), 0)


class TapSet(ClassOrValueProbe):
    """Sets of taps beside the tap that is used alone: its `score` is that of each tap by itself.

    Along `set`: `set_score` with its interval, `set_gain` over the single tap with its interval, paired over test units,
    `set_width` in features, and which taps it holds, `member` [set, tap]. The attribute `chosen_set` is the set, or
    `single`, that the rule for taps chooses among all of them, without test; `gain` is what test says of it.

    - `greedy`: the tap used, and up to 3 more, each the one that adds most by the losses that choose, of the leading
      components of each tap; of 2, 3 and 4 the best.
    - `evenly_spaced` and `random`: 4 taps. `all`. Each also with the ending `.narrow`, at the width of the single tap.
    - `weighted_sum`: of standardised taps of one width, weights as they predict best on train.

    Of a dense target `greedy`, `evenly_spaced` (at the ends of the trunk's quarters), `last_4` and `all` (`joined`, where
    there are other taps), and their narrow ones, from sums of the tokens of at most 8 taps that are named before any is read: `joined`. The greedy choice
    then starts from the best of these.
    """

    name = "tap_set"
    answers = "Do several taps side by side hold more than the one that is used alone?"
    source = "weighted sum: SUPERB (Yang et al. 2021, 2105.01051); greedy forward choice"
    kinds = ("label", "value", "state", "future", "token_label", "token_value")
    streams = ("token_label", "token_value")
    standard = of_controls = False
    instead = "it reads several taps at once: fit a probe of your own on run.features([...])"
    known_answers = (
        Case("R2 of y = a + b, with a and b at a tap each: both side by side", 1, OWN, lambda: float(_in_two_taps()["set_score"].sel(set="greedy")), 1e-3),
        Case("the same: taps in the set that is chosen", 2, OWN, lambda: float(_in_two_taps()["member"].sel(set="greedy").sum())),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        if target.kind in self.streams:
            return self._read_tokens(activations, target, seed)
        depth = {tap.name: tap.depth for tap in activations.taps}
        upto = [tap for tap in activations.taps if tap.depth <= depth[activations.output_tap]]
        if len(upto) < 2:
            return self._nothing(activations, seed)
        alone = self.reader.read_out(activations, target, seed).assign_attrs(self.reader.declaration(target))
        at = self._choose_one(activations, target, alone)
        features = {tap.name: samples(activations.pooled(tap.name), f"Tap {tap.name} for {self.name}") for tap in upto}
        read, sets, reasons = self.read_sets(activations, target, features, activations.taps[at].name, seed)
        return self._result(activations, alone, at, read, sets=sets, reasons=reasons, seed=seed)

    def _read_tokens(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        """The result for a dense target."""
        sums = self.sums(target)
        dense = sums.rows(self.name, activations, target)
        if (second := sums.second(dense)) is None:
            return self._nothing(activations, seed)
        stated = self.declaration(target)
        alone = read_each(dense, sums, seed).assign_attrs(stated)
        read, sets = read_joined(*second, seed)
        found = self._result(
            activations,
            alone,
            self._choose_one(activations, target, alone),
            read.assign_attrs(stated),
            sets=sets,
            reasons=dense.attrs()["reasons"],
            seed=seed,
        )
        return found.assign_attrs(joined=[tap.name for tap in second[0].joined], tokens=alone.attrs["tokens"])

    def sums(self, target: StoredTarget) -> Sums:
        return ClassSets() if target.kind == "token_label" else ValueSets()

    def declaration(self, target: StoredTarget | None) -> dict[str, Any]:
        if target is not None and target.kind == "token_label":
            return SegmentationProbe().declaration(target)
        return super().declaration(target)

    def _choose_one(self, activations: Activations, target: StoredTarget, alone: xr.Dataset) -> int:
        """The index of the tap to use, by the rule for taps."""
        output = [tap.name for tap in activations.taps].index(activations.output_tap)
        choosing, depths = choosing_losses(alone), np.array([tap.depth for tap in activations.taps])
        choice = choosing and choose_tap(choosing, output, depths, None)
        if not choice:
            raise DiagnosticsError(
                f"{self.name} of {target.name} has no tap with a score to choose by.", code="too-few"
            )
        return choice.tap

    @property
    def reader(self) -> OutOfFoldProbe:
        """The linear probe, whose errors name this measure."""
        return define(OutOfFoldProbe, "_Reader", name=self.name)()

    def read_sets(
        self, activations: Activations, target: StoredTarget, features: Mapping[str, Tensor], single: str, seed: int
    ) -> tuple[xr.Dataset, Mapping[str, TapsTogether], Sequence[tuple[str, str]]]:
        """The result of a probe of each set as if it were a tap, the sets by name, and why others are missing.

        From the `features` [sample, feature] of each tap, of which the one called `single` is used alone.
        """
        probe = self.reader
        built, reasons = TapSets(features, probe.task(activations, target, seed)).build(single, seed, probe)
        there = activations.with_other(
            taps=[Tap(name, 1.0, "trunk", x.shape[1], Grid((1,), ("t",))) for name, (_, x) in built.items()],
            output_tap=next(iter(built)),
            ready={},
            pooled=lambda name: built[name][1].numpy(),
        )
        sets = {name: TapsTogether(taps, x.shape[1]) for name, (taps, x) in built.items()}
        return probe.read_out(there, target, seed).assign_attrs(probe.declaration(target)), sets, reasons

    def choosing(self, alone: xr.Dataset, read: xr.Dataset) -> tuple[Losses | None, Losses | None]:
        """The losses that choose, of each tap and of each set."""
        return choosing_losses(alone), choosing_losses(read)

    def _nothing(self, activations: Activations, seed: int) -> xr.Dataset:
        """The result without a second tap."""
        why = "there is no second tap up to the output to read beside it: run with more --taps"
        none = dict.fromkeys(("score", "low", "high"), np.full(len(activations.taps), np.nan))
        reasons = store_reasons((tap.name, why) for tap in activations.taps)
        stated = {FUNCTIONAL: "", POOLING: activations.pooling, CENTRING: "", REASON: reasons, SEED: seed}
        return over_taps(activations, none, stated)

    def _result(
        self,
        activations: Activations,
        alone: xr.Dataset,
        at: int,
        read: xr.Dataset,
        sets: Mapping[str, TapsTogether],
        reasons: Sequence[tuple[str, str]],
        seed: int,
    ) -> xr.Dataset:
        """The result from the probe of each tap `alone`, of which one is used, and of the sets, `read` as if taps."""
        taps, names = ([str(tap) for tap in data["tap"].values] for data in (alone, read))
        own, theirs, fit_units = losses_of(alone, "unit"), losses_of(read, "unit"), units_fitted(alone)
        gains = paired_differences(theirs, own.at([at]), fit_units, seed, student=True)
        of_taps, of_sets = self.choosing(alone, read)
        chosen = choose_set(of_taps, at, of_sets)
        ends = {"": "value", "_low": "low", "_high": "high"}
        by_set = dict(zip(("set_score", "set_low", "set_high"), theirs.intervals(fit_units, seed), strict=True))
        by_set |= {f"set_gain{end}": np.array([getattr(gain, of) for gain in gains]) for end, of in ends.items()}
        by_set["set_width"] = np.array([sets[name].width for name in names])
        axes = ("set", "unit", "part")[: theirs.loss.ndim]
        variables: dict[str, Any] = {
            **dict(zip(("score", "low", "high"), own.intervals(fit_units, seed), strict=True)),
            **{name: ("set", values) for name, values in by_set.items()},
            "member": (("set", "tap"), np.array([[tap in sets[name].taps for tap in taps] for name in names])),
            "set_loss": (axes, theirs.loss),
            "set_reference": (axes, theirs.reference),
        }
        stated = {
            FUNCTIONAL: f"{alone.attrs[FUNCTIONAL]}; gains are paired over test units",
            POOLING: alone.attrs[POOLING],
            CENTRING: "features standardised with the rows fitted, and before components are taken with train",
            "single": taps[at],
            "chosen_set": names[chosen] if chosen is not None else SINGLE,
            **(store_interval("gain", gains[chosen]) if chosen is not None else {}),
            REASON: store_reasons(reasons),
            N: sum(int(alone.attrs[f"n_{split}"]) for split in SPLITS),
            SEED: seed,
            **{key: alone.attrs[key] for key in (UNITS_TRAIN, UNITS_VAL)},
        }
        return over_taps(activations, variables, stated, set=names, unit=alone["unit"].values)


def choose_set(alone: Losses | None, at: int, read: Losses | None) -> int | None:
    """The set to use in place of the tap `at`, by the losses that choose; None for the tap.

    The best one, where it is ahead of the tap by more than one standard error, as the rule for taps asks of a tap and
    the output.
    """
    if alone is None or read is None:
        return None
    loss, reference = (
        np.concatenate([getattr(read, side), getattr(alone, side)[[at]]]) for side in ("loss", "reference")
    )
    last = len(loss) - 1
    choice = choose_tap(Losses(loss, reference, alone.counts), last, np.zeros(len(loss)), None)
    return None if choice is None or choice.tap == last else choice.tap


class TapSets:
    """Sets of taps for one task, from the `features` [sample, feature] of each, standardised on train.

    Where losses out of fold choose, on train and val, whose decompositions the probe has then.
    """

    def __init__(self, features: Mapping[str, Tensor], task: Task) -> None:
        self.task, self.train, self.features = task, task.rows.fit if task.whole else task.rows.train, features
        self.taps = {name: self._standardise(x) for name, x in features.items()}

    def _standardise(self, x: Tensor) -> Tensor:
        mean, scale, _ = standardise(x[self.train])
        return (x - mean) * scale

    def leading(self, x: Tensor, count: int) -> Tensor:
        """At most so many principal components of the standardised features, as `tap_sets.leading` turns them."""
        if x.shape[1] <= count:
            return x
        mean, scale, z = standardise(x[self.train])
        wide = len(z) < z.shape[1]
        values, axes = principal_axes((z.mT if wide else z)[None])
        values, axes, turn = leading(values[0], axes[0], count)
        if not wide:
            return ((x - mean) * scale) @ (axes @ turn)
        # Of the rows that gave the axes, these are the components.
        found, others = x.new_empty(len(x), len(turn)), np.delete(np.arange(len(x)), self.train)
        found[self.train] = (axes * values) @ turn
        found[others] = ((x[others] - mean) * scale @ z.mT) @ (axes / values @ turn)
        return found

    def join(self, taps: Sequence[str]) -> Tensor:
        """All features of some taps, side by side."""
        return torch.cat([self.taps[tap] for tap in taps], dim=1)

    def build(
        self, single: str, seed: int, probe: LinearProbe
    ) -> tuple[dict[str, tuple[Sequence[str], Tensor]], list[tuple[str, str]]]:
        """Taps and features of every set by its name, and reasons (set, reason) why one is missing."""
        names, width = list(self.taps), self.taps[single].shape[1]
        few = min(MOST, len(names))
        spaced = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, few).round().astype(int))]
        drawn = sorted(np.random.default_rng(seed).choice(len(names), few, replace=False))
        chosen = {
            "greedy": self.greedy(single, probe),
            "evenly_spaced": spaced,
            "random": [names[i] for i in drawn],
            "all": names,
        }
        sets: dict[str, tuple[Sequence[str], Tensor]] = {}
        for name, taps in chosen.items():
            joined = self.join(taps)
            for ending, x in (("", joined), (f".{NARROW}", self.leading(joined, width))):
                sets[f"{name}{ending}"] = taps, x
        if len({x.shape[1] for x in self.taps.values()}) > 1:
            return sets, [("weighted_sum", "taps have unequal numbers of features")]
        sets["weighted_sum"] = names, self.weighted_sum()
        return sets, []

    def greedy(self, single: str, probe: LinearProbe) -> list[str]:
        """The single tap and those that add most to it, by the losses that choose, of the leading components of each."""
        narrow = {name: self.leading(x, width_of_greedy(x.shape[1])) for name, x in self.features.items()}

        def score(taps: Sequence[str]) -> float:
            return self._score(probe, torch.cat([narrow[tap] for tap in taps], dim=1))

        return choose_greedily(list(self.taps), single, score)

    def _score(self, probe: LinearProbe, x: Tensor) -> float:
        """The score of features by the losses that choose."""
        task, choice = self.task, probe.choose(self.task, x[None])
        if choice.out_of_fold is None:
            lost, around = choice.val[0], task.reference_of(task.rows.train, task.rows.val)
        else:
            lost = choice.out_of_fold[0]
            around = np.ones_like(lost) if task.label else task.ridge.reference
        return float(scores(lost[None], around[None])[0])

    def weighted_sum(self) -> Tensor:
        """The sum of all taps with the weights of least squared error on train, none below 0.

        The weights are found in turn with a ridge readout of the sum; classes are read as 0 and 1.
        """
        from scipy.optimize import nnls

        x = torch.stack([each[self.train] for each in self.taps.values()])
        values = np.eye(len(self.task.numbers))[self.task.codes] if self.task.label else self.task.values
        y = torch.tensor(values[self.train], dtype=x.dtype)
        y = y - y.mean(dim=0)
        weights = torch.full((len(x),), 1 / len(x), dtype=x.dtype)
        for _ in range(ROUNDS):
            maps = refit(torch.einsum("t,tnd->nd", weights, x)[None], y, torch.full((1, 1), SMOOTH, dtype=x.dtype))[0]
            guesses = (x @ maps.left[0]).flatten(1)
            found = torch.from_numpy(nnls(guesses.mT.numpy(), y.flatten().numpy())[0])
            weights = found / found.sum() if found.sum() > 0 else weights
        return torch.einsum("t,tnd->nd", weights, torch.stack([*self.taps.values()]))

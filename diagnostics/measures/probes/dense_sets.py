"""Several taps side by side for a dense target, from sums of products of their tokens.

The sums of at most `MOST_JOINED` taps hold those of each set of them, so one pass serves all sets: the taps are named
before it. What is tried, the greedy choice and the narrow sets follow from the sums of the blocks that are fitted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.contract import Activations
from diagnostics.encoders.taps import Tap
from diagnostics.measures.arrays import eigh
from diagnostics.measures.probes.dense import (
    DenseRows,
    PathOf,
    Solved,
    Sums,
    TokenMap,
    Values,
    digest_of_bytes,
    penalty_errors,
    result_of_sums,
    solve_blocks,
    sum_blocks,
)
from diagnostics.measures.probes.least_squares import Moments, standardise_moments
from diagnostics.measures.probes.protocol import FOLDS
from diagnostics.measures.probes.segmentation import Classes
from diagnostics.measures.probes.stored_sums import join_taps, read_stored
from diagnostics.measures.probes.tap_sets import (
    MOST,
    NARROW,
    TapsTogether,
    choose_greedily,
    leading,
    width_of_greedy,
)

MOST_JOINED = 8
"""Taps of which sets are made: the sums grow with the square of their features."""
QUARTERS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the output's depth, at which dense heads read a trunk."""
DECOMPOSING, WORKING = 1.8e-10, 10
"""Seconds of a decomposition by the cube of the features, and matrices that it holds, as measured."""
WIDTH, MEMBER = "width", "member "


def evenly_spaced(taps: Sequence[Tap]) -> list[Tap]:
    """Those at the ends of the quarters of a trunk that ends with the last."""
    depth = np.array([tap.depth for tap in taps])
    return [taps[i] for i in sorted({int(np.abs(depth - share * depth[-1]).argmin()) for share in QUARTERS})]


def taps_upto(taps: Sequence[Tap], output: str) -> list[Tap]:
    """Those that are not behind the output."""
    depth = next((tap.depth for tap in taps if tap.name == output), 1.0)
    return [tap for tap in taps if tap.depth <= depth]


def joined_taps(taps: Sequence[Tap], output: str) -> tuple[Tap, ...]:
    """Of taps of tokens those that sets are made of, none behind the output: the last four, four spaced evenly, others."""
    upto = taps_upto(taps, output)
    if len(upto) < 2:
        return ()
    others = [upto[i] for i in np.linspace(0, len(upto) - 1, MOST_JOINED).round().astype(int)]
    wanted = {tap.name for tap in [*upto[-MOST:], *evenly_spaced(upto)]}
    for tap in others:
        wanted |= {tap.name} if len(wanted) < MOST_JOINED else set()
    return tuple(tap for tap in upto if tap.name in wanted)


def seconds_of_sets(features: int, held_out: int) -> float:
    """Seconds that one core takes, about, to solve the sets of taps of so many features together, of a target.

    As measured: those of decompositions, of all taps and of three sets of half of the features, without each block that
    is held out and for the narrow set.
    """
    return DECOMPOSING * (held_out + 1) * (1 + 3 / 2**3) * features**3


def bytes_of_sets(features: int) -> int:
    """Those of memory, about, that solving takes: the products of each block and what one decomposition holds."""
    return 8 * (FOLDS + WORKING) * features**2


class _SetSums(Sums):
    """Reads each tap, and, as a second readout of its own, the sets of those that are joined."""

    def second(self, dense: DenseRows) -> tuple[DenseRows, Sums] | None:
        if dense.joined or not (taps := joined_taps(dense.taps, dense.activations.output_tap)):
            return None
        name = f"joined-{digest_of_bytes(repr((dense.grid.shape, [tap.name for tap in taps])).encode())}"
        return replace(dense, joined=taps, reads=(name,)), self

    def solve_all(
        self, dense: DenseRows, tap: Tap, blocks: Mapping[int, Moments], held_out: Sequence[int], path_of: PathOf
    ) -> dict[str, Solved]:
        if not dense.joined:
            return super().solve_all(dense, tap, blocks, held_out, path_of)
        return _Joined(self, dense, blocks, held_out).solve()


class ValueSets(_SetSums, Values):
    """Sets for a value at every place."""


class ClassSets(_SetSums, Classes):
    """Sets for the class of every place."""


@dataclass(frozen=True)
class _Joined:
    """Sums of joined taps by block, and all sets of them."""

    sums: Sums
    dense: DenseRows
    blocks: Mapping[int, Moments]
    held_out: Sequence[int]

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Those of each tap among all."""
        ends = np.cumsum([tap.features for tap in self.dense.joined])
        return {tap.name: np.arange(end - tap.features, end) for tap, end in zip(self.dense.joined, ends, strict=True)}

    def axes(self, taps: Sequence[str], count: int) -> np.ndarray:
        """[feature, component] of at most so many principal components of the standardised features of some taps."""
        # Of train; of train and val where losses out of fold choose.
        of_taps = {block: self.part(moments, taps) for block, moments in self.blocks.items()}
        fitted = sum_blocks(of_taps, None if len(self.held_out) > 1 else 0)
        _, _, scale, squares, _ = standardise_moments(fitted)
        _, axes, turn = leading(*eigh(torch.from_numpy(squares)), count)
        return scale[:, None] * (axes @ turn).numpy()

    def part(self, moments: Moments, taps: Sequence[str]) -> Moments:
        """The sums of the features of some taps."""
        if len(taps) == len(self.columns):
            return moments
        at = np.concatenate([self.columns[tap] for tap in taps])
        return _turned(moments, lambda sums: sums[at], lambda sums: sums[np.ix_(at, at)])

    def solve(self) -> dict[str, Solved]:
        """The readout of each set, by its name."""
        names, features = list(self.columns), {tap.name: tap.features for tap in self.dense.joined}
        axes = {name: self.axes([name], width_of_greedy(count)) for name, count in features.items()}
        together = torch.block_diag(*map(torch.from_numpy, axes.values())).numpy()
        thin = {block: _project(moments, together) for block, moments in self.blocks.items()}
        at = np.repeat(np.arange(len(names)), [of.shape[1] for of in axes.values()])

        def score(taps: Sequence[str]) -> float:
            some = np.flatnonzero(np.isin(at, [names.index(tap) for tap in taps]))
            of = {
                b: _turned(m, lambda sums: sums[some], lambda sums: sums[np.ix_(some, some)]) for b, m in thin.items()
            }
            return -float(penalty_errors(of, self.held_out).min())

        first = max(names, key=lambda name: score([name]))
        axes_of_grid = len(self.dense.grid.shape)
        there = self.dense.activations
        alike = [tap for tap in there.taps if tap.grid.tokens > 1 and len(tap.grid.shape) == axes_of_grid]
        every = "all" if len(taps_upto(alike, there.output_tap)) == len(names) else "joined"
        chosen = {
            "greedy": choose_greedily(names, first, score),
            "evenly_spaced": [tap.name for tap in evenly_spaced(self.dense.joined)],
            f"last_{MOST}": names[-MOST:],
            every: names,
        }
        sets, done = dict[str, Solved](), dict[tuple[str, ...], tuple[Solved, Solved]]()
        for name, taps in chosen.items():
            if tuple(taps) not in done:
                done[tuple(taps)] = self.fit(taps, None), self.fit(taps, self.axes(taps, features[first]))
            sets[name], sets[f"{name}.{NARROW}"] = done[tuple(taps)]
        return sets

    def fit(self, taps: Sequence[str], axes: np.ndarray | None) -> Solved:
        """The readouts of a set, or of its components along axes, as maps of all features that are joined."""
        blocks = {block: self.part(moments, taps) for block, moments in self.blocks.items()}
        if axes is not None:
            blocks = {block: _project(moments, axes) for block, moments in blocks.items()}
        penalty, fits = solve_blocks(self.dense, self.sums, blocks, self.held_out)
        at, count = np.concatenate([self.columns[tap] for tap in taps]), sum(map(len, self.columns.values()))
        maps = dict[int | None, TokenMap]()
        for block, fit in fits.items():
            weights = np.zeros((count, fit.weights.shape[1]))
            weights[at] = fit.weights if axes is None else axes @ fit.weights
            rest = [moments for each, moments in self.blocks.items() if each != block]
            mean = sum(moments.x for moments in rest) / sum(moments.n for moments in rest) + rest[0].origin_x
            maps[block] = TokenMap(mean, weights, fit.bias, fit.numbers)
        width = len(at) if axes is None else axes.shape[1]
        return {"penalty": penalty, WIDTH: float(width), **{f"{MEMBER}{tap}": 1.0 for tap in taps}}, maps


def _turned(
    moments: Moments, one: Callable[[np.ndarray], np.ndarray], both: Callable[[np.ndarray], np.ndarray]
) -> Moments:
    """The sums of other features: `one` makes them of features [feature, ...], `both` of their products."""
    out = copy.copy(moments)
    out.origin_x, out.x, out.xy, out.xx = one(moments.origin_x), one(moments.x), one(moments.xy), both(moments.xx)
    return out


def _project(moments: Moments, axes: np.ndarray) -> Moments:
    """The sums of features @ axes [feature, component]."""
    return _turned(moments, lambda sums: axes.T @ sums, lambda sums: axes.T @ sums @ axes)


def read_each(dense: DenseRows, sums: Sums, seed: int) -> xr.Dataset:
    """The result of a probe of each tap, from sums whether its tokens are stored or streamed."""
    found, tokens = dense.streamed, "streamed"
    if found is None:
        found, tokens = join_taps(read_stored(dense, sums, tap) for tap in dense.taps), "stored"
    return result_of_sums(dense, sums, found, seed, tokens)


def read_joined(dense: DenseRows, sums: Sums, seed: int) -> tuple[xr.Dataset, dict[str, TapsTogether]]:
    """The result of a probe of each set of joined taps as if it were a tap, and taps and features of each set."""
    found = dense.streamed or read_stored(dense, sums, *dense.taps)
    sets = {
        name: TapsTogether([tap.name for tap in dense.joined if f"{MEMBER}{tap.name}" in of], int(of[WIDTH]))
        for name, of in found[0].items()
    }
    taps = [Tap(name, 1.0, "trunk", width, dense.grid) for name, (_, width) in sets.items()]
    there: Activations = dense.activations.with_other(taps=taps, output_tap=taps[0].name)
    of_sets = replace(dense, activations=there, joined=(), reads=tuple(sets))
    return result_of_sums(of_sets, sums, found, seed), sets

"""Similarity of all pairs of taps, within a run or between two runs, compared with chance.

The null: the samples of the second side are permuted, whole groups of them, all its taps alike, so that only what the
two sides share is gone. The most alike of all pairs gets reported, so each pair is compared with the most alike pair of
every permutation.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import samples
from diagnostics.measures.base import Measure
from diagnostics.measures.result import (
    ALIKE,
    CENTRING,
    FUNCTIONAL,
    NO_NULL,
    NULL,
    PERMUTATIONS,
    POOLING,
    REASON,
    SEED,
    TAU,
    N,
    store_reasons,
)
from diagnostics.measures.threads import one_thread

NULL_DRAWS = 99
"""Permutations of the null where a measure does not ask for another number."""
ALPHA = 0.05
"""The share of permutations whose most alike pair passes `tau`."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Swaps:
    """Samples that may take each other's places.

    Groups (videos, series, subjects) swap as wholes, so only with groups of their own size.

    `classes`: for each set of groups that may swap, their rows, int64 [group, member]. `swapped` names them in words,
    `never` says why none may ("": some may).
    """

    classes: tuple[np.ndarray, ...]
    swapped: str = "the samples"
    never: str = ""

    @property
    def rows(self) -> int:
        """All samples."""
        return sum(rows.size for rows in self.classes)

    @property
    def few(self) -> str:
        """The reason why there are too few permutations for a test ("" where there are enough)."""
        if self.never:
            return self.never
        if math.prod(math.factorial(min(len(rows), 20)) for rows in self.classes) >= round(1 / ALPHA):
            return ""
        count = sum(map(len, self.classes))
        return f"{count} groups of which only those of one size can be swapped leave too few permutations"

    def words(self, count: int) -> str:
        """The things that are permuted, as results state it."""
        if self.never:
            return f"none: {self.never}"
        fixed = sum(rows.size for rows in self.classes if len(rows) == 1)
        alone = f", {fixed} of {self.rows} samples have no group to swap with" if fixed else ""
        return f"{count} permutations of {self.swapped}{alone}; the most alike of all pairs of taps"


@dataclass(frozen=True)
class Null:
    """The most alike pair's value in each permutation [permutation], what was permuted, and why there is none."""

    extreme: np.ndarray
    words: str
    missing: str


def swaps(groups: np.ndarray) -> Swaps:
    """The samples that may be swapped, from the group of each [sample]."""
    unique, inverse, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    by_group = np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])
    classes = [np.stack([by_group[i] for i in np.flatnonzero(sizes == size)]) for size in np.unique(sizes)]
    return Swaps(tuple(classes), "the samples" if len(unique) == len(groups) else "whole groups of equal size")


def orders(classes: Swaps, count: int, seed: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """`count` random permutations int64 [sample] on a device."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        order = np.arange(classes.rows)
        for rows in classes.classes:
            order[rows] = rows[rng.permutation(len(rows))]
        yield torch.from_numpy(order).to(device)


def against_null(matrix: np.ndarray, null: Null, distance: bool) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """p and the calibrated value of each pair [tap, tap_other], and the attributes that describe the null.

    p = (1 + permutations at least as alike) / (1 + permutations); a pair passes `tau` where it is at most .05.
    """
    stated: dict[str, Any] = {NULL: null.words, PERMUTATIONS: len(null.extreme)}
    nothing = np.full(matrix.shape, np.nan)
    drawn = null.extreme[np.isfinite(null.extreme)]
    if null.missing or not len(drawn):
        return nothing, nothing.copy(), {**stated, NO_NULL: null.missing or "no pair has a value"}
    # Turned so that larger is more alike.
    sign = -1.0 if distance else 1.0
    ordered = np.sort(sign * drawn)
    tau = float(sign * ordered[min(len(drawn), math.ceil((1 - ALPHA) * (len(drawn) + 1))) - 1])
    # Permutations may be drawn in single precision, and one that moves nothing must count.
    slack = _ROUNDING * np.maximum(1.0, np.abs(matrix))
    reached = len(drawn) - np.searchsorted(ordered, sign * matrix - slack, side="left")
    p = np.where(np.isfinite(matrix), (1 + reached) / (1 + len(drawn)), np.nan)
    calibrated = (matrix - tau) / (1 - tau) if tau < 1 else nothing.copy()
    return p, calibrated, {**stated, TAU: tau}


Taps = Sequence[Any]
"""Taps of a side as `Similarity.prepare` gives them."""
FEWEST_WITH_TOKENS = 64
"""Samples with tokens from which tokens are compared; pooled activations, which all samples have, where there are
fewer.
"""


@dataclass(frozen=True)
class Side:
    """The rows of a run that take part, in the order in which they stand against the other side's."""

    activations: Activations
    rows: np.ndarray
    whole: bool
    """Whether all tokens of these rows are there to be read, and the measure reads them."""
    device: str
    """Where both sides are compared."""
    poolings: Sequence[str]
    """Those that are read, side by side, where tokens are not: those that both sides have."""

    def pooled(self, tap: str) -> np.ndarray:
        """float64 [sample, feature]: the first pooling."""
        return self.activations.pooled(tap, self.activations.poolings[0])[self.rows]

    @cached_property
    def kernel(self) -> Tensor:
        """float64 [sample, sample].

        Memory for the kernel of one tap that the next overwrites: fresh pages cost time.
        """
        return torch.empty(len(self.rows), len(self.rows), dtype=torch.float64, device=self.device)

    def blocks(self, tap: str) -> Iterator[np.ndarray]:
        """All features in blocks [sample, block].

        They are those of all tokens, as stored, where they are read, else of the poolings.
        """
        if not self.whole:
            for pooling in self.poolings:
                yield self.activations.pooled(tap, pooling)[self.rows]
            return
        first = len(self.rows) and np.array_equal(self.rows, np.arange(len(self.rows)))
        rows = slice(len(self.rows)) if first else self.rows
        for block in self.activations.feature_blocks(tap):
            yield block[rows]


class Similarity(Measure):
    """A function of two taps on the same samples. Final classes say what of a tap is compared, and how.

    `matrix` [tap, tap_other] with, against permuted samples, `p` [tap, tap_other] and the attribute `tau` (the value
    that the most alike pair of taps passes by chance once in 20 times), and `calibrated` (Groeger et al. 2026,
    2602.14486): (s - tau) / (1 - tau) where 1 is the most alike that two taps can be.

    Examples:
        >>> import diagnostics as dx
        >>> run = dx.open_run("runs/forecast")
        >>> (cka,) = run.similarity()
        >>> cka["matrix"].sel(tap="embed")[[0, 4]].values.round(2)  # embed, blocks.3
        array([1.  , 0.83])
        >>> round(cka.attrs["tau"], 2)
        0.06
    """

    family = "similarity"
    standard = False
    higher_is_better = None
    pairwise = True
    functional: ClassVar[str]
    centring: ClassVar[str]
    least: ClassVar[int]
    """Samples that it needs."""
    most_rows: ClassVar[int] = 2048
    """Samples that it reads at most, the first rows of a run, which are in random order."""
    distance: ClassVar[bool] = False
    """Whether smaller is more alike."""
    symmetric: ClassVar[bool] = True
    """Whether the two sides may be swapped."""
    permutations: ClassVar[int] = NULL_DRAWS
    """Permutations of the null; 0 for none."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Any:
        """The form in which a tap is compared, made once from float64 [sample, feature]; never changes x."""

    @abstractmethod
    def compare(self, a: Any, b: Any) -> float:
        """The value of a pair of prepared taps."""

    def permute(self, a: Any, order: Tensor) -> Any:
        """`prepare(x[order])` without preparing again; `order` int64 [sample].

        To be overridden where a prepared tap is not one row a sample.
        """
        return a[order]

    def reason(self, x: Tensor) -> str:
        """The reason why this tap has no value ("" where it has one): its row and its column are NaN."""
        return ""

    def attributes(self, n: int) -> Mapping[str, Any]:
        """Further attributes of a result from n samples."""
        return {}

    def swappable(self, groups: np.ndarray) -> Swaps:
        """The samples that the null may swap, from the group of each [sample]; `permute` is given no other orders."""
        return swaps(groups)

    def of_tap(self, side: Side, tap: str) -> tuple[Any, str]:
        """A tap prepared, and why it has no value ("" where it has one)."""
        x = samples(side.pooled(tap), f"Tap {tap} for {self.name}", self.least).to(side.device)
        why = self.reason(x)
        return (None, why) if why else (self.prepare(x), "")

    def pairs(self, firsts: Taps, seconds: Taps, upper: bool) -> np.ndarray:
        """`compare` of all pairs, [first, second]; where `upper`, only those with first <= second need a value.

        To be overridden where one product does all pairs.
        """
        matrix = np.full((len(firsts), len(seconds)), np.nan)
        for i, first in enumerate(firsts):
            for j in range(i if upper else 0, len(seconds)):
                matrix[i, j] = self.compare(first, seconds[j])
        return matrix

    def shuffle(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        """`pairs` for each order of the second side's samples.

        To be overridden where that is cheaper for all together.
        """
        for order in orders:
            yield self.pairs(firsts, [self.permute(second, order) for second in seconds], upper)

    def beside(self, firsts: Taps, seconds: Taps) -> Mapping[str, np.ndarray]:
        """Other numbers of all pairs, [first, second] each, to be given beside the matrix."""
        return {}

    def pooling(self, side: Side) -> str:
        """The features of a tap that it reads."""
        if self.needs == "pooled":
            return side.activations.poolings[0]
        if side.whole:
            return "none: all features of all tokens"
        kept = side.activations.token_samples
        why = f"only {kept} samples have tokens" if kept else "no tokens are kept"
        return f"{' and '.join(side.poolings)}{' side by side' if len(side.poolings) > 1 else ''} ({why})"

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        """All pairs of taps of one run."""
        count = activations.token_samples if self.needs == "tokens" else 0
        whole = count >= max(self.least, FEWEST_WITH_TOKENS)
        rows = np.arange(min(count if whole else len(activations.ids), self.most_rows))
        side = Side(activations, rows, whole, activations.device, activations.poolings)
        return self._result(side, side, seed)

    @one_thread()
    def between(
        self, activations: Activations, other: Activations, seed: int, most_rows: int | None = None
    ) -> xr.Dataset:
        """All pairs of a tap of one run and a tap of another, on the same samples in whatever order.

        At most `most_rows`, the first of the first run, where that is fewer than the measure's own limit.

        Raises DiagnosticsError where the ids of the samples are not the same, and where pooled activations are compared
        of which the two runs have no kind in common.
        """
        there = _places(activations, other, self.name)
        both = np.flatnonzero(there[: activations.token_samples] < other.token_samples)
        whole = self.needs == "tokens" and len(both) >= max(self.least, FEWEST_WITH_TOKENS)
        rows = (both if whole else np.arange(len(there)))[: min(self.most_rows, most_rows or self.most_rows)]
        poolings = [name for name in activations.poolings if name in other.poolings]
        if self.needs == "tokens" and not whole and not poolings:
            own = ", the other ".join(" and ".join(side.poolings) for side in (activations, other))
            raise DiagnosticsError(
                f"{self.name} compares samples that are pooled alike where fewer than {FEWEST_WITH_TOKENS} have "
                f"tokens, and one run holds {own}: run both with one --pooling, or with a larger --token-budget.",
                code="not-comparable",
            )
        first = Side(activations, rows, whole, activations.device, poolings)
        return self._result(first, Side(other, there[rows], whole, activations.device, poolings), seed)

    def _result(self, first: Side, second: Side, seed: int) -> xr.Dataset:
        n, same = len(first.rows), first is second
        if n < self.least:
            raise DiagnosticsError(
                f"{self.name} compares at least {self.least} samples, and there are {n}: use more.", code="too-few"
            )
        prepared, why = self._prepare(first)
        prepared_other, why_other = (prepared, why) if same else self._prepare(second)
        shape = len(prepared), len(prepared_other)
        use, use_other = ([i for i, tap in enumerate(m) if tap is not None] for m in (prepared, prepared_other))
        ones = [prepared[i] for i in use]
        # One list where the sides are one: what would be made of both is then made once.
        others = ones if same else [prepared_other[i] for i in use_other]
        upper = same and self.symmetric
        if ones and others:
            values = self.pairs(ones, others, upper)
            values = np.triu(values) + np.triu(values, 1).T if upper else values
            values_of_pairs = {"matrix": values, **self.beside(ones, others)}
        else:
            values_of_pairs = {"matrix": np.empty((len(ones), len(others)))}
        variables: dict[str, Any] = {}
        for name, values in values_of_pairs.items():
            everywhere = np.full(shape, np.nan)
            everywhere[np.ix_(use, use_other)] = values
            variables[name] = (("tap", "tap_other"), everywhere)
        matrix = variables["matrix"][1]
        pooling, other_pooling = self.pooling(first), self.pooling(second)
        if pooling != other_pooling:
            pooling = f"{pooling} in the first run, {other_pooling} in the second"
        attrs: dict[str, Any] = {
            FUNCTIONAL: self.functional,
            POOLING: pooling,
            CENTRING: self.centring,
            ALIKE: "smaller" if self.distance else "larger",
            N: n,
            SEED: seed,
            **self.attributes(n),
        }
        of_runs = [(why, "")] if same else [(why, " of the first run"), (why_other, " of the second")]
        reasons = {f"{tap}{run}": reason for of_run, run in of_runs for tap, reason in of_run.items()}
        if reasons:
            attrs[REASON] = store_reasons(reasons.items())
        if self.permutations:
            null = self._null(first, ones, others, same, seed)
            p, calibrated, stated = against_null(matrix, null, self.distance)
            if same:
                # A tap is no finding about itself.
                np.fill_diagonal(p, np.nan)
            variables["p"] = (("tap", "tap_other"), p)
            if not self.distance:
                variables["calibrated"] = (("tap", "tap_other"), calibrated)
            attrs |= stated
        coords = {**_axis("tap", "depth", first), **_axis("tap_other", "depth_other", second)}
        return xr.Dataset(variables, coords=coords, attrs=attrs)

    def _prepare(self, side: Side) -> tuple[list[Any], dict[str, str]]:
        taps = {tap.name: self.of_tap(side, tap.name) for tap in side.activations.taps}
        vars(side).pop("kernel", None)  # of which the null needs nothing
        reasons = {tap: reason for tap, (_, reason) in taps.items() if reason}
        return [None if reason else prepared for prepared, reason in taps.values()], reasons

    def _null(self, side: Side, ones: Sequence[Any], others: Sequence[Any], same: bool, seed: int) -> Null:
        classes = self.swappable(side.activations.groups[side.rows])
        words = classes.words(self.permutations)
        extreme = np.full(self.permutations, np.nan)
        if not (ones and others) or (same and len(ones) < 2):
            return Null(extreme, words, "there is no pair of taps")
        if classes.few:
            return Null(extreme, words, classes.few)
        upper = same and self.symmetric
        keep = np.ones((len(ones), len(others)), dtype=bool)
        if same:
            keep = np.triu(keep, 1) if upper else ~np.eye(len(ones), dtype=bool)
        drawn = orders(classes, self.permutations, seed, torch.device(side.device))
        for i, values in enumerate(self.shuffle(ones, others, drawn, upper)):
            known = values[keep & np.isfinite(values)]
            if known.size:
                extreme[i] = known.min() if self.distance else known.max()
        return Null(extreme, words, "")


def _axis(name: str, depth: str, side: Side) -> dict[str, Any]:
    taps = side.activations.taps
    return {name: [tap.name for tap in taps], depth: (name, [float(tap.depth) for tap in taps])}


def _places(first: Activations, second: Activations, measure: str) -> np.ndarray:
    """The row of `second` that holds the sample of each row of `first`."""
    where = {str(name): row for row, name in enumerate(second.ids)}
    ids = [str(name) for name in first.ids]
    missing, surplus = [name for name in ids if name not in where], set(where) - set(ids)
    if missing or surplus:
        example = missing[0] if missing else min(surplus)
        raise DiagnosticsError(
            f"{measure} compares the same samples, but {len(missing)} of the {len(ids)} in the first run are not in the "
            f"second and {len(surplus)} of the {len(where)} in the second not in the first (for example {example}): "
            f"extract both from the same dataset.",
            code="not-comparable",
        )
    if not len(where) == len(second.ids) or len(set(ids)) != len(ids):
        raise DiagnosticsError(
            f"{measure} finds two samples with one id in a run: samples cannot be matched by id.", code="duplicate"
        )
    return np.array([where[name] for name in ids], dtype=np.int64)

"""Losses of probes by independent unit, and estimates for groups of runs, with intervals over units and training seeds.

Two things vary: which samples were tested, and which seed trained the encoder. Samples are resampled, the same ones for
all runs, so that differences are paired. A few seeds cannot be resampled (a bootstrap of three is far too narrow), so
the variance between them is estimated and added, with the degrees of freedom of Welch and Satterthwaite: with three
seeds a side the t quantile is about 2.8 and not 1.96. Seed variance seen on the same test samples holds the interaction
of seed and sample too, which the resampling counts once more: the interval errs on the wide side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import special

from diagnostics.measures.result import LOSSES, units_fitted
from diagnostics.measures.statistics import (
    LEVEL,
    Interval,
    Resamples,
    effective_units,
    interval,
    resample_scores,
    scores,
)
from diagnostics.runs.results.profile import Profile


@dataclass(frozen=True, eq=False)
class Term:
    """The losses of one probe of one run at one place, and what stands against them: float64 [unit, part] each.

    `fit_units`: independent units that the probe was fitted on. `share`: whether losses count wrong answers, see
    `diagnostics.measures.statistics.resample_scores`.
    """

    loss: np.ndarray
    reference: np.ndarray
    units: tuple[str, ...]
    fit_units: int
    share: bool = False
    _drawn: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict[tuple[int, int, int], np.ndarray])

    @property
    def score(self) -> float:
        """1 - sum of losses / sum of references, averaged over parts."""
        return scores(self.loss[None], self.reference[None]).item()

    def draws(self, names: Sequence[str], seed: int, stream: int) -> np.ndarray:
        """The score in each resample of the units `names`, of which it has all or some: [resample]."""
        key = hash(tuple(names)), seed, stream
        if key not in self._drawn:
            at = {name: i for i, name in enumerate(names)}
            counts = Resamples(len(names), seed, columns=[at[name] for name in self.units])
            self._drawn[key] = resample_scores(self.loss[None], self.reference[None], counts, seed, self.share, stream)[
                :, 0
            ]
        return self._drawn[key]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over test units alone and, where every group in it has two seeds or more, over both.

    `p` is of the test that the number is 0, by the interval to believe: below 0.05 just where that leaves out 0. NaN
    where there is no interval.
    """

    over_samples: Interval
    over_both: Interval | None
    p: float

    @property
    def value(self) -> float:
        """The number itself."""
        return self.over_samples.value

    @property
    def interval(self) -> Interval:
        """The interval to believe: over seeds too where they are known."""
        return self.over_both or self.over_samples


def estimate(
    combine: Callable[[np.ndarray], np.ndarray],
    terms: Sequence[Term],
    members: Sequence[Sequence[float]],
    seed: int,
) -> Estimate:
    """A function of the scores of terms, with its intervals.

    Parameters
    ----------
    combine: scores [..., term] -> the number [...]; smooth.
    members: for each independent set of seeds, what each seed adds to the number: its spread is the variance of one
    seed.
        Sets of one seed have no variance to see; then there is no interval over seeds.
    """
    names = list(dict.fromkeys(name for term in terms for name in term.units))
    at = np.array([term.score for term in terms])
    value = float(_without_rounding(combine(at), at))
    # A term that comes twice is the same both times.
    streams = {id(term): stream for stream, term in enumerate({id(term): term for term in terms}.values())}
    drawn = np.stack([term.draws(names, seed, streams[id(term)]) for term in terms], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        replicates = _without_rounding(combine(drawn), drawn)
        # A ratio may meet a denominator of 0 in a resample.
        replicates = np.where(np.isfinite(replicates), replicates, np.nan)
    units = len(names)
    fit_units = min(term.fit_units for term in terms)
    effective = min(effective_units(term.reference[None], term.share) for term in terms)
    low, high = interval(value, replicates, units, fit_units, effective)
    samples = Interval(value, float(low), float(high))
    if not all(math.isfinite(float(number)) for number in (value, low, high)):
        return Estimate(samples, None, float("nan"))
    freedom = min(effective, units) - 1
    ends = samples
    both: Interval | None = None
    if members and all(len(spread) > 1 for spread in members):
        below, freedom_below = _with_seeds(value - samples.low, freedom, members)
        above, freedom_above = _with_seeds(samples.high - value, freedom, members)
        ends = both = Interval(value, value - below, value + above)
        freedom = freedom_below if value > 0 else freedom_above
    return Estimate(samples, both, _p(value, ends, freedom, units))


Part = tuple[Term, ...]
"""A term, or a term and the one that is subtracted from it."""


def part_score(part: Part) -> float:
    """The score of the first term minus that of the second, where there is one."""
    return part[0].score - sum(term.score for term in part[1:])


def part_weights(parts: Sequence[Part], weight: float = 1.0) -> np.ndarray:
    """Of each term in a mean of parts, [term], times `weight`."""
    return np.array([weight * sign / len(parts) for part in parts for sign in (1.0, -1.0)[: len(part)]])


def estimate_sum(
    groups: Sequence[tuple[Sequence[Part], float]],
    seed: int,
    members: Sequence[Sequence[float]] | None = None,
) -> Estimate:
    """The sum over groups of (mean of a group's parts, times its weight).

    `members` as of `estimate`, where by default each group is a set of seeds. No score passes 1, and none that is a
    share of right answers 0, so intervals stop there.
    """
    weights = np.concatenate([part_weights(parts, weight) for parts, weight in groups])
    terms = [term for parts, _ in groups for part in parts for term in part]
    if members is None:
        members = [[part_score(part) for part in parts] for parts, _ in groups]
    made = estimate(lambda x: x @ weights, terms, members, seed)
    shares, least, most = all(term.share for term in terms), weights.clip(max=0).sum(), weights.clip(min=0).sum()

    def within(ends: Interval) -> Interval:
        low = max(ends.low, least) if shares else ends.low
        return Interval(ends.value, low, min(ends.high, most) if shares or least == 0 else ends.high)

    return replace(made, over_samples=within(made.over_samples), over_both=made.over_both and within(made.over_both))


def _without_rounding(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Set to 0 what rounding alone leaves of terms that cancel, a tap minus itself say."""
    return np.where(np.abs(values) < 1e-12 * np.maximum(1.0, np.abs(of).max(axis=-1)), 0.0, values)


def _with_seeds(reach: float, freedom: float, members: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Reach of an interval over samples and seeds, from how far it does over samples.

    And its degrees of freedom.

    Each side has a standard error of its own, since scores like R2 are skewed; the variance between seeds is added to
    its square (Welch 1947; Satterthwaite 1946).
    """
    samples = (max(reach, 0.0) / _quantile(freedom)) ** 2
    seeds = [(float(np.var(spread, ddof=1)) / len(spread), len(spread) - 1) for spread in members]
    total = samples + sum(each for each, _ in seeds)
    under = sum(each**2 / degrees for each, degrees in [(samples, freedom), *seeds])
    joint = total**2 / under if under > 0 else freedom
    return _quantile(joint) * total**0.5, joint


def _quantile(freedom: float) -> float:
    return float(special.stdtrit(freedom, 0.5 + LEVEL / 2))


def _p(value: float, ends: Interval, freedom: float, units: int) -> float:
    """Two-sided.

    The t test whose standard error is how far the interval reaches towards 0, so that both say the same.
    """
    reach = value - ends.low if value > 0 else ends.high - value
    if value == 0:
        return 1.0
    if reach <= 0:
        # All units say the same. Then what is known is the sign test's.
        return 2.0 ** (1 - units)
    return float(2 * special.stdtr(freedom, -abs(value) / reach * _quantile(freedom)))


def holm(p: np.ndarray) -> np.ndarray:
    """p values that hold for all of them together (Holm 1979), in the order given; NaN, which are no tests, stay."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]), 1.0)
    return adjusted


FLIPS = 1999


def sign_flip_p(
    differences: Sequence[np.ndarray], units: Sequence[Sequence[str]], fit_units: Sequence[int], seed: int
) -> list[np.ndarray]:
    """p of many differences at once, corrected for having looked at all of them, [row] for each of `differences`.

    Parameters
    ----------
    differences: each [row, unit], what every test unit adds to a difference.
    units: names of the units of each; what has one name is flipped together.
    fit_units: units that the probes of each were fitted on; a t is lessened by the training set's share as intervals
    are
        widened for it. 0 where nothing was fitted.

    If two encoders were alike, a unit's differences could as well have the other sign, in all rows at once; the t of
    each row is held against the largest t of all rows over random flips (max-T: Westfall and Young 1993). The t is by
    the root of the sum of squares, which flips do not change. NaN where a row has no value; 1 where there is no
    difference at all.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(name for each in units for name in each))}
    signs = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(names))) * 2.0 - 1
    most = np.zeros(FLIPS)
    scaled: list[np.ndarray] = []
    for x, own in zip(differences, units, strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            x = x / np.sqrt((x**2).sum(axis=1))[:, None]
        scaled.append(x)
        known = np.isfinite(x).all(axis=1)
        if known.any() and len(own) > 1:
            drawn = np.abs(signs[:, [names[name] for name in own]] @ x[known].T)
            most = np.maximum(most, drawn.max(axis=1))
    most = np.sort(most)
    corrected: list[np.ndarray] = []
    for x, whole, own, fitted in zip(scaled, differences, units, fit_units, strict=True):
        seen = np.abs(x.sum(axis=1)) / (math.sqrt(1 + len(own) / fitted) if fitted else 1.0)
        # What is equal but for rounding is as large.
        passed = FLIPS - np.searchsorted(most, seen - 1e-12)
        p = np.where(np.isfinite(seen), (1 + passed) / (FLIPS + 1), np.where((whole == 0).all(axis=1), 1.0, np.nan))
        corrected.append(p if len(own) > 1 else np.full(len(p), np.nan))
    return corrected


SAME = 1e-6
"""Depths closer than this are one."""


@dataclass(frozen=True, eq=False)
class ProbeLosses:
    """One probe of one run. Units are sorted by name, so that those of two runs on the same data correspond.

    loss, reference: float64 [tap, unit, part]; depths: [tap].
    """

    loss: np.ndarray
    reference: np.ndarray
    depths: np.ndarray
    taps: tuple[str, ...]
    units: tuple[str, ...]
    chosen: int | None
    """The tap to use; None where no tap has a value."""
    best: int | None
    """The best tap other than the output."""
    output: int
    fit_units: int
    profile: Profile
    share: bool = False
    """Losses count wrong answers."""
    _terms: dict[int | None, Term] = field(default_factory=dict[int | None, Term])

    def at(self, tap: int | None) -> Term:
        """Loss and reference at a tap, one and the same term whenever asked; NaN where there is none."""
        if tap not in self._terms:
            nothing = np.full_like(self.loss[self.output], np.nan)
            loss, reference = (nothing, np.ones_like(nothing)) if tap is None else (self.loss[tap], self.reference[tap])
            self._terms[tap] = Term(loss, reference, self.units, self.fit_units, self.share)
        return self._terms[tap]

    @property
    def at_chosen(self) -> Term:
        """At the tap to use."""
        return self.at(self.chosen)

    @property
    def at_best(self) -> Term:
        """At the best tap other than the output; at the output where there is none, which hides nothing then."""
        return self.at(self.output if self.best is None else self.best)

    @property
    def at_output(self) -> Term:
        """At the output tap."""
        return self.at(self.output)

    @cached_property
    def ends(self) -> tuple[Term, Term] | None:
        """At the trunk's last tap and at the head's last; None where one of them is not there."""
        trunk, head = (np.flatnonzero(part) for part in (self.depths <= 1 + SAME, self.depths > 1 + SAME))
        return (self.at(int(trunk[-1])), self.at(int(head[-1]))) if trunk.size and head.size else None

    @cached_property
    def common_reference(self) -> np.ndarray | None:
        """The reference [unit, part] that all taps with a value share.

        None where each has its own (a union of regions).
        """
        known = np.flatnonzero(np.isfinite(self.reference).all(axis=(1, 2)))
        if not known.size:
            return None
        first = self.reference[known[0]]
        return first if np.allclose(self.reference[known], first, rtol=1e-9, atol=0) else None


def near(reference: np.ndarray, other: np.ndarray) -> bool:
    """True if two references are the same but for rounding."""
    return reference.shape == other.shape and np.allclose(reference, other, rtol=1e-9, atol=0)


def probe_losses(profile: Profile) -> ProbeLosses:
    """The losses behind a probe's profile."""
    data = profile.data.sortby("unit")
    loss, reference = (data[name].transpose("tap", "unit", ...).values for name in ("loss", "reference_loss"))
    loss, reference = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (loss, reference))
    taps = tuple(str(tap) for tap in data["tap"].values)
    return ProbeLosses(
        loss,
        reference,
        data["depth"].values.astype(np.float64),
        taps=taps,
        units=tuple(str(unit) for unit in data["unit"].values),
        chosen=None if profile.chosen_tap is None else taps.index(profile.chosen_tap),
        best=None if profile.best_tap is None else taps.index(profile.best_tap),
        output=taps.index(profile.output_tap),
        fit_units=units_fitted(data),
        profile=profile,
        share=data.attrs[LOSSES] == "counts",
    )


def by_depth(values: np.ndarray, own: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Values [tap, ...] at depths `own` [tap], on an axis of depths that several runs share: [depth, ...].

    Between two taps of the trunk a straight line is drawn: a score is linear in the losses, so that it makes no
    difference which of the two is drawn so. Beyond the trunk (depth over 1) only a tap that stands just there counts,
    and outside of the taps there is nothing (NaN). Of taps at one depth, as a last block and the norm after it, the
    later one counts.
    """
    # The last tap at each depth, by ascending depth.
    last = {round(float(depth) / SAME): i for i, depth in enumerate(own)}
    at = [last[key] for key in sorted(last)]
    trunk = [i for i in at if own[i] <= 1.0]
    places = own[trunk]
    filled = np.full((len(depths), *values.shape[1:]), np.nan)
    for row, depth in enumerate(depths):
        exact = next((i for i in at if abs(own[i] - depth) < SAME), None)
        if exact is not None:
            filled[row] = values[exact]
        elif len(places) and places[0] < depth < places[-1]:
            right = int(np.searchsorted(places, depth))
            share = (depth - places[right - 1]) / (places[right] - places[right - 1])
            filled[row] = (1 - share) * values[trunk[right - 1]] + share * values[trunk[right]]
    return filled


def common_depths(all_depths: list[np.ndarray]) -> np.ndarray:
    """The depths at which any of the runs has a tap, ascending."""
    depths: list[float] = []
    for depth in np.sort(np.concatenate(all_depths)):
        if not depths or depth - depths[-1] > SAME:
            depths.append(float(depth))
    return np.array(depths)

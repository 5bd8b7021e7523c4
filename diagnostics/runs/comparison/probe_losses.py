"""Losses of one probe of one run by independent unit, arranged for comparison between runs."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from diagnostics.measures.result import LOSSES, units_fitted
from diagnostics.runs.comparison.estimates import Term
from diagnostics.runs.profile import Profile

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
            nothing = np.full(self.loss.shape[1:], np.nan)
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
        """The reference [unit, part] that all taps with a value share; None where each has its own (a union of regions)."""
        known = np.flatnonzero(np.isfinite(self.reference).all(axis=(1, 2)))
        if not known.size:
            return None
        first = self.reference[known[0]]
        return first if np.allclose(self.reference[known], first, rtol=1e-9, atol=0) else None


def near(reference: np.ndarray, other: np.ndarray) -> bool:
    """Whether two references are the same but for rounding."""
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
        taps,
        tuple(str(unit) for unit in data["unit"].values),
        None if profile.chosen_tap is None else taps.index(profile.chosen_tap),
        None if profile.best_tap is None else taps.index(profile.best_tap),
        taps.index(profile.output_tap),
        units_fitted(data),
        profile,
        data.attrs[LOSSES] == "counts",
    )


def by_depth(values: np.ndarray, own: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Values [tap, ...] at depths `own` [tap], on an axis of depths that several runs share: [depth, ...].

    Between two taps of the trunk a straight line is drawn: a score is linear in the losses, so that it makes no difference
    which of the two is drawn so. Beyond the trunk (depth over 1) only a tap that stands just there counts, and outside of
    the taps there is nothing (NaN). Of taps at one depth, as a last block and the norm after it, the later one counts.
    """
    # The last tap at each depth, by ascending depth.
    last = {round(float(depth) / SAME): i for i, depth in enumerate(own)}
    at = [last[key] for key in sorted(last)]
    trunk = [i for i in at if own[i] <= 1.0]
    places = own[trunk]
    filled = np.full((len(depths), *values.shape[1:]), np.nan)
    for row, depth in enumerate(depths):
        exact = [i for i in at if abs(own[i] - depth) < SAME]
        if exact:
            filled[row] = values[exact[0]]
        elif len(places) and places[0] < depth < places[-1]:
            right = int(np.searchsorted(places, depth))
            share = (depth - places[right - 1]) / (places[right] - places[right - 1])
            filled[row] = (1 - share) * values[trunk[right - 1]] + share * values[trunk[right]]
    return filled


def shared_depths(all_depths: list[np.ndarray]) -> np.ndarray:
    """The depths at which any of the runs has a tap, ascending."""
    depths: list[float] = []
    for depth in np.sort(np.concatenate(all_depths)):
        if not depths or depth - depths[-1] > SAME:
            depths.append(float(depth))
    return np.array(depths)

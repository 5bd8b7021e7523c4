"""What one run's probe found, laid out so that runs can be held against each other: losses by independent unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagnostics.profiles import Profile


@dataclass(frozen=True)
class Readout:
    """One probe of one run. Units are sorted by name, so that those of two runs on the same data correspond.

    loss: float64 [tap, unit, part]; reference: [unit, part], the same at every tap; depths: [tap].
    """

    loss: np.ndarray
    reference: np.ndarray
    depths: np.ndarray
    taps: tuple[str, ...]
    units: tuple[str, ...]
    best: int | None
    """The tap that val chose; None where no tap has a value."""
    output: int
    fit_units: int

    @property
    def at_best(self) -> np.ndarray:
        """Loss at the tap that val chose, [unit, part]; NaN where there is none."""
        return self.loss[self.best] if self.best is not None else np.full_like(self.reference, np.nan)

    @property
    def at_output(self) -> np.ndarray:
        """Loss at the output tap, [unit, part]."""
        return self.loss[self.output]


def readout(profile: Profile) -> Readout:
    """The losses behind a probe's profile."""
    data = profile.data.sortby("unit")
    loss, reference = (data[name].transpose("tap", "unit", ...).values for name in ("loss", "reference_loss"))
    loss, reference = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (loss, reference))
    # A tap that cannot be probed has no reference of its own.
    known = np.isfinite(reference).all(axis=(1, 2))
    taps = tuple(str(tap) for tap in data["tap"].values)
    return Readout(
        loss,
        reference[int(np.argmax(known))],
        data["depth"].values.astype(np.float64),
        taps,
        tuple(str(unit) for unit in data["unit"].values),
        taps.index(profile.best_tap) if profile.best_tap is not None else None,
        taps.index(profile.output_tap),
        int(data.attrs["units_train"] + data.attrs["units_val"]),
    )


def losses_by_depth(found: Readout, depths: np.ndarray) -> np.ndarray:
    """Loss [depth, unit, part] on an axis of depths that several runs share.

    Between two taps of the trunk it is drawn as a straight line, and so is the score, which is linear in the loss. Beyond
    the trunk (depth over 1) only a tap that stands just there counts, and outside of the taps there is nothing (NaN). Of
    taps at one depth, as a last block and the norm after it, the later one counts.
    """
    at = _one_by_depth(found.depths)
    trunk = [i for i in at if found.depths[i] <= 1.0]
    filled = np.full((len(depths), *found.reference.shape), np.nan)
    own = found.depths[trunk]
    for row, depth in enumerate(depths):
        exact = [i for i in at if abs(found.depths[i] - depth) < SAME]
        if exact:
            filled[row] = found.loss[exact[0]]
        elif len(own) and own[0] < depth < own[-1]:
            right = int(np.searchsorted(own, depth))
            share = (depth - own[right - 1]) / (own[right] - own[right - 1])
            filled[row] = (1 - share) * found.loss[trunk[right - 1]] + share * found.loss[trunk[right]]
    return filled


SAME = 1e-6
"""Depths closer than this are one."""


def values_by_depth(values: np.ndarray, own: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """As `losses_by_depth`, for any number of each tap: [depth] from values and depths [tap]."""
    stand_in = Readout(values[:, None, None], np.ones((1, 1)), own, tuple(map(str, range(len(own)))), ("",), None, 0, 0)
    return losses_by_depth(stand_in, depths)[:, 0, 0]


def shared_depths(all_depths: list[np.ndarray]) -> np.ndarray:
    """The depths at which any of the runs has a tap, ascending."""
    found: list[float] = []
    for depth in np.sort(np.concatenate(all_depths)):
        if not found or depth - found[-1] > SAME:
            found.append(float(depth))
    return np.array(found)


def _one_by_depth(depths: np.ndarray) -> list[int]:
    """The last tap at each depth, by ascending depth."""
    last: dict[int, int] = {}
    for i, depth in enumerate(depths):
        last[round(float(depth) / SAME)] = i
    return [last[key] for key in sorted(last)]

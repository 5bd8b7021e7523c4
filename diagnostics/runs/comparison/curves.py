"""All profiles of all runs on one axis of relative depth, heads beyond 1, as an `xarray.Dataset`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.statistics import Interval, paired_difference
from diagnostics.runs.comparison.readouts import SAME, by_depth, readout, shared_depths
from diagnostics.runs.comparison.sides import Side
from diagnostics.runs.profile import Profile


def curves(sides: Sequence[Side], names: Sequence[str], seed: int) -> xr.Dataset:
    """`score`, `low`, `high` [run, target, depth], `tap` [run, depth] (the tap that stands there; "" where the value lies on
    the line between two), and by [run, target] `best_score`, `output_score`, `hidden_gap` and `head_drop`, each with `_low`
    and `_high`, `best_tap`, `head_tap`. A `target` is a profile, `measure/target`.

    `head_drop` is the trunk's last tap minus the head's last, paired over test units (the Guillotine curve, Bordes et al.
    2023, 2206.13378): positive where the head threw away what the trunk's end still shows.
    """
    profiles = {name: [side.profiles[name] for side in sides] for name in names}
    depths = shared_depths([p.data["depth"].values.astype(np.float64) for found in profiles.values() for p in found])
    shape = len(sides), len(names), len(depths)
    along = {key: np.full(shape, np.nan) for key in ("score", "low", "high")}
    single: dict[str, np.ndarray] = {
        f"{key}{end}": np.full(shape[:2], np.nan)
        for key in ("best_score", "output_score", "hidden_gap", "head_drop")
        for end in ("", "_low", "_high")
    }
    named = {key: np.full(shape[:2], "", dtype=object) for key in ("best_tap", "head_tap")}
    for t, name in enumerate(names):
        for r, profile in enumerate(profiles[name]):
            own = profile.data["depth"].values.astype(np.float64)
            for key, found in along.items():
                found[r, t] = by_depth(profile.data[key].values.astype(np.float64), own, depths)
            head, drop = _head_drop(profile, seed)
            named["best_tap"][r, t], named["head_tap"][r, t] = profile.best_tap or "", head
            for key, found in (
                ("best_score", profile.best),
                ("output_score", profile.output),
                ("hidden_gap", profile.hidden_gap),
                ("head_drop", drop),
            ):
                if found is not None:
                    for end, value in (("", found.value), ("_low", found.low), ("_high", found.high)):
                        single[f"{key}{end}"][r, t] = value
    by_target = ("run", "target")
    return xr.Dataset(
        {
            **{key: (("run", "target", "depth"), values) for key, values in along.items()},
            **{key: (by_target, values) for key, values in {**single, **named}.items()},
            "tap": (("run", "depth"), np.array([_taps_at(side, depths) for side in sides], dtype=object)),
        },
        coords={
            "run": [side.name for side in sides],
            "target": list(names),
            "depth": depths,
            "group": ("run", [side.group for side in sides]),
            "seed": ("run", [math.nan if side.seed is None else float(side.seed) for side in sides]),
            "output_tap": ("run", [side.run.store.output_tap for side in sides]),
            **{
                key: ("target", [str(profiles[name][0].data.attrs[attribute]) for name in names])
                for key, attribute in (("family", "family"), ("score_name", "score_name"))
            },
        },
        attrs=_stated(sides, seed),
    )


def _stated(sides: Sequence[Side], seed: int) -> Mapping[str, Any]:
    run = sides[0].run
    return {
        "dataset": run.dataset,
        **{f"n_{split}": n for split, n in run.n.items()},
        "pooling": run.store.pooling,
        "seed": seed,
        "interpolation": "between two taps of the trunk a straight line; a head's taps only where they stand",
        "intervals": "95 %, over independent test units",
    }


def _taps_at(side: Side, depths: np.ndarray) -> list[str]:
    found = [""] * len(depths)
    for tap in side.run.store.taps:
        near = np.flatnonzero(np.abs(depths - tap.depth) < SAME)
        if near.size:
            found[int(near[0])] = tap.name
    return found


def _head_drop(profile: Profile, seed: int) -> tuple[str, Interval | None]:
    """The last tap of the head, and by how much the trunk's last tap beats it."""
    if not profile.is_probe:
        return "", None
    found = readout(profile)
    if found.ends is None:
        return "", None
    trunk, head = found.ends
    drop = paired_difference(trunk.loss, trunk.reference, head.loss, head.reference, found.fit_units, seed, found.share)
    return found.taps[int(np.flatnonzero(found.depths > 1 + SAME)[-1])], drop

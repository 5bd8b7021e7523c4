"""All profiles of all runs on one axis of relative depth, heads beyond 1, as an `xarray.Dataset`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.estimates import estimate_sum
from diagnostics.runs.comparison.members import Member
from diagnostics.runs.comparison.probe_losses import SAME, ProbeLosses, by_depth, shared_depths


def curves(members: Sequence[Member], names: Sequence[str], seed: int) -> xr.Dataset:
    """`score`, `low`, `high` [run, target, depth], `tap` [run, depth] (the tap that stands there; "" where the value lies on
    the line between two), and by [run, target] `best_score`, `output_score`, `hidden_gap` and `head_drop`, each with `_low`
    and `_high`, `best_tap`, `head_tap`. A `target` is a profile, `measure/target`.

    `head_drop` is the trunk's last tap minus the head's last, paired over test units (the Guillotine curve, Bordes et al.
    2023, 2206.13378): positive where the head threw away what the trunk's end still shows.
    """
    profiles = {name: [member.profiles[name] for member in members] for name in names}
    depths = shared_depths([p.data["depth"].values.astype(np.float64) for own in profiles.values() for p in own])
    shape = len(members), len(names), len(depths)
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
            for key, values in along.items():
                values[r, t] = by_depth(profile.data[key].values.astype(np.float64), own, depths)
            head, drop = _head_drop(members[r].losses.get(name), seed)
            named["best_tap"][r, t], named["head_tap"][r, t] = profile.best_tap or "", head
            for key, interval in (
                ("best_score", profile.best),
                ("output_score", profile.output),
                ("hidden_gap", profile.hidden_gap),
                ("head_drop", drop),
            ):
                if interval is not None:
                    for end, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
                        single[f"{key}{end}"][r, t] = value
    by_target = ("run", "target")
    return xr.Dataset(
        {
            **{key: (("run", "target", "depth"), values) for key, values in along.items()},
            **{key: (by_target, values) for key, values in {**single, **named}.items()},
            "tap": (("run", "depth"), np.array([_taps_at(member, depths) for member in members], dtype=object)),
        },
        coords={
            "run": [member.name for member in members],
            "target": list(names),
            "depth": depths,
            "group": ("run", [member.group for member in members]),
            "seed": ("run", [math.nan if member.seed is None else float(member.seed) for member in members]),
            "output_tap": ("run", [member.run.store.output_tap for member in members]),
            **{
                key: ("target", [str(profiles[name][0].data.attrs[attribute]) for name in names])
                for key, attribute in (("family", "family"), ("score_name", "score_name"))
            },
        },
        attrs=_stated(members, seed),
    )


def _stated(members: Sequence[Member], seed: int) -> Mapping[str, Any]:
    run = members[0].run
    return {
        "dataset": run.dataset,
        **{f"n_{split}": n for split, n in run.n.items()},
        "pooling": run.store.pooling,
        "seed": seed,
        "interpolation": "between two taps of the trunk a straight line; a head's taps only where they stand",
        "intervals": "95 %, over independent test units",
    }


def _taps_at(member: Member, depths: np.ndarray) -> list[str]:
    names = [""] * len(depths)
    for tap in member.run.store.taps:
        near = np.flatnonzero(np.abs(depths - tap.depth) < SAME)
        if near.size:
            names[int(near[0])] = tap.name
    return names


def _head_drop(losses: ProbeLosses | None, seed: int) -> tuple[str, Interval | None]:
    """The last tap of the head, and by how much the trunk's last tap beats it."""
    if losses is None or losses.ends is None:
        return "", None
    last = losses.taps[int(np.flatnonzero(losses.depths > 1 + SAME)[-1])]
    return last, estimate_sum([([losses.ends], 1.0)], seed).over_samples

"""All profiles of all runs on one axis of relative depth, heads beyond 1, as an `xarray.Dataset`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.estimates import estimate_sum
from diagnostics.runs.comparison.members import Member
from diagnostics.runs.comparison.probe_losses import SAME, ProbeLosses, by_depth, shared_depths

SINGLE = ("chosen_score", "output_score", "hidden_gap", "head_drop")
ENDS = {"": "value", "_low": "low", "_high": "high"}
TAPS = ("chosen_tap", "head_tap")


def curves(members: Sequence[Member], names: Sequence[str], seed: int) -> xr.Dataset:
    """`score`, `low`, `high` [run, target, depth], `tap` [run, depth] (the tap that stands there; "" where the value lies on
    the line between two), and by [run, target] `chosen_score`, `output_score`, `hidden_gap` and `head_drop`, each with `_low`
    and `_high`, `chosen_tap`, `head_tap`. A `target` is a profile, `measure/target`.

    `head_drop` is the trunk's last tap minus the head's last, paired over test units (the Guillotine curve, Bordes et al.
    2023, 2206.13378): positive where the head threw away what the trunk's end still shows.
    """
    depths = shared_depths([_depths(member, name) for name in names for member in members])
    cells = [[_cell(member, name, depths, seed) for name in names] for member in members]
    variables = {
        key: np.array([[cell[key] for cell in row] for row in cells], dtype=object if key in TAPS else np.float64)
        for key in cells[0][0]
    }
    return xr.Dataset(
        {
            **{key: (("run", "target", "depth")[: values.ndim], values) for key, values in variables.items()},
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
                key: ("target", [str(members[0].profiles[name].data.attrs[key]) for name in names])
                for key in ("family", "score_name")
            },
        },
        attrs=_stated(members, seed),
    )


def _depths(member: Member, name: str) -> np.ndarray:
    return member.profiles[name].data["depth"].values.astype(np.float64)


def _cell(member: Member, name: str, depths: np.ndarray, seed: int) -> dict[str, Any]:
    """All variables of one run in one profile."""
    profile, own = member.profiles[name], _depths(member, name)
    cell: dict[str, Any] = {
        key: by_depth(profile.data[key].values.astype(np.float64), own, depths) for key in ("score", "low", "high")
    }
    head, drop = _head_drop(member.losses.get(name), seed)
    for key, interval in zip(SINGLE, (profile.score, profile.output, profile.hidden_gap, drop), strict=True):
        cell |= {f"{key}{end}": getattr(interval, part, math.nan) for end, part in ENDS.items()}
    return cell | dict(zip(TAPS, (profile.chosen_tap or "", head), strict=True))


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

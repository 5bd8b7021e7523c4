"""What is kept of a run: scores of its taps, and values of contrasts with their errors over units; no unit's loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

import diagnostics as dx
from diagnostics.measures import result as attribute
from diagnostics.measures.result import losses_of, units_fitted
from diagnostics.measures.statistics import Losses

BANDS = {"early": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1.0)}
"""Of depth, without its lower and with its upper end."""
PROBES = ("linear_probe", "segmentation_probe", "caption_probe", "label_propagation")
NEAR, FAR = 1, 0.5
"""Taps that are neighbours, in places; taps that are distant, in depth."""


def band(depth: np.ndarray, name: str) -> np.ndarray:
    """Which taps lie in a band; those of a head are in none."""
    low, high = BANDS[name]
    return (depth > low + 1e-9) & (depth <= high + 1e-9)


class Reading:
    """A probe's scores [tap] on test and in each resample of its units [resample, tap], widened for the units fitted."""

    def __init__(self, data: xr.Dataset, draw: int) -> None:
        self.data, self.taps = data, [str(tap) for tap in data["tap"].values]
        self.depth = data["depth"].values.astype(float)
        self.score, self.drawn = resampled(losses_of(data, "unit"), units_fitted(data), draw)
        self.output = self.taps.index(data.attrs[attribute.OUTPUT_TAP])

    @property
    def key(self) -> str:
        """`measure/target`."""
        return f"{self.data.attrs[attribute.MEASURE]}/{self.data.attrs[attribute.TARGET]}"

    def difference(self, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
        """Mean over some taps minus that over others, [1 + resample]: the value first."""
        all_of = np.concatenate([self.score[None], self.drawn])
        a, b = (np.nanmean(all_of[:, np.atleast_1d(at)], axis=1) for at in (first, second))
        return a - b

    def between(self, first: str, second: str) -> np.ndarray:
        """The same of two bands."""
        return self.difference(*(np.flatnonzero(band(self.depth, name)) for name in (first, second)))

    @property
    def gap(self) -> np.ndarray:
        """Best tap, chosen without test, minus output."""
        best = str(self.data.attrs.get(attribute.BEST_TAP, ""))
        if best not in self.taps:
            return np.full(1 + len(self.drawn), np.nan)
        return self.difference(self.taps.index(best), self.output)

    @property
    def head(self) -> np.ndarray:
        """Output minus the last tap, which is that of a head."""
        return self.difference(self.output, len(self.taps) - 1)


def resampled(losses: Losses, fitted: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and resampled scores; those of one draw and so many units are drawn together, whatever the target."""
    units = losses.loss.shape[1]
    spread = np.sqrt(1 + units / fitted) if fitted else 1.0
    return losses.scores, losses.scores + spread * (losses.resample(draw) - losses.scores)


def set_gain(data: xr.Dataset, name: str, single: Reading, draw: int) -> np.ndarray:
    """Gain on test of a set of taps over the tap that is recommended, [1 + resample]."""
    at = [str(each) for each in data["set"].values].index(name)
    loss, reference = (data[key].transpose("set", "unit", ...).values[[at]] for key in ("set_loss", "set_reference"))
    counts = single.data.attrs[attribute.LOSSES] == "counts"
    score, drawn = resampled(Losses(loss, reference, counts), units_fitted(single.data), draw)
    used = single.taps.index(str(data.attrs["single"]))
    return np.concatenate([score, drawn[:, 0]]) - np.concatenate([[single.score[used]], single.drawn[:, used]])


def mean_of(each: Iterable[np.ndarray]) -> list[float]:
    """Value and error over units of the mean of some contrasts [1 + resample]."""
    kept = [one for one in each if np.isfinite(one[0])]
    if not kept:
        return [np.nan, np.nan]
    mean = np.mean(kept, axis=0)
    return [float(mean[0]), float(np.nanstd(mean[1:]))]


def asked(claim: Mapping[str, Any], readings: Mapping[str, Reading]) -> list[Reading]:
    """The readings of a claim's targets; of a measure all."""
    named = claim["targets"]
    if isinstance(named, str):
        return [one for key, one in readings.items() if key.startswith(f"{named}/")]
    return [readings[key] for key in named]


def contrast(claim: Mapping[str, Any], run: dx.Run, readings: Mapping[str, Reading], draw: int) -> list[float] | None:
    """Value and error over units of a claim in one draw of a cell; None where a draw says nothing about it alone."""
    match claim["kind"]:
        case "gap" | "between":
            return mean_of(one.gap for one in asked(claim, readings))
        case "head":
            return mean_of(one.head for one in asked(claim, readings))
        case "bands":
            return mean_of(one.between(claim["a"], claim["b"]) for one in asked(claim, readings))
        case "set":
            sets = {key: data for key, data in probe_results(run).items() if key.startswith("tap_set/")}
            singles = {key: readings[f"linear_probe/{key.partition('/')[2]}"] for key in sets}
            return mean_of(set_gain(data, claim["set"], singles[key], draw) for key, data in sets.items())
        case "control":
            if draw != 1:
                return None
            name = f"{attribute.OVER}{claim['control']}"
            found = [one.data.attrs for one in asked(claim, readings) if name in one.data.attrs]
            each = np.array([[attrs[name], attrs[f"{name}_high"] - attrs[f"{name}_low"]] for attrs in found])
            # Errors of targets of the same samples are taken for equal in sign: none averages out.
            value, width = each.mean(axis=0) if len(each) else (np.nan, np.nan)
            return [float(value), float(width / 3.92)]
    return None


def probe_results(run: dx.Run) -> dict[str, xr.Dataset]:
    """`measure/target` -> result of the encoder."""
    tree = run.results
    names = [group.strip("/") for group in tree.groups if group.count("/") == 2 and not group.startswith("/controls")]
    return {name: tree[name].to_dataset() for name in names}


def kept_of(run: dx.Run, claims: Iterable[Mapping[str, Any]], draw: int) -> dict[str, Any]:
    """What is kept of one draw of a cell."""
    results = probe_results(run)
    readings = {
        key: Reading(data, draw)
        for key, data in results.items()
        if key.partition("/")[0] in PROBES and attribute.is_probe(data)
    }
    profiles, (taps, depth) = {}, next(((one.taps, one.depth.tolist()) for one in readings.values()), ([], []))
    for key, one in readings.items():
        slope = one.between("late", "middle")
        attrs = one.data.attrs
        other = {} if one.taps == taps else {"taps": one.taps, "depth": one.depth.tolist()}
        profiles[key] = {
            **other,
            "score": one.score.tolist(),
            "output": ends_at(one, one.taps[one.output]),
            "chosen": [attrs.get(attribute.CHOSEN_TAP, ""), *ends_at(one, attrs.get(attribute.CHOSEN_TAP, ""))],
            "best": attrs.get(attribute.BEST_TAP, ""),
            "late_minus_middle": [float(slope[0]), float(np.nanstd(slope[1:]))],
            "gap": [float(one.gap[0]), float(np.nanstd(one.gap[1:]))],
            "controls": controls_of(run, key),
            "units": int(one.data.sizes["unit"]),
            **redrawn(one.data),
        }  # fmt: skip
    return {
        "n": run.n,
        "taps": taps,
        "depth": depth,
        "profiles": profiles,
        "measures": measures_of(run),
        "similar": similar(run),
        "sets": {
            key: {
                str(name): float(gain) for name, gain in zip(data["set"].values, data["set_gain"].values, strict=True)
            }
            for key, data in results.items()
            if key.startswith("tap_set/") and "set" in data.dims
        },
        "rules": rules_of(run),
        "contrasts": {
            claim["id"]: found for claim in claims if (found := contrast(claim, run, readings, draw)) is not None
        },
        "skipped": run.skipped,
    }


def ends_at(one: Reading, tap: str) -> list[float]:
    """Score, low and high on test at a tap; nothing without one."""
    at = one.taps.index(tap) if tap in one.taps else None
    return [] if at is None else [float(one.data[end].values[at]) for end in ("score", "low", "high")]


def redrawn(data: xr.Dataset) -> dict[str, Any]:
    """Scores [redraw, tap], gaps and taps of `--redraws`, where there are any."""
    if "redraw_score" not in data:
        return {}
    scores = data["redraw_score"].transpose("redraw", "tap").values.tolist()
    taps = [str(tap) for tap in data["redraw_tap"].values]
    return {"redraw_score": scores, "redraw_gap": data["redraw_gap"].values.tolist(), "redraw_tap": taps}


def controls_of(run: dx.Run, key: str) -> dict[str, float]:
    """The score on test of the chosen tap of each control."""
    found = {}
    for name, tree in run.controls.items():
        if f"{tree.path}/{key}" in tree.groups and "score" in (data := tree[key].to_dataset()):
            taps = [str(tap) for tap in data["tap"].values]
            chosen = data.attrs.get(attribute.CHOSEN_TAP, "")
            if chosen in taps:
                found[name] = float(data["score"].values[taps.index(chosen)])
    return found


def measures_of(run: dx.Run) -> dict[str, Any]:
    """Measures without a target: their taps, depths and values."""
    return {
        profile.measure: {
            "taps": [str(tap) for tap in profile.data["tap"].values],
            "depth": profile.data["depth"].values.astype(float).tolist(),
            "value": profile.data["score"].values.astype(float).tolist(),
        }
        for profile in run.profiles()
        if profile.target is None and profile.data["score"].dims == ("tap",)
    }


def similar(run: dx.Run) -> dict[str, float]:
    """Of CKA: neighbouring taps minus distant ones, and the tap at a quarter of the depth with the output."""
    found = [data for data in run.similarity() if data.attrs[attribute.MEASURE] == "cka"]
    if not found:
        return {}
    taps = [tap for tap in run.store.taps if tap.depth <= 1.0 and tap.depth > 0]
    names, depth = [tap.name for tap in taps], np.array([tap.depth for tap in taps])
    matrix = found[0]["matrix"].sel(tap=names, tap_other=names).values
    apart = np.abs(np.subtract.outer(np.arange(len(taps)), np.arange(len(taps))))
    far = np.abs(np.subtract.outer(depth, depth)) >= FAR
    quarter = int(np.argmin(np.abs(depth - 0.25)))
    output = names.index(run.store.output_tap) if run.store.output_tap in names else len(names) - 1
    return {
        "near": float(np.nanmean(matrix[apart == NEAR])),
        "far": float(np.nanmean(matrix[far])),
        "quarter_with_output": float(matrix[quarter, output]),
    }


def rules_of(run: dx.Run) -> dict[str, float]:
    """The mean regret of each rule over the run's targets; none where there is nothing to choose."""
    try:
        return {each.rule: float(each.regret.value) for each in dx.choose(run).rules}
    except dx.DiagnosticsError:
        return {}

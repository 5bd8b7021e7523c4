"""The findings of a comparison as plain numbers, for `--json`."""

from __future__ import annotations

from typing import Any

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.report.numbers import number, numbers
from diagnostics.runs.comparison.differences import CurveDifference, Difference
from diagnostics.runs.comparison.estimates import Estimate
from diagnostics.runs.comparison.findings import Findings
from diagnostics.runs.comparison.positions import Likeness
from diagnostics.runs.comparison.shares import Shares
from diagnostics.runs.comparison.sides import Side, lineage_of
from diagnostics.runs.comparison.standings import Standing


def findings_json(findings: Findings) -> dict[str, Any]:
    """The findings as plain numbers; None for what has no value."""
    return {
        "dataset": findings.data.attrs["dataset"],
        "n": findings.sides[0].run.n,
        "pooling": findings.data.attrs["pooling"],
        "seed": findings.data.attrs["seed"],
        "runs": [_side(side) for side in findings.sides],
        "depth": numbers(findings.data["depth"]),
        "profiles": [_profile(findings, str(name)) for name in findings.data["target"].values],
        "groups": [_standing(one) for one in findings.standings],
        "families": [
            {"family": one.family, "group": one.group, "profiles": list(one.profiles), **_estimate(one.hidden_gap)}
            for one in findings.family_gaps
        ],
        "differences": [_difference(one) for one in findings.differences],
        "along_depth": [_curve(one) for one in findings.curve_differences],
        "shares": [_shares(one) for one in findings.shares],
        "similarity": [_likeness(one) for one in findings.likenesses],
        "left_out": findings.left_out,
    }


def _profile(findings: Findings, name: str) -> dict[str, Any]:
    data = findings.data.sel(target=name)
    keys = ("best_score", "output_score", "hidden_gap", "head_drop")
    return {
        "profile": name,
        "family": str(data["family"].values),
        "score_name": str(data["score_name"].values),
        "runs": {
            str(run): {
                "score": numbers(data["score"].values[r]),
                "low": numbers(data["low"].values[r]),
                "high": numbers(data["high"].values[r]),
                "best_tap": str(data["best_tap"].values[r]) or None,
                "head_tap": str(data["head_tap"].values[r]) or None,
                **{
                    key: [number(data[f"{key}{end}"].values[r]) for end in ("", "_low", "_high")]
                    for key in keys
                    if np.isfinite(data[key].values[r])
                },
            }
            for r, run in enumerate(data["run"].values)
        },
    }


def _interval(found: Interval | None) -> dict[str, float | None] | None:
    return None if found is None else {key: number(getattr(found, key)) for key in ("value", "low", "high")}


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "value": number(found.value),
        "over_samples": _interval(found.over_samples),
        "over_samples_and_seeds": _interval(found.over_both),
        "p": number(found.p),
    }


def _side(side: Side) -> dict[str, Any]:
    run = side.run
    return {
        "name": side.name, "group": side.group, "seed": side.seed, "run": str(run.path), "encoder": run.encoder,
        "output_tap": run.store.output_tap, "weights": side.weights, "lineage": dict(lineage_of(run)),
        "taps": [{"name": tap.name, "depth": tap.depth, "part": tap.part} for tap in run.store.taps],
    }  # fmt: skip


def _standing(found: Standing) -> dict[str, Any]:
    return {
        "profile": found.profile, "group": found.group, "best_taps": [tap for tap, _ in found.best_taps],
        "best_depths": [depth for _, depth in found.best_taps], "best": _estimate(found.best),
        "output": _estimate(found.output), "hidden_gap": _estimate(found.hidden_gap),
        "head_drop": None if found.head_drop is None else _estimate(found.head_drop),
    }  # fmt: skip


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "profile": found.profile, "first": found.first, "second": found.second, "quantity": found.quantity,
        **_estimate(found.estimate), "p_corrected": number(found.p_corrected), "survives": found.survives,
    }  # fmt: skip


def _curve(found: CurveDifference) -> dict[str, Any]:
    at = found.at
    return {
        "profile": found.profile, "first": found.first, "second": found.second, "depth": numbers(found.depths),
        "difference": numbers(found.difference), "p": numbers(found.p),
        "at": None if at is None else number(float(found.depths[at])),
    }  # fmt: skip


def _shares(found: Shares) -> dict[str, Any]:
    return {
        "profile": found.profile, "alignment": found.group, "base": found.base, "seeds": found.seeds,
        "seeds_of_base": found.of_seeds, "made_for_it": found.purpose,
        "floor": number(found.floor), "hidden_gap_of_base": _interval(found.gap), "recovered": _interval(found.recovered),
        "kept_best": _interval(found.kept_best), "kept_output": _interval(found.kept_output),
        "reasons": dict(found.reasons),
    }  # fmt: skip


def _likeness(found: Likeness) -> dict[str, Any]:
    data = found.data
    return {
        "first": found.first, "second": found.second, "measure": data.attrs["measure"],
        "taps": [str(tap) for tap in data["tap"].values], "taps_other": [str(tap) for tap in data["tap_other"].values],
        "matrix": [numbers(row) for row in data["matrix"].values],
        "p": [numbers(row) for row in data["p"].values] if "p" in data else None,
        "aligned_depth": numbers(found.aligned), "at_outputs": number(found.at_outputs),
    }  # fmt: skip

"""The findings of a comparison as JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.report.numbers import number, numbers
from diagnostics.runs.comparison.differences import CurveDifference, Difference
from diagnostics.runs.comparison.estimates import Estimate
from diagnostics.runs.comparison.findings import Findings
from diagnostics.runs.comparison.group_scores import GroupScore
from diagnostics.runs.comparison.members import Member, lineage_of
from diagnostics.runs.comparison.shares import Shares
from diagnostics.runs.comparison.tap_similarity import TapSimilarity


def findings_json(findings: Findings) -> dict[str, Any]:
    """The findings as plain numbers; None for what has no value."""
    return {
        "dataset": findings.data.attrs["dataset"],
        "n": findings.members[0].run.n,
        "pooling": findings.data.attrs["pooling"],
        "seed": findings.data.attrs["seed"],
        "runs": [_member(member) for member in findings.members],
        "depth": numbers(findings.data["depth"]),
        "profiles": [_profile(findings, str(name)) for name in findings.data["target"].values],
        "groups": [_group_score(score) for score in findings.group_scores],
        "families": [
            {"family": gap.family, "group": gap.group, "profiles": list(gap.profiles), **_estimate(gap.hidden_gap)}
            for gap in findings.family_gaps
        ],
        "differences": [_difference(difference) for difference in findings.differences],
        "along_depth": [_curve(curve) for curve in findings.curve_differences],
        "shares": [_shares(shares) for shares in findings.shares],
        "similarity": [_tap_similarity(similarity) for similarity in findings.tap_similarities],
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


def _interval(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else {key: number(getattr(interval, key)) for key in ("value", "low", "high")}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": number(estimate.value),
        "over_samples": _interval(estimate.over_samples),
        "over_samples_and_seeds": _interval(estimate.over_both),
        "p": number(estimate.p),
    }


def _member(member: Member) -> dict[str, Any]:
    run = member.run
    return {
        "name": member.name, "group": member.group, "seed": member.seed, "run": str(run.path), "encoder": run.encoder,
        "output_tap": run.store.output_tap, "weights": member.weights, "lineage": dict(lineage_of(run)),
        "taps": [{"name": tap.name, "depth": tap.depth, "part": tap.part} for tap in run.store.taps],
    }  # fmt: skip


def _group_score(score: GroupScore) -> dict[str, Any]:
    return {
        "profile": score.profile, "group": score.group, "best_taps": [tap for tap, _ in score.best_taps],
        "best_depths": [depth for _, depth in score.best_taps], "best": _estimate(score.best),
        "output": _estimate(score.output), "hidden_gap": _estimate(score.hidden_gap),
        "head_drop": None if score.head_drop is None else _estimate(score.head_drop),
    }  # fmt: skip


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "profile": difference.profile, "first": difference.first, "second": difference.second, "quantity": difference.quantity,
        **_estimate(difference.estimate), "p_corrected": number(difference.p_corrected), "survives": difference.survives,
    }  # fmt: skip


def _curve(curve: CurveDifference) -> dict[str, Any]:
    at = curve.at
    return {
        "profile": curve.profile, "first": curve.first, "second": curve.second, "depth": numbers(curve.depths),
        "difference": numbers(curve.difference), "p": numbers(curve.p),
        "at": None if at is None else number(float(curve.depths[at])),
    }  # fmt: skip


def _shares(shares: Shares) -> dict[str, Any]:
    return {
        "profile": shares.profile, "alignment": shares.group, "base": shares.base, "seeds": shares.seeds,
        "seeds_of_base": shares.of_seeds, "made_for_it": shares.purpose,
        "floor": number(shares.floor), "hidden_gap_of_base": _interval(shares.gap), "recovered": _interval(shares.recovered),
        "kept_best": _interval(shares.kept_best), "kept_output": _interval(shares.kept_output),
        "reasons": dict(shares.reasons),
    }  # fmt: skip


def _tap_similarity(similarity: TapSimilarity) -> dict[str, Any]:
    data = similarity.data
    return {
        "first": similarity.first, "second": similarity.second, "measure": data.attrs["measure"],
        "taps": [str(tap) for tap in data["tap"].values], "taps_other": [str(tap) for tap in data["tap_other"].values],
        "matrix": [numbers(row) for row in data["matrix"].values],
        "p": [numbers(row) for row in data["p"].values] if "p" in data else None,
        "aligned_depth": numbers(similarity.aligned), "at_outputs": number(similarity.at_outputs),
    }  # fmt: skip

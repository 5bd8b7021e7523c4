"""The findings of a comparison as JSON values."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.report.numbers import number, numbers
from diagnostics.runs.comparison.curves import ENDS, SINGLE
from diagnostics.runs.comparison.estimates import Estimate
from diagnostics.runs.comparison.findings import Findings
from diagnostics.runs.comparison.members import Member, lineage_of
from diagnostics.runs.comparison.tap_similarity import TapSimilarity
from diagnostics.runs.tap_map import map_json

# Key -> attribute of a finding, where they are not the same.
GROUP_SCORE = ("profile", "group", "chosen", "output", "hidden_gap", "head_drop")
FAMILY_GAP = ("family", "group", "profiles")
DIFFERENCE = ("profile", "first", "second", "quantity", "p_corrected", "survives", "outcome")
CURVE = {
    "profile": "profile",
    "first": "first",
    "second": "second",
    "depth": "depths",
    "difference": "difference",
    "p": "p",
}
SHARES = {
    "profile": "profile", "alignment": "group", "base": "base", "seeds": "seeds", "seeds_of_base": "of_seeds",
    "made_for_it": "purpose", "floor": "floor", "hidden_gap_of_base": "gap", "recovered": "recovered",
    "kept_best": "kept_best", "kept_output": "kept_output", "over_control": "over_control",
    "recovered_over_control": "recovered_over_control", "cut": "cut", "cut_is": "cut_is", "lifted": "lifted", "reasons": "reasons",
}  # fmt: skip


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
        "groups": [
            _pick(score, GROUP_SCORE)
            | {
                "chosen_taps": [tap for tap, _ in score.chosen_taps],
                "chosen_depths": [depth for _, depth in score.chosen_taps],
            }
            for score in findings.group_scores
        ],
        "families": [_pick(gap, FAMILY_GAP) | _plain(gap.hidden_gap) for gap in findings.family_gaps],
        "differences": [_pick(each, DIFFERENCE) | _plain(each.estimate) for each in findings.differences],
        "along_depth": [
            _pick(curve, CURVE) | {"at": None if curve.at is None else number(curve.depths[curve.at])}
            for curve in findings.curve_differences
        ],
        "shares": [_pick(shares, SHARES) for shares in findings.shares],
        "similarity": [_tap_similarity(similarity) for similarity in findings.tap_similarities],
        "left_out": findings.left_out,
    }


def _pick(finding: Any, keys: Mapping[str, str] | tuple[str, ...]) -> dict[str, Any]:
    """Attributes of a finding by key."""
    attributes = keys if isinstance(keys, Mapping) else {key: key for key in keys}
    return {key: _plain(getattr(finding, attribute)) for key, attribute in attributes.items()}


def _plain(value: Any) -> Any:
    match value:
        case Estimate():
            return {
                "value": number(value.value), "over_samples": _plain(value.over_samples),
                "over_samples_and_seeds": _plain(value.over_both), "p": number(value.p),
            }  # fmt: skip
        case Interval():
            return {key: number(getattr(value, key)) for key in ("value", "low", "high")}
        case np.ndarray():
            return numbers(value)
        case float():
            return number(value)
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value


def _profile(findings: Findings, name: str) -> dict[str, Any]:
    data = findings.data.sel(target=name)
    runs: dict[str, Any] = {}
    for run in data["run"].values:
        row = data.sel(run=run)
        runs[str(run)] = {
            **{key: numbers(row[key]) for key in ("score", "low", "high")},
            **{key: str(row[key].values) or None for key in ("chosen_tap", "head_tap")},
            **{key: numbers([row[f"{key}{end}"] for end in ENDS]) for key in SINGLE if np.isfinite(row[key])},
        }
    return {"profile": name, **{key: str(data[key].values) for key in ("family", "score_name")}, "runs": runs}


def _member(member: Member) -> dict[str, Any]:
    run = member.run
    return {
        "name": member.name, "group": member.group, "seed": member.seed, "run": str(run.path), "encoder": run.encoder_name,
        "output_tap": run.store.output_tap, "weights": member.weights, "lineage": dict(lineage_of(run)),
        "taps": [{"name": tap.name, "depth": tap.depth, "part": tap.part} for tap in run.store.taps],
    }  # fmt: skip


def _tap_similarity(similarity: TapSimilarity) -> dict[str, Any]:
    return {
        "first": similarity.first, "second": similarity.second, **map_json(similarity.data),
        "taps_other": [str(tap) for tap in similarity.data["tap_other"].values],
        "aligned_depth": numbers(similarity.aligned), "at_outputs": number(similarity.at_outputs),
    }  # fmt: skip

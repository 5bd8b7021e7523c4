"""What is kept of a run: the regret of each rule for each target, what sets of taps gain, and curves of labels."""

from __future__ import annotations

from typing import Any

import numpy as np

import diagnostics as dx
from diagnostics.measures import result as attribute
from diagnostics.measures.result import choosing_scores
from diagnostics.registry import plugin_entries
from diagnostics.runs.choice import LABELS, SETS, Cell, cells_of


def chance(cell: Cell) -> float:
    """The score of a guess: 0 for R2, and that of the commonest class for accuracy."""
    counts = cell.result.attrs[attribute.LOSSES] == "counts"
    return float(cell.result["line_commonest"].values[0]) if counts else 0.0


def regrets_of(cell: Cell, cells: list[Cell]) -> tuple[dict[str, float], dict[str, str]]:
    """Regret on test by rule, and why others have none."""
    found, left_out = {}, {}
    score, evidence = cell.test.scores, cell.evidence(cells)
    for name, (_, rule) in plugin_entries("rule").items():
        try:
            shares = cell.shares(rule(evidence))
        except dx.DiagnosticsError as error:
            left_out[name] = error.code
        else:
            taken = shares > 0
            found[name] = float(score[cell.used] - score[taken] @ shares[taken])
    return found, left_out


def curve_of(cell: Cell) -> dict[str, list[float]]:
    """By number of labels: scores of the tap recommended with all, of the output, and of the best tap.

    And the share of draws in which few labels choose the one that all do.
    """
    data = cell.beside[LABELS]
    curve, chosen = (data[name].transpose("labels", "tap").values for name in ("curve", "chosen"))
    output = cell.taps.index(str(cell.result.attrs[attribute.OUTPUT_TAP]))
    return {
        "labels": [int(count) for count in data["labels"].values],
        "used": curve[:, cell.used].tolist(),
        "output": curve[:, output].tolist(),
        "best": curve[:, cell.candidates].max(axis=1).tolist(),
        "same": chosen[:, cell.used].tolist(),
    }


def kept_of(run: dx.Run, least: float) -> dict[str, Any]:
    """The targets of a run by name, those that no tap reads, and rules that a run has no answer of."""
    cells = cells_of(run, run.encoder_name)
    targets: dict[str, Any] = {}
    unread: list[str] = []
    missing: dict[str, str] = {}
    for cell in cells:
        if not choosing_scores(cell.result)[cell.used] >= chance(cell) + least:
            unread.append(cell.target)
            continue
        regret, left_out = regrets_of(cell, cells)
        missing |= left_out
        sets = cell.beside[SETS]
        targets[cell.target] = {
            "tap": cell.taps[cell.used],
            "output": str(cell.result.attrs[attribute.OUTPUT_TAP]),
            "units": int(cell.result.sizes["unit"]),
            "taps": {cell.taps[i]: float(cell.test.scores[i]) for i in cell.candidates},
            "regret": regret,
            "gain": dict(zip(map(str, sets["set"].values), map(float, sets["set_gain"].values), strict=True)),
            "chosen_set": str(sets.attrs["chosen_set"]),
            "members": [str(tap) for tap in sets["tap"].values[sets["member"].sel(set="greedy").values]],
            "curve": curve_of(cell),
        }
    return {"targets": targets, "unread": unread, "left_out": missing, "spread": spread_of(cells)}


def spread_of(cells: list[Cell]) -> float:
    """Standard deviation of the scores of a target over its candidates, mean over targets."""
    return float(np.mean([np.std(cell.test.scores[cell.candidates]) for cell in cells]))

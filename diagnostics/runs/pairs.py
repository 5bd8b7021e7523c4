"""Comparing the taps of two runs."""

from __future__ import annotations

import xarray as xr

from diagnostics.activations.contract import Activations
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import too_few
from diagnostics.measures.result import ABOUT, FAMILY, MEASURE, SOURCE
from diagnostics.measures.similarity.base import Similarity
from diagnostics.runs.suites import chosen_measures


def between(
    first: Activations, second: Activations, measure: str = "cka", seed: int = 0, most_rows: int | None = None
) -> xr.Dataset:
    """How similar each tap of one run is to each of another, on the same samples: `matrix` [tap, tap_other] and what
    chance would give, as `Similarity` says.

    `measure` names one that compares pairs of taps; `most_rows` limits the samples further than it does itself. Raises DiagnosticsError for another one, and where the samples of the
    two runs are not the same by id.
    """
    chosen = _chosen(measure)
    stated = {MEASURE: chosen.name, SOURCE: chosen.source, ABOUT: chosen.answers, FAMILY: chosen.family}
    result = chosen.between(first, second, seed, most_rows).assign_attrs(stated)
    if few := too_few(result):
        raise DiagnosticsError(few)
    return result


def _chosen(name: str) -> Similarity:
    made, _ = chosen_measures([name])
    if len(made) != 1 or not isinstance(made[0], Similarity):
        able = [measure.name for measure in chosen_measures(["all"])[0] if isinstance(measure, Similarity)]
        raise DiagnosticsError(f"{name} does not compare pairs of taps: choose one of {', '.join(sorted(able))}.")
    return made[0]

"""Which taps of two runs match: the most similar tap of the other run."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from diagnostics.runs.comparison.members import Member

ALPHA = 0.05
MOST_ROWS = 512
"""Samples that CKA reads of each pair of runs: its time grows with their square, and there are many pairs."""


@dataclass(frozen=True)
class TapSimilarity:
    """How alike each tap of one run is to each of another.

    matrix: [tap, tap_other] with `p` against permuted samples, corrected for all pairs; aligned: float [tap], the depth in
    the other run of the most alike tap, NaN where no tap is shown to be more alike than chance would make one.
    """

    first: str
    second: str
    data: xr.Dataset
    aligned: np.ndarray

    @property
    def at_outputs(self) -> float:
        """The similarity of the two output taps."""
        return float(self.data.attrs["at_outputs"])


def tap_similarity(first: Member, second: Member, measure: str, seed: int) -> TapSimilarity:
    """The similarity of all pairs of taps of two runs, and the aligned position of each tap of the first."""
    data = first.run.similarity_with(second.run, measure, seed, MOST_ROWS if measure == "cka" else None)
    matrix = data["matrix"].values
    smaller = data.attrs.get("alike") == "smaller"
    shown = np.isfinite(matrix) & (data["p"].values <= ALPHA if "p" in data else False)
    ranked = np.where(shown, -matrix if smaller else matrix, -np.inf)
    nearest = ranked.argmax(axis=1)
    aligned = np.where(shown.any(axis=1), data["depth_other"].values[nearest], np.nan)
    outputs = matrix[
        list(data["tap"].values).index(first.run.store.output_tap),
        list(data["tap_other"].values).index(second.run.store.output_tap),
    ]
    return TapSimilarity(first.name, second.name, data.assign_attrs(at_outputs=float(outputs)), aligned)

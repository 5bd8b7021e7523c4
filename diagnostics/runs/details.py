"""The table of a profile's numbers by tap: those in the figure, and those beside the score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diagnostics.report.html import page_tables
from diagnostics.report.numbers import format_compact
from diagnostics.report.page import Cell, Column, Details, Note, Notes, Number, Page, Row, Section, Sentence, Table

if TYPE_CHECKING:
    from diagnostics.runs.profile import Profile
    from diagnostics.runs.recommendation import Recommendation

# Profiles and recommendations as tables for notebooks; the templates of the report escape them.


def profile_table(profile: Profile) -> str:
    """A row for each tap: depth, score and interval, and what the measure gives beside them."""
    return _shown(profile.name, str(profile), details(profile).table)


def recommendation_table(recommendation: Recommendation) -> str:
    """The sentence, and a row for each thing that it says."""
    rows: dict[str, Cell] = {
        "tap": recommendation.tap or "none",
        "pooling": recommendation.pooling,
        recommendation.score_name: Number(recommendation.score),
        f"at the output, {recommendation.output_tap}": Number(recommendation.output),
        "hidden gap": Number(recommendation.hidden_gap, signed=True),
        "how sure": recommendation.confidence,
        "not shown to be worse": ", ".join(recommendation.also) or "-",
    }
    table = Table((Column("for"), Column(recommendation.target)), tuple(Row(row) for row in rows.items()))
    return _shown("Recommendation", str(recommendation), table)


def _shown(title: str, sentence: str, table: Table) -> str:
    return page_tables(Page("", (Sentence(sentence),), (Section(title, "shown", (table,)),), ()))


# A variable over taps and something else is spread over columns up to this many.
MOST_COLUMNS = 12
# Losses of units: a score is their sum, and one out of fold is no score.
_RAW = (
    "loss",
    "reference_loss",
    "val_loss",
    "val_reference",
    "oof_loss",
    "oof_reference",
    "drawn",
    "val_drawn",
    "oof_drawn",
)


def details(profile: Profile, facts: str = "") -> Details:
    """The table of a profile, with the taps as rows, what its columns are, and the facts of how it was computed."""
    data = profile.data
    columns = {name: data[name].values for name in ("depth", "score", "low", "high")}
    columns |= {f"line: {name}": values for name, values in profile.lines.items()}
    if "val_score" in data:
        columns["score on val"] = data["val_score"].values
    columns |= {name.replace("_", " "): values for name, values in profile.beside.items()}
    columns |= _spread(profile)
    notes = [
        Note(str(data.attrs[name]), name.replace("_", " "))
        for name in map(str, data.data_vars)
        if name in data.attrs and not name.startswith("line_") and name not in ("score", "low", "high")
    ]
    rows = [
        Row((tap, *map(format_compact, values))) for tap, *values in zip(profile.taps, *columns.values(), strict=True)
    ]
    table = Table(tuple(Column(name) for name in ("tap", *columns)), tuple(rows))
    return Details(
        "Numbers at each tap, and how they were computed", table, Notes((*([Note(facts)] if facts else []), *notes))
    )


def _spread(profile: Profile) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, values in profile.data.data_vars.items():
        narrow = values.ndim == 2 and values.dims[0] == "tap" and values.shape[1] <= MOST_COLUMNS
        if not narrow or name in _RAW or values.dtype.kind not in "fiu":
            continue
        other = str(values.dims[1])
        label = str(name).replace("_", " ")
        places = values[other].values if other in values.coords else np.arange(values.shape[1])
        for i, place in enumerate(places):
            # `by_head` names its dimension already.
            at = f"{other} {place}" if label == f"by {other}" else f"{label}, {other} {place}"
            columns[at] = values.values[:, i]
    return columns

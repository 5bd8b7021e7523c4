"""Profiles and recommendations as tables for notebooks; the templates of the report escape them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnostics.report.html import page_tables
from diagnostics.report.page import Cell, Column, Number, Page, Row, Section, Sentence, Table
from diagnostics.runs.details import details

if TYPE_CHECKING:
    from diagnostics.runs.profile import Profile
    from diagnostics.runs.recommendation import Recommendation


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

"""What can be wrong with the texts that are trained on, and what people are told of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diagnostics import Dataset, DiagnosticsError, LazySamples
from diagnostics_pretraining.contrast import equal_texts
from diagnostics_pretraining.vocabulary import WHOLE, Vocabulary

LOOKED_AT = 20_000
"""Texts whose length is counted at most; of more, as many at equal distances. Of texts that are read on demand no others are read."""


def check_texts(dataset: Dataset, rows: np.ndarray) -> None:
    """Raises where there are no texts, some are empty, or all are equal."""
    if not dataset.texts:
        raise DiagnosticsError(
            f"{dataset.name} has no texts to train with: give data with captions, as captions:FILE or shapes."
        )
    looked_at = _some(rows) if isinstance(dataset.texts, LazySamples) else rows
    empty = [str(dataset.ids[row]) for row in looked_at if not dataset.texts[row].strip()]
    if empty:
        shown = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise DiagnosticsError(
            f"{len(empty):,} of the {len(looked_at):,} train texts of {dataset.name} are empty ({shown}): fill them, or leave those samples out."
        )
    first = dataset.texts[rows[0]]
    if all(dataset.texts[row] == first for row in looked_at):
        raise DiagnosticsError(
            f"All {len(looked_at):,} train texts of {dataset.name} are equal, so there is nothing to tell apart: give other texts."
        )


def _some(rows: np.ndarray) -> np.ndarray:
    """Of many samples some at equal distances."""
    return rows[:: -(-len(rows) // LOOKED_AT)]


def describe_texts(
    dataset: Dataset, rows: np.ndarray, batch: Sequence[int] | np.ndarray, vocabulary: Vocabulary
) -> list[str]:
    """Lines for people: a vocabulary that is not whole, or lacks words, texts that are cut, and equal ones in the first batch."""
    lines: list[str] = []
    seen = _some(rows)
    tokens, cut = vocabulary.encode([dataset.texts[row] for row in seen])
    if vocabulary.kept is not None:
        strange = int((tokens == vocabulary.unknown).any(1).sum())
        of_rows = f"{vocabulary.size - 1:,} rows of {WHOLE:,} of CLIP's vocabulary"
        lines.append(
            f"has {of_rows}, which lack words of {strange:,} of {len(seen):,} texts: all these are one word to it"
            if strange
            else f"keeps the {of_rows} that the texts use, and one for all others"
        )
    if cut:
        lines.append(f"cuts {cut:,} of {len(seen):,} texts, which are longer than {vocabulary.context} tokens")
    if equal := equal_texts(vocabulary.encode([dataset.texts[row] for row in batch])[0]):
        lines.append(
            f"has {equal:,} texts in its first batch of {len(batch):,} that are equal to another one there: each is a false negative of it"
        )
    return lines

"""Questions about samples as a target: which one is asked, its answer, and in which words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diagnostics.vocabulary import SPLITS

KIND, ANSWER, TEXT = 0, 1, 2
"""Columns: the question and its answer, as numbers of the target's classes, and the number of its wording."""
_COLUMNS = 3


def pad_questions(
    asked: Iterable[Sequence[Any]], split: Iterable[str]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """`Question`s of each sample as a target's values, float64 [sample, question, column], classes, and wordings.

    Test asks in wordings that are held back, where there are any. One wording stands for several, in turn from sample
    to sample. What asks nothing is no question.
    """
    rows: list[list[tuple[str, str, str]]] = []
    for i, (of, part) in enumerate(zip(asked, split, strict=True)):
        ways = [(each, (part == "test" and each.held_back) or each.wordings) for each in of]
        said = [(each.name, each.answer, texts[(i + j) % len(texts)]) for j, (each, texts) in enumerate(ways)]
        rows.append([row for row in said if row[2].strip()])
    names, answers, texts = (sorted({row[column] for of in rows for row in of}) for column in range(_COLUMNS))
    classes = *names, *(answer for answer in answers if answer not in set(names))
    number, wording = {name: i for i, name in enumerate(classes)}, {text: i for i, text in enumerate(texts)}
    values = np.full((len(rows), max(map(len, rows), default=0), _COLUMNS), np.nan)
    for to, of in zip(values, rows, strict=True):
        to[: len(of)] = [[number[name], number[answer], wording[text]] for name, answer, text in of] or to[:0]
    return values, classes, tuple(texts)


def there(values: np.ndarray) -> np.ndarray:
    """The places that hold a question, bool [sample, question]."""
    return ~np.isnan(values[..., KIND])


def misfit_of_questions(values: np.ndarray, classes: Sequence[str]) -> str:
    """The reason why values are no questions, in words; "" where they are. An embedding may be behind each."""
    if values.ndim != 3 or values.shape[2] < _COLUMNS or values.dtype.kind != "f":
        return f"its values are {values.dtype} of shape {values.shape}, not the questions of each sample"
    of = values[there(values)]
    numbers = of[:, [KIND, ANSWER]]
    if not np.isfinite(of).all() or (numbers < 0).any() or (numbers >= len(classes)).any():
        return f"a question or an answer is none of the {len(classes)} that are named"
    return ""


def why_no_questions(name: str, values: np.ndarray, split: np.ndarray) -> str:
    """The reason why no probe can answer the questions of a target called so, as a sentence; "" where one can."""
    for part in SPLITS:
        if not there(values[split == part]).any():
            return f"Target {name} has no question in its {part} samples: leave it out or use more samples."
    train = values[split == "train"]
    if len(np.unique(train[there(train)][:, ANSWER])) < 2:
        return f"Target {name} has one and the same answer in all train samples: leave it out or use more samples."
    return ""

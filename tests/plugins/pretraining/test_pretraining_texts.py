"""Texts that cannot be trained on are refused, and what is done to the others is told."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("open_clip")

from diagnostics_pretraining.text_encoder import vocabulary_of
from diagnostics_pretraining.train import check_texts, describe_texts

from diagnostics import Dataset, DiagnosticsError

SPLIT = ["val", "test", *["train"] * 6]
ROWS = np.arange(2, 8)


def dataset(*texts: str) -> Dataset:
    pixels = np.zeros((8, 8, 8, 3), np.uint8)
    return Dataset("mine", "image", pixels, [f"s{i}" for i in range(8)], SPLIT, {}, texts=texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "mine has no texts to train with: give data with captions"),
        (("", "", "a", "", "b", " ", "c", "d"), r"2 of the 6 train texts of mine are empty \(s3, s5\)"),
        (("a", "b", *"xxxxxx"), "All 6 train texts of mine are equal"),
    ],
)
def test_texts_that_teach_nothing_are_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        check_texts(dataset(*texts), ROWS)


def test_people_are_told_of_rows_cuts_and_equal_texts() -> None:
    long = "a red star and a blue disc and a red disc"
    data = dataset("x", "y", "a red star", "a red star", long, "a blue disc", "a red star", long)
    check_texts(data, ROWS)
    strange = describe_texts(data, ROWS, [2, 5], vocabulary_of(["a red star"], 20))
    assert strange == [
        "has 6 rows of 49,408 of CLIP's vocabulary, which lack words of 3 of 6 texts: all these are one word to it"
    ]
    kept, cut, equal = describe_texts(data, ROWS, [2, 3, 5, 6], vocabulary_of([long], 6))
    assert kept.startswith("keeps the 9 rows of 49,408")
    assert cut == "cuts 2 of 6 texts, which are longer than 6 tokens"
    assert equal.startswith("has 3 texts in its first batch of 4 that are equal to another one")
    assert len(describe_texts(data, ROWS, [2, 5], vocabulary_of([long], 20))) == 1

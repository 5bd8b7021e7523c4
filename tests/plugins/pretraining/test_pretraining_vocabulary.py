"""CLIP's tokens: open_clip's own, whole or kept to what some texts use."""

from __future__ import annotations

import pytest

pytest.importorskip("open_clip")

# Below the skip, since these imports need open_clip.
from diagnostics_pretraining.text_encoder import END, PADDING, START, WHOLE, Vocabulary, vocabulary_of
from open_clip.tokenizer import SimpleTokenizer

from diagnostics import DiagnosticsError

TEXTS = (
    "A red striped star, left of two blue circles.",
    "  don't   SHOUT -- caf\u00e9 &amp; na\u00efve \U0001f600 12345",
    "",
    "!",
    "an end in the middle <end_of_text> of it",
    "one word after another " * 10,
)


@pytest.mark.parametrize("context", [3, 8, 32, 77])
def test_tokens_are_open_clips(context: int) -> None:
    tokens, cut = Vocabulary(context).encode(TEXTS)
    assert tokens.equal(SimpleTokenizer()(list(TEXTS), context_length=context))
    assert cut == sum(len(SimpleTokenizer().encode(text)) + 2 > context for text in TEXTS)


def test_a_reduced_one_keeps_what_texts_use() -> None:
    reduced, whole = vocabulary_of(TEXTS, 77), Vocabulary(77)
    rows, (tokens, _) = reduced.rows(), reduced.encode(TEXTS)
    assert (whole.size, len(rows)) == (WHOLE, reduced.size) and reduced.size < 60
    assert [[rows[token] for token in text] for text in tokens.tolist()] == whole.encode(TEXTS)[0].tolist()
    assert whole.rows() == list(range(WHOLE)) and whole.unknown is None


def test_all_else_is_the_unknown_row() -> None:
    reduced = vocabulary_of(["a red star", "two blue stars"], 8)
    used = {token for text in ("a red star", "two blue stars") for token in SimpleTokenizer().encode(text)}
    assert reduced.rows() == [PADDING, *sorted(used), None, START, END]
    (known, other), cut = reduced.encode(["a blue star", "a zebra star"])
    unknown = (other == reduced.unknown).nonzero().flatten().tolist()
    assert unknown == [2] and not bool((known == reduced.unknown).any()) and cut == 0
    # The end stays the largest number, by which open_clip's tower looks for it.
    assert [int(text.argmax()) for text in (known, other)] == [4, 4] and int(known.max()) == reduced.size - 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((2,), "Texts have 3 to 4,096 tokens, start and end included, not 2"),
        ((5000,), "not 5000: choose a context in that range"),
        ((8, (0, 5)), "The rows that a vocabulary keeps are in order, from 0 to 49407"),
        ((8, (0, 9, 5, START, END)), "are in order"),
        ((8, (0, 5, START, END, END + 1)), "are in order"),
    ],
)
def test_what_is_no_vocabulary_is_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        Vocabulary(*arguments)

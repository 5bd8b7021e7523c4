"""What is asked of a dataset's samples and what the answers are, as tokens of a decoder."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diagnostics.plugin import Dataset, DiagnosticsError, Question
from diagnostics_training.language.decoder import Decoder

IGNORED = -100
"""Label of a token that is not to be predicted, as of torch's cross entropy."""
ASKED = "\n"
"""What stands between a question and its answer."""


@dataclass(frozen=True)
class Pair:
    """A question in one of its wordings, as tokens of both; those of the answer end in the decoder's `end`."""

    question: Question
    prompt: list[int]
    answer: list[int]


def check_texts(dataset: Dataset) -> None:
    """Raises for a dataset without texts, and for empty ones: how many, and which first."""
    if not dataset.questions:
        raise DiagnosticsError(
            f"{dataset.name} has no texts, from which language is learned: name a dataset of captions or questions with --data "
            "(`captions:FILE`, `shapes`)."
        )
    rows = {row for row, question in _all(dataset) if not question.answer.strip()}
    rows |= {row for row, asked in enumerate(dataset.questions) if not asked}
    if rows:
        raise DiagnosticsError(
            f"{len(rows)} of the {len(dataset)} samples of {dataset.name} have an empty text, {dataset.ids[min(rows)]} first: fill "
            "it in, or leave these samples out."
        )


def _all(dataset: Dataset) -> Iterator[tuple[int, Question]]:
    return ((row, question) for row, asked in enumerate(dataset.questions) for question in asked)


class Pairs:
    """Questions and answers of a dataset as tokens of a decoder; each text is taken apart once.

    Raises DiagnosticsError for texts that are longer than the decoder's context with `room` tokens of it taken: how many, and which
    first.
    """

    def __init__(self, dataset: Dataset, decoder: Decoder, room: int) -> None:
        self.dataset, self.decoder = dataset, decoder
        self._tokens: dict[str, list[int]] = {}
        # All at once, also where there is no limit: tokenizers run in threads, which processes of `--workers` do without.
        self._check_length(math.inf if decoder.context is None else decoder.context - room)

    def drawn(self, row: int, rng: np.random.Generator) -> Pair:
        """A question of a sample to train on, in one of its wordings."""
        questions = self.dataset.questions[row]
        question = questions[rng.integers(len(questions))]
        return self._pair(question, question.wordings[rng.integers(len(question.wordings))])

    def tested(self, row: int) -> list[Pair]:
        """All questions of a sample, each in one wording that is held back where there are any; by turns from sample to sample."""
        return [
            self._pair(question, wordings[row % len(wordings)])
            for question in self.dataset.questions[row]
            for wordings in [question.held_back or question.wordings]
        ]

    def _pair(self, question: Question, wording: str) -> Pair:
        prompt = self._of(wording + ASKED) if wording else []
        return Pair(question, prompt, [*self._of(question.answer), self.decoder.end])

    def _of(self, text: str) -> list[int]:
        if text not in self._tokens:
            self._tokens[text] = self.decoder.tokens(text)
        return self._tokens[text]

    def _check_length(self, most: float) -> None:
        longest: dict[Question, int] = {}
        long: list[tuple[int, int]] = []
        for row, question in _all(self.dataset):
            if question not in longest:
                pairs = [self._pair(question, wording) for wording in (*question.wordings, *question.held_back)]
                longest[question] = max(len(pair.prompt) + len(pair.answer) for pair in pairs)
            if longest[question] > most:
                long.append((row, longest[question]))
        if long:
            row, length = long[0]
            raise DiagnosticsError(
                f"{len(long)} texts of {self.dataset.name} have more than the {most} tokens that the context of decoder "
                f"{self.decoder.name} leaves beside the encoder's, that of {self.dataset.ids[row]} first ({length}): shorten them, "
                "give a decoder of a longer context, or fewer tokens of the encoder (--pool 2)."
            )


def laid_out(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Pairs as a batch, int64 [pair, token] each: `ids`, prompt and answer, and `labels`, the answer alone and else `IGNORED`.

    They are padded on the right, where a causal decoder does not see the padding.
    """
    longest = max(len(pair.prompt) + len(pair.answer) for pair in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for row, pair in enumerate(pairs):
        first, last = len(pair.prompt), len(pair.prompt) + len(pair.answer)
        ids[row, :last] = torch.tensor([*pair.prompt, *pair.answer])
        labels[row, first:last] = ids[row, first:last]
    return {"ids": ids, "labels": labels}

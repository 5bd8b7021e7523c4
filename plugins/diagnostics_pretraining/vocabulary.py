"""CLIP's byte-pair encoding of texts, whole, or kept to the rows that some texts use and one for all others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diagnostics import DiagnosticsError

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

WHOLE = 49_408
"""Rows of the whole table; the last two are the start and the end of a text."""
START, END = WHOLE - 2, WHOLE - 1
PADDING = 0
"""What follows the end of a text. It is also the row of "!", as in CLIP, whose readers stop at the end."""


_LONGEST = 4096


@dataclass(frozen=True)
class Vocabulary:
    """How texts become tokens.

    context: tokens of a text, start and end included. kept: rows of the whole table that are kept, in order, with padding,
    start and end among them; None for all of them. Of a reduced table the row before the start stands for every token that is
    not kept.
    """

    context: int
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 3 <= self.context <= _LONGEST:
            raise DiagnosticsError(
                f"Texts have 3 to {_LONGEST:,} tokens, start and end included, not {self.context}: choose a context in that range."
            )
        kept = self.kept
        if kept is not None and (list(kept) != sorted({*kept, PADDING, START, END}) or kept[-1] != END or kept[0] < 0):
            raise DiagnosticsError(
                f"The rows that a vocabulary keeps are in order, from {PADDING} to {END}, with {START}: make it of texts."
            )

    @property
    def size(self) -> int:
        """Number of rows."""
        return WHOLE if self.kept is None else len(self.kept) + 1

    @property
    def unknown(self) -> int | None:
        """The row of tokens that are not kept; None where all are."""
        return None if self.kept is None else self.size - 3

    def rows(self) -> list[int | None]:
        """For each row, which one of the whole table it is; None for that of all others."""
        kept = range(WHOLE) if self.kept is None else self.kept
        return [*kept] if self.kept is None else [*kept[:-2], None, START, END]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Tokens int64 [text, context], zeros after the end, and how many texts were longer and are cut before their end."""
        tokens, cut = np.zeros((len(texts), self.context), np.int64), 0
        places = None if self.kept is None else _places(self.kept)
        for row, text in zip(tokens, texts, strict=True):
            whole = _tokens(text)
            cut += len(whole) > self.context
            whole = whole if len(whole) <= self.context else (*whole[: self.context - 1], END)
            row[: len(whole)] = whole if places is None else [places.get(token, self.size - 3) for token in whole]
        return torch.from_numpy(tokens), cut


def vocabulary_of(texts: Iterable[str], context: int) -> Vocabulary:
    """Kept to the rows that these texts use."""
    used = {PADDING, START, END}
    for text in texts:
        used.update(_tokens(text))
    return Vocabulary(context, tuple(sorted(used)))


@functools.lru_cache(2**16)
def _tokens(text: str) -> tuple[int, ...]:
    # Taking a text apart costs as much as reading a small image, and small data show the same texts in every epoch.
    return (START, *tokenizer().encode(text), END)


@functools.cache
def tokenizer() -> SimpleTokenizer:
    """open_clip's; its vocabulary lies in its wheel."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@functools.cache
def _places(kept: tuple[int, ...]) -> dict[int, int]:
    """Row of the whole table -> row of the reduced one."""
    return {row: i + (row >= START) for i, row in enumerate(kept)}

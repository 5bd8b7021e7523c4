"""Grounding: the box of what a phrase names, by a bilinear map between single tokens and the phrase's embedding.

The map is the least-squares solution for "this token lies in the phrase's box" from the products of token and
embedding, where embeddings are whitened and taken as independent of tokens. Then it falls apart into a ridge regression
from tokens to one column for each direction of the embedding, and one for no phrase at all, so that sums are enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.datasets.boxes import AREA, ASIDE, CLASS, there
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import svd
from diagnostics.measures.base import Case
from diagnostics.measures.probes.dense import (
    DenseRows,
    Judged,
    TokenMap,
    Values,
    digest_of_bytes,
)
from diagnostics.measures.probes.detection import (
    BoxProbe,
    BoxRows,
    WithSides,
    assign,
    centres_of,
    corners_of,
    grids_of,
)
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.measures.probes.protocol import KEEP_TOKENS, rows_of
from diagnostics.measures.result import FUNCTIONAL

MOST_RANK = 32
"""Directions of an embedding that are read, those of largest variance over the phrases of train."""
LEAST_IOU = 0.5
VOTES = (0.3, 0.5, 0.7, 0.85)
"""How far from the median score to the highest tokens begin to count for a box, of which one is chosen without test."""
TEXT_ENCODER = "text_encoder"
WORDS = "bag of words"
EMBEDDED_BY = ", embedded by "
"""Between what a target is about and the name of its text encoder."""
_SMALL = 1e-6
"""Of the largest standard deviation, below which a direction is none."""


def count_words(texts: Sequence[str], fitted: np.ndarray, most: int | None = None) -> np.ndarray:
    """Counts of words in each text, over their Euclidean length: float64 [text, word].

    Those count that texts of the numbers `fitted` have, of these the `most` frequent.
    """
    said = [re.findall(r"\w+", text.lower()) for text in texts]
    often = Counter(word for words in sorted(said[i] for i in fitted) for word in words).most_common(most)
    number = {word: i for i, word in enumerate(sorted(word for word, _ in often))}
    counts = np.zeros((len(texts), len(number)))
    for row, words in zip(counts, said, strict=True):
        np.add.at(row, [number[word] for word in words if word in number], 1)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)


def whiten(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Embeddings [text, feature] in at most `MOST_RANK` directions of mean 0 and variance 1.

    `weights` [text] are how often each text counts; float64 [text, direction].
    """
    share = weights / weights.sum()
    away = embeddings - share @ embeddings
    _, sizes, directions = (each.numpy() for each in svd(torch.from_numpy(away * np.sqrt(share)[:, None])))
    rank = min(MOST_RANK, int((sizes > _SMALL * max(sizes.max(initial=0), _SMALL)).sum()))
    return away @ (directions[:rank] / sizes[:rank, None]).T


def vote(score: np.ndarray, corners: np.ndarray, share: float) -> np.ndarray:
    """The box [phrase, 4] on which tokens agree, from scores [token, phrase] and the box that each stands for [token, 4].

    Tokens count by how far their score is above what lies at this share of the way from the median to the highest.
    """
    median = np.median(score, axis=0)
    weight = np.maximum(score - median - share * (score.max(axis=0) - median), 0)
    total = weight.sum(axis=0)
    # Where all tokens are alike, all count.
    of_token = np.where(total > 0, weight / np.where(total > 0, total, 1), 1 / len(score))
    return np.asarray(of_token.T @ corners)


@dataclass(frozen=True)
class PhraseRows(BoxRows):
    """The tokens that grounding reads.

    `values` are 1 in the box of a phrase and 0 elsewhere, and `sides` those of the smallest box that holds a token;
    `texts` [class, direction] the embeddings of phrases, and `words` those by counts.
    """

    texts: np.ndarray
    words: np.ndarray
    text_encoder: str

    @classmethod
    def of(cls, measure: str, activations: Activations, target: StoredTarget) -> PhraseRows:
        """Raise where no tap has a grid, a split no phrase, or train no two that differ."""
        grids, grid = grids_of(activations, target)
        boxes = target.values[: activations.token_samples]
        held, sides = assign(boxes, grid.shape, np.inf)
        counts = there(boxes) & (boxes[:, 1:, ASIDE] == 0) & (activations.split[: len(boxes)] != "")[:, None]
        known = np.repeat(counts.any(axis=1)[:, None], held.shape[1], axis=1)
        rows = rows_of(activations, target.name, counts.any(axis=1), KEEP_TOKENS)
        number = boxes[:, 1:, CLASS]
        of_train = np.bincount(number[rows.train][counts[rows.train]].astype(int), minlength=len(target.classes))
        if (of_train > 0).sum() < 2:
            raise DiagnosticsError(
                f"Target {target.name} has one and the same phrase in all train samples: use more samples.",
                code="too-few",
            )
        counted = count_words(target.classes, np.flatnonzero(of_train))
        embedded, text_encoder = counted, WORDS
        if boxes.shape[2] > AREA + 1:
            # A text has one embedding, wherever it stands.
            place = np.unique(number[there(boxes)].astype(int), return_index=True)
            embedded = np.zeros((len(target.classes), boxes.shape[2] - AREA - 1))
            embedded[place[0]] = boxes[:, 1:, AREA + 1 :][there(boxes)][place[1]]
            text_encoder = target.about.partition(EMBEDDED_BY)[2]
        texts = whiten(embedded, of_train)
        if not texts.shape[1]:
            raise DiagnosticsError(
                f"Phrases of target {target.name} in train are all alike to {text_encoder}: give --text-encoder one that "
                "tells them apart.",
                code="no-effect",
            )
        return cls(
            measure,
            activations,
            target,
            grid,
            (held > 0).astype(np.int16),
            known,
            rows=rows,
            reads=tuple(grids),
            sides=sides,
            texts=texts,
            words=whiten(counted, of_train),
            text_encoder=text_encoder,
        )

    @cached_property
    def digest(self) -> str:
        boxes, texts = np.nan_to_num(self.truth[: len(self.values)]), "\x1f".join(self.target.classes)
        return digest_of_bytes(self.mask_digest.encode(), b"phrases", boxes.tobytes(), texts.encode())

    @cached_property
    def codes(self) -> np.ndarray:
        """Values that a token in the box of a phrase is to give, [class, column]: embedding, counts of words, and 1."""
        return np.concatenate([self.texts, self.words, np.ones((len(self.texts), 1))], axis=1)

    @cached_property
    def others(self) -> np.ndarray:
        """For each phrase another one, int [class]."""
        order = np.random.default_rng(0).permutation(len(self.texts))
        return order[np.argsort(order) - 1]

    @cached_property
    def mean_box(self) -> np.ndarray:
        """Of the phrases of train, x0, y0, x1, y1."""
        boxes = self.truth[self.rows.train, 1:]
        return boxes[boxes[..., ASIDE] == 0][:, :4].mean(axis=0)

    def phrases(self, row: int) -> np.ndarray:
        """Those of a sample that count, [phrase, column]."""
        boxes = self.truth[row, 1:]
        return boxes[boxes[:, ASIDE] == 0]


class Phrases(WithSides, Values):
    """Phrases by ridge on all tokens, and the sides of their boxes by `Sides` on those inside."""

    variants: ClassVar = {"vote": VOTES}

    def rows(self, measure: str, activations: Activations, target: StoredTarget) -> PhraseRows:
        return PhraseRows.of(measure, activations, target)

    def columns(self, dense: DenseRows, rows: np.ndarray) -> np.ndarray:
        assert isinstance(dense, PhraseRows)
        y, x = centres_of(dense.grid.shape)[..., None]
        columns = np.zeros((len(rows), len(y), dense.codes.shape[1]), dtype=np.float32)
        for to, row in zip(columns, rows, strict=True):
            if len(of := dense.phrases(row)):
                x0, y0, x1, y1 = of[:, :4].T
                inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
                to[:] = inside @ dense.codes[of[:, CLASS].astype(int)] / len(of)
        return columns

    def origin(self, dense: DenseRows) -> np.ndarray:
        assert isinstance(dense, PhraseRows)
        return np.zeros(dense.codes.shape[1])

    def judge(self, dense: DenseRows, readout: TokenMap, said: Tensor, rows: np.ndarray) -> Judged:
        assert isinstance(dense, PhraseRows)
        said, test = said.cpu().double(), bool(dense.is_test[rows[0]])
        corners, share = corners_of(said[..., -5:-1], dense).double().numpy(), float(said[0, 0, -1])
        maps, rank = said[..., :-5].numpy(), dense.texts.shape[1]
        ways = ("found", "pointing", *(CONTROLS if test else ()))
        judged = {name: np.zeros(len(rows)) for name in ("reference", *ways)}
        for i, row in enumerate(rows):
            of = dense.phrases(row)
            number, boxes = of[:, CLASS].astype(int), of[:, :4]
            none = maps[i, :, -1:]
            scores = {"found": none + maps[i, :, :rank] @ dense.texts[number].T}
            if test:
                scores["other_phrase"] = none + maps[i, :, :rank] @ dense.texts[dense.others[number]].T
                scores["no_phrase"] = np.broadcast_to(none, scores["found"].shape)
                scores["bag_of_words"] = none + maps[i, :, rank:-1] @ dense.words[number].T
            for name, score in scores.items():
                judged[name][i] = overlap(vote(score, corners[i], share), boxes).sum()
            y, x = centres_of(dense.grid.shape)[:, scores["found"].argmax(axis=0)]
            judged["pointing"][i] = (
                (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])
            ).sum()
            judged["reference"][i] = len(of)
        reference = judged.pop("reference")[:, None]
        return {"loss": reference - judged.pop("found")[:, None], "reference": reference} | (judged if test else {})

    def beside(self, test: Judged) -> dict[str, Any]:
        return {name: test[name].sum() / test["reference"].sum() for name in ("pointing", *CONTROLS)}

    def attributes(self, dense: DenseRows) -> dict[str, Any]:
        assert isinstance(dense, PhraseRows)
        read = [dense.phrases(row) for row in dense.rows.test]
        fitted = {int(number) for row in dense.rows.fit for number in dense.phrases(row)[:, CLASS]}
        right = [overlap(np.broadcast_to(dense.mean_box, of[:, :4].shape), of[:, :4]) for of in read]
        return {
            FUNCTIONAL: "P@.5: share of phrases whose box, on which the tokens of the highest scores agree, has an intersection over "
            "union of .5 with the truth; bilinear least squares on token and embedding, ridge for sides",
            "penalties": list(PENALTIES),
            TEXT_ENCODER: dense.text_encoder,
            "rank": dense.texts.shape[1],
            "phrases_test": sum(map(len, read)),
            "phrases_only_in_test": len({int(c) for of in read for c in of[:, CLASS]} - fitted),
            "line_chance": float(np.concatenate(right).mean()),
        }


CONTROLS = ("other_phrase", "no_phrase", "bag_of_words")
"""P@.5 of the same token map with the phrase of another sample, with none, and of a map to counts of words."""


def overlap(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mask of the boxes [box, 4] that have an intersection over union of `LEAST_IOU` with the truth, bool [box]."""
    low, high = np.maximum(found[:, :2], truth[:, :2]), np.minimum(found[:, 2:], truth[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    areas = sum(np.prod(of[:, 2:] - of[:, :2], axis=1) for of in (found, truth))
    return np.asarray(both >= LEAST_IOU * (areas - both))


def _half(off: float) -> float:
    """Of a unit square that is moved so far, whether it still counts as found."""
    return float(overlap(np.array([[off, 0, 1 + off, 1]]), np.array([[0.0, 0, 1, 1]]))[0])


class GroundingProbe(BoxProbe):
    """P@.5 of the boxes that phrases lead to at each tap's grid tokens; see `Phrases`.

    `pointing` is the share of phrases whose highest token lies in the box. `other_phrase`, `no_phrase` and
    `bag_of_words` are P@.5 of controls; `line_chance` that of the mean box of train. The attribute `text_encoder` names
    what embedded the phrases.
    """

    name = "grounding_probe"
    answers = "Does a phrase lead to the tokens of what it names, and do they know its box?"
    source = "bilinear compatibility: Frome et al. 2013 (DeViSE); P@.5: Yu et al. 2016 (RefCOCO, 1608.00272); pointing game: Zhang et al. 2016 (1608.00507)"
    kinds = streams = ("phrases",)
    losses, score_name = "counts", "P@.5"
    known_answers = (
        Case("unit squares a third apart: intersection over union .5", 1, "Yu et al. 2016 (1608.00272)", lambda: _half(1 / 3 - 1e-9)),
        Case("unit squares .34 apart", 0, "Yu et al. 2016 (1608.00272)", lambda: _half(0.34)),
    )  # fmt: skip
    instead = "it reads a phrase beside the tokens"

    def sums(self, target: StoredTarget) -> Phrases:
        return Phrases()

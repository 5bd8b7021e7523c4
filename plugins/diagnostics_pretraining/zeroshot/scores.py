"""Zero-shot classification and retrieval by embeddings, with intervals over independent groups and chance beside each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln

from diagnostics.measures.probes.caption import recall_hits
from diagnostics.measures.statistics import profile_intervals

AT = (1, 5, 10)


@dataclass(frozen=True)
class Score:
    """A share with its 95 % interval over groups; ends are NaN for a single group. chance: what guessing gives."""

    value: float
    low: float
    high: float
    chance: float


def classification(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Score:
    """The share of images whose own class is nearest by cosine; of equally near ones, one by chance.

    images [image, feature], classes [class, feature]: embeddings of any length; labels [image]: which class is right. Chance is one
    in so many classes.
    """
    hits = _hits(images, classes, labels, np.arange(len(classes)), (1,))
    return _scores(hits, np.full(hits.shape, 1 / len(classes)), groups, seed)[0]


def retrieval(
    images: np.ndarray, texts: np.ndarray, wanted: np.ndarray, groups: np.ndarray, gallery: int, seed: int
) -> dict[str, dict[int, Score]]:
    """Recall at each of `AT` both ways, `image_to_text` and `text_to_image`.

    images, texts: embeddings [pair, feature], partners in the same row; rows with the same number in `wanted` [pair] (equal texts) are
    all partners. Pairs are `dealt` into galleries of `gallery`: recall falls as one grows. Chance is that of a random order with the
    same partners.
    """
    galleries = dealt(len(wanted), gallery, seed)
    hits: dict[str, list[np.ndarray]] = {"image_to_text": [], "text_to_image": []}
    chances: list[np.ndarray] = []
    for rows in galleries:
        _, same = np.unique(wanted[rows], return_inverse=True)
        sides = {"image_to_text": (images[rows], texts[rows]), "text_to_image": (texts[rows], images[rows])}
        for way, (queries, offered) in sides.items():
            hits[way].append(_hits(queries, offered, same, same, AT))
        chances.append(chance_of_recall(np.bincount(same)[same], gallery))
    chance = np.concatenate(chances, axis=1)
    return {
        way: dict(
            zip(AT, _scores(np.concatenate(of_galleries, axis=1), chance, groups[galleries.ravel()], seed), strict=True)
        )
        for way, of_galleries in hits.items()
    }


def dealt(count: int, gallery: int, seed: int) -> np.ndarray:
    """Which of so many pairs lie in each gallery, drawn at random, int [gallery, its pair]; what fills none is left out."""
    order = np.random.default_rng([seed, count]).permutation(count)
    return order[: count // gallery * gallery].reshape(-1, gallery)


def chance_of_recall(partners: np.ndarray, gallery: int) -> np.ndarray:
    """Recall [k, query] at each of `AT` in a random order of a gallery that holds so many partners [query] of each query:
    1 - C(gallery - partners, k) / C(gallery, k)."""
    chances = np.ones((len(AT), len(partners)))
    for row, k in zip(chances, AT, strict=True):
        others = gallery - partners
        some = others >= k
        row[some] = 1 - np.exp(_log_choose(others[some], k) - _log_choose(np.array(gallery), k))
    return chances


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(n - k + 1) - math.lgamma(k + 1)


def _hits(
    queries: np.ndarray, gallery: np.ndarray, wanted: np.ndarray, offered: np.ndarray, at: Sequence[int]
) -> np.ndarray:
    x, y = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (queries, gallery))
    return recall_hits(x, y, wanted, offered, at)


def _scores(hits: np.ndarray, chance: np.ndarray, groups: np.ndarray, seed: int) -> list[Score]:
    """From hits and their chances [score, query]."""
    _, unit = np.unique(groups.astype(str), return_inverse=True)
    wrong, asked = (np.stack([np.bincount(unit, row) for row in rows]) for rows in (1 - hits, np.ones_like(hits)))
    ends = profile_intervals(wrong, asked, 0, seed, share=True)
    return [Score(*map(float, one)) for one in zip(*ends, chance.mean(axis=1), strict=True)]

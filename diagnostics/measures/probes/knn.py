"""k nearest neighbours by cosine, votes weighted by similarity (Wu et al. 2018; DINO)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.measures.arrays import matrix, one_thread
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.protocol import label_rows, need_target, probe_result, sum_by_unit

TEMPERATURE = 0.07
NEIGHBOURS = (5, 10, 20, 50)
"""The grid of k for every tap; what exceeds the rows at hand is lowered to them."""

_BLOCK = 512


def knn_weights(similarities: np.ndarray, temperature: float = TEMPERATURE) -> np.ndarray:
    """softmax(similarity / temperature) over the last axis: the weights of a query's neighbours (1805.01978, eq. 7)."""
    scores = np.asarray(similarities, dtype=np.float64) / temperature
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def knn_votes(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    neighbours: tuple[int, ...] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Class weights [k, query, class] of each query, for every number of neighbours k.

    Parameters
    ----------
    bank: [row, feature]; a row of length zero has cosine 0 with everything.
    labels: int [row], from 0.
    queries: [query, feature]; taken in blocks, so that no [query, row] matrix is held.
    neighbours: each lowered to the number of rows where it exceeds it. Of equally similar rows the earlier counts.
    """
    known, votes = _unit(bank), np.zeros((len(neighbours), len(queries), int(labels.max()) + 1))
    most = min(max(neighbours), len(bank))
    for start in range(0, len(queries), _BLOCK):
        similar = _unit(queries[start : start + _BLOCK]) @ known.T
        nearest = _nearest(similar, most)
        top = np.take_along_axis(similar, nearest, axis=1)
        rows = np.arange(start, start + len(similar))[:, None]
        for i, k in enumerate(neighbours):
            np.add.at(votes[i], (rows, labels[nearest[:, :k]]), knn_weights(top[:, :k], temperature))
    return votes


def _nearest(similar: np.ndarray, most: int) -> np.ndarray:
    """[query, most], rows by falling similarity; of equal ones the earlier first."""
    if most == similar.shape[1]:
        return np.argsort(-similar, axis=1, kind="stable")
    # Sorted by row number first, so that the stable sort decides ties by it.
    some = np.sort(np.argpartition(-similar, most - 1, axis=1)[:, :most], axis=1)
    top = np.take_along_axis(similar, some, axis=1)
    nearest = np.take_along_axis(some, np.argsort(-top, axis=1, kind="stable"), axis=1)
    # Where more rows tie for the last place than fit, the partition took any of them.
    tied = (similar >= top.min(axis=1, keepdims=True)).sum(axis=1) > most
    nearest[tied] = np.argsort(-similar[tied], axis=1, kind="stable")[:, :most]
    return nearest


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


class KnnProbe(Measure):
    """Accuracy of weighted cosine nearest neighbours at every tap."""

    name = "knn_probe"
    answers = "Do samples of one class lie together?"
    source = "Wu et al. 2018 (1805.01978), eq. 7; DINO (2104.14294)"
    kinds = ("label",)

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        target = need_target(self.name, target)
        rows, labels = label_rows(activations, target)
        shape = (len(activations.taps), len(rows.units))
        loss, val_score, chosen = np.zeros(shape), np.zeros(shape[0]), np.zeros(shape[0])
        for i, tap in enumerate(activations.taps):
            x = matrix(activations.pooled(tap.name), f"Tap {tap.name} for {self.name}")
            votes = knn_votes(x[rows.train], labels[rows.train], x[rows.val])
            accuracy = (votes.argmax(axis=2) == labels[rows.val]).mean(axis=1)
            best = int(accuracy.argmax())
            val_score[i], chosen[i] = accuracy[best], min(NEIGHBOURS[best], len(rows.train))
            votes = knn_votes(x[rows.fit], labels[rows.fit], x[rows.test], (NEIGHBOURS[best],))[0]
            loss[i] = sum_by_unit(votes.argmax(axis=1) != labels[rows.test], rows)
        reference = np.broadcast_to(sum_by_unit(np.ones(len(rows.test)), rows), shape)
        functional = f"accuracy of cosine k nearest neighbours, votes weighted by softmax(cosine / {TEMPERATURE})"
        return probe_result(
            activations, rows, loss, reference, val_score, {"k": chosen}, functional, "none; rows of length 1", seed
        )

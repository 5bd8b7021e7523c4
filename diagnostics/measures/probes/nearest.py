"""k-nearest-neighbour classification by cosine, with votes weighted by similarity (Wu et al. 2018; DINO)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, as_tensor, class_labels, one_thread, samples, unit_rows
from diagnostics.measures.known_answers import Case
from diagnostics.measures.probes.protocol import ClassOrValueProbe, TapReadouts
from diagnostics.measures.probes.samples import Choice, SampleProbe, Task

TEMPERATURE = 0.07
NEIGHBOURS = (5, 10, 20, 50)
"""The grid of k for every tap; what exceeds the rows at hand is lowered to them."""

WU = "Wu et al. 2018 (1805.01978), eq. 7"

# Similarities held at a time: 32 MiB.
_BLOCK = 2**22
# Cosines of equal rows, and equal votes, differ by rounding, and must tie.
_TIE = 1e-12


def knn_weights(similarities: Any, temperature: float = TEMPERATURE) -> np.ndarray:
    """softmax(similarity / temperature) over the last axis: the weights of a query's neighbours (1805.01978, eq. 7).

    Examples:
        >>> from diagnostics.measures.probes import knn_weights
        >>> knn_weights([0.9, 0.8, 0.8]).round(4).tolist()
        [0.676, 0.162, 0.162]
    """
    return (as_tensor(similarities) / temperature).softmax(dim=-1).cpu().numpy()


def knn(bank: Any, labels: Any, queries: Any, k: int = 20, temperature: float = TEMPERATURE) -> np.ndarray:
    """The class of each query [query] by its k nearest rows, the first of those with equal votes; arguments as of
    `knn_votes`.

    Raises DiagnosticsError as that does, and for more neighbours than the bank has rows.

    Examples:
        >>> from diagnostics.measures.probes import knn
        >>> bank = [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]]  # two blobs
        >>> knn(bank, [0, 0, 1, 1], [[3.0, 0.2], [0.1, 0.5]], k=2).tolist()
        [0, 1]
    """
    rows = len(samples(bank, "bank"))
    classes, codes = np.unique(class_labels(labels, rows), return_inverse=True)
    if k > rows:
        raise DiagnosticsError(f"k is {k} and the bank has {rows} rows: give a k of at most {rows}, or more rows.")
    return classes[_winner(knn_votes(bank, codes, queries, (k,), temperature)[0])]


@one_thread()
def knn_votes(
    bank: Any,
    labels: Any,
    queries: Any,
    neighbours: tuple[int, ...] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Class weights [k, query, class] of each query by cosine nearest neighbours, for every number of neighbours k.

    Wu et al. 2018 (1805.01978), eq. 7. numpy or torch; computed on the bank's device.

    Parameters
    ----------
    bank: [row, feature]; a row of length zero has cosine 0 with everything.
    labels: int from 0 or bool [row].
    queries: [query, feature]; taken in blocks, so that no [query, row] matrix is held.
    neighbours: each lowered to the number of rows where it exceeds it. Of rows that tie for the last of the k places each
        counts in part, as it would on average if the tie were broken at random.

    Raises DiagnosticsError for NaN, infinity, shapes that do not fit, labels that are no integers and labels below 0.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import knn_votes
        >>> votes = knn_votes(np.eye(2), [0, 1], [[1.0, 0.0]], (1, 2), temperature=1.0)
        >>> votes[:, 0].round(4).tolist()  # one neighbour; two: e / (e + 1), 1 / (e + 1)
        [[1.0, 0.0], [0.7311, 0.2689]]
    """
    known, asked = samples(bank, "bank"), samples(queries, "queries")
    codes = torch.from_numpy(class_labels(labels, len(known))).to(known.device)
    if asked.shape[1] != known.shape[1]:
        raise DiagnosticsError(
            f"bank {tuple(known.shape)} and queries {tuple(asked.shape)} do not fit: give equal features."
        )
    if min(neighbours) < 1:
        raise DiagnosticsError(f"neighbours are {neighbours}: give numbers of at least 1.")
    known, asked = unit_rows(known), asked.to(known.device)
    votes = known.new_zeros(len(neighbours), len(asked), int(codes.max()) + 1)
    most = min(max(neighbours), len(known))
    block = max(1, _BLOCK // len(known))
    for start in range(0, len(asked), block):
        similar = _similar(asked[start : start + block], known)
        # One more than asked for shows whether the last of them ties with others.
        top, nearest = similar.topk(min(most + 1, len(known)), dim=1)
        for i, k in enumerate(neighbours):
            here = votes[i, start : start + block]
            here.scatter_add_(1, codes[nearest[:, :k]], (top[:, :k] / temperature).softmax(dim=1))
            if k < len(known):
                tied = (top[:, k - 1] - top[:, k] <= _TIE).nonzero()[:, 0]
                weights = _in_parts(similar[tied], top[tied, k - 1 : k], k, temperature)
                here[tied] = torch.zeros_like(here[tied]).index_add_(1, codes, weights)
    return votes.cpu().numpy()


def _similar(queries: Tensor, known: Tensor) -> Tensor:
    return unit_rows(queries) @ known.T


def _in_parts(similar: Tensor, last: Tensor, k: int, temperature: float) -> Tensor:
    """Weights of all rows [query, row] where those as similar as the k-th, `last` [query, 1], share the places left."""
    above, tied = similar > last + _TIE, (similar - last).abs() <= _TIE
    part = (k - above.sum(dim=1, keepdim=True)).to(similar.dtype) / tied.sum(dim=1, keepdim=True)
    weights = (above + part * tied) * ((similar - similar.amax(dim=1, keepdim=True)) / temperature).exp()
    return weights / weights.sum(dim=1, keepdim=True)


def _winner(votes: np.ndarray) -> np.ndarray:
    """The class [...] with the most votes [..., class], the first of equals, rounding aside."""
    return (votes >= votes.max(axis=-1, keepdims=True) - _TIE).argmax(axis=-1)


def _first_votes(k: int, temperature: float = TEMPERATURE) -> float:
    """Weight of the first class where the nearest, of cosine .9, has it, and the two next, of cosine .8, the second."""
    bank = np.array([[0.9, np.sqrt(0.19)], [0.8, 0.6], [0.8, -0.6]])
    return float(knn_votes(bank, np.array([0, 1, 1]), np.array([[2.0, 0.0]]), (k,), temperature)[0, 0, 0])


def _first_vote_alone() -> float:
    bank = np.array([[1.0, 0.0], [0.9, np.sqrt(0.19)], [0.0, 1.0]])
    return float(knn_votes(bank, np.array([0, 1, 1]), np.array([[5.0, 0.0]]), (1,))[0, 0, 0])


@dataclass(frozen=True, repr=False)
class Neighbours(ShortRepr, TapReadouts):
    """The class of the nearest rows of a `bank` [tap, row, feature] with `labels` [row]; `neighbours`: how many, of each tap."""

    bank: Tensor
    labels: np.ndarray
    neighbours: tuple[int, ...]

    def __call__(self, x: Tensor) -> np.ndarray:
        of_taps = zip(self.bank, x, self.neighbours, strict=True)
        return np.stack([_winner(knn_votes(bank, self.labels, asked, (k,))[0]) for bank, asked, k in of_taps])


class KnnProbe(ClassOrValueProbe, SampleProbe):
    name = "knn_probe"
    answers = "Do samples of one class lie together?"
    source = "Wu et al. 2018 (1805.01978), eq. 7; DINO (2104.14294)"
    invariant_to = ("rotation", "each sample's own scale")
    kinds = ("label",)
    known_answers = (
        *(
            Case(f"weight {i + 1} of similarities (.9, .8, .8), temperature .07", value, WU, lambda i=i: float(knn_weights([0.9, 0.8, 0.8])[i]))
            for i, value in enumerate((0.675994, 0.162003, 0.162003))
        ),
        Case("votes of the nearest alone", 1, WU, _first_vote_alone),
        Case("votes of similarities (.9, .8, .8), temperature .07", 0.675994, WU, lambda: _first_votes(3)),
        Case("the same, temperature .5", 1 / (1 + 2 * math.exp(-0.2)), WU, lambda: _first_votes(3, 0.5)),
        Case("2 neighbours of similarities (.9, .8, .8): the last two share a place", 1 / (1 + math.exp(-0.1 / 0.07)), WU, lambda: _first_votes(2)),
    )  # fmt: skip

    def choose(self, task: Task, x: Tensor) -> Choice:
        rows, labels = task.rows, task.values
        chosen, val, out_of_fold = list[int](), list[np.ndarray](), list[np.ndarray]()

        def wrong(features: Tensor, bank: np.ndarray, asked: np.ndarray) -> np.ndarray:
            """[k, row asked]."""
            return _winner(knn_votes(features[bank], labels[bank], features[asked])) != labels[asked]

        for features in x:
            judged = on_val = wrong(features, rows.train, rows.val)
            if task.whole:
                judged = np.zeros((len(NEIGHBOURS), len(task.fold)), dtype=bool)
                judged[:, task.fold == 0] = on_val
                for number in range(1, int(task.fold.max()) + 1):
                    out = task.fold == number
                    judged[:, out] = wrong(features, rows.fit[~out], rows.fit[out])
            best = int(judged.sum(axis=1).argmin())
            chosen.append(min(NEIGHBOURS[best], len(rows.train)))
            val.append(on_val[best, :, None])
            out_of_fold.append(judged[best, :, None])
        return Choice({"k": np.array(chosen)}, np.stack(val), np.stack(out_of_fold) if task.whole else None)

    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> TapReadouts:
        # What was lowered to the rows of train is lowered to those of train and val instead.
        neighbours = tuple(next(n for n in NEIGHBOURS if n >= k) for k in numbers["k"])
        return Neighbours(x[:, task.rows.fit], task.values[task.rows.fit], neighbours)

    def stated(self, task: Task) -> dict[str, Any]:
        functional = f"accuracy of cosine k nearest neighbours, votes weighted by softmax(cosine / {TEMPERATURE})"
        return {"functional": functional, "centring": "none; rows of length 1"}

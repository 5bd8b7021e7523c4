"""Probes by cosine: classes of nearest neighbours, and retrieval of captions.

Votes are weighted by similarity (Wu et al. 2018; DINO).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.arrays import ShortRepr, as_tensor, class_labels, pair, samples, unit_rows
from diagnostics.measures.base import Case
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, choose, refit
from diagnostics.measures.probes.protocol import (
    ClassOrValueProbe,
    Probe,
    TapReadouts,
    probe_result,
    rows_of,
    sum_by_unit,
    tap_stacks,
)
from diagnostics.measures.probes.samples import Choice, SampleProbe, Task
from diagnostics.measures.statistics import Losses
from diagnostics.measures.threads import one_thread

TEMPERATURE = 0.07
NEIGHBOURS = (5, 10, 20, 50)
"""The grid of k for every tap; what exceeds the rows at hand is lowered to them."""

WU = "Wu et al. 2018 (1805.01978), eq. 7"

PRODUCTS_A_SECOND = 1.5e10
"""Multiplications of float64 and additions, with the choice of neighbours, by one core; about, as machines differ."""

# Similarities held at a time: 8 MiB.
_BLOCK = 2**20
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
    """The class of each query [query] by its k nearest rows, the first of those with equal votes.

    Arguments as of `knn_votes`.

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
        raise DiagnosticsError(
            f"k is {k} and the bank has {rows} rows: give a k of at most {rows}, or more rows.", code="bad-value"
        )
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
    neighbours: each lowered to the number of rows where it exceeds it. Of rows that tie for the last of the k places
    each
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
    refuse_values(
        (
            asked.shape[1] != known.shape[1],
            f"bank {tuple(known.shape)} and queries {tuple(asked.shape)} do not fit: give equal features.",
            "bad-shape",
        ),
        (min(neighbours) < 1, f"neighbours are {neighbours}: give numbers of at least 1."),
    )
    known, asked = unit_rows(known), asked.to(known.device)
    del bank, queries  # a caller's copies of rows
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
        # Else the next block is made while this one is still held.
        del similar
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
    """The class of the nearest rows of a `bank` [tap, row, feature] with `labels` [row].

    `neighbours`: how many, of each tap.
    """

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
            Case(
                f"weight {i + 1} of similarities (.9, .8, .8), temperature .07",
                value,
                WU,
                lambda i=i: float(knn_weights([0.9, 0.8, 0.8])[i]),
            )
            for i, value in enumerate((0.675994, 0.162003, 0.162003))
        ),
        Case("votes of the nearest alone", 1, WU, _first_vote_alone),
        Case("votes of similarities (.9, .8, .8), temperature .07", 0.675994, WU, lambda: _first_votes(3)),
        Case("the same, temperature .5", 1 / (1 + 2 * math.exp(-0.2)), WU, lambda: _first_votes(3, 0.5)),
        Case(
            "2 neighbours of similarities (.9, .8, .8): the last two share a place",
            1 / (1 + math.exp(-0.1 / 0.07)),
            WU,
            lambda: _first_votes(2),
        ),
    )

    @staticmethod
    def seconds(train: int, val: int, test: int, features: int, *, whole: bool) -> float:
        """Seconds that one core takes for a tap, about, from the numbers of samples.

        They grow with the square of them, where those of other probes grow with their number; `whole` as of a task.
        """
        fit = train + val
        # The fold of val asks train, and each of four others all that is not in it.
        pairs = train * val + fit * test + (train * (fit - train / 4) if whole else 0)
        return pairs * features / PRODUCTS_A_SECOND

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

    def attributes(self, task: Task) -> dict[str, Any]:
        functional = f"accuracy of cosine k nearest neighbours, votes weighted by softmax(cosine / {TEMPERATURE})"
        return {"functional": functional, "centring": "none; rows of length 1"}


AT = (1, 5, 10)
KARPATHY = "Karpathy and Fei-Fei 2015 (1412.2306)"

_QUERIES = 512


@dataclass(frozen=True)
class Retrieval:
    """Recall at each k, both ways, among `gallery` rows.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import retrieval_recall
        >>> a, b = np.eye(3), np.eye(3)[[1, 0, 2]]  # two of three partners exchanged
        >>> recall = retrieval_recall(a, b, at=(1,))
        >>> round(recall.b_to_a[1], 4), recall.gallery
        (0.3333, 3)
    """

    a_to_b: dict[int, float]
    b_to_a: dict[int, float]
    gallery: int


def retrieval_recall(a: Any, b: Any, *, at: Sequence[int] = AT, same: Any = None) -> Retrieval:
    """Share of rows whose partner is among the k rows of the other side that are nearest by cosine.

    The recall of cross-modal retrieval (Karpathy and Fei-Fei 2015, 1412.2306), each row of
    one side asking for its partner among all rows of the other. It falls as the gallery grows: compare at equal n only.

    Parameters
    ----------
    a, b: [sample, feature], partners in the same row. A row of zeros has cosine 0 with everything.
    same: [sample], numbers or names; rows that share one are all each other's partners (equal captions). By default
        each row has one partner.

    Equal cosines are taken in random order, and its expectation is what is returned: rows that are all alike are at
    chance, not at 1.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import retrieval_recall
        >>> retrieval_recall(np.eye(20), 3 * np.eye(20)).a_to_b[1]  # lengths do not count
        1.0
        >>> alike = np.ones((20, 2))
        >>> round(retrieval_recall(alike, alike).a_to_b[5], 4)  # chance: 5 of 20
        0.25
    """
    x, y = pair(a, b)
    refuse_values(
        (
            x.shape[1] != y.shape[1],
            f"a and b have shapes {tuple(x.shape)} and {tuple(y.shape)}: give equal features.",
            "bad-shape",
        ),
        (len(at) == 0 or min(at) < 1, f"Recall at {tuple(at)} does not exist: give numbers of neighbours from 1."),
    )
    groups = np.arange(len(x))
    if same is not None:
        names = np.asarray(same.detach().cpu() if isinstance(same, Tensor) else same)
        if names.shape != groups.shape:
            raise DiagnosticsError(
                f"same has shape {names.shape} for {len(x)} samples: give one number or name per sample.",
                code="bad-shape",
            )
        groups = np.unique(names, return_inverse=True)[1]
    there, back = (
        dict(zip(at, recall_hits(q, g, groups, groups, at).mean(axis=1).tolist(), strict=True))
        for q, g in ((x, y), (y, x))
    )
    return Retrieval(there, back, len(x))


def recall_hits(
    queries: Tensor, gallery: Tensor, wanted: np.ndarray, offered: np.ndarray, at: Sequence[int]
) -> np.ndarray:
    """The chance that the k rows of a gallery that are nearest by cosine hold a partner, [k, query].

    Equal ones stand in random order.

    queries [query, feature], gallery [row, feature], float64. wanted [query], offered [row]: whole numbers; a query and
    a row that have the same are partners, and every query has one.
    """
    known, asked = unit_rows(gallery), unit_rows(queries)
    want, have = (torch.from_numpy(numbers).to(known.device) for numbers in (wanted, offered))
    chances = np.zeros((len(at), len(asked)))
    for start in range(0, len(asked), _QUERIES):
        rows = slice(start, start + _QUERIES)
        similar = asked[rows] @ known.T
        partner = want[rows, None] == have
        best = similar.where(partner, -torch.inf).amax(dim=1, keepdim=True)
        before = (similar > best + _TIE).sum(dim=1)
        tied = (similar - best).abs() <= _TIE
        others, partners = (tied & ~partner).sum(dim=1), (tied & partner).sum(dim=1)
        before, others, partners = (count.cpu().numpy() for count in (before, others, partners))
        chances[:, rows] = [_chance(before, others, partners, k) for k in at]
    return chances


def _chance(before: np.ndarray, others: np.ndarray, partners: np.ndarray, k: int) -> np.ndarray:
    """That k rows hold one of `partners` that are tied with `others` after `before` rows."""
    none = (before < k).astype(np.float64)
    for drawn in range(k):
        # Drawn from the tied rows one after the other, none of them a partner yet.
        left, of = np.maximum(others - drawn, 0), np.maximum(others + partners - drawn, 1)
        none *= np.where(before + drawn < k, left / of, 1)
    return np.where(before < k, 1 - none, 0.0)


class CaptionProbe(Probe):
    """Recall at 1 of each sample's own caption among the test captions, from ridge to the captions' text embeddings.

    Cosines are taken less the mean of the captions fitted, to which ridge falls back where it knows little. Equal
    captions are all right answers, so the score is also the accuracy of CLIP's zero-shot classification with the
    distinct test captions for classes; `balanced_accuracy` is its mean over these.
    """

    name = "caption_probe"
    answers = "Can a sample's caption be found from its activations by a linear map to a text encoder's space?"
    source = "retrieval: Karpathy and Fei-Fei 2015 (1412.2306); zero-shot classification: CLIP (2103.00020); linear map: Merullo et al. 2022 (2209.15162)"
    family = "language"
    kinds = ("caption",)
    losses, score_name = "counts", "recall at 1"
    instead = (
        "it predicts embeddings of captions, and no caption: fit diagnostics.measures.probes.ridge on run.features(tap)"
    )
    known_answers = (
        Case(
            "recall at 1 of partners that are alike",
            1,
            KARPATHY,
            lambda: retrieval_recall(np.eye(6), np.eye(6)).a_to_b[1],
        ),
        Case(
            "recall at 1 where all are alike: chance",
            1 / 6,
            KARPATHY,
            lambda: retrieval_recall(np.ones((6, 2)), np.ones((6, 2))).a_to_b[1],
        ),
    )

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        texts = np.asarray(target.values, dtype=np.float64)
        known: np.ndarray = np.asarray(np.isfinite(texts).all(axis=1))
        rows = rows_of(activations, target.name, known)
        captions = np.unique(texts[rows.test], axis=0, return_inverse=True)[1].ravel()
        distinct, sizes = np.unique(captions, return_counts=True)
        for split, texts_of_split in (("train", len(np.unique(texts[rows.train], axis=0))), ("test", len(distinct))):
            if texts_of_split < 2:
                raise DiagnosticsError(
                    f"Target {target.name} has one and the same caption in all {split} samples: use more samples or "
                    f"leave it out.",
                    code="bad-target",
                )
        of_val = np.unique(texts[rows.val], axis=0, return_inverse=True)[1].ravel()
        count = len(activations.taps)
        loss, val_loss = np.zeros((count, len(rows.units))), np.zeros((count, len(rows.val_units)))
        chosen = np.zeros(count)
        names = [f"sample_to_text_at_{k}" for k in AT[1:]] + [f"text_to_sample_at_{k}" for k in AT]
        beside = {name: np.zeros(count) for name in (*names, "balanced_accuracy")}
        for taps, stack in tap_stacks(activations, self.name):
            y = torch.tensor(texts, device=stack.device)
            mean = y[rows.fit].mean(dim=0)
            for i, x in enumerate(stack, taps.start):
                path = RidgeStack.from_data(x[None, rows.train], y[rows.train])
                chosen[i] = choose(-_cosines(path, x[rows.val], y[rows.val]))
                guess = path.predict(x[None, rows.val], (chosen[i],))[0, 0]
                hits = recall_hits(guess - path.mean_y, y[rows.val] - path.mean_y, of_val, of_val, AT[:1])[0]
                val_loss[i] = sum_by_unit(1 - hits, rows, "val")
                penalty = torch.as_tensor(chosen[i : i + 1], device=x.device)
                (maps,) = refit(x[None, rows.fit], y[rows.fit], penalty[:, None])
                guess = maps.values(x[None, rows.test])[0] - mean
                wanted = y[rows.test] - mean
                to_text, to_sample = (
                    recall_hits(q, g, captions, captions, AT) for q, g in ((guess, wanted), (wanted, guess))
                )
                loss[i] = sum_by_unit(1 - to_text[0], rows)
                for name, hits in zip(names, (*to_text[1:], *to_sample), strict=True):
                    beside[name][i] = hits.mean()
                beside["balanced_accuracy"][i] = (np.bincount(captions, weights=to_text[0]) / sizes).mean()
        n = len(rows.test)
        reference = np.broadcast_to(sum_by_unit(np.ones(n), rows), loss.shape)
        return probe_result(
            activations,
            rows,
            loss,
            reference=reference,
            val=Losses(val_loss, np.broadcast_to(sum_by_unit(np.ones(len(rows.val)), rows, "val"), val_loss.shape)),
            extra={"penalty": chosen, **beside, "line_chance": np.full(count, float((sizes**2).sum()) / n**2)},
            functional=f"recall at 1 of the own caption among {n} test captions, {len(distinct)} of them distinct, by cosine of "
            f"ridge's prediction and text embedding; it falls as their number grows",
            centring="features standardised with the rows fitted, text embeddings less the mean of those fitted",
            seed=seed,
            penalties=list(PENALTIES),
            gallery=n,
            distinct_captions=len(distinct),
        )


def _cosines(path: RidgeStack, x: Tensor, texts: Tensor) -> np.ndarray:
    """[penalty], mean cosine of prediction and text, both less the mean of the captions fitted."""
    total = torch.zeros(len(PENALTIES), dtype=x.dtype, device=x.device)
    for start in range(0, len(x), _QUERIES):
        rows = slice(start, start + _QUERIES)
        wanted = unit_rows(texts[rows] - path.mean_y)
        for j, guess in enumerate(path.predict(x[None, rows])[0]):
            total[j] += (unit_rows(guess - path.mean_y) * wanted).sum()
    return (total / len(x)).cpu().numpy()

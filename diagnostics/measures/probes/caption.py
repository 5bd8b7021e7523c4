"""Caption probe: a linear map from pooled activations to text embeddings, scored by retrieval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import pair, unit_rows
from diagnostics.measures.known_answers import Case
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, choose, refit
from diagnostics.measures.probes.protocol import Probe, probe_result, rows_of, sum_by_unit, tap_stacks
from diagnostics.measures.statistics import Losses

AT = (1, 5, 10)
KARPATHY = "Karpathy and Fei-Fei 2015 (1412.2306)"

_BLOCK = 512
# Cosines of equal rows differ by rounding, and must tie.
_TIE = 1e-12


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
    if x.shape[1] != y.shape[1]:
        raise DiagnosticsError(f"a and b have shapes {tuple(x.shape)} and {tuple(y.shape)}: give equal features.")
    if len(at) == 0 or min(at) < 1:
        raise DiagnosticsError(f"Recall at {tuple(at)} does not exist: give numbers of neighbours from 1.")
    groups = np.arange(len(x))
    if same is not None:
        names = np.asarray(same.detach().cpu() if isinstance(same, Tensor) else same)
        if names.shape != groups.shape:
            raise DiagnosticsError(
                f"same has shape {names.shape} for {len(x)} samples: give one number or name per sample."
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
    """[k, query], the chance that the k rows of a gallery that are nearest by cosine hold a partner, equal ones in random order.

    queries [query, feature], gallery [row, feature], float64. wanted [query], offered [row]: whole numbers; a query and a row that
    have the same are partners, and every query has one.
    """
    known, asked = unit_rows(gallery), unit_rows(queries)
    want, have = (torch.from_numpy(numbers).to(known.device) for numbers in (wanted, offered))
    chances = np.zeros((len(at), len(asked)))
    for start in range(0, len(asked), _BLOCK):
        rows = slice(start, start + _BLOCK)
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

    Cosines are taken less the mean of the captions fitted, to which ridge falls back where it knows little. Equal captions
    are all right answers, so the score is also the accuracy of CLIP's zero-shot classification with the distinct test
    captions for classes; `balanced_accuracy` is its mean over these.
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
        Case("recall at 1 of partners that are alike", 1, KARPATHY, lambda: retrieval_recall(np.eye(6), np.eye(6)).a_to_b[1]),
        Case("recall at 1 where all are alike: chance", 1 / 6, KARPATHY, lambda: retrieval_recall(np.ones((6, 2)), np.ones((6, 2))).a_to_b[1]),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        texts = np.asarray(target.values, dtype=np.float64)
        known: np.ndarray = np.asarray(np.isfinite(texts).all(axis=1))
        rows = rows_of(activations, target.name, known)
        captions = np.unique(texts[rows.test], axis=0, return_inverse=True)[1].ravel()
        distinct, sizes = np.unique(captions, return_counts=True)
        for split, texts_of_split in (("train", len(np.unique(texts[rows.train], axis=0))), ("test", len(distinct))):
            if texts_of_split < 2:
                raise DiagnosticsError(
                    f"Target {target.name} has one and the same caption in all {split} samples: use more samples or leave it out."
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
        val = Losses(val_loss, np.broadcast_to(sum_by_unit(np.ones(len(rows.val)), rows, "val"), val_loss.shape))
        return probe_result(
            activations, rows, loss, reference, val,
            {"penalty": chosen, **beside, "line_chance": np.full(count, float((sizes**2).sum()) / n**2)},
            f"recall at 1 of the own caption among {n} test captions, {len(distinct)} of them distinct, by cosine of ridge's "
            "prediction and text embedding; it falls as their number grows",
            "features standardised with the rows fitted, text embeddings less the mean of those fitted", seed,
            penalties=list(PENALTIES), gallery=n, distinct_captions=len(distinct),
        )  # fmt: skip


def _cosines(path: RidgeStack, x: Tensor, texts: Tensor) -> np.ndarray:
    """[penalty], mean cosine of prediction and text, both less the mean of the captions fitted."""
    total = torch.zeros(len(PENALTIES), dtype=x.dtype, device=x.device)
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        wanted = unit_rows(texts[rows] - path.mean_y)
        for j, guess in enumerate(path.predict(x[None, rows])[0]):
            total[j] += (unit_rows(guess - path.mean_y) * wanted).sum()
    return (total / len(x)).cpu().numpy()

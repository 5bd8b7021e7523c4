"""How often a decoder answers right from an encoder's tokens, and what it answers without them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics import Dataset, DiagnosticsError
from diagnostics.measures.statistics import interval, profile_intervals, resample_counts, resampled_scores
from diagnostics_training.alignment.teachers import OWN, put_section, section_of
from diagnostics_training.language.objective import Language
from diagnostics_training.language.pairs import Pair, Pairs, laid_out

MOST = 500
"""Samples that are asked, at random where there are more."""
CONDITIONS = ("own", "others", "none")
"""What the decoder is shown: the sample that is asked about, one of another group instead, nothing."""
COMMONEST = "commonest"
ALL = "all"


def answers(
    objective: Language, pairs: Pairs, train: np.ndarray, rows: np.ndarray, batch: int, device: str, seed: int
) -> dict[str, Any]:
    """All questions of samples that nothing was trained on, in wordings that are held back where there are any.

    An answer counts as right where it is right to the last token. Gives `samples` and `questions` (how many), `scores`: for each
    question, and `all` of them where there are several, the share of right answers as [value, low, high] for each of
    `CONDITIONS` and for always giving the commonest answer of the samples `train`; `from_samples`: own minus others', paired, likewise;
    `loss`: nats a token of the answers, for each condition, mean over questions. Intervals (95 %) are over groups of samples,
    for the encoder and decoder as they are; ends are None where there is one group.
    """
    dataset = pairs.dataset
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng([seed, 3]).permutation(rows)[:MOST])
    partners = _partners(dataset, rows)
    common = _commonest(dataset, train)
    wrong: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    names: list[str] = []
    units: list[str] = []
    for first in range(0, len(rows), batch):
        part = slice(first, first + batch)
        asked = [(i, pair) for i, row in enumerate(rows[part]) for pair in pairs.tested(int(row))]
        lost, right = _asked(objective, dataset, rows[part], partners[part], asked, batch, device)
        losses.append(lost)
        questions = [pair.question for _, pair in asked]
        constant = [question.answer == common.get(question.name) for question in questions]
        wrong.append(1.0 - np.stack([*right, constant]))
        names += [question.name for question in questions]
        units += [str(dataset.groups[rows[part][i]]) for i, _ in asked]
    return _summary(np.concatenate(wrong, 1), np.concatenate(losses, 1), np.array(names), units, len(rows), seed)


def _asked(
    objective: Language, dataset: Dataset, rows: np.ndarray, partners: np.ndarray, asked: Sequence[tuple[int, Pair]],
    batch: int, device: str,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Loss and whether right, [condition, question] each."""
    student = objective.student
    with torch.no_grad():
        shown: list[tuple[Tensor, Tensor | None]] = []
        for some in (rows, partners):
            read = put_section(OWN, default_collate([student.preprocess(dataset[int(row)]) for row in some]))
            shown.append(objective.shown(section_of(_on(device, read), OWN)))
        lost: list[Tensor] = []
        right: list[Tensor] = []
        for first in range(0, len(asked), batch):
            some = asked[first : first + batch]
            text = _on(device, laid_out([pair for _, pair in some]))
            at = torch.tensor([i for i, _ in some], device=device)
            views = [(tokens[at], None if valid is None else valid[at]) for tokens, valid in shown]
            both = [objective.answered(view, text["ids"], text["labels"]) for view in (*views, None)]
            lost.append(torch.stack([one for one, _ in both]).float().cpu())
            right.append(torch.stack([one for _, one in both]).cpu())
    return torch.cat(lost, dim=1).numpy(), torch.cat(right, dim=1).numpy()


def _on(device: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.to(device) for key, value in batch.items()}


def _partners(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """For each sample the next one of another group."""
    groups = dataset.groups[rows]
    if len(set(groups)) < 2:
        raise DiagnosticsError(
            f"All test samples of {dataset.name} are one group, so that no question can be asked with another's sample: give data of "
            "several groups."
        )
    return np.array(
        [
            next(rows[(i + k) % len(rows)] for k in range(1, len(rows)) if groups[(i + k) % len(rows)] != groups[i])
            for i in range(len(rows))
        ]
    )


def _commonest(dataset: Dataset, train: np.ndarray) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {}
    for row in train:
        for question in dataset.questions[int(row)]:
            counts.setdefault(question.name, Counter())[question.answer] += 1
    return {name: count.most_common(1)[0][0] for name, count in counts.items()}


def _summary(
    wrong: np.ndarray, losses: np.ndarray, names: np.ndarray, units: Sequence[str], samples: int, seed: int
) -> dict[str, Any]:
    """From wrong answers [condition, question] (the commonest answer last) and losses."""
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    single = list(dict.fromkeys(names.tolist()))
    chosen = {name: names == name for name in single} if len(single) > 1 else {}
    scores: dict[str, dict[str, list[float | None]]] = {}
    for name, which in {ALL: np.ones(len(names), bool), **chosen}.items():
        lost, asked = (_by_unit(values * which, unit) for values in (wrong, np.ones_like(wrong)))
        kept = asked[0] > 0
        ends = profile_intervals(lost[:, kept], asked[:, kept], 0, seed, share=True)
        scores[name] = {
            condition: _plain(*(end[i] for end in ends)) for i, condition in enumerate((*CONDITIONS, COMMONEST))
        }
    lost, asked = _by_unit(wrong, unit), _by_unit(np.ones_like(wrong), unit)
    counts = resample_counts(lost.shape[1], seed)
    own, others = (
        resampled_scores(lost[i : i + 1], asked[i : i + 1], counts, seed, True, stream=i)[:, 0] for i in (0, 1)
    )
    gain = float(wrong[1].mean() - wrong[0].mean())
    return {
        "samples": samples,
        "questions": len(names),
        "scores": scores,
        "from_samples": _plain(gain, *interval(gain, own - others, lost.shape[1])),
        "loss": dict(zip(CONDITIONS, losses.mean(axis=1).tolist(), strict=True)),
    }


def _by_unit(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Sums [condition, unit] of values [condition, question]."""
    return np.stack([np.bincount(unit, one, unit.max() + 1) for one in values])


def _plain(*numbers: Any) -> list[float | None]:
    return [float(number) if math.isfinite(number) else None for number in numbers]

"""Answers to questions about images, by a question's embedding that attends to the cells of each tap's grid.

The model is the attentive probe's (`cross_attention`), whose queries and bias are linear maps of the embedding, so that
each question looks elsewhere; the answer is one of those that train gives most often.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from diagnostics.activations.contract import Activations, Observation, StoredTarget
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.questions import ANSWER, KIND, TEXT, there
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.base import Case
from diagnostics.measures.probes.cross_attention import EPOCHS, HEADS, Asked, Attentive, train
from diagnostics.measures.probes.grounding import EMBEDDED_BY, TEXT_ENCODER, WORDS
from diagnostics.measures.probes.protocol import Probe, Rows, probe_result, rows_of, sum_by_unit
from diagnostics.measures.statistics import Losses

SIDE = 4
"""Cells along a side of a grid, where it has as many tokens."""
MOST_ANSWERS = 1000
SETTINGS = ((1e-2, 1.0), (3e-2, 0.1))
"""Learning rate and weight decay that are tried at every tap."""


def _cells(tap: Tap) -> tuple[int, int] | None:
    """Cells along y and x; None for a grid that has no such axes."""
    if tap.grid.tokens == 1:
        return 1, 1
    if tap.grid.axes != ("y", "x"):
        return None
    height, width = tap.grid.shape
    return min(SIDE, height), min(SIDE, width)


def average(tap: Tap, tokens: Tensor, known: Tensor | None = None) -> Tensor:
    """Means over cells [sample, cell, feature] of grid tokens [sample, token, feature].

    Those count that are `known` [sample, token]; without any the mean is 0.
    """
    grid = tokens.float()
    weight = torch.ones_like(grid[..., :1]) if known is None else known[..., None].to(grid)
    shape = tap.grid.shape if tap.grid.tokens > 1 else (1, 1)
    maps = (of.mT.unflatten(2, shape) for of in (torch.where(weight > 0, grid, 0), weight))
    total, share = (adaptive_avg_pool2d(of, _cells(tap) or (1, 1)).flatten(2).mT for of in maps)
    return torch.where(share > 0, total / share.clamp(min=1e-6), 0)


class Cells(Observation):
    """Grid tokens of each tap averaged over at most 4 x 4 cells, [sample, cell, feature], of all samples.

    Where all tokens are stored nothing is recorded.
    """

    name = "cells"
    samples = 2**40
    block = 128

    def reads(self, dataset: Dataset) -> bool:
        return any(target.kind == "questions" for target in dataset.targets.values())

    def values_at(self, tap: Tap) -> int:
        return math.prod(_cells(tap) or (0,)) * tap.features

    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        shapes = {name: _cells(encoder.tap(name)) for name in taps}
        left_out = {name: f"a grid of {encoder.tap(name).grid}, not of y and x" for name in taps if not shapes[name]}

        def pool(tap: Tap, tokens: Tensor) -> Tensor:
            return average(tap, tokens[:, tap.grid.prefix :], encoder.valid(batch, tap)).cpu()

        return Captured(encoder.capture(batch, [name for name in taps if shapes[name]], pool), left_out)


@dataclass(frozen=True)
class Task:
    """All questions one after the other, with their sample, kind and answer (-1: none of the frequent), int [question].

    texts: what they ask, float32 [question, direction]; rows: those of each split.
    """

    sample: np.ndarray
    kind: np.ndarray
    answer: np.ndarray
    texts: Tensor
    rows: Rows
    answers: int
    only_in_test: int
    seed: int

    @classmethod
    def of(cls, activations: Activations, target: StoredTarget, seed: int) -> Task:
        """The task of a target; raises where a split has no question, or all are alike to what embeds them."""
        sample, at = np.nonzero(there(target.values))
        of = target.values[sample, at]
        split, groups = activations.split[sample], activations.groups[sample]
        rows = rows_of(activations.with_other(split=split, groups=groups), target.name, np.ones(len(of), dtype=bool))
        asked = len(np.unique(of[rows.train, TEXT]))
        if of.shape[1] == TEXT + 1 and asked > 1:
            raise DiagnosticsError(
                f"{asked} questions of target {target.name} in train are all alike to "
                f"{target.about.partition(EMBEDDED_BY)[2] or WORDS}: give --text-encoder one that tells them apart.",
                code="no-effect",
            )
        given = of[:, ANSWER].astype(int)
        numbers, times = np.unique(given[rows.train], return_counts=True)
        frequent = np.sort(numbers[np.argsort(-times, kind="stable")][:MOST_ANSWERS])
        place = np.minimum(np.searchsorted(frequent, given), len(frequent) - 1)
        answer = np.where(frequent[place] == given, place, -1)
        # Not whitened: what differs among wordings would then weigh as much as what is asked.
        away = of[:, TEXT + 1 :] - of[rows.train, TEXT + 1 :].mean(axis=0)
        length = np.sqrt((away[rows.train] ** 2).sum(axis=1).mean())
        texts = np.concatenate([away / max(length, 1e-12), np.ones((len(of), 1))], axis=1)
        return cls(
            sample=sample,
            kind=of[:, KIND].astype(int),
            answer=answer,
            texts=torch.from_numpy(texts).float(),
            rows=rows,
            answers=len(frequent),
            only_in_test=int((~np.isin(given[rows.test], numbers)).sum()),
            seed=seed,
        )

    def asked(self, rows: np.ndarray, sample: np.ndarray | None = None) -> Asked:
        """Some questions, of their own samples or of others."""
        return Asked(torch.from_numpy((self.sample if sample is None else sample)[rows]), self.texts[rows])

    def train(self, x: Tensor, rows: np.ndarray, settings: Sequence[tuple[float, float]]) -> Iterator[Attentive]:
        """The models after each epoch on those of some questions whose answer is frequent.

        x: [tap, sample, cell, feature].
        """
        rows = rows[self.answer[rows] >= 0]
        samples, of = np.unique(self.sample[rows], return_inverse=True)
        asked = Asked(torch.from_numpy(of).to(x.device), self.texts[rows].to(x.device))
        wanted = torch.from_numpy(self.answer[rows]).to(x.device)
        return train(x[:, samples], wanted, [list(settings)], EPOCHS, self.seed, asked)

    def wrong(self, fitted: Attentive, x: Tensor, asked: Asked, rows: np.ndarray) -> np.ndarray:
        """[setting, question], 1 where another answer is given than the right one."""
        asked = Asked(asked.sample.to(x.device), asked.texts.to(x.device))
        said = fitted.outputs(x, asked)[0].argmax(dim=2).cpu().numpy()
        return (said != self.answer[rows]).astype(np.float64)

    def read(self, x: Tensor) -> dict[str, Any]:
        """Readings of x [sample, cell, feature]: what was chosen, and wrong answers.

        Those on val are by the fit on train, and those on test by that on both.
        """
        x, rows = x[None], self.rows
        epochs = [self.wrong(each, x, self.asked(rows.val), rows.val) for each in self.train(x, rows.train, SETTINGS)]
        lost = np.stack(epochs)
        epoch, setting = np.unravel_index(lost.mean(axis=2).argmin(), lost.shape[:2])
        last = islice(self.train(x, rows.fit, SETTINGS[setting : setting + 1]), epoch + 1)
        fitted = deque(last, maxlen=1)[0]
        tested = np.unique(self.sample[rows.test])
        other = self.sample.copy()
        other[rows.test] = np.roll(tested, 1)[np.searchsorted(tested, self.sample[rows.test])]
        ways = {"test": self.asked(rows.test), "other": self.asked(rows.test, other)}
        found = {name: self.wrong(fitted, x, asked, rows.test)[0] for name, asked in ways.items()}
        rate, decay = SETTINGS[setting]
        return found | {
            "val": lost[epoch, setting],
            "learning_rate": rate,
            "weight_decay": decay,
            "epochs": epoch + 1.0,
        }


def _planted() -> tuple[Task, Tensor]:
    """Samples of four cells with an answer in each, and two questions that ask for those of the first and the last."""
    rng, n = np.random.default_rng(0), 160
    answers = rng.integers(0, 3, (n, 4))
    x = np.concatenate([4 * np.eye(3)[answers], np.tile(3 * np.eye(4), (n, 1, 1))], axis=2)
    sample = np.repeat(np.arange(n), 2)
    which = np.tile([0, 3], n)
    texts = np.stack([which / 1.5 - 1, np.ones(2 * n)], axis=1)
    part = np.array(["train", "val", "test"])[np.digitize(sample, (100, 120))]
    rows = Rows.of({name: np.flatnonzero(part == name) for name in ("train", "val", "test")}, sample.astype(str))
    told = {"sample": sample, "kind": which, "answer": answers[sample, which], "rows": rows}
    task = Task(**told, texts=torch.from_numpy(texts).float(), answers=3, only_in_test=0, seed=0)
    return task, torch.from_numpy(x).float()


def _accuracy(name: str, *, blank: bool = False) -> float:
    task, x = _planted()
    return 1 - float(task.read(torch.zeros_like(x) if blank else x)[name].mean())


OWN = "constructed"


class QuestionProbe(Probe):
    """Share of right answers to questions about images at each tap; see `Task`.

    `of_<name>` is that of one question. `line_chance` is what the question alone reaches, without tokens (the prior of
    language), `other_sample` the same readout on another sample's tokens, `line_commonest` the answer that is most
    frequent. An answer that train never has counts as wrong.
    """

    name = "question_probe"
    answers = "Do tokens hold the answers to questions, where each question looks for its own?"
    source = "Antol et al. 2015 (VQA, 1505.00468), by exact answers; attention as in Psomas et al. 2025 (2506.10178)"
    needs = "cells"
    kinds = ("questions",)
    family = "language"
    standard = False
    losses, score_name, metric = "counts", "accuracy", "accuracy"
    observation = Cells()
    instead = "it reads a question beside the tokens"
    known_answers = (
        Case("accuracy where a question says which of 4 cells holds the answer", 1, OWN, lambda: _accuracy("test"), 0.05),
        Case("the same on the tokens of another sample, of 3 answers", 1 / 3, OWN, lambda: _accuracy("other"), 0.15),
        Case("the same without tokens", 1 / 3, OWN, lambda: _accuracy("test", blank=True), 0.15),
    )  # fmt: skip

    @staticmethod
    def seconds(values: np.ndarray, split: np.ndarray, features: int) -> float:
        """Seconds that one core takes for taps of so many `features`, about, from a target's values and their split.

        As measured in float32: those of training, which grow with what is learned a feature.
        """
        asked = there(values)
        train, val = (int(asked[split == part].sum()) for part in ("train", "val"))
        answers = min(len(np.unique(values[split == "train"][..., ANSWER][asked[split == "train"]])), MOST_ANSWERS)
        trained = len(SETTINGS) * train + 0.5 * (train + val)
        return 1e-9 * EPOCHS * trained * features * (70 + 0.6 * (values.shape[2] - TEXT) + 1.6 * answers)

    def at_tap(self, activations: Activations, target: StoredTarget, tap: Tap, seed: int) -> dict[str, Any]:
        if activations.token_samples < len(activations.ids):
            cells = torch.from_numpy(activations.read_blocks(Cells.name, tap.name))
        else:
            blocks = activations.token_blocks(tap.name)
            cells = torch.cat([average(tap, torch.from_numpy(block)) for _, block in blocks])
        device = activations.device if activations.device.startswith("cuda") else "cpu"
        return Task.of(activations, target, seed).read(cells.to(device))

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        task, taps = Task.of(activations, target, seed), activations.taps
        rows, left_out = (
            task.rows,
            {tap.name: f"a grid of {tap.grid}, not of y and x" for tap in taps if not _cells(tap)},
        )
        none = dict.fromkeys(("learning_rate", "weight_decay", "epochs"), math.nan)
        none |= {"test": np.full(len(rows.test), np.nan), "val": np.full(len(rows.val), np.nan)}
        none["other"] = none["test"]
        found = [none if tap.name in left_out else self.find_at(activations, target, tap, seed) for tap in taps]
        wrong = {name: np.stack([each[name] for each in found]) for name in ("test", "val", "other")}
        losses = {
            part: Losses(
                np.stack([sum_by_unit(each, rows, part) for each in wrong[part]]),
                np.broadcast_to(sum_by_unit(np.ones(len(of)), rows, part), (len(taps), len(np.unique(units)))),
            )
            for part, of, units in (("test", rows.test, rows.unit_of_test), ("val", rows.val, rows.unit_of_val))
        }
        alone = task.read(torch.zeros(int(task.sample.max()) + 1, 1, 1))["test"]
        kinds = {target.classes[kind]: task.kind[rows.test] == kind for kind in np.unique(task.kind[rows.test])}
        most = np.bincount(task.answer[rows.fit][task.answer[rows.fit] >= 0]).argmax()
        extra = {name: np.array([each[name] for each in found]) for name in ("learning_rate", "weight_decay", "epochs")}
        extra |= {
            "other_sample": 1 - wrong["other"].mean(axis=1),
            "line_commonest": np.full(len(taps), (task.answer[rows.test] == most).mean()),
            "line_chance": np.full(len(taps), 1 - alone.mean()),
            **{f"of_{_slug(name)}": 1 - wrong["test"][:, of].mean(axis=1) for name, of in kinds.items()},
        }
        stated: dict[str, Any] = {f"alone_{_slug(name)}": 1 - float(alone[of].mean()) for name, of in kinds.items()}
        stated[TEXT_ENCODER] = target.about.partition(EMBEDDED_BY)[2] or WORDS
        # Rows of it are questions.
        view = activations.with_other(groups=activations.groups[task.sample])
        return probe_result(
            view, rows, losses["test"].loss, losses["test"].reference, losses["val"], extra, seed=seed,
            reasons=left_out.items(), centring="cells standardised with the samples fitted", pooling="means of 4 x 4 cells",
            functional=f"share of right answers; {HEADS} queries and a bias that are linear in the question's embedding, and a "
            "linear map of what they gather from 4 x 4 cells",
            answers=task.answers, questions_test=len(rows.test), answers_only_in_test=task.only_in_test,
            settings=[list(pair) for pair in SETTINGS], most_epochs=EPOCHS, **stated,
        )  # fmt: skip


def _slug(name: str) -> str:
    """A question's name as part of a variable's."""
    return re.sub(r"\W+", "_", name).strip("_") or "other"

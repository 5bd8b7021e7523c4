"""`diagnostics align language`: an encoder taught by a decoder that answers questions from one of its taps."""

from __future__ import annotations

import functools
import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.weights import seeding
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Question,
    TorchEncoder,
    cut_encoder,
    interval,
    partial_folder,
    profile_intervals,
    resample_counts,
    resample_scores,
)
from diagnostics_training.alignment.decoder import TAP, Decoder, decoder_named, pooled, projector_of, with_projector
from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.objective import OWN, Alignment, put_section, section_of
from diagnostics_training.alignment.student import Course, Row, Start, start_of, with_control
from diagnostics_training.jobs import TINY, LanguageJob
from diagnostics_training.trainer.objective import Batch, World
from diagnostics_training.trainer.record import Watch, digest_of_file

# What is asked of a dataset's samples and what the answers are, as tokens of a decoder.

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
    """Raise for a dataset without texts, and for empty ones: how many, and which first."""
    if not dataset.questions:
        raise DiagnosticsError(
            f"{dataset.name} has no texts, from which language is learned: name a dataset of captions or questions "
            f"with --data (`captions:FILE`, `shapes`).",
            code="no-target",
        )
    rows = {row for row, question in _all(dataset) if not question.answer.strip()}
    rows |= {row for row, asked in enumerate(dataset.questions) if not asked}
    if rows:
        raise DiagnosticsError(
            f"{len(rows)} of the {len(dataset)} samples of {dataset.name} have an empty text, {dataset.ids[min(rows)]} "
            f"first: fill it in, or leave these samples out.",
            code="bad-data",
        )


def _all(dataset: Dataset) -> Iterator[tuple[int, Question]]:
    return ((row, question) for row, asked in enumerate(dataset.questions) for question in asked)


class Pairs:
    """Questions and answers of a dataset as tokens of a decoder; each text is taken apart once.

    Raises DiagnosticsError for texts that are longer than the decoder's context with `room` tokens of it taken: how
    many, and which first.
    """

    def __init__(self, dataset: Dataset, decoder: Decoder, room: int) -> None:
        self.dataset, self.decoder = dataset, decoder
        self._of = functools.cache(decoder.tokens)
        # All at once, also where there is no limit: tokenizers run in threads, which processes of `--workers` do
        # without.
        self._check_length(math.inf if decoder.context is None else decoder.context - room)

    def drawn(self, row: int, rng: np.random.Generator) -> Pair:
        """A question of a sample to train on, in one of its wordings."""
        questions = self.dataset.questions[row]
        question = questions[rng.integers(len(questions))]
        return self._pair(question, question.wordings[rng.integers(len(question.wordings))])

    def tested(self, row: int) -> list[Pair]:
        """All questions of a sample, each in one wording that is held back where there are any.

        By turns from sample to sample.
        """
        return [
            self._pair(question, wordings[row % len(wordings)])
            for question in self.dataset.questions[row]
            for wordings in [question.held_back or question.wordings]
        ]

    def _pair(self, question: Question, wording: str) -> Pair:
        prompt = self._of(wording + ASKED) if wording else []
        return Pair(question, prompt, [*self._of(question.answer), self.decoder.end])

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
                f"{len(long)} texts of {self.dataset.name} have more than the {most} tokens that the context of "
                f"decoder {self.decoder.name} leaves beside the encoder's, that of {self.dataset.ids[row]} first "
                f"({length}): shorten them, give a decoder of a longer context, or fewer tokens of the encoder "
                f"(--pool 2).",
                code="too-large",
            )


def laid_out(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Pairs as a batch, int64 [pair, token] each.

    `ids`, prompt and answer, and `labels`, the answer alone and else `IGNORED`.

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


# Language alignment: a decoder answers questions from an encoder's tokens, and the encoder learns what that asks of it.
#
# Bolya et al., Perception Encoder (arXiv 2504.13181), section 4: tokens of a tap go through a projector into a decoder,
# in front of the text. First the projector learns alone, then the encoder with it, with LayerScale and DropPath.


class Language(Alignment):
    """Cross entropy of an answer's tokens, its end among them, given the sample's tokens and the question.

    The mean over an answer, then over the batch.

    What the decoder reads: its start, the projected grid tokens that stand for data, the question, the answer. No
    encoder teaches, and only DropPath behaves as in training. A decoder that is not trained is no part of this module:
    nothing can train it, and checkpoints hold none of it.

    student: its output is the tap that learns, and it has a projector as a head (`with_projector`); trained in place.
    alone: for how many steps the encoder does not learn, but the projector alone, and a decoder that begins with random
    weights.
    held_out: a batch of questions that `evaluate` asks; None for none.
    """

    phases = True

    def __init__(
        self,
        student: TorchEncoder,
        decoder: Decoder,
        train_decoder: bool = False,
        alone: int = 0,
        held_out: Batch | None = None,
    ) -> None:
        super().__init__(student, ())
        self.decoder, self.alone, self.held_out = decoder, alone, held_out
        self.trained_decoder = decoder.model if train_decoder else None
        decoder.model.requires_grad_(train_decoder)
        self.later: list[nn.Parameter] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.scored(batch, gradient=True)

    def evaluate(self, step: int) -> dict[str, float]:
        """`loss` and `right` of the questions that are held out."""
        if self.held_out is None:
            return {}
        held_out = _on(next(self.parameters()).device, self.held_out)
        return {key: float(value) for key, value in self.scored(held_out).items()}

    def scored(self, batch: Batch, gradient: bool = False) -> dict[str, Tensor]:
        """`loss`, and the share of answers that are `right`."""
        shown = self.shown(section_of(batch, self.section), gradient)
        lost, right = self.answered(shown, batch["ids"], batch["labels"])
        return {"loss": lost.mean(), "right": right.float().mean()}

    def shown(self, read: Any, gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """The vectors of samples that the decoder is shown, [B, K, width], and which stand for data (None: all)."""
        tokens = self.student.capture(read, [TAP], gradient=gradient)[TAP]
        return tokens, self.student.valid(read, self.student.tap(TAP))

    def answered(
        self, shown: tuple[Tensor, Tensor | None] | None, ids: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of each question [B, L] with its labels: the loss of its answer, and whether it would be given.

        Losses are in nats a token; an answer counts as given where the decoder would give it and no more, always taking
        the likeliest token. Nothing of a sample is shown where `shown` is None.

        An answer is right where each of its tokens is the likeliest after those before it, so one pass tells.
        """
        decoder = self.decoder
        start = torch.full((len(ids), 1), decoder.start, device=ids.device)
        text = decoder.embedded(torch.cat([start, ids], dim=1))
        parts, labels = [text], nn.functional.pad(labels, (1, 0), value=IGNORED)
        valid = None
        if shown is not None:
            tokens, valid = shown
            parts = [text[:, :1], tokens.to(text.dtype), text[:, 1:]]
            unlabelled = torch.full(tokens.shape[:2], IGNORED, device=ids.device)
            labels = torch.cat([labels[:, :1], unlabelled, labels[:, 1:]], dim=1)
        sequence, last = torch.cat(parts, dim=1), ids.shape[1] + 1
        if valid is not None:
            sequence, labels, last = _without_gaps(sequence, labels, valid)
        logits = decoder.logits(sequence, last)[:, :-1].float()
        wanted = labels[:, labels.shape[1] - last + 1 :]
        lost = nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=IGNORED
        )
        asked = wanted != IGNORED
        # Answers have one token at least: their end.
        lost = (lost.reshape(wanted.shape) * asked).sum(1) / asked.sum(1)
        return lost, ((logits.argmax(-1) == wanted) | ~asked).all(1)

    def blocks(self) -> Sequence[nn.Module]:
        return [*super().blocks(), *self.decoder.blocks]

    def to(self, *args: Any, **kwargs: Any) -> Language:
        """As of any module; a decoder that is no part of this one comes along."""
        self.decoder.model.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> Language:
        super().train(mode)
        if self.trained_decoder is not None:
            self.trained_decoder.eval()
        return self

    def before_step(self, step: int) -> None:
        """In the first `alone` steps what stands before the encoder's turn learns, then everything that is trained."""
        self.all_learn = step >= self.alone
        for parameter in self.later:
            parameter.requires_grad_(self.all_learn)
        self.train(self.training)

    def free(self, batch: Batch) -> None:
        """Has gradients required of what the answers depend on; raises where that is nothing."""
        super().free(batch)
        for parameter in () if self.trained_decoder is None else self.trained_decoder.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        first: list[nn.Module] = [projector_of(self.module)]
        # From random weights an encoder learns nothing before the decoder has itself learned.
        if self.decoder.name == TINY and self.trained_decoder is not None:
            first.append(self.trained_decoder)
        alone = {id(parameter) for part in first for parameter in part.parameters()}
        self.later = [p for p in self.parameters() if p.requires_grad and id(p) not in alone]


def _without_gaps(sequence: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, int]:
    """Sequences whose tokens that stand for no data have gone to the end, and their labels.

    A causal decoder does not see them there. Also from which token on labels may be found, counted from the end.
    """
    kept = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    kept[:, 1 : 1 + valid.shape[1]] = valid
    order = (~kept).byte().argsort(dim=1, stable=True)
    sequence = sequence.gather(1, order[..., None].expand_as(sequence))
    return sequence, labels.gather(1, order), sequence.shape[1]


# How often a decoder answers right from an encoder's tokens, and what it answers without them.

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

    An answer counts as right where it is right to the last token. Gives `samples` and `questions` (how many), `scores`:
    for each question, and `all` of them where there are several, the share of right answers as [value, low, high] for
    each of `CONDITIONS` and for always giving the commonest answer of the samples `train`; `from_samples`: own minus
    others', paired, likewise;
    `loss`: nats a token of the answers, for each condition, mean over questions. Intervals (95 %) are over groups of
    samples, for the encoder and decoder as they are; ends are None where there is one group.
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
        lost, right = _ask(
            objective=objective,
            dataset=dataset,
            rows=rows[part],
            partners=partners[part],
            asked=asked,
            batch=batch,
            device=device,
        )
        losses.append(lost)
        questions = [pair.question for _, pair in asked]
        constant = [question.answer == common.get(question.name) for question in questions]
        wrong.append(1.0 - np.stack([*right, constant]))
        names += [question.name for question in questions]
        units += [str(dataset.groups[rows[part][i]]) for i, _ in asked]
    return _summary(np.concatenate(wrong, 1), np.concatenate(losses, 1), np.array(names), units, len(rows), seed)


def _ask(
    objective: Language,
    dataset: Dataset,
    rows: np.ndarray,
    partners: np.ndarray,
    asked: Sequence[tuple[int, Pair]],
    batch: int,
    device: str,
) -> tuple[np.ndarray, np.ndarray]:
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


def _on(device: str | torch.device, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.to(device) for key, value in batch.items()}


def _partners(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """For each sample the next one of another group."""
    groups = dataset.groups[rows]
    if len(set(groups)) < 2:
        raise DiagnosticsError(
            f"All test samples of {dataset.name} are one group, so that no question can be asked with another's "
            f"sample: give data of several groups.",
            code="too-few",
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
        resample_scores(lost[i : i + 1], asked[i : i + 1], counts, seed, True, stream=i)[:, 0] for i in (0, 1)
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


# Language alignment's batches: samples, and of each a question with its answer.


class QuestionFeed(Feed):
    """`feed(step, rank, world)`: a process's part of a step's batch.

    Which question of a sample, and in which of its wordings, is a function of the step and of where the sample stands
    in the batch.
    """

    def __init__(self, start: Start, pairs: Pairs, batch: int) -> None:
        super().__init__(
            dataset=start.dataset,
            rows=start.rows,
            student=start.own,
            teachers=(),
            batch=batch,
            mask=0.0,
            seed=start.seed,
        )
        self.pairs = pairs

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, first = self.order.part(step, rank, world)
        places: Sequence[int] = range(first + own.start, first + own.stop)
        rngs = [np.random.default_rng([self.seed, 2, step, place]) for place in places]
        drawn = [self.pairs.drawn(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
        return super().__call__(step, rank, world) | laid_out(drawn)


EVALUATED = 64
"""Samples of val at most, of each of which one question is asked while it trains."""
DECODER = "decoder"
"""Folder beside the encoder with a decoder that was trained."""


def align_language(job: LanguageJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `student.with_control`), and the decoder where it is trained.

    Gives in addition `answers` (see `answers` here), of the test samples, and `decoder`, the folder of the trained one
    or None.
    """
    start = start_of(job)
    if start.base.taps[-1].name != start.tap.name:
        # Without what the base has behind the tap, as a head that is an earlier alignment's.
        start = replace(start, base=cut_encoder(start.base, start.tap.name))
    check_texts(start.dataset)
    decoder = decoder_named(job.lm, _texts(start), start.seed, half=job.precision == "bf16" and not job.train_lm)
    pairs = Pairs(start.dataset, decoder, 1 + pooled(start.tap.grid, job.pool).tokens)
    test = np.flatnonzero(start.dataset.split == "test")
    asked = start.identity(job) | {
        "--projector-steps": job.alone,
        "other weights of the decoder": digest_of_weights(job.lm),
    }
    group = start.own.lineage.get("group") or start.own.name
    name = Path(job.lm).name
    saved = str(job.folder / DECODER) if job.train_lm and job.steps else None

    def head(student: TorchEncoder) -> TorchEncoder:
        with seeding(start.seed):
            return with_projector(student, decoder.width, job.pool)

    def make(student: TorchEncoder) -> tuple[Alignment, QuestionFeed]:
        asked_of_val = held_out(start, pairs) if job.evaluate_every else None
        return Language(student, decoder, job.train_lm, job.alone, asked_of_val), QuestionFeed(start, pairs, job.batch)

    def conclude(objective: Alignment, where: World) -> dict[str, Any]:
        assert isinstance(objective, Language)
        found = answers(
            objective=objective,
            pairs=pairs,
            train=start.rows,
            rows=test,
            batch=job.batch,
            device=where.device,
            seed=start.seed,
        )
        if saved:
            save_decoder(Path(saved), decoder)
        return {"answers": found, "decoder": saved}

    def plan(where: World, watch: Watch, done: Row | None) -> Course:
        return Course(
            folder=job.folder,
            asked=asked,
            to=name,
            teacher=None,
            make=make,
            lineage={"group": f"{group} aligned with {name}", "to": name, "for": ""},
            row={"for": None, "probed": None},
            head=head,
            alone=job.alone,
            conclude=conclude,
        )

    return with_control(job, start, asked, plan)


def _texts(start: Start) -> list[str]:
    questions: set[Question] = {question for asked in start.dataset.questions for question in asked}
    return sorted({text for one in questions for text in (one.answer, *one.wordings, *one.held_back)})


def held_out(start: Start, pairs: Pairs) -> dict[str, Tensor]:
    """Questions about samples of val, as a batch. Raises where there are none."""
    rows = np.flatnonzero(start.dataset.split == "val")
    if not len(rows):
        raise DiagnosticsError(
            f"{start.dataset.name} has no val split to evaluate on: leave --evaluate-every out.", code="bad-splits"
        )
    return QuestionFeed(replace(start, rows=rows), pairs, min(EVALUATED, len(rows)))(0)


def digest_of_weights(name: str) -> str:
    """Of the weights in a decoder's folder; those of `tiny` follow from texts and seed."""
    digest = hashlib.sha256()
    for path in sorted(Path(name).expanduser().glob("*.safetensors")) if name != TINY else ():
        digest.update(digest_of_file(path))
    return digest.hexdigest()


def save_decoder(folder: Path, decoder: Decoder) -> None:
    """Written beside its place and moved there: what was there is replaced whole."""
    with partial_folder(folder) as partial:
        decoder.save(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)

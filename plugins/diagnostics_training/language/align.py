"""`diagnostics align language`: an encoder taught by a decoder that answers questions from one of its taps."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Question,
    TorchEncoder,
    cut_encoder,
    interval,
    profile_intervals,
    resample_counts,
    resampled_scores,
)
from diagnostics_training.alignment.course import Course, Row, with_control
from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.job import AlignmentJob
from diagnostics_training.alignment.layer_scale import DropPath
from diagnostics_training.alignment.objective import Alignment
from diagnostics_training.alignment.start import Start, start_of
from diagnostics_training.alignment.tap import uncontrolled
from diagnostics_training.alignment.teachers import OWN, put_section, section_of
from diagnostics_training.language.decoder import TINY, Decoder, decoder_named
from diagnostics_training.language.pairs import IGNORED, Pair, Pairs, check_texts, laid_out
from diagnostics_training.language.projector import TAP, pooled, projector_of, with_projector
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch
from diagnostics_training.trainer.objective import Batch

# Language alignment: a decoder answers questions from an encoder's tokens, and the encoder learns what that asks of it.
#
# Bolya et al., Perception Encoder (arXiv 2504.13181), section 4: tokens of a tap go through a projector into a decoder, in front of
# the text. First the projector learns alone, then the encoder with it, with LayerScale and DropPath.


class Language(Alignment):
    """Cross entropy of an answer's tokens, its end among them, given the sample's tokens and the question; the mean over an answer,
    then over the batch.

    What the decoder reads: its start, the projected grid tokens that stand for data, the question, the answer. No encoder teaches,
    and only DropPath behaves as in training. A decoder that is not trained is no part of this module: nothing can train it, and
    checkpoints hold none of it.

    student: its output is the tap that learns, and it has a projector as a head (`projector.with_projector`); trained in place.
    alone: for how many steps the encoder does not learn, but the projector alone, and a decoder that begins with random weights.
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
        self.trained_decoder = decoder.module if train_decoder else None
        decoder.module.requires_grad_(train_decoder)
        self.later: list[nn.Parameter] = []
        self.all_learn = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.scored(batch, gradient=True)

    def evaluate(self, step: int) -> dict[str, float]:
        """`loss` and `right` of the questions that are held out."""
        if self.held_out is None:
            return {}
        device = next(self.parameters()).device
        held_out = {key: value.to(device) for key, value in self.held_out.items()}
        return {key: float(value) for key, value in self.scored(held_out).items()}

    def scored(self, batch: Batch, gradient: bool = False) -> dict[str, Tensor]:
        """`loss`, and the share of answers that are `right`."""
        shown = self.shown(section_of(batch, self.section), gradient)
        lost, right = self.answered(shown, batch["ids"], batch["labels"])
        return {"loss": lost.mean(), "right": right.float().mean()}

    def shown(self, read: Any, gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """What the decoder is shown of samples, [B, K, width], and which of it stands for data (None: all)."""
        tokens = self.student.capture(read, [TAP], gradient=gradient)[TAP]
        return tokens, self.student.valid(read, self.student.tap(TAP))

    def answered(
        self, shown: tuple[Tensor, Tensor | None] | None, ids: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of each question [B, L] with its labels: the loss of its answer, in nats a token, and whether the decoder would give this
        answer and no more, always taking the likeliest token. Nothing of a sample is shown where `shown` is None.

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
        self.decoder.module.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> Language:
        super().train(mode)
        if self.trained_decoder is not None:
            self.trained_decoder.eval()
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.train(mode and self.all_learn)
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
        if self.decoder.random and self.trained_decoder is not None:
            first.append(self.trained_decoder)
        alone = {id(parameter) for part in first for parameter in part.parameters()}
        self.later = [p for p in self.parameters() if p.requires_grad and id(p) not in alone]


def _without_gaps(sequence: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, int]:
    """Sequences whose tokens that stand for no data have gone to the end, where a causal decoder does not see them, their labels,
    and from which token on labels may be found, counted from the end."""
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


# Language alignment's batches: samples, and of each a question with its answer.


class QuestionFeed(Feed):
    """`feed(step, rank, world)`: a process's part of a step's batch; which question of a sample, and in which of its wordings, is a
    function of the step and of where the sample stands in the batch."""

    def __init__(self, start: Start, pairs: Pairs, batch: int) -> None:
        super().__init__(start.dataset, start.rows, start.own, (), batch, 0.0, start.seed)
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


@dataclass(frozen=True, kw_only=True)
class LanguageJob(AlignmentJob):
    """What `diagnostics align language` was asked for; see its options."""

    command: ClassVar[str] = "align language"

    lm: str
    pool: int = 1
    projector_steps: int | None = None
    train_lm: bool = False
    drop_path: float = 0.1
    evaluate_every: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in (1, 2):
            raise DiagnosticsError(f"Tokens cannot be pooled by {self.pool}: give --pool 1 or 2.")
        if not 0 <= self.alone <= self.steps:
            raise DiagnosticsError(
                f"The projector cannot learn alone for {self.alone} of {self.steps} steps: give --projector-steps 0 to {self.steps}."
            )
        if self.lm == TINY and not self.train_lm:
            raise DiagnosticsError("Decoder tiny starts from random weights and must be trained too: add --train-lm.")
        if self.lm != TINY and Path(self.lm).expanduser().resolve().is_relative_to(self.folder.expanduser().resolve()):
            raise DiagnosticsError(
                f"Decoder {self.lm} lies in {self.folder}, where it would be overwritten: give another --out."
            )

    @property
    def alone(self) -> int:
        """Steps in which the projector learns alone: a tenth, unless they are given."""
        return self.steps // 10 if self.projector_steps is None else self.projector_steps


def align_language(job: LanguageJob) -> dict[str, Any]:
    """Aligns and saves an encoder and its control (see `course.with_control`), and the decoder where it is trained.

    Gives in addition `answers` (see `answers.answers`), of the test samples, and `decoder`, the folder of the trained one or None.
    """
    start = _ending(start_of(job))
    check_texts(start.dataset)
    half = job.precision == "bf16" and not job.train_lm
    decoder = decoder_named(job.lm, _texts(start), start.seed, half)
    pairs = Pairs(start.dataset, decoder, 1 + pooled(start.tap.grid, job.pool).tokens)
    test = np.flatnonzero(start.dataset.split == "test")
    asked = job.identity(start) | {"projector_steps": job.alone, "decoder": digest_of_weights(job.lm)}
    group = start.own.lineage.get("group") or start.own.name
    name = Path(job.lm).name
    saved = str(job.folder / DECODER) if job.train_lm and job.steps else None

    def make(student: TorchEncoder) -> tuple[Alignment, QuestionFeed]:
        asked_of_val = held_out(start, pairs) if job.evaluate_every else None
        return Language(student, decoder, job.train_lm, job.alone, asked_of_val), QuestionFeed(start, pairs, job.batch)

    def conclude(objective: Alignment, where: World) -> dict[str, Any]:
        assert isinstance(objective, Language)
        found = answers(objective, pairs, start.rows, test, job.batch, where.device, start.seed)
        if saved:
            save_decoder(Path(saved), decoder)
        return {"answers": found, "decoder": saved}

    def plan(where: World, watch: Watch, done: Row | None) -> Course:
        return Course(
            job.folder, asked, name, None, make,
            {"group": f"{group} aligned with {name}", "to": name, "for": "", **uncontrolled(job)},
            {"for": None, "probed": None}, head=_head(start, job, decoder), alone=job.alone, conclude=conclude,
        )  # fmt: skip

    return with_control(job, start, asked, plan)


def _ending(start: Start) -> Start:
    """The start without what the base has behind the tap, as a head that is an earlier alignment's."""
    if start.base.taps[-1].name == start.tap.name:
        return start
    return replace(start, base=cut_encoder(start.base, start.tap.name))


def _texts(start: Start) -> list[str]:
    questions: set[Question] = {question for asked in start.dataset.questions for question in asked}
    return sorted({text for one in questions for text in (one.answer, *one.wordings, *one.held_back)})


def held_out(start: Start, pairs: Pairs) -> dict[str, Tensor]:
    """Questions about samples of val, as a batch. Raises where there are none."""
    rows = np.flatnonzero(start.dataset.split == "val")
    if not len(rows):
        raise DiagnosticsError(f"{start.dataset.name} has no val split to evaluate on: leave --evaluate-every out.")
    return QuestionFeed(replace(start, rows=rows), pairs, min(EVALUATED, len(rows)))(0)


def _head(start: Start, job: LanguageJob, decoder: Decoder) -> Callable[[TorchEncoder], TorchEncoder]:
    def head(student: TorchEncoder) -> TorchEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            return with_projector(student, decoder.width, job.pool)

    return head


def digest_of_weights(name: str) -> str:
    """Of the weights in a decoder's folder; those of `tiny` follow from texts and seed."""
    digest = hashlib.sha256()
    for path in sorted(Path(name).expanduser().glob("*.safetensors")) if name != TINY else ():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def save_decoder(folder: Path, decoder: Decoder) -> None:
    """Written beside its place and moved there: what was there is replaced whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        decoder.save(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise DiagnosticsError(
            f"The decoder cannot be written to {folder} ({error.strerror}): free some room there and give the same command again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

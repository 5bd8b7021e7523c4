"""The attentive probe: predicts a class or a value from all tokens of a sample, through learned attention.

One cross-attention block as in V-JEPA (Bardes et al. 2024, 2404.08471, section 4), without its perceptron: each of
HEADS learned queries q_h attends to the tokens x_t of a sample, and what the heads gather is read out linearly,

    a_h = softmax_t(q_h . x_t / sqrt(d)),    output = sum_h W_h (sum_t a_ht x_t) + b.

A block with projections to keys and values is the same function with fewer free numbers, for their products with q_h
and W_h can be learned whole (Psomas et al. 2025, 2506.10178). With queries of zero it is the linear probe on
mean-pooled tokens.

Shapes: tokens [tap, sample, token, feature]; queries [tap, setting, head, feature]; weights [tap, setting, head *
feature, output]; bias [tap, setting, output]. A setting is a pair of learning rate and weight decay; all are trained
side by side on the same batches, and on a GPU all taps of one shape too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, as_tensor, class_labels, finite, require_finite_tap, token_samples
from diagnostics.measures.base import Case, normal
from diagnostics.measures.probes.protocol import ClassOrValueProbe, TapReadouts
from diagnostics.measures.probes.samples import Choice, SampleProbe, Task

HEADS = 4
SETTINGS: tuple[tuple[float, float], ...] = tuple(product((1e-2, 3e-2), (1e-2, 1.0)))
"""Learning rate and weight decay (decoupled, a step) that are tried at every tap."""

EPOCHS = 20
"""At most; how many is chosen on val."""

BATCH = 32
MOST_SAMPLES = 1024
MOST_VALUES = 2**27
"""Token values held for one tap, 512 MiB in float32; more tokens a sample leave fewer samples."""

BARDES = "Bardes et al. 2024 (2404.08471), without perceptron"

# A feature that varies less than this beside its mean is constant up to float32's rounding.
_CONSTANT = 1e-6

TOGETHER = 16
"""Taps trained side by side on a GPU, up to 8 GiB of tokens."""


@dataclass(frozen=True, repr=False)
class Attentive(ShortRepr):
    """Fitted models, float32.

    `mean` and `scale` [tap, feature] standardise tokens, `centre` and `spread` [output] are those of the outputs (0 and
    1 for classes).
    """

    mean: Tensor
    scale: Tensor
    queries: Tensor
    weights: Tensor
    bias: Tensor
    centre: Tensor
    spread: Tensor

    def outputs(self, tokens: Tensor, asked: Asked | None = None) -> Tensor:
        """Outputs [tap, setting, row, output] for tokens [tap, sample, token, feature], in blocks of rows.

        A row is a sample or, where samples are `asked`, a question.
        """
        mean, scale = self.mean[:, None, None], self.scale[:, None, None]
        rows = torch.arange(tokens.shape[1] if asked is None else len(asked.sample), device=tokens.device)
        outputs = [
            attend(
                (_of(tokens, block, asked) - mean) * scale, self.queries, self.weights, self.bias, _texts(block, asked)
            )
            for block in rows.split(BATCH)
        ]
        return torch.cat(outputs, dim=2) * self.spread + self.centre


@dataclass(frozen=True, repr=False)
class Asked(ShortRepr):
    """Questions, each about one sample, int [question]; `texts` float32 [question, direction], the last of which is 1."""

    sample: Tensor
    texts: Tensor


def _of(tokens: Tensor, rows: Tensor, asked: Asked | None) -> Tensor:
    return tokens[:, rows if asked is None else asked.sample[rows]]


def _texts(rows: Tensor, asked: Asked | None) -> Tensor | None:
    return None if asked is None else asked.texts[rows]


@dataclass(frozen=True, repr=False)
class Settings(ShortRepr, TapReadouts):
    """Readouts of several settings: [tap, setting, sample(, output)]; of scores the class, one of `numbers` [class]."""

    fitted: Attentive
    numbers: np.ndarray | None

    def __call__(self, x: Tensor) -> np.ndarray:
        outputs = self.fitted.outputs(x.float()).double().cpu().numpy()
        return outputs if self.numbers is None else self.numbers[outputs.argmax(axis=-1)]


class OneSetting(Settings):
    """The readouts of one setting for each tap."""

    def __call__(self, x: Tensor) -> np.ndarray:
        return super().__call__(x)[:, 0]


def attend(tokens: Tensor, queries: Tensor, weights: Tensor, bias: Tensor, texts: Tensor | None = None) -> Tensor:
    """The model, [tap, setting, sample, output]; shapes and formula at the top of the module.

    With `texts` [sample, direction] a query and the bias are linear maps of what is asked: queries [tap, setting, head,
    direction, feature], bias [tap, setting, direction, output].
    """
    samples, count, features = tokens.shape[1:]
    settings, heads = queries.shape[1:3]
    if texts is not None:
        own = (texts @ queries.flatten(1, 2) / math.sqrt(features)).transpose(1, 2)
        gathered = (own @ tokens.mT).softmax(dim=3) @ tokens
        return gathered.unflatten(2, (settings, heads)).movedim(2, 1).flatten(3) @ weights + texts @ bias
    flat = queries.flatten(1, 2) / math.sqrt(features)
    # Queries by tokens, not tokens by queries: on a CPU the narrow side first is several times as fast.
    scores = (flat @ tokens.flatten(1, 2).mT).unflatten(2, (samples, count))
    gathered = scores.softmax(dim=3).transpose(1, 2) @ tokens
    by_setting = gathered.unflatten(2, (settings, heads)).transpose(1, 2).flatten(3)
    return by_setting @ weights + bias[:, :, None]


def train(
    tokens: Tensor,
    targets: Tensor,
    settings: Sequence[Sequence[tuple[float, float]]],
    epochs: int,
    seed: int,
    asked: Asked | None = None,
) -> Iterator[Attentive]:
    """The models after each epoch, for settings [tap][setting]; where samples are `asked`, of targets [question].

    tokens [tap, sample, token, feature] float32, standardised **in place**; targets [sample] int64 for classes
    (cross-entropy) or [sample, column] float (squared error of the standardised columns). AdamW on batches of BATCH
    samples, its learning rate falling to zero along a cosine. Start and batches follow from the seed alone.
    """
    taps, _, _, features = tokens.shape
    n, directions = len(targets), [] if asked is None else [asked.texts.shape[1]]
    classes = targets.ndim == 1
    outputs = int(targets.max()) + 1 if classes else targets.shape[1]
    rest = tokens.view(taps, -1, features)
    mean = rest.mean(dim=1)
    rest -= mean[:, None]
    spread = torch.linalg.vecdot(rest, rest, dim=1).div(rest.shape[1]).sqrt()
    scale = torch.where(spread > _CONSTANT * mean.abs(), 1 / spread, 0.0)
    rest *= scale[:, None]
    centre, unit = torch.zeros_like(tokens[0, 0, 0, :1]), torch.ones_like(tokens[0, 0, 0, :1])
    if classes:
        wanted = one_hot(targets, outputs).to(tokens)
    else:
        centre = targets.mean(dim=0)
        unit = (targets - centre).square().mean().sqrt()
        unit = torch.where(unit > 0, unit, 1.0)
        wanted = ((targets - centre) / unit).to(tokens)
    # Drawn on the CPU, so that every device starts from the same queries.
    rng = torch.Generator(device="cpu").manual_seed(seed)
    start = torch.randn(HEADS, *directions, features, generator=rng, device="cpu").to(tokens)
    count = len(settings[0])
    queries = start.expand(taps, count, *start.shape).clone()
    weights = tokens.new_zeros(taps, count, HEADS * features, outputs)
    bias = tokens.new_zeros(taps, count, *directions, outputs)
    if classes:
        (bias if asked is None else bias[:, :, -1]).add_(wanted.mean(dim=0).clamp(min=1e-6).log())
    rates, decays = torch.tensor(settings, dtype=tokens.dtype, device=tokens.device).unbind(dim=2)
    optimiser = _AdamW((queries, weights, bias), rates, decays)
    steps = epochs * math.ceil(n / BATCH)
    for _ in range(epochs):
        for rows in torch.randperm(n, generator=rng, device="cpu").to(tokens.device).split(BATCH):
            parameters = [p.requires_grad_() for p in optimiser.parameters]
            guess = attend(_of(tokens, rows, asked), *parameters, texts=_texts(rows, asked))
            if classes:
                loss = (guess.logsumexp(dim=3) - (guess * wanted[rows]).sum(dim=3)).mean(dim=2).sum()
            else:
                loss = (guess - wanted[rows]).square().sum(dim=3).mean(dim=2).sum()
            optimiser.step(torch.autograd.grad(loss, parameters), steps)
        fitted = (p.detach().clone() for p in optimiser.parameters)
        yield Attentive(mean, scale, *fitted, centre=centre.to(tokens), spread=unit.to(tokens))


class _AdamW:
    """AdamW (Loshchilov and Hutter 2019) of several models.

    Each has a learning rate and a decay [tap, setting] of its own.
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Tensor, decays: Tensor) -> None:
        self.parameters = list(parameters)
        self.rates, self.decays, self.taken = rates, decays, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Tensor], steps: int) -> None:
        """One of `steps` steps."""
        share = (1 + math.cos(math.pi * self.taken / steps)) / 2
        self.taken += 1
        for i, gradient in enumerate(gradients):
            p = self.parameters[i].detach()
            self.first[i].lerp_(gradient, 0.1)
            self.second[i].lerp_(gradient.square(), 0.001)
            away = self.first[i] / (1 - 0.9**self.taken)
            size = (self.second[i] / (1 - 0.999**self.taken)).sqrt_().add_(1e-8)
            rates = (self.rates * share).reshape(*self.rates.shape, *[1] * (p.ndim - 2))
            decay = 1 - rates * self.decays.reshape(rates.shape) if i < 2 else 1.0  # not of the bias
            self.parameters[i] = p * decay - rates * away / size


def attentive(
    tokens: Any,
    target: Any,
    new: Any,
    *,
    setting: tuple[float, float] = SETTINGS[0],
    epochs: int = EPOCHS,
    seed: int = 0,
) -> np.ndarray:
    """The predictions for `new` tokens of an attentive probe that is fitted on `tokens`.

    One cross-attention block as in V-JEPA (Bardes et al. 2024, 2404.08471), without its perceptron: learned queries q_h
    attend to a sample's tokens x_t, a_h = softmax_t(q_h . x_t / sqrt(d)), and sum_h W_h (sum_t a_ht x_t) + b is read
    out.

    Parameters
    ----------
    tokens, new: [sample, token, feature], numpy or torch; computed in float32 where `tokens` lie.
    target: int from 0 or bool [sample], classes, or float [sample] or [sample, column].
    setting: learning rate and weight decay.

    Returns classes [new sample], or values [new sample(, column)].

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import attentive
        >>> labels = np.arange(12) % 2
        >>> tokens = np.zeros((12, 4, 2))
        >>> tokens[np.arange(12), np.arange(12) % 4, labels] = 5  # one token has it
        >>> attentive(tokens, labels, tokens[:4, ::-1]).tolist()  # in any order
        [0, 1, 0, 1]
    """
    given, fresh = (
        token_samples(x, f"The array of {of}")[0].float() for x, of in ((tokens, "tokens"), (new, "new tokens"))
    )
    whole = not target.is_floating_point() if isinstance(target, Tensor) else np.asarray(target).dtype.kind != "f"
    y = as_tensor(class_labels(target, len(given), "target classes") if whole else target)
    if y.ndim not in (1, 2) or len(y) != len(given) or fresh.shape[2] != given.shape[2]:
        raise DiagnosticsError(
            f"tokens {tuple(given.shape)}, target {tuple(y.shape)} and new {tuple(fresh.shape)} do not fit: give one "
            f"target per sample and equal features.",
            code="bad-shape",
        )
    finite(y, "target")
    classes, codes = y.unique(return_inverse=True)
    wanted = codes if whole else y.reshape(len(y), -1)
    fitted = list(train(given[None].clone(), wanted.to(given.device), [[setting]], epochs, seed))[-1]
    outputs = fitted.outputs(fresh.to(given.device)[None])[0, 0]
    if whole:
        return classes.long()[outputs.argmax(dim=1).to(classes.device)].cpu().numpy()
    return outputs.reshape(-1, *y.shape[1:]).double().cpu().numpy()


def _attended(size: float, order: Sequence[int] | None = None) -> Tensor:
    """Outputs [sample, output] for 7 tokens a sample, as they are or in another order, by queries of this size."""
    tokens = torch.from_numpy(normal(20, 7, 5, seed=0))
    queries, weights = normal(HEADS, 5, seed=3), normal(HEADS * 5, 3, seed=2)
    parts = (torch.from_numpy(x)[None, None] for x in (size * queries, weights, normal(3, seed=4)))
    return attend((tokens if order is None else tokens[:, order])[None], *parts)[0, 0]


def _less_pooled() -> float:
    """Largest difference of the outputs by queries of zero from a linear map of mean-pooled tokens."""
    tokens, weights, bias = normal(20, 7, 5, seed=0), normal(HEADS * 5, 3, seed=2), normal(3, seed=4)
    pooled = np.tile(tokens.mean(axis=1), HEADS) @ weights + bias
    return float(np.abs(_attended(0.0).numpy() - pooled).max())


def _less_reordered() -> float:
    return float((_attended(1.0, np.random.default_rng(1).permutation(7).tolist()) - _attended(1.0)).abs().max())


def _accuracy_where_one_token_tells() -> float:
    """On new samples where one token, in any place, holds a class that the mean of the tokens drowns."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    tokens = rng.standard_normal((160, 12, 4))
    # Where the last feature is large, and only there, the first one tells the class.
    tokens[:, :, 0] = 3 * rng.choice([-1.0, 1.0], (160, 12))
    place = rng.integers(0, 12, 160)
    tokens[np.arange(160), place, 3] = 8
    tokens[np.arange(160), place, 0] = np.where(labels == 1, 3, -3)
    guess = attentive(tokens[:120], labels[:120], tokens[120:], setting=(0.03, 0.01))
    return float((guess == labels[120:]).mean())


class AttentiveProbe(ClassOrValueProbe, SampleProbe):
    """Score of attention over the tokens of a sample at every tap: accuracy, or R2.

    Grid tokens only. Learning rate, weight decay and number of epochs are chosen on val (by accuracy, or squared
    error), the chosen setting is trained again on train and val for as many epochs, and read once on test.
    """

    name = "attentive_probe"
    answers = "What can be read out when a probe may attend to the tokens that hold it?"
    source = "Bardes et al. 2024 (2404.08471), without perceptron; Psomas et al. 2025 (2506.10178)"
    needs = "tokens"
    standard = False
    kinds = ("label", "value", "state", "future")
    known_answers = (
        Case("queries of zero minus a linear map of mean-pooled tokens", 0, BARDES, _less_pooled),
        Case("tokens in another order minus the same in their own", 0, BARDES, _less_reordered),
        Case(
            "accuracy where one of 12 tokens, in any place, holds the class",
            1,
            BARDES,
            _accuracy_where_one_token_tells,
            0.1,
        ),
    )

    def task(self, activations: Activations, target: StoredTarget, seed: int) -> Task:
        largest = max(tap.grid.tokens * tap.features for tap in activations.taps)
        count = min(activations.token_samples, MOST_SAMPLES, max(1, MOST_VALUES // largest))
        return super().task(activations, replace(target, values=target.values[:count]), seed)

    def stacks(self, activations: Activations, task: Task) -> Iterator[tuple[Sequence[int], Tensor]]:
        device = activations.device if activations.device.startswith("cuda") else "cpu"
        for taps in _alike(activations.taps, device):
            tokens = [_kept_tokens(activations, activations.taps[i], len(task.values), self.name) for i in taps]
            yield taps, torch.stack(tokens).to(device)

    def choose(self, task: Task, x: Tensor) -> Choice:
        rows, taps = task.rows, np.arange(len(x))
        around = task.reference_of(rows.train, rows.val).sum(axis=0)
        varies = around > 0
        epochs = _train(task, x, rows.train, [list(SETTINGS)] * len(x))
        lost = np.stack([task.lost(each(x[:, rows.val]), rows.val) for each in epochs], axis=2)
        scores = np.zeros(lost.shape[:3])
        if varies.any():
            scores = 1 - (lost.sum(axis=3)[..., varies] / around[varies]).mean(axis=3)
        setting, epoch = np.unravel_index(scores.reshape(len(x), -1).argmax(axis=1), scores.shape[1:])
        rate, decay = np.array(SETTINGS)[setting].T
        numbers = {"learning_rate": rate, "weight_decay": decay, "epochs": epoch + 1.0}
        return Choice(numbers, lost[taps, setting, epoch])

    def fits(self, task: Task, x: Tensor, numbers: Mapping[str, np.ndarray], start: Any = None) -> TapReadouts:
        settings = np.stack([numbers["learning_rate"], numbers["weight_decay"]], axis=1)[:, None].tolist()
        last = numbers["epochs"].astype(int) - 1
        epochs = list(islice(_train(task, x, task.rows.fit, settings), int(last.max()) + 1))
        fitted = [epochs[at].fitted for at in last]
        own = {
            name: torch.stack([getattr(each, name)[i] for i, each in enumerate(fitted)])
            for name in ("queries", "weights", "bias")
        }
        return OneSetting(replace(fitted[0], **own), epochs[0].numbers)

    def attributes(self, task: Task) -> dict[str, Any]:
        score = "accuracy" if task.label else "R2 against the mean of the rows fitted"
        return {
            "functional": f"{score} of {HEADS} learned queries and a linear map",
            "centring": "tokens standardised with the samples fitted",
            "pooling": "attention over grid tokens",
            "settings": [list(map(float, pair)) for pair in SETTINGS],
            "batch": BATCH,
            "most_epochs": EPOCHS,
        }


def _train(task: Task, x: Tensor, rows: np.ndarray, settings: Any) -> Iterator[Settings]:
    """The readouts after each epoch on some rows, for settings [tap][setting]."""
    wanted = torch.tensor((task.codes if task.label else task.values)[rows], device=x.device)
    for fitted in train(x[:, rows], wanted, settings, EPOCHS, task.seed):
        yield Settings(fitted, task.numbers if task.label else None)


def _kept_tokens(activations: Activations, tap: Tap, count: int, measure: str) -> Tensor:
    """The first samples' tokens, float32 [sample, token, feature]."""
    tokens = torch.empty(count, tap.grid.tokens, tap.features, device="cpu")
    for rows, block in activations.token_blocks(tap.name):
        if rows.start >= count:
            break
        tokens[rows.start : rows.stop] = torch.from_numpy(block[: count - rows.start])
    require_finite_tap(tokens, measure, tap.name)
    return tokens


def _alike(taps: Sequence[Tap], device: str) -> Iterator[list[int]]:
    """Numbers of taps to train together: one on a CPU; on a GPU those whose tokens have one shape, as many as fit."""
    most = 1 if device == "cpu" else TOGETHER
    shapes = [(tap.grid.tokens, tap.features) for tap in taps]
    for shape in dict.fromkeys(shapes):
        same = [i for i, other in enumerate(shapes) if other == shape]
        yield from (same[start : start + most] for start in range(0, len(same), most))

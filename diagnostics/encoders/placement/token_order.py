"""The order in which the tokens of a grid lie, inferred from where some of them lie, and described in words."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# An order explains tokens when it gives this share of their places exactly; stems that reach neighbours blur some.
LEAST_SHARE = 0.6
_TRIES = 200
_MOST_FACTORINGS = 64


@dataclass(frozen=True)
class Digit:
    """A part of a coordinate: `coordinate // value % size` moves the token by `stride`."""

    axis: int
    value: int
    size: int
    stride: int


@dataclass(frozen=True)
class Ordering:
    """Tokens at `start` plus the stride of each digit of their coordinates."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    start: int
    digits: tuple[Digit, ...]
    share: float
    """Share of the known tokens whose places it gives exactly."""

    def places(self, cells: np.ndarray) -> np.ndarray:
        """Index of the token [n] for each of the cells [n, axis]."""
        places = np.full(len(cells), self.start)
        for d in self.digits:
            places += d.stride * (cells[:, d.axis] // d.value % d.size)
        return places

    def all_places(self) -> np.ndarray:
        """Index of the token for every cell in raster order."""
        return self.places(all_cells(self.shape))

    @property
    def shift(self) -> int | None:
        """By how many tokens all lie later than in raster order; None where they lie in another order."""
        steps = self.all_places() - np.arange(math.prod(self.shape))
        return int(steps[0]) if (steps == steps[0]).all() else None

    @property
    def description(self) -> str:
        """The order in words."""
        digits = sorted(self.digits, key=lambda d: -abs(d.stride))
        if len({d.axis for d in digits}) < len(digits):
            steps = ", ".join(f"{self.axes[d.axis]} in {d.size} steps of {d.value}" for d in digits)
            return f"tokens are unrolled or lie window by window: from slowest to fastest they run over {steps}"
        named = [self.axes[d.axis] for d in digits]
        declared = [axis for axis, n in zip(self.axes, self.shape, strict=True) if n > 1]
        parts: list[str] = []
        if named != declared:
            parts.append(f"tokens lie in the order {', '.join(named)} (last fastest), not {', '.join(declared)}")
        if backwards := [self.axes[d.axis] for d in digits if d.stride < 0]:
            parts.append(f"{' and '.join(backwards)} {'run' if len(backwards) > 1 else 'runs'} backwards")
        first = self.start + sum((d.size - 1) * d.stride for d in digits if d.stride < 0)
        if first:
            many = f"{abs(first)} place{'s' if abs(first) > 1 else ''}"
            parts.append(
                f"each token lies {many} {'later' if first > 0 else 'earlier'} than declared, as if there were "
                f"{'more' if first > 0 else 'fewer'} tokens before the grid"
            )
        return ", and ".join(parts) or "tokens lie as declared"


def all_cells(shape: Sequence[int]) -> np.ndarray:
    """Coordinates [cell, axis] of a grid in raster order."""
    return np.stack(np.unravel_index(np.arange(math.prod(shape)), tuple(shape)), axis=1)


def explained(
    axes: Sequence[str], shape: Sequence[int], cells: np.ndarray, tokens: np.ndarray, seed: int = 0
) -> Ordering | None:
    """The order in which the tokens of a grid lie, from the index of the `tokens` [n] of some `cells` [n, axis].

    Tries orders in which a step along an axis is a step of constant length among the tokens (axes in another order,
    backwards, shifted); then those where this holds for the digits of the coordinates (windows, unrolled units).
    None where neither gives at least 0.6 of them exactly.
    """
    rng = np.random.default_rng(seed)
    factors = [_factorings(n) for n in shape]
    plain = tuple((n,) if n > 1 else () for n in shape)
    for radices in itertools.islice(itertools.chain([plain], itertools.product(*factors)), _MOST_FACTORINGS):
        digits = [
            (axis, math.prod(sizes[:i]), size) for axis, sizes in enumerate(radices) for i, size in enumerate(sizes)
        ]
        order = _fitted(tuple(axes), tuple(shape), digits, cells, tokens, rng)
        if order is not None:
            return order
    return None


def _factorings(n: int) -> list[tuple[int, ...]]:
    """The prime factors of n in every order, least significant first."""
    primes: list[int] = []
    rest, p = n, 2
    while rest > 1:
        while rest % p == 0:
            primes.append(p)
            rest //= p
        p += 1
    if len(primes) > 6:  # of so many, nearly all are twos
        return [tuple(primes)]
    return sorted(set(itertools.permutations(primes)))


def _fitted(
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    digits: Sequence[tuple[int, int, int]],
    cells: np.ndarray,
    tokens: np.ndarray,
    rng: np.random.Generator,
) -> Ordering | None:
    """Start and strides that most places agree with, drawn from small random sets of them since some may be off."""
    columns = [cells[:, axis] // value % size for axis, value, size in digits]
    table = np.stack([np.ones(len(cells)), *columns], axis=1)
    wanted = table.shape[1]
    if len(cells) < wanted + 1 or np.linalg.matrix_rank(table) < wanted:
        return None
    best: np.ndarray | None = None
    agree = 0
    for attempt in range(_TRIES):
        rows = np.arange(len(cells)) if attempt == 0 else rng.choice(len(cells), min(len(cells), wanted + 1), False)
        weights = np.linalg.lstsq(table[rows], tokens[rows].astype(float), rcond=None)[0].round()
        if (right := int((table @ weights == tokens).sum())) > agree:
            best, agree = weights, right
        if agree == len(cells):
            break
    # As many places as there are numbers to choose always agree.
    if best is None or agree < max(LEAST_SHARE * len(cells), min(wanted + 2, len(cells))):
        return None
    start, *strides = (int(w) for w in best)
    strided = [Digit(*digit, stride) for digit, stride in zip(digits, strides, strict=True)]
    order = Ordering(axes, shape, start, tuple(_merged(strided)), agree / len(cells))
    places = order.all_places()
    # Each token of a block of neighbours exactly once, or it is no order of tokens.
    return order if len(set(places)) == np.ptp(places) + 1 == len(places) else None


def _merged(digits: Sequence[Digit]) -> list[Digit]:
    """Neighbouring digits of one axis as one where a step of the upper is as long as all steps of the lower."""
    merged: list[Digit] = []
    for digit in digits:
        below = merged[-1] if merged else None
        if below and below.axis == digit.axis and digit.stride == below.stride * below.size:
            merged[-1] = Digit(below.axis, below.value, below.size * digit.size, below.stride)
        else:
            merged.append(digit)
    return merged

"""Judges where tokens lie, from which of them move when places of the input change.

This is the one rule of discovery, verification and plugins.

Shape suffixes: n places that were changed, T token (prefix tokens first, then grid tokens in raster order).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from diagnostics.encoders.taps import Tap, spell_grid

# Shares of the places that were changed.
MOST = 0.6
"""With these an order (or one offset in common) explains the tokens; stems that reach neighbours blur the others."""
CLEARLY = 0.1
"""So many more must another order explain than the declared one, since random stems blur."""
HALF = 0.5
NEARLY = 0.95
WITHIN_REACH = 0.8
"""Of the cells: what a random stem makes of a single one may show elsewhere."""

# Shares of what the farthest token moves.
REACHED = 0.25
"""A token that moves by that much is reached by the change; more than one such: they overlap."""
NEAR = 0.1
"""Where tokens overlap, a neighbour may win if the declared token moves at least by that much."""
_EARLIER = 1e-3
_ROUNDING = 1e-5

FEWEST = 6
"""Places that must have changed for an order to be told from chance."""
_TRIES = 200
_MOST_FACTORINGS = 64


def order_of_axes(
    shape: Sequence[int], cells: np.ndarray, tokens: np.ndarray, reach: Sequence[float] | None = None
) -> tuple[int, ...] | None:
    """The order of a grid's axes, slowest first, in which nearly all tokens lie within `reach` of their cells.

    None where there is none.

    Args:
        shape: extents of the grid.
        cells: [n, axis], those that were changed, in places of the grid.
        tokens: [n], the one that each moved most; negative where none moved.
        reach: places along each axis; by default a sixteenth, as a convolutional stem reaches further on a fine grid.
    """
    orders = list(itertools.permutations(range(len(shape))))
    aways: list[np.ndarray] = []
    for axes in orders:
        places = np.unravel_index(np.maximum(tokens, 0), [shape[axis] for axis in axes])
        away = np.abs(np.stack(places, axis=1)[:, np.argsort(axes)] - cells)
        aways.append(np.where(tokens[:, None] < 0, shape, away))
    totals = [float(away.sum()) for away in aways]
    # Raster order comes first; on small grids a stem may blur so far that another fits a little better.
    best = 0 if totals[0] <= 2 * min(totals) else int(np.argmin(totals))
    most = [max(1, n // 16) for n in shape] if reach is None else reach
    return orders[best] if (aways[best] <= most).all(axis=1).mean() >= WITHIN_REACH else None


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


def find_order(
    axes: Sequence[str], shape: Sequence[int], cells: np.ndarray, tokens: np.ndarray, seed: int = 0
) -> Ordering | None:
    """The order in which the tokens of a grid lie, from the index of the `tokens` [n] of some `cells` [n, axis].

    Tries orders in which a step along an axis is a step of constant length among the tokens (axes in another order,
    backwards, shifted); then those where this holds for the digits of the coordinates (windows, unrolled units).
    None where neither gives at least 0.6 of them exactly.
    """
    rng = np.random.default_rng(seed)
    factors = [_factorings(n) for n in shape]
    plain: tuple[tuple[int, ...], ...] = tuple((n,) if n > 1 else () for n in shape)
    for radices in itertools.islice(itertools.chain([plain], itertools.product(*factors)), _MOST_FACTORINGS):
        digits = [
            (axis, math.prod(sizes[:i]), size) for axis, sizes in enumerate(radices) for i, size in enumerate(sizes)
        ]
        order = _fit_order(tuple(axes), tuple(shape), digits, cells, tokens, rng)
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
    # Of so many, nearly all are twos.
    return [tuple(primes)] if len(primes) > 6 else sorted(set(itertools.permutations(primes)))


def _fit_order(
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
    if best is None or agree < max(MOST * len(cells), min(wanted + 2, len(cells))):
        return None
    start, *strides = (int(w) for w in best)
    strided = [Digit(*digit, stride) for digit, stride in zip(digits, strides, strict=True)]
    order = Ordering(axes, shape, start, tuple(_merge(strided)), agree / len(cells))
    places = order.all_places()
    # Each token of a block of neighbours exactly once, or it is no order of tokens.
    return order if len(set(places)) == np.ptp(places) + 1 == len(places) else None


def _merge(digits: Sequence[Digit]) -> list[Digit]:
    """Neighbouring digits of one axis as one where a step of the upper is as long as all steps of the lower."""
    merged: list[Digit] = []
    for digit in digits:
        below = merged[-1] if merged else None
        if below and below.axis == digit.axis and digit.stride == below.stride * below.size:
            merged[-1] = Digit(below.axis, below.value, below.size * digit.size, below.stride)
        else:
            merged.append(digit)
    return merged


@dataclass(frozen=True)
class Movements:
    """Movements of tokens when single cells of a sample changed.

    `axes` and `shape` are those of the first tap's grid that the sample has, `unchecked` its others; `cells` [n, axis]
    were changed. `far` has for each tap [n, prefix + places], as shares of the farthest token; places of axes that the
    sample does not have are summed over.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    unchecked: tuple[str, ...]
    cells: np.ndarray
    far: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Moved:
    """Movements at one tap.

    The `places` [n, axis] of its grid that changed, how `far` [n, T] its tokens went, and the grid token [n] that went
    `farthest`, negative for a prefix token.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    prefix: int
    places: np.ndarray
    far: np.ndarray
    farthest: np.ndarray

    @property
    def declared(self) -> np.ndarray:
        """The grid token [n] that is declared to stand for each place."""
        return np.asarray(np.ravel_multi_index(tuple(self.places.T), self.shape))

    @property
    def exact(self) -> np.ndarray:
        """The places that moved their own token farthest, bool [n]."""
        return (self.farthest == self.declared) & (self.far.max(axis=1) > 0)

    @property
    def own(self) -> np.ndarray:
        """The distance that each place's own token went, [n]."""
        own = np.take_along_axis(self.far, self.prefix + self.declared[:, None], axis=1)[:, 0]
        return own / np.maximum(self.far.max(axis=1), 1e-30)

    @property
    def offsets(self) -> np.ndarray:
        """From each place to that of the grid token that went farthest, [n, axis]."""
        return all_cells(self.shape)[np.maximum(self.farthest, 0)] - self.places

    @property
    def middles(self) -> np.ndarray:
        """The middle of the grid tokens that move, weighted by how far, [n, axis]; NaN where they are no whole box."""
        far, all_places = self.far[:, self.prefix :], all_cells(self.shape)
        moved = far > _ROUNDING
        boxes = np.array([np.prod(np.ptp(all_places[row], axis=0) + 1) if row.any() else -1 for row in moved])
        whole = boxes == moved.sum(axis=1)
        return np.where(whole[:, None], far @ all_places / np.maximum(far.sum(axis=1, keepdims=True), 1e-30), np.nan)

    def another_order(self) -> Ordering | None:
        """The order that explains the farthest tokens clearly better than the declared one."""
        other = find_order(self.axes, self.shape, self.places, self.farthest)
        if other is None or other.share <= self.exact.mean() + CLEARLY:
            return None
        # Windows centred on a cell's edge (log-mel frames) may move the neighbour most: after a shift, their own hardly
        # moves.
        return other if other.shift is None or float(np.median(self.own)) < HALF else None

    def common_offset(self, offsets: np.ndarray, least: float = MOST) -> tuple[int, ...]:
        """The offset that more than this share of the places have.

        Empty where none, or where it is that of the declared order.
        """
        values, counts = np.unique(offsets, axis=0, return_counts=True)
        most = int(counts.argmax()) if len(counts) else 0
        many = len(counts) > 0 and counts[most] > least * len(self.places) and bool(values[most].any())
        return tuple(int(n) for n in values[most]) if many else ()


@dataclass(frozen=True)
class Placement:
    """The result of changing single cells of the input, for one tap's grid.

    `winners` has one entry for each cell changed: its coordinates along `axes`, and the index of the token that moved
    most among all handed over (prefix tokens first). `tolerance` is how far from its cell the token
    that moves most may lie, where changes reach several tokens, else 0. `order` is what the tap's `Site` needs as its
    `order` where tokens lie otherwise; empty where they are right, where it is not known for every token, or where the
    site folds rows.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.places import verify_grid
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> placement = verify_grid(encoder, most=8)
        >>> placement.cells, placement.exact, placement.share
        (8, 8, 1.0)
        >>> placement.winners[0]
        ((0,), 0)
        >>> sorted(placement.to_json())[:3]
        ['axes', 'cells', 'exact']
    """

    tap: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    prefix: int
    cells: int
    exact: int
    near: int
    tolerance: int
    silent: int
    prefix_moved: bool
    unchecked: tuple[str, ...]
    right: bool
    explanation: str
    winners: tuple[tuple[tuple[int, ...], int], ...]
    order: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of the cells changed whose own token moved most, or one beside it within the tolerance."""
        return (self.exact + self.near) / self.cells

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        fields = {"found" if key == "winners" else key: value for key, value in asdict(self).items()}
        return fields | {"share": self.share}

    def __str__(self) -> str:
        many = f"{self.cells} of {math.prod(self.shape)}" if self.cells < math.prod(self.shape) else f"all {self.cells}"
        text = (
            f"tap {self.tap}, {spell_grid(self.shape, self.axes)}: {many} cells changed one at a time; {self.exact} "
            f"changed their own token most"
        )
        if self.near:
            beside = "a neighbouring one" if self.tolerance == 1 else f"one up to {self.tolerance} places away"
            text += f", {self.near} {beside} (tokens overlap, so this is right to within {self.tolerance})"
        return f"{text}; {self.explanation}" if self.explanation else text


def judge_first(tap: Tap, seen: Movements) -> Placement:
    """Judges whether tokens lie as declared at the first tap with a grid, before the trunk mixes them."""
    prefix, shape, cells, far = tap.grid.prefix, seen.shape, seen.cells, seen.far[tap.name]
    moved = _Moved(seen.axes, shape, prefix, cells, far, far.argmax(axis=1) - prefix)
    silent, exact = far.max(axis=1) <= 0, moved.exact
    reached = (far[:, prefix:] >= REACHED).sum(axis=1)
    # Of two cells each is beside the other, and no order could be told from another.
    tolerance = 0
    if len(cells) > 2 and (~silent).any():
        # Half the side of the cube of tokens that a change reaches.
        tolerance = math.ceil((float(np.median(reached[~silent])) ** (1 / len(shape)) - 1) / 2)
    # Which of the tokens of a kernel goes farthest is up to its weights: the middle of all tells too.
    off = np.fmin(np.abs(moved.offsets).max(axis=1), np.abs(moved.middles - cells).max(axis=1) - HALF)
    near = ~exact & ~silent & (off <= tolerance) & (moved.farthest >= 0) & (moved.own >= NEAR) & bool(tolerance)
    right = bool((exact | near).mean() >= (NEARLY if tolerance else 1.0))
    prefix_moved = bool((far[:, :prefix] >= NEAR).any())
    explanation, order = "", ()
    known = replace(moved, places=cells[~silent], far=far[~silent], farthest=moved.farthest[~silent])
    if silent.all():
        right = False
        explanation = "no token changed: this tap does not depend on the sample, or only on its statistics"
    elif not exact.all() and (other := known.another_order()):
        right, explanation = False, f"wrong order: {other.description}"
        order = _as_site_order(tap, other.all_places()) if not seen.unchecked else ()
    # A common offset alone is no proof, as a strided window may lie between two cells.
    elif prefix_moved and (shift := known.common_offset(known.offsets)):
        right = False
        explanation = f"wrong order: prefix tokens change, and most cells change the token at {shift} from their own"
    elif not right:
        explanation = _scattered(exact, near, silent, moved.farthest < 0)
        if not tolerance and not seen.unchecked and len(set(moved.farthest)) == tap.grid.tokens:
            order = _as_site_order(tap, moved.farthest)
    winners = tuple(
        (tuple(int(c) for c in cell), int(token) + prefix) for cell, token in zip(cells, moved.farthest, strict=True)
    )
    return Placement(
        tap.name,
        seen.axes,
        shape,
        prefix=prefix,
        cells=len(cells),
        exact=int(exact.sum()),
        near=int(near.sum()),
        tolerance=tolerance,
        silent=int(silent.sum()),
        prefix_moved=prefix_moved,
        unchecked=seen.unchecked,
        right=right,
        explanation=explanation,
        winners=winners,
        order=order,
    )


def _scattered(exact: np.ndarray, near: np.ndarray, silent: np.ndarray, in_prefix: np.ndarray) -> str:
    wrong = ~(exact | near)
    many = f"{int(wrong.sum())} cell{'s' if wrong.sum() > 1 else ''}"
    if silent.sum() == wrong.sum():
        return f"{many} changed no token: the grid covers less of the sample than declared (see covers)"
    where = f", {int((wrong & in_prefix).sum())} of them among the prefix tokens" if (wrong & in_prefix).any() else ""
    return (
        f"{many} changed another token than declared{where}, in no order that could be recognised "
        "(shuffled, or mixed before this tap)"
    )


def _as_site_order(tap: Tap, places: np.ndarray) -> tuple[int, ...]:
    """The `order` that the tap's site needs for that: other tokens first, then the grid's."""
    grid = [int(place) + tap.grid.prefix for place in places]
    inside = set(grid)
    order = [*(i for i in range(tap.tokens) if i not in inside), *grid]
    if sorted(order) != list(range(tap.tokens)) or (tap.site is not None and tap.site.rows > 1):
        return ()
    now = tap.site.order if tap.site is not None else ()
    return tuple(now[i] for i in order) if now else tuple(order)


@dataclass(frozen=True)
class TapGrid:
    """The result for one tap: in `share` of its places, changed cells moved their own token farthest of all.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.places import verify_taps
        >>> first, later = verify_taps(dx.build("encoder", "objectives:lorenz-forecast"))
        >>> later[0]
        TapGrid(tap='blocks.0', verdict='right', share=1.0, explanation='')
    """

    tap: str
    verdict: Literal["right", "wrong", "not verified"]
    share: float
    explanation: str


def judge_later(tap: Tap, seen: Movements) -> TapGrid:
    """Judges whether tokens lie as declared at a later tap, where a change reaches others too; see `verify_taps`."""
    share = 0.0

    def unverified(reason: str) -> TapGrid:
        return TapGrid(tap.name, "not verified", share, reason)

    shared = tuple(axis for axis in tap.grid.axes if axis in seen.axes)
    shape = tuple(n for n, axis in zip(tap.grid.shape, tap.grid.axes, strict=True) if axis in seen.axes)
    if math.prod(shape) < 2:
        return unverified("its grid has no axis that cells lie along")
    far, prefix = seen.far[tap.name], tap.grid.prefix
    known = far.max(axis=1) > 0
    if not known.any():
        return unverified("no token changed")
    columns = [seen.axes.index(axis) for axis in shared]
    # The place in which the middle of each changed cell lies.
    finer = np.array([seen.shape[column] for column in columns])
    places = ((seen.cells[:, columns] + 0.5) * np.array(shape) / finer).astype(int)
    places, far = _by_place(places[known], far[known])
    # Tokens that go far whatever changes (class tokens, sinks) show no place.
    beyond = far - far.mean(axis=0) if len(far) > 2 else far
    moved = _Moved(shared, shape, prefix, places, far, beyond.argmax(axis=1) - prefix)
    exact, own = moved.exact, moved.own
    share = float(exact.mean())
    if float(np.median(own)) < HALF and len(places) >= FEWEST:
        if (moved.farthest < 0).mean() > HALF:
            return unverified("most cells change tokens before the grid more than those in it")
        order = _wrong_order(moved)
        if order and _lags(moved):
            return unverified("tokens after a cell's own change more than it, as they may in causal models")
        if order:
            return TapGrid(tap.name, "wrong", share, f"wrong order: {order}")
    names = [", ".join(f"{axis} {n}" for axis, n in zip(shared, place, strict=True)) for place in places]
    for one, other in _exchanges(moved.declared, moved.farthest, own < HALF):
        return TapGrid(
            tap.name, "wrong", share, f"wrong order: the tokens of ({names[one]}) and ({names[other]}) are exchanged"
        )
    if not known.all() and len(places) < FEWEST:
        return unverified(f"only {len(places)} places changed a token when they changed, too few to judge")
    # Nearly all places move their own token farthest or one beside it, where that is more than chance.
    beside = (np.abs(moved.offsets).max(axis=1) <= 1) & (moved.farthest >= 0)
    chance = math.prod(min(3, n) / n for n in shape)
    if share >= HALF or (chance <= HALF and float(beside.mean()) >= NEARLY):
        return TapGrid(tap.name, "right", share, "")
    return unverified(
        f"{int(exact.sum())} of {len(places)} places changed their own token most, and no other order explains the rest"
    )


def _by_place(places: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each place once, with the mean over the cells within it: at its edges another token may go as far."""
    once, which = np.unique(places, axis=0, return_inverse=True)
    sums = np.zeros((len(once), far.shape[1]))
    np.add.at(sums, which.ravel(), far)
    return once, sums / np.bincount(which.ravel())[:, None]


def _wrong_order(moved: _Moved) -> str:
    """The order that explains the farthest tokens clearly better than the declared one, in words.

    Empty where none does.
    """
    if other := moved.another_order():
        return other.description
    exact, inside, far = float(moved.exact.mean()), moved.farthest >= 0, moved.far
    rolled = moved.common_offset(moved.offsets[inside] % np.array(moved.shape), max(MOST, exact + CLEARLY))
    if rolled:
        step = ", ".join(f"{n} along {axis}" for n, axis in zip(rolled, moved.axes, strict=True) if n)
        return f"tokens are rolled by {step}"
    # Each place clearly moves a token of its own, and that is another one than declared.
    second = np.sort(far, axis=1)[:, -2] / far.max(axis=1)
    once = len(np.unique(moved.farthest)) >= NEARLY * len(far) and float(inside.mean()) >= NEARLY
    if once and exact <= CLEARLY and len(far) >= 2 * FEWEST and float(np.median(second)) < HALF:
        return "each place changes another token than declared, in no order that could be recognised (shuffled)"
    return ""


def _exchanges(declared: np.ndarray, farthest: np.ndarray, odd: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of `declared` tokens (indices) that each change the other and hardly themselves (`odd`).

    Nearly all others change themselves.
    """
    at = {int(token): i for i, token in enumerate(declared)}
    pairs = [
        (i, j)
        for i, token in enumerate(farthest)
        if (j := at.get(int(token), i)) > i and odd[i] and odd[j] and farthest[j] == declared[i]
    ]
    others = np.delete(farthest == declared, np.ravel(pairs).astype(int))
    return pairs if len(others) >= FEWEST and others.mean() >= NEARLY else []


def exchange_between(before: Tap, after: Tap, activations: Mapping[str, Tensor]) -> str:
    """Two places whose tokens are exchanged between two taps of one grid in a residual trunk, in words.

    Nothing where none are seen.

    Of `activations` [sample, token, feature], less the mean over places, each token is most alike to itself in nearly
    all places; the two are clearly more alike to one another.
    """
    if before.grid.shape != after.grid.shape or before.features != after.features:
        return ""
    grids = (activations[tap.name][:, tap.grid.prefix :].float() for tap in (before, after))
    x, y = (normalize(tokens - tokens.mean(1, keepdim=True), dim=2) for tokens in grids)
    alike = (y @ x.mT).mean(0)
    own, most = alike.diagonal().numpy(), alike.max(1)
    for pair in _exchanges(np.arange(len(own)), most.indices.numpy(), own < most.values.numpy() - CLEARLY):
        one, other = (tuple(map(int, np.unravel_index(place, after.grid.shape))) for place in pair)
        return f"tap {after.name} has the tokens of {one} and {other} exchanged against tap {before.name}"
    return ""


def _lags(moved: _Moved) -> bool:
    """True if what moves lies in time behind the cells, and nothing before them moves: so do causal models."""
    if moved.axes != ("t",):
        return False
    before = np.arange(moved.shape[0])[None] < moved.places - 1  # a window may begin in the cell before
    far = np.where(before, moved.far[:, moved.prefix :], 0.0)
    return bool((moved.farthest >= moved.places[:, 0]).all()) and float(far.max()) < _EARLIER

"""Verifies that the tokens of an encoder stand for the places that its grid declares, by changing one cell of the input.

At the first tap with a grid, before the trunk mixes tokens, a change within one cell of the input moves the
token that stands for that cell, and where tokens overlap its neighbours less.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.grid import spelled
from diagnostics.encoders.hooks import EarlyEnd
from diagnostics.encoders.perturbation import distances
from diagnostics.encoders.placement.changes import Changes, NotVerifiableError, changes_of
from diagnostics.encoders.placement.token_order import Ordering, all_cells, explained
from diagnostics.encoders.taps import Tap
from diagnostics.errors import explaining

MOST_CELLS = 256
"""Of larger grids a seeded subset: corners, one line along each axis, and random cells."""

# A token that moves by this share of the one that moves most is reached by the change; more than one such: they overlap.
REACHED = 0.25
# Where tokens overlap, a neighbour may win if the declared token moves at least by this share of it.
NEAR = 0.1
# Random stems blur; another order must explain clearly more than the declared one.
CLEARLY = 0.1
MOST = 0.6
"""Of the cells: with one offset in common they are shifted."""
HALF = 0.5
RIGHT_SHARE = 0.95
# Rounding moves tokens too.
_NOTHING = 1e-5
_ROUNDS = 3
_BATCH = 16
_MOST_VALUES = 1 << 24


@dataclass(frozen=True)
class Placement:
    """The result of changing single cells of the input, for one tap's grid.

    `winners` has one entry for each cell changed: its coordinates along `axes`, and the index of the token that moved most
    among all handed over (prefix tokens first). `tolerance` is how far from its cell the token
    that moves most may lie, where changes reach several tokens, else 0. `order` is what the tap's `Site` needs as its `order` where tokens lie
    otherwise; empty where they are right, where it is not known for every token, or where the site folds rows.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.placement import verify_grid
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
        text = f"tap {self.tap}, {spelled(self.shape, self.axes)}: {many} cells changed one at a time; {self.exact} changed their own token most"
        if self.near:
            beside = "a neighbouring one" if self.tolerance == 1 else f"one up to {self.tolerance} places away"
            text += f", {self.near} {beside} (tokens overlap, so this is right to within {self.tolerance})"
        return f"{text}; {self.explanation}" if self.explanation else text


def verify_grid(
    encoder: Encoder, sample: np.ndarray | None = None, *, most: int = MOST_CELLS, seed: int = 0
) -> Placement:
    """Changes single cells of a sample, and compares the token that moves at the first tap with a grid with the declared one.

    Only the shape and dtype of the sample (the encoder's example by default) are used: pixels and audio are noise, a
    series keeps its values in another order, so that no normalisation over the whole series changes. A text keeps its
    tokens. Takes a sample a cell through the encoder (two where a cell is one step of a series, more where a cell's own
    token does not win at once), as far as that tap where the encoder lets a pass be broken off.

    Raises NotVerifiableError where there is no such tap, where the encoder takes no such sample, or where a cell is
    smaller than a place of the sample; DiagnosticsError where the encoder fails on a changed sample.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.placement import verify_grid
        >>> placement = verify_grid(dx.build("encoder", "objectives:lorenz-forecast"))
        >>> print(placement)
        tap embed, 32 t: all 32 cells changed one at a time; 32 changed their own
        token most
        >>> placement.right
        True
    """
    sample = encoder.example() if sample is None else sample
    encoder = encoder.sized_for(sample)
    tap = taps_with_grids(encoder)[0]
    return movements(encoder, [tap], sample, most, seed).placement


@dataclass(frozen=True)
class Movements:
    """How far tokens went when single cells of a sample changed.

    `axes` and `shape` are those of the first tap's grid that the sample has, `cells` [cell, axis] those that were changed.
    `far` has for each tap [cell, prefix + places], as shares of the farthest token; places of axes that the sample does not
    have are summed over.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    cells: np.ndarray
    far: dict[str, np.ndarray]
    placement: Placement
    """Of the first tap."""


def taps_with_grids(encoder: Encoder) -> list[Tap]:
    """Those with more than one token, in order of execution; NotVerifiableError where there is none."""
    taps = [tap for tap in encoder.taps if tap.grid.tokens > 1]
    if not taps:
        raise NotVerifiableError("no tap has a grid of more than one token")
    return taps


def movements(encoder: Encoder, taps: Sequence[Tap], sample: np.ndarray, most: int, seed: int) -> Movements:
    """What single cells of the first tap's grid move at all these taps, from the same passes; raises as `verify_grid`."""
    rng = np.random.default_rng(seed)
    with explaining(f"{encoder.name} fails on a sample with one cell changed"):
        changes = changes_of(encoder, taps[0], sample, rng)
        cells = _chosen(all_cells(changes.shape)[changes.valid], changes.shape, most, rng)
        if len(cells) < 2:
            raise NotVerifiableError("fewer than two cells of its grid lie within the sample")
        far = _movements(encoder, taps, changes, cells, rng)
    placement = _judged(taps[0], changes, cells, far[taps[0].name])
    return Movements(changes.axes, changes.shape, cells, far, placement)


def _chosen(usable: np.ndarray, shape: tuple[int, ...], most: int, rng: np.random.Generator) -> np.ndarray:
    """Cells [n, axis] to change: all that fit the limit, or corners, lines along each axis and random ones."""
    if len(usable) <= most:
        return usable
    ends = np.array(shape) - 1
    extreme = ((usable == 0) | (usable == ends)).sum(axis=1)
    # Lines and corners first: they show the strides of any order; then random ones, against chance.
    on_line = (usable == 0).sum(axis=1) >= len(shape) - 1
    score = rng.random(len(usable)) + 3 * (extreme == len(shape)) + 1 * on_line
    chosen = np.argsort(-score)[: most // 2]
    rest = rng.permutation(np.setdiff1d(np.arange(len(usable)), chosen))[: most - len(chosen)]
    return usable[np.sort(np.concatenate([chosen, rest]))]


def _movements(
    encoder: Encoder, taps: Sequence[Tap], changes: Changes, cells: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """How far each token of each tap went when each cell changed, as a share of the farthest, [cell, prefix + places]."""
    totals: dict[str, np.ndarray] = {}
    first = taps[0].name
    declared = _declared(taps[0], changes, cells)
    again = np.arange(len(cells))
    for attempt in range(_ROUNDS):
        # Later attempts are for cells whose own token did not win: a single draw may hit what a stem does not see.
        for name, far in _round(encoder, taps[:1] if attempt else taps, changes, cells[again], attempt, rng).items():
            totals.setdefault(name, np.zeros((len(cells), far.shape[1])))[again] += far
        total = totals[first]
        won = (total[again].argmax(axis=1) == declared[again]) & (total[again].max(axis=1) > 0)
        again = again[~won]
        if len(again) == 0:
            break
    return {name: total / np.maximum(total.max(axis=1, keepdims=True), 1e-30) for name, total in totals.items()}


def _declared(tap: Tap, changes: Changes, cells: np.ndarray) -> np.ndarray:
    """Index of the token that is declared to stand for each cell, prefix tokens counted."""
    return tap.grid.prefix + np.asarray(np.ravel_multi_index(tuple(cells.T), changes.shape))


def _round(
    encoder: Encoder, taps: Sequence[Tap], changes: Changes, cells: np.ndarray, attempt: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One change of each cell; the least of those that a change comes in, since a swap moves its partner too."""
    samples = [(i, sample) for i, cell in enumerate(cells) for sample in changes.perturb(tuple(cell), attempt, rng)]
    size = max(1, min(_BATCH, _MOST_VALUES // max(tap.tokens * tap.features for tap in taps)))
    moved: dict[str, np.ndarray] = {}
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        for name, far in _far(encoder, taps, changes, [sample for _, sample in part]).items():
            least = moved.setdefault(name, np.full((len(cells), far.shape[1]), np.inf))
            for (i, _), row in zip(part, far, strict=True):
                least[i] = np.minimum(least[i], row)
    return moved


def _far(encoder: Encoder, taps: Sequence[Tap], changes: Changes, prepared: Sequence[Any]) -> dict[str, np.ndarray]:
    """How far each token of each tap went [change, prefix + places], as a share of the farthest; zero where nothing did."""
    far: dict[str, np.ndarray] = {}

    def note(tap: Tap, tokens: Tensor) -> None:
        far[tap.name] = _shares(tap, tokens, changes.axes)
        if len(far) == len(taps):
            end()

    with EarlyEnd() as end, torch.no_grad():
        try:
            encoder.capture(default_collate([changes.base, *prepared]), [tap.name for tap in taps], note)
        except Exception:
            # The early end, or the error that an encoder makes of it.
            if len(far) < len(taps):
                raise
    return far


def _shares(tap: Tap, tokens: Tensor, axes: Sequence[str]) -> np.ndarray:
    """Of tokens [1 + change, T, F] how far each is from the first sample's, as a share of the farthest."""
    far = distances(tokens[1:], tokens[:1], tap.grid, axes)
    scale = float(tokens[0].double().norm(dim=-1).mean()) or 1.0
    most = far.max(axis=1, keepdims=True)
    return np.where(most > _NOTHING * scale, far / np.maximum(most, 1e-30), 0.0)


def _judged(tap: Tap, changes: Changes, cells: np.ndarray, moved: np.ndarray) -> Placement:
    prefix, shape, axes = tap.grid.prefix, changes.shape, changes.axes
    declared = _declared(tap, changes, cells)
    winner = moved.argmax(axis=1)
    silent = moved.max(axis=1) <= 0
    exact = (winner == declared) & ~silent
    reached = (moved[:, prefix:] >= REACHED).sum(axis=1)
    # Of two cells each is beside the other, and no order could be told from another.
    tolerance = 0
    if len(cells) > 2 and (~silent).any():
        # Half the side of the cube of tokens that a change reaches.
        tolerance = math.ceil((float(np.median(reached[~silent])) ** (1 / len(shape)) - 1) / 2)
    own = np.take_along_axis(moved, declared[:, None], axis=1)[:, 0]
    places = all_cells(shape)[np.maximum(winner - prefix, 0)]
    beside = np.abs(places - cells).max(axis=1) <= tolerance
    near = ~exact & ~silent & (winner >= prefix) & beside & (own >= NEAR) & bool(tolerance)
    right = bool((exact | near).mean() >= (RIGHT_SHARE if tolerance else 1.0))
    prefix_moved = bool((moved[:, :prefix] >= NEAR).any())
    explanation, order = "", ()
    if silent.all():
        right, explanation = (
            False,
            "no token changed: this tap does not depend on the sample, or only on its statistics",
        )
    elif not exact.all():
        known = ~silent
        other = explained(axes, shape, cells[known], winner[known] - prefix)
        if other is not None and _better(other, exact[known], own[known]):
            right, explanation = False, f"wrong order: {other.description}"
            order = _as_site_order(tap, other.all_places()) if not changes.unchecked else ()
        elif prefix_moved and (shift := _common_shift((places - cells)[known])):
            right = False
            explanation = (
                f"wrong order: prefix tokens change, and most cells change the token at {shift} from their own"
            )
        elif not right:
            explanation = _scattered(exact, near, silent, winner < prefix)
            if not tolerance and not changes.unchecked and len(set(winner)) == tap.grid.tokens:
                order = _as_site_order(tap, winner - prefix)
    return Placement(
        tap.name, axes, shape, prefix, len(cells), int(exact.sum()), int(near.sum()), tolerance, int(silent.sum()),
        prefix_moved, changes.unchecked, right, explanation,
        tuple((tuple(int(c) for c in cell), int(token)) for cell, token in zip(cells, winner, strict=True)), order,
    )  # fmt: skip


def _common_shift(offsets: np.ndarray) -> tuple[int, ...]:
    """The offset that most cells share, empty where none; alone no proof, as a strided window may lie between two cells."""
    values, counts = np.unique(offsets, axis=0, return_counts=True)
    most = int(counts.argmax())
    return tuple(int(n) for n in values[most]) if values[most].any() and counts[most] > MOST * len(offsets) else ()


def _better(other: Ordering, exact: np.ndarray, own: np.ndarray) -> bool:
    """Whether another order explains clearly more than the declared one."""
    if other.shift is not None:
        # Windows centred on a cell's edge (log-mel frames) may move the neighbour most: after a shift, their own hardly moves.
        return float(np.median(own)) < HALF
    return other.share > exact.mean() + CLEARLY


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
    """What the tap's site needs as its `order` for that: other tokens first, then the grid's."""
    grid = [int(place) + tap.grid.prefix for place in places]
    inside = set(grid)
    order = [*(i for i in range(tap.tokens) if i not in inside), *grid]
    if sorted(order) != list(range(tap.tokens)) or (tap.site is not None and tap.site.rows > 1):
        return ()
    now = tap.site.order if tap.site is not None else ()
    return tuple(now[i] for i in order) if now else tuple(order)

"""Verifies that the tokens of every tap stand for the places that its grid declares, by changing each cell once.

Behind the first tap a change reaches other tokens too. In a residual trunk the cell's own token still goes farthest, and an
order that is changed within the trunk shows as another order of the tokens that do. Where neither is seen (a trunk without
residuals, maps whose every place sees everything) the grid is reported as not verified.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.placement.token_order import all_cells, explained
from diagnostics.encoders.placement.verify import Movements, Placement, movements, taps_with_grids
from diagnostics.encoders.taps import Tap

FEWEST = 6
"""Places that cells must lie in for an order to be told from chance."""
OWN = 0.5
"""Share of the cells that show a declared order to be right, and another one to be wrong."""
CLEARLY = 0.1
MOST = 0.6
NEARLY = 0.95
_EARLIER = 1e-3


@dataclass(frozen=True)
class TapGrid:
    """The result for one tap: in `share` of its places, changed cells moved their own token farthest of all.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.placement import verify_taps
        >>> first, later = verify_taps(dx.build("encoder", "objectives:lorenz-forecast"))
        >>> later[0]
        TapGrid(tap='blocks.0', verdict='right', share=1.0, explanation='')
    """

    tap: str
    verdict: Literal["right", "wrong", "not verified"]
    share: float
    explanation: str


def verify_taps(
    encoder: Encoder, sample: np.ndarray | None = None, *, most: int = 256, seed: int = 0
) -> tuple[Placement, tuple[TapGrid, ...]]:
    """`verify_grid` for the first tap with a grid, and from the same passes a result for each later one.

    A later tap is `wrong` where another order explains which tokens go farthest, clearly better than the declared one, and
    the cells' own tokens go less than half as far; `right` where half of the cells move their own token farthest (or
    nearly all that or one beside it, in grids where this is no chance); `not verified` otherwise. Grids coarser or finer
    than the first tap's are compared place by place.

    Takes as many passes as `verify_grid`, up to the last tap with a grid. Raises as that does.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.placement import verify_taps
        >>> first, later = verify_taps(dx.build("encoder", "objectives:lorenz-forecast"))
        >>> print(first.tap, first.right)
        embed True
        >>> for tap in later[:2]:
        ...     print(tap.tap, tap.verdict, tap.share)
        blocks.0 right 1.0
        blocks.1 right 1.0
    """
    sample = encoder.example() if sample is None else sample
    encoder = encoder.sized_for(sample)
    taps = taps_with_grids(encoder)
    moved = movements(encoder, taps, sample, most, seed)
    return moved.placement, tuple(_judged(tap, moved) for tap in taps[1:])


def _judged(tap: Tap, moved: Movements) -> TapGrid:
    share = 0.0

    def unverified(reason: str) -> TapGrid:
        return TapGrid(tap.name, "not verified", share, reason)

    shared = [axis for axis in tap.grid.axes if axis in moved.axes]
    shape = tuple(n for n, axis in zip(tap.grid.shape, tap.grid.axes, strict=True) if axis in moved.axes)
    if math.prod(shape) < 2:
        return unverified("its grid has no axis that cells lie along")
    far, prefix = moved.far[tap.name], tap.grid.prefix
    known = far.max(axis=1) > 0
    if not known.any():
        return unverified("no token changed")
    places, far = _by_place(_places(moved, shared, shape)[known], far[known])
    # Tokens that go far whatever changes (class tokens, sinks) show no place.
    beyond = far - far.mean(axis=0) if len(far) > 2 else far
    farthest = beyond.argmax(axis=1) - prefix
    declared = np.asarray(np.ravel_multi_index(tuple(places.T), shape))
    exact = farthest == declared
    share = float(exact.mean())
    own = np.take_along_axis(far, prefix + declared[:, None], axis=1)[:, 0] / far.max(axis=1)
    if float(np.median(own)) < OWN and len(places) >= FEWEST:
        if (farthest < 0).mean() > OWN:
            return unverified("most cells change tokens before the grid more than those in it")
        order = _another(shared, shape, places, farthest, share) or _shuffled(places, farthest, far, share)
        if order and _lags(shared, shape, places, farthest, far[:, prefix:]):
            return unverified("tokens after a cell's own change more than it, as they may in causal models")
        if order:
            return TapGrid(tap.name, "wrong", share, f"wrong order: {order}")
    names = [", ".join(f"{axis} {n}" for axis, n in zip(shared, place, strict=True)) for place in places]
    for one, other in _exchanged(declared, farthest, own < OWN):
        return TapGrid(
            tap.name, "wrong", share, f"wrong order: the tokens of ({names[one]}) and ({names[other]}) are exchanged"
        )
    if not known.all() and len(places) < FEWEST:
        return unverified(f"only {len(places)} places changed a token when they changed, too few to judge")
    if share >= OWN or _nearly(shape, places, farthest):
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


def _places(moved: Movements, axes: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """The place [n, axis] of a tap's grid in which the middle of each changed cell lies."""
    columns = [moved.axes.index(axis) for axis in axes]
    finer = np.array([moved.shape[column] for column in columns])
    return ((moved.cells[:, columns] + 0.5) * np.array(shape) / finer).astype(int)


def _another(
    axes: Sequence[str], shape: tuple[int, ...], places: np.ndarray, farthest: np.ndarray, exact: float
) -> str:
    """The order that explains the farthest tokens clearly better than the declared one, in words; empty where none does."""
    other = explained(axes, shape, places, farthest)
    if other is not None and other.share > exact + CLEARLY:
        return other.description
    inside = farthest >= 0
    offsets = (all_cells(shape)[np.maximum(farthest, 0)] - places)[inside] % np.array(shape)
    values, counts = np.unique(offsets, axis=0, return_counts=True)
    if len(counts) and counts.max() > max(MOST, exact + CLEARLY) * len(farthest) and values[counts.argmax()].any():
        step = ", ".join(f"{n} along {axis}" for n, axis in zip(values[counts.argmax()], axes, strict=True) if n)
        return f"tokens are rolled by {step}"
    return ""


def _shuffled(places: np.ndarray, farthest: np.ndarray, far: np.ndarray, exact: float) -> str:
    """In words, where each place clearly moves a token of its own, and that is another one than declared."""
    second = np.sort(far, axis=1)[:, -2] / far.max(axis=1)
    once = len(np.unique(farthest)) >= NEARLY * len(places) and float((farthest >= 0).mean()) >= NEARLY
    if once and exact <= CLEARLY and len(places) >= 2 * FEWEST and float(np.median(second)) < OWN:
        return "each place changes another token than declared, in no order that could be recognised (shuffled)"
    return ""


def _exchanged(declared: np.ndarray, farthest: np.ndarray, odd: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of `declared` tokens (indices) that each change the other and hardly themselves (`odd`), where nearly all others change themselves."""
    at = {int(token): i for i, token in enumerate(declared)}
    pairs = [
        (i, j)
        for i, token in enumerate(farthest)
        if (j := at.get(int(token), i)) > i and odd[i] and odd[j] and farthest[j] == declared[i]
    ]
    others = np.delete(farthest == declared, np.ravel(pairs).astype(int))
    return pairs if len(others) >= FEWEST and others.mean() >= NEARLY else []


def exchanged_between(before: Tap, after: Tap, activations: Mapping[str, Tensor]) -> str:
    """Two places whose tokens are exchanged between two taps of one grid in a residual trunk, in words; nothing where none are seen.

    Of `activations` [sample, token, feature], less the mean over places, each token is most alike to itself in nearly all places; the two
    are clearly more alike to one another.
    """
    if before.grid.shape != after.grid.shape or before.features != after.features:
        return ""
    grids = (activations[tap.name][:, tap.grid.prefix :].float() for tap in (before, after))
    x, y = (normalize(tokens - tokens.mean(1, keepdim=True), dim=2) for tokens in grids)
    alike = (y @ x.mT).mean(0)
    own, most = alike.diagonal().numpy(), alike.max(1)
    for pair in _exchanged(np.arange(len(own)), most.indices.numpy(), own < most.values.numpy() - CLEARLY):
        one, other = (tuple(map(int, np.unravel_index(place, after.grid.shape))) for place in pair)
        return f"tap {after.name} has the tokens of {one} and {other} exchanged against tap {before.name}"
    return ""


def _lags(
    axes: Sequence[str], shape: tuple[int, ...], places: np.ndarray, farthest: np.ndarray, far: np.ndarray
) -> bool:
    """Whether what moves lies in time behind the cells, and nothing before them moves: so do causal models."""
    if tuple(axes) != ("t",):
        return False
    before = np.arange(shape[0])[None] < places - 1  # a window may begin in the cell before
    return bool((farthest >= places[:, 0]).all()) and float(np.where(before, far, 0.0).max()) < _EARLIER


def _nearly(shape: tuple[int, ...], places: np.ndarray, farthest: np.ndarray) -> bool:
    """Whether nearly all places move their own token farthest or one beside it, where that is more than chance."""
    chance = math.prod(min(3, n) / n for n in shape)
    beside = (np.abs(all_cells(shape)[np.maximum(farthest, 0)] - places).max(axis=1) <= 1) & (farthest >= 0)
    return chance <= OWN and float(beside.mean()) >= NEARLY

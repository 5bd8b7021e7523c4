"""Verifies that the tokens of an encoder stand for the places that its grid declares.

It changes one cell of the input at a time.

At the first tap with a grid, before the trunk mixes tokens, a change within one cell of the input moves the token that
stands for that cell, and where tokens overlap its neighbours less. Behind the first tap a change reaches other tokens
too. In a residual trunk the cell's own token still goes farthest, and an order that is changed within the trunk shows
as another order of the tokens that do. Where neither is seen (a trunk without residuals, maps whose every place sees
everything) the grid is reported as not verified.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.hooks import EarlyEnd, aggregate, distances
from diagnostics.encoders.places.judge import Movements, Placement, TapGrid, all_cells, judge_first, judge_later
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, explaining

# Samples that differ from a base sample within one cell of a grid only, for each modality.
#
# Pixels: new noise in the cell. Series and audio: the same values in another order within the cell, so that mean,
# spread and range over the whole sample stay and a normalisation cannot move other tokens. A cell of one step swaps its
# value with that of two others, one after the other: only its own token moves both times. Text: another token id in its
# place.

# Axes of a raw sample, in its order.
SAMPLE_AXES = {"image": ("y", "x"), "video": ("t", "y", "x"), "series": ("t", "v"), "audio": ("t",), "text": ("t",)}
# Those along which a grid may cover part of a sample; variates are all or nothing.
_COVERED = {"image": ("y", "x"), "video": ("t", "y", "x"), "series": ("t",), "audio": ("t",)}
_LOUDNESS = 0.1
_PARTNERS = 8

Span = tuple[int, int]


class NotVerifiableError(DiagnosticsError):
    """An encoder's grid cannot be verified from outside; its message is the reason, a part of a sentence."""

    code = "not-verifiable"


@dataclass(frozen=True)
class _Changes:
    """Changes of the input of an encoder that show which token of a tap stands for it.

    `axes` and `shape` are those of the grid that the sample has; `unchecked` are others (frequency of a spectrogram),
    over which movements are summed. `base` is the prepared sample that changes are compared with, `valid` (bool [cell])
    says which cells lie within the sample and stand for data.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    unchecked: tuple[str, ...]
    base: Any
    valid: np.ndarray
    perturb: Callable[[tuple[int, ...], int, np.random.Generator], list[Any]]
    """(cell, attempt, generator) -> prepared samples with that cell changed; its own token is the one that moves in all
    of them. A later `attempt` (from 0) changes it in another way."""


def _valid_tokens(encoder: Encoder, tap: Tap, prepared: Any) -> np.ndarray:
    """Mask of the grid tokens that stand for data, bool [grid token]."""
    valid = encoder.valid(default_collate([prepared]), tap)
    if valid is None:
        return np.ones(tap.grid.tokens, dtype=bool)
    if tuple(valid.shape) != (1, tap.grid.tokens):
        raise DiagnosticsError(
            f"valid of {encoder.name} gives shape {tuple(valid.shape)} at tap {tap.name}: give bool [sample, grid "
            f"token].",
            code="bad-shape",
        )
    return valid[0].cpu().numpy().astype(bool)


def _array_changes(encoder: Encoder, tap: Tap, sample: np.ndarray, rng: np.random.Generator) -> _Changes:
    """With noise or reordered values in the form of the sample."""
    known = SAMPLE_AXES[encoder.modality]
    if encoder.modality == "series" and sample.ndim == 1:
        known = ("t",)
    axes = tuple(axis for axis in tap.grid.axes if axis in known)
    shape = tuple(n for n, axis in zip(tap.grid.shape, tap.grid.axes, strict=True) if axis in axes)
    if math.prod(shape) < 2:
        raise NotVerifiableError(f"no axis of its grid, {tap.grid}, is one of those of {encoder.modality} samples")
    covered = _COVERED[encoder.modality]
    extents = dict(zip(known, sample.shape, strict=False))
    ends = dict(zip(covered, encoder.covers(tuple(sample.shape[: len(covered)])), strict=True))
    # For each axis of the grid, and each of its cells, the places of the sample that change; None outside of it.
    spans = [
        _spans(ends.get(axis, (0.0, float(extents[axis]))), n, extents[axis], axis)
        for axis, n in zip(axes, shape, strict=True)
    ]
    base = _base(encoder.modality, sample, rng)
    prepared = encoder.preprocess(base)
    other = tuple(axis for axis, n in zip(tap.grid.axes, tap.grid.shape, strict=True) if axis not in axes and n > 1)
    data = aggregate(_valid_tokens(encoder, tap, prepared)[None], tap.grid, axes)[0] > 0
    inside = [all(span[i] is not None for span, i in zip(spans, cell, strict=True)) for cell in all_cells(shape)]

    def region_of(cell: tuple[int, ...]) -> tuple[slice, ...]:
        """The cell's part of the sample; whole along axes that the grid does not have."""
        own = {axis: span[i] for axis, span, i in zip(axes, spans, cell, strict=True)}
        return tuple(slice(*(own.get(axis) or (0, n))) for axis, n in zip(known, base.shape, strict=False))

    def swapped(cell: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray]:
        """Exchanged with two other cells of the same variate and length, of those drawn the most different ones."""
        at, own = axes.index("t"), region_of(cell)
        others = [i for i, span in enumerate(spans[at]) if span is not None and i != cell[at]]
        regions = [region_of((*cell[:at], int(i), *cell[at + 1 :])) for i in rng.permutation(others)]
        alike = [r for r in regions if r[0].stop - r[0].start == own[0].stop - own[0].start][:_PARTNERS]
        if len(alike) < 2:
            raise NotVerifiableError("it has too few cells to swap the values of one with two others")
        samples = [base.copy(), base.copy()]
        most = sorted(alike, key=lambda region: -float(np.abs(base[region] - base[own]).max()))
        for changed, region in zip(samples, most, strict=False):
            changed[own], changed[region] = base[region], base[own]
        return samples

    def perturb(cell: tuple[int, ...], attempt: int, rng: np.random.Generator) -> list[Any]:
        region, changed = region_of(cell), base.copy()
        if encoder.modality in ("image", "video"):
            changed[region] = _noise(changed[region], rng)
        elif region[0].stop - region[0].start > 1 and attempt < 2:
            # Sorted, up and down: as far from the noise that it was as the same values get.
            changed[region] = np.sort(changed[region], axis=0)[:: -1 if attempt else 1]
        else:
            return [encoder.preprocess(sample) for sample in swapped(cell, rng)]
        return [encoder.preprocess(changed)]

    return _Changes(axes, shape, other, prepared, data & np.array(inside), perturb)


def _spans(covered: tuple[float, float], cells: int, extent: int, axis: str) -> tuple[Span | None, ...]:
    """Each cell in places of the sample, None where it is cut off; the middle half of cells that end within a place."""
    start, stop = covered
    step = (stop - start) / cells
    if step < 1 - 1e-6:
        raise NotVerifiableError(f"its {cells} cells along {axis} are smaller than a place of a sample of {extent}")
    whole = all(abs(x - round(x)) < 1e-6 for x in (start, step))
    spans: list[Span | None] = []
    for i in range(cells):
        low, high = (math.floor(start + step * k + 0.5) for k in (i, i + 1))
        margin = 0 if whole else (high - low) // 4
        inside = low >= -0.5 and high <= extent + 0.5
        spans.append((max(low + margin, 0), min(high - margin, extent)) if inside else None)
    return tuple(spans)


def _noise(like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if like.dtype == np.uint8:
        return rng.integers(0, 256, like.shape, dtype=np.uint8)
    return rng.random(like.shape).astype(like.dtype)


def _base(modality: str, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if modality in ("image", "video"):
        return _noise(sample, rng)
    if modality == "audio":
        return (_LOUDNESS * rng.standard_normal(sample.shape)).clip(-1, 1).astype(np.float32)
    if not np.isfinite(sample).all() or np.ptp(sample) == 0:
        return rng.standard_normal(sample.shape).astype(sample.dtype if sample.dtype.kind == "f" else np.float64)
    return rng.permutation(sample, axis=0)


def _text_changes(encoder: Encoder, tap: Tap, sample: np.ndarray) -> _Changes:
    """With the token ids of the prepared text, one for each token of the grid."""
    if tap.grid.axes != ("t",):
        raise NotVerifiableError(f"a grid of {tap.grid} has other axes than a text's")
    prepared = encoder.preprocess(sample)
    key = None
    if isinstance(prepared, Mapping):
        integers = [k for k, v in prepared.items() if isinstance(v, Tensor) and not v.is_floating_point()]
        key = "input_ids" if "input_ids" in integers else next(iter(integers), None)
    own: Any = prepared if key is None else prepared[key]
    if not isinstance(own, Tensor) or own.is_floating_point() or own.ndim != 1:
        raise NotVerifiableError("its prepared text holds no sequence of token ids")
    if len(own) not in (tap.tokens, tap.grid.tokens):
        raise NotVerifiableError(f"its prepared text has {len(own)} token ids for {tap.tokens} tokens")
    offset = tap.grid.prefix if len(own) == tap.tokens else 0

    def perturb(cell: tuple[int, ...], attempt: int, rng: np.random.Generator) -> list[Any]:
        ids, place = own.clone(), cell[0] + offset
        # Ids that the text has elsewhere are in the vocabulary.
        others = [int(i) for i in torch.unique(ids) if int(i) != int(ids[place])]
        ids[place] = int(rng.choice(others)) if others else max(int(ids[place]) - 1, 0)
        return [ids if key is None else {**prepared, key: ids}]

    return _Changes(("t",), tap.grid.shape, (), prepared, _valid_tokens(encoder, tap, prepared), perturb)


MOST_CELLS = 256
"""Of larger grids a seeded subset: corners, one line along each axis, and random cells."""

# Rounding moves tokens too.
_NOTHING = 1e-5
_ROUNDS = 3
_BATCH = 16
_MOST_VALUES = 1 << 24


def verify_grid(
    encoder: Encoder, sample: np.ndarray | None = None, *, most: int = MOST_CELLS, seed: int = 0
) -> Placement:
    """Compare the grid of a tap with the declared one by changing single cells of a sample.

    It is the grid of the first tap, of whose tokens it is seen which one moves.

    Only the shape and dtype of the sample (the encoder's example by default) are used: pixels and audio are noise, a
    series keeps its values in another order, so that no normalisation over the whole series changes. A text keeps its
    tokens. Takes a sample a cell through the encoder (two where a cell is one step of a series, more where a cell's own
    token does not win at once), as far as that tap where the encoder lets a pass be broken off.

    Raises NotVerifiableError where there is no such tap, where the encoder takes no such sample, or where a cell is
    smaller than a place of the sample; DiagnosticsError where the encoder fails on a changed sample.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.places import verify_grid
        >>> placement = verify_grid(dx.build("encoder", "objectives:lorenz-forecast"))
        >>> print(placement)
        tap embed, 32 t: all 32 cells changed one at a time; 32 changed their own
        token most
        >>> placement.right
        True
    """
    sample = encoder.example() if sample is None else sample
    encoder = encoder.sized_for(sample)
    tap = _taps_with_grids(encoder)[0]
    return judge_first(tap, _movements(encoder, [tap], sample, most, seed))


def verify_taps(
    encoder: Encoder, sample: np.ndarray | None = None, *, most: int = 256, seed: int = 0
) -> tuple[Placement, tuple[TapGrid, ...]]:
    """`verify_grid` for the first tap with a grid, and from the same passes a result for each later one.

    A later tap is `wrong` where another order explains which tokens go farthest, clearly better than the declared one,
    and the cells' own tokens go less than half as far; `right` where half of the cells move their own token farthest
    (or nearly all that or one beside it, in grids where this is no chance); `not verified` otherwise. Grids coarser or
    finer than the first tap's are compared place by place.

    Takes as many passes as `verify_grid`, up to the last tap with a grid. Raises as that does.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.places import verify_taps
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
    first, *later = taps = _taps_with_grids(encoder)
    seen = _movements(encoder, taps, sample, most, seed)
    return judge_first(first, seen), tuple(judge_later(tap, seen) for tap in later)


def _taps_with_grids(encoder: Encoder) -> list[Tap]:
    """Those with more than one token, in order of execution; NotVerifiableError where there is none."""
    taps = [tap for tap in encoder.taps if tap.grid.tokens > 1]
    if not taps:
        raise NotVerifiableError("no tap has a grid of more than one token")
    return taps


def _movements(encoder: Encoder, taps: Sequence[Tap], sample: np.ndarray, most: int, seed: int) -> Movements:
    """Movements at all these taps by single cells of the first tap's grid, from the same passes.

    Raises as `verify_grid`.
    """
    rng = np.random.default_rng(seed)
    with explaining(f"{encoder.name} fails on a sample with one cell changed"):
        text = encoder.modality == "text"
        changes = (
            _text_changes(encoder, taps[0], sample)
            if text
            else _array_changes(encoder, taps[0], np.asarray(sample), rng)
        )
        cells = _choose_cells(all_cells(changes.shape)[changes.valid], changes.shape, most, rng)
        if len(cells) < 2:
            raise NotVerifiableError("fewer than two cells of its grid lie within the sample")
        far = _change_each(encoder, taps, changes, cells, rng)
    return Movements(changes.axes, changes.shape, changes.unchecked, cells, far)


def _choose_cells(usable: np.ndarray, shape: tuple[int, ...], most: int, rng: np.random.Generator) -> np.ndarray:
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


def _change_each(
    encoder: Encoder, taps: Sequence[Tap], changes: _Changes, cells: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Distance that each token of each tap went when each cell changed.

    It is a share of the farthest, [cell, prefix + places].
    """
    totals: dict[str, np.ndarray] = {}
    first = taps[0].name
    declared = taps[0].grid.prefix + np.asarray(np.ravel_multi_index(tuple(cells.T), changes.shape))
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


def _round(
    encoder: Encoder, taps: Sequence[Tap], changes: _Changes, cells: np.ndarray, attempt: int, rng: np.random.Generator
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


def _far(encoder: Encoder, taps: Sequence[Tap], changes: _Changes, prepared: Sequence[Any]) -> dict[str, np.ndarray]:
    """Distance that each token of each tap went [change, prefix + places], as a share of the farthest.

    Zero where nothing did.
    """
    far: dict[str, np.ndarray] = {}

    def note(tap: Tap, tokens: Tensor) -> None:
        moved = distances(tokens[1:], tokens[:1], tap.grid, changes.axes)
        least = _NOTHING * (float(tokens[0].double().norm(dim=-1).mean()) or 1.0)
        most = moved.max(axis=1, keepdims=True)
        far[tap.name] = np.where(most > least, moved / np.maximum(most, 1e-30), 0.0)
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

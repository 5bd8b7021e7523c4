"""Verifies that the tokens of an encoder stand for the places that its grid declares, by changing one cell of the input.

At the first tap with a grid, before the trunk mixes tokens, a change within one cell of the input moves the
token that stands for that cell, and where tokens overlap its neighbours less.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.hooks import EarlyEnd
from diagnostics.encoders.perturbation import aggregate, distances
from diagnostics.encoders.placement.token_order import Ordering, all_cells, explained
from diagnostics.encoders.taps import Tap, spelled
from diagnostics.errors import DiagnosticsError, explaining

# Samples that differ from a base sample within one cell of a grid only, for each modality.
#
# Pixels: new noise in the cell. Series and audio: the same values in another order within the cell, so that mean, spread and
# range over the whole sample stay and a normalisation cannot move other tokens. A cell of one step swaps its value with that
# of two others, one after the other: only its own token moves both times. Text: another token id in its place.

# Axes of a raw sample, in its order.
SAMPLE_AXES = {"image": ("y", "x"), "video": ("t", "y", "x"), "series": ("t", "v"), "audio": ("t",), "text": ("t",)}
# Those along which a grid may cover part of a sample; variates are all or nothing.
_COVERED = {"image": ("y", "x"), "video": ("t", "y", "x"), "series": ("t",), "audio": ("t",)}
_LOUDNESS = 0.1
_PARTNERS = 8

Span = tuple[int, int]


class NotVerifiableError(DiagnosticsError):
    """An encoder's grid cannot be verified from outside; its message is the reason, a part of a sentence."""


@dataclass
class Changes(ABC):
    """What can be changed in the input of an encoder to see which token of a tap stands for it.

    `axes` and `shape` are those of the grid that the sample has; `unchecked` are others (frequency of a spectrogram), over
    which movements are summed. `base` is the prepared sample that changes are compared with, `valid` (bool [cell]) says
    which cells lie within the sample and stand for data.
    """

    tap: Tap
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    unchecked: tuple[str, ...]
    base: Any
    valid: np.ndarray

    @abstractmethod
    def perturb(self, cell: tuple[int, ...], attempt: int, rng: np.random.Generator) -> list[Any]:
        """Prepared samples with that cell changed; its own token is the one that moves in all of them.

        A later `attempt` (from 0) changes it in another way.
        """


def changes_of(encoder: Encoder, tap: Tap, sample: np.ndarray, rng: np.random.Generator) -> Changes:
    """What can be changed in such a sample; NotVerifiableError with the reason where nothing can."""
    if encoder.modality == "text":
        return _TextChanges.of(encoder, tap, sample)
    return _ArrayChanges.of(encoder, tap, np.asarray(sample), rng)


def _valid_tokens(encoder: Encoder, tap: Tap, prepared: Any) -> np.ndarray:
    """Which grid tokens stand for data, bool [grid token]."""
    valid = encoder.valid(default_collate([prepared]), tap)
    if valid is None:
        return np.ones(tap.grid.tokens, dtype=bool)
    if tuple(valid.shape) != (1, tap.grid.tokens):
        raise DiagnosticsError(
            f"valid of {encoder.name} gives shape {tuple(valid.shape)} at tap {tap.name}: give bool [sample, grid token]."
        )
    return valid[0].cpu().numpy().astype(bool)


@dataclass
class _ArrayChanges(Changes):
    encoder: Encoder
    sample: np.ndarray
    spans: tuple[tuple[Span | None, ...], ...]
    """For each axis of the grid, and each of its cells, the places of the sample that change; None outside of it."""

    @classmethod
    def of(cls, encoder: Encoder, tap: Tap, sample: np.ndarray, rng: np.random.Generator) -> _ArrayChanges:
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
        spans = tuple(
            _spans(ends.get(axis, (0.0, float(extents[axis]))), n, extents[axis], axis)
            for axis, n in zip(axes, shape, strict=True)
        )
        base = _base(encoder.modality, sample, rng)
        prepared = encoder.preprocess(base)
        other = tuple(axis for axis, n in zip(tap.grid.axes, tap.grid.shape, strict=True) if axis not in axes and n > 1)
        data = aggregate(_valid_tokens(encoder, tap, prepared)[None], tap.grid, axes)[0] > 0
        inside = [all(span[i] is not None for span, i in zip(spans, cell, strict=True)) for cell in all_cells(shape)]
        return cls(tap, axes, shape, other, prepared, data & np.array(inside), encoder, base, spans)

    def perturb(self, cell: tuple[int, ...], attempt: int, rng: np.random.Generator) -> list[Any]:
        region = self._region(cell)
        changed = self.sample.copy()
        if self.encoder.modality in ("image", "video"):
            changed[region] = _noise(changed[region], rng)
        elif region[0].stop - region[0].start > 1 and attempt < 2:
            # Sorted, up and down: as far from the noise that it was as the same values get.
            changed[region] = np.sort(changed[region], axis=0)[:: -1 if attempt else 1]
        else:
            return [self.encoder.preprocess(self._swapped(region, other)) for other in self._partners(cell, rng)]
        return [self.encoder.preprocess(changed)]

    def _region(self, cell: tuple[int, ...]) -> tuple[slice, ...]:
        """The cell's part of the sample; whole along axes that the grid does not have."""
        spans = {axis: spans[i] for axis, spans, i in zip(self.axes, self.spans, cell, strict=True)}
        known = SAMPLE_AXES[self.encoder.modality][: self.sample.ndim]
        return tuple(slice(*(spans.get(axis) or (0, n))) for axis, n in zip(known, self.sample.shape, strict=False))

    def _swapped(self, region: tuple[slice, ...], other: tuple[slice, ...]) -> np.ndarray:
        changed = self.sample.copy()
        changed[region], changed[other] = self.sample[other], self.sample[region]
        return changed

    def _partners(self, cell: tuple[int, ...], rng: np.random.Generator) -> list[tuple[slice, ...]]:
        """Two other cells of the same variate and length, of those drawn the most different ones."""
        at = self.axes.index("t")
        own = self._region(cell)
        others = [i for i, span in enumerate(self.spans[at]) if span is not None and i != cell[at]]
        regions = [self._region((*cell[:at], int(i), *cell[at + 1 :])) for i in rng.permutation(others)]
        alike = [r for r in regions if r[0].stop - r[0].start == own[0].stop - own[0].start][:_PARTNERS]
        if len(alike) < 2:
            raise NotVerifiableError("it has too few cells to swap the values of one with two others")
        return sorted(alike, key=lambda region: -float(np.abs(self.sample[region] - self.sample[own]).max()))[:2]


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


@dataclass
class _TextChanges(Changes):
    key: str | None
    offset: int

    @classmethod
    def of(cls, encoder: Encoder, tap: Tap, sample: np.ndarray) -> _TextChanges:
        """With the token ids of the prepared text, one for each token of the grid."""
        if tap.grid.axes != ("t",):
            raise NotVerifiableError(f"a grid of {tap.grid} has other axes than a text's")
        prepared = encoder.preprocess(sample)
        key = None
        if isinstance(prepared, Mapping):
            integers = [k for k, v in prepared.items() if isinstance(v, Tensor) and not v.is_floating_point()]
            key = "input_ids" if "input_ids" in integers else next(iter(integers), None)
        ids = prepared if key is None else prepared[key]
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 1:
            raise NotVerifiableError("its prepared text holds no sequence of token ids")
        if len(ids) not in (tap.tokens, tap.grid.tokens):
            raise NotVerifiableError(f"its prepared text has {len(ids)} token ids for {tap.tokens} tokens")
        offset = tap.grid.prefix if len(ids) == tap.tokens else 0
        return cls(tap, ("t",), tap.grid.shape, (), prepared, _valid_tokens(encoder, tap, prepared), key, offset)

    def perturb(self, cell: tuple[int, ...], attempt: int, rng: np.random.Generator) -> list[Any]:
        ids: Tensor = (self.base if self.key is None else self.base[self.key]).clone()
        place = cell[0] + self.offset
        # Ids that the text has elsewhere are in the vocabulary.
        others = [int(i) for i in torch.unique(ids) if int(i) != int(ids[place])]
        ids[place] = int(rng.choice(others)) if others else max(int(ids[place]) - 1, 0)
        return [ids if self.key is None else {**self.base, self.key: ids}]


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

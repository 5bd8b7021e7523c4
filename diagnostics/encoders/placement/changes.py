"""Samples that differ from a base sample within one cell of a grid only, for each modality.

Pixels: new noise in the cell. Series and audio: the same values in another order within the cell, so that mean, spread and
range over the whole sample stay and a normalisation cannot move other tokens. A cell of one step swaps its value with that
of two others, one after the other: only its own token moves both times. Text: another token id in its place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.perturbation import aggregate
from diagnostics.encoders.placement.token_order import all_cells
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError

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

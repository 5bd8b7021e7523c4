"""Probes from single tokens to a dense target: reading block by block, ridge regression, and sums.

Tokens are those that are stored, or a pass gathers sums of them (`Sums`), over the blocks of `folds` (val, and four
parts of train, each of whole groups), so that the fit without a block is a sum of the others'; a second pass then
judges every sample by a fit that has not seen it.
"""

from __future__ import annotations

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.datasets.target import resample
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, require_finite_tap
from diagnostics.measures.probes.depth import Align, depth_by_sample
from diagnostics.measures.probes.least_squares import PENALTIES, LinearMaps, Moments, RidgeFits, RidgePath, choose
from diagnostics.measures.probes.protocol import (
    KEEP_TOKENS,
    Probe,
    Readout,
    Rows,
    Split,
    TapReadouts,
    probe_result,
    rows_of,
    sum_by_unit,
)
from diagnostics.measures.statistics import Losses
from diagnostics.vocabulary import Kind

_ALIGNED: dict[str, Align | None] = {"": None, "aligned_": "scale_shift"}
R2_OF_TOKENS = "R2 against the mean of the tokens fitted: 1 - sum (y - prediction)^2 / sum (y - mean)^2"


def mask_of_known(kind: Kind, values: np.ndarray) -> np.ndarray:
    """The places where a dense target of a kind is known, bool like its values."""
    return np.asarray(values >= 0 if kind == "token_label" else np.isfinite(values))


@dataclass(frozen=True)
class DenseRows:
    """The tokens that a dense probe reads: splits and units are those of samples, whose tokens stay together.

    All taps are scored on one grid, the output tap's (the last with more than one token, where that has none): coarser
    cells would be easier, and taps could not be compared.

    `values` [sample, token] on that grid, of the samples whose tokens are kept; `known` where they are; `reads` the
    taps that have such a grid, or one of as many axes, which is resampled. Of taps that are `joined`, their tokens side
    by side are read as those of one.
    """

    measure: str
    activations: Activations
    target: StoredTarget
    grid: Grid
    values: np.ndarray
    known: np.ndarray
    rows: Rows
    reads: tuple[str, ...]
    joined: tuple[Tap, ...] = field(default=(), kw_only=True)

    @classmethod
    def of(cls, measure: str, activations: Activations, target: StoredTarget) -> DenseRows:
        """Raise where the target lies on no tap's grid, or a split has no known token."""
        taps = activations.taps
        grids = {tap.name: tap.grid for tap in taps if tap.grid.tokens > 1 and tap.grid.shape in target.on_grid}
        if not grids:
            raise DiagnosticsError(
                f"Target {target.name} lies on no tap's grid: choose taps of several tokens (--taps).", code="no-grid"
            )
        grid = grids.get(activations.output_tap, list(grids.values())[-1])
        values = target.tokens(grid)[: activations.token_samples]
        known = mask_of_known(target.kind, values) & (activations.split[: len(values)] != "")[:, None]
        rows = rows_of(activations, target.name, np.asarray(known.any(axis=1)), KEEP_TOKENS)
        reads = tuple(name for name, has in grids.items() if len(has.shape) == len(grid.shape))
        return cls(measure, activations, target, grid=grid, values=values, known=known, rows=rows, reads=reads)

    @property
    def taps(self) -> list[Tap]:
        """Those that are read, or the one in place of those joined."""
        if not self.joined:
            return [tap for tap in self.activations.taps if tap.name in self.reads]
        return [Tap(self.reads[0], 1.0, "trunk", sum(tap.features for tap in self.joined), self.grid)]

    @property
    def streamed(self) -> Streamed | None:
        """Result of a pass over them; None without one. Raises where their tokens represent no data."""
        found = self.activations.streamed.get((self.measure, self.digest))
        if isinstance(found, DiagnosticsError):
            raise found
        return found

    @cached_property
    def mask_digest(self) -> str:
        """Of the grid, of which tokens are known, and of the taps that are joined."""
        names = "/".join(tap.name for tap in self.joined)
        return digest_of_bytes(repr(self.grid.shape).encode(), np.packbits(self.known).tobytes(), names.encode())

    @cached_property
    def digest(self) -> str:
        """Of the kind and the values too, where they are known."""
        values = np.where(self.known, self.values, 0).astype(np.float64).tobytes()
        return digest_of_bytes(self.mask_digest.encode(), self.target.kind.encode(), values)

    @cached_property
    def classes(self) -> np.ndarray:
        """The numbers of the classes that known tokens have, [class]."""
        return np.unique(self.values[self.known])

    @cached_property
    def mean(self) -> float:
        """Of the known values of train and val."""
        return float(self.values[self.mask(self.rows.fit)].mean())

    @cached_property
    def positive(self) -> bool:
        """Test for known values that are all above 0."""
        return bool((self.values[self.known] > 0).all())

    def mask(self, rows: np.ndarray) -> np.ndarray:
        """The known tokens of some rows, bool [sample, token]."""
        wanted = np.zeros_like(self.known)
        wanted[rows] = self.known[rows]
        return wanted

    def tokens(self, tap: Tap, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows that are wanted, bool [sample], and have known tokens; and these, float64 [row, token, feature]."""
        wanted = wanted & self.known.any(axis=1)
        of = self.joined or (tap,)
        for each in zip(*(self.activations.token_blocks(one.name) for one in of), strict=True):
            block = each[0][0]
            rows = block.start + np.flatnonzero(wanted[block])
            if len(rows):
                picked = [
                    self._on_grid(tokens[rows - block.start], one) for one, (_, tokens) in zip(of, each, strict=True)
                ]
                x = np.concatenate(picked, axis=2, dtype=np.float64)
                require_finite_tap(x, self.measure, tap.name)
                yield rows, x

    def _on_grid(self, tokens: np.ndarray, tap: Tap) -> np.ndarray:
        return tokens if tap.grid.shape == self.grid.shape else resample(tokens, tap.grid.shape, self.grid.shape)

    def blocks(self, tap: Tap, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """x [token, feature] float64, value and row [token] of the wanted tokens, bool [sample, token], in order."""
        for block, tokens in self.activations.token_blocks(tap.name):
            rows = block.start + np.flatnonzero(wanted[block].any(axis=1))
            if len(rows) == 0:
                continue
            picked = self._on_grid(tokens[rows - block.start], tap)
            mask = wanted[rows]
            x = picked[mask].astype(np.float64)
            require_finite_tap(x, self.measure, tap.name)
            yield x, self.values[rows][mask], np.repeat(rows, mask.sum(axis=1))

    def unit_of(self, rows: np.ndarray, split: Literal["test", "val"] = "test") -> np.ndarray:
        """The unit of each of some test or val rows."""
        of = self.rows
        every, units = (of.test, of.unit_of_test) if split == "test" else (of.val, of.unit_of_val)
        return units[np.searchsorted(every, rows)]

    def counts(self) -> dict[str, np.ndarray]:
        """Number of tokens of each split, [tap]; 0 for taps that are not read."""
        read = np.array([tap.name in self.reads for tap in self.activations.taps])
        by_split = {"train": self.rows.train, "val": self.rows.val, "test": self.rows.test}
        return {f"tokens_{split}": read * int(self.known[rows].sum()) for split, rows in by_split.items()}

    def attrs(self) -> dict[str, Any]:
        """Keywords of `probe_result`: the grid, and which taps are not read."""
        missed = ", ".join(tap.name for tap in self.activations.taps if tap.name not in self.reads)
        return {
            "pooling": f"none: tokens on a grid of {' x '.join(map(str, self.grid.shape))}",
            "reasons": [("", f"no grid with this target: {missed}")] if missed else [],
        }


@dataclass(frozen=True)
class TokenRead:
    """Answers of a readout for the known tokens of test or val, the truth and the row of each, [token].

    Behind them loss and reference [unit, part].
    """

    guess: np.ndarray
    truth: np.ndarray
    rows: np.ndarray
    loss: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True)
class TokenChoice:
    """Choice for a tap: numbers, their loss and reference on val [unit, part], and a start for the last fit."""

    numbers: dict[str, float]
    val: tuple[np.ndarray, np.ndarray]
    start: Any = None


@dataclass(frozen=True)
class EachToken(Readout):
    """A readout of single tokens: of those of a tap's `grid`, averaged over the cells of the grid `on`."""

    readout: Readout
    grid: Grid
    # pyrefly: ignore[bad-override]
    on: Grid

    def predict(self, x: np.ndarray) -> np.ndarray:
        if self.grid.shape != self.on.shape:
            # As the probe read them.
            x = resample(x.astype(np.float32), self.grid.shape, self.on.shape).astype(np.float64)
        read = self.readout.predict(x.reshape(-1, x.shape[2]))
        return read.reshape(*x.shape[:2], *read.shape[1:])


class DenseProbe(Probe):
    """A probe from single tokens to a target with a value for every place: a subclass chooses, fits and judges a tap."""

    def rows(self, activations: Activations, target: StoredTarget) -> DenseRows:
        """The tokens that are read; raises where a target does not do."""
        return DenseRows.of(self.name, activations, target)

    @abstractmethod
    def choose(self, dense: DenseRows, tap: Tap, seed: int) -> TokenChoice:
        """Chooses for a tap on train and val."""

    @abstractmethod
    def fits(self, dense: DenseRows, tap: Tap, numbers: Mapping[str, float], start: Any = None) -> Readout:
        """The readout of single tokens fitted on train and val with chosen numbers; `start`: of a `TokenChoice`."""

    @abstractmethod
    def judge(
        self, dense: DenseRows, readout: Any, guess: np.ndarray, truth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss and reference [token, part] of guesses [token]."""

    @abstractmethod
    def attributes(self, dense: DenseRows, readouts: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of a result, `functional` among them, from the readouts of taps by name."""

    def says(self, readout: Any, x: np.ndarray) -> np.ndarray:
        """Answer for tokens x [token, feature], [token]."""
        return readout.predict(x).reshape(len(x))

    def beside(self, dense: DenseRows, readout: Any, test: TokenRead) -> dict[str, Any]:
        """Further numbers of a tap, or arrays [part]."""
        return {}

    def read(
        self, dense: DenseRows, tap: Tap, split: Literal["test", "val"], readouts: Sequence[Any]
    ) -> list[TokenRead]:
        """Read a split by each readout, in one pass."""
        of = dense.rows
        rows, units = (of.test, len(of.units)) if split == "test" else (of.val, len(of.val_units))
        sums: list[Any] = [0.0] * len(readouts)
        said: list[list[np.ndarray]] = [[] for _ in readouts]
        truths: list[tuple[np.ndarray, np.ndarray]] = []
        for x, truth, samples in dense.blocks(tap, dense.mask(rows)):
            truths.append((truth, samples))
            for i, readout in enumerate(readouts):
                said[i].append(self.says(readout, x))
                judged = np.stack(self.judge(dense, readout, said[i][-1], truth))
                of_block = np.zeros((units, 2, judged.shape[2]))
                np.add.at(of_block, dense.unit_of(samples, split), judged.swapaxes(0, 1))
                sums[i] = sums[i] + of_block
        truth, samples = (np.concatenate(parts) for parts in zip(*truths, strict=True))
        return [
            TokenRead(np.concatenate(guess), truth, samples, *each.swapaxes(0, 1))
            for guess, each in zip(said, sums, strict=True)
        ]

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        dense = self.rows(activations, target)
        if tap.name not in dense.reads:
            raise DiagnosticsError(
                f"Tap {tap.name} has a grid of {tap.grid}, on which target {target.name} does not lie, so {self.name} "
                f"was not fitted there: choose {', '.join(dense.reads)}.",
                code="no-grid",
            )
        return EachToken(self.fits(dense, tap, choice), tap.grid, dense.grid)

    def at_tap(self, activations: Activations, target: StoredTarget, tap: Tap, seed: int) -> Any:
        dense = self.rows(activations, target)
        choice = self.choose(dense, tap, seed)
        readout = self.fits(dense, tap, choice.numbers | {"seed": seed}, choice.start)
        (test,) = self.read(dense, tap, "test", [readout])
        return readout, (test.loss, test.reference, *choice.val), choice.numbers | self.beside(dense, readout, test)

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        dense = self.rows(activations, target)
        if (found := dense.streamed) is not None:
            return result_of_sums(dense, self.sums(target), found, seed)
        readouts, numbers, losses = dict[str, Any](), dict[str, dict[str, Any]](), dict[str, Sequence[np.ndarray]]()
        for tap in activations.taps:
            if tap.name in dense.reads:
                readouts[tap.name], losses[tap.name], numbers[tap.name] = self.find_at(activations, target, tap, seed)
        return _result(dense, losses, numbers, self.attributes(dense, readouts), seed)


PathOf = Callable[[int, Moments], RidgePath]
"""The fits for all penalties on the sums of all blocks but one."""


def solve_blocks(
    dense: DenseRows,
    sums: Sums,
    blocks: Mapping[int, Moments],
    held_out: Iterable[int],
    path_of: PathOf = lambda block, rest: RidgePath.from_moments(rest),
) -> tuple[float, dict[int | None, TokenMap]]:
    """The penalty that predicts each block that is held out best from the others, and the fits.

    The fits are without each block and on all (None).
    """
    penalty = choose(penalty_errors(blocks, held_out, path_of))
    some = [block for block in held_out if block in blocks]
    return penalty, {block: sums.solve(dense, sum_blocks(blocks, block), penalty) for block in (*some, None)}


def penalty_errors(
    blocks: Mapping[int, Moments],
    held_out: Iterable[int],
    path_of: PathOf = lambda block, rest: RidgePath.from_moments(rest),
) -> np.ndarray:
    """[penalty], the squared error of all columns on the blocks that are held out, by the fits without each."""
    errors = np.zeros(len(PENALTIES))
    for block in held_out:
        if block in blocks:
            # Without a name, so that none is there while the next one is computed.
            errors += blocks[block].squared_errors(path_of(block, sum_blocks(blocks, block)), PENALTIES).sum(axis=1)
    return errors


def sum_blocks(blocks: Mapping[int, Moments], but: int | None = None) -> Moments:
    """The sums of all blocks, or of all but one."""
    first, *rest = (moments for block, moments in blocks.items() if block != but)
    for moments in rest:
        first = first + moments
    return first


def result_of_sums(dense: DenseRows, sums: Sums, found: Streamed, seed: int, tokens: str = "streamed") -> xr.Dataset:
    """The result of what was chosen and judged, of `tokens` that are streamed or stored."""
    chosen, judged = found
    splits: tuple[Split, ...] = ("test", "val", "fit") if dense.activations.choose_on == "fit" else ("test", "val")
    rows = dense.rows
    losses, numbers = dict[str, Sequence[np.ndarray]](), dict[str, dict[str, Any]]()
    for tap, parts in judged.items():
        order = np.concatenate([each for each, _ in parts])
        place = np.full(len(dense.known), len(order))  # no place, for a sample that was not judged
        place[order] = np.arange(len(order))
        each = [np.concatenate([judged[of] for _, judged in parts]) for of in ("loss", "reference")]
        by_split = [(of[place[getattr(rows, split)]].astype(np.float64), split) for split in splits for of in each]
        losses[tap] = [sum_by_unit(of, rows, split) for of, split in by_split]
        test = [of for some, of in parts if some[0] in rows.test]
        joined = {name: np.concatenate([of[name] for of in test]).astype(np.float64) for name in test[0]}
        numbers[tap] = {**chosen[tap], **sums.beside(joined)}
    return _result(dense, losses, numbers, sums.attributes(dense) | {"tokens": tokens}, seed)


def _result(
    dense: DenseRows,
    losses: Mapping[str, Sequence[np.ndarray]],
    numbers: Mapping[str, Mapping[str, Any]],
    stated: dict[str, Any],
    seed: int,
) -> xr.Dataset:
    """The result of a probe from numbers of each tap that is read, and its losses and references [unit, part].

    They are those on test, val and perhaps out of fold; `stated`: attributes, of which lines stand beside the numbers.
    """
    taps, variables = dense.activations.taps, dict[str, np.ndarray]()
    unread = [np.full_like(each, np.nan) for each in next(iter(losses.values()))]
    by_tap = [np.stack(each) for each in zip(*(losses.get(tap.name, unread) for tap in taps), strict=True)]
    if by_tap[0].shape[2] == 1:
        by_tap = [each[..., 0] for each in by_tap]
    test, val, *oof = map(Losses, by_tap[::2], by_tap[1::2])
    for i, tap in enumerate(taps):
        for name, value in numbers.get(tap.name, {}).items():
            variables.setdefault(name, np.full((len(taps), *np.shape(value)), np.nan))[i] = value
    lines = [name for name in stated if name.startswith("line_")]
    variables |= {name: np.full(len(taps), stated.pop(name)) for name in lines} | dense.counts()
    return probe_result(
        dense.activations,
        dense.rows,
        test.loss,
        test.reference,
        val,
        {name: (("tap", "part")[: values.ndim], values) for name, values in variables.items()},
        seed=seed,
        oof=oof[0] if oof else None,
        centring="features standardised with the tokens fitted",
        **stated,
        **dense.attrs(),
    )


class TokenRidge(DenseProbe):
    """R2 of ridge from each tap's grid tokens to a `token_value` target; see `DenseRows`.

    Of a positive target, as depth is, also the numbers of `depth_metrics`, and under `aligned_` those after aligning
    factor and offset of each sample. Taps without a grid that has the target get NaN.
    """

    def choose(self, dense: DenseRows, tap: Tap, seed: int) -> TokenChoice:
        train, val = split_moments(dense, tap)
        path = RidgePath.from_moments(train)
        penalty = choose(val.squared_errors(path, PENALTIES)[:, 0])
        (read,) = self.read(dense, tap, "val", [path.at(penalty)])
        return TokenChoice({"penalty": penalty}, (read.loss, read.reference), train + val)

    def fits(self, dense: DenseRows, tap: Tap, numbers: Mapping[str, float], start: Any = None) -> LinearMaps:
        return RidgePath.from_moments(start or operator.add(*split_moments(dense, tap))).at(numbers["penalty"])

    def judge(
        self, dense: DenseRows, readout: LinearMaps, guess: np.ndarray, truth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return (truth - guess)[:, None] ** 2, (truth[:, None] - readout.mean_y.numpy()) ** 2

    def beside(self, dense: DenseRows, readout: LinearMaps, test: TokenRead) -> dict[str, Any]:
        rows, prediction = dense.rows.test, np.full(dense.known.shape, np.nan)
        prediction[dense.mask(rows)] = test.guess
        return {name: of.mean() for name, of in _depth_numbers(dense, prediction[rows], rows).items()}

    def attributes(self, dense: DenseRows, readouts: Mapping[str, Any]) -> dict[str, Any]:
        return {"functional": R2_OF_TOKENS, "penalties": list(PENALTIES)}

    def sums(self, target: StoredTarget) -> Values:
        return Values()


def _depth_numbers(dense: DenseRows, prediction: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of `depth_metrics` of some rows, [row], also after aligning; none where a value is not above 0."""
    if not dense.positive:
        return {}
    truth = np.where(dense.known, dense.values, np.nan)[rows]
    found = {prefix: depth_by_sample(prediction, truth, align) for prefix, align in _ALIGNED.items()}
    return {prefix + name: of.numpy() for prefix, each in found.items() for name, of in each.items()}


def split_moments(dense: DenseRows, tap: Tap) -> tuple[Moments, Moments]:
    """Of train and of val tokens at a tap, from one pass."""
    of_train = np.isin(np.arange(len(dense.known)), dense.rows.train)
    train = val = None
    for x, y, rows in dense.blocks(tap, dense.mask(dense.rows.fit)):
        if train is None or val is None:
            # Any token serves as the origin, as long as both share it.
            train, val = (Moments(x[0], np.zeros(1)) for _ in range(2))
        for moments, mine in ((train, of_train[rows]), (val, ~of_train[rows])):
            moments.update(x[mine], y[mine][:, None])
    assert train is not None and val is not None  # no split is without tokens
    return train, val


@dataclass(frozen=True, repr=False)
class TokenMap(ShortRepr, TapReadouts):
    """(x - `mean` [feature]) @ `weights` [feature, column] + `bias` [variant, column], of which one variant is used.

    With `numbers` [column] it names the class whose score is largest.
    """

    mean: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    numbers: np.ndarray | None = None

    def __call__(self, x: Tensor) -> np.ndarray:
        said = (x.numpy() - self.mean) @ self.weights + self.bias[0]
        return said if self.numbers is None else self.numbers[said.argmax(axis=-1)]

    def at(self, variant: int) -> TokenMap:
        """With one variant alone."""
        return TokenMap(self.mean, self.weights, self.bias[variant][None], self.numbers)


Judged = Mapping[str, np.ndarray]
"""`loss` and `reference` [sample, part] of samples, and of those of test by name further numbers [sample]."""
JudgedRows = tuple[np.ndarray, Judged]
"""Some rows, and what was judged of them."""
Solved = tuple[dict[str, float], dict[int | None, TokenMap]]
"""Numbers that are chosen, and what is fitted without a block, or on all (None)."""
Streamed = tuple[Mapping[str, Mapping[str, float]], Mapping[str, Sequence[JudgedRows]]]
"""Numbers that were chosen, and what was judged, each by tap."""


class Sums(ABC):
    """Reader of a target of one kind from sums."""

    variants: ClassVar[Mapping[str, Sequence[float]]] = {}
    """At most one number of the readout, by name, that the second pass chooses, with its values."""
    second_penalty: ClassVar[str] = ""
    """The name of the penalty of its second part; "" where that is a readout of its own."""

    def rows(self, measure: str, activations: Activations, target: StoredTarget) -> DenseRows:
        """The tokens that are read; raises where a target does not do."""
        return DenseRows.of(measure, activations, target)

    @abstractmethod
    def columns(self, dense: DenseRows, rows: np.ndarray) -> np.ndarray:
        """The columns whose products with features are summed, float32 [row, token, column]; anything where unknown."""

    @abstractmethod
    def origin(self, dense: DenseRows) -> np.ndarray:
        """Offset of the columns [column] that is subtracted before they are summed."""

    @abstractmethod
    def solve(self, dense: DenseRows, moments: Moments, penalty: float) -> TokenMap:
        """The readout of the rows behind sums, in all its variants."""

    def solve_all(
        self, dense: DenseRows, tap: Tap, blocks: Mapping[int, Moments], held_out: Sequence[int], path_of: PathOf
    ) -> dict[str, Solved]:
        """Readouts chosen and fitted from the sums at a tap, by name: by default one, called as the tap."""
        penalty, fits = solve_blocks(dense, self, blocks, held_out, path_of)
        return {tap.name: ({"penalty": penalty}, fits)}

    @abstractmethod
    def judge(self, dense: DenseRows, readout: TokenMap, said: Tensor, rows: np.ndarray) -> Judged:
        """Of what a readout says of samples, [row, token, column]."""

    def pack(self, judged: Judged) -> Mapping[str, np.ndarray]:
        """Packs what was judged as arrays of numbers."""
        return judged

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> Judged:
        """Unpacks what `pack` made arrays of."""
        return arrays

    def second(self, dense: DenseRows) -> tuple[DenseRows, Sums] | None:
        """Tokens of its own, and how they are read, for a second part of the readout; by default there is none."""
        return None

    def join(self, first: TokenMap, second: TokenMap) -> TokenMap:
        """The readout of both parts, in all its variants."""
        raise NotImplementedError(f"{type(self).__name__} has a second part, and does not say how it joins the first.")

    def score(self, judged: Sequence[Judged]) -> float:
        """By which a variant is chosen, of what was judged: the mean over the parts that have a reference."""
        loss, reference = (sum(each[of].sum(axis=0) for each in judged) for of in ("loss", "reference"))
        return float(np.nanmean(1 - loss / np.where(reference > 0, reference, np.nan)))

    @abstractmethod
    def attributes(self, dense: DenseRows) -> dict[str, Any]:
        """Attributes of a result, `functional` among them."""

    def beside(self, test: Judged) -> dict[str, Any]:
        """Numbers of a tap, or arrays [part], from what was judged of test samples."""
        return {}


class Values(Sums):
    """A value at every place by ridge regression, as `TokenRidge` from stored tokens."""

    def columns(self, dense: DenseRows, rows: np.ndarray) -> np.ndarray:
        return (dense.values[rows] - dense.mean).astype(np.float32)[..., None]

    def origin(self, dense: DenseRows) -> np.ndarray:
        return np.array([dense.mean])

    def solve(self, dense: DenseRows, moments: Moments, penalty: float) -> TokenMap:
        fits = RidgeFits.from_moments(moments, [penalty])
        return TokenMap(fits.mean_x, fits.weights[0], fits.mean_y[None])

    def judge(self, dense: DenseRows, readout: TokenMap, said: Tensor, rows: np.ndarray) -> Judged:
        known, guess = dense.known[rows], said[..., 0].double().cpu().numpy()
        truth = np.where(known, dense.values[rows], np.nan)
        judged = {
            "loss": np.nansum((truth - guess) ** 2, axis=1)[:, None],
            "reference": np.nansum((truth - readout.bias[0, 0]) ** 2, axis=1)[:, None],
        }
        return judged | (_depth_numbers(dense, guess, rows) if rows[0] in dense.rows.test else {})

    def attributes(self, dense: DenseRows) -> dict[str, Any]:
        return {"functional": R2_OF_TOKENS, "penalties": list(PENALTIES)}

    def beside(self, test: Judged) -> dict[str, Any]:
        return {name: np.nanmean(of) for name, of in test.items() if of.ndim == 1}


def digest_of_bytes(*parts: bytes) -> str:
    """A short digest of what parts hold together."""
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()

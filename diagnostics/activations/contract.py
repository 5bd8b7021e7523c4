"""The contract of measures: protocols for stored activations, targets and observations, independent of the storage."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from diagnostics.datasets.matches import there
from diagnostics.datasets.questions import there as asked
from diagnostics.datasets.target import TargetInfo
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import BY_PLACE, FAMILY_OF, SPLITS, ChooseOn, Family, Kind, Modality

if TYPE_CHECKING:
    from torch import Tensor

    from diagnostics.datasets.dataset import Dataset
    from diagnostics.encoders.encoder import Encoder


@dataclass(frozen=True)
class StoredTarget(TargetInfo):
    """A target as the run stored it, in the rows of the activations.

    `values` is as in `diagnostics.Target`: [sample] (int for `label`, -1 unknown; float otherwise, NaN unknown),
    [sample, horizon] or [sample] for `future`, [sample, feature] for `caption`, int [sample, *extent] for `masks` (the
    part that the encoder's grid covers), float [sample, 1 + box, column] for `boxes` (in shares of that part; see
    `datasets.boxes`), float [sample, 1 + match, column] for `matches` likewise (`datasets.matches`). Another target
    with a value for every place (`dense`) has instead `on_grid`: grid shape
    -> float [sample, token], by cell: the mean of a `token_value` (NaN: nothing known there), the class of most
    places of a `token_label` (-1: nothing known), 1 where an `event` falls into it. The rest as in `Target`.

    Examples:
        >>> import diagnostics as dx
        >>> target = dx.open_run("runs/forecast").store.targets()["hidden_z"]
        >>> target.kind, target.values.shape, target.family
        ('state', (200,), 'dynamics')
    """

    name: str
    kind: Kind
    values: np.ndarray
    _: KW_ONLY
    family_override: Family | None = None
    on_grid: Mapping[tuple[int, ...], np.ndarray] = field(default_factory=dict[tuple[int, ...], Any])
    shuffled: bool = False
    """Test for values that are those of other samples: see `shuffle`."""

    @property
    def family(self) -> Family:
        """The family that the target's probes are listed under."""
        return self.family_override or FAMILY_OF[self.kind]

    def tokens(self, grid: Grid) -> np.ndarray:
        """The dense target on a tap's grid, float [sample, token]."""
        if grid.shape not in self.on_grid:
            raise DiagnosticsError(f"Target {self.name} is not stored on a grid of {grid}.", code="no-grid")
        return self.on_grid[grid.shape]


def shuffle(activations: Activations, targets: Mapping[str, StoredTarget]) -> dict[str, StoredTarget]:
    """Permute the known values of targets among the samples of each split (a control: no sample keeps its answer).

    Maps of a dense target are exchanged whole, so what depends on the place alone stays readable.
    """
    return {name: _shuffle(target, activations.split, activations.seed) for name, target in targets.items()}


def _shuffle(target: StoredTarget, split: np.ndarray, seed: int) -> StoredTarget:
    rng = np.random.default_rng(seed)
    order = np.arange(len(split))
    known = _is_known(target, len(split))
    for name in SPLITS:
        rows = np.flatnonzero((split == name) & known)
        order[rows] = rng.permutation(rows)
    return _at(target, order, shuffled=True)


def _at(target: StoredTarget, rows: np.ndarray, **members: Any) -> StoredTarget:
    return dataclasses.replace(
        target,
        values=target.values[rows] if len(target.values) else target.values,
        on_grid={shape: values[rows] for shape, values in target.on_grid.items()},
        naive=None if target.naive is None else target.naive[rows],
        **members,
    )


def _is_known(target: StoredTarget, samples: int) -> np.ndarray:
    """The samples whose value is known, bool [sample]; maps are swapped whole, known or not."""
    if target.kind in BY_PLACE and target.kind != "matches":
        return np.ones(samples, dtype=bool)
    if target.kind == "label":
        return np.asarray(target.values >= 0)
    if target.kind == "questions":
        return np.asarray(asked(target.values).any(axis=1))
    if target.kind == "matches":
        return np.asarray(there(target.values).any(axis=1))
    return np.asarray(np.isfinite(target.values).reshape(samples, -1).all(axis=1))


class Observation(ABC):
    """Arrays that need the running model (attention, gradients).

    They are recorded after an extraction for the first `samples` rows of a store, a random subset, and stored there.
    Several measures may read the same observation.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.activations.contract import Observation
        >>> class Norms(Observation):
        ...     name = "norms"
        ...     def observe(self, encoder, batch, taps):
        ...         return encoder.capture(batch, taps, lambda tap, x: x.norm(dim=-1))
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> batch = encoder.preprocess(encoder.example())[None]
        >>> Norms().observe(encoder, batch, ["norm"])["norm"].shape
        torch.Size([1, 32])
    """

    name: ClassVar[str]
    samples: ClassVar[int] = 64
    block: ClassVar[int] = 0
    """Samples that are recorded and stored together, so that memory does not grow with their number; 0: all."""
    in_pass: ClassVar[bool] = False
    """True if `observe` makes one pass of what encoders prepare, in which activations are read too."""

    def values_at(self, tap: Tap) -> int:
        """Number of values of a sample at a tap, where they are so many that the cost of a run tells them."""
        return 0

    def reads(self, dataset: Dataset) -> bool:
        """Test for a dataset that has what is loaded; of others nothing is recorded."""
        return True

    def load(self, encoder: Encoder, dataset: Dataset, sample: int) -> Any:
        """Read the part of a sample that batches are made of: by default what the encoder prepares of it."""
        return encoder.preprocess(dataset[sample])

    @abstractmethod
    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        """{tap name: float array [sample, ...]} of one preprocessed batch, without the taps that have none.

        Raises DiagnosticsError, with the reason, where none of the taps has one.
        """


def block_name(name: str, block: int) -> str:
    """The name under which a block of an observation is stored."""
    return f"{name}-{block}"


class Activations(ABC):
    """Stored activations of one encoder on one dataset, row by row.

    `taps` in order of execution, `output_tap` a name; `ids`, `split`, `groups` are object arrays [sample];
    `poolings` names what `pooled` holds side by side; tokens are stored for the first `token_samples` rows (rows are in
    random order, so they are a random subset).

    By default there are neither tokens nor observations.

    Examples:
        >>> import diagnostics as dx
        >>> activations = dx.open_run("runs/forecast").store
        >>> activations.pooled("blocks.1").shape, activations.pooling
        ((200, 96), 'mean and last side by side')
        >>> activations.pooled("blocks.1", "mean").shape
        (200, 48)
        >>> sum(len(tokens) for rows, tokens in activations.token_blocks("blocks.1"))
        64
        >>> next(activations.feature_blocks("blocks.1")).shape
        (64, 1536)
    """

    taps: Sequence[Tap]
    output_tap: str
    poolings: Sequence[str]
    ids: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    token_samples: int
    modality: Modality | None = None
    """Of the encoder, where it is known."""
    device: str = "cpu"
    """Where measures may compute."""
    choose_on: ChooseOn = "val"
    """On which losses taps and penalties are chosen: those of val by a fit on train, or, where train and val are random
    parts of one pool, out of fold on both (`fit`). No part of the identity of activations."""
    seed: int = 0
    """Of what measures draw, as resamples and permutations."""
    fewer: np.ndarray | None = None
    """The split [sample] of those samples that controls with other weights pass, "" of the others; None: they pass all.
    As `split` it makes these the samples on which the encoder is fitted again."""
    streamed: Mapping[tuple[str, str], Any] = MappingProxyType({})
    """What probes read in a pass, from tokens that are not stored; see `runs.streaming`."""
    ready: Mapping[tuple[str, str], Any] = MappingProxyType({})
    """Findings of other processes: by `Measure.key` and tap those of `at_tap`, by "" in place of a tap a whole result;
    see `runs.processes`."""

    @abstractmethod
    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        """float64 [sample, feature]: one pooling, or all poolings side by side when None."""

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, float32 [row, grid token, feature]) through the `token_samples` rows in order, bounded in memory."""
        return iter(())

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        """All features of all tokens in blocks [token_samples, block], prefix tokens too.

        They come in the precision that they are stored in, bounded in memory.
        """
        return iter(())

    def observation_arrays(self, name: str) -> Mapping[str, np.ndarray]:
        """Arrays that an `Observation` recorded: tap -> [row, ...] for the first rows.

        Raises, with the reason, where it has not.
        """
        raise DiagnosticsError(
            f"No {name} was recorded, since nothing is stored: measure it in a run.", code="not-measured"
        )

    def read_blocks(self, name: str, tap: str) -> np.ndarray:
        """Array [sample, ...] of an `Observation` recorded in blocks, at one tap; raises where there is none."""
        return self.observation_arrays(name)[tap]

    def with_other(self, **members: Any) -> Self:
        """The same rows with other members.

        Such as another `split` [sample], fewer `taps`, or `pooled` of features made of a tap's.
        """
        other = copy.copy(self)
        vars(other).update(members)
        return other

    @property
    def pooling(self) -> str:
        """The poolings in words, as results state them."""
        return " and ".join(self.poolings) + (" side by side" if len(self.poolings) > 1 else "")

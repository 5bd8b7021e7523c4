"""The contract of a measure: what it reads and returns, whether higher is better, and its known answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, Observation, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError, join_names
from diagnostics.measures import result as attribute
from diagnostics.vocabulary import Family, Kind

KINDS_OF_LOSSES = ("counts", "squares", "resampled")
DECLARE = (
    'write losses = "counts" (of wrong answers), "squares" (or other amounts that add up) or "resampled" (of a score '
    "that is no sum; larger "
    'is better), score_name = "...", and chance = 0.0 where the score of knowing nothing is a fixed number, in its class.'
)
"""What an author writes in the class of a probe."""


class Readout(ABC):
    """A probe as fitted at one tap, for samples that it has not seen.

    `on` is the grid that predictions lie on, None where there is one a sample.
    """

    on: Grid | None = None

    @abstractmethod
    def predict(self, x: np.ndarray) -> np.ndarray:
        """The class of each sample as the target numbers it, [sample], or its values, [sample, column].

        Reads float64 x [sample, feature], pooled as the activations are; of a probe that reads tokens x [sample, token,
        feature], where it predicts for every place of `on` [sample, place] or [sample, place, column]. Of a target that
        goes round (`period`) the columns are cosine and sine.
        """


class Measure(ABC):
    """A function of stored activations (and a target), computed at every tap or for every pair of taps.

    `compute` returns an `xarray.Dataset` over `tap` (or `tap` x `tap_other`) whose attributes state `functional`,
    `pooling`, `centring` and `seed`:

    - a probe (`kinds` not empty) gives `loss` [tap, unit] and `reference_loss` [tap, unit] over independent test units,
      and `val_score` [tap] (where it can also `val_loss`, `val_reference` [tap, val_unit], which say how sure a choice
      of tap is), with the attributes `units_train` and `units_val` (0 where nothing is fitted); its score is 1 -
      sum(loss) / sum(reference_loss): accuracy (reference 1 a sample), R2 (reference: squared error of the train mean).
      With a third dimension `part` (classes) the score is the mean of that over the parts that have a reference: mean
      intersection over union, balanced accuracy. Its class declares what its losses are; where they are "resampled", it
      gives in place of losses `drawn`, `val_drawn` [tap, draw] of `statistics.score_draws`, and the units' names as
      coordinates `unit`, `val_unit`;
    - a measure without target gives `score` [tap] with `low` and `high`;
    - a similarity gives `matrix` [tap, tap_other].

    Variables `line_<name>` [tap] are reference lines (uniform attention, the value of noise, the largest that n
    allows), drawn beside the score; `line_chance` and `line_commonest` say what knowing nothing reaches where `chance`
    does not. Any other variable [tap] is a number beside the score.

    Examples:
        >>> import numpy as np
        >>> import xarray as xr
        >>> import diagnostics as dx
        >>> class MeanNorm(dx.Measure):
        ...     name, source = "mean_norm", "the Euclidean norm"
        ...     answers = "How long are the features of a sample?"
        ...     def compute(self, activations, target, seed):
        ...         taps = [tap.name for tap in activations.taps]
        ...         pooled = [activations.pooled(tap, "mean") for tap in taps]
        ...         norms = np.stack([np.linalg.norm(x, axis=1) for x in pooled])
        ...         mean, reach = norms.mean(1), 2 * norms.std(1) / norms.shape[1] ** 0.5
        ...         values = {"score": mean, "low": mean - reach, "high": mean + reach}
        ...         data = xr.Dataset({key: ("tap", x) for key, x in values.items()})
        ...         states = {"pooling": "mean", "functional": "norm", "centring": "none"}
        ...         return data.assign_coords(tap=taps).assign_attrs(states, seed=seed)
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> table = dx.measure(encoder, "lorenz?n=60", measures=MeanNorm())
        >>> print(table["score"].sel(tap=["embed", "norm"]).values.ravel().round(1))
        [4.1 6.1]
    """

    name: ClassVar[str]
    answers: ClassVar[str]
    """The question that it answers, in a line."""
    source: ClassVar[str]
    """Where it is defined."""
    invariant_to: ClassVar[tuple[str, ...]] = ()
    """What may be done to all activations alike without changing it: "rotation", "scale", "shift" (adding one vector to
    all samples), or others in words. Tests hold the bundled ones to it."""
    family: ClassVar[Family | None] = None
    """None: the target's family."""
    needs: ClassVar[Literal["pooled", "tokens", "attention", "gradients", "views", "cells"]] = "pooled"
    standard: ClassVar[bool] = True
    """Whether it is in the suite that runs where no measure is named. Bundled ones: docs/explanation/measures.md says
    why.
    """
    observation: ClassVar[Observation | None] = None
    """What must be recorded with the model at hand; `compute` reads it with `activations.observation_arrays`."""
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Target kinds that it reads; none: it needs no target."""
    streams: ClassVar[tuple[Kind, ...]] = ()
    """Of `kinds`, those that a probe can also read from sums of tokens: see `sums`."""
    losses: ClassVar[Literal["counts", "squares", "resampled"] | None] = None
    """Of a probe, what the loss of a unit is, which decides how its intervals are made: "counts" of wrong answers, at
    most the reference; "squares", or other amounts that add up; "resampled" of a score that is no sum of losses, which
    is computed anew from drawn units."""
    chance: ClassVar[float | None] = None
    """The score of knowing nothing (R2: 0); None where it depends on the data, and the control of shuffled labels tells
    it.
    """
    score_name: ClassVar[str] = ""
    """What the score is called; empty: as the measure. Nothing is decided by it."""
    metric: ClassVar[str] = ""
    """The type of metric by which model hubs know the score; empty: its name."""
    unit: ClassVar[str] = ""
    """The unit of the score, if it has one."""
    readout: ClassVar[Literal["linear", "kernel", ""]] = ""
    """Of a probe, what reads: "linear" ones are named by their target alone, and where one finds that the output hides
    something, what the "kernel" one reads of the same target is told beside it; "" of all others."""
    higher_is_better: ClassVar[bool | None] = True
    """None: neither way is better by itself."""
    pairwise: ClassVar[bool] = False
    of_controls: ClassVar[bool] = True
    """Whether a probe is measured of controls too."""
    instead: ClassVar[str] = "it hands over no readout: fit one of your own on run.features(tap)"
    """Why `Run.probe` has nothing to hand over, and what to do in its place; of a probe without `fit`."""
    known_answers: ClassVar[Sequence[Case]] = ()
    """Closed forms and published values, which `diagnostics selftest` computes for the bundled ones."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cases := vars(cls).get("known_answers"):
            cls.known_answers = [case if case.measure else replace(case, measure=cls.name) for case in cases]
        if cls.kinds and (missing := cls.missing_declarations()):
            raise DiagnosticsError(
                f"Probe {getattr(cls, 'name', cls.__name__)} does not declare {missing}", code="missing-option"
            )

    @classmethod
    def missing_declarations(cls) -> str:
        """The declarations that a probe of this class lacks, and what to write, as the end of a sentence, or ""."""
        # Of drawn scores the largest is chosen.
        largest = cls.losses != "resampled" or cls.higher_is_better
        has = {"losses": cls.losses in KINDS_OF_LOSSES, "score_name": cls.score_name, "higher_is_better": largest}
        lacks = [name for name, there in has.items() if not there]
        return f"{join_names(lacks)}: {DECLARE}" if lacks else ""

    def declaration(self, target: StoredTarget | None) -> dict[str, Any]:
        """The attributes that say what the numbers of its result on a target are.

        Override it where that depends on the target.
        """
        stated = {
            attribute.LOSSES: self.losses,
            attribute.CHANCE: self.chance,
            attribute.SCORE_NAME: self.score_name or self.name,
            attribute.METRIC: self.metric,
            attribute.UNIT: self.unit,
            attribute.READOUT: self.readout,
        }
        return {key: value for key, value in stated.items() if value not in (None, "")}

    def reads(self, target: StoredTarget) -> bool:
        """Test for a target that it can say anything about."""
        return target.kind in self.kinds

    @abstractmethod
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        """The measure at every tap of the activations."""

    def key(self, target: StoredTarget | None) -> str:
        """The name of its result on a target, as results are listed."""
        return f"{self.name}/{target.name}" if target else self.name

    def at_tap(self, activations: Activations, target: Any, tap: Tap, seed: int) -> Any:
        """The part of `compute` that is found at one tap; small, since processes send it.

        A measure that defines it asks `find_at` in `compute`, so that processes may share out its taps.
        """
        raise NotImplementedError(f"{self.name} is computed at all taps together.")

    def find_at(self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int) -> Any:
        """The finding of `at_tap`, or of another process."""
        found = activations.ready.get((self.key(target), tap.name))
        return self.at_tap(activations, target, tap, seed) if found is None else found

    def sums(self, target: StoredTarget) -> Any:
        """The reader of a target of a kind in `streams` from sums of tokens: a `probes.dense.Sums`."""
        raise NotImplementedError(f"{self.name} says that it streams, and not how.")

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        """A probe's readout of a tap, fitted with a choice that was made.

        `compute` reads it on test, and `Run.probe` hands it over.

        `choice` holds the numbers that the result has at the tap, such as `penalty`, and its `seed`. Raises
        DiagnosticsError where nothing can be handed over.
        """
        raise DiagnosticsError(
            f"{self.name} of {target.name} cannot be fitted again here, since {self.instead}.", code="not-savable"
        )


Base = TypeVar("Base", bound=Measure)


def define(base: type[Base], title: str, **stated: Any) -> type[Base]:
    """The class, called `title`, of a measure that differs from others of its base only by what it states.

    The base stands in the module to which the class belongs.
    """
    made: Any = type(title, (base,), {"__module__": base.__module__, **stated})
    return made


@dataclass(frozen=True)
class Case:
    """A closed form or a published constant, and the computation of it.

    `tolerance` is absolute: rounding for closed forms, several standard errors where `what` says that the value is a
    mean over random draws. `measure` is that in whose class it stands unless it says otherwise.
    """

    what: str
    expected: float
    source: str
    compute: Callable[[], float]
    tolerance: float = 1e-6
    measure: str = ""


def cosine_axes(n: int, count: int) -> np.ndarray:
    """[n, count], orthonormal columns of mean 0: cosines of a discrete cosine transform."""
    t = np.arange(n) + 0.5
    return np.stack([np.sqrt(2 / n) * np.cos(np.pi * k * t / n) for k in range(1, count + 1)], axis=1)


def rotation(size: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix [size, size]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def normal(*shape: int, seed: int) -> np.ndarray:
    """Draws from N(0, 1)."""
    return np.random.default_rng(seed).standard_normal(shape)


def column(*values: float) -> np.ndarray:
    """Samples of one feature, [n, 1]."""
    return np.array(values, dtype=np.float64)[:, None]


def sixty_samples() -> np.ndarray:
    """[60, 8], draws that are compared with a changed copy of themselves."""
    return normal(60, 8, seed=3)


def two_parts() -> tuple[np.ndarray, np.ndarray]:
    """Two sides [60, 4] and [60, 6] of `sixty_samples`, which share 2 features."""
    return sixty_samples()[:, :4], sixty_samples()[:, 2:]


def common_axes() -> tuple[np.ndarray, np.ndarray]:
    """Two sides [8, 3] whose kernels have the same eigenvectors, with eigenvalues (3, 2, 1) and (1, 2, 3)."""
    axes = cosine_axes(8, 3)
    return axes * np.sqrt([3.0, 2.0, 1.0]), axes * np.sqrt([1.0, 2.0, 3.0])


def overlapping_columns() -> tuple[np.ndarray, np.ndarray]:
    """Two sides [24, 6] of orthonormal columns, of which they share 2."""
    axes = cosine_axes(24, 10)
    return axes[:, :6], axes[:, 4:10]


def circle(m: int) -> np.ndarray:
    """[m, 2], evenly spaced points of the unit circle, in order."""
    angle = 2 * np.pi * np.arange(m) / m
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Arrays(Activations):
    """Pooled values tap -> [sample, feature], as a run would hold them: no tokens, each sample its own group."""

    poolings = ("mean",)
    token_samples = 0

    def __init__(self, taps: Mapping[str, np.ndarray], split: Sequence[str]) -> None:
        self.values = {name: np.asarray(values, dtype=np.float64) for name, values in taps.items()}
        depths = np.linspace(0, 1, len(taps))
        self.taps = [
            Tap(name, float(depth), "trunk", values.shape[1], Grid((1,), ("t",)))
            for (name, values), depth in zip(self.values.items(), depths, strict=True)
        ]
        self.output_tap = self.taps[-1].name
        self.split = np.array(split, dtype=object)
        self.ids = self.groups = np.array([f"s{i:04}" for i in range(len(self.split))], dtype=object)

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        return self.values[tap]

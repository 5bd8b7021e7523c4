"""A finished run, read from disk: activations, results, provenance, table, probes, and its similarity with another run.

A run stores what a probe lost on test and the penalty (or number of neighbours) that val chose, not its coefficients.
They follow from the activations, which are there, by the `fit` of the measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from diagnostics.activations.contract import Activations
from diagnostics.activations.plan import row_order
from diagnostics.activations.store import Store
from diagnostics.encoders.encoder import Encoder, pinned_to
from diagnostics.encoders.modules import chosen_poolings
from diagnostics.encoders.taps import Grid
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import too_few
from diagnostics.measures.arrays import ShortRepr, as_tensor, finite, one_thread
from diagnostics.measures.base import Measure, Readout
from diagnostics.measures.similarity.base import Similarity
from diagnostics.measures.statistics import Interval
from diagnostics.registry import offered
from diagnostics.runs.profile import Profile
from diagnostics.runs.recommendation import by_verdict, without_nonlinear
from diagnostics.runs.run_data import RunData, run_dataframe
from diagnostics.runs.setup import chosen_measures
from diagnostics.specs import build
from diagnostics.vocabulary import BY_PLACE, DENSE, SPLITS

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Run(RunData):
    """One encoder on one dataset: activations, results and provenance, in one store on disk.

    Examples:
        What `dx.run("objectives:lorenz-forecast", "lorenz?n=200", out="runs/forecast")` wrote:

        >>> import diagnostics as dx
        >>> run = dx.open_run("runs/forecast")
        >>> print(run.recommend("hidden_z"))
        For hidden_z use blocks.3 (mean and last side by side): R2 0.917 [0.833, 0.968],
        output 0.594 [0.167, 0.837]; shown: hidden by the output (+0.323 [0.106, 0.687]
        at blocks.3); a kernel reads 0.91 of 0.94 from the output; blocks.1, blocks.2 and
        blocks.4 not shown to be worse.
        >>> [read.tap for read in run.recommendations()]
        ['blocks.3', 'blocks.2', 'blocks.4', 'blocks.3', 'blocks.3', 'norm']
        >>> print(run.profiles()[0])
        linear_probe/hidden_z (R2) at 9 taps: use blocks.3 0.917 [0.833, 0.968],
        output norm 0.594 [0.167, 0.837]; hidden by the output (+0.323 [0.106, 0.687] at
        blocks.3)
        >>> run.plot().write_html("targets.html")  # a notebook shows run.plot()
        >>> print(run.report("report.html"))
        report.html
        >>> run.to_json()["n"]
        {'train': 120, 'val': 40, 'test': 40}
        >>> run.provenance("linear_probe/hidden_z")["options"]["compute"]
        'float32'
    """

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder: the one that was just run, else built again by the name under which it was, at the size of the
        run's samples.

        Its `transform` refuses samples that are prepared to another shape than those of the run.

        Raises DiagnosticsError where it was made in Python, and has no name, and where that name has other weights now.

        Examples:
            >>> import diagnostics as dx
            >>> run, new = dx.open_run("runs/forecast"), dx.dataset("lorenz?n=40&seed=7")
            >>> run.encoder.transform(new, tap=run.recommend("hidden_z").tap).shape
            (40, 96)
        """
        name = self.record.encoder.asked
        if not name:
            raise DiagnosticsError(
                f"The encoder {self.encoder_name} of {self.path} was made in Python and has no name to build it by: "
                f"make it again, or save it with diagnostics.save_encoder and run that folder."
            )
        encoder = build("encoder", name)
        if encoder.identity["weights"] != self.store.identity["weights"]:
            raise DiagnosticsError(
                f"'{name}' has other weights now than in {self.path}: bring those back, or run it again."
            )
        return pinned_to(encoder, self.record.sample)

    def features(
        self,
        tap: str | None = None,
        split: str | None = None,
        pooling: str | Sequence[str] | None = None,
        tokens: bool = False,
        *,
        target: str | None = None,
    ) -> xr.DataArray:
        """A tap's stored activations, float32 [sample, feature], in the dataset's order; without a tap those of the tap
        to use.

        Coordinates along `sample` are the sample's id (`sample`), `split` and `group`; along `feature` which `pooling`
        gave it. `Encoder.transform` gives the same of new samples.

        Parameters
        ----------
        target: for which the tap is recommended; where neither it nor a tap is given, the one tap that is best for all
        targets on
            average, by the losses that choose.
        split: `train`, `val` or `test`; all samples where None.
        pooling: one or several of those stored; all side by side where None, as the probes read them.
        tokens: the grid tokens instead, [sample, token, feature], of those samples whose tokens are stored: a random
        subset,
            as large as the run's token budget. Coordinates along `token` are its places on the grid (`y`, `x`, `t`).

        Raises DiagnosticsError for an unknown tap, split or pooling, and where no tokens are stored.

        Examples:
            >>> import diagnostics as dx
            >>> run = dx.open_run("runs/forecast")
            >>> run.features("blocks.1", split="test", pooling="mean").shape
            (40, 48)
            >>> run.features("blocks.1", tokens=True).shape
            (64, 32, 48)
        """
        return features(self.store, tap or self.tap_for(target), split, pooling, tokens)

    def export(
        self,
        path: str | Path,
        tap: str | None = None,
        pooling: str | Sequence[str] | None = None,
        *,
        target: str | None = None,
    ) -> Path:
        """`features` as a Parquet file, with id, split, group and targets of each sample; `diagnostics features` writes
        those of new data.

        Raises DiagnosticsError as `features` does, for a path that does not end in .parquet, and without pyarrow.

        Examples:
            >>> import diagnostics as dx
            >>> import pandas as pd
            >>> run = dx.open_run("runs/forecast")
            >>> table = pd.read_parquet(run.export("hidden.parquet", "blocks.3"))
            >>> list(table.columns)[:4], len(table), len(table["features"][0])
            (['id', 'split', 'group', 'target_hidden_z'], 200, 96)
        """
        from diagnostics.activations.features import export

        read = self.features(tap, pooling=pooling, target=target)
        order, stored = np.argsort(row_order(len(self.store.ids))), self.store.targets()
        targets = {name: (each, each.values[order]) for name, each in stored.items() if each.kind not in BY_PLACE}
        columns = {"id": read["sample"].values, "split": read["split"].values, "group": read["group"].values}
        return export(Path(path), columns, targets, read.values)

    def probe(self, target: str, measure: str | Measure | None = None, tap: str | None = None) -> FittedProbe:
        """The probe of a target that was fitted, with its standardisation, for new samples: `probe.predict(features)`.

        It is fitted again from the stored activations, on train and val with the stored choice, as the measure did it.

        Parameters
        ----------
        measure: by default the one by which the target is recommended; any probe with a `fit`, by its name, or itself
        where no plugin offers
            it. Of one that reads tokens `predict` takes [sample, token, feature].
        tap: by default the one recommended, or the best tap, chosen on val.

        Raises DiagnosticsError where the probe was not fitted in this run, and where its tokens were removed since.

        Examples:
            >>> import diagnostics as dx
            >>> probe = dx.open_run("runs/forecast").probe("hidden_z")

            On series that the run has not seen, and what is right:

            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> new = dx.build("dataset", "lorenz?n=40&seed=7")
            >>> x = encoder.transform(new, tap=probe.tap, pooling=probe.pooling)
            >>> probe.predict(x).round()[:4]
            array([26., 23., 24., 22.])
            >>> new.targets["hidden_z"].values.round()[:4]
            array([24., 20., 22., 29.])
        """
        recommended = {each.target: each.measure for each in self.recommendations()}
        return fitted_probe(self, target, measure or recommended.get(target, "linear_probe"), tap)

    def similarity_with(
        self, other: Run | str | Path, measure: str = "cka", seed: int = 0, most_rows: int | None = None
    ) -> xr.Dataset:
        """The similarity of each tap of this run to each tap of another run (or its folder) on the same samples:
        `matrix` [tap, tap_other], with `p` and `tau` from permuted samples, calibrated for the most similar pair. It
        uses at most `most_rows` samples, fewer where the measure itself takes fewer.

        Raises DiagnosticsError where the two datasets are not the same, and for a measure that does not compare taps.

        Examples:
            >>> import diagnostics as dx
            >>> cka = dx.open_run("runs/forecast").similarity_with("runs/jepa")
            >>> cka["matrix"].sel(tap="norm", tap_other=["embed", "norm"]).values.round(2)
            array([0.94, 0.27])
        """
        second = other if isinstance(other, Run) else Run(other)
        prints = [run.record.dataset.fingerprint for run in (self, second)]
        # Equal ids may stand for other samples, as of another seed.
        if sorted(self.store.ids) == sorted(second.store.ids) and prints[0] != prints[1]:
            raise DiagnosticsError(
                f"{self.path} and {second.path} hold other data under the same sample ids (their datasets' "
                f"fingerprints differ): run both encoders on one dataset."
            )
        return between(self.store, second.store, measure, seed, most_rows)

    def plot(self, target: str | None = None, measure: str | None = None) -> go.Figure:
        """Which tap holds which target, as a plotly heat map of targets and taps: the first picture of the report.

        Of one target the score by tap instead, a panel for each probe that read it, or for the one that `measure`
        names. Where no probe read a target, a panel for each measure.

        Raises DiagnosticsError for an unknown target, and where no profile has a value.
        """
        from diagnostics.report.plots import StillFigure, draw, multiples
        from diagnostics.runs.answer import score_map

        profiles = [p for p in self.profiles() if np.isfinite(p.data["score"].values).any()]
        read = [p for p in without_nonlinear(profiles) if p.is_probe and p.target]
        if target is not None:
            chosen = [p for p in read if p.target == target]
            if not chosen:
                raise unknown("target", target, list(dict.fromkeys(str(p.target) for p in read)))
            chosen = [self.profile(target, measure)] if measure else chosen
        elif read:
            return StillFigure(draw(score_map([("", p) for p in by_verdict(read)])))
        else:
            chosen = [p for p in profiles if p.is_probe] or profiles
        if not chosen:
            raise DiagnosticsError(f"{self.path} has no profile to draw: run again with measures that give one.")
        return StillFigure(multiples([(p.name, draw(p.figure())) for p in chosen]))

    def to_dataframe(self) -> pd.DataFrame:
        """All profiles as one tidy table, a row for each value at a tap; those of controls too.

        Columns `measure`, `target` (None of a measure without one), `family`, `score_name`, `control` (None of the
        encoder itself; of several draws the second is `fresh_weights.2`), `tap`, `depth`, `score`, `low`, `high`,
        `val_score`, and whether the tap is the `best` one and the `output` of what the row is about.

        Examples:
            >>> import diagnostics as dx
            >>> table = dx.open_run("runs/forecast").to_dataframe()
            >>> print(table[table["output"]][["target", "tap", "score"]].round(2).head(2))
                  target   tap  score
            7   hidden_z  norm   0.59
            16  hidden_y  norm   0.98
        """
        return run_dataframe(self)

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the run as one self-contained HTML file, by default `report.html` inside the run."""
        from diagnostics.runs.page import write_report

        return write_report(self, Path(path) if path else None)

    def _repr_html_(self) -> str:
        from diagnostics.report.html import page_tables
        from diagnostics.runs.page import run_page

        return page_tables(run_page(self))


def open_run(path: str | Path, margin: float | None = None) -> Run:
    """A finished run, read from disk; raises when it is not one, is not finished, or is damaged.

    `margin` is the hidden gap that matters, in units of the score, in place of the run's own (see `Profile.margin`).

    Examples:
        >>> import diagnostics as dx
        >>> dx.open_run("runs/forecast")
        <Run lorenz-forecast on lorenz at runs/forecast>
    """
    return Run(path, margin)


def between(
    first: Activations, second: Activations, measure: str = "cka", seed: int = 0, most_rows: int | None = None
) -> xr.Dataset:
    """The similarity of each tap of one run to each tap of another, on the same samples: `matrix` [tap, tap_other], and
    its null distribution where the measure has one (see `Similarity`).

    `measure` names one that compares pairs of taps; `most_rows` limits the samples further than the measure itself
    does. Raises DiagnosticsError for any other measure, and where the sample ids of the two runs differ.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.runs.run import between
        >>> run, other = dx.open_run("runs/forecast"), dx.open_run("runs/jepa")
        >>> cka = between(run.store, other.store, "cka")
        >>> cka["matrix"].sel(tap="norm", tap_other=["embed", "norm"]).values.round(2)
        array([0.94, 0.27])
    """
    measures, _ = chosen_measures([measure])
    chosen = measures[0] if len(measures) == 1 else None
    if not isinstance(chosen, Similarity):
        able = [each.name for each in chosen_measures(["all"])[0] if isinstance(each, Similarity)]
        raise DiagnosticsError(f"{measure} does not compare pairs of taps: choose one of {', '.join(sorted(able))}.")
    stated = {
        attribute.MEASURE: chosen.name,
        attribute.SOURCE: chosen.source,
        attribute.ABOUT: chosen.answers,
        attribute.FAMILY: chosen.family,
    }
    result = chosen.between(first, second, seed, most_rows).assign_attrs(stated)
    if reason := too_few(result):
        raise DiagnosticsError(reason)
    return result


def features(
    store: Store,
    tap: str,
    split: str | None = None,
    pooling: str | Sequence[str] | None = None,
    tokens: bool = False,
) -> xr.DataArray:
    """What `Run.features` returns, of any store."""
    stored = {stored.name: stored for stored in store.taps}
    if tap not in stored:
        raise unknown("tap", tap, stored, f"These are stored in {store.path}; `--taps` of a run says which.")
    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    rows = np.argsort(row_order(len(store.ids)))
    rows = rows if split is None else rows[store.split[rows] == split]
    if tokens:
        if pooling is not None:
            raise DiagnosticsError(f"Tokens are not pooled: leave out either pooling={pooling!r} or tokens=True.")
        values, rows = _tokens(store, tap, rows, split)
        dims, grid = ("sample", "token", "feature"), stored[tap].grid
        # Where each token lies along each of the grid's axes, counted from 0.
        along = {axis: ("token", index.ravel()) for axis, index in zip(grid.axes, np.indices(grid.shape), strict=True)}
        read = "tokens"
    else:
        names = chosen_poolings(pooling, store.poolings)
        values = np.concatenate([store.pooled(tap, name)[rows].astype(np.float32) for name in names], axis=1)
        dims, along = ("sample", "feature"), {"pooling": ("feature", np.repeat(names, stored[tap].features))}
        read = " and ".join(names)
    return xr.DataArray(
        values,
        dims=dims,
        coords={
            "sample": store.ids[rows].astype(str),
            "split": ("sample", store.split[rows].astype(str)),
            "group": ("sample", store.groups[rows].astype(str)),
            **along,
        },
        name=tap,
        attrs={"tap": tap, "depth": stored[tap].depth, "read": read},
    )


def _tokens(store: Store, tap: str, rows: np.ndarray, split: str | None) -> tuple[np.ndarray, np.ndarray]:
    """float32 [sample, token, feature], and the rows among those given that have tokens."""
    kept = rows[rows < store.token_samples]
    if not len(kept):
        if store.tokens_removed:
            raise DiagnosticsError(
                f"{store.path} stores no tokens (no measure read them, or `diagnostics clean` removed them): leave out "
                f"tokens=True, or give the same `diagnostics run` command again with a measure that reads tokens (as "
                f"cka), which extracts them."
            )
        of = f"{split} samples" if split else "samples"
        raise DiagnosticsError(
            f"{store.path} holds no tokens of {of} at tap {tap}, but pooled activations "
            f"({' and '.join(store.poolings)}) of all {len(store.ids):,} samples and tokens of "
            f"{store.token_samples:,}: leave out tokens=True, or run again with --fresh and a larger --token-budget, "
            f"as 1GB (samples of unequal length keep none)."
        )
    place = np.full(store.token_samples, -1)
    place[kept] = np.arange(len(kept))
    values: np.ndarray | None = None
    for block, read in store.token_blocks(tap):
        wanted = place[block]
        if values is None:
            values = np.empty((len(kept), *read.shape[1:]), dtype=np.float32)
        values[wanted[wanted >= 0]] = read[wanted >= 0]
    assert values is not None  # as many blocks as rows with tokens ask for
    return values, kept


CLASSES = ("label", "token_label", "event")
"""Kinds of target of which a class is predicted."""


@dataclass(frozen=True, repr=False)
class FittedProbe(ShortRepr):
    """A probe as it was read on test: fitted on train and val, with the choice that val made.

    `tap` and `pooling` say what it reads, as `Encoder.transform` and `Run.features` give it: pooled values, or where
    `pooling` is empty the tokens of `grid`. `on` is the grid that its predictions lie on, None where there is one a
    sample. `score` is its score on test with its interval, as the run recorded it; `classes` are the names (or numbers)
    of a label's classes, `units` those of a value. `readout` holds what was fitted: of a linear probe `weights` and
    `bias`.

    Examples:
        >>> import diagnostics as dx
        >>> run = dx.open_run("runs/forecast")
        >>> probe = run.probe("hidden_z")
        >>> print(probe)
        linear_probe of hidden_z at blocks.3 (mean and last): 0.917 [0.833, 0.968]
        >>> probe.readout.weights.shape
        (96, 1)
        >>> probe.predict(run.features(probe.tap, split="test")).round()[:3]
        array([38., 41., 23.])
    """

    measure: str
    target: str
    tap: str
    pooling: tuple[str, ...]
    features: int
    score: Interval
    units: str
    classes: tuple[Any, ...]
    period: float | None
    readout: Readout = field(repr=False)
    grid: Grid | None = None
    on: Grid | None = None
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)
    """The numbers by which the target holds `classes`."""

    @one_thread()
    def predict(self, features: Any) -> np.ndarray:
        """What the probe says of each sample: [sample], of a target with several horizons [sample, horizon]; and of
        each token, [sample, token], where the target has a value for every place.

        Of a label the class, by its name where the target names its classes, and as a number where the names are whole
        numbers or there are none; of an event 1 or 0; of a value a number in the target's units; of a value with a
        period a number from 0 up to the period.

        Parameters
        ----------
        features: [sample, feature] at the probe's tap and pooling, or [sample, token, feature] of the tap's grid tokens
        where
            `pooling` is empty; numpy, torch or xarray.

        Raises DiagnosticsError for another shape, for a `Run.features` of another tap, and for NaN or infinity.
        """
        read = self.readout.predict(self._checked(features))
        if self.classes:
            return _as_given(self.classes)[np.searchsorted(self.numbers, read)]
        if self.period is not None:
            turns = np.arctan2(read[..., 1], read[..., 0]) / (2 * np.pi)
            # The remainder of a tiny negative number is the divisor itself.
            return (turns % 1.0) % 1.0 * self.period
        several = read.ndim > (1 if self.on is None else 2)
        return read[..., 0] if several and read.shape[-1] == 1 else read

    def _checked(self, features: Any) -> np.ndarray:
        """float64 [sample, feature] or [sample, token, feature] of the probe's tap."""
        if isinstance(features, xr.DataArray):
            tap = features.attrs.get("tap", self.tap)
            if tap != self.tap:
                raise DiagnosticsError(
                    f"The probe {self.measure}/{self.target} reads tap {self.tap}, and these are features of {tap}: "
                    f"give those of "
                    f'{self.tap}, or ask for run.probe("{self.target}", "{self.measure}", "{tap}").'
                )
            features = features.values
        x = as_tensor(features).cpu()
        if self.grid is None:
            fits = x.ndim == 2 and x.shape[1] == self.features
            reads = f"{self.features} features a sample, {' and '.join(self.pooling)} at tap {self.tap}"
            give = "pooling=probe.pooling), or run.features(probe.tap)"
        else:
            fits = x.ndim == 3 and tuple(x.shape[1:]) == (self.grid.tokens, self.features)
            reads = (
                f"{self.grid.tokens} tokens ({self.grid}) of {self.features} features at tap {self.tap}, prefix "
                f"tokens left out"
            )
            give = "tokens=True), or run.features(probe.tap, tokens=True)"
        if not fits:
            raise DiagnosticsError(
                f"The probe {self.measure}/{self.target} reads {reads}, and was given shape {tuple(x.shape)}: give "
                f"encoder.transform(samples, tap=probe.tap, {give}."
            )
        return finite(x, "What the probe was given").numpy()

    def __str__(self) -> str:
        return f"{self.measure} of {self.target} at {self.tap} ({' and '.join(self.pooling) or 'tokens'}): {self.score}"


@one_thread()
def fitted_probe(run: RunData, target: str, measure: str | Measure, tap: str | None) -> FittedProbe:
    """What `Run.probe` returns."""
    name = measure if isinstance(measure, str) else measure.name
    profile = _profile(run, name, target, measure)
    probe, stored, store = _measure(measure), run.store.targets()[target], run.store
    if tap is None:
        tap = profile.chosen_tap
        if tap is None:
            raise DiagnosticsError(f"No tap of {profile.name} has a score by which to choose: name one with tap=.")
    elif tap not in profile.taps:
        raise unknown("tap", tap, profile.taps)
    tokens = probe.needs == "tokens" or stored.kind in DENSE
    streamed = profile.data.attrs.get("tokens") == "streamed"
    if tokens and store.tokens_removed and not streamed:
        raise DiagnosticsError(
            f"{profile.measure} of {target} is fitted again from tokens, and those of {store.path} were removed "
            f"(`diagnostics clean`): give the same `diagnostics run` command again with another measure that reads "
            f"tokens (as cka), which extracts them again."
        )
    (read,) = (each for each in store.taps if each.name == tap)
    at = profile.data.sel(tap=tap)
    choice = {str(key): float(value) for key, value in at.data_vars.items() if value.ndim == 0}
    activations = store.with_other(device="cpu", choose_on=at.attrs.get(attribute.CHOSEN_ON, "val"))
    if streamed:
        from diagnostics.runs.streamed import readout  # a command that prints what lies on disk reads no model

        fitted = readout(store, probe, stored, read, choice)
    else:
        fitted = probe.fit(activations, stored, read, choice | {"seed": int(at.attrs[attribute.SEED])})
    on = getattr(fitted, "on", None)
    values = stored.values if on is None else stored.tokens(on)[: len(store.ids) if streamed else store.token_samples]
    numbers = np.unique(values[values >= 0]).astype(np.int64) if stored.kind in CLASSES else np.zeros(0, dtype=np.int64)
    return FittedProbe(
        name,
        target,
        tap,
        pooling=() if tokens else tuple(store.poolings),
        features=read.features if tokens else activations.pooled(tap).shape[1],
        score=Interval(*(float(at[key]) for key in ("score", "low", "high"))),
        units=stored.units,
        classes=tuple(stored.classes[c] if stored.classes else c for c in numbers.tolist()),
        period=stored.period,
        readout=fitted,
        grid=read.grid if tokens else None,
        on=on,
        numbers=numbers,
    )


def _measure(measure: str | Measure) -> Measure:
    """The measure of a name; raises where no plugin offers it."""
    if isinstance(measure, Measure):
        return measure
    known = offered("measure")
    if measure not in known:
        raise unknown("measure", measure, known)
    return known[measure][1]()


def _as_given(classes: Sequence[Any]) -> np.ndarray:
    """Class names, or the whole numbers that all of them are: labels that were numbers in a file are to be compared as
    such.
    """
    names = np.asarray(classes)
    numbers = [str(name).removeprefix("-").isdecimal() and str(int(name)) == str(name) for name in classes]
    return names.astype(np.int64) if all(numbers) else names


def _profile(run: RunData, measure: str, target: str, given: str | Measure) -> Profile:
    """The profile of a probe; where it was not measured, the refusal says why and how to."""
    name = f"{measure}/{target}"
    known = [profile.name for profile in run.profiles() if profile.is_probe]
    if name in known:
        return run.profile(name)
    why = run.skipped.get(name) or run.skipped.get(measure)
    if why:
        raise DiagnosticsError(f"{run.path} holds no fitted {measure} of {target}: {why}")
    targets = run.store.targets()
    if target not in targets:
        raise unknown("target", target, targets)
    probe = _measure(given)
    if type(probe).fit is Measure.fit:
        probe.fit(run.store, targets[target], run.store.taps[0], {})
    fitted = [other.partition("/")[0] for other in known if other.partition("/")[2] == target]
    there = f"{' and '.join(fitted)} of it {'was' if len(fitted) == 1 else 'were'}" if fitted else "no probe of it was"
    raise DiagnosticsError(
        f"{measure} of {target} was not fitted in {run.path}, {there}: give the same run with --measures {measure}, "
        f"which adds it without a new extraction."
    )

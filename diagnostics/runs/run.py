"""A finished run, read from disk: its activations, results and provenance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from diagnostics.activations.results import CONTROLS, ENCODER, Index, Results, finished_index, group_of, read_results
from diagnostics.activations.store import Store
from diagnostics.activations.tokens import disk_use
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import common_tap, with_choice
from diagnostics.measures.verdict import check_margin
from diagnostics.runs.controls import kinds as control
from diagnostics.runs.handed_out import HandedOut, handed_out_in
from diagnostics.runs.profile import Profile, first_probes
from diagnostics.runs.provenance import Call, Provenance
from diagnostics.runs.recommendation import Recommendation, recommend
from diagnostics.runs.suites import with_declaration
from diagnostics.specs import build

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from diagnostics.encoders.encoder import Encoder
    from diagnostics.measures.base import Measure
    from diagnostics.runs.fitted_probe import FittedProbe


class Run:
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

    def __init__(self, path: str | Path, margin: float | None = None) -> None:
        check_margin(margin)
        self.path, self.margin = Path(path), margin
        self.store = Store(self.path)
        self.index: Index = finished_index(self.store)
        """The results that are stored, the call that gave each, and what is left out."""

    @cached_property
    def results(self) -> xr.DataTree:
        """All results, `measure/target`, as one tree; those of controls below `controls`.

        Raises StorageError where another call has replaced them since this run was opened.

        Examples:
            >>> import diagnostics as dx
            >>> results = dx.open_run("runs/forecast").results["linear_probe/hidden_z"]
            >>> results["score"].sel(tap=["embed", "blocks.1", "norm"]).values.round(2)
            array([0.  , 0.91, 0.59])
        """
        each = {
            f"{group_of(owner)}{key}": data for owner, by_key in self._results.items() for key, data in by_key.items()
        }
        return xr.DataTree.from_dict(dict(sorted(each.items())))

    @cached_property
    def _results(self) -> Results:
        return read_results(self.store, self.index)

    @cached_property
    def controls(self) -> dict[str, xr.DataTree]:
        """The results of each control, by its name; of several draws of weights the second is `fresh_weights.2`."""
        trees = self.results[CONTROLS].children if self._control_names else {}
        return {name: trees[name] for name in self._control_names}

    @property
    def _control_names(self) -> list[str]:
        return [name for kind in control.NAMES for name in self.index.controls if control.control_of(name) == kind]

    @property
    def redrawn(self) -> dict[str, dict[str, Any]]:
        """For each control with other weights: `redrawn`, the share of the encoder's weights that differ, and `note`, a remark on
        those that do not; "" where all differ and there is nothing to add."""
        redrawn: dict[str, dict[str, Any]] = {}
        for name in control.WEIGHTS:
            results = self._results.get(name, {}).values()
            if (attrs := next((data.attrs for data in results if "redrawn" in data.attrs), None)) is not None:
                redrawn[name] = {key: attrs[key] for key in ("redrawn", "note")}
        return redrawn

    @property
    def record(self) -> Provenance:
        """What was measured on what, as it was recorded when the run began."""
        return Provenance.read(self.store)

    @property
    def calls(self) -> list[Call]:
        """The calls of `run` that gave the results, the latest last."""
        return [Call.from_attrs(call) for call in self.index.calls]

    @property
    def encoder_name(self) -> str:
        """Name of the encoder."""
        return self.record.encoder.name

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder: the one that was just run, else built again by the name under which it was.

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
                f"The encoder {self.encoder_name} of {self.path} was made in Python and has no name to build it by: make it again, "
                "or save it with diagnostics.save_encoder and run that folder."
            )
        encoder = build("encoder", name)
        if encoder.identity["weights"] != self.store.identity["weights"]:
            raise DiagnosticsError(
                f"'{name}' has other weights now than in {self.path}: bring those back, or run it again."
            )
        return encoder

    @property
    def untrained(self) -> str:
        """A sentence that the encoder's weights were never trained, where its name says so; "" otherwise."""
        if "pretrained=false" not in self.encoder_name.partition("?")[2].split("&"):
            return ""
        return (
            "This encoder's weights are random: pretrained=false, so nothing that it reaches was learnt, and fresh weights are "
            "but another draw of them."
        )

    @property
    def handed_out(self) -> HandedOut:
        """The tap that the encoder's makers hand out, and how far the tap before it is from it, from the stored means."""
        return handed_out_in(self.store, self.record.encoder.maker_names)

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.record.dataset.name

    @property
    def n(self) -> dict[str, int]:
        """Number of samples in each split."""
        return dict(self.record.dataset.n)

    @property
    def skipped(self) -> dict[str, str]:
        """Results that are left out (of a measure, a target, a control) -> the reason."""
        return {omission.label: omission.reason for omission in self.index.omissions}

    @property
    def failed(self) -> dict[str, str]:
        """Those of `skipped` that failed in the latest call, and may succeed another time."""
        latest = len(self.index.calls) - 1
        return {o.label: o.reason for o in self.index.omissions if o.failed and o.call == latest}

    def profiles(self) -> list[Profile]:
        """All profiles, probes first."""
        return list(self._profiles.values())

    @cached_property
    def _profiles(self) -> dict[str, Profile]:
        return {key: self._profile(key) for key in self.index.names(pairwise=False)}

    def profile(self, target: str, measure: str | None = None) -> Profile:
        """The profile of a target, of the first probe that read it unless `measure` names one.

        `measure/target` in one text does too, and `rankme` for a measure without a target. Unknown names raise with the nearest.

        Examples:
            >>> import diagnostics as dx
            >>> profile = dx.open_run("runs/forecast").profile("linear_probe/hidden_z")
            >>> print(profile.chosen_tap, profile.score)
            blocks.3 0.917 [0.833, 0.968]
        """
        known = self._profiles
        name = target if measure is None else f"{measure}/{target}"
        name = name if name in known else next((key for key in known if key.partition("/")[2] == name), name)
        if name not in known:
            raise unknown("profile", name, known)
        return known[name]

    @property
    def disk_use(self) -> tuple[int, int]:
        """Bytes of the files that hold tokens, and of all files of the run."""
        return disk_use(self.store)

    def recommend(self, target: str, measure: str | None = None) -> Recommendation:
        """The tap to read for a target, by a probe that was measured: the first in the run unless `measure` names one.

        Raises DiagnosticsError where no probe read that target, or not the one that is named.

        Examples:
            >>> import diagnostics as dx
            >>> read = dx.open_run("runs/forecast").recommend("hidden_z")
            >>> print(read.tap, read.score)
            blocks.3 0.917 [0.833, 0.968]
        """
        read = [profile for profile in self.profiles() if profile.is_probe and profile.target is not None]
        if target not in {profile.target for profile in read}:
            raise unknown("target", target, list(dict.fromkeys(str(profile.target) for profile in read)))
        of_target = {profile.measure: profile for profile in read if profile.target == target}
        if measure is not None and measure not in of_target:
            raise unknown(f"probe of {target}", measure, of_target)
        return self._recommend(of_target[measure] if measure else next(iter(of_target.values())))

    def recommendations(self) -> list[Recommendation]:
        """`recommend` of every target that a probe read, in the order of the first screen."""
        return [self._recommend(profile) for profile in first_probes(self.profiles()).values()]

    def _recommend(self, profile: Profile) -> Recommendation:
        from diagnostics.runs.nonlinear import nonlinear_reading

        reading = nonlinear_reading(self.profiles(), str(profile.target))
        return recommend(profile, reading.words if reading else "")

    def _profile(self, key: str) -> Profile:
        measure, _, target = key.partition("/")
        owners = [name for name in self._control_names if key in self.index.names(name)]
        data, *others = (
            with_choice(with_declaration(self._results[owner][key], self.store)) for owner in (ENCODER, *owners)
        )
        controls = dict(zip(owners, others, strict=True))
        if self.margin is not None:
            data = data.assign_attrs({attribute.MARGIN: self.margin})
        return Profile.of(measure, target or None, data, controls)

    def provenance(self, name: str) -> dict[str, Any]:
        """The seed, options, versions, Python and machine that a result was measured with, and the command that was typed."""
        if name not in self.index.names():
            raise unknown("result", name, self.index.names())
        call = Call.from_attrs(self.index.call_of(name)).to_attrs()
        return {key: value for key, value in call.items() if key not in ("created", "seconds")}

    @property
    def versions(self) -> set[str]:
        """Versions of this package that gave the results that are here."""
        used = {entry.call for entries in self.index.entries.values() for entry in entries}
        return {self.calls[call].version for call in used}

    def features(
        self,
        tap: str | None = None,
        split: str | None = None,
        pooling: str | Sequence[str] | None = None,
        tokens: bool = False,
        *,
        target: str | None = None,
    ) -> xr.DataArray:
        """A tap's stored activations, float32 [sample, feature], in the dataset's order; without a tap those of the tap to use.

        Coordinates along `sample` are the sample's id (`sample`), `split` and `group`; along `feature` which `pooling` gave
        it. `Encoder.transform` gives the same of new samples.

        Parameters
        ----------
        target: for which the tap is recommended; where neither it nor a tap is given, the one tap that is best for all targets on
            average, by the losses that choose.
        split: `train`, `val` or `test`; all samples where None.
        pooling: one or several of those stored; all side by side where None, as the probes read them.
        tokens: the grid tokens instead, [sample, token, feature], of those samples whose tokens are stored: a random subset,
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
        from diagnostics.runs.features import features

        return features(self.store, tap or self.tap_for(target), split, pooling, tokens)

    def tap_for(self, target: str | None = None) -> str:
        """The tap to use for a target, or where it is None the one that is best for all targets on average, by the losses that choose.

        Raises DiagnosticsError where no probe read the target, and where no tap has a score to choose by.

        Examples:
            >>> import diagnostics as dx
            >>> run = dx.open_run("runs/forecast")
            >>> run.tap_for("hidden_y"), run.tap_for()
            ('blocks.3', 'blocks.4')
        """
        if target is not None:
            tap = self.recommend(target).tap
        else:
            first = [p.data for p in first_probes(self.profiles()).values() if p.chosen_tap]
            same = [data for data in first if list(data["tap"].values) == list(first[0]["tap"].values)]
            at = common_tap(same)
            tap = None if at is None else str(same[0]["tap"].values[at])
        if tap is None:
            raise DiagnosticsError(
                f"No tap of {self.path} has a score by which to choose{f' for {target}' if target else ''}: name a tap, one of "
                f"{', '.join(each.name for each in self.store.taps)}."
            )
        return tap

    def probe(self, target: str, measure: str | Measure | None = None, tap: str | None = None) -> FittedProbe:
        """The probe of a target that was fitted, with its standardisation, for new samples: `probe.predict(features)`.

        It is fitted again from the stored activations, on train and val with the stored choice, as the measure did it.

        Parameters
        ----------
        measure: by default the one by which the target is recommended; any probe with a `fit`, by its name, or itself where no plugin offers
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
        from diagnostics.runs.fitted_probe import fitted_probe

        recommended = {each.target: each.measure for each in self.recommendations()}
        return fitted_probe(self, target, measure or recommended.get(target, "linear_probe"), tap)

    def similarity(self) -> list[xr.Dataset]:
        """All similarities of tap pairs.

        Examples:
            >>> import diagnostics as dx
            >>> (cka,) = dx.open_run("runs/forecast").similarity()
            >>> round(float(cka["matrix"].sel(tap="embed", tap_other="blocks.3")), 2)
            0.83
        """
        return [self._results[ENCODER][key] for key in self.index.names(pairwise=True)]

    def similarity_with(
        self, other: Run | str | Path, measure: str = "cka", seed: int = 0, most_rows: int | None = None
    ) -> xr.Dataset:
        """The similarity of each tap of this run to each tap of another run (or its folder) on the same samples: `matrix`
        [tap, tap_other], with `p` and `tau` from permuted samples, calibrated for the most similar pair. It uses at most
        `most_rows` samples, fewer where the measure itself takes fewer.

        Raises DiagnosticsError where the two datasets are not the same, and for a measure that does not compare taps.

        Examples:
            >>> import diagnostics as dx
            >>> cka = dx.open_run("runs/forecast").similarity_with("runs/jepa")
            >>> cka["matrix"].sel(tap="norm", tap_other=["embed", "norm"]).values.round(2)
            array([0.94, 0.27])
        """
        from diagnostics.runs.suites import between

        second = other if isinstance(other, Run) else Run(other)
        prints = [run.record.dataset.fingerprint for run in (self, second)]
        # Equal ids may stand for other samples, as of another seed.
        if sorted(self.store.ids) == sorted(second.store.ids) and prints[0] != prints[1]:
            raise DiagnosticsError(
                f"{self.path} and {second.path} hold other data under the same sample ids (their datasets' fingerprints "
                "differ): run both encoders on one dataset."
            )
        return between(self.store, second.store, measure, seed, most_rows)

    def plot(self, target: str | None = None, measure: str | None = None) -> go.Figure:
        """Which tap holds which target, as a plotly heat map of targets and taps: the first picture of the report.

        Of one target the score by tap instead, a panel for each probe that read it, or for the one that `measure` names. Where no probe read a target, a panel for each
        measure.

        Raises DiagnosticsError for an unknown target, and where no profile has a value.
        """
        from diagnostics.runs.plots import plot_run

        return plot_run(self, target, measure)

    def to_dataframe(self) -> pd.DataFrame:
        """All profiles as one tidy table, a row for each value at a tap; those of controls too.

        Columns `measure`, `target` (None of a measure without one), `family`, `score_name`, `control` (None of the encoder
        itself; of several draws the second is `fresh_weights.2`), `tap`, `depth`, `score`, `low`, `high`, `val_score`, and
        whether the tap is the `best` one and the `output` of what the row is about.

        Examples:
            >>> import diagnostics as dx
            >>> table = dx.open_run("runs/forecast").to_dataframe()
            >>> print(table[table["output"]][["target", "tap", "score"]].round(2).head(2))
                  target   tap  score
            7   hidden_z  norm   0.59
            16  hidden_y  norm   0.98
        """
        from diagnostics.runs.dataframe import run_dataframe

        return run_dataframe(self)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain numbers; None for what has no value."""
        from diagnostics.runs.as_json import run_json

        return run_json(self)

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the run as one self-contained HTML file, by default `report.html` inside the run."""
        from diagnostics.runs.page import write_report

        return write_report(self, Path(path) if path else None)

    def __repr__(self) -> str:
        return f"<Run {self.encoder_name} on {self.dataset} at {self.path}>"

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

"""A finished run as data: what was measured, on what, its profiles and recommendations.

Nothing is drawn, read anew or written here, and nothing computed that needs torch.
"""

import math
from collections.abc import Collection
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diagnostics.activations.place import locate
from diagnostics.activations.run_files import (
    CONTROLS,
    ENCODER,
    Index,
    Results,
    disk_use,
    group_of,
    index_of_finished,
    read_results,
)
from diagnostics.activations.store import Store
from diagnostics.errors import DiagnosticsError, check_known
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import common_tap, with_choice
from diagnostics.measures.verdict import check_margin
from diagnostics.options import decode
from diagnostics.registry import plugin_entries
from diagnostics.report.numbers import is_plain, numbers
from diagnostics.runs.controls.names import NAMES, WEIGHTS, control_of
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import Recommendation, first_probes, nonlinear_reading, recommend
from diagnostics.runs.results.record import Call, Provenance


class RunData:
    """A stored run, read from disk; `Run` adds what is made of it."""

    def __init__(self, path: str | PurePath, margin: float | None = None) -> None:
        check_margin(margin)
        self.path, self.margin = locate(path), margin
        self.store = Store(self.path)
        self.index: Index = index_of_finished(self.store)
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
        return [name for kind in NAMES for name in self.index.controls if control_of(name) == kind]

    @property
    def redrawn(self) -> dict[str, dict[str, Any]]:
        """For each control with other weights what was redrawn, and what is to be said of it.

        `redrawn` is the share of the encoder's weights that differ, and `note` a remark on those that do not; "" where
        all differ and there is nothing to add.
        """
        redrawn: dict[str, dict[str, Any]] = {}
        for name in WEIGHTS:
            results = self._results.get(name, {}).values()
            if (attrs := next((data.attrs for data in results if "redrawn" in data.attrs), None)) is not None:
                redrawn[name] = {key: attrs[key] for key in ("redrawn", "note")}
        return redrawn

    @property
    def record(self) -> Provenance:
        """The encoder, data and seed, as they were recorded when the run began."""
        return Provenance.read(self.store)

    @property
    def calls(self) -> list[Call]:
        """The calls of `run` that gave the results, the latest last."""
        return [decode(Call, call) for call in self.index.calls]

    @property
    def encoder_name(self) -> str:
        """Name of the encoder."""
        return self.record.encoder.name

    @property
    def untrained(self) -> str:
        """A sentence that the encoder's weights were never trained, where its name says so; "" otherwise."""
        if "pretrained=false" not in self.encoder_name.partition("?")[2].split("&"):
            return ""
        return (
            "This encoder's weights are random: pretrained=false, so nothing that it reaches was learnt, and fresh "
            "weights are but another draw of them."
        )

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

        `measure/target` in one text does too, and `rankme` for a measure without a target. Unknown names raise with the
        nearest.

        Examples:
            >>> import diagnostics as dx
            >>> profile = dx.open_run("runs/forecast").profile("linear_probe/hidden_z")
            >>> print(profile.chosen_tap, profile.score)
            blocks.3 0.917 [0.833, 0.968]
        """
        known = self._profiles
        name = target if measure is None else f"{measure}/{target}"
        name = name if name in known else next((key for key in known if key.partition("/")[2] == name), name)
        check_known("profile", name, known)
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
        check_known("target", target, list(dict.fromkeys(str(profile.target) for profile in read)))
        of_target = {profile.measure: profile for profile in read if profile.target == target}
        check_known(f"probe of {target}", measure, of_target)
        return self._recommend(of_target[measure] if measure else next(iter(of_target.values())))

    def recommendations(self) -> list[Recommendation]:
        """`recommend` of every target that a probe read, in the order of the first screen."""
        return [self._recommend(profile) for profile in first_probes(self.profiles()).values()]

    def _recommend(self, profile: Profile) -> Recommendation:
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
        """The seed, options, versions, Python and machine that a result was measured with.

        Also the command that was typed.
        """
        check_known("result", name, self.index.names())
        call = decode(Call, self.index.call_of(name)).to_attrs()
        return {key: value for key, value in call.items() if key not in ("created", "seconds")}

    @property
    def versions(self) -> set[str]:
        """Versions of this package that gave the results that are here."""
        used = {entry.call for entries in self.index.entries.values() for entry in entries}
        return {self.calls[call].version for call in used}

    def tap_for(self, target: str | None = None) -> str:
        """The tap to use for a target.

        Where that is None it is the one that is best for all targets on average, by the losses that choose.

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
                f"No tap of {self.path} has a score by which to choose{f' for {target}' if target else ''}: name a "
                f"tap, one of {', '.join(each.name for each in self.store.taps)}.",
                code="not-measured",
            )
        return tap

    def similarity(self) -> list[xr.Dataset]:
        """All similarities of tap pairs.

        Examples:
            >>> import diagnostics as dx
            >>> (cka,) = dx.open_run("runs/forecast").similarity()
            >>> round(float(cka["matrix"].sel(tap="embed", tap_other="blocks.3")), 2)
            0.83
        """
        return [self._results[ENCODER][key] for key in self.index.names(pairwise=True)]

    def to_json(self) -> dict[str, Any]:
        """The findings as plain numbers; None for what has no value."""
        return {
            "run": str(self.path),
            "encoder": self.encoder_name,
            "dataset": self.dataset,
            "n": self.n,
            "repeatable": not self.record.unrepeatable,
            "beware": self.record.beware,
            "profiles": [profile.to_json() for profile in self.profiles()],
            "similarity": [
                map_json(result)
                | {"attributes": {key: value for key, value in result.attrs.items() if is_plain(value)}}
                for result in self.similarity()
            ],
            "recommendations": [recommendation.to_json() for recommendation in self.recommendations()],
            "controls": self.redrawn,
            "skipped": self.skipped,
            "failed": self.failed,
            "provenance": {key: self.provenance(key) for key in self.index.names()},
            "report": str(self.path / "report.html"),
        }

    def __repr__(self) -> str:
        return f"<Run {self.encoder_name} on {self.dataset} at {self.path}>"


def with_declaration(result: xr.Dataset, store: Store) -> xr.Dataset:
    """A result in a store.

    A probe's of an older version with what its measure declares now, the least where that is not here.
    """
    if attribute.LOSSES in result.attrs or not attribute.is_probe(result):
        return result
    target, known = (
        store.targets().get(result.attrs[attribute.TARGET]),
        plugin_entries("measure").get(result.attrs[attribute.MEASURE]),
    )
    return result.assign_attrs(known[1]().declaration(target) if known else {attribute.LOSSES: "squares"})


def map_json(similarity: xr.Dataset) -> dict[str, Any]:
    """The map as plain numbers; None for what has no value."""
    return {
        "measure": similarity.attrs["measure"],
        "taps": [str(tap) for tap in similarity["tap"].values],
        "matrix": [numbers(row) for row in similarity["matrix"].values],
        "p": [numbers(row) for row in similarity["p"].values] if "p" in similarity else None,
    }


COLUMNS = [
    "measure", "target", "family", "score_name", "control", "tap", "depth",
    "score", "low", "high", "val_score", "chosen", "output",
]  # fmt: skip


def run_dataframe(run: RunData, names: Collection[str] | None = None) -> pd.DataFrame:
    """The table that `Run.to_dataframe` returns; only of the profiles named where `names` are given."""
    tables: list[pd.DataFrame] = []
    for key in run.index.names(pairwise=False):
        if names is not None and key not in names:
            continue
        results = {None: run.results, **run.controls}
        tables += [
            _rows_of(tree[key].to_dataset(), control)
            for control, tree in results.items()
            if control is None or key in run.index.names(control)
        ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=pd.Index(COLUMNS))


def _rows_of(data: xr.Dataset, control: str | None) -> pd.DataFrame:
    attrs = data.attrs
    taps = [str(tap) for tap in data["tap"].values]

    def same(value: str | None) -> pd.Series:
        # None, not NaN, where a text is missing.
        return pd.Series([value] * len(taps), dtype=object)

    return pd.DataFrame(
        {
            "measure": same(attrs[attribute.MEASURE]),
            "target": same(attrs[attribute.TARGET] or None),
            "family": same(attrs[attribute.FAMILY]),
            "score_name": same(attrs[attribute.SCORE_NAME]),
            "control": same(control),
            "tap": taps,
            **{
                # NaN where the measure gives no such value.
                key: data[key].values.astype(np.float64) if key in data else math.nan
                for key in ("depth", "score", "low", "high", "val_score")
            },
            "chosen": [tap == attrs.get(attribute.CHOSEN_TAP) for tap in taps],
            "output": [tap == attrs[attribute.OUTPUT_TAP] for tap in taps],
        }
    )

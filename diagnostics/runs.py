"""A finished run, read from disk: what was asked, done, found."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from diagnostics import controls as control
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.profiles import Profile, is_plain, numbers
from diagnostics.results import open_results, unreadable
from diagnostics.store import Store


class Run:
    """One encoder on one dataset: activations, results and provenance, in one store on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.store = Store(self.path)
        self.store.check_whole()
        if not self.store.attrs.get("found"):
            raise DiagnosticsError(
                f"{self.path} holds activations but no results yet: give the same `diagnostics run` command again."
            )

    @cached_property
    def results(self) -> xr.DataTree:
        """All results, `measure/target`, as one tree.

        Plain xarray opens it too: `xarray.open_datatree(path, group="results", engine="zarr", consolidated=False)`.
        """
        return open_results(self.path)

    @cached_property
    def controls(self) -> dict[str, xr.DataTree]:
        """The results of each control, by its name."""
        names = [name for name in control.NAMES if name in self.store.attrs["found"]["controls"]]
        return {name: open_results(self.path / "controls" / name) for name in names}

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return self.store.attrs["encoder"]["name"]

    @property
    def untrained(self) -> str:
        """That the encoder's weights were never trained, in a sentence, where its name says so; "" where it does not tell."""
        if "pretrained=false" not in self.encoder.partition("?")[2].split("&"):
            return ""
        return (
            "This encoder's weights are random: pretrained=false, so nothing that it reaches was learnt, and fresh weights are "
            "but another draw of them."
        )

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.store.attrs["dataset"]["name"]

    @property
    def n(self) -> dict[str, int]:
        """Number of samples in each split."""
        return self.store.attrs["dataset"]["n"]

    @property
    def skipped(self) -> dict[str, str]:
        """Measures whose needs were not met, and why."""
        return self.store.attrs["found"]["skipped"]

    def profiles(self) -> list[Profile]:
        """All profiles, probes first."""
        return [self._profile(key) for key in self.store.attrs["found"]["profiles"]]

    def profile(self, name: str) -> Profile:
        """The profile `measure/target`, or `measure` for one without target; unknown names raise with the nearest."""
        known: list[str] = self.store.attrs["found"]["profiles"]
        if name not in known:
            raise unknown("profile", name, known)
        return self._profile(name)

    def _profile(self, key: str) -> Profile:
        measure, _, target = key.partition("/")
        found = {
            name: self._node(tree, key)
            for name, tree in self.controls.items()
            if key in self.store.attrs["found"]["controls"][name]
        }
        return Profile(measure, target or None, self._node(self.results, key), found)

    def _node(self, tree: xr.DataTree, key: str) -> xr.Dataset:
        try:
            return tree[key].to_dataset()
        except KeyError as error:
            raise unreadable(self.path) from error

    def similarity(self) -> list[xr.Dataset]:
        """All similarities of tap pairs."""
        return [self._node(self.results, key) for key in self.store.attrs["found"]["similarity"]]

    def similarity_with(
        self, other: Run | str | Path, measure: str = "cka", seed: int = 0, most_rows: int | None = None
    ) -> xr.Dataset:
        """How alike each tap of this run is to each of another run (or its folder) on the same samples: `matrix`
        [tap, tap_other], with `p` and `tau` from permuted samples, calibrated for the most alike pair; of at most
        `most_rows` samples, where the measure itself does not take fewer.

        Raises DiagnosticsError where the two datasets are not the same, and for a measure that does not compare taps.
        """
        from diagnostics.pairs import between

        second = other if isinstance(other, Run) else Run(other)
        # Equal ids may stand for other samples, as of another seed.
        if sorted(self.store.ids) == sorted(second.store.ids) and self._fingerprint != second._fingerprint:
            raise DiagnosticsError(
                f"{self.path} and {second.path} hold other data under the same sample ids (their datasets' fingerprints "
                "differ): run both encoders on one dataset."
            )
        return between(self.store, second.store, measure, seed, most_rows)

    @property
    def _fingerprint(self) -> str:
        return self.store.attrs["dataset"]["fingerprint"]

    def to_json(self) -> dict[str, Any]:
        """The findings as plain numbers; None for what has no value."""
        return {
            "run": str(self.path),
            "encoder": self.encoder,
            "dataset": self.dataset,
            "n": self.n,
            "profiles": [profile.to_json() for profile in self.profiles()],
            "similarity": [
                {
                    "measure": found.attrs["measure"],
                    "taps": [str(tap) for tap in found["tap"].values],
                    "matrix": [numbers(row) for row in found["matrix"].values],
                    "p": [numbers(row) for row in found["p"].values] if "p" in found else None,
                    "attributes": {key: value for key, value in found.attrs.items() if is_plain(value)},
                }
                for found in self.similarity()
            ],
            "skipped": self.skipped,
            "report": str(self.path / "report.html"),
        }

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the run as one self-contained HTML file, by default `report.html` inside the run."""
        from diagnostics.report import write_report

        return write_report(self, Path(path) if path else self.path / "report.html")

    def __repr__(self) -> str:
        return f"<Run {self.encoder} on {self.dataset} at {self.path}>"

    def _repr_html_(self) -> str:
        from diagnostics.report import summary_html

        return summary_html(self)


def open_run(path: str | Path) -> Run:
    """A finished run, read from disk; raises when it is not one, is not finished, or is damaged."""
    return Run(path)

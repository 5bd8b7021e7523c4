"""On which losses taps and penalties are chosen: said by the dataset, overruled by the caller, recorded, and no identity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import diagnostics as dx
from diagnostics import Dataset
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.datasets.dataset import subset
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.result import CHOSEN_ON
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder


class Listener(LinearProbe):
    """A probe that notes on which losses the activations say to choose."""

    name = "listener"
    heard: list[str]

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        self.heard.append(activations.choose_on)
        return super().read_out(activations, target, seed)


def drawn(exchangeable: bool) -> Dataset:
    data = tiny_dataset(30)
    data.exchangeable = exchangeable
    return data


@pytest.mark.parametrize(
    ("exchangeable", "asked", "chosen"),
    [(False, None, "val"), (True, None, "fit"), (False, "fit", "fit"), (True, "val", "val")],
)
def test_the_encoder_and_every_control_choose_as_the_dataset_or_the_caller_says(
    tmp_path: Path, exchangeable: bool, asked: str | None, chosen: str
) -> None:
    probe = Listener()
    probe.heard = []
    run = dx.run(tiny_encoder(), drawn(exchangeable), out=tmp_path, measures=probe, choose_on=asked, report=False)
    # `kind` and `level`, of the encoder, of its targets permuted, and of at least two controls.
    assert len(probe.heard) >= 8 and set(probe.heard) == {chosen}
    assert run.calls[0].options["choose_on"] == chosen


def test_in_memory_the_dataset_says_it() -> None:
    probe = Listener()
    for exchangeable, chosen in ((False, "val"), (True, "fit")):
        probe.heard = []
        dx.measure(tiny_encoder(), drawn(exchangeable), measures=probe, samples=20)
        assert set(probe.heard) == {chosen}


def test_activations_are_the_same_whatever_chooses(tmp_path: Path) -> None:
    for choose_on in ("fit", "val"):
        # Another identity would be refused in this folder.
        run = dx.run(
            tiny_encoder(),
            drawn(True),
            out=tmp_path,
            measures="rankme",
            controls=False,
            report=False,
            choose_on=choose_on,
        )
        assert run.profiles


def test_a_subset_of_one_pool_is_of_one_pool_and_the_fingerprint_does_not_say_so() -> None:
    assert [subset(drawn(said), 12, 0).exchangeable for said in (True, False)] == [True, False]
    assert drawn(True).fingerprint == drawn(False).fingerprint


@pytest.mark.parametrize(
    ("name", "exchangeable"),
    [("lorenz?n=12", True), ("shapes?n=12&size=32", True), ("shapes?n=200&size=32&split=pairs", False)],
)
def test_drawn_splits_are_of_one_pool_and_defined_ones_are_not(name: str, exchangeable: bool) -> None:
    assert dx.build("dataset", name).exchangeable is exchangeable


def test_a_column_of_splits_is_not_taken_for_a_draw(tmp_path: Path) -> None:
    splits = ("train", "train", "val", "test")
    for name, column in (("given", [*splits] * 3), ("carved", ["train", "train", "train", "test"] * 3), ("none", None)):
        lines = ["text,y,split" if column else "text,y"]
        lines += [f"text {i},{i}" + (f",{column[i]}" if column else "") for i in range(12)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    made = {name: dx.build("dataset", f"texts:{tmp_path}/{name}.csv") for name in ("given", "carved", "none")}
    assert {name: data.exchangeable for name, data in made.items()} == {"given": False, "carved": "fit", "none": True}


def test_another_way_to_choose_is_refused(tmp_path: Path) -> None:
    with refusal("unknown-name", "test"):
        dx.run(tiny_encoder(), drawn(True), out=tmp_path / "run", choose_on="test")


def test_results_say_on_what_they_were_chosen(tmp_path: Path) -> None:
    run = dx.run(tiny_encoder(), drawn(False), out=tmp_path, measures="linear_probe", controls=False, report=False)
    assert run.profile("linear_probe/level").data.attrs[CHOSEN_ON] == "val"


@pytest.mark.parametrize("target", ["kind", "level"])
def test_a_probe_that_was_chosen_out_of_fold_is_fitted_again_as_it_was_measured(tmp_path: Path, target: str) -> None:
    data = tiny_dataset(60)
    run = dx.run(
        tiny_encoder(), data, out=tmp_path, measures="linear_probe", controls=False, report=False, choose_on="fit"
    )
    measured = run.profile(f"linear_probe/{target}").data
    units = [str(unit) for unit in measured["unit"].values]
    # Each sample is a group of its own.
    rows = [list(run.store.groups).index(unit) for unit in units]
    stored = run.store.targets()[target]
    truth = np.array(stored.classes)[stored.values[rows]] if stored.classes else stored.values[rows]
    for tap in map(str, measured["tap"].values):
        guess = run.probe(target, tap=tap).predict(run.store.pooled(tap)[rows])
        lost = guess != truth if target == "kind" else (guess - truth) ** 2
        np.testing.assert_allclose(lost, measured["loss"].sel(tap=tap), rtol=1e-6, atol=1e-9)

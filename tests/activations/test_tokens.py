"""Removed tokens: the space is free, the run is whole, and what reads tokens extracts them again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.activations.folder import lock
from diagnostics.activations.run_files import remove_tokens, token_bytes
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError
from diagnostics.progress import Cost, Progress
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_image_encoder

MEASURES = ["linear_probe", "cka"]
OPTIONS: dict[str, Any] = {"report": False, "token_budget": "1GB"}


def measured(out: Path, measures: list[str], watch: Callable[[Cost | Progress], None] = lambda _: None) -> dx.Run:
    return dx.run(tiny_image_encoder(), tiny_dataset(80, "image"), out=out, measures=measures, watch=watch, **OPTIONS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured(tmp_path_factory.mktemp("whole") / "run", MEASURES).path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_space_is_free_and_the_run_opens_with_all_its_results(run: Path) -> None:
    before, size, tokens = dx.open_run(run), on_disk(run), token_bytes(Store(run))
    # Of the encoder alone at least: 5 taps of 16 grid tokens and 2 of the prefix, 80 samples, 8 float32.
    assert tokens > 80 * 5 * 18 * 8 * 4
    features = before.features("norm")
    assert remove_tokens(run) == tokens
    assert size - on_disk(run) == pytest.approx(tokens, abs=500)  # and of the words that say so
    after = dx.open_run(run)
    assert after.to_json() == before.to_json()
    np.testing.assert_array_equal(after.features("norm"), features)
    assert after.report().is_file()
    assert after.store.token_samples == 0
    with refusal("no-tokens"):
        after.features("norm", tokens=True)
    assert (remove_tokens(run), token_bytes(Store(run))) == (0, 0)


def test_a_kill_in_between_leaves_a_run_that_opens_and_can_be_cleaned(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = os.unlink, list[str]()

    def unlink(name: str, **at: int) -> None:
        if len(gone) == 3:
            raise KeyboardInterrupt
        gone.append(name)
        real(name, **at)

    with monkeypatch.context() as killed:
        killed.setattr(os, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            remove_tokens(run)
    assert dx.open_run(run).store.token_samples == 0
    assert token_bytes(Store(run)) > 0
    assert remove_tokens(run) > 0
    assert token_bytes(Store(run)) == 0


def test_a_measure_without_tokens_does_not_bring_them_back_and_one_with_tokens_does(run: Path) -> None:
    before = dx.open_run(run)
    tokens, similarity = before.features("blocks.1", tokens=True), before.similarity()[0]["matrix"]
    remove_tokens(run)
    events: list[Cost | Progress] = []
    # No target of kind `masks` is there to be read.
    measured(run, ["rankme", "label_propagation"], events.append)
    assert not [event for event in events if isinstance(event, Cost) or "extracting" in event.step]
    assert token_bytes(Store(run)) == 0
    after = measured(run, ["cka"], events.append)
    (cost,) = (event for event in events if isinstance(event, Cost))
    assert "the tokens of 80 samples are not stored and are extracted now" in str(cost)
    np.testing.assert_array_equal(after.features("blocks.1", tokens=True), tokens)
    np.testing.assert_array_equal(after.similarity()[0]["matrix"], similarity)
    # CKA is measured on no control, so theirs stay removed.
    assert {store.tokens_removed for store in map(Store, (run / "controls").glob("*"))} == {True}


def test_a_probe_of_a_target_on_places_brings_them_back_of_controls_too(run: Path) -> None:
    names = "linear_probe/height", "linear_probe/level"
    before = [dx.open_run(run).profile(name).to_json() for name in names]
    tokens = token_bytes(Store(run))
    remove_tokens(run)
    after = measured(run, ["linear_probe"])
    assert token_bytes(Store(run)) == tokens
    assert [after.profile(name).to_json() for name in names] == before


def test_an_interrupted_second_extraction_leaves_a_run_that_opens_and_goes_on(run: Path) -> None:
    remove_tokens(run)

    def interrupt(event: Cost | Progress) -> None:
        if isinstance(event, Progress) and event.step.startswith("extracting") and event.done >= 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="what is done is kept"):
        measured(run, ["cka"], interrupt)
    assert dx.open_run(run).store.token_samples == 0
    events: list[Cost | Progress] = []
    assert measured(run, ["cka"], events.append).store.token_samples == 80
    (cost,) = (event for event in events if isinstance(event, Cost))
    assert cost.again == 40  # the first shard of two was there


def test_a_run_that_another_process_writes_and_what_is_no_run_are_refused(run: Path, tmp_path: Path) -> None:
    with lock(run), refusal("in-use", kind=StorageError):
        remove_tokens(run)
    assert token_bytes(Store(run)) > 0
    with refusal("missing-file"):
        remove_tokens(tmp_path / "nothing" / "here")
    assert not (tmp_path / "nothing").exists()


def test_a_missing_file_of_a_cleaned_run_is_still_damage(run: Path) -> None:
    remove_tokens(run)
    next(run.glob("taps/norm/pooled/c.*")).unlink()
    with refusal("damaged", kind=StorageError):
        dx.open_run(run)

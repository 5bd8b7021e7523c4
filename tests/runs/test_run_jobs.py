"""Runs that measure with several processes find what one finds, and leave none behind."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import diagnostics as dx
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Arrays, Measure, normal
from diagnostics.measures.geometry.spectrum import RankMe
from diagnostics.measures.similarity.kernels import Cka
from diagnostics.runs import machine, workers
from diagnostics.runs.setup import chosen_measures
from diagnostics.runs.workers import tasks_of
from tests.runs.test_token_probes import images
from tests.support.planted import planted_series, planted_series_encoder
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

MEASURES = ("linear_probe", "event_probe", "rankme", "self_similarity", "outlier_tokens", "position_probe", "cka")


class Strange(Measure):
    """No process can make it by its name, and no pickle holds it."""

    name, source, answers = "strange", "here", "Does it stay where it is?"

    def __init__(self) -> None:
        self.held = lambda: 1.0

    def compute(self, activations: Any, target: Any, seed: int) -> xr.Dataset:
        ones = np.full(len(activations.taps), self.held())
        values = dict.fromkeys(("score", "low", "high"), ("tap", ones))
        stated = {"functional": "one", "pooling": "none", "centring": "none", "seed": seed}
        return xr.Dataset(values, {"tap": [tap.name for tap in activations.taps]}, stated)


def measured(out: Path, jobs: int, **options: Any) -> dx.Run:
    data = planted_series()
    data.exchangeable = True
    options = {"measures": [*MEASURES, Strange()], "report": False} | options
    return dx.run(planted_series_encoder(), data, out=out, jobs=jobs, **options)


def values(run: dx.Run) -> dict[str, xr.Dataset]:
    return {node.path: node.to_dataset().load() for node in run.results.subtree}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that runs start, with the keys of what each found."""
    every = list[Any]()

    class Kept(workers._Process):
        def __init__(self) -> None:
            super().__init__()
            # So that it does its share of work that takes less time than its start.
            assert self.link.poll(120)
            self.keys = list[tuple[str, str]]()
            every.append(self)

        def find(self, source: workers.Source, task: workers.Task) -> Any:
            found = super().find(source, task)
            self.keys.extend(key for key, _ in found)
            return found

    monkeypatch.setattr(workers, "_Process", Kept)
    monkeypatch.setattr(workers, "WORTH", 0.0)
    return every


def test_no_process_starts_for_less_work_than_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_Process", None)
    assert measured(tmp_path, 2, controls=False).results


def test_any_number_of_processes_finds_the_same_to_the_last_digit(tmp_path: Path, started: list[Any]) -> None:
    options = {"redraws": 1, "redraw_controls": True}
    one = values(measured(tmp_path / "1", 1, **options))
    assert not started
    assert "/strange" in one
    for jobs in (2, 3):
        several = values(measured(tmp_path / str(jobs), jobs, **options))
        assert several.keys() == one.keys()
        for key, result in one.items():
            xr.testing.assert_identical(several[key], result)
    assert len(started) == 1 + 2
    found = {key for process in started for key in process.keys}
    assert {name.partition("/")[0] for name, _ in found} <= {*MEASURES}
    assert all(process.keys for process in started)
    assert all(process.process.poll() is not None for process in started)


def test_what_is_found_at_taps_is_not_found_again(tmp_path: Path) -> None:
    store = measured(tmp_path, 1, controls=False).store
    targets, (measures, _) = (
        store.targets(),
        chosen_measures([*MEASURES, "attentive_probe", "morans_i", "massive_activations"]),
    )
    tasks = tasks_of(measures, store, targets)
    ready = dict(found for task in tasks for found in task.find(store, targets))
    expected = measure_all(measures, store, targets)

    def refuse(*_: Any) -> Any:
        raise AssertionError

    reading = store.with_other(ready=ready, pooled=refuse, token_blocks=refuse)
    again = measure_all(measures, reading, targets)
    assert (again.skipped, again.failed) == (expected.skipped, expected.failed)
    for key, result in expected.results.items():
        xr.testing.assert_identical(again.results[key], result)


def test_a_run_whose_process_is_killed_ends_and_goes_on_from_there(tmp_path: Path, started: list[Any]) -> None:
    def kill(event: Any) -> None:
        if isinstance(event, dx.Progress) and event.step.endswith("by tap"):
            started[0].process.send_signal(signal.SIGKILL)

    with refusal("process-ended"):
        measured(tmp_path, 2, watch=kill, controls=False)
    steps = list[str]()
    assert measured(tmp_path, 1, watch=lambda event: steps.append(str(event)), controls=False).results
    assert not any("extracting" in step for step in steps)


def test_an_interrupt_leaves_no_process(tmp_path: Path, started: list[Any]) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, dx.Progress) and event.step.endswith("by tap"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, 2, watch=stop, controls=False)
    (process,) = started
    assert process.process.poll() is not None


def test_what_is_streamed_is_solved_by_all_processes_to_the_last_digit(tmp_path: Path, started: list[Any]) -> None:
    options: dict[str, Any] = {"measures": "linear_probe,segmentation_probe", "report": False, "dense": "streamed"}
    one, *several = (
        dx.run(tiny_image_encoder(), images(), out=tmp_path / str(n), jobs=n, **options) for n in (1, 2, 3)
    )
    assert {"/linear_probe/height", "/segmentation_probe/scene"} <= values(one).keys()
    for run in several:
        assert [*values(run)] == [*values(one)]
        for key, result in values(one).items():
            xr.testing.assert_identical(values(run)[key], result)
    found = {name for process in started for name, _ in process.keys}
    # Of streamed targets all that is fitted at a tap together.
    assert found == {"", "linear_probe/kind", "linear_probe/level", "linear_probe/hour"}


def test_a_measure_that_is_an_object_is_no_task() -> None:
    activations = Arrays({"a": normal(30, 3, seed=0), "b": normal(30, 3, seed=1)}, ["train"] * 30)
    assert tasks_of([Strange()], activations, {}) == []
    whole, *by_tap = tasks_of([Cka(), RankMe()], activations, {})
    assert (whole.tap, whole.pairs) == ("", (("cka", ""),))
    assert [task.tap for task in by_tap] == [tap.name for tap in activations.taps]


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_are_refused(tmp_path: Path, jobs: int) -> None:
    with refusal("bad-value"):
        measured(tmp_path, jobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("affinity", "limits", "cores"),
    [
        (8, [], 8),
        (8, ["max 100000"], 8),
        (8, ["250000 100000", "max 100000", "400000 100000"], 2),
        (8, ["50000 100000"], 1),
        (2, ["400000 100000"], 2),
    ],
)
def test_jobs_are_the_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, affinity: int, limits: list[str], cores: int
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", str(affinity))
    monkeypatch.setattr(machine, "_limits", lambda name: limits if name == "cpu.max" else [])
    assert machine.usable_cores() == cores


def test_memory_is_free_within_the_least_room_of_a_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "memory.max": ["max", "2000"],
        "memory.current": ["9000", "1900"],
        "memory.stat": ["inactive_file 5", "anon 1\ninactive_file 300\nx 2", "anon 1"],
    }
    monkeypatch.setattr(machine, "_limits", files.__getitem__)
    assert machine.free_bytes() == 2000 - 1900 + 300


@pytest.mark.parametrize(("free", "jobs"), [(64e9, 16), (9e9, 4), (1e9, 1), (float("inf"), 16)])
def test_jobs_fit_into_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch, free: float, jobs: int) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    monkeypatch.setattr(workers, "free_bytes", lambda: free)
    assert workers.default_jobs(20) == jobs

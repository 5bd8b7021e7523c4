"""Runs that measure with several processes find what one finds, and leave none behind."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from threadpoolctl import threadpool_info, threadpool_limits

import diagnostics as dx
from diagnostics.activations.batches import Passed
from diagnostics.activations.store import Store
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Arrays, Measure, normal
from diagnostics.measures.geometry.spectrum import RankMe
from diagnostics.measures.similarity.kernels import Cka
from diagnostics.runs import extraction, machine
from diagnostics.runs.processes import workers
from diagnostics.runs.processes.passes import Batch, threads
from diagnostics.runs.processes.workers import Opening, Workers, tasks_of
from diagnostics.runs.setup import select_measures
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


def test_a_pass_leaves_cores_to_other_processes() -> None:
    with threadpool_limits(2, "blas"), threads(1):
        assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} == {1}


def values(run: dx.Run) -> dict[str, xr.Dataset]:
    return {node.path: node.to_dataset().load() for node in run.results.subtree}


@pytest.fixture
def started(warm_processes: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that runs start, with the keys of what each found."""
    every = list[Any]()

    class Kept(workers._Process):
        def __init__(self) -> None:
            super().__init__()
            # So that it does its share of work that takes less time than its start.
            assert self.link.poll(120)
            self.keys = list[tuple[str, str]]()
            self.batches, self.observed = 0, False
            every.append(self)

        def find(self, source: Any, task: Any) -> Any:
            if type(task) is Opening:
                return []  # an item opens it too, and is taken before this process has done all
            found = super().find(source, task)
            if isinstance(task, Batch):
                self.batches += isinstance(found[0][1], Passed)
                self.observed |= isinstance(found[0][1], Passed) and found[0][1].observed is not None
            else:
                self.keys.extend(key for key, _ in found)
            return found

    monkeypatch.setattr(workers, "_Process", Kept)
    monkeypatch.setattr(workers, "WORTH", 0.0)
    return every


def test_no_process_starts_for_less_work_than_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_Process", None)
    assert measured(tmp_path, 2, controls=False).results


def test_an_item_is_taken_by_a_process_that_has_opened_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, opened = list[Any](), threading.Event()

    class Slow:
        holds = True

        def has_started(self) -> bool:
            return True

        def hold(self, _: Any) -> None:
            pass

        def end(self) -> None:
            pass

        def find(self, source: str, task: Any) -> Any:
            asked.append((source, task))
            assert type(task) is Opening or opened.is_set()
            assert opened.wait(60)  # nobody waits for it meanwhile
            return task

    monkeypatch.setattr(workers, "_Process", Slow)

    def here(item: int) -> int:
        if item == 7:
            opened.set()
            assert wait_until(lambda: len(asked) > 1)
        return item

    with contextlib.closing(Workers(2, dx.silent)) as both:
        both.start()
        both.worth = True
        assert [*both.deal(range(20), here, lambda item: ("it", item), 2)] == [*range(20)]
    assert isinstance(asked[0][1], Opening)
    assert {source for source, _ in asked} == {"it"}


def wait_until(true: Callable[[], bool]) -> bool:
    return any(true() or time.sleep(0.01) for _ in range(6000))


def test_long_work_has_processes_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = list[int]()
    monkeypatch.setattr(Workers, "start", lambda self: begun.append(self.jobs))
    measured(tmp_path, 2, controls=False)
    assert not begun
    monkeypatch.setattr(extraction, "LONG_BYTES", 1)
    measured(tmp_path, 2, controls=False)
    assert begun == [2]


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
        select_measures([*MEASURES, "attentive_probe", "morans_i", "massive_activations"]),
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
    options["control_samples"] = 27
    one, *several = (dx.run(tiny_image_encoder(), images(), out=tmp_path / str(n), jobs=n, **options) for n in (1, 3))
    assert {"/linear_probe/height", "/segmentation_probe/scene"} <= values(one).keys()
    for run in several:
        assert [*values(run)] == [*values(one)]
        for key, result in values(one).items():
            xr.testing.assert_identical(values(run)[key], result)
    found = {name for process in started for name, _ in process.keys}
    # Of streamed targets all that is fitted at a tap together.
    assert found == {"", "linear_probe/kind", "linear_probe/level", "linear_probe/hour"}


MODULE = """
from tests.activations.test_observe import looking
from tests.runs.test_token_probes import images
from tests.support.tiny import tiny_image_encoder

def build():
    return looking()

def another():
    encoder = tiny_image_encoder()
    with __import__("torch").no_grad():
        next(encoder.module.parameters()).normal_()
    return encoder

def data():
    return images()
"""
PASSED: dict[str, dict[str, Any]] = {
    "stored": {"measures": "knn_probe,self_similarity", "dense": "stored", "report": False, "batch_size": 4},
    "streamed": {
        "measures": "segmentation_probe,attention_distance",
        "dense": "streamed",
        "controls": False,
        "report": False,
    },
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("module") / "mine.py"
    path.write_text(MODULE)
    return path


@pytest.fixture(scope="module")
def passed_by_one(module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dx.Run]:
    out = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names = f"{module}:build", f"{module}:data"
        return {name: dx.run(*names, out=out / name, jobs=1, **options) for name, options in PASSED.items()}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dense", PASSED)
def test_batches_that_any_process_passes_are_the_same_to_the_last_digit(
    dense: str, module: Path, passed_by_one: dict[str, dx.Run], started: list[Any], tmp_path: Path
) -> None:
    run = dx.run(f"{module}:build", f"{module}:data", out=tmp_path / "run", jobs=2, **PASSED[dense])
    one = passed_by_one[dense]
    (process,) = started
    assert process.batches
    assert process.observed == (dense == "streamed")
    for mine, theirs in zip(stores(run), stores(one), strict=True):
        assert mine.identity == theirs.identity
        for tap in mine.taps:
            np.testing.assert_array_equal(mine.pooled(tap.name), theirs.pooled(tap.name))
            tokens = zip(mine.token_blocks(tap.name), theirs.token_blocks(tap.name), strict=True)
            for (_, found), (_, expected) in tokens:
                np.testing.assert_array_equal(found, expected)
    assert values(run).keys() == values(one).keys()
    for key, result in values(one).items():
        xr.testing.assert_identical(values(run)[key], result)


@pytest.mark.parametrize(("mapped", "calls"), [(False, 1), (True, 2)])
def test_data_in_memory_are_made_once_for_all_processes(
    started: list[Any], tmp_path: Path, mapped: bool, calls: int
) -> None:
    lines = (
        "import os, numpy as np",
        "from pathlib import Path",
        "from tests.runs.test_token_probes import images",
        "from tests.support.tiny import tiny_image_encoder as build",
        "def data():",
        "    with (Path(__file__).parent / 'calls').open('a') as file: file.write(f'{os.getpid()}\\n')",
        "    made = images()",
        f"    if {mapped}:",
        "        np.save(Path(__file__).parent / f'{os.getpid()}.npy', made.samples)",
        "        made.samples = np.load(Path(__file__).parent / f'{os.getpid()}.npy', mmap_mode='r')",
        "    return made",
    )
    (tmp_path / "mine.py").write_text("\n".join(lines))
    names, options = [f"{tmp_path}/mine.py:{name}" for name in ("build", "data")], PASSED["stored"]
    run = dx.run(*names, out=tmp_path / "run", jobs=2, **options | {"measures": "knn_probe", "controls": False})
    assert run.store.complete
    assert started[0].batches
    assert len((tmp_path / "calls").read_text().split()) == calls


def test_passes_over_what_is_streamed_later_are_dealt_too(module: Path, started: list[Any], tmp_path: Path) -> None:
    names, options = (
        (f"{module}:build", f"{module}:data"),
        {"controls": False, "report": False, "dense": "streamed", "batch_size": 2},
    )
    found, threads = dict[int, dict[str, xr.Dataset]](), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for jobs in (1, 2):
            out = {"out": tmp_path / str(jobs)}
            dx.run(*names, **out, jobs=1, measures="rankme", token_budget=0, **options)
            run = dx.run(*names, **out, jobs=jobs, measures="segmentation_probe", token_budget=0, **options)
            found[jobs] = values(run)
    finally:
        torch.set_num_threads(threads)
    (process,) = started
    assert process.batches, "nothing but sums and judgements was left to pass"
    for key, result in found[1].items():
        xr.testing.assert_identical(found[2][key], result)


def stores(run: dx.Run) -> list[Store]:
    """Of the encoder and of its controls."""
    return [run.store, *(Store(path) for path in sorted(run.store.path.glob("controls/*")))]


def test_an_encoder_that_other_processes_build_otherwise_is_passed_by_one(
    module: Path, started: list[Any], tmp_path: Path
) -> None:
    options = PASSED["stored"] | {"controls": False}
    run = dx.run(f"{module}:another", f"{module}:data", out=tmp_path / "run", jobs=2, **options)
    assert run.store.complete
    assert not any(process.batches for process in started)


def test_objects_are_passed_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_Process", None)
    monkeypatch.setattr(workers, "WORTH", 0.0)
    options = {"measures": Strange(), "report": False, "batch_size": 4}
    assert dx.run(tiny_image_encoder(), images(), out=tmp_path / "run", jobs=2, **options).results


def test_a_killed_pass_ends_the_run_which_goes_on_from_there(
    module: Path, passed_by_one: dict[str, dx.Run], started: list[Any], tmp_path: Path
) -> None:
    names = f"{module}:build", f"{module}:data"
    options = {"measures": "knn_probe", "controls": False, "report": False, "batch_size": 4, "dense": "none"}

    def kill(event: Any) -> None:
        if started:
            started[0].process.send_signal(signal.SIGKILL)

    with refusal("process-ended"):
        dx.run(*names, out=tmp_path / "run", jobs=2, watch=kill, **options)
    assert 0 < Store(tmp_path / "run").rows_done < len(images())
    run = dx.run(*names, out=tmp_path / "run", jobs=2, **options)
    for tap in run.store.taps:
        np.testing.assert_array_equal(run.store.pooled(tap.name), passed_by_one["stored"].store.pooled(tap.name))


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
    monkeypatch.setattr(
        workers, "resident_bytes", lambda: 2e9
    )  # of these tests' own process, it depends on the tests before
    assert workers.default_jobs(20) == jobs

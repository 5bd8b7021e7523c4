"""A run extracted by whatever has `submit`: the numbers of one process, to the last digit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics.activations.store import Store
from diagnostics.measures.geometry.spectrum import RankMe
from diagnostics.runs.processes import workers
from diagnostics.runs.processes.workers import Submits
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

MODULE = """
from tests.support.tiny import tiny_dataset, tiny_encoder

def build():
    return tiny_encoder(blocks=1)

def data():
    return tiny_dataset(264)

def few():
    return tiny_dataset(40)
"""
OPTIONS: dict[str, Any] = {
    "measures": ["rankme", "knn_probe"],
    "report": False,
    "watch": dx.silent,
    "batch_size": 16,
}
ALONE = OPTIONS | {"controls": False}


def found(run: dx.Run) -> dict[str, Any]:
    values = run.to_json()
    return json.loads(json.dumps({key: values[key] for key in ("profiles", "recommendations", "n")}, default=str))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    path = tmp_path_factory.mktemp("names") / "mine.py"
    path.write_text(MODULE)
    return f"{path}:build", f"{path}:data"


@pytest.fixture(scope="module")
def plain(names: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return found(dx.run(*names, out=tmp_path_factory.mktemp("plain") / "run", **OPTIONS))


@pytest.fixture(scope="module")
def alone(names: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return found(dx.run(*names, out=tmp_path_factory.mktemp("alone") / "run", **ALONE))


@contextmanager
def processes(folder: Path, python: Path) -> Generator[Submits]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@contextmanager
def dask(folder: Path, python: Path) -> Generator[Submits]:
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with (
        distributed.LocalCluster(2, processes=True, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


@contextmanager
def submitit(folder: Path, python: Path) -> Generator[Submits]:
    engine = pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    executor = engine.LocalExecutor(folder, python=str(python))
    executor.update_parameters(timeout_min=5)
    yield executor


@pytest.mark.slow
@pytest.mark.parametrize("engine", [processes, dask, submitit])
def test_an_executor_gives_the_numbers_of_one_process(
    engine: Any,
    names: tuple[str, str],
    plain: dict[str, Any],
    warm_python: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(workers, "WORTH", 0.0)
    options = dict[str, Any]()
    if engine is submitit:
        # Each of its tasks is a process of its own; it knows them by their numbers, so that only what they start is warm.
        names, options = (names[0], names[1].replace(":data", ":few")), {"controls": False, "measures": "rankme"}
        plain = found(dx.run(*names, out=tmp_path / "plain", **OPTIONS | options))
    else:
        request.getfixturevalue("warm_processes")
    with engine(tmp_path / "engine", warm_python) as executor:
        run = dx.run(*names, out=tmp_path / "run", executor=executor, **OPTIONS | options)
    assert found(run) == plain
    assert run.store.shared and not run.store.missing_parts


class Posts:
    """Does each task at once, as another process that gets it by mail; `lost` names tasks that it loses."""

    def __init__(self, *lost: str) -> None:
        self.sent, self.lost = list[str](), lost

    def submit(self, act: Any, /, *args: Any) -> Posts:
        name = act.__name__
        self.sent.append(name)
        if name in self.lost:
            raise OSError("no more machines")
        # As engines send it: that it can be sent is what is tested, and the bytes are this test's own.
        posted, given = pickle.loads(pickle.dumps((act, args)))  # noqa: S301
        self.found = pickle.dumps(posted(*given))
        return self

    def result(self) -> Any:
        return pickle.loads(self.found)  # noqa: S301 (of `submit` above)


@pytest.mark.parametrize("lost", ["", "find_packed"])
def test_what_takes_long_is_measured_by_the_executor_and_what_it_loses_here(
    lost: str, names: tuple[str, str], alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WORTH", 0.0)
    found_here, find = list[str](), workers.Task.find
    in_post = list[str]()

    def watched(self: workers.Task, *given: Any) -> Any:
        (in_post if executor.sent and not lost else found_here).append(self.tap)
        return find(self, *given)

    executor = Posts(lost)
    monkeypatch.setattr(workers.Task, "find", watched)
    assert found(dx.run(*names, out=tmp_path / "run", executor=executor, **ALONE)) == alone
    assert "extract_part" in executor.sent and "find_packed" in executor.sent
    assert bool(in_post) is not bool(lost) and not found_here


def test_a_process_that_opened_another_run_at_the_place_finds_nothing(names: tuple[str, str], tmp_path: Path) -> None:
    run = dx.run(*names, out=tmp_path / "run", **ALONE)
    source = workers.Source(run.path, {}, False, "0" * 32)
    task = workers.Task(run.store.taps[0].name, (("rankme", ""),))
    assert workers.find_packed(source, task) == []
    right = workers.Source(run.path, {}, False, run.store.attrs["digest"])
    assert len(workers.find_packed(right, task)) == 1


def test_an_executor_that_cannot_send_a_measure_is_one_sentence(names: tuple[str, str], tmp_path: Path) -> None:
    class Strange(RankMe):
        """Of a class that no pickle finds."""

        name = "strange"

    with refusal("process-ended"):
        dx.run(*names, out=tmp_path / "run", executor=Posts(), **OPTIONS | {"measures": [Strange()]})
    assert len(Store(tmp_path / "run").missing_parts) == 9


class Here:
    """Does each task at once; the one of a number fails."""

    def __init__(self, failing: int = -1) -> None:
        self.launches, self.failing = list[str](), failing

    def submit(self, act: Any, /, *args: Any) -> Here:
        self.launches.append(args[1])
        if len(self.launches) == self.failing:
            raise OSError("no more machines")
        act(*args)
        return self

    def result(self) -> None:
        """Nothing."""


def test_one_task_a_part_and_only_for_what_is_missing(
    names: tuple[str, str], alone: dict[str, Any], tmp_path: Path
) -> None:
    with refusal("process-ended"):
        dx.run(*names, out=tmp_path / "run", executor=Here(failing=4), **ALONE)
    assert Store(tmp_path / "run").missing_parts == [3, 4, 5, 6, 7, 8]
    executor = Here()
    assert found(dx.run(*names, out=tmp_path / "run", executor=executor, **ALONE)) == alone
    assert executor.launches == [f"{part}/9" for part in range(4, 10)]


def test_objects_and_what_cannot_be_shared_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with refusal("bad-type", "encoder"):
        dx.run(tiny_encoder(), names[1], out=out, executor=Here(), **OPTIONS)
    with refusal("bad-type", "dataset"):
        dx.run(names[0], tiny_dataset(24), out=out, executor=Here(), **OPTIONS)
    with refusal("conflict"):
        dx.run(*names, out=out, executor=Here(), fresh=True, **OPTIONS)
    assert not out.exists()

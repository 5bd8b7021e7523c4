"""A run extracted by whatever has `submit`: the numbers of one process, to the last digit."""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics.activations.store import Store
from diagnostics.runs.workers import Submits
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

MODULE = """
from tests.support.tiny import tiny_dataset, tiny_encoder

def build():
    return tiny_encoder(blocks=1)

def data():
    return tiny_dataset(264)
"""
OPTIONS: dict[str, Any] = {"measures": ["rankme", "knn_probe"], "report": False, "watch": dx.silent, "batch_size": 16}


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


@contextmanager
def processes(folder: Path) -> Generator[Submits]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@contextmanager
def dask(folder: Path) -> Generator[Submits]:
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with (
        distributed.LocalCluster(2, processes=True, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


@contextmanager
def submitit(folder: Path) -> Generator[Submits]:
    executor = pytest.importorskip("submitit", reason="the extra `slurm` is not installed").LocalExecutor(folder)
    executor.update_parameters(timeout_min=5)
    yield executor


@pytest.mark.slow
@pytest.mark.parametrize("engine", [processes, dask, submitit])
def test_an_executor_gives_the_numbers_of_one_process(
    engine: Any, names: tuple[str, str], plain: dict[str, Any], tmp_path: Path
) -> None:
    with engine(tmp_path / "engine") as executor:
        run = dx.run(*names, out=tmp_path / "run", executor=executor, **OPTIONS)
    assert found(run) == plain
    assert run.store.shared and not run.store.missing_parts


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
    names: tuple[str, str], plain: dict[str, Any], tmp_path: Path
) -> None:
    with refusal("process-ended"):
        dx.run(*names, out=tmp_path / "run", executor=Here(failing=4), **OPTIONS)
    assert Store(tmp_path / "run").missing_parts == [3, 4, 5, 6, 7, 8]
    executor = Here()
    assert found(dx.run(*names, out=tmp_path / "run", executor=executor, **OPTIONS)) == plain
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

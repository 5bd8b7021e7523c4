"""Settings of the whole test session."""

from __future__ import annotations

import gc
import multiprocessing.spawn
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

# For the processes that tests start too (kernels of tutorials, commands): side by side, their threads wait for each other's, which
# takes up to as much CPU time again.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")

# `diagnostics run` starts no processes then, unless a test asks for them: each would import torch.
os.environ["PYTHON_CPU_COUNT"] = "1"

import pytest
import torch
from hypothesis import settings

from tests.support import warm

# Tables as wide as in the README, whatever the terminal that the tests are run in; tests of other widths set their own.
os.environ["COLUMNS"] = "140"

# Threads of tiny models wait for each other more than they work, most of all where tests run side by side.
torch.set_num_threads(1)

LONGEST = "test_it_runs_and_prints_what_the_page_shows"
"""Of each tutorial; most take longer than any other test."""

# The same cases everywhere, so that what passes here passes in CI; `--hypothesis-profile=default` looks for others.
settings.register_profile("settled", derandomize=True, database=None)
settings.load_profile("settled")


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `python` that has imported torch before it starts (`tests.support.warm`)."""
    yield from warm.begin(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def warm_processes(warm_python: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The processes that runs, executors and `multiprocessing` start begin as `warm_python` does."""
    monkeypatch.setattr(sys, "executable", str(warm_python))
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(str(warm_python))
    yield
    multiprocessing.set_executable(before)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected, which makes none and many objects, and never at these afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Contiguous parts of the suite for the processes of `-n`, so that few modules prepare their fixtures in two of them."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(trylast=True)  # behind what `-k` and `-m` leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of `-n`: the longest tests first.

    Every other one stands at the half, where the part of a second process begins. So none of them runs alone at the
    end.
    """
    if not hasattr(config, "workerinput"):
        return
    longest = [item for item in items if getattr(item, "originalname", "") == LONGEST]
    others = [item for item in items if item not in longest]
    half = len(items) // 2 - len(longest[::2])
    items[:] = [*longest[::2], *others[:half], *longest[1::2], *others[half:]]

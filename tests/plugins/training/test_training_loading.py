"""Batches made ahead: the same ones in order by a thread or by workers, and nothing that is left of these."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from diagnostics_training.trainer.data import batches_ahead
from diagnostics_training.trainer.objective import Batch, Objective, World
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit

from diagnostics.errors import StorageError
from tests.support.refusals import refusal


def numbered(step: int, rank: int, world: int) -> Batch:
    return {"step": torch.tensor([step, rank, world]), "process": torch.tensor(os.getpid())}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_are_made_ahead(workers: int, tmp_path: Path) -> None:
    def noted(step: int, rank: int, world: int) -> Batch:
        (tmp_path / str(step)).touch()
        return numbered(step, rank, world)

    state = torch.random.get_rng_state()
    with batches_ahead(noted, range(3, 20), World(1, 4), workers) as coming:
        first = next(coming)
        deadline = time.monotonic() + 120
        # Two of each worker.
        while len(list(tmp_path.iterdir())) < max(2, 2 * workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (tmp_path / "19").exists()
        batches = [first, *coming]
    assert [batch["step"].tolist() for batch in batches] == [[step, 1, 4] for step in range(3, 20)]
    processes = {int(batch["process"]) for batch in batches}
    assert processes == {os.getpid()} if not workers else len(processes) == 2 and os.getpid() not in processes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not multiprocessing.active_children()


def test_no_steps_are_no_batches() -> None:
    for workers in (0, 1):
        with batches_ahead(numbered, range(5, 5), World(), workers) as coming:
            assert list(coming) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_its_own_sentence(tmp_path: Path, workers: int) -> None:
    class Nothing(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {"loss": self.weight.sum()}

    def broken(step: int, rank: int, world: int) -> Batch:
        if step == 3:
            raise StorageError("Image 7 cannot be read: give another folder.")
        return numbered(step, rank, world)

    with pytest.raises(StorageError) as raised:
        fit(Nothing(), broken, Settings(steps=9, workers=workers), tmp_path)
    assert str(raised.value) == "Image 7 cannot be read: give another folder."
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("torn", [True, False])
def test_a_worker_that_is_killed_is_one_sentence(torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of a batch that it hands over."""

    def killed(step: int, rank: int, world: int) -> Batch:
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return numbered(step, rank, world)

    def receive(*_: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    if torn:
        monkeypatch.setattr("multiprocessing.resource_sharer.DupFd.detach", receive)

    def go_through() -> None:
        with batches_ahead(numbered if torn else killed, range(8), World(), 1) as coming:
            list(coming)

    with refusal("process-ended"):
        go_through()
    assert not multiprocessing.active_children()


def test_what_a_worker_raises_otherwise_stays_what_it_is() -> None:
    def missing(step: int, rank: int, world: int) -> Batch:
        raise FileNotFoundError(2, "no such file", "x.png")

    def go_through() -> None:
        with batches_ahead(missing, range(8), World(), 1) as coming:
            list(coming)

    before = set(multiprocessing.active_children())
    with pytest.raises(FileNotFoundError, match=r"x\.png") as raised:
        go_through()
    # Although the traceback is still held: a worker that is ended later, at any moment, may take a Ctrl-C with it.
    assert raised.value.__traceback__ is not None
    assert not set(multiprocessing.active_children()) - before


@pytest.fixture
def interrupts() -> Generator[None]:
    """Ctrl-C raises, also where the suite was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("waiting", [True, False])
def test_an_interrupt_leaves_no_process(waiting: bool) -> None:
    """While a batch is waited for, and in the middle of a step."""

    def slow(step: int, rank: int, world: int) -> Batch:
        time.sleep(600 if waiting and step > 3 else 0)
        return numbered(step, rank, world)

    def interrupt() -> None:
        # As a terminal does, to all processes.
        children = [process.pid for process in multiprocessing.active_children() if process not in before]
        for process in (os.getpid(), *(child for child in children if child)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGINT)

    def go_through() -> None:
        with batches_ahead(slow, range(99), World(), 2) as coming:
            next(coming)
            assert len(set(multiprocessing.active_children()) - before) == 2
            threading.Timer(0.3, interrupt).start()
            for _ in coming:
                time.sleep(0 if waiting else 0.1)

    # Another test's may still be on its way out.
    before = set(multiprocessing.active_children())
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as raised:
        go_through()
    # Although the traceback is still held.
    assert raised.value.__traceback__ is not None
    assert not set(multiprocessing.active_children()) - before
    assert time.monotonic() - started < 300


def test_nothing_is_forked_where_that_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with (
        refusal("no-effect"),
        batches_ahead(numbered, range(2), World(), 1),
    ):
        pass

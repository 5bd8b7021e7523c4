"""What surrounds passes on a GPU: copies, the writer, workers and the cost line, with a CPU in the GPU's place."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics.activations import prepare
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import row_order
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError
from diagnostics.progress import Cost
from diagnostics.runs import extraction, machine, setup
from diagnostics.runs.options import Request
from tests.support.refusals import refusal
from tests.support.stores import digests, planned
from tests.support.tiny import tiny_dataset, tiny_encoder

N = 40


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device called `cuda` on which the tiny encoder passes where it is."""
    encoder = type(tiny_encoder())
    monkeypatch.setattr(encoder, "to", lambda self, device: self)
    monkeypatch.setattr(encoder, "on", lambda self, device: contextlib.nullcontext())
    monkeypatch.setattr(setup, "usable_device", lambda device: "cuda")


@pytest.mark.parametrize("budget", [0, 2**20])
def test_writing_beside_the_passes_changes_no_byte(tmp_path: Path, gpu: None, budget: int) -> None:
    encoder, dataset, writers = tiny_encoder(), tiny_dataset(N), set[int]()
    write = Store.write

    def noted(self: Store, *step: Any) -> None:
        writers.add(threading.get_ident())
        write(self, *step)

    for device in ("cpu", "cuda"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "write", noted)
            plan = planned(encoder, N, budget=budget)
            extract(encoder, dataset, tmp_path / device, plan, batch_size=3, device=device)
    assert digests(tmp_path / "cpu") == digests(tmp_path / "cuda")
    assert len(writers) == 2
    assert threading.get_ident() in writers


def test_a_disk_that_fills_up_beside_the_passes_ends_them(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, steps, write = tiny_encoder(), list[Any](), Store.write

    def full(self: Store, *step: Any) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise StorageError("The disk is full.", code="no-space")
        write(self, *step)

    monkeypatch.setattr(Store, "write", full)
    with refusal("no-space"):
        extract(encoder, tiny_dataset(N), tmp_path / "run", planned(encoder, N, budget=0), batch_size=3, device="cuda")
    assert Store(tmp_path / "run").rows_done == 6
    assert len(steps) == 3, "nothing is written after it"


def test_whole_steps_stay_where_a_later_sample_fails(tmp_path: Path, gpu: None) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    dataset.samples = list(dataset.samples)
    dataset.samples[int(row_order(N)[10])] = np.zeros(3)
    with refusal("bad-sample"):
        extract(encoder, dataset, tmp_path / "run", planned(encoder, N, budget=0), batch_size=3, device="cuda")
    assert Store(tmp_path / "run").rows_done == 9


def test_batches_for_a_gpu_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[bool]()

    def loader(batches: Any, *, pin_memory: bool, **_: Any) -> list[Any]:
        asked.append(pin_memory)
        return []

    monkeypatch.setattr(prepare, "DataLoader", loader)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda there=there: there)
        list(prepare.prepare_batches(tiny_encoder(), tiny_dataset(N), [np.arange(3)], 0))
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("cores", "room", "expected"), [(4, 1e9, 3), (32, 1e9, 8), (32, 128 * 64 * 4 * 3 * 2, 2), (1, 1e9, 0)]
)
def test_workers_by_default_are_what_cores_and_shared_memory_allow(
    gpu: None, monkeypatch: pytest.MonkeyPatch, cores: int, room: float, expected: int
) -> None:
    class Usage:
        free = int(room)

    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage)
    encoder, dataset = tiny_encoder(length=64), tiny_dataset(N, length=64)
    assert setup.Setup(Request(encoder=encoder, dataset=dataset)).workers == expected
    assert setup.Setup(Request(encoder=encoder, dataset=dataset, workers=1)).workers == 1


@pytest.mark.parametrize(("share", "said"), [(0.5, True), (0.95, False)])
def test_the_cost_on_a_gpu_says_what_bf16_takes(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, share: float, said: bool
) -> None:
    costs, own = list[Cost](), list[float]()
    cost_of = extraction.cost_of

    def kept(*given: Any, seconds: float, **other: Any) -> Cost:
        own.append(seconds)
        return cost_of(*given, seconds=seconds, **other)

    def watch(event: Any) -> None:
        if isinstance(event, Cost):
            costs.append(event)
            raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "cost_of", kept)
    monkeypatch.setattr(extraction, "seconds_when_warm", lambda *_: own[-1] * share)
    monkeypatch.setattr(extraction, "LONG", 0)
    monkeypatch.setattr(extraction, "computing", lambda *_: contextlib.nullcontext())
    with pytest.raises(KeyboardInterrupt):
        dx.run(tiny_encoder(), tiny_dataset(N), out=tmp_path / "run", watch=watch, workers=0)
    (cost,) = costs
    assert cost.seconds_in_bf16 == pytest.approx(share * cost.seconds if said else 0)
    assert ("bf16" in str(cost)) == said

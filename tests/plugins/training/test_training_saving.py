"""Checkpoints that a second thread writes: what is trained meanwhile changes none, and a whole one is always there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnostics_training.trainer import checkpoint, trainer
from diagnostics_training.trainer.checkpoint import FILE, Saver, about_checkpoint, load_checkpoint
from diagnostics_training.trainer.objective import Objective, World
from diagnostics_training.trainer.settings import Settings
from torch import nn

from diagnostics.plugin import StorageError


def trained() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return module, optimiser


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimiser = trained()
    saver, may, write = Saver(tmp_path, {"--lr": 1}), threading.Event(), checkpoint.save_file
    saver.save(1, module, optimiser)
    saver.wait()
    first, expected = (tmp_path / FILE).read_bytes(), module.weight.detach().clone()

    def later(*given: Any) -> None:
        assert may.wait(60)
        write(*given)

    monkeypatch.setattr(checkpoint, "save_file", later)
    saver.save(2, module, optimiser, keep=tmp_path / "steps" / "2")
    # What a kill would leave now is the first one.
    assert (tmp_path / FILE).read_bytes() == first
    with torch.no_grad():
        module.weight.zero_()
    may.set()
    saver.close()
    assert (about_checkpoint(tmp_path) or {})["step"] == 2
    assert (tmp_path / "steps" / "2").read_bytes() == (tmp_path / FILE).read_bytes() != first
    assert load_checkpoint(tmp_path, module, optimiser, {"--lr": 1}) == 2
    assert torch.equal(module.weight, expected)


def test_a_checkpoint_that_could_not_be_written_is_said_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, optimiser = trained()
    saver = Saver(tmp_path, {})
    saver.save(1, module, optimiser)
    saver.wait()
    first = (tmp_path / FILE).read_bytes()

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    saver.save(2, module, optimiser)
    with pytest.raises(StorageError):
        saver.save(3, module, optimiser)
    assert (tmp_path / FILE).read_bytes() == first


@pytest.mark.parametrize(("recompute", "inside"), [(False, False), (True, True)])
def test_data_parallelism_is_inside_what_is_compiled(
    recompute: bool, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parallel(nn.Module):
        def __init__(self, module: nn.Module, **options: object) -> None:
            super().__init__()
            self.module = module

    compiled: list[nn.Module] = []
    monkeypatch.setattr(trainer, "DistributedDataParallel", Parallel)
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    objective = Objective()
    module = trainer.wrap(objective, Settings(steps=1, compile=True, recompute=recompute), World(0, 2))
    assert isinstance(module, Parallel) and compiled == [objective if inside else module]

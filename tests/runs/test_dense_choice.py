"""How dense targets are read where a run is gone on with, replaced, or has controls: what was there never decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics import DiagnosticsError, Run, TorchEncoder
from diagnostics.activations import plan
from diagnostics.errors import StorageError
from diagnostics.progress import Cost
from diagnostics.runs import job
from diagnostics.runs.controls.names import WEIGHTS
from tests.runs.test_token_probes import images
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

HEIGHT, LEVEL = "linear_probe/height", "linear_probe/level"


def measure(out: Path, encoder: TorchEncoder | None = None, **options: Any) -> Run:
    asked = {"measures": "linear_probe", "controls": False, "report": False, "choose_on": "val", "watch": dx.silent}
    return dx.run(encoder or tiny_image_encoder(), images(), out=out, **asked | options)


def bytes_of(samples: int) -> int:
    """Of the tokens of so many samples."""
    return samples * 4 * sum(tap.tokens * tap.features for tap in tiny_image_encoder().taps)


@pytest.mark.parametrize("samples", [0, 20])
def test_a_fresh_run_with_a_smaller_budget_reads_all_samples(tmp_path: Path, samples: int) -> None:
    measure(tmp_path, token_budget="1GB")
    run = measure(tmp_path, token_budget=f"{bytes_of(samples)}B", fresh=True)
    assert run.profile(HEIGHT).data.attrs["tokens"] == "streamed"
    assert run.profile(HEIGHT).data.attrs["token_samples"] == len(images())


def test_a_fresh_run_plans_its_own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLENTY", "MOST"):
        monkeypatch.setattr(plan, name, bytes_of(len(images())))
    measure(tmp_path)
    costs = list[Any]()
    wide = tiny_image_encoder(width=64)
    measure(tmp_path, wide, fresh=True, measures="cka", watch=costs.append)
    (cost,) = (event for event in costs if isinstance(event, Cost))
    assert cost.token_samples == plan.FEWEST


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make the streaming of every control with weights fail so."""
    streamed = job.stream

    def of_encoder(encoder: TorchEncoder, *given: Any, **options: Any) -> Any:
        if "weights" in encoder.name:
            raise error
        return streamed(encoder, *given, **options)

    monkeypatch.setattr(job, "stream", of_encoder)


@pytest.mark.parametrize("error", [MemoryError(), DiagnosticsError("No memory.", code="foreign-error")])
def test_a_control_that_cannot_be_streamed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    controls = {*measure(tmp_path, dense="streamed", controls=True).profile(HEIGHT).controls}
    assert controls > {"raw_input", "shuffled_labels"}
    assert not controls & {*WEIGHTS}


def test_a_disk_that_is_full_while_a_control_is_streamed_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, StorageError("The disk is full.", code="no-space"))
    with refusal("no-space"):
        measure(tmp_path, dense="streamed", controls=True)


def test_controls_that_another_reader_measured_are_no_controls(tmp_path: Path) -> None:
    first = measure(tmp_path, dense="stored", controls=True)
    assert first.profile(HEIGHT).controls
    second = measure(tmp_path, dense="streamed")
    assert not second.profile(HEIGHT).controls
    assert not any(name.startswith("over_") for name in second.profile(HEIGHT).data.attrs)
    # What reads no map has them still.
    assert {*second.profile(LEVEL).controls} == {*first.profile(LEVEL).controls}
    assert (
        second.profile(LEVEL).data.attrs["over_fresh_weights"] == first.profile(LEVEL).data.attrs["over_fresh_weights"]
    )
    label = f"{HEIGHT} of fresh_weights"
    assert label in second.skipped
    third = measure(tmp_path, dense="streamed", controls=True)
    assert {*third.profile(HEIGHT).controls} == {*first.profile(HEIGHT).controls}
    assert label not in third.skipped

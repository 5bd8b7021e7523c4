"""How dense targets are read where a run is gone on with, replaced, or has controls: what was there never decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics import Run, TorchEncoder
from diagnostics.activations import plan
from diagnostics.progress import Cost
from tests.runs.test_token_probes import images
from tests.support.tiny import tiny_image_encoder

HEIGHT = "linear_probe/height"


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

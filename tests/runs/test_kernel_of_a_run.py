"""`run --attention` and `--compute`: what they reach, and what of them is part of a run's identity."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

import diagnostics as dx
from diagnostics import DiagnosticsError, Grid, Run, Site, Tap, TorchEncoder
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset

KEPT: dict[str, Any] = {
    "measures": ["attention_entropy", "rankme"],
    "control_draws": 1,
    "report": False,
    "token_budget": "1MB",
}


class Attending(nn.Module):
    """Four steps are a token; `allowed` is which kernels its passes may use, `mixed` whether under autocast."""

    def __init__(self, refused: bool = False) -> None:
        super().__init__()
        self.qkv, self.refused = nn.Linear(4, 12), refused
        self.allowed: list[tuple[bool, bool]] = []
        self.mixed: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.allowed.append((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()))
        self.mixed.add(torch.is_autocast_enabled("cpu"))
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return attend(q, k, v[..., :2] if self.refused else v)[:, 0]


def encoder(refused: bool = False) -> TorchEncoder:
    torch.manual_seed(0)
    tap = Tap("out", 1.0, "trunk", 2 if refused else 4, Grid((8,), ("t",)), Site(""))
    return TorchEncoder(
        "attending",
        "series",
        Attending(refused),
        [tap],
        preprocess=lambda x: torch.from_numpy(x).float().reshape(8, 4),
        example=np.sin(np.arange(32, dtype=np.float32)),
    )


def run_of(out: Path, one: TorchEncoder | None = None, **options: Any) -> Run:
    return dx.run(one or encoder(), tiny_dataset(24), out=out, watch=dx.silent, **KEPT | options)


def test_a_named_kernel_and_the_compute_reach_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its pass of the example has a kernel of its own, which torch's counter can follow.
    monkeypatch.setattr("diagnostics.runs.job.count_flops", lambda *_: {})
    one = encoder()
    run = run_of(tmp_path / "a", one, attention="flash", compute="bf16", controls=False)
    # But for the pass that tries the kernel, all allow it alone; afterwards all are allowed again.
    assert one.module.allowed == [(True, True), *[(True, False)] * (len(one.module.allowed) - 1)]
    assert len(one.module.allowed) > 4
    assert one.module.mixed == {True}
    assert torch.backends.cuda.math_sdp_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert {key: run.calls[0].options[key] for key in ("attention", "compute")} == {
        "attention": "flash",
        "compute": "bf16",
    }
    assert run.store.identity["compute"] == "bf16"
    other = run_of(tmp_path / "b", controls=False)
    values = [each.store.pooled("out") for each in (run, other)]
    assert not np.array_equal(*values)
    np.testing.assert_allclose(*values, atol=0.02)


def test_the_compute_is_identity_and_the_kernel_is_not(tmp_path: Path) -> None:
    first, second = run_of(tmp_path / "a"), run_of(tmp_path / "b", compute="bf16")
    run_of(tmp_path / "a", attention="math")
    with refusal("other-run", "compute"):
        run_of(first.path, compute="bf16")
    with refusal("not-comparable", "--compute"):
        dx.compare([first, second])


@pytest.mark.parametrize(("kernel", "reason"), [("flash", "same last dimension"), ("cudnn", "no such kernel for cpu")])
def test_a_refusal_is_said_before_anything_is_written(tmp_path: Path, kernel: str, reason: str) -> None:
    with pytest.raises(
        DiagnosticsError, match=rf"^The {kernel} kernel refuses the attention of attending \(.*{reason}"
    ):
        run_of(tmp_path / "a", encoder(refused=True), attention=kernel)
    assert not list(tmp_path.rglob("zarr.json"))


def test_auto_logs_what_ran_and_why_nothing_faster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "diagnostics")
    run_of(tmp_path / "a", encoder(refused=True), controls=False, measures=["rankme"])
    (line,) = [record.getMessage() for record in caplog.records if record.name == "diagnostics"]
    assert line.startswith("attention of attending: math (1 call), since flash: Flash attention requires q,k,v to have")

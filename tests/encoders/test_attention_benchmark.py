"""`benchmarks/attention.py`: that its checks can fail, and that they need no package beyond torch, timm and numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

ALONE = """
import dataclasses, math, sys
sys.modules |= dict.fromkeys(("zarr", "xarray", "pluggy", "typer", "rich", "scipy", "sklearn", "plotly", "pandas", "transformers"))
import torch
import attention
from _attention_cases import SMALL, Table, call_of, projected
from _attention_equality import _exact, _rows_apart, kernels_equal, statistics_apart, statistics_equal
from diagnostics.encoders.attention import attention_statistics

table = Table()
kernels_equal("cpu", SMALL, table)
statistics_equal("cpu", SMALL, ["blocks"], table)
assert len(table.lines) == 10 and not table.missed, str(table)
table.hold("b", "nothing", math.nan, 1.0)
table.fail("e", RuntimeError("out of memory"))
assert table.missed == 2 and "out of memory" in str(table)

q, k, v = projected(SMALL[0], "cpu", torch.float32)
call, out, tokens = call_of(q, k, v, SMALL[0])
right = attention_statistics(call, out, tokens, "plain")
for wrong in (right.entropy * 1.001, torch.full_like(right.entropy, math.nan)):
    assert statistics_apart(dataclasses.replace(right, entropy=wrong), [right]) > 1e-4
exact = _exact(q, k, v, q)
for wrong in (1.01, math.nan):
    spoilt = out.clone()
    spoilt[0, 3, 5] *= wrong
    assert _rows_apart([spoilt], [head[:1] for head in exact])[0] > 1e-3
"""


@pytest.mark.slow
def test_it_checks_without_a_store_and_can_fail() -> None:
    pytest.importorskip("timm")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

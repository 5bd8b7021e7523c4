"""On a GPU: every plain function gives what it gives on numpy, and a run gives what it gives on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

import diagnostics as dx

from functions import FUNCTIONS, as_is, numbers
from tiny import tiny_dataset, tiny_image_encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a GPU with CUDA; benchmarks/gpu.py runs this where there is one"
    ),
]
MEASURES = ["linear_probe", "knn_probe", "attentive_probe", "cka", "rankme", "two_nn", "self_similarity"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gpu_gives_what_numpy_gives(name: str) -> None:
    here, there = FUNCTIONS[name](as_is), FUNCTIONS[name](lambda x: torch.from_numpy(x.copy()).cuda())
    for a, b in zip(numbers(here), numbers(there), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


def test_a_run_on_a_gpu_gives_what_it_gives_on_a_cpu(tmp_path: Path) -> None:
    runs = [
        dx.run(
            tiny_image_encoder(), tiny_dataset(60, "image"), out=tmp_path / device, device=device, measures=MEASURES,
            controls=False, report=False,
        )
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    for here, there in zip(*(run.profiles() for run in runs), strict=True):
        assert here.name == there.name
        # One test sample more or fewer: a probe's choice may turn on rounding.
        np.testing.assert_allclose(there.data["score"], here.data["score"], atol=0.1, err_msg=here.name)
    for here, there in zip(*(run.similarity() for run in runs), strict=True):
        np.testing.assert_allclose(there["matrix"], here["matrix"], atol=1e-3)

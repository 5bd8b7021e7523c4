"""On a GPU: every plain function gives what it gives on numpy, and a run gives what it gives on a CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics.encoders.attention import Tokens, attention_statistics
from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.attention.kernel_choice import explain_attention
from diagnostics.encoders.modules import computing
from tests.support.functions import FUNCTIONS, as_is, numbers
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_image_encoder

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


def test_a_gpus_tf32_is_off_and_a_kernel_that_takes_no_float32_says_so() -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 64, 32, generator=draw), torch.randn(64, 64, 9, generator=draw)
    exact = torch.nn.functional.conv1d(x.double(), weight.double())
    with computing("float32", "cuda"):
        ours = torch.nn.functional.conv1d(x.cuda(), weight.cuda()).cpu().double()
    assert float((ours - exact).abs().max() / exact.abs().max()) < 1e-5
    q = torch.randn(2, 4, 64, 32, device="cuda")

    def forward() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)

    with refusal("no-kernel", "flash", "--compute bf16"):
        explain_attention("flash", forward, "mine", "--compute bf16")
    with computing("bf16", "cuda"):
        assert explain_attention("flash", forward, "mine", "--compute bf16") == ""
        assert explain_attention("auto", forward, "mine", "--compute bf16").partition(" ")[0] in ("flash", "cudnn")


def test_a_run_on_a_gpu_gives_what_it_gives_on_a_cpu(tmp_path: Path) -> None:
    runs = [
        dx.run(
            tiny_image_encoder(),
            tiny_dataset(60, "image"),
            out=tmp_path / device,
            device=device,
            measures=MEASURES,
            controls=False,
            report=False,
        )
        for device in ("cpu", "cuda")
    ]
    for here, there in zip(*(run.profiles() for run in runs), strict=True):
        assert here.name == there.name
        # One test sample more or fewer: a probe's choice may turn on rounding.
        np.testing.assert_allclose(there.data["score"], here.data["score"], atol=0.1, err_msg=here.name)
    for here, there in zip(*(run.similarity() for run in runs), strict=True):
        np.testing.assert_allclose(there["matrix"], here["matrix"], atol=1e-3)


def test_a_module_in_training_comes_back_from_a_gpu(tmp_path: Path) -> None:
    encoder = tiny_image_encoder()
    module = encoder.module.train()
    encoder.capture(torch.randn(2, 3, 16, 16), ["norm"], gradient=True)["norm"].sum().backward()
    torch.cuda.manual_seed(5)
    places = [(p.data_ptr(), p.grad.data_ptr()) for p in module.parameters() if p.grad is not None]
    random = torch.cuda.get_rng_state()
    dx.run(encoder, tiny_dataset(40, "image"), out=tmp_path, device="cuda", measures=["linear_probe"], report=False)
    assert [(p.data_ptr(), p.grad.data_ptr()) for p in module.parameters() if p.grad is not None] == places
    assert len(places) > 5 and module.training and {p.device.type for p in module.parameters()} == {"cpu"}
    assert torch.equal(torch.cuda.get_rng_state(), random)


def trained(folder: Path, device: str, precision: str = "float32", compile: bool = False) -> dict[str, list[float]]:
    """Losses by objective of the first steps."""
    pytest.importorskip("timm")
    from diagnostics_training.jobs import TrainJob
    from diagnostics_training.train import train

    objectives = "forecast,reconstruct,contrastive,jepa,supervised"
    job = TrainJob(
        data="lorenz?n=40&length=64",
        objective=objectives,
        out=folder,
        steps=10,
        batch=8,
        width=16,
        depth=2,
        heads=2,
        device=device,
        precision=precision,
        compile=compile,
    )
    return {row["objective"]: losses(Path(row["path"])) for row in train(job)}


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


@pytest.mark.parametrize(
    ("options", "within"),
    [({}, 1e-3), ({"precision": "bf16"}, 0.1), ({"compile": True}, 1e-3)],
    ids=["float32", "bf16", "compiled"],
)
def test_a_gpu_trains_as_a_cpu_does(options: dict[str, Any], within: float, tmp_path: Path) -> None:
    here, there = trained(tmp_path / "cpu", "cpu"), trained(tmp_path / "cuda", "cuda", **options)
    assert len(here) == 5
    for objective, expected in here.items():
        np.testing.assert_allclose(there[objective], expected, rtol=within, err_msg=objective)


def test_a_gpu_aligns_as_a_cpu_does(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from diagnostics_training.alignment.student import align_tap
    from diagnostics_training.jobs import TapJob

    trained(tmp_path / "base", "cpu")
    rows = {
        device: align_tap(
            TapJob(
                encoder=str(tmp_path / "base" / "jepa"),
                to="blocks.0",
                data="lorenz?n=40&length=64",
                out=tmp_path / device,
                steps=10,
                batch=8,
                device=device,
            )
        )
        for device in ("cpu", "cuda")
    }
    assert rows["cuda"]["cosine"]["after"] == pytest.approx(rows["cpu"]["cosine"]["after"], abs=1e-3)


@pytest.mark.parametrize("by", ["blocks", "triton"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_attention_statistics_are_those_of_the_matrix(by: Any, dtype: torch.dtype, most: float) -> None:
    if by == "triton":
        pytest.importorskip("triton", reason="needs triton")
    grid = dx.Grid((12, 11), ("y", "x"), 2)
    q, k, v = torch.randn(3, 2, 4, 134, 48, device="cuda", dtype=dtype).unbind(0)
    call, out = FusedCall.of((q, k, v), {}), torch.nn.functional.scaled_dot_product_attention(q, k, v)
    tokens = Tokens.of(dx.Tap("a", 1, "trunk", 8, grid), None, q.device)
    found, expected = (attention_statistics(call, out, tokens, which) for which in (by, "plain"))
    for name in ("entropy", "distance", "prefix", "peak", "logit", "received"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6, msg=name)
    assert found.error < most and expected.error < most
    # A control: of an output that is wrong in one row, the error is what the matrix says, and not small.
    out[1, 2, 7] += 1
    wrong, right = (attention_statistics(call, out, tokens, which).error for which in (by, "plain"))
    assert wrong == pytest.approx(right, rel=most) and right > 0.5

"""The kernel of attention: which one takes a call, why others do not, and that a named one never falls back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from diagnostics import DiagnosticsError
from diagnostics.encoders.attention import kernel_choice
from diagnostics.encoders.attention.kernel_choice import attention_in, explain_attention
from diagnostics.vocabulary import Kernel
from tests.support.refusals import refusal


def explained(kernel: Kernel, forward: Callable[[], Any]) -> str:
    return explain_attention(kernel, forward, "mine", "--compute bf16")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 4, 16, 8)), generator=torch.Generator().manual_seed(0))


def plain() -> Tensor:
    return attend(drawn(), drawn(), drawn())


def dropped() -> Tensor:
    return attend(drawn(), drawn(), drawn(), dropout_p=0.1)


def of_other_width() -> Tensor:
    return attend(drawn(), drawn(), value=drawn(2, 4, 16, 4))


def masked() -> Tensor:
    """A mask that learns, which torch's kernel on a CPU refuses without a word."""
    return attend(drawn(), drawn(), drawn(), attn_mask=torch.zeros(16, 16, requires_grad=True))


def layer() -> Tensor:
    """torch's own, which in eval mode and without gradients is one kernel by itself."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()(drawn(2, 16, 8))


# What runs on a CPU


def test_auto_says_what_ran_and_why_faster_ones_did_not() -> None:
    def forward() -> None:
        plain(), plain(), dropped()

    said = explained("auto", forward)
    assert said.startswith(
        "flash (2 calls); math (1 call), since flash: Both fused kernels do not support non-zero dropout;"
    )
    assert said.endswith("cudnn and efficient: torch has no such kernel for cpu")
    assert explained("auto", lambda: None) == ""


@pytest.mark.parametrize(
    ("kernel", "forward", "reason"),
    [
        ("flash", dropped, "Both fused kernels do not support non-zero dropout"),
        ("flash", of_other_width, "requires q,k,v to have the same last dimension"),
        ("flash", masked, "torch does not say why, of a call with a mask"),
        ("cudnn", plain, "torch has no such kernel for cpu"),
        ("efficient", plain, "torch has no such kernel for cpu"),
    ],
)
def test_a_named_kernel_that_cannot_is_an_error_with_torchs_reason(
    kernel: Kernel, forward: Callable[[], Any], reason: str
) -> None:
    with pytest.raises(DiagnosticsError) as raised:
        explained(kernel, forward)
    said = str(raised.value)
    assert said.startswith(f"The {kernel} kernel refuses the attention of mine (")
    assert reason in said
    assert said.endswith("): give --attention auto.")
    assert "Triggered" not in said
    # And without that pass beforehand, nothing else steps in.
    with (
        pytest.raises(
            DiagnosticsError, match=rf"{kernel} kernel refuses attention that did not occur in the first pass"
        ),
        attention_in(kernel),
    ):
        forward()
    with pytest.raises(RuntimeError, match="of another kind"), attention_in(kernel):
        raise RuntimeError("of another kind")


@pytest.mark.parametrize("kernel", ["flash", "math"])
@pytest.mark.parametrize("forward", [plain, layer])
def test_a_named_kernel_is_the_one_that_runs(kernel: Kernel, forward: Callable[[], Tensor]) -> None:
    assert explained(kernel, forward) == ""
    with attention_in(kernel), kernel_choice._Operators() as ran:
        out = forward()
    assert ran.kernel == kernel
    torch.testing.assert_close(out, forward())
    assert torch.backends.mha.get_fastpath_enabled()


def test_it_holds_in_the_backward_pass_too() -> None:
    """Of what is computed once more there."""
    q = drawn().requires_grad_()
    with attention_in("flash"):
        out = torch.utils.checkpoint.checkpoint(lambda q: attend(q, q, q), q, use_reentrant=False)
        with kernel_choice._Operators() as ran:
            out.sum().backward()
    assert ran.kernel == "flash"


def test_no_attention_to_choose_a_kernel_for_is_an_error() -> None:
    def spelled_out() -> Tensor:
        return (drawn() @ drawn().mT).softmax(-1) @ drawn()

    with refusal("no-kernel", "flash"):
        explained("flash", spelled_out)


def test_the_pass_leaves_random_states_as_they_were() -> None:
    before = torch.get_rng_state()
    explained("auto", dropped)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_of_the_model_is_no_refusal() -> None:
    with pytest.raises(RuntimeError, match="must match"):
        explained("math", lambda: attend(drawn(), drawn(), drawn(), drawn(3, 3)))


# What a GPU says (torch 2.4 to 2.13, sdp_utils.cpp)

ON_A_GPU = [
    "Memory efficient kernel not used because: (Triggered internally at ../aten/src/ATen/x.cpp:773.)",
    "Memory Efficient attention has been runtime disabled. (Triggered internally at ../aten/src/ATen/x.h:558.)",
    "Flash attention kernel not used because: (Triggered internally at ../aten/src/ATen/x.cpp:775.)",
    "Expected query, key and value to all be of dtype: {Half, BFloat16}. Got Query dtype: float, Key dtype: float, and\n"
    "Value dtype: float instead. (Triggered internally at ../aten/src/ATen/x.h:98.)",
    "cuDNN attention kernel not used because: (Triggered internally at ../aten/src/ATen/x.cpp:777.)",
    "cuDNN attention has been runtime disabled. (Triggered internally at ../aten/src/ATen/x.cpp:500.)",
]


def test_of_all_that_torch_says_the_reason_is_that_of_one_kernel() -> None:
    reason = kernel_choice._reason("flash", ON_A_GPU)
    assert reason == (
        "Expected query, key and value to all be of dtype: {Half, BFloat16}. Got Query dtype: float, Key dtype: float, and Value "
        "dtype: float instead"
    )
    assert kernel_choice._reason("cudnn", ON_A_GPU) == "cuDNN attention has been runtime disabled"


def test_where_the_type_is_in_the_way_half_precision_is_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "_refusal", lambda kernel, call: kernel_choice._reason(kernel, ON_A_GPU))
    with refusal("no-kernel"):
        explained("flash", plain)

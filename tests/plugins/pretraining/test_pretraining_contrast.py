"""The contrast is open_clip's and the equation's, in one process and in two."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("open_clip")

from diagnostics_pretraining import losses
from diagnostics_pretraining.losses import clamp_scale, contrast
from diagnostics_pretraining.objective import equal_texts
from diagnostics_training.trainer.objective import world
from open_clip.loss import ClipLoss

from tests.support.two_processes import end_two, start_two

PAIRS, WIDTH = 12, 7


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    images, texts = torch.randn(2, PAIRS, WIDTH, dtype=torch.float64)
    return tuple(part.to(dtype).requires_grad_() for part in (images, texts, torch.tensor(math.log(1 / 0.07))))  # type: ignore[return-value]  (three)


def reference(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """The equation, a pair at a time."""
    loss = images.new_zeros(())
    for anchors, others in ((images, texts), (texts, images)):
        for i in range(PAIRS):
            cosines = [anchors[i] @ other / anchors[i].norm() / other.norm() for other in others]
            logits = log_scale.exp() * torch.stack(cosines)
            loss = loss - (logits[i] - logits.exp().sum().log()) / (2 * PAIRS)
    return loss


def open_clip(images: Tensor, texts: Tensor, log_scale: Tensor, **options: Any) -> Tensor:
    normed = [nn.functional.normalize(part, dim=-1) for part in (images, texts)]
    return ClipLoss(**options)(*normed, log_scale.exp())


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize(("other", "dtype"), [(open_clip, torch.float32), (reference, torch.float64)])
def test_it_is_the_loss_of_open_clip_and_of_the_equation(other: Any, dtype: torch.dtype) -> None:
    ours, theirs = contrast(*drawn()), other(*drawn(dtype))
    assert abs(float(ours.detach()) - float(theirs.detach())) < 1e-6
    one, two = drawn(), drawn(dtype)
    for a, b in zip(gradients(contrast(*one), *one), gradients(other(*two), *two), strict=True):
        assert float((a - b).abs().max()) < 1e-6
        assert float(b.abs().max()) > 1e-3


def of_two(folder: str) -> None:
    """Each of two processes has half of the pairs; called in subprocesses."""
    with world("cpu") as where:
        whole = drawn()
        half = slice(where.rank * PAIRS // 2, (where.rank + 1) * PAIRS // 2)
        inputs = [part.detach()[half].clone().requires_grad_() for part in whole[:2]]
        inputs.append(whole[2].detach().clone().requires_grad_())
        theirs = ClipLoss(local_loss=True, gather_with_grad=True, rank=where.rank, world_size=where.size)
        normed = [nn.functional.normalize(part, dim=-1) for part in inputs[:2]]
        losses = contrast(*inputs), theirs(*normed, inputs[2].exp())
        results = [{"loss": loss.detach(), "gradients": gradients(loss, *inputs)} for loss in losses]
        torch.save(results, Path(folder) / f"{where.rank}.pt")


def test_two_processes_give_the_whole_batchs_loss_and_gradients(tmp_path: Path, warm_python: Path) -> None:
    end_two(start_two(warm_python, __file__, f"of_two({str(tmp_path)!r})"))
    ours, theirs = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)), strict=True)
    one = drawn()
    whole = contrast(*one)
    wanted = gradients(whole, *one)
    for both in (ours, theirs):
        assert abs(float(sum(part["loss"] for part in both) / 2) - float(whole.detach())) < 1e-6
        # Data parallelism averages what each process has for its own rows.
        images, texts = (torch.cat([part["gradients"][i] for part in both]) / 2 for i in (0, 1))
        scale = sum(part["gradients"][2] for part in both) / 2
        for a, b in zip((images, texts, scale), wanted, strict=True):
            assert float((a - b).abs().max()) < 1e-6


def test_blocks_give_the_same_and_keep_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = drawn(), drawn()
    whole = contrast(*one)
    # Twelve pairs in blocks of five, five and two.
    monkeypatch.setattr(losses, "BLOCK", 5 * PAIRS)
    kept: list[int] = []

    def packed(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        blocked = contrast(*two)
    assert max(kept) == PAIRS * WIDTH < PAIRS**2
    assert float(blocked.detach()) == pytest.approx(float(whole.detach()), abs=1e-6)
    for ours, theirs in zip(gradients(blocked, *two), gradients(whole, *one), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_the_scale_stays_at_100_and_comes_back_from_there() -> None:
    log_scale = nn.Parameter(torch.tensor(5.0))
    clamp_scale(log_scale)
    assert float(log_scale.detach().exp()) == pytest.approx(100)
    images, texts, _ = drawn()
    assert float(gradients(contrast(images, texts, log_scale), log_scale)[0]) > 0
    with torch.no_grad():
        log_scale.fill_(1.0)
    clamp_scale(log_scale)
    assert float(log_scale.detach()) == 1.0


def test_under_autocast_the_products_are_those_of_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrast(*drawn()).detach()
    assert float(inside) == float(contrast(*drawn()).detach())


def test_equal_texts_are_counted() -> None:
    tokens = torch.tensor([[1, 2], [1, 3], [1, 2], [4, 4], [1, 2], [4, 4]])
    assert equal_texts(tokens) == 5
    assert equal_texts(tokens[:2]) == 0

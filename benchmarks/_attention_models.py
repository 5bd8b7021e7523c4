"""(e) A training step of timm's Perception Encoder, and taking all its taps with statistics of attention and without."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from _attention_cases import Shape, Table, extra_memory, in_turn, is_gpu, milliseconds, projected
from _attention_speed import compiled_or_none
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diagnostics import Grid, Site, Tap, TorchEncoder, stack_taps
from diagnostics.encoders.attention import Tokens, attention_statistics, of_matrix
from diagnostics.encoders.attention.capture import FusedCall, OfCall
from diagnostics.encoders.modules import computing


@dataclass(frozen=True)
class Model:
    """One of timm's, with random weights: what it computes costs the same."""

    name: str
    image: int
    patch: int
    options: tuple[tuple[str, Any], ...] = ()

    def build(self, device: str) -> nn.Module:
        torch.manual_seed(0)
        model = timm.create_model(self.name, num_classes=0, img_size=self.image, **dict(self.options))
        return model.to(device)

    @property
    def grid(self) -> tuple[int, int]:
        return self.image // self.patch, self.image // self.patch


LARGE = Model("vit_pe_core_large_patch14_336", 336, 14)
GIANT = Model("vit_pe_core_gigantic_patch14_448", 448, 14)
TINY = Model("vit_pe_core_tiny_patch16_384", 128, 16, (("depth", 1),))
SMALLEST = Model("vit_pe_core_tiny_patch16_384", 32, 16, (("depth", 1),))
LONGER = Model("vit_pe_core_tiny_patch16_384", 384, 16)
BATCHES = (256, 192, 128, 96, 64, 48, 32, 16, 8, 4)


def time_training(device: str, model: Model, rounds: int, table: Table, batch: int = 0, compiles: bool = True) -> None:
    """(e) A step of AdamW in bf16: eager, compiled, and with activations recomputed, at `batch` images or as many as fit.

    On a GPU the compiled step must reach half of the FLOP/s of part (a).
    """
    module = model.build(device).train()
    optimiser = torch.optim.AdamW(module.parameters(), fused=is_gpu(device))
    batch = batch or _largest(module, optimiser, model, device)
    images = torch.randn(batch, 3, model.image, model.image, device=device)
    # With gradients, without which torch's counter fails at a parameter that is an input.
    with FlopCounterMode(display=False) as counted:
        module(images[:1])
    operations = 3 * counted.get_total_flops() * batch

    took, memory = {}, {}
    for how in ("eager", "recomputed", *(["compiled"] if compiles else [])):
        module.set_grad_checkpointing(how == "recomputed")  # type: ignore[operator]  # a method of timm's models
        forward: Any = module
        if how == "compiled":
            forward = compiled_or_none(module, lambda compiled: _step(compiled, module, optimiser, images))
        if forward is None:
            continue
        run = lambda _, forward=forward: _step(forward, module, optimiser, images)  # noqa: E731  (named for what follows)
        took |= in_turn({how: run}, device, rounds)
        memory[how] = extra_memory(lambda run=run: run(0), device)
    print(f"e  {model.name} at {model.image}, {batch} images: {milliseconds(took)}", flush=True)
    for how, seconds in took.items():
        rate, extra = operations / seconds, memory[how] / 2**30
        table.note("e", f"training step, {batch} images, {how}", f"{1e3 * seconds:.4g} ms")
        table.note("e", "  its operations and extra memory", f"{rate / 1e12:.3g} TFLOP/s, {extra:.3g} GiB")
        if is_gpu(device) and how == "compiled":
            table.hold("e", "compiled step to the product's rate", rate / table.ceiling, 0.5, at_least=True)
    alone = _time_parts(module, model, batch, device, rounds)
    for name, seconds in alone.items():
        table.note("e", f"share of {name} in the eager step", f"{seconds / took['eager']:.2g}")


def _step(
    forward: Callable[[Tensor], Tensor], module: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor
) -> None:
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16):
        out = forward(images)
    out.float().square().mean().backward()
    optimiser.step()


def _largest(module: nn.Module, optimiser: torch.optim.Optimizer, model: Model, device: str) -> int:
    """The first of `BATCHES` of which a step fits the GPU, with a tenth of it left for what a compiled one needs beside."""
    whole = torch.cuda.get_device_properties(device).total_memory
    for batch in BATCHES:
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            _step(module, module, optimiser, torch.randn(batch, 3, model.image, model.image, device=device))
            if torch.cuda.max_memory_allocated() < 0.9 * whole:
                return batch
        except torch.OutOfMemoryError:
            optimiser.zero_grad(set_to_none=True)
    return BATCHES[-1]


def _time_parts(module: nn.Module, model: Model, batch: int, device: str, rounds: int) -> dict[str, float]:
    """Seconds a step for RoPE, norms and scaled layers by themselves, forward and backward: one of each, times their number."""
    blocks: Sequence[Any] = list(module.blocks)  # type: ignore[arg-type]  # of every model here
    heads, features = blocks[0].attn.num_heads, blocks[0].norm1.weight.numel()
    shape = Shape("", model.grid, 1, heads, features // heads)
    # Between blocks float32, within them bf16.
    x = torch.randn(batch, shape.tokens, features, device=device, requires_grad=True)
    y = x.detach().bfloat16().requires_grad_()
    q = projected(shape, device, torch.bfloat16, samples=batch)[0].detach().requires_grad_()
    angles: Tensor = module.rope.get_embed()  # type: ignore[union-attr, operator]  # the same
    norms = sum(isinstance(m, nn.LayerNorm) and m.weight.numel() == features for m in module.modules())
    scales = 2 * sum(block.gamma_1 is not None for block in blocks)
    gamma = torch.ones(features, device=device, requires_grad=True)

    def turned(q: Tensor) -> Tensor:
        return torch.cat([q[:, :, :1], apply_rot_embed_cat(q[:, :, 1:], angles)], dim=2).type_as(q)

    def both(part: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with torch.autocast(x.device.type, torch.bfloat16):
            out = part(x)
        out.backward(torch.ones_like(out))

    runs: dict[str, Callable[[int], Any]] = {
        "RoPE": lambda _: both(turned, q),
        "norms": lambda _: both(blocks[0].norm1, x),
        "LayerScale": lambda _: both(lambda y: gamma * y, y),
    }
    times = in_turn(runs, device, rounds)
    counts = {"RoPE": 2 * len(blocks), "norms": norms, "LayerScale": scales}
    return {f"{counts[name]} x {name}": counts[name] * seconds for name, seconds in times.items()}


class Few:
    """Entropy and distance of each head; as `ReduceAttention`, which would need more packages."""

    def __call__(self, tap: Tap, attention: Tensor) -> Tensor:
        found = of_matrix(attention[..., tap.grid.prefix :, :], tap.grid.prefix, None)
        return found.entropy[..., None]

    def of_call(self, tap: Tap, site: Site, call: FusedCall, out: Tensor) -> OfCall:
        found = attention_statistics(call, out, Tokens.of(tap, site, out.device))
        return OfCall(torch.stack([found.entropy, found.distance], -1), found.error, found.padding)


def time_extraction(
    device: str, model: Model, samples: int, batch: int, rounds: int, table: Table, limit: float | None
) -> None:
    """Means of all taps of some samples, in one pass, beside that and the pass with statistics of attention."""
    module = model.build(device).eval()
    blocks: Sequence[Any] = list(module.blocks)  # type: ignore[arg-type]  # of every model here
    prefix = int(module.num_prefix_tokens)  # type: ignore[arg-type]  # the same
    features = blocks[0].norm1.weight.numel()
    encoder = TorchEncoder(
        model.name,
        "image",
        module,
        stack_taps("blocks", len(blocks), features, Grid(model.grid, ("y", "x"), prefix)),
        preprocess=torch.from_numpy,
        example=np.zeros((3, model.image, model.image), np.float32),
    )
    parts = math.ceil(samples / batch)
    images = torch.randn(batch, 3, model.image, model.image, device=device)

    def capture(_: int) -> None:
        for _part in range(parts):
            encoder.capture(images, reduce=lambda _, x: x.float().mean(1))

    def watch(_: int) -> None:
        for _part in range(parts):
            encoder.attention(images, reduce=Few())

    for compute in ("float32", "bf16") if is_gpu(device) else ("float32",):
        with computing(compute, device):
            took = in_turn({"without": capture, "attention": watch}, device, rounds)
        print(f"e  {model.name}, {parts * batch} images, {compute}: {milliseconds(took)}", flush=True)
        table.note(
            "e",
            f"pass with statistics to one that takes all taps, {compute}",
            f"{took['attention'] / took['without']:.3g}",
        )
        what = f"extraction and that pass to extraction alone, {compute}"
        ratio = 1 + took["attention"] / took["without"]
        if limit is None:
            table.note("e", what, f"{ratio:.3g}")
        else:
            table.hold("e", what, ratio, limit)

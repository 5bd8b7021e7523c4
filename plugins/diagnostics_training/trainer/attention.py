"""Attention while training: the kernel that computes it, told once, and how sharp each head's is, every so many steps.

A head whose entropy falls to nothing, or whose logits grow without end, comes before many a loss that diverges (Zhai et al.,
Stabilizing transformer training by preventing attention entropy collapse, arXiv 2303.06296; Dehghani et al., arXiv 2302.05442).
"""

from collections.abc import Callable

import torch

from diagnostics import DiagnosticsError
from diagnostics.encoders.head_watch import watch_heads
from diagnostics.encoders.kernels import explain_attention
from diagnostics_training.trainer.monitor import looking
from diagnostics_training.trainer.objective import Batch, Objective
from diagnostics_training.trainer.settings import Settings


def check_attention(
    objective: Objective, batch: Batch, settings: Settings, name: str, tell: Callable[[str], None]
) -> None:
    """The forward pass of the first step, once before it: tells which kernel `auto` comes to.

    Raises where the named one cannot compute the pass, and where attention is to be watched that cannot be seen. Buffers and
    random states are afterwards as before.
    """
    device = next(objective.parameters()).device.type
    before = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    try:
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16"):
            # Not as a call, which would be the compiled one.
            ran = explain_attention(settings.attention, lambda: objective.forward(batch), name, "--precision bf16")
    finally:
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)
    if ran:
        tell(f"{name}: attention in {ran}")
    if settings.watch_attention and not see_heads(objective, batch, settings):
        raise DiagnosticsError(
            f"The output of {name} comes from no call of torch's scaled_dot_product_attention, so no head can be watched: leave "
            "--watch-attention out."
        )


def see_heads(objective: Objective, batch: Batch, settings: Settings) -> dict[str, float]:
    """Scalars to log of the pass to the objective's output: `attention/BLOCK/entropy/HEAD`, `.../logit/HEAD`, `.../keys`.

    Blocks are attentions in the order in which they are computed.
    """
    with looking(objective, settings):
        blocks = watch_heads(lambda: objective.output(batch))
    scalars: dict[str, float] = {}
    for i, seen in enumerate(blocks):
        scalars[f"attention/{i}/keys"] = seen.keys
        for kind, values in (("entropy", seen.entropy), ("logit", seen.logit)):
            scalars |= {f"attention/{i}/{kind}/{head}": value for head, value in enumerate(values.tolist())}
    return scalars

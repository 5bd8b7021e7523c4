"""The cost of a pass over an encoder's example, up to each of its taps."""

from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import wanting_gradients
from diagnostics.encoders.torch_encoder import TorchEncoder


def count_flops(encoder: Encoder, taps: Sequence[str] = ()) -> dict[str, int]:
    """FLOPs until each of the taps fires, and under "" those of the pass.

    Matrix products, convolutions and attention, with 2 for a multiplication and an addition.

    Empty where the counter cannot follow the pass. Recurrent layers that run in one kernel count nothing.
    """
    if not isinstance(encoder, TorchEncoder):
        return {}
    fast = torch.backends.mha.get_fastpath_enabled()
    # Kernels for whole layers, and fused ones for attention on a CPU, would count as nothing.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        batch = default_collate([encoder.preprocess(encoder.example())])
        # Torch's counter cannot follow a parameter that a layer is given as its input and that wants a gradient.
        with (
            wanting_gradients(encoder.module, False),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            until = encoder.capture(batch, taps, lambda *_: counter.get_total_flops())
        return {**{tap: int(each) for tap, each in until.items()}, "": int(counter.get_total_flops())}
    except Exception:
        return {}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

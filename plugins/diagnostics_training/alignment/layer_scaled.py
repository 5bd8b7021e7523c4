"""Encoders with LayerScale in their blocks: what an alignment begins with, and what its file is built by."""

from __future__ import annotations

import copy
import math
from urllib.parse import quote

import torch
from torch import nn

from diagnostics import DiagnosticsError, Encoder, TorchEncoder, build
from diagnostics_training.alignment.layer_scale import Block, put_scales, residual_blocks


def scaled(base: Encoder, init: float) -> tuple[TorchEncoder, list[Block]]:
    """A copy of an encoder whose blocks have LayerScale with factors of `init`, and which these are.

    Taps, preprocessing and sizes are the base's; its `skeleton` is `aligned?base=...`.
    """
    if not isinstance(base, TorchEncoder):
        raise DiagnosticsError(f"{base.name} shows no torch module that could be trained: align another encoder.")
    check_start(init)
    blocks = residual_blocks(base)

    def fresh() -> nn.Module:
        other = base.fresh(int(torch.randint(2**31, ())))
        assert isinstance(other, TorchEncoder)
        return put_scales(other.module, blocks, init)

    module = put_scales(copy.deepcopy(base.module), blocks, init)
    spec = f"aligned?base={quote(base.skeleton or base.spec, safe='{}')}&layer_scale={init!r}"
    encoder = base.with_module(module, f"{base.name}-aligned", fresh)
    return encoder.replace(spec=spec, skeleton=spec if base.skeleton else "", lineage={}), blocks


def check_start(init: float) -> None:
    """Raises for factors that LayerScale cannot start at."""
    if not 0 < init < math.inf:
        raise DiagnosticsError(f"LayerScale cannot start at {init}: give a number above 0, as 1.0 or 0.1.")


def built(base: str, init: float) -> TorchEncoder:
    """`scaled` of the encoder that a name builds."""
    return scaled(build("encoder", base), init)[0]

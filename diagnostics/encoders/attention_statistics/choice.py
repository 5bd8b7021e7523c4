"""Which implementation reads a call: chosen by what it can do, and told once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from diagnostics.encoders.attention_statistics.blocks import blocks
from diagnostics.encoders.attention_statistics.plain import plain
from diagnostics.encoders.attention_statistics.statistics import Statistics
from diagnostics.encoders.attention_statistics.tokens import Tokens
from diagnostics.encoders.fused_attention import FusedCall

Implementation = Literal["auto", "plain", "blocks"]

IMPLEMENTATIONS: Mapping[str, Callable[[FusedCall, Tensor, Tokens], Statistics]] = {"plain": plain, "blocks": blocks}


def attention_statistics(call: FusedCall, out: Tensor, tokens: Tokens, by: Implementation = "auto") -> Statistics:
    """Of a call of a fused kernel that gave `out` [B, H, Q, D], where queries and keys are the same tokens."""
    return IMPLEMENTATIONS["blocks" if by == "auto" else by](call, out, tokens)

"""Backbone and head as one module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diagnostics_training.models.backbone import Backbone
from diagnostics_training.models.heads import Head


class Model(nn.Module):
    """`backbone`, and `head` where the objective has one."""

    def __init__(self, backbone: Backbone, head: Head | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Any:
        """Of [B, C, *extent] what the head makes, or the trunk's tokens [B, N, F]."""
        tokens = self.backbone(x)
        return tokens if self.head is None else self.head(tokens, self.backbone.patches.grid(tuple(x.shape[2:])))

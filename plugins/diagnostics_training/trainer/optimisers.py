"""The optimisers by name, over all parameters of an objective that require gradients."""

import importlib.util
from typing import Any

import torch
from torch import nn

from diagnostics import DiagnosticsError
from diagnostics_training.trainer.settings import Settings


def build_optimiser(objective: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser of the settings; no decay where a parameter has fewer than two axes.

    LAMB (You et al., arXiv 1904.00962) is timm's: the trainer alone clips gradients, and what has no decay has no trust ratio.
    Raises DiagnosticsError where nothing requires a gradient, and for LAMB without timm.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not trained:
        raise DiagnosticsError("There is nothing to train: no parameter of the objective requires a gradient.")
    # A mask token and the like are vectors, with leading axes of one.
    decayed = [p for p in trained if sum(n > 1 for n in p.shape) > 1]
    others = [p for p in trained if sum(n > 1 for n in p.shape) <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    if importlib.util.find_spec("timm") is None:
        raise DiagnosticsError("The optimiser lamb is timm's: pip install timm, or leave --optimiser out.")
    from timm.optim.lamb import Lamb

    return Lamb(groups, lr=settings.lr, betas=settings.betas, max_grad_norm=None)

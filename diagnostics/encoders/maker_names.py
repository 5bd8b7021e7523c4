"""What makers call what stands at an encoder's taps, found by comparing the values of one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.encoders.taps import Tap
from diagnostics.encoders.torch_encoder import TorchEncoder

COMPARED = 8
"""Tokens of a tap that are looked for, evenly chosen."""


def last_taps(taps: Sequence[Tap], output_tap: str) -> list[str]:
    """The output tap, what stands behind it, and the tap before it: the ends that are taken for one another."""
    names = [tap.name for tap in taps]
    at = names.index(output_tap)
    return [*names[at:], *names[max(at - 1, 0) : at]]


def names_of_outputs(
    encoder: TorchEncoder, run: Callable[[nn.Module, Any], Mapping[str, Tensor]], taps: Sequence[str]
) -> dict[str, str]:
    """{tap: name} of those taps whose tokens stand in an output that `run`, a pass of the module, gives by that name.

    An output is [sample, token, feature], [sample, feature] or a map with the channels first or last. Of several names for
    the same tap the first stands; nothing is found where two passes differ, or where the example's pass fails.
    """
    outputs: dict[str, Tensor] = {}

    def forward(module: nn.Module, batch: Any) -> None:
        outputs.update({name: value.detach() for name, value in run(module, batch).items()})

    try:
        batch = default_collate([encoder.preprocess(encoder.example())])
        captured = encoder.replace(forward=forward).capture(batch, taps)
    except Exception:  # names are an addition: an encoder without them is whole
        return {}
    names: dict[str, str] = {}
    for name, output in outputs.items():
        tap = next((tap for tap in taps if _holds(output, captured[tap][0])), None)
        if tap is not None:
            names.setdefault(tap, name)
    return names


def _holds(output: Tensor, tokens: Tensor) -> bool:
    """Whether tokens [token, feature] are rows of an output's first sample, and all of them (but for any padding)."""
    features = tokens.shape[-1]
    if not output.is_floating_point() or output.ndim < 2 or features not in (output.shape[-1], output.shape[1]):
        return False
    last = output.shape[-1] == features
    rows = output[0].reshape(-1, features) if last else output[0].flatten(1).T
    if not (len(rows) == len(tokens) or 1 < len(tokens) < len(rows)):
        return False
    some = tokens[torch.linspace(0, len(tokens) - 1, min(COMPARED, len(tokens))).long()].double()
    nearest = torch.cdist(some, rows.double(), compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    return bool((nearest <= 1e-5 * some.norm(dim=1).clamp_min(1e-12)).all())

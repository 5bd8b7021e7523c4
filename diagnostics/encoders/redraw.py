"""A module's weights drawn anew or permuted, in place: which of its numbers are weights, and how many of them changed."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from diagnostics.errors import DiagnosticsError

# In the last two parts of a buffer's name: what is computed once and never learnt.
_TABLE = re.compile(
    r"(?<![a-z])(pos[a-z]*|pe|rope|rotary|inv|freqs?|frequenc(y|ies)|sin|cos|sinusoid[a-z]*|alibi|slopes?|coord[a-z]*|grid|anchors?"
    r"|index|indices|ids|mask[a-z]*|window|mel|fb|dct|mean|std|var)(?![a-z])"
)
_VECTOR = re.compile(r"(^|_)[uv]$")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
POWER_ITERATIONS = 50
"""After which the spectral norm of a random matrix is known to about a percent, from whatever start."""


@dataclass(frozen=True)
class Redrawn:
    """How many of the numbers of a module's weights another one has otherwise, and the names of tensors that it has alike.

    Numbers of parameters, and of buffers that may be weights; statistics and masks do not count. A tensor of one value, as
    biases of 0 before training, is drawn anew as the same, and is not counted as alike.
    """

    numbers: int
    whole: int
    alike: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the numbers; 1 where there are none."""
        return self.numbers / self.whole if self.whole else 1.0


def redrawn(module: nn.Module, other: nn.Module) -> Redrawn:
    """What of a module's numbers another one of its kind has otherwise; names that it lacks are passed over."""
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    own: dict[str, Tensor] = {**dict(module.named_parameters()), **_number_buffers(module)}
    alike = {
        name: tensor.numel()
        for name, tensor in own.items()
        if name in theirs and _several(tensor, 2) and _equal(tensor, theirs[name])
    }
    whole = sum(tensor.numel() for name, tensor in own.items() if name in theirs)
    return Redrawn(whole - sum(alike.values()), whole, tuple(alike))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


def copied(module: nn.Module) -> nn.Module:
    """A copy on the CPU, also of a module that keeps tensors of its last pass with their graph (norms of weights by hooks)."""
    kept = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    memo = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    return copy.deepcopy(module, memo).cpu()


def redraw(module: nn.Module) -> nn.Module:
    """All weights drawn afresh from the global generator, and running statistics forgotten.

    Every module's `reset_parameters` is called; what none of them changes is drawn from a Gaussian with its own mean and
    spread (of integers, rounded and within their own range).
    """
    _refuse_packed(module)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    stored = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        if isinstance(part, nn.modules.batchnorm._NormBase):  # pyright: ignore[reportPrivateUsage]
            part.reset_running_stats()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if torch.equal(parameter, before[name]):
                _draw(parameter)
        weights = _weight_buffers(module)
        for name, buffer in module.named_buffers():
            if not torch.equal(buffer, stored[name]):
                continue
            if name in weights:
                _draw(buffer)
            elif name.endswith("running_mean"):
                buffer.zero_()  # of a norm that is frozen, which has no way to forget
            elif name.endswith("running_var"):
                buffer.fill_(1)
    _settle(module)
    return module


def _draw(tensor: Tensor) -> None:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype == torch.bool or not tensor.numel():
        return
    if tensor.is_floating_point():
        spread = float(tensor.std(correction=0)) if tensor.numel() > 1 else 0.0
        tensor.normal_(float(tensor.mean()), spread)
        return
    values = tensor.double()
    drawn = torch.normal(values.mean().expand(values.shape), values.std(correction=0)).round()
    tensor.copy_(drawn.clamp(values.min(), values.max()))


def permute(module: nn.Module, seed: int) -> nn.Module:
    """The numbers of each weight shuffled within it; running statistics stay."""
    _refuse_packed(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *_weight_buffers(module).values()):
            order = torch.randperm(tensor.numel(), generator=generator)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
    _settle(module)
    return module


def _refuse_packed(module: nn.Module) -> None:
    """Raises where a module keeps weights as what is no tensor, as those of torch's quantised layers are."""
    for name, value in module.state_dict().items():
        if not isinstance(value, (Tensor, torch.dtype)) and not name.endswith("_extra_state"):
            raise DiagnosticsError(
                f"weights at '{name.rpartition('.')[0]}' are packed ({type(value).__name__}), where they cannot be drawn anew: "
                "use the model before it was quantised, or give TorchEncoder fresh=."
            )


def _number_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that may be weights by their numbers: saved, finite, of three values or more, and no statistics.

    Floating point, or integers of 8 bits or under the name of a weight: others are places and counts.
    """
    saved = module.state_dict(keep_vars=True)
    found: dict[str, Tensor] = {}
    for name, buffer in module.named_buffers():
        last = name.rpartition(".")[2]
        real = buffer.is_floating_point() or buffer.is_complex()
        integers = buffer.dtype in (torch.int8, torch.uint8) or (buffer.dtype != torch.bool and "weight" in last)
        if name not in saved or last in _STATISTICS or not (real or integers) or buffer.is_quantized:
            continue
        if ".parametrizations." in f".{name}" or (buffer.ndim == 1 and _VECTOR.search(last)):
            continue  # what a parametrization keeps follows from the weights, or must keep its form
        if _several(buffer, 3) and bool(buffer.isfinite().all()):
            found[name] = buffer
    return found


def _weight_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Those of them that are not tables by their names."""
    found = _number_buffers(module)
    return {name: b for name, b in found.items() if not _TABLE.search(".".join(name.lower().split(".")[-2:]))}


def _several(tensor: Tensor, count: int) -> bool:
    """Whether it holds so many values, 2 or 3."""
    flat = torch.view_as_real(tensor).flatten() if tensor.is_complex() else tensor.flatten()
    if not flat.numel():
        return False
    other = flat != flat[0]
    if count == 2 or not bool(other.any()):
        return bool(other.any())
    return bool((other & (flat != flat[other.int().argmax()])).any())


def _settle(module: nn.Module) -> None:
    """The vectors of spectral norms as they belong to the new weights: power iterations, as in training."""
    with torch.no_grad():
        for part in module.modules():
            hooks: Any = part._forward_pre_hooks.values()  # pyright: ignore[reportPrivateUsage]
            for hook in hooks:
                if isinstance(hook, SpectralNorm):
                    for _ in range(POWER_ITERATIONS):
                        hook.compute_weight(part, do_power_iteration=True)
            if not parametrize.is_parametrized(part):
                continue
            chains: Any = part.parametrizations
            for name, chain in chains.items():
                iterating = [step for step in chain if type(step).__name__ == "_SpectralNorm"]
                modes = [step.training for step in iterating]
                for step in iterating:
                    step.train()
                for _ in range(POWER_ITERATIONS if iterating else 0):
                    getattr(part, name)
                for step, mode in zip(iterating, modes, strict=True):
                    step.train(mode)


def layer_scales(module: nn.Module) -> Tensor:
    """All factors of LayerScale in a module, one after the other; none where it has none."""
    found = [
        parameter.detach().flatten().float()
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if _is_scale(type(part).__name__.lower(), name.lower())
    ]
    return torch.cat(found) if found else torch.empty(0)


def _is_scale(kind: str, name: str) -> bool:
    """A module of that name (timm, transformers), or its factors in the block itself (BEiT, ConvNeXt, CaiT)."""
    if "layerscale" in kind:
        return True
    own = re.fullmatch(r"(gamma|lambda)_\d|layer_?scale\w*", name) is not None
    return "norm" not in kind and (own or name == "gamma")


def note_of(module: nn.Module, other: nn.Module, verb: str, scales: bool = False) -> tuple[Redrawn, str]:
    """What of a module's weights a control of it has otherwise, and that in words where it is not all.

    With `scales`, where the control's LayerScale begins too.
    """
    found = redrawn(module, other)
    parts: list[str] = []
    if found.alike:
        few = ", ".join(found.alike[:3]) + (", ..." if len(found.alike) > 3 else "")
        parts.append(f"{_percent(found.share)} of the encoder's numbers are {verb}, not {few}")
    factors, trained = layer_scales(other), layer_scales(module)
    if scales and len(factors):
        low, high = f"{float(factors.min()):.3g}", f"{float(factors.max()):.3g}"
        begins = f"at {low}" if low == high else f"between {low} and {high}"
        own = f" ({float(trained.abs().mean()):.3g} on average in the encoder)" if len(trained) else ""
        parts.append(f"its LayerScale begins {begins}{own}, and how much a block adds follows from that")
    return found, "; ".join(parts)


def _percent(share: float) -> str:
    """Never 100 % for less."""
    return f"{min(share, 0.99999):.3%}" if share > 0.999 else f"{share:.1%}"

"""Redraws or permutes a module's weights in place, counts how many changed, and finds those that no control draws.

Those lie beside a module's parameters and saved buffers, and are found by what a pass reads. An array of numpy that
each pass makes a tensor of is not seen: it cannot be told from a constant.
"""

import copy
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    """The share of weights that differ between two modules, and the names of the tensors that are equal.

    Weights are the numbers of parameters, and of buffers that may be weights; statistics and masks do not count. A
    constant tensor (biases of 0 before training) is redrawn with the same value, and does not count as equal.
    """

    numbers: int
    whole: int
    alike: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the weights that differ; 1 where there are none."""
        return self.numbers / self.whole if self.whole else 1.0


def compare_weights(
    module: nn.Module,
    other: nn.Module,
    hidden: Mapping[str, Tensor],
    other_hidden: Mapping[str, Tensor],
) -> Redrawn:
    """Compare the weights of two modules of the same kind, and what of each lies beside.

    Names that only one of them has are ignored.
    """
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers()), **other_hidden}
    own: dict[str, Tensor] = {**dict(module.named_parameters()), **_number_buffers(module), **hidden}
    alike = {
        name: tensor.numel()
        for name, tensor in own.items()
        if name in theirs and _several(tensor, 2) and _equal(tensor, theirs[name])
    }
    whole = sum(tensor.numel() for name, tensor in own.items() if name in theirs)
    return Redrawn(whole - sum(alike.values()), whole, tuple(alike))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())


def copy_of(module: nn.Module) -> nn.Module:
    """A copy on the CPU, also of a module that keeps tensors of its last pass with their graph (weight norms)."""
    kept = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    memo = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    return copy.deepcopy(module, memo).cpu()


def redraw(module: nn.Module) -> nn.Module:
    """Redraws all weights from the global generator and resets running statistics, in place; returns the module.

    Every module's `reset_parameters` is called; a tensor that none of them changes is drawn from a Gaussian with its
    own mean and standard deviation (integers are rounded, and stay within their range). Raises DiagnosticsError for
    packed weights.
    """
    _refuse_packed(module)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    stored = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for part in module.modules():
        for name in ("reset_parameters", "reset_running_stats"):
            reset = getattr(part, name, None)
            if callable(reset):
                reset()
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
                buffer.zero_()  # of a frozen norm, which has no reset_running_stats
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
        tensor.normal_(float(tensor.mean()), float(tensor.std(correction=0)) if tensor.numel() > 1 else 0.0)
        return
    values = tensor.double()
    drawn = torch.normal(values.mean().expand(values.shape), values.std(correction=0)).round()
    tensor.copy_(drawn.clamp(values.min(), values.max()))


def permute(module: nn.Module, seed: int) -> nn.Module:
    """Shuffles the numbers within each weight tensor, in place; returns the module. Running statistics stay.

    Raises DiagnosticsError for packed weights.
    """
    _refuse_packed(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *_weight_buffers(module).values()):
            tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor))
    _settle(module)
    return module


def _refuse_packed(module: nn.Module) -> None:
    """Raise where a module keeps weights as what is no tensor, as those of torch's quantised layers are."""
    for name, value in module.state_dict().items():
        if not isinstance(value, (Tensor, torch.dtype)) and not name.endswith("_extra_state"):
            raise DiagnosticsError(
                f"weights at '{name.rpartition('.')[0]}' are packed ({type(value).__name__}), so they cannot be "
                f"redrawn: use the model before it was quantised, or give TorchEncoder fresh=.",
                code="no-control",
            )


def _number_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that may be weights by their numbers: saved, finite, of three values or more, and no statistics."""
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in saved and may_be_weights(buffer, name)}


def may_be_weights(tensor: Tensor, name: str) -> bool:
    """Test for numbers that may be weights: finite, of three values or more, and no statistics by their name."""
    last = name.rpartition(".")[2]
    real = tensor.is_floating_point() or tensor.is_complex()
    # Other integers are places and counts.
    integers = tensor.dtype in (torch.int8, torch.uint8) or (tensor.dtype != torch.bool and "weight" in last)
    if last in _STATISTICS or not (real or integers) or tensor.is_quantized:
        return False
    if ".parametrizations." in f".{name}" or (tensor.ndim == 1 and _VECTOR.search(last)):
        return False  # what a parametrization keeps follows from the weights, or must keep its form
    return _several(tensor, 3) and bool(tensor.isfinite().all())


def is_table(name: str) -> bool:
    """Test for the name of what is computed once and never learnt."""
    return _TABLE.search(".".join(name.lower().split(".")[-2:])) is not None


def _weight_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Those of them that are not tables by their names."""
    return {name: buffer for name, buffer in _number_buffers(module).items() if not is_table(name)}


def _several(tensor: Tensor, count: int) -> bool:
    """True if it holds so many values, 2 or 3."""
    flat = torch.view_as_real(tensor).flatten() if tensor.is_complex() else tensor.flatten()
    if not flat.numel():
        return False
    other = flat != flat[0]
    if count == 2 or not bool(other.any()):
        return bool(other.any())
    return bool((other & (flat != flat[other.int().argmax()])).any())


def _settle(module: nn.Module) -> None:
    """The vectors of spectral norms as they belong to the new weights: power iterations, as in training."""
    part: Any  # torch shows the hooks of a module nowhere in public
    with torch.no_grad():
        for part in module.modules():
            for hook in part._forward_pre_hooks.values():
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
    """All LayerScale factors in a module, concatenated; empty where it has none."""
    factors = [
        parameter.detach().flatten().float()
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if _is_scale(type(part).__name__.lower(), name.lower())
    ]
    return torch.cat(factors) if factors else torch.empty(0)


def _is_scale(kind: str, name: str) -> bool:
    """A module of that name (timm, transformers), or its factors in the block itself (BEiT, ConvNeXt, CaiT)."""
    if "layerscale" in kind:
        return True
    own = re.fullmatch(r"(gamma|lambda)_\d|layer_?scale\w*", name) is not None
    return "norm" not in kind and (own or name == "gamma")


def note_of(module: nn.Module, other: nn.Module, difference: Redrawn, verb: str, scales: bool = False) -> str:
    """A remark for reports on a control encoder where not all of its weights differ from the module's.

    `verb` is what was done to them. With `scales`, the remark also says at which values the control's LayerScale
    begins.
    """
    parts: list[str] = []
    if difference.alike:
        few = ", ".join(difference.alike[:3]) + (", ..." if len(difference.alike) > 3 else "")
        parts.append(f"{_percent(difference.share)} of the encoder's numbers are {verb}, not {few}")
    factors, trained = layer_scales(other), layer_scales(module)
    if scales and len(factors):
        low, high = f"{float(factors.min()):.3g}", f"{float(factors.max()):.3g}"
        begins = f"at {low}" if low == high else f"between {low} and {high}"
        own = f" ({float(trained.abs().mean()):.3g} on average in the encoder)" if len(trained) else ""
        parts.append(f"its LayerScale starts {begins}{own}, which sets how much a block adds")
    return "; ".join(parts)


def _percent(share: float) -> str:
    """Never 100 % for less."""
    return f"{min(share, 0.99999):.3%}" if share > 0.999 else f"{share:.1%}"


class HiddenReads(TorchDispatchMode):
    """A context in which a module's pass is watched for tensors that come from outside.

    It reads them, and they are neither made in it nor known.

    Known are parameters, saved buffers and what is given. `weights` are those that may be weights by their numbers and
    name: name -> tensor.
    """

    def __init__(self, module: nn.Module, given: Any) -> None:
        super().__init__()
        self.weights: dict[str, Tensor] = {}
        self._known = set(_places([module.state_dict(keep_vars=True), [*module.parameters()], given]))
        self._module = module

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        """Names of all that parts of the module keep, by their memory."""
        parts = {
            name: {**vars(part), **dict(part.named_buffers(recurse=False))}
            for name, part in self._module.named_modules()
        }
        names = {f"{name}.{key}".lstrip("."): value for name, kept in parts.items() for key, value in kept.items()}
        return {place: name for name, value in names.items() for place in _places(value)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A constant that the pass makes is given to one function, which lifts it.
        given = {} if "lift_fresh" in str(func) else _places((args, kwargs))
        for place in given.keys() - self._known:
            tensor, shape = given[place], " x ".join(map(str, given[place].shape))
            name = self._names.get(place, f"a tensor of {shape} outside the module")
            if may_be_weights(tensor, name) and not is_table(name):
                self.weights[name if name not in self.weights else f"{name} ({len(self.weights)})"] = tensor.clone()
        made = func(*args, **(kwargs or {}))
        self._known |= given.keys() | _places(made).keys()
        return made


def _places(value: object) -> dict[int, Tensor]:
    """Tensors in containers, and in modules that lie in them, by their memory, which views share."""
    leaves = tree_leaves(value)
    leaves += [
        tensor for leaf in leaves if isinstance(leaf, nn.Module) for tensor in leaf.state_dict(keep_vars=True).values()
    ]
    return {leaf.untyped_storage().data_ptr(): leaf for leaf in leaves if isinstance(leaf, Tensor)}

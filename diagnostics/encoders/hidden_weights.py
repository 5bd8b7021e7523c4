"""Weights that no control draws, since they lie beside a module's parameters and saved buffers: found by what a pass reads.

An array of numpy that each pass makes a tensor of is not seen: it cannot be told from a constant.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diagnostics.encoders.redraw import is_table, may_be_weights


class HiddenReads(TorchDispatchMode):
    """A context in which a module's pass is watched for tensors that it reads, and that are neither made in it nor known.

    Known are parameters, saved buffers and what is given. `weights` are those that may be weights by their numbers and name: name -> tensor.
    """

    def __init__(self, module: nn.Module, given: Any) -> None:
        super().__init__()
        self._names = _names(module)
        self._seen = {
            _place(tensor) for tensor in _kept([module.state_dict(keep_vars=True), [*module.parameters()], given])
        }
        self.weights: dict[str, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A constant that the pass makes is given to one function, which lifts it.
        for tensor in [] if "lift_fresh" in str(func) else _kept((args, kwargs)):
            if _place(tensor) not in self._seen:
                shape = " x ".join(map(str, tensor.shape))
                name = self._names.get(_place(tensor), f"a tensor of {shape} outside the module")
                self._seen.add(_place(tensor))
                if may_be_weights(tensor, name) and not is_table(name):
                    self.weights[name if name not in self.weights else f"{name}, {len(self.weights)}"] = (
                        tensor.detach().clone()
                    )
        made = func(*args, **(kwargs or {}))
        self._seen |= {_place(tensor) for tensor in _kept(made)}
        return made


def _place(tensor: Tensor) -> int:
    """Of its memory, which views share."""
    return tensor.untyped_storage().data_ptr()


def _kept(value: object) -> list[Tensor]:
    """Tensors in containers, and in modules that lie in them."""
    leaves = tree_leaves(value)
    leaves += [
        tensor for leaf in leaves if isinstance(leaf, nn.Module) for tensor in leaf.state_dict(keep_vars=True).values()
    ]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _names(module: nn.Module) -> dict[int, str]:
    """The names of tensors that a module's attributes keep, by their memory."""
    kept = {
        f"{path}.{key}".lstrip("."): value
        for path, part in module.named_modules()
        for key, value in {**vars(part), **part._buffers}.items()
        if not key.startswith("_")
    }
    return {_place(tensor): name for name, value in kept.items() for tensor in _kept(value)}

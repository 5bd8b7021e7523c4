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
        self.weights: dict[str, Tensor] = {}
        self._known = _places([module.state_dict(keep_vars=True), [*module.parameters()], given]).keys()
        parts = {
            name: {**vars(part), **dict(part.named_buffers(recurse=False))} for name, part in module.named_modules()
        }
        names = {f"{name}.{key}".lstrip("."): value for name, kept in parts.items() for key, value in kept.items()}
        self._names = {place: name for name, value in names.items() for place in _places(value)}

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

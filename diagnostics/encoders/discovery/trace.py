"""Records the input and output of each block in a dry forward pass, in order of execution."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.encoders.evaluating import evaluating
from diagnostics.encoders.hooks import Call, first_tensor, hooked, tensors_in
from diagnostics.encoders.perturbation import Forward
from diagnostics.errors import DiagnosticsError, describe


@dataclass(eq=False)
class Step:
    """One call of a module: the first tensor that it took and gave, as they were at that moment.

    Of a block, `branches` are the activations that it gives side by side, each by its place among all tensors that it
    gives; without those that it hands on unchanged.
    """

    name: str
    call: int
    took: Tensor | None
    gave: Tensor
    branches: dict[int, Tensor] = field(default_factory=dict[int, Tensor])


@dataclass
class Trace:
    """A dry pass: the blocks in order of execution, and every module that ended after the last of them."""

    calls: Counter[str] = field(default_factory=Counter[str])
    blocks: list[Step] = field(default_factory=list[Step])
    tail: list[Step] = field(default_factory=list[Step])
    early: list[str] = field(default_factory=list[str])
    """Modules that ended before the first block began."""
    finals: list[Tensor] = field(default_factory=list[Tensor])
    """All that the pass gave."""
    taken: list[Tensor] = field(default_factory=list[Tensor])
    """All that the first block took."""

    @property
    def entered(self) -> dict[int, Tensor]:
        """The activations that the first block took: of each branch where it takes as many as it gives, else the first."""
        gave = self.blocks[0].branches
        taken = {i: tensor for i, tensor in enumerate(self.taken) if i in gave and tensor.shape == gave[i].shape}
        if list(taken) == list(gave):
            return taken
        # A mask or a bias may stand before the activations, which most blocks hand on in their own shape.
        like = [i for i, tensor in enumerate(self.taken) if tensor.shape == self.blocks[0].gave.shape]
        first = like[0] if like and self.taken[0].shape != self.blocks[0].gave.shape else 0
        return {first: self.taken[first]}


def dry_run(module: nn.Module, blocks: Sequence[str], batch: Any, forward: Forward, encoder: str) -> Trace:
    """The trace of one pass; raises when it fails, or when blocks do not run or run inside one another."""
    trace = Trace()
    samples = len(tensors_in(batch)[0])
    inside = tuple(f"{name}." for name in blocks)
    open_blocks: list[tuple[str, Any, list[Tensor]]] = []
    entering: dict[str, Tensor | None] = {}

    def begin(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name not in blocks and not trace.blocks:
            return
        given = args or tuple(kwargs.values())
        taken = first_tensor(given[:1])
        took = taken.clone() if isinstance(taken, Tensor) else None
        if name not in blocks:
            entering[name] = took
            return
        if open_blocks:
            raise DiagnosticsError(
                f"{encoder} runs {name} inside {open_blocks[-1][0]}: declare its taps yourself (docs/how-to/plugins.md)."
            )
        # What else a block takes (position codes, a map's size, global queries) is no activation of the trunk.
        if not trace.blocks and (took is None or took.ndim < 3):
            raise _several(encoder, name)
        # Cloned, as a later operation may work in place.
        every = [tensor.clone() for tensor in tensors_in(given)]
        if not trace.blocks:
            trace.taken = every
        open_blocks.append((name, took, every))

    def end(call: Call) -> None:
        name = call.name
        number = trace.calls[name]
        trace.calls[name] += 1
        if not trace.blocks and not open_blocks:
            trace.early.append(name)
        if name in blocks:
            _, took, every = open_blocks.pop()
            trace.tail.clear()
            branches = {i: t.clone() for i, t in _branches(call.output, every, name, encoder, samples).items()}
            trace.blocks.append(Step(name, number, took, next(iter(branches.values())), branches))
        elif trace.blocks:
            gave = first_tensor(call.output)
            if isinstance(gave, Tensor):
                trace.tail.append(Step(name, number, entering.pop(name, None), gave.clone()))

    names = [name for name, _ in module.named_modules() if name and not name.startswith(inside)]
    try:
        # Not inference mode: some models keep tables that they make in their first pass.
        with hooked(module, names, begin, end), evaluating(module), torch.no_grad():
            trace.finals = tensors_in(forward(module, batch))
    except DiagnosticsError:
        raise
    except Exception as error:
        raise DiagnosticsError(
            f"{encoder} does not run on an example ({describe(error)}): try another size."
        ) from error
    idle = [name for name in blocks if not trace.calls[name]]
    if idle:
        raise DiagnosticsError(
            f"{encoder} never runs {idle[0]}, which is one of its blocks: declare its taps yourself (docs/how-to/plugins.md)."
        )
    return trace


def _branches(value: Any, taken: Sequence[Tensor], name: str, encoder: str, samples: int) -> dict[int, Tensor]:
    """The activations among what a block gives: its first tensor, and others like it (no recurrent state) that it changed."""
    first = first_tensor(value)
    if not isinstance(first, Tensor) or first.ndim < 3:
        raise _several(encoder, name)
    beside: list[Any] = list(value) if isinstance(value, (tuple, list)) else []  # pyright: ignore
    branches = {
        i: tensor
        for i, tensor in enumerate(tensors_in(value))
        if tensor is first
        or (any(tensor is part for part in beside) and len(tensor) % samples == 0 and _alike(tensor, first))
    }
    if len(branches) > 1:
        branches = {
            i: t for i, t in branches.items() if not any(t.shape == u.shape and torch.equal(t, u) for u in taken)
        }
    return branches or {0: first}


def _alike(tensor: Tensor, first: Tensor) -> bool:
    """Whether it is activations as the first tensor is (other resolutions too), not the square attention beside a map."""
    if not tensor.is_floating_point() or tensor.ndim != first.ndim:
        return False
    large, small = max(first.shape[-1], tensor.shape[-1]), min(first.shape[-1], tensor.shape[-1])
    return first.ndim == 3 or tensor.shape[-1] != tensor.shape[-2] or large % small == 0


def _several(encoder: str, name: str) -> DiagnosticsError:
    return DiagnosticsError(
        f"{encoder} ({name} does not pass on a tensor of activations first) cannot be tapped automatically: declare its "
        "taps yourself (docs/how-to/plugins.md)."
    )

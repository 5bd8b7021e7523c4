"""One dry forward pass with its blocks watched: what goes in and comes out, in order of execution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.errors import DiagnosticsError, said
from diagnostics.taps import first_tensor


@dataclass
class Step:
    """One call of a module: the first tensor that it took and gave, as they were at that moment."""

    name: str
    call: int
    took: Tensor | None
    gave: Tensor


@dataclass
class Trace:
    """What a dry pass showed: the blocks in order of execution, and every module that ended after the last of them."""

    calls: Counter[str] = field(default_factory=Counter[str])
    blocks: list[Step] = field(default_factory=list[Step])
    tail: list[Step] = field(default_factory=list[Step])
    final: Tensor | None = None

    @property
    def entered(self) -> Tensor:
        """What the first block took."""
        took = self.blocks[0].took
        assert took is not None
        return took


def dry_run(
    module: nn.Module, blocks: Sequence[str], batch: Any, forward: Callable[[nn.Module, Any], Any], encoder: str
) -> Trace:
    """The trace of one pass; raises when it fails, or when blocks do not run or run inside one another."""
    trace = Trace()
    inside = tuple(f"{name}." for name in blocks)
    open_blocks: list[tuple[str, Any]] = []
    entering: dict[str, Tensor | None] = {}
    handles: list[Any] = []

    def before(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in blocks and not trace.blocks:
                return
            taken = first_tensor((args or tuple(kwargs.values()))[:1])
            took = taken.clone() if isinstance(taken, Tensor) else None
            if name not in blocks:
                entering[name] = took
                return
            if open_blocks:
                raise DiagnosticsError(
                    f"{encoder} runs {name} inside {open_blocks[-1][0]}: declare its taps yourself (docs/plugins.md)."
                )
            # What else a block takes (position codes, a map's size, global queries) is no activation of the trunk.
            if not trace.blocks and (took is None or took.ndim < 3):
                raise _several(encoder, name)
            open_blocks.append((name, took))

        return hook

    def after(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            call = trace.calls[name]
            trace.calls[name] += 1
            if name in blocks:
                took = open_blocks.pop()[1]
                trace.tail.clear()
                # Cloned, as a later operation may work in place.
                trace.blocks.append(Step(name, call, took, _only(output, name, encoder).clone()))
            elif trace.blocks:
                gave = first_tensor(output)
                if isinstance(gave, Tensor):
                    trace.tail.append(Step(name, call, entering.pop(name, None), gave.clone()))

        return hook

    for name, part in module.named_modules():
        if name and not name.startswith(inside):
            handles.append(part.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(part.register_forward_hook(after(name)))
    try:
        with torch.inference_mode():
            final = first_tensor(forward(module, batch))
    except DiagnosticsError:
        raise
    except Exception as error:
        raise DiagnosticsError(f"{encoder} does not run on an example ({said(error)}): try another size.") from error
    finally:
        for handle in handles:
            handle.remove()
    trace.final = final if isinstance(final, Tensor) else None
    idle = [name for name in blocks if not trace.calls[name]]
    if idle:
        raise DiagnosticsError(
            f"{encoder} never runs {idle[0]}, which stands among its blocks: declare its taps yourself (docs/plugins.md)."
        )
    return trace


def _only(value: Any, name: str, encoder: str) -> Tensor:
    """The activations among what a block gives; several maps side by side are refused, not cut to one."""
    parts: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value]  # pyright: ignore
    first = first_tensor(value)
    if not isinstance(first, Tensor) or first.ndim < 3:
        raise _several(encoder, name)
    beside = [p for p in parts if isinstance(p, Tensor) and p is not first and p.ndim == first.ndim]
    # Attention weights and position biases are [sample, head, query, key].
    if any(first.ndim == 3 or other.shape[-1] != other.shape[-2] for other in beside):
        raise _several(encoder, name)
    return first


def _several(encoder: str, name: str) -> DiagnosticsError:
    return DiagnosticsError(
        f"{encoder} ({name} does not hand on exactly one tensor of activations) cannot be tapped by itself: declare its "
        "taps yourself (docs/plugins.md)."
    )

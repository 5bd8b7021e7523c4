"""The calls of torch's `scaled_dot_product_attention` in a pass, whatever the model, also those inside torch's own layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode

# A copy that asks no override, so that the calls inside it are seen.
multi_head_in_steps = FunctionType(
    multi_head_attention_forward.__code__,
    {**multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    multi_head_attention_forward.__name__,
    multi_head_attention_forward.__defaults__,
)
"""torch's own multi-head attention: as a function that can be overridden it would hide its calls."""
multi_head_in_steps.__kwdefaults__ = multi_head_attention_forward.__kwdefaults__


@dataclass(frozen=True, eq=False)
class SdpaCall:
    """One call, which `run` repeats."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    def argument(self, place: int, name: str, otherwise: Any = None) -> Any:
        """One of its arguments, by place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, otherwise)


class SdpaCalls(TorchFunctionMode):
    """A context in which `answer` is asked in place of each call, and gives what the call gives to the model.

    While it is open, torch's own layers take no shortcut into one kernel for the whole layer, so the last bits of what they
    give may differ.
    """

    def __init__(self, answer: Callable[[SdpaCall], Any]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is multi_head_attention_forward:
            with self:
                return multi_head_in_steps(*args, **kwargs)
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            return self.answer(SdpaCall(func, args, kwargs))
        return func(*args, **kwargs)

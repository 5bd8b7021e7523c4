"""The kernel that computes attention in a pass: chosen for any model by a context around it, and explained by one pass.

torch knows four for `scaled_dot_product_attention`; which of them takes a call depends on the machine, the type, the
mask, the width of a head and whether gradients are wanted.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics.encoders.modules import random_kept
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.vocabulary import KERNELS, Kernel

# The calls of torch's `scaled_dot_product_attention` in a pass, whatever the model, also those inside torch's own
# layers.

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

    While it is open, torch's own layers take no shortcut into one kernel for the whole layer, so the last bits of what
    they give may differ.
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


_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_OPERATORS = {
    "scaled_dot_product_flash_attention": "flash",
    "scaled_dot_product_cudnn_attention": "cudnn",
    "scaled_dot_product_efficient_attention": "efficient",
    "scaled_dot_product_fused_attention_overrideable": "fused",
}
"""What torch's operators are called, but for a `_` before and a device behind -> kernel."""
_HEADINGS = {"flash": "flash", "memory efficient": "efficient", "cudnn": "cudnn"}
"""How torch begins what it says about each kernel."""

MISSING, REFUSED = "No viable backend", "No available kernel"
"""What torch raises where a device has no such kernel, and where it has and the kernel takes no such call."""


@contextmanager
def attention_in(kernel: Kernel) -> Generator[None]:
    """A context for forward and backward passes in which attention runs in this kernel or raises DiagnosticsError.

    `auto` changes nothing.

    It holds for the whole process, for compiled models and for what is computed once more in a backward pass too.
    torch's own layers then leave their shortcut for a whole layer, in which no kernel can be chosen.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import scaled_dot_product_attention
        >>> from diagnostics.encoders.attention.kernel_choice import attention_in
        >>> q = k = v = torch.ones(1, 1, 4, 8)
        >>> with attention_in("math"):
        ...     out = scaled_dot_product_attention(q, k, v)
        >>> out.shape
        torch.Size([1, 1, 4, 8])
    """
    if kernel == "auto":
        yield
        return
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(_BACKENDS[kernel]):
            yield
    except RuntimeError as error:
        if not _is_refusal(error):
            raise
        raise DiagnosticsError(
            f"The {kernel} kernel refuses attention that did not occur in the first pass ({describe(error)}): give "
            f"--attention auto.",
            code="no-kernel",
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)


def explain_attention(kernel: Kernel, forward: Callable[[], Any], model: str, half: str) -> str:
    """One forward pass, in which each kind of call is tried; random states are afterwards as before.

    `model` names it in messages, and `half` is the option by which its attention would be computed in half precision.
    Of a named kernel "" is given; of `auto` which kernels ran, and why faster ones did not, "" where the pass has no
    such attention.

    Raises DiagnosticsError where the named kernel refuses a call, with torch's reason, and where there is none to
    compute.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import scaled_dot_product_attention
        >>> from diagnostics.encoders.attention.kernel_choice import explain_attention
        >>> def forward():
        ...     return scaled_dot_product_attention(*torch.ones(3, 1, 1, 4, 8))
        >>> print(explain_attention("auto", forward, "mine", "--compute bf16"))
        flash (1 call)
    """
    trying = _Trying(kernel, model, half)
    with random_kept(), SdpaCalls(trying.answer):
        forward()
    if kernel == "auto":
        return trying.sentence
    if not trying.calls:
        raise DiagnosticsError(
            f"The pass of {model} never calls torch's scaled_dot_product_attention, so no kernel can be chosen "
            f"for it: leave --attention {kernel} out.",
            code="no-kernel",
        )
    return ""


class _Trying:
    """The calls of a pass by their kind, each kind tried once."""

    def __init__(self, kernel: Kernel, model: str, half: str) -> None:
        self.kernel: Kernel = kernel
        self.model, self.half = model, half
        self.calls: Counter[tuple[Any, ...]] = Counter()
        self.ran: dict[tuple[Any, ...], tuple[str, str]] = {}
        """Kind of call -> the kernel that torch chose, and why faster ones were refused."""

    def answer(self, call: SdpaCall) -> Any:
        """The result of a call, which is tried before it runs."""
        kind = _kind(call)
        self.calls[kind] += 1
        if self.calls[kind] == 1:
            self._try(kind, call)
        return call.run()

    def _try(self, kind: tuple[Any, ...], call: SdpaCall) -> None:
        if self.kernel == "auto":
            self.ran[kind] = _choice(call)
        elif reason := _refusal(self.kernel, call):
            narrower = f"{self.half} or " if "dtype" in reason else ""
            raise DiagnosticsError(
                f"The {self.kernel} kernel refuses the attention of {self.model} ({reason}): give "
                f"{narrower}--attention auto.",
                code="no-kernel",
            )

    @property
    def sentence(self) -> str:
        """The choices of `auto` in words."""
        counts: Counter[tuple[str, str]] = Counter()
        for kind, which in self.ran.items():
            counts[which] += self.calls[kind]
        return "; ".join(
            f"{kernel} ({n} call{'' if n == 1 else 's'}){f', since {why}' if why else ''}"
            for (kernel, why), n in counts.items()
        )


def _kind(call: SdpaCall) -> tuple[Any, ...]:
    """All that decides whether a kernel takes a call; the number of samples does not."""
    tensors = [call.argument(place, name) for place, name in enumerate(("query", "key", "value", "attn_mask"))]
    facts = [(t.shape[1:], t.dtype, t.device, t.requires_grad) if isinstance(t, Tensor) else None for t in tensors]
    dropout, causal = call.argument(4, "dropout_p", 0.0) > 0, call.argument(5, "is_causal", False)
    return (*facts, dropout, causal, call.argument(7, "enable_gqa", False), torch.is_grad_enabled())


def _choice(call: SdpaCall) -> tuple[str, str]:
    """The kernel that torch chooses for a call, and why faster ones do not take it."""
    with _Operators() as operators:
        call.run()
    kernel = operators.kernel
    named: Sequence[Kernel] = KERNELS[1:]
    faster = named[: named.index(kernel)] if kernel in named else ()
    refusals: dict[str, list[str]] = {}
    for name in faster:
        reason = _refusal(name, call) or "torch prefers the one that ran"
        refusals.setdefault(reason, []).append(name)
    return kernel, "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in refusals.items())


class _Operators(TorchDispatchMode):
    """Sees the operators of one call; that of no kernel is the plain mathematics, spelled out."""

    kernel = "math"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__.removeprefix("_")
        self.kernel = next((kernel for start, kernel in _OPERATORS.items() if name.startswith(start)), self.kernel)
        return func(*args, **(kwargs or {}))


def _refusal(kernel: Kernel, call: SdpaCall) -> str:
    """The reason why a kernel does not take a call, in torch's words; "" where it does."""
    with warnings.catch_warnings(record=True) as said, sdpa_kernel(_BACKENDS[kernel]):
        warnings.simplefilter("always")
        try:
            call.run()
        except RuntimeError as error:
            if not _is_refusal(error):
                raise
            if MISSING in str(error):
                return f"torch has no such kernel for {call.argument(0, 'query').device.type}"
            masked = call.argument(3, "attn_mask") is not None
            unsaid = f"torch does not say why{', of a call with a mask' if masked else ''}"
            return _reason(kernel, [str(warning.message) for warning in said]) or unsaid
    return ""


def _is_refusal(error: RuntimeError) -> bool:
    return MISSING in str(error) or REFUSED in str(error)


def _reason(kernel: str, lines: Sequence[str]) -> str:
    """The words of torch about one kernel, among all that it says.

    They stand below its heading, without where in torch that is said.
    """
    of, reasons = "", list[str]()
    for line in lines:
        text = " ".join(line.partition(" (Triggered internally")[0].split()).rstrip(".")
        if text.endswith("kernel not used because:"):
            of = next((name for start, name in _HEADINGS.items() if text.lower().startswith(start)), "")
        elif of == kernel:
            reasons.append(text)
    return "; ".join(dict.fromkeys(reasons))

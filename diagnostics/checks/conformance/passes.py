"""Checks of forward passes: deterministic, independent of the other samples of a batch, and without side effects."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from diagnostics.checks.conformance.encoder_under_test import EncoderUnderTest, difference, worst_tap
from diagnostics.checks.conformance.outcome import Outcome, failed, not_applicable, ok
from diagnostics.encoders.encoder import keep
from diagnostics.encoders.modules import seeded, wanting_gradients
from diagnostics.encoders.taps import Tap


def determinism(subject: EncoderUnderTest) -> Outcome:
    """A second pass over the same batch gives the same bits, whatever the state of random numbers."""
    first = subject.reference
    with seeded(12345):
        second = subject.capture()
    for name, tokens in first.items():
        if not torch.equal(tokens, second[name]):
            return failed(
                f"two passes over the same batch differ at tap {name} by {difference(second[name], tokens):.2g} of its "
                "spread: put the module in eval mode and draw nothing at random"
            )
    return ok("two passes give the same bits")


def batch_invariance(subject: EncoderUnderTest) -> Outcome:
    """A sample alone gives what it gives among others."""
    alone = subject.capture(subject.batch(subject.samples[-1:]))
    among = {name: tokens[-1:] for name, tokens in subject.reference.items()}
    name, worst, within = worst_tap(alone, among)
    if not within:
        return failed(
            f"a sample alone differs from itself in a batch at tap {name} by {worst:.2g} of the tap's spread: samples "
            "are mixed (batch norm in train mode, attention across the batch, padding to the longest)",
            difference=worst if worst < float("inf") else -1,
        )
    return ok(f"a sample alone and in a batch differ by {worst:.1g} of a tap's spread at most", difference=worst)


def no_graph(subject: EncoderUnderTest) -> Outcome:
    """What is captured wants no gradients, not even where parameters do."""
    kept: list[str] = []

    def look(tap: Tap, tokens: Tensor) -> None:
        if tokens.requires_grad or tokens.grad_fn is not None:
            kept.append(tap.name)

    training = wanting_gradients(subject.module, True) if subject.module else contextlib.nullcontext()
    with torch.enable_grad(), training:
        subject.capture(reduce=look)
    if kept:
        return failed(f"tap {kept[0]} returns a tensor with a gradient graph: capture under torch.no_grad()")
    return ok("no gradient graph is kept")


def hooks(subject: EncoderUnderTest) -> Outcome:
    """After a pass, and after one that broke off in the middle, no hook is left, and the next pass is right."""
    if subject.module is None:
        return not_applicable("it exposes no torch module")
    reference = subject.reference
    before = _hooks(subject.module)
    subject.capture()
    if left := _hooks(subject.module) - before:
        return failed(f"{left} hook{'s' if left > 1 else ''} left on its modules after a pass: remove them")

    middle = subject.encoder.taps[len(subject.encoder.taps) // 2].name

    def break_off(tap: Tap, tokens: Tensor) -> Tensor:
        if tap.name == middle:
            raise _BreakError
        return keep(tap, tokens)

    try:
        subject.capture(reduce=break_off)
    except Exception:  # its own, or what the encoder makes of it
        pass
    else:
        return failed(f"an error at tap {middle} is swallowed: let it through")
    if left := _hooks(subject.module) - before:
        return failed(
            f"{left} hook{'s' if left > 1 else ''} left on its modules after a pass that fails: remove them in a "
            "finally or a with block"
        )
    name, worst, within = worst_tap(subject.capture(), reference)
    if not within:
        return failed(f"after a pass that fails, tap {name} differs by {worst:.2g} of its spread")
    return ok("no hook is left, even after a pass that fails")


class _BreakError(Exception):
    pass


def _hooks(module: nn.Module) -> int:
    """Hooks on all its modules, and those on every module there is."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = sum(len(getattr(part, kind, ())) for part in module.modules() for kind in kinds)
    return own + sum(len(getattr(torch_module, f"_global{kind}", ())) for kind in kinds)

"""Conformance checks: whether an encoder keeps its contract, tested one property at a time with few forward passes.

Here are those of what it declares (description, shapes, grid, order by depth, sizes), of its identity, which changes
only with what decides its activations, of saving its weights, and of forward passes, which are deterministic,
independent of the other samples of a batch, and without side effects.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from diagnostics.activations.prepare import fit
from diagnostics.checks.conformance.reading import (
    EncoderUnderTest,
    NoPassError,
    Outcome,
    attention,
    difference,
    failure,
    in_place,
    manual_forward,
    not_applicable,
    ok,
    padding,
    worst_tap,
)
from diagnostics.encoders.encoder import Encoder, keep
from diagnostics.encoders.modules import seeding, wanting_gradients
from diagnostics.encoders.places.judge import exchange_between
from diagnostics.encoders.places.verify import NotVerifiableError, verify_taps
from diagnostics.encoders.taps import Tap
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, describe, explaining
from diagnostics.progress import Progress, Watch
from diagnostics.report.progress_bars import watching
from diagnostics.specs import build
from diagnostics.vocabulary import Modality

# Enough to tell any order of tokens from another; `inspect --verify-grid` looks at more.
CELLS = 64
IDENTITY = ("weights", "configuration", "preprocessing")


def description(subject: EncoderUnderTest) -> Outcome:
    """Name, modality, taps, output tap and identity are there and can be written down."""
    encoder = subject.encoder
    if encoder.modality not in get_args(Modality):
        return failure(f"its modality is {encoder.modality!r}: choose one of {', '.join(get_args(Modality))}")
    names = [tap.name for tap in encoder.taps]
    if len(set(names)) < len(names) or not names:
        return failure(f"it has {len(names)} taps under {len(set(names))} names: give each a name of its own")
    if encoder.output_tap not in names:
        return failure(f"its output tap {encoder.output_tap!r} is not one of its taps")
    identity: Any = dict(encoder.identity)
    if missing := [key for key in IDENTITY if key not in identity]:
        return failure(f"its identity lacks {', '.join(missing)}")
    if odd := [key for key, value in identity.items() if not isinstance(value, str)]:
        return failure(f"its identity gives no text for {', '.join(odd)}: give a digest or words")
    try:
        json.dumps([encoder.name, encoder.modality, encoder.rate, identity, encoder.poolings])
        json.dumps([[tap.name, tap.depth, tap.features, tap.grid.shape, tap.grid.axes] for tap in encoder.taps])
    except TypeError as error:
        return failure(f"what it declares cannot be written as JSON ({error}): use plain numbers and texts")
    return ok(f"{len(names)} taps, output {encoder.output_tap}", taps=len(names))


def shapes(subject: EncoderUnderTest) -> Outcome:
    """Each tap fires and hands over finite [sample, token, feature] as declared."""
    try:
        activations = subject.reference
    except NoPassError as error:
        return failure(f"a pass over three samples ends in {error}")
    for tap in subject.encoder.taps:
        tokens: Any = activations.get(tap.name)
        if not isinstance(tokens, Tensor):
            return failure(f"tap {tap.name} did not fire")
        wanted = (len(subject.samples), tap.tokens, tap.features)
        if tuple(tokens.shape) != wanted:
            return failure(f"tap {tap.name} gives shape {tuple(tokens.shape)}, but declares {wanted}")
        if not tokens.is_floating_point():
            return failure(f"tap {tap.name} gives {tokens.dtype}, not floating-point numbers")
        if not tokens.isfinite().all():
            return failure(f"tap {tap.name} gives {int((~tokens.isfinite()).sum())} numbers that are not finite")
    return ok("every tap gives finite numbers in the shape that it declares")


def grid(subject: EncoderUnderTest) -> Outcome:
    """Tokens of every tap stand for the places that its grid declares: see `diagnostics.encoders.places.verify_taps`.

    Of grids larger than `CELLS`, two tokens that are exchanged are also looked for between taps, in a plain pass.
    """
    try:
        placement, later = verify_taps(subject.encoder, subject.samples[0], most=CELLS)
    except NotVerifiableError as error:
        return not_applicable(str(error))
    verdicts = ("wrong", "not verified", "right")
    wrong, unknown, right = ([tap for tap in later if tap.verdict == verdict] for verdict in verdicts)
    figures = {
        "cells": placement.cells,
        "share": placement.share,
        "tolerance": placement.tolerance,
        "taps_right": int(placement.right) + len(right),
        "taps_wrong": int(not placement.right) + len(wrong),
        "taps_not_verified": len(unknown),
    }
    if not placement.right:
        return failure(str(placement), **figures)
    if wrong:
        more = f"; so do {', '.join(tap.tap for tap in wrong[1:4])}{', ...' * (len(wrong) > 4)}" if wrong[1:] else ""
        return failure(f"tap {wrong[0].tap} has a {wrong[0].explanation}{more}; {placement}", **figures)
    for before, after in pairwise(subject.encoder.taps):
        if change := exchange_between(before, after, subject.reference):
            return failure(change, **figures)
    parts = [str(placement)]
    if right:
        parts.append(f"so do those of {len(right)} later tap{'s' * (len(right) > 1)}")
    if unknown:
        names = f"{', '.join(tap.tap for tap in unknown[:3])}{', ...' * (len(unknown) > 3)}"
        parts.append(f"not verified at tap {names}: {unknown[0].explanation}")
    return ok("; ".join(parts), **figures)


def depth(subject: EncoderUnderTest) -> Outcome:
    """Taps fire in the order in which they are declared, and depth never falls along it."""
    declared = [tap.name for tap in subject.encoder.taps]
    seen = subject.order
    if seen != declared:
        first = next(i for i, pair in enumerate(zip(seen, declared, strict=False)) if pair[0] != pair[1])
        return failure(f"tap {seen[first]} fires where {declared[first]} is declared: list taps in order of execution")
    for before, after in zip(subject.encoder.taps, subject.encoder.taps[1:], strict=False):
        if after.depth < before.depth:
            return failure(
                f"tap {after.name} (depth {after.depth:g}) runs after {before.name} (depth {before.depth:g}): "
                "let depth never fall along the execution"
            )
        if before.part == "head" and after.part != "head":
            return failure(f"tap {after.name} of the {after.part} runs after {before.name} of the head")
    first, last = subject.encoder.taps[0].depth, subject.encoder.taps[-1].depth
    return ok(f"taps fire as declared, from depth {first:g} to {last:g}")


def sizes(subject: EncoderUnderTest) -> Outcome:
    """A sample of another size is taken with the grids it has, or refused in a sentence."""
    sample = _halve(subject.samples[0], subject.encoder.modality)
    if sample is None:
        return not_applicable("a text has no size, or the sample is too small to be halved")
    shape = "x".join(map(str, sample.shape))
    try:
        encoder = subject.encoder.sized_for(sample)
        batch = torch.utils.data.default_collate([encoder.preprocess(sample)])
    except DiagnosticsError as error:
        return not_applicable(f"takes no sample of {shape}: {error}")
    except Exception as error:
        return failure(f"a sample of {shape} ends in {describe(error)}: let sized_for or preprocess refuse it")
    wrong: list[str] = []

    def look(tap: Tap, tokens: Tensor) -> None:
        if tuple(tokens.shape[1:]) != (tap.tokens, tap.features):
            wrong.append(f"tap {tap.name} gives {tuple(tokens.shape[1:])} tokens and features, not {tap.grid}")

    subject.passes += 1
    try:
        encoder.capture(batch, None, look)
    except Exception as error:
        return failure(f"sized for a sample of {shape}, a pass ends in {describe(error)}")
    if wrong:
        return failure(f"sized for a sample of {shape}, {wrong[0]}")
    before, after = subject.encoder.taps[0].grid, encoder.taps[0].grid
    return ok(f"a sample of {shape} gives {'the same grid' if before == after else f'a grid of {after}'}")


def _halve(sample: np.ndarray, modality: Modality) -> np.ndarray | None:
    axes = {"image": 2, "video": 3, "series": 1, "audio": 1, "text": 0}[modality]
    if axes == 0 or min(sample.shape[:axes]) < 2:
        return None
    return sample[tuple(slice(n // 2) for n in sample.shape[:axes])]


NO_MODULE = "it exposes no torch module"
SEED = 40_000_003


def identity_weights(subject: EncoderUnderTest) -> Outcome:
    """One element of one parameter, or of one buffer, changes the identity; put back, it is as before."""
    if subject.module is None:
        return not_applicable(NO_MODULE)
    parameters = [(name, p) for name, p in subject.module.named_parameters() if p.numel()]
    some = [parameters[i] for i in sorted({0, len(parameters) // 2, len(parameters) - 1})] if parameters else []
    buffers = [(name, b) for name, b in subject.module.named_buffers() if b.numel()][:1]
    if not some and not buffers:
        return not_applicable("its module has neither parameters nor buffers")
    before = dict(subject.encoder.identity)
    for name, tensor in [*some, *buffers]:
        with _changed(tensor):
            if dict(subject.encoder.identity) == before:
                return failure(f"one element of {name} changes and the identity does not: let it digest every tensor")
        if dict(subject.encoder.identity) != before:
            return failure(f"one element of {name} was changed and put back, and the identity is another")
    return ok(f"the identity changes with one element of {len(some)} parameters and {len(buffers)} buffers, each alone")


@contextlib.contextmanager
def _changed(tensor: Tensor) -> Generator[None]:
    place = (-1,) * tensor.ndim
    with torch.no_grad():
        old = tensor[place].clone()
        if tensor.dtype == torch.bool:
            tensor[place] = ~old
        else:
            tensor[place] = 0 if old != 0 else 1
        try:
            yield
        finally:
            tensor[place] = old


def identity_preprocessing(subject: EncoderUnderTest) -> Outcome:
    """One number of a prepared sample changes the identity."""
    encoder = subject.encoder
    # Over its method, also where its class has one of its own.
    changed = Encoder.replace(encoder, preprocess=lambda sample: _off_by_one(encoder.preprocess(sample)))
    if dict(changed.identity) != dict(encoder.identity):
        return ok("the identity changes with one number of a prepared sample")
    if not isinstance(encoder, TorchEncoder):
        return not_applicable(
            "it is no TorchEncoder, so what its identity reads of preprocessing cannot be changed here"
        )
    return failure(
        "one number of a prepared sample changes and the identity does not: let it digest what preprocess makes of the "
        "example"
    )


def _off_by_one(prepared: Any) -> Any:
    """The prepared sample with the middle element of its first tensor changed."""
    if isinstance(prepared, Mapping):
        key = next(iter(prepared))
        return {**prepared, key: _off_by_one(prepared[key])}
    if isinstance(prepared, (tuple, list)):
        return type(prepared)([_off_by_one(prepared[0]), *prepared[1:]])
    other = torch.as_tensor(prepared).clone()
    flat = other.flatten()
    middle = flat.numel() // 2
    flat[middle] = ~flat[middle] if other.dtype == torch.bool else flat[middle] + 1
    return flat.view(other.shape)


def identity_stable(subject: EncoderUnderTest) -> Outcome:
    """Pass over batches of any size leave it, and the same encoder built again has the same."""
    before = subject.identity
    subject.capture(subject.batch(subject.samples[:1]))
    if changed := _unlike(before, subject.encoder.identity):
        return failure(f"a forward pass changes {changed} of its identity: keep no state in buffers or configuration")
    if subject.again is None:
        return ok(
            "passes over batches of one and of three samples do not change the identity; the encoder was not "
            "built again"
        )
    if changed := _unlike(before, subject.again().sized_for(subject.samples[0]).identity):
        return failure(f"a second build differs in {changed}: seed its random weights, or load weights")
    return ok("a second build has the same identity, and passes do not change it")


def _unlike(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    return " and ".join(key for key in before if before[key] != after.get(key))


def save_and_load(subject: EncoderUnderTest) -> Outcome:
    """Weights saved as safetensors and loaded strictly into a fresh module give the same identity and the same bits."""
    if subject.module is None:
        return not_applicable(NO_MODULE)
    if not subject.module.state_dict():
        return not_applicable("its module has no weights to save")
    try:
        fresh = subject.encoder.fresh(SEED)
    except DiagnosticsError as error:
        return not_applicable(str(error))
    other: Any = getattr(fresh, "module", None)
    if not isinstance(other, nn.Module):
        return not_applicable("its fresh encoder exposes no torch module")
    own = {p.untyped_storage().data_ptr() for p in subject.module.parameters() if p.numel()}
    if other is subject.module or any(p.untyped_storage().data_ptr() in own for p in other.parameters() if p.numel()):
        return failure("fresh weights are its own weights: let fresh build a new module")
    if fresh.identity["weights"] == subject.encoder.identity["weights"]:
        return failure("fresh draws the weights that the encoder has: let it draw from the random state it is given")
    # Copies, since tied weights are one tensor under two names, which the format refuses.
    saved = save({name: t.detach().cpu().clone().contiguous() for name, t in subject.module.state_dict().items()})
    try:
        other.load_state_dict(load(saved), strict=True)
    except RuntimeError as error:
        return failure(f"its weights do not load into a fresh module: {' '.join(str(error).split())[:200]}")
    subject.passes += 1
    again = fresh.capture(subject.batch())
    for name, tokens in subject.reference.items():
        if not torch.equal(again[name], tokens):
            return failure(
                f"with its weights loaded, a fresh module gives other activations at tap {name}: something that "
                f"decides the activations is not in its state_dict"
            )
    if fresh.identity["weights"] != subject.encoder.identity["weights"]:
        return failure("with its weights loaded, a fresh module has another identity: an unsaved buffer differs")
    return ok(f"{len(saved) / 1e6:.1f} MB of weights, loaded into a fresh module, give the same bits")


def determinism(subject: EncoderUnderTest) -> Outcome:
    """A second pass over the same batch gives the same bits, whatever the state of random numbers."""
    first = subject.reference
    with seeding(12345):
        second = subject.capture()
    for name, tokens in first.items():
        if not torch.equal(tokens, second[name]):
            return failure(
                f"two passes over the same batch differ at tap {name} by {difference(second[name], tokens):.2g} of its "
                "spread: put the module in eval mode and draw nothing at random"
            )
    return ok("two passes give the same bits")


def batch_invariance(subject: EncoderUnderTest) -> Outcome:
    """A sample alone gives what it gives among others."""
    alone = subject.capture(subject.batch(subject.samples[-1:]))
    name, worst, within = worst_tap(alone, {name: tokens[-1:] for name, tokens in subject.reference.items()})
    if not within:
        return failure(
            f"a sample alone differs from itself in a batch at tap {name} by {worst:.2g} of the tap's spread: samples "
            "are mixed (batch norm in train mode, attention across the batch, padding to the longest)",
            difference=worst if worst < float("inf") else -1,
        )
    return ok(f"a sample alone and in a batch differ by {worst:.1g} of a tap's spread at most", difference=worst)


def no_graph(subject: EncoderUnderTest) -> Outcome:
    """Captured tensors want no gradients, not even where parameters do."""
    kept: list[str] = []

    def look(tap: Tap, tokens: Tensor) -> None:
        if tokens.requires_grad or tokens.grad_fn is not None:
            kept.append(tap.name)

    training = wanting_gradients(subject.module, True) if subject.module else contextlib.nullcontext()
    with torch.enable_grad(), training:
        subject.capture(reduce=look)
    if kept:
        return failure(f"tap {kept[0]} returns a tensor with a gradient graph: capture under torch.no_grad()")
    return ok("no gradient graph is kept")


def hooks(subject: EncoderUnderTest) -> Outcome:
    """After a pass, and after one that broke off in the middle, no hook is left, and the next pass is right."""
    if subject.module is None:
        return not_applicable(NO_MODULE)
    reference = subject.reference
    before = _hooks(subject.module)
    subject.capture()
    if left := _hooks(subject.module) - before:
        return failure(f"{left} hook{'s' if left > 1 else ''} left on its modules after a pass: remove them")

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
        return failure(f"an error at tap {middle} is swallowed: let it through")
    if left := _hooks(subject.module) - before:
        return failure(
            f"{left} hook{'s' if left > 1 else ''} left on its modules after a pass that fails: remove them in a "
            "finally or a with block"
        )
    name, worst, within = worst_tap(subject.capture(), reference)
    if not within:
        return failure(f"after a pass that fails, tap {name} differs by {worst:.2g} of its spread")
    return ok("no hook is left, even after a pass that fails")


class _BreakError(Exception):
    pass


def _hooks(module: nn.Module) -> int:
    """Hooks on all its modules, and those on every module there is."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = sum(len(getattr(part, kind, ())) for part in module.modules() for kind in kinds)
    return own + sum(len(getattr(torch_module, f"_global{kind}", ())) for kind in kinds)


CHECKS: Mapping[str, Callable[[EncoderUnderTest], Outcome]] = {
    check.__name__: check
    for check in (
        description, shapes, grid, depth, determinism, batch_invariance, in_place, manual_forward, no_graph, hooks,
        identity_weights, identity_preprocessing, identity_stable, save_and_load, attention, padding, sizes,
    )
}  # fmt: skip

__all__ = ["CHECKS", "Conformance", "EncoderUnderTest", "Outcome", "check_encoder", "prepare_encoder", "run_check"]


@dataclass(frozen=True)
class Conformance:
    """The outcomes of all checks of an encoder, with the number of forward passes and seconds that they took."""

    encoder: str
    outcomes: tuple[Outcome, ...]
    passes: int
    seconds: float

    @property
    def failed(self) -> int:
        """The number of checks that failed."""
        return sum(outcome.verdict == "failed" for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "encoder": self.encoder,
            "checks": [outcome.to_json() for outcome in self.outcomes],
            "failed": self.failed,
            "passes": self.passes,
            "seconds": self.seconds,
        }


def prepare_encoder(encoder: Encoder | str, data: str | None = None, *, trust_code: bool = False) -> EncoderUnderTest:
    """An encoder, or what a name builds, made ready for checks on its example or on three samples of a dataset.

    Raises DiagnosticsError where the encoder cannot be built or sized, and where it does not fit the dataset.
    """
    built: Encoder = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    samples: list[np.ndarray] = []
    if data is not None:
        dataset = build("dataset", data)
        built = fit(built, dataset)
        samples = [dataset[i] for i in (0, len(dataset) // 2, len(dataset) - 1)]
    again = functools.partial(build, "encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else None
    with explaining(f"{built.name} cannot be sized for a sample"):
        return EncoderUnderTest(built, samples, again)


def run_check(name: str, subject: EncoderUnderTest) -> Outcome:
    """One check; an error that it meets is a failure, in words. Where no pass succeeds, only the first two say so."""
    try:
        if name not in ("description", "shapes"):
            assert subject.reference
        outcome = CHECKS[name](subject)
    except NoPassError:
        outcome = not_applicable("no forward pass succeeds: see shapes")
    except DiagnosticsError as error:
        outcome = failure(str(error))
    except Exception as error:
        outcome = failure(f"it ends in {describe(error)}")
    return replace(outcome, check=name)


def check_encoder(
    encoder: Encoder | str, data: str | None = None, watch: Watch | None = None, *, trust_code: bool = False
) -> Conformance:
    """All checks of an encoder, or of what a name builds; raises as `prepare_encoder` does.

    Progress is shown where no `watch` is given.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.checks.conformance import check_encoder
        >>> conformance = check_encoder("objectives:lorenz-forecast")
        >>> conformance.failed, len(conformance.outcomes)
        (0, 17)
        >>> for outcome in conformance.outcomes[2:4]:
        ...     print(outcome.check, outcome.verdict, outcome.message)
        grid ok tap embed, 32 t: all 32 cells changed one at a time; 32 changed their own
        token most; so do those of 8 later taps
        depth ok taps fire as declared, from depth 0 to 1.16667
    """
    started = time.perf_counter()
    subject = prepare_encoder(encoder, data, trust_code=trust_code)
    outcomes: list[Outcome] = []
    with watching(watch) as shown:
        for name in CHECKS:
            shown(Progress(f"checking {subject.encoder.name}", len(outcomes), len(CHECKS), name))
            outcomes.append(run_check(name, subject))
        shown(Progress(f"checking {subject.encoder.name}", len(CHECKS), len(CHECKS)))
    return Conformance(subject.encoder.name, tuple(outcomes), subject.passes, time.perf_counter() - started)

"""Encoders cut at a tap: their forward pass ends there, and modules that only run later are removed.

An exception ends the pass once the tap has been read, so that nothing after it runs, whatever the model's code looks
like.
"""

import copy
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.hooks import Forward, hook_calls, until
from diagnostics.encoders.taps import Site, Tap, taps_together
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, describe, explaining


def cut_encoder(encoder: Encoder, tap: str | Sequence[str]) -> TorchEncoder:
    """The encoder up to a tap, which becomes its output tap.

    The given encoder does not change, and tensors are shared. Of several taps it is the deepest, and `transform` hands
    out all side by side, in the order given, where none is named.

    The result has the taps that fire up to there; depths of trunk taps are rescaled so that a trunk tap at the end is
    at depth 1. Its lineage is the encoder's, except that `group` says where it was cut. Modules that do not run and
    whose tensors are not read up to the tap are removed, except for lists, since code may ask for their length.
    Activations at all its taps are verified to equal the whole encoder's on the example, bit for bit.

    Raises DiagnosticsError for an unknown tap, an encoder without a torch module, and where the activations differ.
    """
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(
            f"{encoder.name} exposes no torch module, so it cannot be cut: name an encoder that has one.",
            code="not-savable",
        )
    if not isinstance(tap, str):
        several = [encoder.tap(name).name for name in taps_together(tap)]
        cut = cut_encoder(encoder, [each.name for each in encoder.taps if each.name in several][-1])
        return cut.replace(side_by_side=tuple(several) if several[1:] else ())
    last = encoder.tap(tap)
    batch = default_collate([encoder.preprocess(encoder.example())] * 2)
    reason = ""
    for absent in (_idle(encoder, last), ()):
        whole = _with_own_modules(encoder, tap)
        try:
            cut = end_at_tap(whole, tap, absent)
            names = [tap.name for tap in cut.taps]
            expected, captured = encoder.capture(batch, names), cut.capture(batch)
        except Exception as error:
            # Code may read a setting of a module that it does not run: all modules are kept in the second attempt.
            reason = f"a pass that ends there fails: {describe(error)}"
            continue
        differing = [name for name in names if not _same(expected[name], captured[name])]
        if not differing:
            return cut
        reason = f"a pass that ends there gives others at tap {differing[0]}"
    raise DiagnosticsError(
        f"{encoder.name} cannot be cut at {tap}, since {reason.rstrip('.')}: choose another tap.", code="not-savable"
    )


def _with_own_modules(encoder: TorchEncoder, tap: str) -> TorchEncoder:
    """The encoder with modules of its own around the same tensors.

    Some of the modules may be removed later: samples of another size then find the others.
    """
    tensors = {id(tensor): tensor for tensor in (*encoder.module.parameters(), *encoder.module.buffers())}
    with explaining(f"{encoder.name} cannot be cut, since its module cannot be copied", "use it whole", "not-savable"):
        module = copy.deepcopy(encoder.module, tensors)

    def resized(sized: TorchEncoder) -> TorchEncoder:
        names = {name for name, _ in module.named_modules()}
        left = [one for one in sized.taps if one.name == tap or (one.site and one.site.module in names)]
        return sized.replace(module=module, taps=left, output_tap=tap, resized=resized)

    return encoder.replace(module=module, resized=resized)


def end_at_tap(encoder: TorchEncoder, tap: str, absent: Sequence[str]) -> TorchEncoder:
    """The encoder with passes that end at a tap; the modules `absent` are removed from its module in place."""
    last = encoder.tap(tap)
    whole = f" cut at {encoder.cut}" if encoder.cut else ""
    name = f"{encoder.name.removesuffix(whole)} cut at {tap}"
    absent = tuple(dict.fromkeys((*absent, *encoder.absent)))
    lineage = encoder.lineage
    if group := str(lineage.get("group") or ""):
        # Comparisons would show it under the name of the whole one.
        lineage = {**lineage, "group": f"{group.removesuffix(whole)} cut at {tap}"}
    draw = encoder.fresh_module

    def fresh() -> nn.Module:
        assert draw is not None
        module = draw()
        _take_out(module, absent, name)
        return module

    cut = encoder.replace(
        name=name,
        cut=tap,
        absent=absent,
        side_by_side=(),
        spec="",
        skeleton=encoder.skeleton or encoder.spec,
        lineage=lineage,
        configuration=f"{encoder.configuration.removesuffix(f';{whole}')}; cut at {tap}",
        forward=_until(_site(encoder, last), encoder.forward, name),
        fresh=fresh if draw else None,
        resized=lambda sized: end_at_tap(sized, tap, absent),
    )
    _take_out(cut.module, absent, name)
    return cut.replace(taps=_taps_until(encoder, cut, last), output_tap=tap)


def _until(site: Site, forward: Forward, name: str) -> Forward:
    """The forward pass up to a site: hooks that are there before it runs have read what lies at the site."""

    def run(module: nn.Module, batch: Any) -> None:
        with until(module, site) as end:
            forward(module, batch)
        if not end.ended:
            raise DiagnosticsError(
                f"The pass of {name} does not end at '{site.module}': its code continues after an error there; choose "
                f"another tap.",
                code="not-savable",
            )

    return run


class _Absent(nn.Module):
    """Stands in for a module that was removed: it has no tensors, and raises when it is run."""

    def __init__(self, name: str, encoder: str) -> None:
        super().__init__()
        self.message = f"Module '{name}' is not in {encoder}: use the whole encoder for such samples."

    def forward(self, *_: Any, **__: Any) -> Any:
        raise DiagnosticsError(self.message, code="bad-sample")


def _take_out(module: nn.Module, names: Sequence[str], encoder: str) -> None:
    for name in names:
        parent, _, key = name.rpartition(".")
        try:
            inside = module.get_submodule(parent)
        except AttributeError:
            continue  # within another that is absent, or drawn without it
        if hasattr(inside, key):
            setattr(inside, key, _Absent(name, encoder))


class _Watching(TorchDispatchMode):
    """Records the memory of every tensor that an operation takes, also where no module is called for it."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.read.add(_memory(leaf))
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """The address of the tensor's memory; 0 for tensors without one (sparse tensors)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


@contextmanager
def _count_calls(module: nn.Module) -> Generator[tuple[Counter[str], Counter[str]]]:
    """A context that counts how often each module is entered and left, under each of its names."""
    names = [name for name, _ in module.named_modules(remove_duplicate=False)]
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    with hook_calls(module, names, lambda name, *_: begun.update([name]), lambda call: ended.update([call.name])):
        yield begun, ended


def _taps_until(encoder: TorchEncoder, cut: TorchEncoder, last: Tap) -> tuple[Tap, ...]:
    """The whole encoder's taps that fire in the pass of the cut one, with the number of calls in that pass."""
    with _count_calls(cut.module) as (begun, ended):
        cut.capture(default_collate([cut.preprocess(cut.example())]), [])
    taps: list[Tap] = []
    for tap in encoder.taps[: encoder.taps.index(last) + 1]:
        site = _site(encoder, tap)
        if (begun if site.when == "before" else ended)[site.module] > site.call:
            depth = min(1.0, tap.depth / last.depth) if last.part == "trunk" and last.depth else tap.depth
            taps.append(replace(tap, depth=depth, site=replace(site, calls=begun[site.module])))
    return tuple(taps)


def _idle(encoder: TorchEncoder, last: Tap) -> tuple[str, ...]:
    """Names of the largest modules with tensors that neither run nor are read in a pass that ends at a tap."""
    site = _site(encoder, last)
    stopping = encoder.replace(forward=_until(site, encoder.forward, encoder.name))
    batch = default_collate([encoder.preprocess(encoder.example())])
    watching = _Watching()
    with _count_calls(encoder.module) as (begun, _), watching:
        stopping.capture(batch, [])
    if site.when == "before":
        # Its last call is left before it does anything.
        begun[site.module] -= 1
    idle: list[str] = []
    for name, part in encoder.module.named_modules(remove_duplicate=False):
        inside = any(name == other or name.startswith(f"{other}.") for other in idle)
        if not name or inside or isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            continue
        tensors = [*part.parameters(), *part.buffers()]
        ran = any(begun[inner] > 0 for inner, _ in part.named_modules(prefix=name))
        if tensors and not ran and not any(_memory(tensor) in watching.read for tensor in tensors):
            idle.append(name)
    return tuple(idle)


def _site(encoder: TorchEncoder, tap: Tap) -> Site:
    if tap.site is None:
        raise DiagnosticsError(
            f"Tap {tap.name} of {encoder.name} does not say where it is read: give it a Site.", code="missing-option"
        )
    return tap.site


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, 0, 0, equal_nan=True)

"""An encoder cut at a tap: its pass ends there, and what runs later only is gone.

The pass is left by an exception once the tap has been read, so nothing behind it runs whatever the model's code looks like.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.hooks import until
from diagnostics.encoders.taps import Site, Tap
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, describe

Forward = Callable[[nn.Module, Any], Any]


def cut_encoder(encoder: Encoder, tap: str) -> TorchEncoder:
    """The encoder up to a tap, which becomes its output; the encoder itself stays as it is, and tensors are shared.

    It has the taps that fire up to there, the trunk's depths as shares of the tap's own where that is one of the trunk.
    Its lineage is that of the whole one, but for the group, which says where it was cut. Modules of which nothing runs and
    no tensor is read up to the tap are left out, but for lists, whose length code may ask for. Activations at all its taps
    are verified to be those of the whole encoder, to the bit, on the example.

    Raises DiagnosticsError for an unknown tap, an encoder without a torch module, and where the activations differ.
    """
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(
            f"{encoder.name} shows no torch module, so it cannot be cut: name an encoder that has one."
        )
    last = encoder.tap(tap)
    batch = default_collate([encoder.preprocess(encoder.example())] * 2)
    reason = ""
    for absent in (_idle(encoder, last), ()):
        twin = encoder.with_module(_sharing_tensors(encoder.module, encoder.name), encoder.name)
        try:
            cut = shortened(twin, tap, absent)
            names = [tap.name for tap in cut.taps]
            whole, part = encoder.capture(batch, names), cut.capture(batch)
        except Exception as error:
            # Code that reads a setting of a module that it does not run; with all modules in place it is content.
            reason = f"a pass that ends there fails: {describe(error)}"
            continue
        differing = [name for name in names if not _same(whole[name], part[name])]
        if not differing:
            return cut
        reason = f"a pass that ends there gives others at tap {differing[0]}"
    raise DiagnosticsError(f"{encoder.name} cannot be cut at {tap}, since {reason.rstrip('.')}: choose another tap.")


def shortened(encoder: TorchEncoder, tap: str, absent: Sequence[str]) -> TorchEncoder:
    """The encoder with passes that end at a tap; the modules `absent` are taken out of its module itself."""
    last = encoder.tap(tap)
    site = _site(encoder, last)
    cut = copy.copy(encoder)
    cut.cut, cut.absent = tap, tuple(dict.fromkeys((*absent, *encoder.absent)))
    cut.spec, cut.skeleton = "", encoder.skeleton or encoder.spec
    before = f" cut at {encoder.cut}" if encoder.cut else ""
    cut.name = f"{encoder.name.removesuffix(before)} cut at {tap}"
    cut.configuration = f"{encoder.configuration.removesuffix(f';{before}')}; cut at {tap}"
    if group := str(encoder.lineage.get("group") or ""):
        # Comparisons would show it under the name of the whole one.
        cut.lineage = {**encoder.lineage, "group": f"{group.removesuffix(before)} cut at {tap}"}
    forward = encoder._forward  # pyright: ignore[reportPrivateUsage]
    cut._forward = _until(site, forward, cut.name)  # pyright: ignore[reportPrivateUsage]
    _take_out(cut.module, cut.absent, cut.name)
    cut.taps = _taps_until(encoder, cut, last)
    cut.output_tap = tap
    fresh = encoder._fresh  # pyright: ignore[reportPrivateUsage]
    if fresh is not None:

        def without() -> nn.Module:
            module = fresh()
            _take_out(module, cut.absent, cut.name)
            return module

        cut._fresh = without  # pyright: ignore[reportPrivateUsage]
    sized = encoder._sized_for  # pyright: ignore[reportPrivateUsage]
    if sized is not None:

        def sized_for(sample: np.ndarray) -> Encoder | None:
            made = sized(sample)
            return shortened(made, tap, cut.absent) if isinstance(made, TorchEncoder) else made

        cut._sized_for = sized_for  # pyright: ignore[reportPrivateUsage]
    return cut


def _until(site: Site, forward: Forward, name: str) -> Forward:
    """The forward pass up to a site: hooks that are there before it runs have read what lies at the site."""

    def run(module: nn.Module, batch: Any) -> None:
        with until(module, site) as end:
            forward(module, batch)
        if not end.ended:
            raise DiagnosticsError(
                f"The pass of {name} does not end at '{site.module}': its code goes on after an error there; choose another "
                "tap."
            )

    return run


class _Absent(nn.Module):
    """In the place of a module that was left out: it has no tensors, and says what it is when it is run."""

    def __init__(self, name: str, encoder: str) -> None:
        super().__init__()
        self.said = f"Module '{name}' is not in {encoder}: use the whole encoder for such samples."

    def forward(self, *_: Any, **__: Any) -> Any:
        raise DiagnosticsError(self.said)


def _take_out(module: nn.Module, names: Sequence[str], encoder: str) -> None:
    for name in names:
        parent, _, key = name.rpartition(".")
        try:
            inside = module.get_submodule(parent)
        except AttributeError:
            continue  # within another that is absent, or drawn without it
        if hasattr(inside, key):
            setattr(inside, key, _Absent(name, encoder))


def _sharing_tensors(module: nn.Module, name: str) -> nn.Module:
    """A copy of the modules around the same parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    try:
        return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    except Exception as error:
        raise DiagnosticsError(
            f"{name} cannot be cut, since its module cannot be copied ({describe(error)}): use it whole."
        ) from error


class _Watching(TorchDispatchMode):
    """Notes the memory of every tensor that an operation is given, also where no module of its own is called."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.read.add(_memory(leaf))
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """Where its numbers lie; 0 for what has no memory of the common kind (sparse tensors)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


@contextmanager
def _counted(module: nn.Module) -> Generator[tuple[Counter[int], Counter[int]]]:
    """How often each module (by id) is begun and ended while inside."""
    begun: Counter[int] = Counter()
    ended: Counter[int] = Counter()

    # Hooks give their value to the pass, which must be nothing.
    def begin(part: nn.Module, *_: Any) -> None:
        begun[id(part)] += 1

    def end(part: nn.Module, *_: Any) -> None:
        ended[id(part)] += 1

    handles: list[Any] = []
    try:
        for part in module.modules():
            handles.append(part.register_forward_pre_hook(begin))
            handles.append(part.register_forward_hook(end))
        yield begun, ended
    finally:
        for handle in handles:
            handle.remove()


def _taps_until(encoder: TorchEncoder, cut: TorchEncoder, last: Tap) -> tuple[Tap, ...]:
    """The whole encoder's taps that fire in the pass of the cut one, which tells how often their modules run in it."""
    with _counted(cut.module) as (begun, ended):
        cut.capture(default_collate([cut.preprocess(cut.example())]), [])
    taps: list[Tap] = []
    for tap in encoder.taps[: encoder.taps.index(last) + 1]:
        site = _site(encoder, tap)
        module = id(cut.module.get_submodule(site.module))
        if (begun if site.when == "before" else ended)[module] > site.call:
            depth = min(1.0, tap.depth / last.depth) if last.part == "trunk" and last.depth else tap.depth
            taps.append(replace(tap, depth=depth, site=replace(site, calls=begun[module])))
    return tuple(taps)


def _idle(encoder: TorchEncoder, last: Tap) -> tuple[str, ...]:
    """Names of the largest modules with tensors of which nothing runs and none is read in a pass that ends at a tap."""
    site = _site(encoder, last)
    stopping = copy.copy(encoder)
    forward = encoder._forward  # pyright: ignore[reportPrivateUsage]
    stopping._forward = _until(site, forward, encoder.name)  # pyright: ignore[reportPrivateUsage]
    batch = default_collate([encoder.preprocess(encoder.example())])
    watching = _Watching()
    with _counted(encoder.module) as (begun, _), watching:
        stopping.capture(batch, [])
    if site.when == "before":
        # Its last call is left before it does anything.
        begun[id(encoder.module.get_submodule(site.module))] -= 1
    found: list[str] = []
    for name, part in encoder.module.named_modules(remove_duplicate=False):
        inside = any(name == other or name.startswith(f"{other}.") for other in found)
        if not name or inside or isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            continue
        tensors = [*part.parameters(), *part.buffers()]
        ran = any(begun[id(inner)] > 0 for inner in part.modules())
        if tensors and not ran and not any(_memory(tensor) in watching.read for tensor in tensors):
            found.append(name)
    return tuple(found)


def _site(encoder: TorchEncoder, tap: Tap) -> Site:
    if tap.site is None:
        raise DiagnosticsError(f"Tap {tap.name} of {encoder.name} does not say where it is read: give it a Site.")
    return tap.site


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.allclose(one, other, 0, 0, equal_nan=True)
